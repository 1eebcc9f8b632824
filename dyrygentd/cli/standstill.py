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
_AFTER_S: Final = 20.0
#: How many times as long until it is asked again.
_AGAIN: Final = 6
_RUNNING: Final = "it is running: "
_IN_FLIGHT: Final = ("dispatched", "dispatching")
#: What does not go on by itself.
_STUCK: Final = frozenset({"no-consumer", "orphaned", "lost"})


class Standstill(AbstractContextManager["Standstill"]):
    """Tells what keeps tasks in flight from ending, each answer once, while its context is open.

    Args:
        tell: Takes a line, in another thread.
        after_s: How long nothing has ended before it asks.
    """

    def __init__(self, handle: "Handle", tell: Callable[[str], object], *, after_s: float = _AFTER_S) -> None:
        self._handle, self._tell, self._after_s = handle, tell, after_s
        self._over = threading.Event()
        self._ended = -1
        self._since = self._asked_at = float("inf")
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
        ended = render.ended(view)
        if view.state != "running" or not any(view.counts.get(word) for word in _IN_FLIGHT):
            self._since, self._asked_at = float("inf"), float("-inf")
        elif ended != self._ended or self._since == float("inf"):
            self._since, self._asked_at = time.monotonic(), float("-inf")
        self._ended = ended

    def _look(self) -> None:
        while not self._over.wait(self._after_s / 4):
            now = time.monotonic()
            if now - self._since < self._after_s or now - self._asked_at < _AGAIN * self._after_s:
                continue
            self._asked_at = now
            try:
                found = self._handle.explain()
            except DyrygentError:
                continue  # The views say so, too.
            if any(standing.code in _STUCK for standing in found.standings) and not self._over.is_set():
                self._say(localized(render.inline(found.verdict).removeprefix(_RUNNING)))

    def _say(self, verdict: str) -> None:
        if verdict not in self._told:
            self._told.add(verdict)
            self._tell(f"nothing goes on: {verdict}: {render.shell('dyrygentctl', 'explain', self._handle.id)}")
