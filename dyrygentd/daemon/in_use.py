"""Who has what a daemon wants to have, database and address, and who is in a group. Nothing is taken or changed."""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from dyrygentd.errors import ConfigurationError
from dyrygentd.http.sockets import address_of

_LISTENING: Final = "0A"
"""State of a socket in ``/proc/net/tcp``, see proc_net(5)."""


class PortHolders(NamedTuple):
    """``{port: "process 7 (nginx)"}`` of those who listen on TCP, as far as this user can see."""

    by_port: dict[int, str]

    @classmethod
    def look(cls) -> "PortHolders":
        """Look through ``/proc``."""
        ports: dict[str, int] = {}
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                    words = line.split()
                    if words[3] == _LISTENING:
                        ports[f"socket:[{words[9]}]"] = int(words[1].rpartition(":")[2], 16)
        found: dict[int, str] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                for descriptor in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        port = ports.get(os.readlink(descriptor))
                        if port is not None:
                            found.setdefault(port, named(int(process.name)))
        return cls(found)


def has_members(group: str) -> bool:
    """Tell whether anybody is in a group, as far as the system lists its users; a directory service may list none."""
    try:
        found = grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)
    except KeyError:
        return False
    return bool(found.gr_mem) or any(user.pw_gid == found.gr_gid for user in pwd.getpwall())


def named(process: int) -> str:
    """Return a process by its number and name."""
    try:
        return f"process {process} ({Path('/proc', str(process), 'comm').read_text().strip()})"
    except OSError:
        return f"process {process}"


def database_holder(database: Path) -> int | None:
    """Return the process that has a database; 0 if that is not known, None if nobody has it."""
    lock = database.with_name(f"{database.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        # Shared, and given back at once: a daemon that starts in this very moment is started again.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        return int(holder) if holder.isdecimal() else 0
    finally:
        os.close(descriptor)
    return None


def peer_of(path: Path, *, timeout_s: float) -> int | None:
    """Return the process that listens on a Unix socket; 1 is systemd, for whom it may have been passed. None if nobody does.

    Raises:
        OSError: This user may not connect.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        process, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(process)


def check_address(address: str, holders: PortHolders, daemon: int | None) -> str:
    """Try an address by binding it, without listening.

    Args:
        daemon: The process of the daemon that runs, which may have it.

    Raises:
        ConfigurationError: It is no address, or cannot be had.
    """
    family, where = address_of(address)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            return _taken(address, int(where[1]), error, holders, daemon)
    return f"'{address}' is free"


def _taken(address: str, port: int, error: OSError, holders: PortHolders, daemon: int | None) -> str:
    if error.errno != errno.EADDRINUSE:
        raise ConfigurationError(f"cannot listen on '{address}': {error.strerror}") from error
    holder = holders.by_port.get(port, "")
    if daemon and holder == named(daemon):
        return f"the daemon that runs, {holder}, has '{address}'"
    whose = f"{holder} has it" if holder else f"`sudo ss -ltnp 'sport = :{port}'` shows who has it"
    raise ConfigurationError(
        f"cannot listen on '{address}': {error.strerror}; {whose}", next_step="choose another port for `listen`"
    )
