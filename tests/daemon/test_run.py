"""The daemon as a process: start, stop, two of them, and what it says when it cannot start."""

import asyncio
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from celery import Celery

from dyrygentd import __version__
from dyrygentd.daemon import run
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.http.limits import HttpLimits
from dyrygentd.http.server import serving
from dyrygentd.http.sockets import UnixListener, listen_unix
from tests.support.daemon import Daemon
from tests.support.following import eventually
from tests.support.forking import run_to_end
from tests.support.servers import wait_until

DEFINITION = {"nodes": [{"name": "one", "task": "nobody.runs.this"}, {"name": "two", "task": "nor.this", "after": ["one"]}]}


@pytest.fixture
def arguments(redis_server: EmbeddedServer) -> list[str]:
    """Flags for a daemon on this test's server."""
    return ["--broker", redis_server.url, "--drain-timeout-s", "0.1"]


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """What is closed at the end."""
    with ExitStack() as exits:
        yield exits


def _fails(*arguments: str, directory: Path, status: int = 2) -> str:
    """Run a daemon that cannot start; return what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    command = [sys.executable, "-m", "dyrygentd", *arguments]
    done = run_to_end(command, working_directory=directory, environment=environment)
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


def test_tells_of_tasks_that_never_ran(short_tmp: Path, arguments: list[str], redis_server: EmbeddedServer) -> None:
    """Whoever has the Celery result of a task that was cancelled before it was sent learns that from the result backend."""
    with Celery(broker=redis_server.url, backend=redis_server.url) as app, Daemon(arguments, directory=short_tmp) as daemon:
        with daemon.client() as client:
            nodes = [{"name": "one", "task": "t"}, {"name": "two", "task": "t", "after": ["one"], "task_id": "never-sent"}]
            client.submit({"nodes": nodes}).cancel()
        wait_until(lambda: app.AsyncResult("never-sent").state == "REVOKED")
        assert daemon.metric("dyrygentd_unrun_results_waiting") == 0


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
        second = ["--socket", str(short_tmp / "other.sock"), "--database", str(daemon.database_path)]
        assert f"is in use by process {daemon.pid}" in _fails(*second, directory=short_tmp, status=1)
        assert daemon.stop() == 0
    assert not (short_tmp / "broker.sock").exists()


@pytest.mark.parametrize("command", ["serve", "broker"])
def test_broker_of_its_own_that_has_no_place(command: str, short_tmp: Path) -> None:
    """Where its directory cannot be made or written, it says so with what to do, as for a database, and shows no traceback."""
    (short_tmp / "file").touch()
    said = _fails(command, "--database", str(short_tmp / "file" / "state.db"), directory=short_tmp, status=1)
    assert f"cannot keep a broker in '{short_tmp / 'file'}': " in said
    assert "next: " in said


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
        (["--broker", "redis://localhost:1", "--result-backend", "rpc://"], "results of `rpc://` die with the process"),
        (["--broker", "amqp://localhost:1"], "no result backend is set"),
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


def test_app_that_cannot_be_imported(short_tmp: Path) -> None:
    """It may be there the next time, as on a file system that is not mounted yet, so systemd is to try again."""
    own = ["--socket", str(short_tmp / "d.sock"), "--database", str(short_tmp / "state.db")]
    said = _fails(*own, "--app", "no_such_module:app", directory=short_tmp, status=1)
    assert "cannot import the Celery app 'no_such_module:app'" in said
    assert "in the same directory and environment, or change the flag --app" in said
    # It is tried again for ever, so the place of the mistake is told.
    file = short_tmp / "own.toml"
    file.write_text('app = "no_such_module:app"\n')
    assert f"or change `app` in {file}" in _fails(*own, "--config", str(file), directory=short_tmp, status=1)


def test_check_config(short_tmp: Path) -> None:
    """The effective configuration can be printed for people and for programs."""
    command = [sys.executable, "-m", "dyrygentd", "check-config", "--json", "--broker", "redis://u:secret@h/0"]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert printed["broker"] == {"value": "redis://u:****@h/0", "origin": "flag"}
    text = subprocess.run([*command[:4], "--listen", ":0"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(r"^listen +  = :0  # flag$", text, re.MULTILINE)


@pytest.mark.long
def test_deleted_socket_is_made_again(short_tmp: Path, arguments: list[str]) -> None:
    """A socket whose file somebody deletes comes back within seconds, in its mode, and goes with the daemon."""
    daemon = Daemon(arguments, directory=short_tmp)
    with daemon:
        for _ in range(2):
            daemon.socket_path.unlink()
            # The file is there a moment before anybody listens.
            wait_until(lambda: _accepts(daemon.socket_path))
            with daemon.client() as client:
                assert client.health().version == __version__
        assert daemon.socket_path.stat().st_mode & 0o777 == 0o660
        assert "was deleted, and made again" in daemon.log()
        assert daemon.stop(timeout_s=15) == 0
    assert not daemon.socket_path.exists()


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.long
@pytest.mark.parametrize("count", [1000, 3000])
def test_thousands_of_connections(short_tmp: Path, arguments: list[str], clients: ExitStack, count: int) -> None:
    """Thousands of clients at one time are served, or told to come again, and afterwards the daemon is as before."""
    _allow_files(clients, count + 500)
    # Who is not root may have three quarters of the places.
    with Daemon([*arguments, "--connections-max", "4200"], directory=short_tmp) as daemon, daemon.client() as client:
        assert client.health().version
        before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        connections = _connections(daemon, clients, count)
        for connection in connections:
            connection.sendall(b"GET /v1/workflows HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.health().version
        answers = [connection.recv(4096).split()[1] for connection in connections]
        assert set(answers) <= {b"200", b"429", b"503"}
        # At least those for whom there are places at one time; how many after them depends on the machine.
        assert answers.count(b"200") >= HttpLimits().listings_max * 3 // 4
        clients.close()
        wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before + 10)


def test_few_files_allow_few_connections(short_tmp: Path, arguments: list[str], clients: ExitStack) -> None:
    """Where the system allows fewer open files than connections, clients are turned away before the database has none left."""
    with Daemon(arguments, directory=short_tmp, open_files_max=300) as daemon, daemon.client() as client:
        assert "allows 300 open files" in daemon.log()
        connections = _connections(daemon, clients, 400)
        for connection in connections[-200:]:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 280
        clients.close()
        assert client.submit(DEFINITION).status().state == "running"
        assert "Traceback" not in daemon.log()


@pytest.mark.anyio
async def test_socket_of_another_daemon_is_left_alone(short_tmp: Path) -> None:
    """Somebody else's socket in the place of a deleted one is not fought over, also not when the daemon ends."""
    path = short_tmp / "d.sock"
    async with _kept_in_place(path) as listeners:
        path.unlink()
        other = listen_unix(path)
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert len(listeners) == 1
    assert other.is_in_place
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    other.close()


@pytest.mark.anyio
async def test_directory_that_cannot_be_used_is_tried_again(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A deleted socket comes back as soon as its directory can be used, and until then it is told once, not with every look."""
    directory = short_tmp / "here"
    async with _kept_in_place(directory / "d.sock") as listeners:
        shutil.rmtree(directory)
        directory.write_text("a file in the way")
        await eventually(lambda: caplog.records)
        for _ in range(10):
            await asyncio.sleep(0.005)
        directory.unlink()
        await eventually(lambda: len(listeners) == 2 and len(caplog.records) > 1)
        assert (directory / "d.sock").is_socket()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "cannot be made again yet" in caplog.records[0].message
    assert "was deleted, and made again" in caplog.records[1].message


@asynccontextmanager
async def _kept_in_place(path: Path) -> AsyncIterator[list[UnixListener]]:
    """Serve nothing on a socket whose file is looked after; the list gets those that are made later."""
    listeners = [listen_unix(path)]
    async with serving(web.Application(), [listeners[0].socket]) as site, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(run._keep_in_place, site, listeners, 0o660, look_every_s=0.005))
        yield listeners
        tasks.cancel_scope.cancel()
    for listener in listeners:
        listener.close()


def _allow_files(exits: ExitStack, number: int) -> None:
    """Let this process, and the daemon that it starts, open so many files, until the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < number:
        pytest.skip(f"a process may open {hard} files here, and {number} are needed")
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
        exits.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))


def _connections(daemon: Daemon, exits: ExitStack, number: int) -> list[socket.socket]:
    connections = []
    for _ in range(number):
        connection = exits.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(30)
        connection.connect(str(daemon.socket_path))
        connections.append(connection)
    return connections
