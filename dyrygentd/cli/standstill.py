"""Says why nothing goes on while somebody follows a workflow: `explain` is asked once nothing has ended for a while.

What the daemon knows by itself comes with every view; that nobody consumes a queue it only learns by asking the workers, which
nobody wants it to do all the time. The follower waits for views that do not come, so it is asked in a thread.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from dyrygentd.cli import render
from dyrygentd.cli.times import localized
from dyrygentd.errors import DyrygentError

if TYPE_CHECKING:
    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

#: Longer than most tasks wait for a worker that is busy.
AFTER_S: Final = 20.0
#: How many times as long until it is asked again.
_AGAIN: Final = 6
_RUNNING: Final = "it is running: "
_IN_FLIGHT: Final = ("dispatched", "dispatching")
#: What does not go on by itself.
_STUCK: Final = frozenset({"no-consumer", "orphaned", "lost"})


class Quiet:
    """Knows since when nothing has ended, and when somebody should ask why. Touched by whoever follows, with their times.

    Args:
        after_s: How long nothing has ended before it is asked.
    """

    def __init__(self, *, after_s: float = AFTER_S) -> None:
        self.after_s = after_s
        self._ended = -1
        self._since = self._asked_at = float("inf")

    def __repr__(self) -> str:
        return f"<Quiet since={self._since} asked_at={self._asked_at}>"

    def note(self, view: "wire.WorkflowView", now: float) -> None:
        """Take note of how far a workflow is."""
        ended = render.ended(view)
        if view.state != "running" or not any(view.counts.get(word) for word in _IN_FLIGHT):
            self._since, self._asked_at = float("inf"), float("-inf")
        elif ended != self._ended or self._since == float("inf"):
            self._since, self._asked_at = now, float("-inf")
        self._ended = ended

    def is_due(self, now: float) -> bool:
        """Tell whether it is to be asked now; if so, it is taken for asked."""
        is_due = now - self._since >= self.after_s and now - self._asked_at >= _AGAIN * self.after_s
        if is_due:
            self._asked_at = now
        return is_due

    @property
    def is_over(self) -> bool:
        """Tell whether something has ended since it was asked, or nothing is in flight."""
        return self._asked_at in (float("-inf"), float("inf"))


def reason_in(found: "wire.Explanation") -> str:
    """Return why nothing goes on, in one line; empty if what is in flight may end by itself."""
    if not any(standing.code in _STUCK for standing in found.standings):
        return ""
    return localized(render.inline(found.verdict).removeprefix(_RUNNING))


class Standstill(AbstractContextManager["Standstill"]):
    """Tells what keeps tasks in flight from ending, each answer once, while its context is open.

    Args:
        tell: Takes a line, in another thread.
        after_s: See `Quiet`.
    """

    def __init__(self, handle: "Handle", tell: Callable[[str], object], *, after_s: float = AFTER_S) -> None:
        self._handle, self._tell = handle, tell
        self._over = threading.Event()
        self._quiet = Quiet(after_s=after_s)
        self._told = set[str]()

    def __repr__(self) -> str:
        return f"<Standstill of {self._handle.id} told={len(self._told)}>"

    def __enter__(self) -> "Standstill":
        # Not waited for at the end: it may be waiting for an answer of the daemon.
        threading.Thread(target=self._look, name="standstill", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def over(self, views: "Iterator[wire.WorkflowView]") -> "Iterator[wire.WorkflowView]":
        """Iterate over views, and note each."""
        with self:
            for view in views:
                self.note(view)
                yield view

    def note(self, view: "wire.WorkflowView") -> None:
        """Take note of how far it is."""
        self._quiet.note(view, time.monotonic())

    def _look(self) -> None:
        while not self._over.wait(self._quiet.after_s / 4):
            if not self._quiet.is_due(time.monotonic()):
                continue
            try:
                verdict = reason_in(self._handle.explain())
            except DyrygentError:
                continue  # The views say so, too.
            if verdict and not self._over.is_set():
                self._say(verdict)

    def _say(self, verdict: str) -> None:
        if verdict not in self._told:
            self._told.add(verdict)
            self._tell(f"nothing goes on: {verdict}: {render.shell('dyrygentctl', 'explain', self._handle.id)}")
