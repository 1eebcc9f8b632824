"""What a node or a workflow asks for beside its tasks: rules, retries, times, pools. Immutable data and a little arithmetic."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dyrygentd.core.conditions import When


class Rule(StrEnum):
    """When a node may run, by how its dependencies ended.

    *Failed* are dependencies that failed, were cancelled or were blocked. A node skipped by an operator counts as succeeded.
    One that its own rule skipped was not needed: it passes that on to what waits with ``all_succeeded``, and to nobody else.
    """

    ALL_SUCCEEDED = "all_succeeded"
    ALL_FINISHED = "all_finished"
    ANY_FAILED = "any_failed"
    ANY_SUCCEEDED = "any_succeeded"
    NONE_FAILED = "none_failed"


class Hook(StrEnum):
    """When a hook runs. It waits for everything but hooks, and is then decided once, by whether the workflow has failed."""

    SUCCESS = "success"
    FAILURE = "failure"
    ALWAYS = "always"


class SectionEnd(StrEnum):
    """What a node does at the end of its section, once all else of that has finished.

    ``finally`` is a part of the section that cleans up; the others are hooks of it, which come after that and are told the end.
    """

    FINALLY = "finally"
    SUCCESS = "success"
    FAILURE = "failure"
    ALWAYS = "always"


class HandsOn(StrEnum):
    """Which values of its dependencies a join hands on: a list of ``all``, with null for what has none, or of what ``succeeded``.

    With ``one`` it is the value itself of the one that succeeded, null if none did; if several did, the join has failed.
    """

    ALL = "all"
    SUCCEEDED = "succeeded"
    ONE = "one"


class OnFailure(StrEnum):
    """What the failure of a node means to the rest of its workflow."""

    CONTINUE = "continue"
    STOP = "stop"


class OnLost(StrEnum):
    """What becomes of a node whose task has vanished from broker, workers and backend."""

    RETRY = "retry"
    FAIL = "fail"
    HOLD = "hold"


class FailureKind(StrEnum):
    """Whose fault a failure is; a retry policy may choose."""

    TASK = "task"
    INFRASTRUCTURE = "infrastructure"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REFUSED = "refused"


#: Word of a retry policy for `FailureKind.TASK` and `FailureKind.INFRASTRUCTURE`: what a second try may help.
ANY: Final = "any"
_HELPED_BY_RETRY: Final = frozenset({FailureKind.TASK, FailureKind.INFRASTRUCTURE})
#: Beyond, 2**n leaves the range of floats before the cap is applied.
_DOUBLINGS_MAX: Final = 64
#: A task that was lost so often is taken for what kills the workers.
LOST_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy.

    Attributes:
        attempts: How often the node is dispatched at most, the first time included.
        backoff_s: Pause before the second attempt; it doubles with each further one.
        backoff_max_s: Longest pause.
        jitter: Share of the pause that chance may take away, 0 to 1, so that many failures at once do not come back at once.
        on: Which failures: ``any``, ``infrastructure`` (lost worker, time limit, timeout), ``revoked``, ``expired``, or names
            of exceptions.
    """

    attempts: int = 3
    backoff_s: float = 1.0
    backoff_max_s: float = 600.0
    jitter: float = 0.5
    on: frozenset[str] = frozenset({ANY})

    def applies_to(self, kind: FailureKind, exception: str, failures: int) -> bool:
        """Tell whether the failure number ``failures`` is followed by another attempt."""
        if failures >= self.attempts or kind is FailureKind.REFUSED:
            return False
        return (
            (ANY in self.on and kind in _HELPED_BY_RETRY)
            or kind.value in self.on
            or (bool(exception) and (exception in self.on or exception.rpartition(".")[2] in self.on))
        )

    def pause_s(self, failures: int, chance: float) -> float:
        """Return how long to wait after the failure number ``failures``; ``chance`` is from 0 to 1."""
        pause = min(self.backoff_max_s, self.backoff_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))
        return pause * (1.0 - self.jitter * chance)


class OnClose(StrEnum):
    """What becomes of a child when its node no longer waits for it."""

    CANCEL = "cancel"
    ABANDON = "abandon"


@dataclass(frozen=True, slots=True)
class Child:
    """A workflow that is the work of a node.

    Attributes:
        kind: ``workflow``: a definition of its own.
        document: JSON text of what is to run, which the core does not look into.
        takes_input: It is given the value of what precedes the node.
    """

    kind: str
    document: bytes
    takes_input: bool = False
    on_close: OnClose = OnClose.CANCEL


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """What one node asks for.

    Attributes:
        pool: Name of the pool of which it takes a place while it is in flight.
        retry: Instead of the workflow's.
        timeout_s: From dispatch to result; 0 for the workflow's, which may be none.
        expands: Its task returns a definition or a canvas, which is run as a workflow of its own and has the node's value.
        on_lost: What to do when its task has vanished; None means `OnLost.RETRY` if it is idempotent, else `OnLost.HOLD`.
        redeliveries_max: How often the broker may give an attempt out again, 0 for as often as it likes; None for the workflow's.
        payload: JSON text of the user.
        is_gate: It has no task and waits for an operator's release.
        sleep_s: It has no task and takes so long.
        poll_every_s: Its task is repeated at this interval until it returns something true; 0 if it is no poll.
        poll_timeout_s: Longest time from the first attempt of a poll; 0 for no bound.
        hook: When it runs, if it is a hook.
        succeeded_min: Of the join of a map, how many of its dependencies have to succeed; the others are marked in its list.
            None for any other node.
        child: It has no task, and is done when this workflow is.
        section_end: What it does at the end of its section, if it waits for that.
        when: A condition: if it does not hold, the node is skipped as not needed.
        hands_on: Of a join.
    """

    rule: Rule = Rule.ALL_SUCCEEDED
    pool: str = ""
    retry: Retry | None = None
    timeout_s: float = 0.0
    on_lost: OnLost | None = None
    idempotent: bool = False
    expands: bool = False
    payload: bytes = b"null"
    is_gate: bool = False
    sleep_s: float = 0.0
    poll_every_s: float = 0.0
    poll_timeout_s: float = 0.0
    hook: Hook | None = None
    redeliveries_max: int | None = None
    succeeded_min: int | None = None
    child: Child | None = None
    section_end: SectionEnd | None = None
    when: When | None = None
    hands_on: HandsOn = HandsOn.ALL

    @property
    def is_told_the_end(self) -> bool:
        """Tell whether it is a hook, of the workflow or a section: its task takes a summary of how that has ended."""
        return self.hook is not None or self.section_end not in (None, SectionEnd.FINALLY)

    @property
    def is_taskless_step(self) -> bool:
        """Tell whether it is a gate, a sleep or a workflow of its own: no task, and yet something to wait for."""
        return self.is_gate or self.sleep_s > 0 or self.child is not None

    @property
    def lost(self) -> OnLost:
        """Return what to do when the task has vanished."""
        return self.on_lost or (OnLost.RETRY if self.idempotent else OnLost.HOLD)


@dataclass(frozen=True, slots=True)
class WorkflowPolicy:
    """What a workflow asks for.

    Attributes:
        retry, timeout_s, redeliveries_max: Of every node that brings none itself.
        deadline_s: From its start; then what has not finished is cancelled, and the workflow has failed. 0 for none.
        start_at: Unix time before which nothing is dispatched.
        priority: Workflows with a higher one go first.
        weight: Nodes given in one turn of the round robin among workflows of one priority.
        in_flight_max: Its own bound of tasks in flight; 0 for none.
    """

    on_failure: OnFailure = OnFailure.CONTINUE
    retry: Retry | None = None
    timeout_s: float = 0.0
    deadline_s: float = 0.0
    start_at: float = 0.0
    priority: int = 0
    weight: int = 1
    in_flight_max: int = 0
    redeliveries_max: int | None = None


PLAIN: Final = NodePolicy()
PLAIN_WORKFLOW: Final = WorkflowPolicy()
