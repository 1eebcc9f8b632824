"""The daemon as a process: start, stop, two of them, and what it says when it cannot start."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dyrygentd import __version__
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.daemon import Daemon
from tests.support.servers import wait_until

DEFINITION = {"nodes": [{"name": "one", "task": "nobody.runs.this"}, {"name": "two", "task": "nor.this", "after": ["one"]}]}


@pytest.fixture
def arguments(redis_server: EmbeddedServer) -> list[str]:
    """Flags for a daemon on this test's server."""
    return ["--broker", redis_server.url, "--drain-timeout-s", "0.1"]


def _fails(*arguments: str, directory: Path, status: int = 2) -> str:
    """Run a daemon that cannot start; return what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    command = [sys.executable, "-m", "dyrygentd", *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False)
    # What is configured wrongly is a matter of usage, all else a failure.
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_serves_and_stops(short_tmp: Path, arguments: list[str]) -> None:
    """It tells systemd that it is ready, answers, ends on SIGTERM in bounded time, and takes its socket away."""
    daemon = Daemon(arguments, directory=short_tmp)
    with daemon, daemon.client() as client:
        wait_until(lambda: client.health().status == "ok")
        assert any(message.startswith("STATUS=recovering") for message in daemon.notifications)
        assert daemon.stop(timeout_s=15) == 0
    assert not daemon.socket_path.exists()
    assert (daemon.database_path.stat().st_mode & 0o777) == 0o600


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_accepted_workflow_outlives_the_process(short_tmp: Path, arguments: list[str], number: signal.Signals) -> None:
    """A workflow that was accepted is there after the next start, with what is in flight still in flight."""
    daemon = Daemon(arguments, directory=short_tmp)
    with daemon, daemon.client() as client:
        handle = client.submit(DEFINITION, key="once")
        daemon.signal(number, timeout_s=15)
        daemon.start()
        wait_until(lambda: handle.status().counts == {"dispatched": 1, "waiting": 1})
        assert client.submit(DEFINITION, key="once").id == handle.id


def test_second_daemon_is_refused(short_tmp: Path, arguments: list[str]) -> None:
    """Two daemons never share a database or a socket, and the second says who is there."""
    with Daemon(arguments, directory=short_tmp) as daemon:
        other = ["--socket", "other.sock", "--database", str(daemon.database_path)]
        assert f"is in use by process {daemon.pid}" in _fails(*arguments, *other, directory=short_tmp, status=1)
        other = ["--socket", str(daemon.socket_path), "--database", "other.db"]
        assert "another daemon" in _fails(*arguments, *other, directory=short_tmp)
        wait_until(lambda: daemon.client().health().status == "ok")


def test_starts_a_broker_of_its_own(short_tmp: Path) -> None:
    """Without a configured broker it starts one beside the database, and ends it."""
    with Daemon(["--drain-timeout-s", "0"], directory=short_tmp) as daemon:
        handle = daemon.client().submit(DEFINITION)
        assert handle.status().state == "running"
        assert (short_tmp / "broker.sock").exists()
        assert daemon.stop() == 0
    assert not (short_tmp / "broker.sock").exists()


def test_tcp_is_read_only(short_tmp: Path, arguments: list[str]) -> None:
    """TCP serves metrics, health and views, and refuses what changes something."""
    with Daemon([*arguments, "--listen", "127.0.0.1:0"], directory=short_tmp) as daemon:
        match = re.search(r"listening on (127\.0\.0\.1:\d+)", daemon.log())
        assert match is not None
        base = f"http://{match[1]}"
        with urllib.request.urlopen(f"{base}/metrics", timeout=10) as response:
            assert b"dyrygentd_workflows 0.0" in response.read()
        with urllib.request.urlopen(f"{base}/healthz", timeout=10) as response:
            assert json.load(response)["version"] == __version__
        request = urllib.request.Request(f"{base}/v1/workflows", data=json.dumps(DEFINITION).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 405
        caught.value.close()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--app", "no_such_module:app"], "cannot import the Celery app 'no_such_module:app'"),
        (["--broker", "redis://localhost:1", "--result-backend", "rpc://"], "results of `rpc://` die with the process"),
        (["--broker", "amqp://localhost:1"], "no result backend is configured"),
        (["--listen", "nonsense"], "'nonsense' is no HOST:PORT"),
        (["--config", "missing.toml"], "cannot read 'missing.toml'"),
        (["--in-flight-max", "0"], "'in_flight_max' is 0"),
    ],
)
def test_cannot_start(short_tmp: Path, arguments: list[str], complaint: str) -> None:
    """A mistake in the configuration is said in one line that names it, and leaves no socket behind."""
    own = ["--socket", str(short_tmp / "d.sock"), "--database", str(short_tmp / "state.db")]
    assert complaint in _fails(*own, *arguments, directory=short_tmp)
    assert not (short_tmp / "d.sock").exists()


def test_check_config(short_tmp: Path) -> None:
    """The effective configuration can be printed for people and for programs."""
    command = [sys.executable, "-m", "dyrygentd", "check-config", "--json", "--broker", "redis://u:secret@h/0"]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert printed["broker"] == {"value": "redis://u:****@h/0", "origin": "flag"}
    text = subprocess.run([*command[:4], "--listen", ":0"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "listen              = :0  # flag\n" in text


def test_deleted_socket_is_made_again(short_tmp: Path, arguments: list[str]) -> None:
    """A socket whose file somebody deletes comes back within seconds, in its mode, and goes with the daemon."""
    daemon = Daemon(arguments, directory=short_tmp)
    with daemon:
        for _ in range(2):
            daemon.socket_path.unlink()
            wait_until(daemon.socket_path.exists)
            with daemon.client() as client:
                assert client.health().version == __version__
        assert daemon.socket_path.stat().st_mode & 0o777 == 0o660
        assert "was deleted, and made again" in daemon.log()
        assert daemon.stop(timeout_s=15) == 0
    assert not daemon.socket_path.exists()


def test_a_thousand_connections(short_tmp: Path, arguments: list[str]) -> None:
    """A thousand clients at one time are served, or told to come again, and afterwards the daemon is as before."""
    with Daemon(arguments, directory=short_tmp) as daemon, daemon.client() as client:
        assert client.health().version
        before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        connections = []
        for _ in range(1000):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(30)
            connection.connect(str(daemon.socket_path))
            connections.append(connection)
        for connection in connections:
            connection.sendall(b"GET /v1/workflows HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.health().version
        answers = [connection.recv(4096).split()[1] for connection in connections]
        assert set(answers) <= {b"200", b"503"}
        assert answers.count(b"200") >= 200
        for connection in connections:
            connection.close()
        wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before + 10)
