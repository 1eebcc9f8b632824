"""The last words of a daemon that cannot start, or cannot go on: to systemd, to the journal with a priority, or to a terminal.

Whoever has started the service reads what `systemctl` prints: the status line survives the process. The journal takes a line
without a priority for information, so that nobody who looks for errors would find why a daemon has ended.
"""

import logging
import sys
import threading
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dyrygentd.core.words import described
from dyrygentd.daemon import logs
from dyrygentd.daemon.systemd import Notifier
from dyrygentd.errors import DyrygentError

logger = logging.getLogger("dyrygentd")

#: Characters of a status line.
_STATUS_CHARACTERS_MAX: Final = 400


def tell(error: BaseException, form: str) -> bool:
    """Tell why the daemon ends; return whether it was logged, so that nothing else need be written.

    Args:
        form: Of the log, see `logs.FORMATS`.
    """
    error = _first(error)
    next_step = error.next_step if isinstance(error, DyrygentError) else ""
    words = error.message if isinstance(error, DyrygentError) else described(error)
    line = logs.visible(f"cannot run: {words}" + (f"; next: {next_step}" if next_step else ""))
    Notifier().status(line[:_STATUS_CHARACTERS_MAX])
    if form != "json" and not logs.goes_to_journal():
        return False
    logs.set_up("info", form)
    # What is not ours to expect is told with its story.
    logger.critical("%s", line, exc_info=None if isinstance(error, DyrygentError) else error)
    return True


def _first(error: BaseException) -> BaseException:
    """Return what a group of tasks was ended by: the group's own words say only that there is something in it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def log_everything() -> None:
    """Have what Python writes to stderr by itself go through the log: warnings, and errors that nobody can catch."""
    logging.captureWarnings(True)
    sys.unraisablehook = lambda found: logger.error(
        "%s %r", found.err_msg or "an error was ignored in", found.object, exc_info=found.exc_value
    )
    threading.excepthook = lambda found: logger.error(
        "thread %r ended by an error", getattr(found.thread, "name", ""), exc_info=found.exc_value
    )


def format_of(flags: Mapping[str, Any], environ: Mapping[str, str], path: Path | None) -> str:
    """Return the form of the log that was asked for, as far as it can be told while the configuration cannot be read."""
    asked = flags.get("log_format") or environ.get("DYRYGENTD_LOG_FORMAT")
    if not asked and path is not None:
        with suppress(OSError, ValueError, tomllib.TOMLDecodeError):
            asked = tomllib.loads(path.read_text()).get("log_format")
    return asked if asked in logs.FORMATS else "text"
