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

_WAITING, _HELD, _READY = NodeState.WAITING, NodeState.HELD, NodeState.READY
_DISPATCHING, _DISPATCHED, _RETRYING = NodeState.DISPATCHING, NodeState.DISPATCHED, NodeState.RETRYING
_SUCCEEDED, _SKIPPED = NodeState.SUCCEEDED, NodeState.SKIPPED
_FAILED, _CANCELLED, _BLOCKED = NodeState.FAILED, NodeState.CANCELLED, NodeState.BLOCKED

_WHY_CANCELLED = "the workflow was cancelled, stopped after a failure, or is over its deadline"
_WHY_SKIPPED = "an operator skipped it"

#: ``{(from, to): why}``. Every change of a node's state is a row; anything else is a broken invariant.
TRANSITIONS: Final[dict[tuple[NodeState, NodeState], str]] = {
    (_WAITING, _READY): "its dependencies have finished as its rule demands",
    (_WAITING, _HELD): "its dependencies have, but a time, an operator, its being a gate or a workflow of its own holds it",
    (_WAITING, _SUCCEEDED): "it is a join and its dependencies have, or its task's success came in late",
    (
        _WAITING,
        _FAILED,
    ): "it is a join, and what it hands on is over the limit or not one; or its `when` cannot be decided",
    (_WAITING, _BLOCKED): "its dependencies ended so that its rule can no longer be met",
    (_WAITING, _SKIPPED): "an operator skipped it, or its rule asks for a failure that did not come, or its `when` does not hold",
    (_WAITING, _CANCELLED): _WHY_CANCELLED,
    (_HELD, _READY): "its time has come, it was released, or its pool has a place",
    (_HELD, _SUCCEEDED): "it is a gate that was released, a sleep that is over, or its workflow has succeeded",
    (_HELD, _FAILED): "its workflow has not succeeded, or it is a gate or a sleep whose list of values is over the limit",
    (_HELD, _SKIPPED): _WHY_SKIPPED,
    (_HELD, _CANCELLED): _WHY_CANCELLED,
    (_READY, _DISPATCHING): "its turn came",
    (_READY, _HELD): "an operator holds it, or its pool is full",
    (_READY, _SKIPPED): _WHY_SKIPPED,
    (_READY, _CANCELLED): _WHY_CANCELLED,
    (_DISPATCHING, _DISPATCHED): "the broker has the message",
    (_DISPATCHING, _SUCCEEDED): "the result was there before the broker's answer",
    (_DISPATCHING, _FAILED): "the message could not be built, or the failure was there before the broker's answer",
    (_DISPATCHING, _RETRYING): "the failure was there before the broker's answer, and another attempt follows",
    (_DISPATCHING, _HELD): "it is a poll whose answer was there before the broker's, or its task was lost",
    (_DISPATCHING, _SKIPPED): "an operator skipped it, or its task asked to be ignored",
    (_DISPATCHING, _CANCELLED): _WHY_CANCELLED,
    (_DISPATCHED, _SUCCEEDED): "the task succeeded",
    (_DISPATCHED, _FAILED): "the task failed, ran out of time, or was revoked by somebody else",
    (_DISPATCHED, _RETRYING): "the task failed or was lost, and another attempt follows",
    (_DISPATCHED, _HELD): "it is a poll that has to ask again, or its task was lost and an operator has to decide",
    (_DISPATCHED, _SKIPPED): "an operator skipped it, or its task asked to be ignored",
    (_DISPATCHED, _CANCELLED): _WHY_CANCELLED,
    (_RETRYING, _READY): "the time of the next attempt has come",
    (_RETRYING, _HELD): "an operator holds it",
    (_RETRYING, _SKIPPED): _WHY_SKIPPED,
    (_RETRYING, _CANCELLED): _WHY_CANCELLED,
    (_HELD, _DISPATCHED): "its task was taken for lost, and turned up",
    (_RETRYING, _DISPATCHED): "its task was taken for lost, and turned up before the next attempt",
    (_HELD, _WAITING): "an operator has something run again that it depends on",
    (_READY, _WAITING): "an operator has something run again that it depends on",
    (_RETRYING, _WAITING): "an operator has something run again that it depends on",
    (_SUCCEEDED, _WAITING): "an operator has it run again",
    (_SKIPPED, _WAITING): "an operator has it run again",
    (_FAILED, _WAITING): "an operator retries it, or its task's success came in late",
    (_CANCELLED, _WAITING): "an operator retries it",
    (_BLOCKED, _WAITING): "what blocked it is retried or skipped",
}
