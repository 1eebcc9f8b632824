"""Mirrors ``celery_dyrygent.workflows.node``."""

from collections.abc import Mapping
from typing import Any, Self

from celery.canvas import Signature

from dyrygentd.compat.celery_dyrygent.workflows.exceptions import WorkflowException


class WorkflowNode:
    """One signature of a workflow.

    Attributes:
        id: The task's id.
        dependencies: ``{id: options}`` of the nodes that must have succeeded; celery-dyrygent stores options, and uses none.
        custom_payload: Whatever you want to keep with the node; it has to fit into JSON.
    """

    def __init__(self, signature: Any) -> None:
        if not isinstance(signature, Signature):
            raise WorkflowException(f"a '{type(signature).__name__}' is no signature", next_step="write `task.s(...)`")
        if signature.id is None:
            raise WorkflowException(
                f"Signature '{signature}' has no ID, it is not frozen",
                next_step="call `signature.freeze()`, or use add_celery_canvas()",
            )
        self.signature = signature
        self.id: str = signature.id
        self.dependencies: dict[str, Any] = {}
        self.custom_payload: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<WorkflowNode {self.signature['task']} {self.id}>"

    def add_dependency(self, other_node: "WorkflowNode", options: dict[str, Any] | None = None) -> None:
        """Let this node wait for another to succeed."""
        if not isinstance(other_node, WorkflowNode):
            raise WorkflowException(
                f"a '{type(other_node).__name__}' is no WorkflowNode", next_step="pass what add_signature() returns"
            )
        if other_node.id in self.dependencies:
            raise WorkflowException(f"Dependency '{other_node.signature}' already added")
        self.dependencies[other_node.id] = options

    def to_dict(self) -> dict[str, Any]:
        """Return the node as it is sent."""
        return {
            "id": self.id,
            "signature": self.signature,
            "dependencies": self.dependencies,
            "custom_payload": self.custom_payload,
        }

    @classmethod
    def from_dict(cls, data_dict: Mapping[str, Any]) -> Self:
        """Read a node that was sent."""
        node = cls(Signature(data_dict["signature"]))
        node.dependencies = data_dict["dependencies"]
        node.custom_payload = data_dict.get("custom_payload", {})
        return node
