"""Reach the daemon: find its socket, ask, and say in plain words why it cannot be reached.

Each request has a connection of its own. On a Unix socket that costs some 50 µs, and it spares what goes wrong with kept
connections: a request that meets a connection which the daemon has just closed, and two threads on one connection.
"""

import errno
import http.client
import io
import os
import random
import socket
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from dyrygentd import __version__, wire
from dyrygentd.client.again import QUESTION, IfLost
from dyrygentd.client.forms import Ask, Progress
from dyrygentd.errors import DaemonTimeout, DaemonUnreachable, DyrygentError, RemoteError

ENVIRONMENT: Final = "DYRYGENTD_SOCKET"
SYSTEM_SOCKET: Final = Path("/run/dyrygentd/dyrygentd.sock")

CONNECT_PAUSES_S = (0.01, 0.03, 0.1, 0.3, 1.0)
"""A full backlog turns clients away with EAGAIN; these pauses give the daemon 1.4 s to catch up."""

BUSY_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""A daemon that serves as many as it may turns clients away (429, 503); each pause is shortened by chance, up to half."""

#: A new daemon beside the one that people mean would have none of its workflows.
_AS_BEFORE: Final = "start it as it was started before: its service, or the command, configuration and database that it had"

_BUSY: Final = frozenset({"too-busy", "too-many-of-yours"})

Warn = Callable[[str], None]
#: Read from a body and sent at a time.
_PART_BYTES: Final = 64 * 1024


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


class Connection:
    """Speaks HTTP with the daemon behind one socket; safe to use from several threads.

    Args:
        warn: Told once if the daemon has another version.
    """

    def __init__(self, path: Path, *, timeout_s: float, warn: Warn | None = None) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.versions = VersionCheck(path, warn)

    def __repr__(self) -> str:
        return f"<Connection {self.path}>"

    def request(self, ask: Ask, *, progress: Progress | None = None) -> bytes:
        """Return the body of the answer.

        Args:
            progress: Told ``("sending", bytes sent, bytes in all)``.

        Raises:
            DaemonUnreachable: Nobody answers, or somebody else does.
            RemoteError: The daemon refuses.
        """
        with self._exchange(ask, self.timeout_s + ask.extra_s, progress) as response:
            return response.read()

    def lines(self, target: str, *, silence_max_s: float) -> Iterator[bytes]:
        """Iterate over the lines of an endless answer. Raises as `request` does, also if it breaks off or falls silent."""
        with self._exchange(Ask("GET", target), silence_max_s) as response:
            while line := response.readline():
                yield line.rstrip(b"\r\n")

    @contextmanager
    def _exchange(self, ask: Ask, timeout_s: float, progress: Progress | None = None) -> Iterator[http.client.HTTPResponse]:
        for pause_s in busy_pauses_s():
            with ExitStack() as exits:
                try:
                    response = exits.enter_context(self._answered(ask, timeout_s, progress))
                except RemoteError as error:
                    if not pause_s or not is_busy(error):
                        raise
                else:
                    yield response
                    return
            time.sleep(pause_s)

    @contextmanager
    def _answered(self, ask: Ask, timeout_s: float, progress: Progress | None) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self.path, timeout_s)
        was_sent = False
        try:
            # An early answer (body too large, too busy) closes the sending side, and waits to be read nevertheless.
            with suppress(BrokenPipeError, ConnectionResetError):
                body: Any = ask.body
                if body is not None and progress is not None:
                    body = ToldBody(body, progress)
                length = {} if ask.body is None else {"Content-Length": str(len(ask.body))}
                connection.request(ask.method, ask.target, body=body, headers={**ask.headers, **length})
                was_sent = True
            response = connection.getresponse()
            self.versions.check(response.getheader(wire.VERSION_HEADER), response.getheader("Server"))
            if wire.is_problem(response.status, response.getheader("Content-Type")):
                raise wire.error_of_problem(response.read(), response.status)
            yield response
        except DyrygentError:
            raise  # Some of ours are an OSError, too.
        except TimeoutError as error:
            raise timed_out(self.path, timeout_s, ask.if_lost if was_sent else QUESTION) from error
        except OSError as error:
            raise unreachable(self.path, error, ask.if_lost if was_sent else QUESTION) from error
        except http.client.HTTPException as error:
            raise foreign(self.path, "what came is no HTTP") from error
        finally:
            connection.close()


class ToldBody(io.BytesIO):
    """A body that tells, whenever a part of it is taken, how far it is."""

    def __init__(self, body: bytes, progress: Progress) -> None:
        super().__init__(body)
        self._progress, self._size = progress, len(body)

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        if part:
            self._progress("sending", self.tell(), self._size)
        return part


def busy_pauses_s() -> Iterator[float]:
    """Iterate over the pauses after a busy answer; 0 means that it was the last try."""
    for pause_s in BUSY_PAUSES_S:
        yield pause_s * random.uniform(0.5, 1.0)
    yield 0.0


def is_busy(error: RemoteError) -> bool:
    """Tell whether the daemon refused because it has too much to do, before it did anything."""
    return error.code in _BUSY


class VersionCheck:
    """Recognises the daemon by its version header and warns once if its version is another."""

    def __init__(self, path: Path, warn: Warn | None = None) -> None:
        self._path = path
        self._warn = warn or (lambda message: warnings.warn(message, stacklevel=6))
        self._has_warned = False

    def check(self, version: str | None, server: str | None) -> None:
        """Raise `DaemonUnreachable` if the answer is not the daemon's."""
        if version is None:
            raise foreign(self._path, f"the server calls itself '{server}'" if server else "the answer has no version")
        if version != __version__ and not self._has_warned:
            self._has_warned = True
            self._warn(f"this is dyrygentd {__version__}, the daemon on '{self._path}' is {version}")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket. The request line and headers are the standard library's."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s, blocksize=_PART_BYTES)
        self._path = path

    def connect(self) -> None:
        for pause_s in (*CONNECT_PAUSES_S, None):
            self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            try:
                self.sock.connect(os.fspath(self._path))
                return
            except BlockingIOError:
                self.sock.close()
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            except BaseException:
                self.sock.close()
                raise


def timed_out(path: Path, timeout_s: float, if_lost: IfLost) -> DaemonTimeout:
    """Say that no answer came in time, and what that means for what was asked."""
    words = f"'{path}' did not answer within {timeout_s:g} s{if_lost.what and f': {if_lost.what}'}"
    daemon = "is the daemon overloaded or stopped? see its log"
    next_step = f"{daemon}; {if_lost.next_step}" if if_lost.next_step else daemon
    return DaemonTimeout(words, next_step=next_step, may_be_done=bool(if_lost.what))


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


def foreign(path: Path, sign: str) -> DaemonUnreachable:
    """Say that somebody answers at ``path`` who is not the daemon."""
    return DaemonUnreachable(
        f"something else than dyrygentd answers on '{path}': {sign}",
        next_step=f"name the daemon's socket with --socket or ${ENVIRONMENT}",
    )


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
