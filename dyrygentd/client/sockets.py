"""Sockets of this host: which one is the daemon's, and why nobody answers on it."""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dyrygentd.client.again import QUESTION, IfLost
from dyrygentd.errors import DaemonUnreachable

ENVIRONMENT: Final = "DYRYGENTD_SOCKET"
SYSTEM_SOCKET: Final = Path("/run/dyrygentd/dyrygentd.sock")

#: A new daemon beside the one that people mean would have none of its workflows.
_AS_BEFORE: Final = "start it as it was started before: its service, or the command, configuration and database that it had"


def find_socket(
    argument: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] = os.environ, system: Path = SYSTEM_SOCKET
) -> Path:
    """Return the argument, else ``$DYRYGENTD_SOCKET``, else the system's socket if it exists, else the user's.

    A system's socket that this user may not connect to gives way to the user's own. If neither exists, the system's is returned,
    so that a person is told about that one.
    """
    if argument:
        return Path(argument)
    if environ.get(ENVIRONMENT):
        return Path(environ[ENVIRONMENT])
    if not os.access(system, os.W_OK):
        # The same places as the daemon's own default, see `dyrygentd.daemon.config`.
        home = Path(environ.get("HOME") or Path.home())
        state = environ.get("XDG_STATE_HOME") or home / ".local/state"
        for directory in (*filter(None, [environ.get("XDG_RUNTIME_DIR")]), state):
            own = Path(directory, "dyrygentd", "dyrygentd.sock")
            if _exists(own):
                return own
    return system


def unreachable(path: Path, error: OSError, if_lost: IfLost = QUESTION, *, system: Path = SYSTEM_SOCKET) -> DaemonUnreachable:
    """Say why nobody can be reached at ``path``, and what to do.

    Args:
        if_lost: What it means for what was asked, if all of that was sent.
    """
    if isinstance(error, PermissionError) or error.errno == errno.EACCES:
        return DaemonUnreachable(f"cannot reach '{path}': this user may not use it", next_step=_way_in(path))
    if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
        return DaemonUnreachable(f"cannot reach '{path}': too many clients are waiting there", next_step="try again in a moment")
    if str(error) == "AF_UNIX path too long":
        return DaemonUnreachable(f"cannot reach '{path}': the path of a socket has 107 bytes at most")
    if _exists(path) and not _is_socket(path):
        return DaemonUnreachable(
            f"cannot reach '{path}': this is no socket", next_step=f"name the daemon's socket with --socket or ${ENVIRONMENT}"
        )
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return DaemonUnreachable(
            f"'{path}' closed the connection before it answered{if_lost.what and f': {if_lost.what}'}",
            next_step=f"did the daemon stop? {if_lost.next_step or 'nothing was done, it can be repeated'}",
            may_be_done=bool(if_lost.what),
        )
    if path == system:
        return DaemonUnreachable(
            f"cannot reach '{path}': is dyrygentd.service running?",
            next_step=f"`systemctl start dyrygentd`; if it is no service, name its socket with --socket or ${ENVIRONMENT}",
        )
    reason = "nobody listens there, it was left behind" if _exists(path) else "there is no such socket"
    return DaemonUnreachable(f"cannot reach '{path}': {reason}; is the daemon running?", next_step=_AS_BEFORE)


def _way_in(path: Path) -> str:
    try:
        import grp

        group = grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        return "join the group that owns it, or use sudo"
    if group == "root":
        return "use sudo, or ask an administrator to give its socket a group that you are in"
    return f"join the group '{group}' (`sudo usermod -aG {group} $USER`, then log in again), or use sudo"


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except PermissionError:
        return True  # It cannot be seen, but connecting says more than silence.
    except OSError:
        return False
    return True


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return True
