"""A database or a broker that is older than what was done with it, under a real daemon and real workers: told, and done once."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from dyrygentd import Workflow
from dyrygentd.client.sync import Client, Handle
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon, DaemonEnded
from tests.support.servers import CeleryWorker, Executions, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60
_PATIENT = ("--lost-after-s", "600", "--lost-confirm-s", "1")
_STEPS = 6


def _in_steps(count: int = _STEPS) -> Workflow:
    """A group in front of each step of a chain, the first of which waits for its gate."""
    workflow = Workflow("steps")
    before = [workflow.add(tasks.wait_for.si("gate"), name="gate")]
    for step in range(count):
        members = [workflow.add(tasks.echo.si(number), name=f"s{step}-{number}", after=before) for number in range(3)]
        before = [workflow.add(tasks.add.si(step, 1), name=f"s{step}", after=members)]
    return workflow


def _command(*arguments: object) -> str:
    command = [sys.executable, "-m", "dyrygentd", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _notices(client: Client) -> str:
    return "\n".join(client.health().notices)


# --- the database ---------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(quiet_site: Site) -> Daemon:
    """A daemon that is not started."""
    return quiet_site.daemon("daemon", *_PATIENT)


_NOTICE_OF = {"restore": "was restored from", "by hand": "write-ahead log", "stopped copy": "older than what was sent"}


@pytest.mark.long
@pytest.mark.parametrize("way", _NOTICE_OF)
def test_older_database(way: str, daemon: Daemon, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """What finished after the copy was made is not run again, step after step, and the daemon says what has happened.

    Args:
        way: By `restore`; a copy that `backup` made of a running daemon, put there by hand; a copy of one that was stopped.
    """
    start_worker(pool="threads", concurrency=2)
    copy, database = daemon.directory / "copy.db", ["--database", daemon.database_path]
    with daemon, daemon.client() as client:
        handle = client.submit(_in_steps())
        gate = str(handle.node("gate").task_id)
        quiet_site.executions.wait_started([gate])
        if way == "stopped copy":
            daemon.stop()
            shutil.copy(daemon.database_path, copy)
            daemon.start()
        else:
            _command("backup", copy, *database)
        quiet_site.executions.release("gate")
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
        wait_until(lambda: client.stats().engine["errands"] == 0)
    before = quiet_site.executions.counts()
    assert set(before.values()) == {1}
    if way == "restore":
        words = _command("restore", copy, *database)
        assert "looks for results" in words
    else:
        shutil.copy(copy, daemon.database_path)
    if way == "stopped copy":
        # A process has had the database since, for all that the broker knows it still has.
        with pytest.raises(DaemonEnded, match="dyrygentd claim"):
            daemon.start()
        _command("claim", *database)
    for _ in range(2):
        # What was found is known over a restart as well.
        with daemon, daemon.client() as client:
            again = client.handle(handle.id)
            assert again.wait(timeout_s=_WAIT_S).state == "succeeded"
            assert quiet_site.executions.counts() == before
    with daemon, daemon.client() as client:
        notices = _notices(client)
        assert "looked for in the result backend first" in notices
        # A slow daemon has looked at the broker after the copy was made, which then knows more than the copy.
        assert _NOTICE_OF[way] in notices or (way == "by hand" and _NOTICE_OF["stopped copy"] in notices)
        assert client.stats().engine["setbacks"] == 0  # At an earlier start.
        fresh = client.submit(_one())
        assert fresh.wait(timeout_s=_WAIT_S).state == "succeeded"


def _one() -> Workflow:
    workflow = Workflow("one")
    workflow.add(tasks.echo.si(1), name="one")
    return workflow


@pytest.mark.long
def test_restored_while_the_backend_is_away(
    daemon: Daemon, quiet_site: Site, short_tmp: Path, start_worker: Callable[..., CeleryWorker]
) -> None:
    """Nothing from before is sent as long as nobody can tell whether it was done."""
    copy, database = daemon.directory / "copy.db", ["--database", daemon.database_path]
    with EmbeddedServer(short_tmp / "results") as results:
        away = Daemon(
            ["--broker", quiet_site.server.url, "--result-backend", results.url, "--drain-timeout-s", "0.2", *_PATIENT],
            directory=daemon.directory,
        )
        worker = CeleryWorker(
            quiet_site.server.url,
            results.url,
            log_directory=quiet_site.directory,
            records_url=quiet_site.server.url,
            pool="threads",
        )
        with worker, away, away.client() as client:
            handle = client.submit(_in_steps(2))
            quiet_site.executions.wait_started([str(handle.node("gate").task_id)])
            _command("backup", copy, *database)
            quiet_site.executions.release("gate")
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
            wait_until(lambda: client.stats().engine["errands"] == 0)
        before = quiet_site.executions.counts()
        _command("restore", copy, *database)
        results.stop()
        with worker, away, away.client() as client:
            # A workflow from after the restore waits for nobody's past.
            client.submit(_one())
            wait_until(lambda: client.stats().dispatcher["published"] == 1, timeout_s=_WAIT_S)
            assert client.stats().engine["found_stored"] == 0
            results.start()
            assert client.handle(handle.id).wait(timeout_s=_WAIT_S).state == "succeeded"
        after = quiet_site.executions.counts()
        assert {task_id: after[task_id] for task_id in before} == before


@pytest.mark.long
def test_log_that_vanished(daemon: Daemon, quiet_site: Site) -> None:
    """A killed daemon whose write-ahead log was deleted has lost what was in it: the next one says so, and only then."""
    with daemon, daemon.client() as client:
        workflow_id = client.submit(_one()).id
        daemon.kill()
        # Looking is no harm.
        assert "no damage" in _command("check-db", "--database", daemon.database_path)
        daemon.start()
        assert "write-ahead log" not in _notices(client)
        assert client.handle(workflow_id).status().state == "running"
        daemon.kill()
        daemon.database_path.with_name("state.db-wal").unlink()
        daemon.start()
        assert "write-ahead log of the database is gone" in _notices(client)
        assert "write-ahead log of the database is gone" in daemon.log()
        assert client.stats().engine["setbacks"] == 1
        daemon.stop()
        daemon.start()
        assert client.stats().engine["setbacks"] == 0


# --- the broker -----------------------------------------------------------------------------------------------------


class _Pair:
    """A master, and a replica that was promoted while it lagged: what was written since is not in it."""

    def __init__(self, directory: Path) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._socket = directory / "redis.sock"
        settings = {"port": str(self._port), "bind": "127.0.0.1", "repl-diskless-sync-delay": "0"}
        self.master = EmbeddedServer(directory / "master", settings=settings)
        self.replica = EmbeddedServer(directory / "replica", settings={"replicaof": f"127.0.0.1 {self._port}"})

    @property
    def url(self) -> str:
        return f"redis+socket://{self._socket}"

    def start(self) -> None:
        self.master.start()
        self.replica.start()
        self._socket.symlink_to(self.master.socket_path)

    def begin_to_lag(self) -> None:
        """Let the replica have all there is now, and nothing of what comes."""
        with redis.Redis(unix_socket_path=str(self.master.socket_path)) as master:
            master.set("test:mark", "now")
            with redis.Redis(unix_socket_path=str(self.replica.socket_path)) as replica:
                wait_until(lambda: replica.get("test:mark") == b"now")
                replica.replicaof("NO", "ONE")

    def fail_over(self) -> None:
        """Kill the master, and give its place to the replica."""
        self.master.kill()
        self._socket.unlink()
        self._socket.symlink_to(self.replica.socket_path)

    def stop(self) -> None:
        self.replica.stop()
        self.master.stop()


@pytest.fixture
def pair(short_tmp: Path) -> Iterator[_Pair]:
    """Two servers, the second a replica of the first."""
    pair = _Pair(short_tmp)
    pair.start()
    yield pair
    pair.stop()


def _many(count: int) -> Workflow:
    workflow = Workflow("many")
    for number in range(count):
        workflow.add(tasks.wait_for.si("hold").set(queue="late"), name=f"n{number}")
    return workflow


def _held(handle: Handle) -> set[str]:
    return {node.name for node in handle.nodes() if node.hold == "lost"}


@pytest.mark.long
@pytest.mark.parametrize("is_daemon_away", [False, True], ids=["under the daemon", "while no daemon runs"])
def test_failover_to_a_replica_that_lagged(is_daemon_away: bool, pair: _Pair, quiet_site: Site) -> None:
    """The pushes that are lost with the lag are counted, told, and looked for at once, not after `lost_after_s`."""
    daemon = Daemon(
        ["--broker", pair.url, "--result-backend", pair.url, "--drain-timeout-s", "0.1", *_PATIENT],
        directory=quiet_site.directory,
    )
    with daemon, daemon.client() as client:
        kept = client.submit(_many(5))
        wait_until(lambda: client.stats().engine["nodes"]["dispatched"] == 5)
        pair.begin_to_lag()
        lost = client.submit(_many(7))
        wait_until(lambda: client.stats().engine["nodes"]["dispatched"] == 12)
        if is_daemon_away:
            daemon.stop()
        pair.fail_over()
        if is_daemon_away:
            daemon.start()
        wait_until(lambda: len(_held(lost)) == 7, timeout_s=_WAIT_S, message=daemon.log)
        assert _held(kept) == set()
        assert client.stats().engine["lost_pushes"] == 7
        assert client.stats().engine["broker_went_back"] == 1
        assert client.stats().engine["broker_emptied"] == 0
        assert "has lost its last 7 pushes" in _notices(client)
        assert "has lost its last 7 pushes" in daemon.log()
        assert client.health().status == "ok"
        lost.retry(*sorted(_held(lost)))
        with redis.Redis(unix_socket_path=str(pair.replica.socket_path)) as broker:
            wait_until(lambda: broker.llen("late") == 12)


@pytest.mark.long
def test_what_ended_in_the_lag_is_not_run_again(pair: _Pair, quiet_site: Site) -> None:
    """The messages of tasks that have ended are in the replica's queue again; the daemon takes them back."""
    daemon = Daemon(
        ["--broker", pair.url, "--result-backend", pair.url, "--drain-timeout-s", "0.1", *_PATIENT],
        directory=quiet_site.directory,
    )
    executions = Executions(quiet_site.server.url)

    def worker() -> CeleryWorker:
        return CeleryWorker(
            pair.url, log_directory=quiet_site.directory, records_url=quiet_site.server.url, queues=["late"], pool="threads"
        )

    with daemon, daemon.client() as client:
        workflow = Workflow("lag")
        first = [workflow.add(tasks.echo.si(number).set(queue="late"), name=f"n{number}") for number in range(20)]
        last = workflow.add(tasks.echo.si("last").set(queue="never"), name="last", after=first)
        workflow.add(tasks.echo.si("end").set(queue="late"), name="end", after=[last])
        handle = client.submit(workflow)
        wait_until(lambda: client.stats().engine["nodes"]["dispatched"] == 20)
        pair.begin_to_lag()
        with worker():
            wait_until(lambda: client.stats().engine["nodes"]["succeeded"] == 20, timeout_s=_WAIT_S)
        pair.fail_over()
        with redis.Redis(unix_socket_path=str(pair.replica.socket_path)) as broker:
            assert broker.llen("late") == 20
            wait_until(lambda: broker.llen("late") == 0, timeout_s=_WAIT_S, message=daemon.log)
        wait_until(lambda: _held(handle) == {"last"}, timeout_s=_WAIT_S, message=daemon.log)
        handle.skip("last")
        with worker():
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
    assert set(executions.counts().values()) == {1}
    executions.close()
