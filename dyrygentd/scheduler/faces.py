"""What people look at, at a cost that does not grow with the workflow: `Scheduler.faces`. Changes nothing."""

from collections.abc import Awaitable, Callable

from dyrygentd import wire
from dyrygentd.core.timeline import BINS
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.ports import Clock
from dyrygentd.scheduler.folds import Folds
from dyrygentd.scheduler.timelines import Timelines


class Faces:
    """Workflows as terminals and pages show them.

    Args:
        unpacked: Returns a workflow by its id, from memory or from the store. Raises `WorkflowNotFound`.
    """

    def __init__(self, unpacked: Callable[[str], Awaitable[RunningWorkflow]], clock: Clock) -> None:
        self._unpacked = unpacked
        self._folds = Folds()
        self._timelines = Timelines(self._folds, clock)

    def __repr__(self) -> str:
        return f"<Faces {self._folds!r}>"

    async def fold(self, workflow_id: str, path: str = "") -> wire.FoldView:
        """Return a workflow, or a box of it, folded into boxes. Raises `WorkflowNotFound` or `BoxNotFound`."""
        return await self._folds.view(await self._unpacked(workflow_id), path)

    async def timeline(self, workflow_id: str, path: str = "", *, bins: int = BINS) -> wire.TimelineView:
        """Return where the time of a workflow, or of a box of it, went, in 2 to 400 bins.

        Raises:
            WorkflowNotFound, BoxNotFound
        """
        return await self._timelines.view(await self._unpacked(workflow_id), path, bins)
