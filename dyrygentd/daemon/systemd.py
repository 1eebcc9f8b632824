"""What systemd and the daemon tell each other: notifications, the watchdog, sockets that are passed, credentials.

See sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3) and "CREDENTIALS" in systemd.exec(5). All of it is variables and
datagrams, and nothing happens where they are not set. Written out because the packages for it have no wheels, and it is short.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final, NamedTuple

from dyrygentd.errors import ConfigurationError
from dyrygentd.http.sockets import UnixListener

logger = logging.getLogger("dyrygentd.systemd")

#: How long the loop may stand still for what has to arrive, should systemd be busy: it reads nothing while it reloads its units.
_SEND_TIMEOUT_S: Final = 5.0
#: The first descriptor that is passed, SD_LISTEN_FDS_START.
_FIRST_DESCRIPTOR: Final = 3
#: ``{file in $CREDENTIALS_DIRECTORY: setting}``.
CREDENTIALS: Final = {"broker-url": "broker", "backend-url": "result_backend", "database-url": "database"}


class Notifier:
    """Tells systemd what the service is doing.

    Attributes:
        watchdog_s: After so many seconds without `alive` systemd takes the service for hung and ends it; None if it never does.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._has_warned = False
        self.watchdog_s = _watchdog_s(environ) if address else None

    def ready(self, status: str) -> None:
        """The service works: it has started, or has taken up its new configuration."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        """Show one line in ``systemctl status``."""
        self._send(f"STATUS={status}", timeout_s=0)

    def extend(self, seconds: float, status: str) -> None:
        """Ask for so many seconds from now to start or stop in, if the unit's own timeout would come earlier."""
        self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}\nSTATUS={status}")

    def alive(self) -> None:
        """The service makes progress."""
        self._send("WATCHDOG=1", timeout_s=0)

    def reloading(self) -> None:
        """The service takes up its configuration again; `ready` has to follow."""
        # The time lets systemd tell this reload from an earlier one: without it ``Type=notify-reload`` waits for ever.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reloading")

    def stopping(self, status: str) -> None:
        """The service has begun to stop."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def _send(self, message: str, *, timeout_s: float = _SEND_TIMEOUT_S) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(timeout_s)
                sender.connect(self._address)
                sender.sendall(message.encode())
        except OSError as error:
            # Status lines come every few seconds, and the first failure says it all.
            if not self._has_warned:
                logger.warning("cannot notify systemd: %s", error)
            self._has_warned = True


class PassedSockets(NamedTuple):
    """Listening sockets that were there before this process, and stay when it has gone."""

    unix: list[UnixListener]
    tcp: list[socket.socket]


def passed_sockets(environ: MutableMapping[str, str] = os.environ) -> PassedSockets:
    """Take over the sockets that systemd listens on for us; the variables are removed, since they are no child's business.

    Raises:
        ConfigurationError: One of them is nothing that requests can be accepted from, or would let everybody in.
    """
    passed, descriptors = PassedSockets([], []), passed_descriptors(environ)
    _, _, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    named = names.split(":")
    for number, descriptor in enumerate(descriptors):
        name = named[number] if number < len(named) and named[number] else f"descriptor {descriptor}"
        listening = _listening(descriptor, name)
        if listening.family == socket.AF_UNIX:
            passed.unix.append(UnixListener(_path_of(listening, name), listening, None))
        else:
            passed.tcp.append(listening)
    return passed


def passed_descriptors(environ: Mapping[str, str] = os.environ) -> range:
    """Return the numbers of the descriptors that systemd has passed to this process."""
    process, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    # Meant for a parent of ours that did not clear them, if the id is another one.
    is_ours = process == str(os.getpid()) and count.isdecimal()
    return range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + (int(count) if is_ours else 0))


def credentials(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Read the settings that are secrets from ``$CREDENTIALS_DIRECTORY``, see ``LoadCredential=``.

    An empty one is as if it were not there, so that ``SetCredential=`` may give one in place of a missing one.

    Raises:
        ConfigurationError: One cannot be read.
    """
    directory = environ.get("CREDENTIALS_DIRECTORY")
    found = {}
    for name, setting in CREDENTIALS.items() if directory else ():
        path = Path(directory or "", name)
        try:
            value = path.read_text().strip()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read the credential '{path}': {error}") from error
        if value:
            found[setting] = value
    return found


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    interval, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not interval.isdecimal() or int(interval) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(interval) / 1e6


def _listening(descriptor: int, name: str) -> socket.socket:
    """Return the socket that was passed as a descriptor."""
    next_step = "pass stream sockets that listen: `ListenStream=` and `Accept=no` in the socket unit"
    try:
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigurationError(
            f"what systemd passed as '{name}' is no socket: {error.strerror}", next_step=next_step
        ) from error
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    is_listening = passed.type == socket.SOCK_STREAM and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if passed.family not in families or not is_listening:
        passed.close()
        raise ConfigurationError(f"the socket that systemd passed as '{name}' does not listen for streams", next_step=next_step)
    passed.setblocking(False)
    return passed


def _path_of(listening: socket.socket, name: str) -> Path:
    address = listening.getsockname()
    # Whoever may connect may run tasks, and an abstract socket has no permissions.
    if not isinstance(address, str) or not address:
        listening.close()
        raise ConfigurationError(
            f"the socket that systemd passed as '{name}' has no file, so everybody could connect",
            next_step="write a path in `ListenStream=`",
        )
    return Path(address)
