"""Logging of the process: one line an event on stderr, with priorities for journald where that reads it."""

import logging
import os
import sys
from typing import Final

#: Syslog priorities as journald takes them at the beginning of a line, see sd-daemon(3).
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def set_up(level: str) -> None:
    """Log to stderr. Under systemd the journal has the time; elsewhere it stands in the line."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_is_news)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out Celery's backends, which log each failed try with a traceback: the watcher tells of an outage, once."""
    return not (record.exc_info and record.name.startswith("celery.backends."))


class _JournalFormatter(logging.Formatter):
    """Puts ``<priority>`` before every line of a message."""

    def format(self, record: logging.LogRecord) -> str:
        priority = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(priority + line for line in super().format(record).splitlines())
