"""What has come together since the last batch, in one place for all parts of the engine."""

from dyrygentd.core.effects import Batch
from dyrygentd.core.limits import Limits
from dyrygentd.core.rings import Rings
from dyrygentd.core.workflow import RunningWorkflow


class Turn:
    """The present turn. Guards: a workflow that has changed is collected with the batch, and stands in its ring if it may go.

    Attributes:
        limits: Bounds, as they are now.
        batch: What is to be carried out.
        touched: Workflows of which anything has changed, by id.
        is_urgent: Whether something can go on because of it, so that the batch is due at once.
        changed_at: When the first event came, None if there was none.
    """

    __slots__ = ("_rings", "batch", "changed_at", "is_urgent", "limits", "touched")

    def __init__(self, limits: Limits, rings: Rings) -> None:
        self._rings = rings
        self.limits = limits
        self.batch = Batch()
        self.touched: dict[str, RunningWorkflow] = {}
        self.is_urgent = False
        self.changed_at: float | None = None

    def touch(self, workflow: RunningWorkflow) -> None:
        """Have a workflow collected, and let it have its turn if it may dispatch something."""
        self.touched[workflow.workflow_id] = workflow
        if workflow.ready.heap and workflow.can_dispatch:
            self._rings.join(workflow.workflow_id, workflow.priority)

    def take_batch(self) -> Batch:
        """Return what came together, and begin anew."""
        batch, self.batch = self.batch, Batch()
        self.is_urgent, self.changed_at = False, None
        return batch
