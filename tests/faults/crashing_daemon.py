"""``python -m tests.faults.crashing_daemon serve …``: the daemon, which kills itself where the environment says.

``DYRYGENTD_TEST_CRASH=POINT:N`` names one of `POINTS`, and the how-manieth pass of it is the last. The adapters that the daemon
builds are replaced by ones that pass the points; the package itself knows nothing of this.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, Self

from dyrygentd.cli import serve
from dyrygentd.core.effects import Publish
from dyrygentd.core.graph import Definition
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.user import User
from dyrygentd.daemon import run
from dyrygentd.ports.facts import Stored
from dyrygentd.scheduler import Scheduler
from dyrygentd.store import sqlite
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.transport import dispatcher
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.redis_push import Collected, LoopPush, MarkedPush, Pushed, Pushes
from dyrygentd.transport.redis_term import Fence
from dyrygentd.wire import Submitted

CRASH: Final = "DYRYGENTD_TEST_CRASH"

#: Commits by what is in them, and the point at which it is in memory alone, and on disk alone.
_COMMITS: Final = ("submission", "intent", "confirmation", "result", "end")

POINTS: Final = (
    *(f"{moment} the commit of a {what}" for what in _COMMITS for moment in ("before", "after")),
    "before the answer to a submission",
    "before the push",
    "after the push",
    "before the marker's answer is handled",
    "before markers are forgotten",
    "after markers are forgotten",
    "during recovery",
    "after recovery",
)

_passed: Counter[str] = Counter()
_lock = threading.Lock()


def passing(point: str) -> None:
    """Die if this is the pass that the environment names."""
    assert point in POINTS, point
    with _lock:
        _passed[point] += 1
        name, _, number = os.environ.get(CRASH, "").rpartition(":")
        if name == point and _passed[point] == int(number):
            print(f"crashing {point}, at pass {number}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


class CrashingStore(SqliteStore):
    """Passes a point before and after each commit, for each kind of thing that is in it."""

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Write all records in one transaction and return when they are durable."""
        records, node_records = list(workflows), list(nodes)
        states = {node.state for node in node_records}
        is_in_it = {
            "submission": any(record.document is not None for record in records),
            "intent": "dispatching" in states,
            "confirmation": "dispatched" in states,
            "result": bool(states & {"succeeded", "failed"}),
            "end": any(record.state.is_finished for record in records),
        }
        there = [what for what in _COMMITS if is_in_it[what]]
        for what in there:
            passing(f"before the commit of a {what}")
        await super().save(records, node_records, journal)
        for what in there:
            passing(f"after the commit of a {what}")

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished."""
        async for stored in super().unfinished():
            passing("during recovery")
            yield stored


class CrashingPush(MarkedPush):
    """Passes a point before the script runs, and after it has run."""

    def push(self, messages: Sequence[Collected]) -> Pushed:
        """Push what was not pushed before."""
        passing("before the push")
        answer = super().push(messages)
        passing("after the push")
        return answer

    def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop the markers of these workflows."""
        passing("before markers are forgotten")
        super().forget(workflow_ids)
        passing("after markers are forgotten")


class CrashingLoopPush(LoopPush):
    """Does the same on the event loop."""

    async def push(self, sent: Sequence[Collected], fence: Fence) -> Pushed:
        """Push what was not pushed before."""
        passing("before the push")
        answer = await super().push(sent, fence)
        passing("after the push")
        return answer


class CrashingDispatcher(CeleryDispatcher):
    """Passes a point when it knows what was pushed, and nobody else does."""

    def __init__(self, app: Any, **given: Any) -> None:
        super().__init__(app, ways=Pushes(CrashingPush, CrashingLoopPush), **given)

    async def publish(self, messages: Sequence[Publish]) -> Sequence[Any]:
        """Send messages and tell what became of them."""
        outcomes = await super().publish(messages)
        passing("before the marker's answer is handled")
        return outcomes


class CrashingScheduler(Scheduler):
    """Passes a point when a submission is on disk and was not answered, and when recovery is over."""

    async def submit_definition(self, definition: Definition, *, owner: User | int | None = None) -> Submitted:
        """Submit a definition; return when it is on disk."""
        submitted = await super().submit_definition(definition, owner=owner)
        passing("before the answer to a submission")
        return submitted

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        passing("after recovery")
        return self


def main() -> None:
    """Serve with what crashes in the place of what does not."""
    for module, crashing in ((sqlite, CrashingStore), (dispatcher, CrashingDispatcher), (run, CrashingScheduler)):
        replaced = crashing.__base__
        assert replaced is not None
        assert getattr(module, replaced.__name__) is replaced
        setattr(module, replaced.__name__, crashing)
    serve.main()


if __name__ == "__main__":
    main()
