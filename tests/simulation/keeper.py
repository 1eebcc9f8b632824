"""The simulated result backend's other side: what it is told of tasks that never ran, and what must hold of that."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

import anyio

from dyrygentd.core.effects import Publish
from dyrygentd.core.notes import UNNEEDED
from dyrygentd.core.records import NodeRecord
from dyrygentd.core.unrun import StoreOutcome, Told
from dyrygentd.errors import BackendUnavailable
from tests.simulation.workflows import Plan
from tests.simulation.world import BrokenPromise, Broker

_UNRUN = frozenset({"blocked", "cancelled", "failed", "skipped"})


class Keeper:
    """Takes outcomes like Celery's backend: what a worker stored, and a success, is never overwritten.

    Args:
        row_of: Return what is durable of the node to which a task id belongs.
    """

    def __init__(self, broker: Broker, row_of: Callable[[str], NodeRecord | None]) -> None:
        self._broker = broker
        self._row_of = row_of
        self._chance: Random = broker.chance
        self.told: dict[str, StoreOutcome] = {}

    async def store(self, outcomes: Sequence[StoreOutcome]) -> int:
        """Store outcomes; the process may end, or the backend go away, in the middle."""
        self._raise_if_away()
        await anyio.sleep(self._chance.choice([0.0, 0.001, 0.3, 2.0]))
        count = 0
        for outcome in outcomes:
            self._raise_if_away()
            self._broker.fuse("before an outcome is stored")
            row = self._row_of(outcome.task_id)
            # A skip that was undone while the backend was away may be told late: its id is used up, and was never sent.
            if row is None or (outcome.told is Told.SUCCESS and self._broker.pushes[outcome.task_id]):
                raise BrokenPromise(f"{outcome} is told, on disk is {row}")
            known = self.told.get(outcome.task_id)
            if outcome.task_id in self._broker.results or (known is not None and known.told is Told.SUCCESS):
                continue
            self.told[outcome.task_id] = outcome
            self._broker.story.tell(f"told {outcome.told} of {outcome.task_id}")
            count += 1
        return count

    async def close(self) -> None:
        """Do nothing."""

    def _raise_if_away(self) -> None:
        if self._broker.problem:
            raise BackendUnavailable(self._broker.problem)

    def check_sending(self, message: Publish) -> None:
        """Check that a task is not sent under an id of which a success is stored: its result would never be."""
        known = self.told.get(message.task_id)
        if known is not None and known.told is Told.SUCCESS:
            raise BrokenPromise(f"{message.task_id} is sent, and {known} was told of it")

    def check_end(self, plan: Plan, states: Mapping[int, NodeRecord]) -> None:
        """Check that whoever has an `AsyncResult` of a task that never ran gets an answer, and the right one."""
        graph = plan.definition().graph
        for node, row in states.items():
            task_id = graph.task_ids[node]
            is_unneeded = row.reason == UNNEEDED
            if not task_id or row.attempt or graph.policy(node).is_told_the_end or row.state not in _UNRUN:
                continue
            if is_unneeded and graph.policy(node).rule == "any_failed":
                continue
            known = self.told.get(task_id)
            wanted = {Told.SUCCESS} if row.state == "skipped" and not is_unneeded else {Told.FAILURE, Told.REVOKED}
            if known is None or known.told not in wanted:
                raise BrokenPromise(f"{task_id} is {row.state} and was never sent, and {known} was told of it")
