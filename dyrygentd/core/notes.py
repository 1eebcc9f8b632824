"""What is noted about a node beside its state: why it is held, how it failed, its value, and all that a stored row tells."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from dyrygentd.core.policy import FailureKind
from dyrygentd.core.states import NodeState

#: Word in a node's record: it was skipped by its rule or its task, not by an operator.
UNNEEDED: Final = "unneeded"


class HoldReason(StrEnum):
    """Why a node does not go although its dependencies would let it."""

    TIME = "time"
    POLL = "poll"
    GATE = "gate"
    OPERATOR = "operator"
    POOL = "pool"
    LOST = "lost"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Hold:
    """What holds a node; ``until`` is 0 if no time ends it, ``pool`` names the pool that is full."""

    reason: HoldReason
    until: float = 0.0
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a task failed.

    Attributes:
        error: One short line.
        exception: Name of the exception's class, empty if it was none.
        cause: What failures of one cause have in common: the exception and where it came from.
    """

    error: str
    kind: FailureKind = FailureKind.TASK
    exception: str = ""
    cause: str = ""

    @property
    def fingerprint(self) -> str:
        """Return what failures of one cause have in common, made of what there is."""
        return self.cause or self.exception or self.kind.value


@dataclass(slots=True)
class Value:
    """A value that somebody still needs."""

    content: bytes
    users: int


class Live(NamedTuple):
    """What a stored row tells about a node; see `RunningWorkflow` for the fields."""

    node: int
    state: NodeState
    attempt: int = 0
    dispatched_at: float = 0.0
    settled_at: float = 0.0
    held_until: float = 0.0
    blocked_by: int | None = None
    error: str = ""
    value: bytes | None = None
    reason: str = ""
    is_on_hold: bool = False
    failures: int = 0
    polling_since: float = 0.0
    cause: str = ""
    late: str = ""
    is_stale: bool = False


def task_id_of_attempt(first: str, attempt: int) -> str:
    """Return the task id of a later attempt: always the same for one attempt, and never that of another."""
    return first if attempt <= 1 else str(uuid5(NAMESPACE_URL, f"dyrygentd:{first}:{attempt}"))
