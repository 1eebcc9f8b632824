"""What SIGHUP does: the configuration is read again, what can be changed in a running daemon is, and the rest is named."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Final, NamedTuple

from dyrygentd.daemon import logs
from dyrygentd.daemon.config import Configuration
from dyrygentd.errors import ConfigurationError
from dyrygentd.http.guard import ConnectionLimits, Guard
from dyrygentd.http.routes import Api
from dyrygentd.scheduler import Scheduler

logger = logging.getLogger("dyrygentd.daemon")

#: Settings that take effect without a restart.
APPLIED: Final = frozenset(
    {
        "admins",
        "submitters",
        "readers",
        "tasks",
        "tasks_denied",
        "in_flight_max",
        "nodes_max",
        "body_bytes_max",
        "body_timeout_s",
        "connections_max",
        "head_timeout_s",
        "write_timeout_s",
        "drain_timeout_s",
        "log_level",
        "log_format",
    }
)


class Running(NamedTuple):
    """The parts of a daemon that can be told something new."""

    scheduler: Scheduler
    guard: Guard
    apis: Sequence[Api]


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
        self._read = read
        self._bounded = bounded

    def reload(self, running: Running) -> None:
        """Read the configuration and apply what can be; a wrong one is refused as a whole, and the present one stays."""
        try:
            new = self._read()
        except ConfigurationError as error:
            self.problem = f"the configuration was not loaded again: {error}"
            logger.error("%s; the present one stays%s", self.problem, f" ({error.next_step})" if error.next_step else "")
            return
        self.problem = ""
        changed = [name.name for name in fields(new) if getattr(new, name.name) != getattr(self.configuration, name.name)]
        applied = {name: getattr(new, name) for name in changed if name in APPLIED}
        self.configuration = _with(self.configuration, applied)
        logs.set_up(self.configuration.log_level, self.configuration.log_format)
        running.scheduler.set_in_flight_max(self.configuration.in_flight_max)
        running.guard.limits = self._bounded(self.configuration.connection_limits)
        for api in running.apis:
            api.access, api.limits = self.configuration.access, self.configuration.http_limits
        waiting = [name for name in changed if name not in APPLIED]
        logger.info("loaded the configuration again; changed: %s", ", ".join(sorted(applied)) or "nothing")
        if waiting:
            logger.warning("changed, and to be taken up by a restart only: %s", ", ".join(waiting))


def _with(configuration: Configuration, values: dict[str, object]) -> Configuration:
    present = {each.name: getattr(configuration, each.name) for each in fields(configuration)}
    return Configuration(**(present | values))
