"""What happened to broker and result backend while tasks were in flight: the first reading if one of them is lost."""

from typing import NamedTuple

from dyrygentd.core.lost_causes import AWAY
from dyrygentd.witnesses import clock


class Doubt(NamedTuple):
    """What happened to the broker, and to the result backend, while a task was in flight; empty if nothing did."""

    broker: str = ""
    results: str = ""


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
