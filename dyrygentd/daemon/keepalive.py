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
from collections.abc import Callable
from typing import Final

import anyio

from dyrygentd.daemon.systemd import Notifier
from dyrygentd.scheduler import Scheduler

logger = logging.getLogger("dyrygentd.daemon")

#: Between two requests for time, while workflows come back and while tasks are waited for.
_RECOVERY_INTERVAL_S = 2.0
_DRAIN_INTERVAL_S: Final = 2.0
#: What is asked for: restoring the largest workflow takes a tenth of it, and closing after a drain has its bounds too.
_EXTEND_S: Final = 60.0


async def feed_watchdog(scheduler: Scheduler, notifier: Notifier) -> None:
    """Tell systemd that the daemon makes progress, while it does."""
    if notifier.watchdog_s is None:
        return
    is_told = False
    while True:
        stalled_s = scheduler.stalled_s
        if stalled_s < notifier.watchdog_s:
            notifier.alive()
            is_told = False
        elif not is_told:
            logger.error("no turn was taken for %.0f s although there is work: the watchdog is not fed any more", stalled_s)
            is_told = True
        await anyio.sleep(notifier.watchdog_s / 2)


def tell_recovery(notifier: Notifier) -> Callable[[int, int], None]:
    """Return what tells systemd how far the recovery is, and asks for more time, but not for every workflow."""
    told_at = time.monotonic()

    def tell(count: int, of: int) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now - told_at >= _RECOVERY_INTERVAL_S:
            told_at = now
            notifier.extend(_EXTEND_S, f"recovering: {count} of {of} workflows")

    return tell


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
