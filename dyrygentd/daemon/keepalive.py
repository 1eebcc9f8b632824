"""What keeps systemd from ending a daemon that works: the watchdog is fed, a start or stop that takes long asks for time.

*The watchdog* is fed by the event loop, at half its interval, while the turns of the scheduler take up the work that there is. It
starves when

- the loop does not turn: code of ours that does not return, a call that blocks (a journal that takes no lines, say), or a process
  that is stopped (SIGSTOP, a debugger);
- there is work and no turn takes it up, though it is not the disk that the last one waits for.

It does not starve because a disk hangs or a broker has gone: those are outages, which the daemon reports (``/readyz``, the status
line) and survives, and a restart would cost what it has in memory and mend nothing. The signal is SIGABRT, at which Python's
stacks are written to the log (`run`), so the reason can be found afterwards.

*The start* asks for time as workflows come back, so one that hangs does not. *The stop* asks while it waits for tasks in flight.
"""

import logging
import time
from typing import Final, Protocol

import anyio

from dyrygentd.daemon.systemd import Notifier
from dyrygentd.progress import ProgressBar
from dyrygentd.scheduler import Scheduler

logger = logging.getLogger("dyrygentd.daemon")

#: Between two requests for time, while the database is upgraded or workflows come back, and while tasks are waited for.
_START_INTERVAL_S = 2.0
#: Between two lines of the log about a start.
_LOG_INTERVAL_S = 5.0
_DRAIN_INTERVAL_S: Final = 2.0
#: What is asked for: restoring the largest workflow takes a tenth of it, and closing after a drain has its bounds too.
_EXTEND_S: Final = 60.0


class Working(Protocol):
    """What may stall, see `Scheduler.stalled_s`."""

    @property
    def stalled_s(self) -> float:
        """For how long there has been work that no turn took up."""


async def feed_watchdog(working: Working, notifier: Notifier) -> None:
    """Tell systemd that the daemon makes progress, while it does."""
    if notifier.watchdog_s is None:
        return
    is_told = False
    while True:
        stalled_s = working.stalled_s
        if stalled_s < notifier.watchdog_s:
            notifier.alive()
            is_told = False
        elif not is_told:
            logger.error("no turn was taken for %.0f s although there is work: the watchdog is not fed any more", stalled_s)
            is_told = True
        await anyio.sleep(notifier.watchdog_s / 2)


class StartProgress:
    """Tells how far a start is: systemd, with a request for more time, a terminal by a bar, a log by a line now and then."""

    def __init__(self, notifier: Notifier, bar: ProgressBar | None = None) -> None:
        self._notifier = notifier
        self._bar = bar or ProgressBar()
        self._extended_at = self._logged_at = time.monotonic()

    def __call__(self, what: str, done: int, of: int) -> None:
        """Take note that of something so much is done; ``of`` is 0 if nobody knows how much there is."""
        self._bar(what, done, of)
        now, words = time.monotonic(), f"{what}: {done} of {of}" if of else what
        if now - self._extended_at >= _START_INTERVAL_S:
            self._extended_at = now
            self._notifier.extend(_EXTEND_S, words)
        if now - self._logged_at >= _LOG_INTERVAL_S and not self._bar.is_shown:
            self._logged_at = now
            logger.info("%s", words)

    def recovered(self, count: int, of: int) -> None:
        """Take note that so many workflows are there again."""
        self("recovering workflows", count, of)

    def end(self) -> None:
        """Leave the terminal to others."""
        self._bar.end()


async def drain(scheduler: Scheduler, notifier: Notifier, *, timeout_s: float) -> bool:
    """Stop dispatching and wait for what is in flight; tell whether all of it landed in time."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_ask_for_time, scheduler, notifier, time.monotonic() + timeout_s)
        is_quiet = await scheduler.drain(timeout_s=timeout_s)
        tasks.cancel_scope.cancel()
    return is_quiet


async def _ask_for_time(scheduler: Scheduler, notifier: Notifier, until: float) -> None:
    while True:
        left_s = max(until - time.monotonic(), 0)
        notifier.extend(_EXTEND_S, f"waiting for {scheduler.in_flight_count} tasks in flight, at most {left_s:.0f} s more")
        await anyio.sleep(_DRAIN_INTERVAL_S)
