"""Whether this host has its name for itself: owners are ``user@host``, so two of one name would have each other's users.

Each process on a shared database notes there now and then what its host is called, and on which machine it is. Whoever comes to a
name that another machine has ends; it has to see for that that the other one goes on, as one that was started anew is another
machine. Several processes on one machine share its name.
"""

import logging
import socket
from pathlib import Path
from typing import Final, NoReturn

import anyio

from dyrygentd.errors import ConfigurationError, OutsideError
from dyrygentd.ports import Lease
from dyrygentd.ports.facts import Holder, Namesake
from dyrygentd.scheduler.limits import SystemClock

logger = logging.getLogger("dyrygentd.daemon")

#: How often the name is noted, and how often while it is looked whether another one goes on.
_NOTE_EVERY_S: Final = 5.0
_LOOK_S: Final = 1.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def this_machine() -> str:
    """Return what tells this machine, or container, from every other one, from its start to its end."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}"


class HostName:
    """The name of this host on a database. Guards: of two machines that go on the one that has it later is told to end.

    Args:
        machine: Which one this is.
    """

    def __init__(self, name: str, *, machine: str = "", note_every_s: float = _NOTE_EVERY_S, look_s: float = _LOOK_S) -> None:
        self._name = name
        self._machine = machine or this_machine()
        self._note_every_s = note_every_s
        self._look_s = look_s
        # When each that had it before was seen first.
        self._seen: dict[str, float] = {}
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"<HostName '{self._name}' of '{self._machine}'>"

    async def claim(self, lease: Lease) -> None:
        """Return once it is known that no other machine has it. Raises `ConfigurationError` or `StoreUnavailable`."""
        while await self._is_doubtful(lease):  # noqa: ASYNC110 - only the database knows
            await anyio.sleep(self._look_s)

    async def keep(self, lease: Lease) -> None:
        """Note it until cancelled. Raises `ConfigurationError` if another machine has had it before."""
        while True:
            try:
                await self._is_doubtful(lease)
            except ConfigurationError:
                raise
            except OutsideError as error:
                logger.debug("the name of this host is not noted: %s", error)
            await anyio.sleep(self._note_every_s)

    async def _is_doubtful(self, lease: Lease) -> bool:
        """Note it; tell whether another machine that had it before may be there still."""
        others = await lease.namesakes(self._name, self._machine, Holder.here(SystemClock().now()))
        for other in others:
            if not other.is_earlier:
                self._warn_of(other)
            elif other.seen_at > self._seen.setdefault(other.machine, other.seen_at):
                self._refuse(other)
        return any(other.is_earlier for other in others)

    def _warn_of(self, other: Namesake) -> None:
        if other.machine not in self._warned:
            self._warned.add(other.machine)
            logger.warning("%s calls its host '%s', which is the name of this one, and is told to end", other.words, self._name)

    def _refuse(self, other: Namesake) -> NoReturn:
        raise ConfigurationError(
            f"this host is called '{self._name}', and so is that of {other.words}: users of both would be the same",
            next_step="set `host_name`, one of its own for each host that shares the database",
        )
