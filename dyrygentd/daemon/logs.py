"""Logging of the process: one line an event on stderr, as text or JSON, with priorities for journald, and without floods.

What others have written (names, errors, paths of requests) is in many lines. So that nobody writes lines that look like ours, or
steers a terminal, what cannot be printed is written as its number, only a traceback has lines of its own, and these are indented.
What looks like a secret is hidden. The arguments of tasks are in no line: whoever logs an error that came of building a message
names where it came from, and not its words.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

from dyrygentd.scheduler.secrets import hide_secrets

FORMATS: Final = ("text", "json")

#: Syslog priorities as journald takes them at the beginning of a line, see sd-daemon(3).
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
#: Lines of one kind in so many seconds; those beyond are counted, and their number is told afterwards.
_LINES_MAX: Final = 100
_WINDOW_S: Final = 10.0
#: Kinds of lines that are counted apart.
_KINDS_MAX: Final = 500


#: Characters of the line that stands for those that were left out, before its secrets are hidden.
_LAST_CHARACTERS_MAX: Final = 500
#: Characters of a message, and of a traceback: more is no log line any more.
_MESSAGE_CHARACTERS_MAX: Final = 4000
_TRACEBACK_CHARACTERS_MAX: Final = 40_000
#: What steers a terminal, ends a line or turns a text round; a lone surrogate is written by the stream as its number.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def visible(text: str) -> str:
    """Return a text in one line without control characters: they become ``\\n``, ``\\x1b``, ``\\u202e``."""
    return _UNPRINTABLE.sub(lambda found: _NUMBERS.get(found[0]) or found[0].encode("unicode_escape").decode(), text)


_NUMBERS: Final = {"\n": "\\n", "\t": " "}

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def set_up(level: str, form: str = "text") -> None:
    """Log to stderr. Under systemd the journal has the time; elsewhere it stands in the line."""
    handler = logging.StreamHandler(sys.stderr)
    is_journal = goes_to_journal()
    if form == "json":
        formatter: logging.Formatter = _JsonFormatter()
    elif is_journal:
        formatter = _TextFormatter("%(name)s: %(message)s")
    else:
        formatter = _TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_WithPriority(formatter) if is_journal else formatter)
    handler.addFilter(_is_news)
    handler.addFilter(Flood(handler.handle))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs each statement with its values, which are the arguments and results of tasks.
    logging.getLogger("aiosqlite").setLevel(logging.INFO)


def goes_to_journal() -> bool:
    """Tell whether stderr is the journal's.

    See "JOURNAL_STREAM" in systemd.exec(5). It says which stream: a terminal that a service has started inherits the variable.
    """
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out Celery's backends, which log each failed try with a traceback: the watcher tells of an outage, once."""
    return not (record.exc_info and record.name.startswith("celery.backends."))


@dataclass(slots=True)
class _Kind:
    """Lines that come from one place in the code."""

    since: float
    name: str
    level: int
    count: int = 0
    last: str = ""


class Flood:
    """A filter that lets so many lines of one kind through in some seconds, and tells then how many it left out.

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
            kind = self._kinds[key] = _Kind(now, record.name, record.levelno)
        kind.count += 1
        if kind.count <= self._lines_max:
            return True
        # Not the record, which may hold an error with all that it refers to.
        kind.last = _cut(record.getMessage(), _LAST_CHARACTERS_MAX)
        return False

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
            words = f"{surplus} more lines like this were left out: {kind.last}"
            self._emit(logging.LogRecord(kind.name, kind.level, __file__, 0, "%s", (words,), None))
        finally:
            self._is_telling = False


def _message(record: logging.LogRecord) -> str:
    return visible(_cut(hide_secrets(record.getMessage()[: 2 * _MESSAGE_CHARACTERS_MAX]), _MESSAGE_CHARACTERS_MAX))


def _cut(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


class _TextFormatter(logging.Formatter):
    """Writes each event as one line, and its traceback below, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _message(record)
        return super().formatMessage(record)

    def formatException(self, ei: _ExceptionInfo) -> str:
        text = hide_secrets(super().formatException(ei)[: 2 * _TRACEBACK_CHARACTERS_MAX])
        return "\n".join(f"  {visible(line)}" for line in _cut(text, _TRACEBACK_CHARACTERS_MAX).split("\n"))


class _JsonFormatter(_TextFormatter):
    """Writes each event as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
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
