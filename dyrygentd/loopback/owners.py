"""Whose the other end of a connection on loopback is, as the kernel tells it (proc_pid_net(5)).

A Unix socket has SO_PEERCRED; TCP has nothing of the kind, but both ends are on this machine, and the table of connections has
the user of each. Behind `ssh -L` that is the user who logged in: sshd opens the connection as them.
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED: Final = "01"
_OF_NOBODY: Final = "0"
"""The inode of a socket that its process has closed already; its user is shown as root then."""
#: An address of IPv4 in a socket of IPv6 (RFC 4291, 2.5.5.2), as the second table has it.
_MAPPED: Final = f"{0:016X}{int.from_bytes(bytes.fromhex('0000ffff'), sys.byteorder):08X}"

Address = tuple[str, int]


def owner_of(theirs: Address, ours: Address, tables: tuple[Path, ...] = TABLES) -> int | None:
    """Return the user at the other end, or None if nobody has it open (any more), or the kernel does not tell."""
    pairs = {(_written(theirs), _written(ours)), (_MAPPED + _written(theirs), _MAPPED + _written(ours))}
    for table in tables:
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            _, local, remote, state, _, _, _, user, _, inode, *_ = row.split()
            if (local, remote) in pairs and state == _ESTABLISHED and inode != _OF_NOBODY:
                return int(user)
    return None


def trusted_users(environ: Mapping[str, str] = os.environ) -> frozenset[int]:
    """Return who may connect: oneself, root who may do anything anyway, and who has become root by sudo, whose browser it is."""
    users = {os.getuid(), os.geteuid(), 0}
    before = environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and before.isdecimal():
        users.add(int(before))
    return frozenset(users)


def _written(address: Address) -> str:
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
