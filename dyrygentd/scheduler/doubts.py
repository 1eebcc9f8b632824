"""What happened to broker and result backend while tasks were in flight: the first reading if one of them is lost."""

from typing import NamedTuple

from dyrygentd.core.lost_causes import AWAY
from dyrygentd.core.words import span
from dyrygentd.witnesses import clock


class Doubt(NamedTuple):
    """What happened to the broker, and to the result backend, while a task was in flight; empty if nothing did.

    Attributes:
        confirmed_in_s: When a second look can find it lost, if the first one, by whoever asks, did; None if nobody looks.
    """

    broker: str = ""
    results: str = ""
    confirmed_in_s: float | None = None


def suspicion_of(doubt: Doubt) -> str:
    """Return what to add of a task that one look has not found: that this is not enough to call it lost, and what follows."""
    if doubt.confirmed_in_s is None:
        return "; this is suspected, and nobody confirms it, as lost tasks are not looked for (`lost_after_s` is 0)"
    # Looks are taken in rounds.
    when = f"in about {span(doubt.confirmed_in_s)}" if doubt.confirmed_in_s >= 1 else "any moment"
    return f"; this is suspected after one look and confirmed by another, {when}: `retry --lost` finds it from then on"


class BackendAway:
    """When the result backend was away last. It is looked at in rounds, so that its times are as exact as these.

    Attributes:
        words: What is said of the last absence, as soon as it is over; empty before.
        until: Unix time at which it was over. A task that was sent later has nothing to do with it.
    """

    def __init__(self) -> None:
        self.words = ""
        self.until = 0.0
        self._since: float | None = None

    def note(self, now: float, *, is_away: bool) -> None:
        """Take note of how the backend is."""
        if is_away:
            self._since = now if self._since is None else self._since
        elif self._since is not None:
            self.words, self.until = f"{AWAY} from {clock(self._since)} to {clock(now)}", now
            self._since = None

    def take(self) -> str:
        """Return the words of an absence that is over, once."""
        words, self.words = self.words, ""
        return words
