"""What a start makes of what the last process has left: unfinished workflows, and tasks that were to be revoked."""

import logging
import time
from collections.abc import Callable

import anyio
import anyio.lowlevel

from dyrygentd.core.engine import Engine
from dyrygentd.core.events import WorkflowRecovered
from dyrygentd.core.states import NodeState
from dyrygentd.errors import OutsideError
from dyrygentd.ports import Clock, Store
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.courier import Courier
from dyrygentd.scheduler.sentinel import Sentinel

logger = logging.getLogger("dyrygentd")


class Recovery:
    """Reads back what was unfinished. Guards: whether a message was sent is never taken for known because it would be convenient.

    Args:
        on_recovered: Told, after each workflow, how many of how many are there again.

    Attributes:
        seconds: How long it took.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        archive: Archive,
        clock: Clock,
        courier: Courier,
        sentinel: Sentinel,
        on_recovered: Callable[[int, int], None] = lambda count, of: None,
    ) -> None:
        self.seconds = 0.0
        self._engine = engine
        self._store = store
        self._archive = archive
        self._clock = clock
        self._courier = courier
        self._sentinel = sentinel
        self._on_recovered = on_recovered

    def __repr__(self) -> str:
        return f"<Recovery seconds={self.seconds:.1f}>"

    async def recover(self) -> None:
        """Hand the engine what has not finished; no turn is taken meanwhile."""
        begun = time.monotonic()
        count, unfinished_count = 0, await self._store.unfinished_count()
        async for workflow in self._archive.unfinished():
            self._engine.handle(WorkflowRecovered(workflow), self._clock.now())
            count += 1
            self._on_recovered(count, unfinished_count)
            # Others in the program around have their turn.
            await anyio.lowlevel.checkpoint()
        # Whether their messages were sent is not known, and matters if the broker has lost its memory since.
        since = self._sentinel.nothing_sent_since
        self._courier.doubt(
            task_id
            for task_id, workflow, node in self._engine.flights.in_flight()
            if workflow.state_of(node) is NodeState.DISPATCHED or workflow.attempts.dispatched_at[node] < since
        )
        self.seconds = time.monotonic() - begun
        if count:
            logger.info("recovered %d unfinished workflows in %.1f s: %r", count, self.seconds, self._engine)

    async def revoke_again(self, started_at: float) -> None:
        """Revoke what was cancelled shortly before the last process ended: it may not have come to that."""
        try:
            revokes = await self._archive.given_up(started_at - self._engine.limits.late_watch_s)
        except OutsideError as error:
            logger.warning("what was cancelled before the start is not revoked again: %s", error)
        else:
            # What was cancelled under an id that another task has now is that task's affair.
            self._courier.revoke(revoke for revoke in revokes if self._engine.flights.holder_of(revoke.task_id) is None)
