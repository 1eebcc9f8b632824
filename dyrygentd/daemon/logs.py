"""Logging of the process: one line an event on stderr, as text or JSON, with priorities for journald, and without floods."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

FORMATS: Final = ("text", "json")

#: Syslog priorities as journald takes them at the beginning of a line, see sd-daemon(3).
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
#: Lines of one kind in so many seconds; those beyond are counted, and their number is told afterwards.
_LINES_MAX: Final = 100
_WINDOW_S: Final = 10.0
#: Kinds of lines that are counted apart.
_KINDS_MAX: Final = 500


def set_up(level: str, form: str = "text") -> None:
    """Log to stderr. Under systemd the journal has the time; elsewhere it stands in the line."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        formatter: logging.Formatter = _JsonFormatter()
    elif "JOURNAL_STREAM" in os.environ:
        formatter = logging.Formatter("%(name)s: %(message)s")
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_WithPriority(formatter) if "JOURNAL_STREAM" in os.environ else formatter)
    handler.addFilter(_is_news)
    handler.addFilter(Flood(handler.handle))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs each statement with its values, which are the arguments and results of tasks.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out Celery's backends, which log each failed try with a traceback: the watcher tells of an outage, once."""
    return not (record.exc_info and record.name.startswith("celery.backends."))


@dataclass(slots=True)
class _Kind:
    """Lines that come from one place in the code."""

    since: float
    name: str
    level: int
    text: str
    count: int = 0


class Flood:
    """A filter that lets so many lines of one kind through in some seconds, and tells afterwards how many it left out.

    Lines are of one kind if they come from one call in the code: what it fills in does not matter.

    Args:
        emit: Takes the line that tells the number.
        lines_max, window_s: How many lines in how many seconds.
    """

    def __init__(
        self,
        emit: Callable[[logging.LogRecord], object],
        *,
        lines_max: int = _LINES_MAX,
        window_s: float = _WINDOW_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit = emit
        self._lines_max = lines_max
        self._window_s = window_s
        self._now = now
        self._kinds: dict[tuple[str, int, str], _Kind] = {}
        self._is_telling = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line may pass."""
        if self._is_telling:
            return True
        now = self._now()
        self._tell_what_is_over(now)
        key = (record.name, record.lineno, str(record.msg))
        kind = self._kinds.get(key)
        if kind is None:
            while len(self._kinds) >= _KINDS_MAX:
                self._tell(self._kinds.pop(next(iter(self._kinds))))
            kind = self._kinds[key] = _Kind(now, record.name, record.levelno, str(record.msg))
        kind.count += 1
        return kind.count <= self._lines_max

    def _tell_what_is_over(self, now: float) -> None:
        # Kinds are in the order of their beginning, so the first that is not over ends this.
        while self._kinds:
            key, kind = next(iter(self._kinds.items()))
            if now - kind.since < self._window_s:
                return
            del self._kinds[key]
            self._tell(kind)

    def _tell(self, kind: _Kind) -> None:
        surplus = kind.count - self._lines_max
        if surplus <= 0:
            return
        self._is_telling = True
        try:
            words = f"{surplus} more lines like this were left out: {kind.text}"
            self._emit(logging.LogRecord(kind.name, kind.level, __file__, 0, "%s", (words,), None))
        finally:
            self._is_telling = False


class _JsonFormatter(logging.Formatter):
    """Writes each event as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class _WithPriority(logging.Formatter):
    """Puts ``<priority>`` before every line of a message."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(priority + line for line in self._inner.format(record).splitlines())
