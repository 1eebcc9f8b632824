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
    RETRYING = 5
    SUCCEEDED = 6
    SKIPPED = 7
    FAILED = 8
    CANCELLED = 9
    BLOCKED = 10

    @property
    def word(self) -> str:
        """Return the name used on disk, on the wire and for people."""
        return self.name.lower()

    @property
    def is_finished(self) -> bool:
        """Tell whether nothing more happens to the node by itself."""
        return self in FINISHED


class WorkflowState(StrEnum):
    """State of a workflow."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Tell whether the workflow has come to its end."""
        return self in _ENDS


NODE_STATE_OF_WORD: Final = {state.word: state for state in NodeState}

_ENDS: Final = frozenset({WorkflowState.SUCCEEDED, WorkflowState.FAILED, WorkflowState.CANCELLED})

IN_FLIGHT: Final = frozenset({NodeState.DISPATCHING, NodeState.DISPATCHED})
#: Those that count as success for what depends on them.
GOOD: Final = frozenset({NodeState.SUCCEEDED, NodeState.SKIPPED})
#: Those that keep a workflow from success.
BAD: Final = frozenset({NodeState.FAILED, NodeState.CANCELLED, NodeState.BLOCKED})
FINISHED: Final = GOOD | BAD

_W, _H, _R = NodeState.WAITING, NodeState.HELD, NodeState.READY
_DG, _DD, _X = NodeState.DISPATCHING, NodeState.DISPATCHED, NodeState.RETRYING
_S, _K, _F, _C, _B = NodeState.SUCCEEDED, NodeState.SKIPPED, NodeState.FAILED, NodeState.CANCELLED, NodeState.BLOCKED

_CANCELLED = "the workflow was cancelled, stopped after a failure, or is over its deadline"
_SKIPPED = "an operator skipped it"

#: ``{(from, to): why}``. Every change of a node's state is a row; anything else is a broken invariant.
TRANSITIONS: Final[dict[tuple[NodeState, NodeState], str]] = {
    (_W, _R): "its dependencies have finished as its rule demands",
    (_W, _H): "its dependencies have, but a time, an operator or its being a gate holds it",
    (_W, _S): "it is a join and its dependencies have, or its task's success came in late",
    (_W, _F): "it is a join, and its list of values is over the limit",
    (_W, _B): "its dependencies ended so that its rule can no longer be met",
    (_W, _K): "an operator skipped it, or its rule asks for a failure that did not come",
    (_W, _C): _CANCELLED,
    (_H, _R): "its time has come, it was released, or its pool has a place",
    (_H, _S): "it is a gate that was released, or a sleep that is over",
    (_H, _F): "it is a gate or a sleep, and the list of values that it hands on is over the limit",
    (_H, _K): _SKIPPED,
    (_H, _C): _CANCELLED,
    (_R, _DG): "its turn came",
    (_R, _H): "an operator holds it, or its pool is full",
    (_R, _K): _SKIPPED,
    (_R, _C): _CANCELLED,
    (_DG, _DD): "the broker has the message",
    (_DG, _S): "the result was there before the broker's answer",
    (_DG, _F): "the message could not be built, or the failure was there before the broker's answer",
    (_DG, _X): "the failure was there before the broker's answer, and another attempt follows",
    (_DG, _H): "it is a poll whose answer was there before the broker's, or its task was lost",
    (_DG, _K): "an operator skipped it, or its task asked to be ignored",
    (_DG, _C): _CANCELLED,
    (_DD, _S): "the task succeeded",
    (_DD, _F): "the task failed, ran out of time, or was revoked by somebody else",
    (_DD, _X): "the task failed or was lost, and another attempt follows",
    (_DD, _H): "it is a poll that has to ask again, or its task was lost and an operator has to decide",
    (_DD, _K): "an operator skipped it, or its task asked to be ignored",
    (_DD, _C): _CANCELLED,
    (_X, _R): "the time of the next attempt has come",
    (_X, _H): "an operator holds it",
    (_X, _K): _SKIPPED,
    (_X, _C): _CANCELLED,
    (_H, _DD): "its task was taken for lost, and turned up",
    (_X, _DD): "its task was taken for lost, and turned up before the next attempt",
    (_H, _W): "an operator has something run again that it depends on",
    (_R, _W): "an operator has something run again that it depends on",
    (_X, _W): "an operator has something run again that it depends on",
    (_S, _W): "an operator has it run again",
    (_K, _W): "an operator has it run again",
    (_F, _W): "an operator retries it, or its task's success came in late",
    (_C, _W): "an operator retries it",
    (_B, _W): "what blocked it is retried or skipped",
}
