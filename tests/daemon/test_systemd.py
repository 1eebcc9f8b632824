"""The notification protocol, against a real notify socket."""

import socket
from pathlib import Path

import pytest

from dyrygentd.daemon.systemd import Notifier


@pytest.mark.parametrize("is_abstract", [False, True])
def test_messages_arrive(short_tmp: Path, is_abstract: bool) -> None:
    """READY, STATUS and STOPPING arrive on a socket in the file system and on an abstract one."""
    address = f"@{short_tmp}" if is_abstract else str(short_tmp / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + address[1:] if is_abstract else address)
        receiver.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": address})
        notifier.ready("fine")
        notifier.status("busy")
        notifier.stopping("bye")
        messages = [receiver.recv(1000).decode().splitlines() for _ in range(3)]
    assert messages[0][:2] == ["READY=1", "STATUS=fine"]
    assert messages[1:] == [["STATUS=busy"], ["STOPPING=1", "STATUS=bye"]]


def test_absent_or_broken_socket_is_no_error(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without systemd, or with one that has gone, the daemon works on, and says so once."""
    Notifier({}).ready("fine")
    assert not caplog.records
    notifier = Notifier({"NOTIFY_SOCKET": str(short_tmp / "gone")})
    notifier.ready("fine")
    notifier.status("still fine")
    assert len(caplog.records) == 1
