"""For how long nobody received results: from the end of one daemon to the start of the next one.

A result that a backend keeps for less than that may have expired unseen, and its task is found nowhere then.
"""

import json
from typing import NamedTuple, Self


class Absence(NamedTuple):
    """A time without a daemon.

    Attributes:
        since: When the database was closed or, after a kill, written last, as Unix time.
        until: When this daemon had opened it.
        was_killed: Whether it was not closed, so that ``since`` is the earliest time.
    """

    since: float
    until: float
    was_killed: bool = False

    @classmethod
    def of_note(cls, note: str | None, *, until: float) -> Self | None:
        """Read what `note_of` wrote; None if there is nothing to read, or clocks do not agree."""
        try:
            known = json.loads(note or "")
            since, was_killed = float(known["at"]), bool(known["killed"])
        except (ValueError, KeyError, TypeError):
            return None
        return cls(since, until, was_killed) if since <= until else None

    def may_have_hidden(self, *, dispatched_at: float, kept_s: float) -> bool:
        """Tell whether a result of a task that was sent before may have come and expired meanwhile."""
        return 0 < kept_s <= self.until - self.since and 0 < dispatched_at < self.until


def note_of(at: float, *, was_killed: bool) -> str:
    """Write until when a database was in use, for `Absence.of_note`."""
    return json.dumps({"at": at, "killed": was_killed})
