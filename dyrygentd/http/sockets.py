"""Where the daemon listens: a Unix socket that is never taken from a living daemon, and TCP."""

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import Any, Final

from dyrygentd.errors import ConfigurationError, NotThereYet

PATH_BYTES_MAX: Final = 107
"""``sun_path`` has 108 bytes and ends in a zero byte (unix(7))."""

BACKLOG: Final = 4096
"""With less, a burst of clients is turned away with EAGAIN; the kernel lowers it to net.core.somaxconn."""

_PROBE_TIMEOUT_S: Final = 2.0


class UnixListener:
    """A listening Unix socket and its file.

    Guards: the file is removed only while it is still the one that was made here.

    Args:
        inode: Of the file that was made; None if it is somebody else's, and outlives this process.

    Attributes:
        socket: Hand it to the server, which closes it.
    """

    def __init__(self, path: Path, listening: socket.socket, inode: tuple[int, int] | None) -> None:
        self.path = path
        self.socket = listening
        self._inode = inode

    def __repr__(self) -> str:
        return f"<UnixListener {self.path}>"

    @property
    def is_in_place(self) -> bool:
        """Whether clients that look for the file find this socket, or somebody else's."""
        return os.path.lexists(self.path)

    def close(self) -> None:
        """Close the socket and remove its file, unless another daemon has put its own there; safe to repeat."""
        self.socket.close()
        if self._inode is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if _inode(self.path) == self._inode:
                self.path.unlink()


def listen_unix(path: Path, *, mode: int = 0o660, backlog: int = BACKLOG) -> UnixListener:
    """Listen on a Unix socket; a socket file that nobody answers is replaced.

    The parent directory is made if it is missing: 0700 inside the user's own directories, 0755 elsewhere (the socket's own
    mode is what keeps others out there).

    Raises:
        ConfigurationError: Another daemon listens there, the file is no socket, or the path cannot be used.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ConfigurationError(
            f"the socket's path '{path}' has {len(os.fsencode(path))} bytes, the kernel takes {PATH_BYTES_MAX}",
            next_step="choose a directory with a shorter path",
        )
    try:
        _make_parent(path.parent)
        _remove_stale(path)
        return _bind(path, mode=mode, backlog=backlog)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on '{path}': {error.strerror or error}",
            next_step="choose another path, or give this user the right to write its directory",
        ) from error


def listen_tcp(address: str, *, backlog: int = BACKLOG) -> socket.socket:
    """Listen on ``HOST:PORT``, ``[V6]:PORT`` or ``:PORT`` (loopback). Port 0 takes any free one.

    Raises:
        ConfigurationError: It is no address.
        NotThereYet: It cannot be bound: somebody else has it, or no interface has it yet.
    """
    family, where = address_of(address)
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise NotThereYet(f"cannot listen on '{address}': {error.strerror or error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        next_step = f"`ss -ltnp` shows who has port {where[1]}" if error.errno == errno.EADDRINUSE else ""
        raise NotThereYet(f"cannot listen on '{address}': {error.strerror or error}", next_step=next_step) from error
    listening.setblocking(False)
    return listening


def address_of(address: str) -> tuple[int, tuple[Any, ...]]:
    """Return the family and address to bind for ``HOST:PORT``, ``[V6]:PORT`` or ``:PORT``.

    Raises:
        ConfigurationError: It is no address.
        NotThereYet: Its name is not known.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"'{address}' is no HOST:PORT", next_step="write for example '127.0.0.1:9465'")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    try:
        family, _, _, _, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise NotThereYet(f"cannot listen on '{address}': {error.strerror or error}") from error
    return family, where


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address (a port and brackets may be there) means this machine and nobody else."""
    name = host_of(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    # On a socket for both versions, IPv4 comes as ``::ffff:127.0.0.1``, which Python before 3.13 does not call loopback.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def host_of(text: str) -> str:
    """Return the name or address of a Host header or ``HOST:PORT``: small letters, no port, no brackets, no final dot."""
    name = text.partition("]")[0].removeprefix("[") if text.startswith("[") else text
    if name.count(":") == 1:
        name = name.partition(":")[0]
    return name.partition("%")[0].rstrip(".").lower()


def _make_parent(directory: Path) -> None:
    if directory.is_dir():
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = [Path.home(), *([Path(runtime)] if runtime else [])]
    is_own = any(directory.is_relative_to(root) for root in own)
    directory.mkdir(mode=0o700 if is_own else 0o755, parents=True, exist_ok=True)


def _remove_stale(path: Path) -> None:
    """Make way for a socket. What is no socket stays, and so does a socket that is answered."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError(f"'{path}' exists and is no socket", next_step="move it away, or choose another path")
    if _is_answered(path):
        raise ConfigurationError(
            f"another daemon listens on '{path}'", next_step="stop it, or give this one a socket of its own with --socket"
        )
    # Between the probe and here another daemon may have replaced the file: then it is not the one that was found stale.
    if _inode(path) == (found.st_dev, found.st_ino):
        path.unlink()


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (BlockingIOError, TimeoutError):
            return True  # Somebody listens, and is too busy to accept.
    return True


def _bind(path: Path, *, mode: int, backlog: int) -> UnixListener:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody may connect between bind and chmod: a socket refuses connections until `listen`.
        listening.bind(os.fspath(path))
        os.chmod(path, mode)
        inode = _inode(path)
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    listening.setblocking(False)
    return UnixListener(path, listening, inode)


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
