"""What SIGHUP does: the configuration is read again, what can be changed in a running daemon is, and the rest is named."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import fields, replace
from typing import Final, NamedTuple

import anyio

from dyrygentd.daemon import logs
from dyrygentd.daemon.config import Configuration, settings
from dyrygentd.errors import ConfigurationError
from dyrygentd.http.access import Access
from dyrygentd.http.around import Around
from dyrygentd.http.guard import Guard
from dyrygentd.http.limits import ConnectionLimits
from dyrygentd.scheduler import Scheduler

logger = logging.getLogger("dyrygentd.daemon")

#: How long reading the configuration may take.
_READ_TIMEOUT_S: Final = 5.0


class LiveParts(NamedTuple):
    """The parts of a daemon that can be told something new; without a scheduler if it does not lead."""

    scheduler: Scheduler | None
    guard: Guard
    arounds: Sequence[Around]


class Reload:
    """Knows the present configuration, and how to read it again.

    Attributes:
        configuration: What holds now; settings that need a restart have the values that the daemon was started with.
        problem: Why it was not read the last time, empty if it was.
    """

    def __init__(
        self,
        configuration: Configuration,
        read: Callable[[], Configuration],
        *,
        bounded: Callable[[ConnectionLimits], ConnectionLimits] = lambda limits: limits,
    ) -> None:
        self.configuration = configuration
        self.problem = ""
        self._reading: Future[Configuration] | None = None
        self._read = read
        self._bounded = bounded

    async def reload(self, running: LiveParts) -> None:
        """Read the configuration and apply what can be; a wrong one is refused as a whole, and the present one stays."""
        try:
            new = await self._read_again()
        except ConfigurationError as error:
            self.problem = f"the configuration was not loaded again: {error.message}"
            if running.scheduler is not None:
                running.scheduler.note(self.problem)
            logger.error("%s; the present one stays%s", self.problem, f" ({error.next_step})" if error.next_step else "")
            return
        self.problem = ""
        if running.scheduler is not None:
            running.scheduler.note("")
        changed = [name.name for name in fields(new) if getattr(new, name.name) != getattr(self.configuration, name.name)]
        live = {setting.name for setting in settings() if setting.metadata["is_live"]}
        applied = {name: getattr(new, name) for name in changed if name in live}
        self.configuration = replace(self.configuration, **applied)
        logs.set_up(*self.configuration.logging)
        if running.scheduler is not None:
            running.scheduler.set_limits(self.configuration.scheduler_limits)
        running.guard.limits = self._bounded(self.configuration.connection_limits)
        for around in running.arounds:
            around.access, around.limits = self.configuration.access, self.configuration.http_limits
        waiting = [name for name in changed if name not in live]
        logger.info("loaded the configuration again; changed: %s", ", ".join(sorted(applied)) or "nothing")
        if waiting:
            logger.warning("changed, and to be taken up by a restart only: %s", ", ".join(waiting))

        if {"admins", "submitters", "readers"} & applied.keys():
            await warn_of_unknown(self.configuration.access)

    async def _read_again(self) -> Configuration:
        """Read in a thread of its own, which keeps neither the daemon nor its end waiting: files may be on a disk that hangs."""
        if self._reading is not None and not self._reading.done():
            raise ConfigurationError("it is still being read", next_step="does its disk answer?")
        reading = self._reading = Future[Configuration]()
        is_over, loop = anyio.Event(), asyncio.get_running_loop()

        def read() -> None:
            try:
                reading.set_result(self._read())
            except BaseException as error:
                reading.set_exception(error)
            with suppress(RuntimeError):  # The loop may have ended meanwhile.
                loop.call_soon_threadsafe(is_over.set)

        threading.Thread(target=read, name="dyrygentd configuration", daemon=True).start()
        with anyio.move_on_after(_READ_TIMEOUT_S):
            await is_over.wait()
            return reading.result()
        raise ConfigurationError(f"it could not be read in {_READ_TIMEOUT_S:.0f} s", next_step="does its disk answer?")


async def warn_of_unknown(access: Access) -> None:
    """Say whom the configuration names and nobody is: a slip there takes somebody's right away without a word."""
    unknown = await access.unknown()
    if unknown:
        logger.warning("this system knows no %s; a group has @ in front of its name", ", ".join(unknown))
