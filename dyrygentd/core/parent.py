"""The node of another workflow whose work a workflow is."""

from dataclasses import dataclass, field
from typing import Final
from uuid import NAMESPACE_URL, uuid5

#: Workflows in workflows: what is deeper is more likely a definition that contains itself.
DEPTH_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Parent:
    """Whose child a workflow is.

    Attributes:
        workflow_id, node: The workflow, and which of its nodes.
        generation: How often that node was set back to begin with another child, 0 for never.
        depth: How many workflows are above the child, 1 at least.
        root_id: The topmost of them.
        name: The node's name, for people; it does not tell one parent from another.
    """

    workflow_id: str
    node: int
    generation: int = 0
    depth: int = 1
    root_id: str = ""
    name: str = field(default="", compare=False)

    @property
    def child_id(self) -> str:
        """The id of the child: the same after a crash, so that nothing is begun twice."""
        return str(uuid5(NAMESPACE_URL, f"dyrygentd:{self.workflow_id}:{self.node}:{self.generation}"))
