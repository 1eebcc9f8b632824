"""Sockets that are passed: what is taken, what is refused, and clients that wait in them while nobody serves."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dyrygentd import __version__
from dyrygentd.client.sync import Client
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.systemd import passed_sockets
from dyrygentd.errors import ConfigurationError
from tests.support.activation import Service, listening_tcp, listening_unix
from tests.support.daemon import ROOT
from tests.support.servers import wait_until

DEFINITION = {"nodes": [{"name": "one", "task": "nobody.runs.this"}]}
ACTIVATE = "/usr/bin/systemd-socket-activate"


@pytest.fixture
def arguments(redis_server: EmbeddedServer) -> list[str]:
    """Flags for a daemon on this test's server."""
    return ["--broker", redis_server.url, "--drain-timeout-s", "0.1"]


@pytest.fixture
def at_three() -> Iterator[Callable[[int], None]]:
    """Put a descriptor where systemd passes the first one; what was there comes back."""
    saved = os.dup(3) if os.path.exists("/proc/self/fd/3") else None

    def put(descriptor: int) -> None:
        os.dup2(descriptor, 3)

    yield put
    if saved is None:
        if os.path.exists("/proc/self/fd/3"):
            os.close(3)
    else:
        os.dup2(saved, 3)
        os.close(saved)


def _environ(**changes: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "api", **changes}


def test_clients_wait_through_restarts(short_tmp: Path, arguments: list[str]) -> None:
    """While the daemon is replaced, killed included, clients wait in the socket, none is refused, and its file stays as it is."""
    path = short_tmp / "api.sock"
    with Service(arguments, directory=short_tmp, sockets=[listening_unix(path)]) as service, Client(path) as client:
        inode = path.stat().st_ino
        answers: list[object] = []
        for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            # This one waits before anybody serves.
            waiting = threading.Thread(target=lambda: answers.append(client.submit(DEFINITION, key=str(len(answers))).id))
            waiting.start()
            # Broker and backend are there, so the first line that `systemctl status` shows is no alarm.
            assert "reached" not in service.start()["STATUS"]
            waiting.join(30)
            service.signal(end)
            service.wait()
            assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o600)
        service.start()
        assert len(set(answers)) == 3
        assert {each.id for each in client.list()} == set(answers)
        assert f"listening on {path}, a socket that was passed" in service.log()


@pytest.mark.long
def test_nobody_is_refused_during_upgrades(short_tmp: Path, arguments: list[str]) -> None:
    """Clients that submit one workflow after the other never see an upgrade as an error."""
    path = short_tmp / "api.sock"
    is_over = threading.Event()
    errors: list[BaseException] = []
    submitted: list[str] = []

    def submit(who: int) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            try:
                with Client(path) as client:
                    submitted.append(client.submit(DEFINITION, key=f"{who}-{number}").id)
            except BaseException as error:
                errors.append(error)

    with Service(arguments, directory=short_tmp, sockets=[listening_unix(path)]) as service:
        clients = [threading.Thread(target=submit, args=(who,)) for who in range(4)]
        service.start()
        for client in clients:
            client.start()
        for _ in range(3):
            before = len(submitted)
            wait_until(lambda before=before: len(submitted) > before + 20)  # type: ignore[misc]
            assert service.stop() == 0
            service.start()
        is_over.set()
        for client in clients:
            client.join(30)
        assert errors == []
        assert len(set(submitted)) == len(submitted)


def test_deleted_file_stays_deleted(short_tmp: Path, arguments: list[str]) -> None:
    """The daemon makes no file in place of systemd's, which would leave the next daemon with a socket that nobody finds."""
    path = short_tmp / "api.sock"
    tcp = listening_tcp()
    address = "{}:{}".format(*tcp.getsockname())
    with Service(arguments, directory=short_tmp, sockets=[listening_unix(path), tcp]) as service:
        service.start()
        path.unlink()
        deadline = time.monotonic() + 3
        wait_until(lambda: path.exists() or time.monotonic() > deadline)
        assert not path.exists()
        with urllib.request.urlopen(f"http://{address}/healthz", timeout=10) as response:
            assert json.load(response)["version"] == __version__


def test_tcp_that_is_passed_is_read_only(short_tmp: Path, arguments: list[str]) -> None:
    """A TCP socket that is passed serves what `--listen` serves; the Unix socket is made as always if none was passed."""
    tcp = listening_tcp()
    base = "http://{}:{}".format(*tcp.getsockname())
    own = short_tmp / "own.sock"
    with Service([*arguments, "--socket", str(own)], directory=short_tmp, sockets=[tcp]) as service:
        service.start()
        with urllib.request.urlopen(f"{base}/metrics", timeout=10) as response:
            assert b"dyrygentd_workflows 0.0" in response.read()
        request = urllib.request.Request(f"{base}/v1/workflows", data=json.dumps(DEFINITION).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        with pytest.raises(urllib.error.HTTPError, match="405") as caught:
            urllib.request.urlopen(request, timeout=10)
        caught.value.close()
        with Client(own) as client:
            assert client.submit(DEFINITION).id
        service.stop()
    assert not own.exists()


@pytest.mark.skipif(not os.path.exists(ACTIVATE), reason="no systemd-socket-activate on this host")
def test_systemd_passes_its_sockets(short_tmp: Path, arguments: list[str]) -> None:
    """With systemd's own tool the daemon starts at the first request, which it answers, as it does the ones on TCP."""
    path, log = short_tmp / "api.sock", short_tmp / "log"
    port = _free_port()
    command = [ACTIVATE, "--listen", str(path), "--listen", f"127.0.0.1:{port}", "--fdname", "api:metrics"]
    command += ["--setenv", "PYTHONPATH", "--setenv", "PATH", "--setenv", "DYRYGENTD_TEST_PROCESS"]
    command += [sys.executable, "-m", "dyrygentd", "serve", *arguments, "--database", str(short_tmp / "state.db")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_until(path.exists)
        with Client(path) as client:
            assert client.submit(DEFINITION).id
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as response:
            assert json.load(response)["version"] == __version__
        assert "a socket that was passed" in log.read_text()
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    assert path.exists()


def _free_port() -> int:
    with listening_tcp() as found:
        return int(found.getsockname()[1])


def test_variables_are_not_inherited(short_tmp: Path, at_three: Callable[[int], None]) -> None:
    """What was passed is neither announced nor open in children, which would keep a broker's port or answer clients."""
    with listening_unix(short_tmp / "api.sock") as listening:
        at_three(listening.fileno())
        environ = _environ()
        passed = passed_sockets(environ)
        assert environ == {}
        assert [each.path for each in passed.unix] == [short_tmp / "api.sock"]
        assert passed.tcp == []
        assert not os.get_inheritable(3)
        assert passed.unix[0].is_in_place
        passed.unix[0].close()
        assert (short_tmp / "api.sock").exists()


@pytest.mark.parametrize("changes", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": ""}, {"LISTEN_FDS": "0"}])
def test_what_is_meant_for_others_is_left_alone(changes: dict[str, str]) -> None:
    """Variables that a parent did not clear are no sockets of ours."""
    assert passed_sockets(_environ(**changes)) == ([], [])


def test_wrong_kinds_are_refused(short_tmp: Path, at_three: Callable[[int], None]) -> None:
    """What cannot be served is refused by its name in the unit, with what to write there."""
    ours, theirs = socket.socketpair()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram.bind(str(short_tmp / "datagram"))
    with ours, theirs, datagram, (short_tmp / "file").open("wb") as file:
        for wrong, complaint in ((ours, "does not listen"), (datagram, "does not listen"), (file, "is no socket")):
            at_three(wrong.fileno())
            with pytest.raises(ConfigurationError, match=f"'api' {complaint}") as caught:
                passed_sockets(_environ())
            assert "`Accept=no`" in caught.value.next_step


def test_abstract_socket_is_refused(short_tmp: Path, at_three: Callable[[int], None]) -> None:
    """A socket without a file has no permissions, and who may connect may run tasks."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(f"\0{short_tmp}")
        listening.listen()
        at_three(listening.fileno())
        with pytest.raises(ConfigurationError, match="everybody could connect"):
            passed_sockets(_environ(LISTEN_FDNAMES=""))
