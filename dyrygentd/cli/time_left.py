"""How long a workflow still takes, as the daemon estimates it; what an older one says nothing of is reckoned from its pace."""

import time
from typing import TYPE_CHECKING, Final

from dyrygentd.core.words import span_range
from dyrygentd.errors import RemoteError

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

#: How soon it is asked for again: people do not read faster.
_EVERY_S: Final = 3.0
#: What daemons answer that do not know a route.
_OLD: Final = (404, 405)


class TimeLeft:
    """Asks for estimates of one workflow, now and then.

    Attributes:
        estimate: The last one; None if there is none yet, or the daemon is older.
    """

    def __init__(self, handle: "Handle") -> None:
        self.estimate: wire.EstimateView | None = None
        self._handle = handle
        self._asked_at = float("-inf")
        self._is_old = False

    def __repr__(self) -> str:
        return f"<TimeLeft of {self._handle.id}>"

    def look(self) -> None:
        """Ask for it, if that is due."""
        now = time.monotonic()
        if self._is_old or now - self._asked_at < _EVERY_S:
            return
        self._asked_at = now
        self.estimate = estimate_of(self._handle)
        self._is_old = self.estimate is None

    def words(self) -> str:
        """Return ``12 to 18 min``, counted from now; empty if nobody can tell."""
        known = self.estimate
        if known is None or known.low_s is None or known.high_s is None:
            return ""
        passed_s = time.monotonic() - self._asked_at
        return span_range(max(0.0, known.low_s - passed_s), max(0.0, known.high_s - passed_s))


def estimate_of(handle: "Handle") -> "wire.EstimateView | None":
    """Return how long a workflow goes on; None if the daemon is older and does not tell."""
    try:
        return handle.estimate()
    except RemoteError as error:
        if error.status in _OLD and error.code != "workflow-not-found":
            return None
        raise
