"""How far long work is, on a terminal. Imports nothing of the package."""

import sys
import time
from typing import Final, TextIO

_WIDTH: Final = 30
_DRAW_EVERY_S: Final = 0.1


class ProgressBar:
    """A line that shows how far something is, redrawn in its place; nothing where nobody sees a terminal.

    Args:
        stream: Where to; by default stderr.
        draw_every_s: It is not drawn more often: nobody could see it.
    """

    def __init__(self, stream: TextIO | None = None, *, draw_every_s: float = _DRAW_EVERY_S) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._draw_every_s = draw_every_s
        self._what, self._drawn_at, self._length = "", 0.0, 0
        self.is_shown = self._stream.isatty()

    def __call__(self, what: str, done: float, of: float) -> None:
        """Show that of ``what`` so much is done; ``of`` is 0 if nobody knows how much there is."""
        now = time.monotonic()
        is_done = done >= of > 0
        if not self.is_shown or (what == self._what and now - self._drawn_at < self._draw_every_s and not is_done):
            return
        if self._what not in ("", what):
            self.end()
        self._what, self._drawn_at = what, now
        share = min(1.0, done / of) if of else 0.0
        filled = round(_WIDTH * share)
        line = f"{what} [{'#' * filled}{' ' * (_WIDTH - filled)}] {share:4.0%}" if of else f"{what} …"
        self._stream.write(f"\r{line}{' ' * (self._length - len(line))}")
        self._length = len(line)
        self._stream.flush()
        if is_done:
            self.end()

    def end(self) -> None:
        """Leave the line as it is, and go to the next one."""
        if self._what:
            self._stream.write("\n")
            self._stream.flush()
        self._what, self._length = "", 0
