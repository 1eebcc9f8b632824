"""systemd's notification protocol: datagrams to ``$NOTIFY_SOCKET``, see sd_notify(3). Nothing happens where it is not set.

Written out because the packages for it have no wheels, and it is ten lines.
"""

import logging
import os
import socket
from collections.abc import Mapping

logger = logging.getLogger("dyrygentd.systemd")


class Notifier:
    """Tells systemd what the service is doing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._has_warned = False

    def ready(self, status: str) -> None:
        """The service works."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        """Show one line in ``systemctl status``."""
        self._send(f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """The service has begun to stop."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(self._address)
                sender.sendall(message.encode())
        except OSError as error:
            # Status lines come every few seconds, and the first failure says it all.
            if not self._has_warned:
                logger.warning("cannot notify systemd: %s", error)
            self._has_warned = True
