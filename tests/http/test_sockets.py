"""The Unix socket is never taken from a living daemon, and no foreign file is removed."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dyrygentd.errors import ConfigurationError
from dyrygentd.http.sockets import UnixListener, is_loopback, listen_tcp, listen_unix


@pytest.fixture
def listener(short_tmp: Path) -> Iterator[UnixListener]:
    """A socket that is listened on."""
    listening = listen_unix(short_tmp / "d.sock")
    yield listening
    listening.close()


def test_socket_is_for_its_owner_and_group(listener: UnixListener) -> None:
    """Whoever may use the socket may run tasks, so others may not."""
    assert stat.S_IMODE(listener.path.stat().st_mode) == 0o660


def test_mode_is_chosen(short_tmp: Path) -> None:
    """An operator may open the socket to everybody, or close it to the group."""
    listening = listen_unix(short_tmp / "d.sock", mode=0o600)
    assert stat.S_IMODE(listening.path.stat().st_mode) == 0o600
    listening.close()


def test_missing_directory_is_made(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start needs no preparation; the directory in the user's own place is closed to others."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp / "run"))
    for parent, mode in ((short_tmp / "run" / "dyrygentd", 0o700), (short_tmp / "srv" / "dyrygentd", 0o755)):
        listen_unix(parent / "d.sock").close()
        assert stat.S_IMODE(parent.stat().st_mode) == mode


def test_socket_file_goes_with_the_listener(listener: UnixListener) -> None:
    """No stale file is left behind, and closing twice does no harm."""
    listener.close()
    listener.close()
    assert not listener.path.exists()


def test_stale_socket_is_replaced(short_tmp: Path) -> None:
    """After a crash the daemon starts again without a person's help."""
    path = short_tmp / "d.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    listening = listen_unix(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listening.close()


def test_answered_socket_is_left_alone(listener: UnixListener) -> None:
    """A second daemon must not cut the first one off from its clients."""
    inode = listener.path.stat().st_ino
    with pytest.raises(ConfigurationError, match="another daemon listens on"):
        listen_unix(listener.path)
    assert listener.path.stat().st_ino == inode


def test_full_backlog_counts_as_answered(short_tmp: Path) -> None:
    """A daemon that is too busy to accept is alive nevertheless."""
    path = short_tmp / "d.sock"
    listening = listen_unix(path, backlog=0)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in clients:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            break
    with pytest.raises(ConfigurationError, match="another daemon"):
        listen_unix(path)
    for client in clients:
        client.close()
    listening.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_removed(short_tmp: Path, kind: str) -> None:
    """A mistyped path must not cost somebody a file."""
    path = short_tmp / "d.sock"
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(short_tmp / "elsewhere")
    with pytest.raises(ConfigurationError, match="is no socket"):
        listen_unix(path)
    assert os.path.lexists(path)


def test_socket_of_a_successor_is_left_at_exit(listener: UnixListener) -> None:
    """A daemon that ends late does not remove the socket that its successor has made meanwhile."""
    listener.path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(listener.path))
        listener.close()
        assert listener.path.exists()


def test_long_path_is_refused_in_words(short_tmp: Path) -> None:
    """The kernel's message would not say how long a path may be."""
    with pytest.raises(ConfigurationError, match="107"):
        listen_unix(short_tmp / ("x" * 107))


def test_unusable_directory_is_refused_in_words(short_tmp: Path) -> None:
    """The message names the path and not only the reason."""
    (short_tmp / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot listen on '.*/file/d.sock'"):
        listen_unix(short_tmp / "file" / "d.sock")


@pytest.mark.parametrize(("address", "host"), [("127.0.0.1:0", "127.0.0.1"), (":0", "127.0.0.1"), ("localhost:0", "127.0.0.1")])
def test_tcp_address_is_bound(address: str, host: str) -> None:
    """Without a host only this machine is served."""
    listening = listen_tcp(address)
    assert listening.getsockname()[0] in (host, "::1")
    listening.close()


@pytest.mark.parametrize("address", ["", "9465", "localhost", "localhost:http", "127.0.0.1:70000", "192.0.2.1:0"])
def test_bad_tcp_address_is_refused(address: str) -> None:
    """A wrong address is told with an example, and before anything is served."""
    with pytest.raises(ConfigurationError, match=f"'{address}'"):
        listen_tcp(address)


def test_taken_tcp_port_is_refused() -> None:
    """The message names the address that is in use."""
    with listen_tcp("127.0.0.1:0") as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"cannot listen on '{address}'"):
            listen_tcp(address)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("::1", True), ("[::1]:80", True), ("127.8.8.8", True), ("10.0.0.1", False), ("localhost.com", False), ("::", False)],
)
def test_loopback_is_recognised(host: str, expected: bool) -> None:
    """The check against DNS rebinding depends on it."""
    assert is_loopback(host) is expected
