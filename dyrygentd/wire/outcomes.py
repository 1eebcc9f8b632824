"""How a workflow stands or ended, with its value as Python has it."""

from dataclasses import dataclass, fields
from typing import Any

from dyrygentd.errors import WorkflowNotSucceeded
from dyrygentd.wire.plain import plain
from dyrygentd.wire.views import NodeView, WorkflowView
from dyrygentd.wire.words import WorkflowWord


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a workflow ended, or how it stands if nobody waited for its end.

    Attributes:
        result: The value of its output as Python has it, dates and decimals included; None if it has none, or none yet.
        error: What failed first, shortened and without secrets; empty if nothing did.
        failed_nodes: The nodes that failed, without those that were blocked by them; at most 100.
    """

    id: str
    name: str
    state: WorkflowWord
    result: Any
    error: str
    failed_nodes: list[NodeView]

    @property
    def is_success(self) -> bool:
        """Tell whether every node succeeded."""
        return self.state == "succeeded"

    @property
    def is_finished(self) -> bool:
        """Tell whether the workflow has come to its end."""
        return self.state in ("succeeded", "failed", "cancelled")

    def raise_for_state(self) -> None:
        """Raise `WorkflowNotSucceeded` unless every node succeeded."""
        if not self.is_success:
            raise WorkflowNotSucceeded(self.id, self.name, self.state, [node.name for node in self.failed_nodes])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data that JSON can carry, see `WorkflowView.to_dict`."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def outcome_of(view: WorkflowView, failed_nodes: list[NodeView]) -> Outcome:
    """Make an outcome of a workflow's view with its result. Raises `BadRequest` if that cannot be read."""
    return Outcome(view.id, view.name, view.state, view.result, view.error, failed_nodes)
