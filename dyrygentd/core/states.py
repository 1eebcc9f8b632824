"""The states of nodes and workflows, and the one table that says how they change."""

from enum import IntEnum, StrEnum
from typing import Final


class NodeState(IntEnum):
    """State of a node. The numbers are kept in memory only; on disk and on the wire stands ``word``."""

    WAITING = 0
    HELD = 1
    READY = 2
    DISPATCHING = 3
    DISPATCHED = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    BLOCKED = 8

    @property
    def word(self) -> str:
        """Return the name used on disk, on the wire and for people."""
        return self.name.lower()

    @property
    def is_in_flight(self) -> bool:
        """Tell whether the node counts against the in-flight limits."""
        return self in IN_FLIGHT

    @property
    def is_settled(self) -> bool:
        """Tell whether nothing more happens to the node by itself."""
        return self in SETTLED


class WorkflowState(StrEnum):
    """State of a workflow."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Tell whether the workflow has come to its end."""
        return self is not WorkflowState.RUNNING


NODE_STATE_OF_WORD: Final = {state.word: state for state in NodeState}

IN_FLIGHT: Final = frozenset({NodeState.DISPATCHING, NodeState.DISPATCHED})
SETTLED: Final = frozenset({NodeState.SUCCEEDED, NodeState.FAILED, NodeState.CANCELLED, NodeState.BLOCKED})

_W, _H, _R = NodeState.WAITING, NodeState.HELD, NodeState.READY
_DG, _DD = NodeState.DISPATCHING, NodeState.DISPATCHED
_S, _F, _C, _B = NodeState.SUCCEEDED, NodeState.FAILED, NodeState.CANCELLED, NodeState.BLOCKED

#: ``{(from, to): why}``. Every change of a node's state is a row; anything else is a broken invariant.
TRANSITIONS: Final[dict[tuple[NodeState, NodeState], str]] = {
    (_W, _R): "all dependencies succeeded",
    (_W, _H): "all dependencies succeeded, but its start time is ahead",
    (_W, _S): "it is a join, and all its dependencies succeeded",
    (_W, _F): "it is a join, and its list of values is over the limit",
    (_W, _B): "a dependency did not succeed",
    (_W, _C): "the workflow was cancelled",
    (_H, _R): "its start time has come",
    (_H, _C): "the workflow was cancelled",
    (_R, _DG): "its turn came",
    (_R, _C): "the workflow was cancelled",
    (_DG, _DD): "the broker has the message",
    (_DG, _S): "the result was there before the broker's answer",
    (_DG, _F): "the message could not be built, or the failure was there before the broker's answer",
    (_DG, _C): "the workflow was cancelled",
    (_DD, _S): "the task succeeded",
    (_DD, _F): "the task failed, or was revoked by somebody else",
    (_DD, _C): "the workflow was cancelled",
}
