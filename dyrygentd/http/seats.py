"""The bounded numbers of requests, listings, long polls, streams and bytes, and what part of each one user may have."""

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final

from dyrygentd.http.problems import TooBusy, TooManyOfYours

_USER_SHARE: Final = 0.75
"""Of all places, those that one user may take; root may take all."""


class Use(Enum):
    """Which of the bounded places a route takes."""

    NONE = "none"
    LISTING = "listings"
    REQUEST = "requests"
    STREAM = "event streams"


class Seats:
    """A bounded number of places. Guards: ``taken`` never exceeds ``maximum``, no user has more than a share, all are given back.

    Args:
        refused: Told what was refused.
    """

    def __init__(self, what: str, maximum: int, refused: Callable[[str], None]) -> None:
        self.what = what
        self.maximum = maximum
        self.taken = 0
        self._refused = refused
        self._of_user: Counter[int | None] = Counter()

    def __repr__(self) -> str:
        return f"<Seats {self.what} taken={self.taken} of={self.maximum}>"

    def take(self, user: int | None, number: int = 1) -> None:
        """Take places for a user; root may take all. Raises `TooBusy` or `TooManyOfYours` if there are not enough."""
        own_max = max(1, int(self.maximum * _USER_SHARE))
        if self.taken + number > self.maximum:
            self._refused(self.what)
            raise TooBusy(self.what, self.maximum)
        if user and self._of_user[user] + number > own_max:
            self._refused(self.what)
            raise TooManyOfYours(self.what, own_max)
        self.taken += number
        self._of_user[user] += number

    def give_back(self, user: int | None, number: int = 1) -> None:
        """Give places back."""
        self.taken -= number
        self._of_user[user] -= number
