"""Reach the daemon: ask, and say in plain words why it does not answer.

Each request has a connection of its own. On a Unix socket that costs some 50 µs, and it spares what goes wrong with kept
connections: a request that meets a connection which the daemon has just closed, and two threads on one connection.
"""

import http.client
import io
import random
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

from dyrygentd import __version__, wire
from dyrygentd.client.again import QUESTION, IfLost
from dyrygentd.client.forms import Ask, Progress
from dyrygentd.client.sockets import ENVIRONMENT
from dyrygentd.client.ways import Way
from dyrygentd.errors import DaemonTimeout, DaemonUnreachable, DyrygentError, RemoteError

CONNECT_PAUSES_S = (0.01, 0.03, 0.1, 0.3, 1.0)
"""A full backlog turns clients away with EAGAIN; these pauses give the daemon 1.4 s to catch up."""

BUSY_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
"""A daemon that serves as many as it may turns clients away (429, 503); each pause is shortened by chance, up to half."""

_BUSY: Final = frozenset({"too-busy", "too-many-of-yours"})

Warn = Callable[[str], None]
#: Read from a body and sent at a time.
_PART_BYTES: Final = 64 * 1024


class Connection:
    """Speaks HTTP with the daemon at the end of one way; safe to use from several threads.

    Args:
        warn: Told once if the daemon has another version.
        note: Told once if the daemon does not lead, what it is, and who does.
    """

    def __init__(self, way: Way, *, timeout_s: float, warn: Warn | None = None, note: Warn | None = None) -> None:
        self.way = way
        self.timeout_s = timeout_s
        self.versions = VersionCheck(way.name, warn, note)

    def __repr__(self) -> str:
        return f"<Connection {self.way.name}>"

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
        connection = _UnixConnection(self.way.open(), timeout_s)
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
            self.versions.check(response.headers)
            if wire.is_problem(response.status, response.getheader("Content-Type")):
                raise wire.error_of_problem(response.read(), response.status)
            yield response
        except DyrygentError:
            raise  # Some of ours are an OSError, too.
        except TimeoutError as error:
            raise timed_out(self.way.name, timeout_s, ask.if_lost if was_sent else QUESTION) from error
        except OSError as error:
            raise self.way.unreachable(error, ask.if_lost if was_sent else QUESTION) from error
        except http.client.HTTPException as error:
            raise foreign(self.way.name, "what came is no HTTP") from error
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
    """Recognises the daemon by its version header, and tells once if its version is another, or if it does not lead.

    Attributes:
        vantage: What the last answer says of a daemon that does not lead; empty if it leads.
    """

    def __init__(self, name: str, warn: Warn | None = None, note: Warn | None = None) -> None:
        self._name = name
        self._note = note
        self._warn = warn or (lambda message: warnings.warn(message, stacklevel=6))
        self._has_warned = False
        self.vantage = ""

    def check(self, headers: Mapping[str, str] | http.client.HTTPMessage) -> None:
        """Raise `DaemonUnreachable` if the answer is not the daemon's."""
        version, server, vantage = (headers.get(name) for name in (wire.VERSION_HEADER, "Server", wire.VANTAGE_HEADER))
        if version is None:
            raise foreign(self._name, f"the server calls itself '{server}'" if server else "the answer has no version")
        if version != __version__ and not self._has_warned:
            self._has_warned = True
            self._warn(f"this is dyrygentd {__version__}, the daemon on '{self._name}' is {version}")
        self.vantage = vantage or ""
        if vantage is not None and self._note is not None:
            note, self._note = self._note, None
            note(vantage)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket. The request line and headers are the standard library's."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s, blocksize=_PART_BYTES)
        self._path = path

    def connect(self) -> None:
        for pause_s in (*CONNECT_PAUSES_S, None):
            self.sock: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            try:
                self.sock.connect(self._path)
                return
            except BlockingIOError:
                self.sock.close()
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            except BaseException:
                self.sock.close()
                raise


def timed_out(name: str, timeout_s: float, if_lost: IfLost) -> DaemonTimeout:
    """Say that no answer came in time, and what that means for what was asked."""
    words = f"'{name}' did not answer within {timeout_s:g} s{if_lost.what and f': {if_lost.what}'}"
    daemon = "is the daemon overloaded or stopped? see its log"
    next_step = f"{daemon}; {if_lost.next_step}" if if_lost.next_step else daemon
    return DaemonTimeout(words, next_step=next_step, may_be_done=bool(if_lost.what))


def foreign(name: str, sign: str) -> DaemonUnreachable:
    """Say that somebody answers at the end of a way who is not the daemon."""
    return DaemonUnreachable(
        f"something else than dyrygentd answers on '{name}': {sign}",
        next_step=f"name the daemon's socket with --socket or ${ENVIRONMENT}",
    )
