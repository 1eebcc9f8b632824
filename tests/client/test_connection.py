"""When the daemon cannot be reached, the message says why, where and what to do."""

import grp
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dyrygentd import Client, __version__
from dyrygentd.client.sockets import find_socket, unreachable
from dyrygentd.errors import DaemonUnreachable, RemoteError
from dyrygentd.http.limits import HttpLimits
from tests.http.support import Daemon


def test_socket_is_found_in_the_documented_order(short_tmp: Path) -> None:
    """Argument, environment, the system's socket, the user's: the nearer one wins."""
    system, own = short_tmp / "system.sock", short_tmp / "dyrygentd" / "dyrygentd.sock"
    own.parent.mkdir()
    environ = {"XDG_RUNTIME_DIR": str(short_tmp)}
    assert find_socket(system=system, environ=environ) == system
    own.touch()
    assert find_socket(system=system, environ=environ) == own
    system.touch()
    assert find_socket(system=system, environ=environ) == system
    environ["DYRYGENTD_SOCKET"] = "/env.sock"
    assert find_socket(system=system, environ=environ) == Path("/env.sock")
    assert find_socket("/arg.sock", environ=environ) == Path("/arg.sock")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_socket_of_ones_own_comes_before_one_that_is_closed(short_tmp: Path) -> None:
    """Beside the system's service, a user who is not in its group gets to the daemon of their own."""
    system, own = short_tmp / "system.sock", short_tmp / "dyrygentd" / "dyrygentd.sock"
    own.parent.mkdir()
    system.touch(mode=0)
    assert find_socket(system=system, environ={"XDG_RUNTIME_DIR": str(short_tmp)}) == system
    own.touch()
    assert find_socket(system=system, environ={"XDG_RUNTIME_DIR": str(short_tmp)}) == own


def test_missing_system_socket_asks_for_the_service(short_tmp: Path) -> None:
    """The usual reason on a host is a service that is not running."""
    path = short_tmp / "d.sock"
    error = unreachable(path, FileNotFoundError(2, "No such file or directory"), system=path)
    assert error.message == f"cannot reach '{short_tmp}/d.sock': is dyrygentd.service running?"
    assert "systemctl start dyrygentd" in error.next_step


def test_missing_socket(short_tmp: Path) -> None:
    """A path that does not exist is told from one that nobody answers."""
    assert "there is no such socket" in str(_refusal(short_tmp / "d.sock"))


def test_stale_socket(short_tmp: Path) -> None:
    """A file without a daemon behind it is what a crash leaves."""
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(short_tmp / "d.sock"))
    error = _refusal(short_tmp / "d.sock")
    assert "nobody listens there" in str(error)
    assert "as it was started before" in error.next_step


def test_no_new_daemon_is_offered_in_place_of_a_dead_one(short_tmp: Path) -> None:
    """It would answer on the old socket with a database of its own, and people would take their workflows for gone."""
    path = short_tmp / "d.sock"
    for system in (path, short_tmp / "other.sock"):
        error = unreachable(path, FileNotFoundError(2, "No such file or directory"), system=system)
        assert "dyrygentd serve" not in f"{error.message} {error.next_step}"


def test_file_that_is_no_socket(short_tmp: Path) -> None:
    """A mistyped path is told as such."""
    (short_tmp / "d.sock").write_text("")
    assert "is no socket" in str(_refusal(short_tmp / "d.sock"))


def test_path_that_is_too_long(short_tmp: Path) -> None:
    """The kernel's limit is named."""
    assert "107 bytes" in str(_refusal(short_tmp / ("x" * 120)))


def test_forbidden_socket_names_the_group(short_tmp: Path) -> None:
    """A user learns which group to join."""
    path = short_tmp / "d.sock"
    path.touch()
    error = unreachable(path, PermissionError(13, "Permission denied"))
    assert "may not use it" in str(error)
    # Nobody is told to join root's group.
    assert ("usermod -aG" in error.next_step) == (grp.getgrgid(path.stat().st_gid).gr_name != "root")


def test_forbidden_socket_is_met_by_another_user(short_tmp: Path) -> None:
    """The kernel's refusal becomes that message, tried with a user who has no right (needs root)."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with Daemon(short_tmp / "d.sock") as daemon:
        short_tmp.chmod(0o755)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            try:
                Client(daemon.path).health()
            except DaemonUnreachable as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        assert b"may not use it" in os.read(read, 1000)
        os.close(read)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 2\r\n\r\n{}", "the server calls itself 'nginx'"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "the answer has no version"),
        (b"-ERR unknown command\r\n", "what came is no HTTP"),
        (b"", "closed the connection before it answered"),
    ],
)
def test_foreign_server_is_recognised(short_tmp: Path, answer: bytes, words: str) -> None:
    """A socket of Redis or nginx is not taken for a daemon that misbehaves."""
    with _foreign_server(short_tmp / "d.sock", answer):
        assert words in str(_refusal(short_tmp / "d.sock"))


def test_silent_server_is_given_up(short_tmp: Path) -> None:
    """A daemon that hangs does not hang its clients."""
    path = short_tmp / "d.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(DaemonUnreachable, match=r"did not answer within 0.05 s"):
            Client(path, timeout_s=0.05).health()


def test_full_backlog_is_tried_again(short_tmp: Path) -> None:
    """A burst of clients meets EAGAIN, which is no reason to give up at once."""
    path = short_tmp / "d.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        with pytest.raises(DaemonUnreachable, match="too many clients"):
            Client(path).health()


def test_other_version_is_told_once(short_tmp: Path) -> None:
    """After an upgrade of one side a person is warned, but not at every request."""
    told: list[str] = []
    body = b'{"status":"ok","version":"9.9"}'
    answer = b"HTTP/1.1 200 OK\r\nDyrygentd-Version: 9.9\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with _foreign_server(short_tmp / "d.sock", answer):
        client = Client(short_tmp / "d.sock", warn=told.append)
        assert client.health().version == client.health().version == "9.9"
        assert told == [f"this is dyrygentd {__version__}, the daemon on '{short_tmp}/d.sock' is 9.9"]
        with pytest.warns(UserWarning, match=r"9\.9"):
            Client(short_tmp / "d.sock").health()


def test_body_that_is_refused_early_is_answered(short_tmp: Path) -> None:
    """The daemon stops reading a body that is too long; the client reads the reason instead of reporting a broken pipe."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(body_bytes_max=1000)) as daemon:
        with pytest.raises(RemoteError) as caught:
            Client(daemon.path).submit(b" " * 5_000_000)
        assert caught.value.status == 413


def _refusal(path: Path) -> DaemonUnreachable:
    with pytest.raises(DaemonUnreachable) as caught:
        Client(path).health()
    return caught.value


@contextmanager
def _foreign_server(path: Path, answer: bytes) -> Iterator[None]:
    """Answer every request with these bytes."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
