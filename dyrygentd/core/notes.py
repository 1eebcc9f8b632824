"""What is noted about a node beside its state: why it is held, and how it failed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dyrygentd.core.policy import FailureKind

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
    CHILD = "child"


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
        fingerprint: What failures of one cause have in common: the exception and where it came from, or what is known of that.
    """

    error: str
    kind: FailureKind = FailureKind.TASK
    exception: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self.exception or self.kind.value)
