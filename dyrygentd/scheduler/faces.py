"""What people look at, at a cost that does not grow with the workflow: `Scheduler.faces`. Changes nothing."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from dyrygentd import wire
from dyrygentd.core.timeline import BINS
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.ports import Clock
from dyrygentd.scheduler.estimates import Estimates
from dyrygentd.scheduler.families import Families
from dyrygentd.scheduler.fold_streams import FoldEvent, FoldStreams
from dyrygentd.scheduler.folds import Folds
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.sight import Sight
from dyrygentd.scheduler.timelines import Timelines

#: A fold has hundreds of numbers and not some, of which an eye can read a fifth as many in a second.
_SLOWER: Final = 5


class Faces:
    """Workflows as terminals and pages show them.

    Args:
        unpacked: Returns a workflow by its id, from memory or from the store. Raises `WorkflowNotFound`.
        estimates: Tells how long they go on.
        families: Knows their children.
        follow_interval_s: Shortest time between two views of one who follows a workflow.
    """

    def __init__(
        self,
        unpacked: Callable[[str], Awaitable[RunningWorkflow]],
        folds: Folds,
        estimates: Estimates,
        *,
        families: Families,
        clock: Clock,
        sight: Sight,
        listeners: Listeners,
        follow_interval_s: float,
    ) -> None:
        self._unpacked = unpacked
        self._folds = folds
        self._estimates = estimates
        self._families = families
        interval_s = _SLOWER * follow_interval_s
        self._streams = FoldStreams(self.fold_of, sight, listeners, unpacked=unpacked, interval_s=interval_s)
        self._timelines = Timelines(self._folds, clock)

    def __repr__(self) -> str:
        return f"<Faces {self._folds!r} {self._streams!r}>"

    def statistics(self) -> dict[str, float]:
        """Return how much there is to look at, and what looking has cost: ``{word: number}``."""
        return {
            "folds": self._folds.count,
            "fold_seconds": self._folds.seconds,
            "fold_nodes": self._folds.kept_nodes,
            "fold_readers": self._streams.readers,
        }

    async def fold(self, workflow_id: str, path: str = "") -> wire.FoldView:
        """Return a workflow, or a box of it, folded into boxes. Raises `WorkflowNotFound` or `BoxNotFound`."""
        return await self.fold_of(await self._unpacked(workflow_id), path)

    async def fold_of(self, workflow: RunningWorkflow, path: str) -> wire.FoldView:
        """Return a box of a workflow, opened, with the children of nodes that are shown one by one. Raises `BoxNotFound`."""
        return await self._families.fill_in_fold(workflow, await self._folds.view(workflow, path))

    async def timeline(self, workflow_id: str, path: str = "", *, bins: int = BINS) -> wire.TimelineView:
        """Return where the time of a workflow, or of a box of it, went, in 2 to 400 bins.

        Raises:
            WorkflowNotFound, BoxNotFound
        """
        return await self._timelines.view(await self._unpacked(workflow_id), path, bins)

    def follow_fold(self, workflow_id: str, path: str = "") -> AsyncGenerator[FoldEvent]:
        """Iterate over a folded workflow and what changes of it, encoded, until it has finished; twice a second at most.

        However many follow one box, it is counted once for all of them. Raises as `fold` does, and `DaemonUnreachable`.
        """
        return self._streams.follow(workflow_id, path)

    async def estimate(self, workflow_id: str) -> wire.EstimateView:
        """Return how long a workflow goes on, and what bounds it. Raises `WorkflowNotFound`."""
        workflow = await self._unpacked(workflow_id)
        await self._families.look_below(workflow)
        return await self._estimates.view(workflow)

    def run_times(self) -> wire.RunTimesView:
        """Return how long tasks take, as far as that was measured."""
        return self._estimates.run_times()
