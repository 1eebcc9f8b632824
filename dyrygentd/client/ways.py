"""How a client comes to a daemon: by a socket of this host, or by ssh to that of another one.

Connections ask a way where to connect, and what it means if nobody answers; whatever else they do is the same on each.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from dyrygentd.client.again import QUESTION, IfLost
from dyrygentd.client.sockets import ENVIRONMENT, find_socket, unreachable
from dyrygentd.errors import ConfigurationError, DaemonUnreachable

if TYPE_CHECKING:
    from dyrygentd.client.tunnel import Tunnel

HOST_ENVIRONMENT: Final = "DYRYGENTD_HOST"
_SCHEME: Final = "ssh://"
OPEN_TIMEOUT_S: Final = 60.0
"""How long ssh may take to come through: name service, jump hosts and all."""


class Way(Protocol):
    """How a client comes to a daemon."""

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def path(self) -> str | None:
        """Where to connect; None if it has to be opened before."""

    @property
    def user(self) -> str | None:
        """As whom one is known there, if it is not as the user of this process."""

    def open(self) -> str:
        """Return where to connect; may block. Raises `DaemonUnreachable`."""

    def unreachable(self, error: OSError, if_lost: IfLost = QUESTION) -> DaemonUnreachable:
        """Say why nobody answered, and what to do. ``if_lost`` is what it means for what was asked, if all of that was sent."""

    def close(self) -> None:
        """Give up what it holds; safe to repeat, and it may be opened again."""


class SocketWay:
    """By a socket of this host."""

    user: Final = None

    def __init__(self, path: Path) -> None:
        self.name = self.path = os.fspath(path)
        self._place = path

    def __repr__(self) -> str:
        return f"<SocketWay {self.name}>"

    def open(self) -> str:
        """Return the socket."""
        return self.path

    def unreachable(self, error: OSError, if_lost: IfLost = QUESTION) -> DaemonUnreachable:
        """Say why nobody answered there."""
        return unreachable(self._place, error, if_lost)

    def close(self) -> None:
        """Do nothing: no connection outlives its request."""


class SshWay:
    """By ssh, to the socket of another host."""

    def __init__(self, tunnel: "Tunnel") -> None:
        self.name = str(tunnel.address)
        self._tunnel = tunnel

    def __repr__(self) -> str:
        return f"<SshWay {self._tunnel!r}>"

    @property
    def path(self) -> str | None:
        """Where to connect, while ssh runs."""
        return self._tunnel.path

    @property
    def user(self) -> str | None:
        """Who one is on the other host."""
        return self._tunnel.user

    def open(self) -> str:
        """Return where to connect; start ssh if none runs."""
        return self._tunnel.open()

    def unreachable(self, error: OSError, if_lost: IfLost = QUESTION) -> DaemonUnreachable:
        """Say why nobody answered: ssh has ended, sshd refuses, or the daemon."""
        from dyrygentd.client import ssh

        is_broken = self._tunnel.is_broken()
        said = self._tunnel.said()
        if is_broken:
            words, step = f"ssh has ended ({said[-1]})" if said else "ssh has ended", "repeat it, which starts ssh again"
        else:
            words, step = ssh.broken(self._tunnel.address, said)
        lost, again = (f"; {if_lost.what}", if_lost.next_step) if if_lost.what else ("", "")
        return DaemonUnreachable(
            f"'{self.name}' closed the connection before it answered{words and f': {words}'}{lost}",
            next_step="; ".join(filter(None, [step or "did the daemon stop?", again])),
            may_be_done=bool(if_lost.what),
        )

    def close(self) -> None:
        """End ssh."""
        self._tunnel.close()


#: What a client may be told about where its daemon is; `find_way` makes a way of it.
Where = str | os.PathLike[str] | Way | None


def find_way(
    argument: Where = None,
    *,
    timeout_s: float = OPEN_TIMEOUT_S,
    asks: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Way:
    """Return the way that is named: a socket, ``ssh://…``, or a way itself; else as the environment says, and `find_socket`.

    Args:
        timeout_s: How long ssh may take.
        asks: Whether ssh may ask at the terminal.

    Raises:
        ConfigurationError: It is no address, or the environment names two.
    """
    if argument is not None and not isinstance(argument, str | os.PathLike):
        return argument
    given: str | os.PathLike[str] | None = argument
    if not given:
        host, socket = environ.get(HOST_ENVIRONMENT), environ.get(ENVIRONMENT)
        if host and socket:
            raise ConfigurationError(
                f"${HOST_ENVIRONMENT} and ${ENVIRONMENT} both name a daemon", next_step=f"unset one: `unset {ENVIRONMENT}`, say"
            )
        if host and not host.startswith(_SCHEME):
            raise ConfigurationError(f"${HOST_ENVIRONMENT} is '{host}', and no address of a host", next_step=_meant(host))
        given = host or socket
    if isinstance(given, str) and given.startswith(_SCHEME):
        from dyrygentd.client import ssh
        from dyrygentd.client.tunnel import Tunnel

        return SshWay(Tunnel(ssh.parse(given), timeout_s=min(timeout_s, OPEN_TIMEOUT_S), asks=asks))
    return SocketWay(find_socket(given, environ=environ))


def _meant(host: str) -> str:
    return f"did you mean '{_SCHEME}{host}'?"
