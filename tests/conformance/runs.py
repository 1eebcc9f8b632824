"""Runs canvases natively and through a `Scheduler`, side by side on the same workers, and tells what was seen."""

import json
import os
import re
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import redis
from celery import Celery, _state, group
from celery.canvas import Signature
from celery.result import GroupResult

from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import DyrygentError
from dyrygentd.scheduler import Scheduler
from tests.conformance.tasks import CALLS, QUEUES, create_app
from tests.support.apps import closing
from tests.support.directories import short_directory
from tests.support.servers import CeleryWorker
from tests.support.tasks import records

#: Seconds without a message in the broker and without a call after which nothing more is to come. A worker is in
#: neither of the two only between taking a message from the queue and noting it as unacknowledged, which takes no time.
_QUIET_S: Final = 0.5
_QUIET_WAIT_MAX_S: Final = 60.0
#: Without any task executed meanwhile. How long all of them take says how busy the machine is.
_STILL_S: Final = 60.0
_PRIORITY_STEPS: Final = ("", *(f"\x06\x16{step}" for step in (3, 6, 9)))

Factory = Callable[["Tasks"], Any]


@dataclass(frozen=True, slots=True)
class Tasks:
    """Makes signatures for one run of one canvas; a label tells which task of the canvas it is."""

    app: Celery
    run: str

    def __call__(self, label: str, *args: Any, **kwargs: Any) -> Signature:
        """Make a task that returns what it was called with."""
        return self.make("call", label, *args, **kwargs)

    def si(self, label: str, *args: Any, **kwargs: Any) -> Signature:
        """Make one that takes no value."""
        return self.make("call", label, *args, **kwargs).set(immutable=True)

    def fail(self, label: str, *args: Any, **kwargs: Any) -> Signature:
        """Make one that fails."""
        return self.make("fail", label, *args, **kwargs)

    def give(self, label: str, value: Any) -> Signature:
        """Make one that returns this value."""
        return self.make("give", label, value=value)

    def failed(self, label: str) -> Signature:
        """Make an error callback of the older kind."""
        return self.make("failed", label)

    def failed_here(self, label: str) -> Signature:
        """Make an error callback of the newer kind."""
        return self.make("failed_here", label)

    def failed_there(self, label: str, *args: Any) -> Signature:
        """Make an error callback of the newer kind that has arguments of its own."""
        return self.task("failed_there").s(*args, at=f"{self.run}/{label}")

    def make(self, task: str, label: str, *args: Any, **kwargs: Any) -> Signature:
        """Make a signature of the task of this name."""
        return self.task(task).s(*args, at=f"{self.run}/{label}", **kwargs)

    def task(self, name: str = "call") -> Any:
        """Return the task itself."""
        return self.app.tasks[f"conformance.{name}"]

    def item(self, label: str) -> str:
        """Make an item for ``map``, ``starmap`` and ``chunks``."""
        return f"@{self.run}/{label}"

    def group(self, *members: Any, **options: Any) -> group:
        """Make a group that knows the app even if it is empty."""
        return group(*members, app=self.app, **options)


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a task."""

    label: str
    text: str
    options: Mapping[str, Any]


@dataclass(slots=True)
class Seen:
    """What one run of a canvas did.

    Attributes:
        state: ``value``, ``failed``, ``hangs`` (nothing more happens, and there is no result) or ``refused``.
        detail: The value as text; the failed tasks' labels; why it was refused.
        calls: In the order in which they happened.
    """

    state: str = "hangs"
    detail: str = ""
    calls: list[Call] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """State and detail in one line."""
        return f"{self.state} {self.detail}".strip()

    @property
    def story(self) -> str:
        """Outcome and calls in one line."""
        calls = "; ".join(f"{call} ({count} times)" if count > 1 else call for call, count in sorted(self.counted.items()))
        return f"{self.outcome} | {calls}"

    @property
    def counted(self) -> Counter[str]:
        """Return how often each call was made, options included."""
        return Counter(
            f"{call.text} {json.dumps(call.options, sort_keys=True)}" if call.options else call.text for call in self.calls
        )


class Site:
    """A server, workers, and an app for each side."""

    def __init__(self, server: EmbeddedServer, app: Celery, directory: Path) -> None:
        self.app = app
        self._directory = directory
        self._records: redis.Redis = records(server.url)

    def run(self, factories: Sequence[Factory], *, not_natively: Container[int] = ()) -> list[tuple[Seen, Seen]]:
        """Run each canvas by both; return what was seen of Celery and of ours.

        Args:
            not_natively: The numbers of those that Celery is spared.
        """
        self._records.delete(CALLS)
        native = [
            (Seen("spared"), None) if number in not_natively else self._start_natively(f"n{number}", make)
            for number, make in enumerate(factories)
        ]
        ours = anyio.run(self._run_ours, factories)
        self._wait_until_quiet()
        calls = self._calls()
        for number, (seen, results) in enumerate(native):
            if results is not None:
                seen.state, seen.detail = self._native_outcome(results)
            seen.calls = calls[f"n{number}"]
        for number, seen in enumerate(ours):
            seen.calls = calls[f"o{number}"]
        return [(seen, other) for (seen, _), other in zip(native, ours, strict=True)]

    def close(self) -> None:
        """Close the connection."""
        self._records.close()

    def _start_natively(self, run: str, make: Factory) -> tuple[Seen, Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                canvas = make(Tasks(self.app, run))
                answer = canvas.apply_async()
                return (Seen("value", "None"), None) if answer is None else (Seen(), _ids(answer))
        except Exception as error:
            return Seen("refused", type(error).__name__), None

    async def _run_ours(self, factories: Sequence[Factory]) -> list[Seen]:
        found = [Seen() for _ in factories]
        database = Path(tempfile.mkdtemp(dir=self._directory)) / "state.db"

        async def run_one(number: int) -> None:
            seen = found[number]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    canvas = factories[number](Tasks(self.app, f"o{number}"))
                handle = await scheduler.submit(canvas)
            except DyrygentError as error:
                seen.state, seen.detail = "refused", type(error).__name__
                return
            outcome = await handle.wait()
            if outcome.is_success:
                seen.state, seen.detail = "value", _text(outcome.result)
            else:
                seen.state = "failed"
                seen.detail = " ".join(sorted({_error_label(node.error or "") for node in outcome.failed_nodes}))

        async with Scheduler(self.app, database=database) as scheduler, anyio.create_task_group() as watching:
            watching.start_soon(self._cancel_when_still, watching.cancel_scope)
            limiter = anyio.CapacityLimiter(100)

            async def run_in_turn(number: int) -> None:
                async with limiter:
                    await run_one(number)

            async with anyio.create_task_group() as group_of_runs:
                for number in range(len(factories)):
                    group_of_runs.start_soon(run_in_turn, number)
            watching.cancel_scope.cancel()
        return found

    async def _cancel_when_still(self, runs: anyio.CancelScope) -> None:
        last, still_since = -1, time.monotonic()
        while time.monotonic() - still_since < _STILL_S:
            if (calls := int(self._records.llen(CALLS))) != last:
                last, still_since = calls, time.monotonic()
            await anyio.sleep(0.2)
        runs.cancel()

    def _wait_until_quiet(self) -> None:
        keys = [f"{queue}{step}" for queue in QUEUES for step in _PRIORITY_STEPS]
        last, quiet_since = -1, time.monotonic()
        deadline = quiet_since + _QUIET_WAIT_MAX_S
        while time.monotonic() - quiet_since < _QUIET_S:
            with self._records.pipeline(transaction=True) as pipe:
                for key in keys:
                    pipe.llen(key)
                pipe.hlen("unacked")
                pipe.llen(CALLS)
                *waiting, calls = pipe.execute()
            if calls != last:
                deadline = time.monotonic() + _QUIET_WAIT_MAX_S
            if any(waiting) or calls != last:
                last, quiet_since = calls, time.monotonic()
            assert time.monotonic() < deadline, f"the broker is not quiet: {dict(zip(keys, waiting, strict=False))}"
            time.sleep(0.02)

    def _calls(self) -> dict[str, list[Call]]:
        read = [json.loads(line) for line in self._records.lrange(CALLS, 0, -1)]
        labels = {record["id"]: record["label"] for record in read}
        found: dict[str, list[Call]] = defaultdict(list)
        for record in read:
            # Error callbacks are given an id, which differs in each run; the label does not.
            text = _UUID.sub(lambda match: labels.get(match[0], "<not run>"), record["text"])
            found[record["run"]].append(Call(record["label"], text, record["options"]))
        return found

    def _native_outcome(self, results: Any) -> tuple[str, str]:
        metas = {task_id: self.app.backend.get_task_meta(task_id) for task_id in _flat(results)}
        failed = [meta for meta in metas.values() if meta["status"] in ("FAILURE", "REVOKED")]
        if failed:
            return "failed", " ".join(sorted({_error_label(str(meta["result"])) for meta in failed}))
        if any(meta["status"] != "SUCCESS" for meta in metas.values()):
            return "hangs", ""

        def values(ids: Any) -> Any:
            return [values(each) for each in ids] if isinstance(ids, list) else metas[ids]["result"]

        return "value", _text(values(results))


@contextmanager
def running_site(*, workers: int = 1) -> Iterator[Site]:
    """Start a server and a worker."""
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        server = exits.enter_context(EmbeddedServer(directory, appendonly=False))
        started = [
            CeleryWorker(
                server.url,
                log_directory=directory,
                app="tests.conformance.tasks",
                queues=QUEUES,
                # Celery 5.6 may block a worker until another task of a header has run; so others must be able to.
                pool="prefork",
                concurrency=6,
            )
            for _ in range(workers)
        ]
        for worker in started:
            exits.callback(worker.stop)
            worker.launch()
        app = exits.enter_context(closing(create_app(server.url, server.url)))
        # Celery 5.6 asks the current app for the backend of a chord that something follows.
        exits.callback(_state._set_current_app, _state._tls.current_app)
        app.set_current()
        # We read the results ourselves; a subscription to each costs half a millisecond.
        app.backend.on_task_call = lambda *_: {}
        app.backend.add_pending_result = lambda result, **_: result
        for worker in started:
            worker.wait_ready()
        site = Site(server, app, directory)
        exits.callback(site.close)
        yield site
        if os.environ.get("DYRYGENTD_TEST_CONFORMANCE_LOGS"):
            for worker in started:
                print(worker.log())


_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LABEL: Final = re.compile(r"ValueError(?:: |\(')(\w+)")


def _error_label(error: str) -> str:
    """Return the label of the task to blame; of other errors, the text without what differs in each run."""
    found = _LABEL.search(error)
    if found:
        return found[1]
    return error if re.fullmatch(r"\w+", error) else _UUID.sub("<id>", error)


def _ids(result: Any) -> Any:
    return [_ids(each) for each in result.results] if isinstance(result, GroupResult) else result.id


def _flat(ids: Any) -> Iterator[str]:
    if isinstance(ids, list):
        for each in ids:
            yield from _flat(each)
    else:
        yield ids


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return value if isinstance(value, str) else repr(value)
