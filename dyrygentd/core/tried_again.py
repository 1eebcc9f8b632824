"""What has failed and is tried again, by cause, and which of it keeps failing: counted as it happens, so that a look is cheap.

A node *keeps failing* if `KEEPS_FAILING` of its attempts failed in a row, whatever its retry policy still allows: a loop that
tries a node again every few seconds never becomes a failure, and looks like work. What a task tries again by itself (Celery's
``self.retry``) counts as well, as far as workers tell.
"""

from dataclasses import dataclass, field
from typing import Final

#: Failures in a row from which on a node keeps failing: one may be chance, and two bad luck.
KEEPS_FAILING: Final = 3
#: What tasks have in common that ask for another try by themselves.
BY_ITSELF: Final = "the task asks for another try"


@dataclass(slots=True)
class TriedCause:
    """Nodes that failed for one cause and are tried again; changed by `TriedAgain` alone.

    Attributes:
        fingerprint: What their failures have in common.
        error: The last of them; empty if it is not known.
        failures: ``{node: failures in a row}``.
        often: Those of them that keep failing, those first that have for longest.
        sum, sum_often: Failures of all of them, and of those that keep failing.
    """

    fingerprint: str
    error: str = ""
    failures: dict[int, int] = field(default_factory=dict)
    often: dict[int, None] = field(default_factory=dict)
    sum: int = 0
    sum_often: int = 0


@dataclass(slots=True, repr=False)
class TriedAgain:
    """What is tried again in one workflow. Guards: a node stands under one cause, which is counted with it, or under none.

    Attributes:
        causes: ``{fingerprint: cause}``, in the order in which they appeared.
        cause_of: ``{node: cause}``.
        loops: Those of the causes for which nodes keep failing.
        often: Number of nodes that keep failing.
    """

    causes: dict[str, TriedCause] = field(default_factory=dict)
    cause_of: dict[int, TriedCause] = field(default_factory=dict)
    loops: dict[str, TriedCause] = field(default_factory=dict)
    often: int = 0

    def __repr__(self) -> str:
        return f"<TriedAgain nodes={len(self.cause_of)} causes={len(self.causes)} often={self.often}>"

    def failed(self, node: int, fingerprint: str, error: str, failures: int) -> None:
        """Note that a node has failed so often in a row, the last time for this cause, and is tried again."""
        place = self.cause_of.get(node)
        if place is not None and (place.fingerprint != fingerprint or failures < KEEPS_FAILING):
            self.forget(node)
        cause = self.causes.get(fingerprint)
        if cause is None:
            cause = self.causes[fingerprint] = TriedCause(fingerprint)
        more = failures - cause.failures.get(node, 0)
        cause.failures[node] = failures
        cause.sum += more
        if failures >= KEEPS_FAILING:
            is_new = node not in cause.often
            cause.often[node] = None
            cause.sum_often += failures if is_new else more
            self.often += is_new
            self.loops[fingerprint] = cause
        cause.error = error or cause.error
        self.cause_of[node] = cause

    def forget(self, node: int) -> None:
        """Forget a node: it has ended, was good once, or is tried from the beginning."""
        cause = self.cause_of.pop(node, None)
        if cause is None:
            return
        failures = cause.failures.pop(node)
        cause.sum -= failures
        if node in cause.often:
            del cause.often[node]
            cause.sum_often -= failures
            self.often -= 1
            if not cause.often:
                del self.loops[cause.fingerprint]
        if not cause.failures:
            del self.causes[cause.fingerprint]

    def attempt_ended(self, node: int) -> None:
        """Forget what a task has tried by itself: the next attempt of its node is another task."""
        cause = self.cause_of.get(node)
        if cause is not None and cause.fingerprint == BY_ITSELF:
            self.forget(node)

    def clear(self) -> None:
        """Forget all of them: nothing is tried again."""
        self.causes.clear()
        self.cause_of.clear()
        self.loops.clear()
        self.often = 0
