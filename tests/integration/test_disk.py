"""The real daemon on a disk that is full, broken, read-only or slow, and with a clock that is set.

It stays up, says what is wrong, resumes by itself, and loses nothing.
"""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dyrygentd import Workflow
from dyrygentd.client.sync import Client, Handle
from dyrygentd.errors import NotOnDiskYet, RemoteError, RemoteNotOnDiskYet
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.disk_faults import FaultyDisk
from tests.support.servers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 60


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> FaultyDisk:
    """The disk below the databases of this module's daemons."""
    return FaultyDisk(tmp_path_factory.mktemp("disk"), files="/state.db")


@pytest.fixture
def daemon(site: Site, disk: FaultyDisk, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon on that disk."""
    name = f"d{abs(hash(request.node.name)) % 10**8}"
    with site.daemon(name, **disk.environment) as daemon:
        yield daemon
        disk.set("")


def _three_in_a_row(client: Client, site: Site, key: str) -> Handle:
    """Submit a chain whose first task waits at a gate, and wait until it runs."""
    workflow = Workflow(key)
    first = workflow.add(tasks.wait_for.si(key), name="first")
    second = workflow.add(tasks.echo.si(2), name="second", after=[first])
    workflow.add(tasks.echo.si(3), name="third", after=[second])
    handle = client.submit(workflow)
    site.executions.wait_started([str(handle.node("first").task_id)])
    return handle


def _ends_well(site: Site, handle: Handle) -> None:
    outcome = handle.wait(timeout_s=_WAIT_S)
    assert outcome.state == "succeeded"
    site.executions.assert_each_once([str(node.task_id) for node in handle.nodes() if node.task_id])


def _rows(daemon: Daemon) -> list[str]:
    with closing(sqlite3.connect(daemon.database_path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [state for (state,) in database.execute("SELECT state FROM nodes ORDER BY node")]


@pytest.mark.long
@pytest.mark.parametrize(("fault", "words"), [("full", "full"), ("broken", "disk I/O error"), ("read-only", "disk I/O error")])
def test_disk_that_refuses(site: Site, disk: FaultyDisk, daemon: Daemon, fault: str, words: str) -> None:
    """Nothing is sent, results are read, everybody is told; when the disk works again, all goes on without anybody's help."""
    with daemon.client() as client:
        handle = _three_in_a_row(client, site, f"gate-{fault}")
        with disk.failing(fault):
            site.executions.release(f"gate-{fault}")
            wait_until(lambda: client.stats().engine["counters"]["succeeded"] == 1, timeout_s=_WAIT_S)
            wait_until(lambda: bool(client.health().problems), timeout_s=_WAIT_S)
            assert words in client.health().problems[0]
            assert str(daemon.database_path) in client.health().problems[0]
            assert daemon.get("/readyz")[0] == 503
            assert daemon.get("/healthz")[0] == 200
            failures = daemon.metric("dyrygentd_commit_failures_total")
            assert failures >= 1
            assert daemon.metric("dyrygentd_problems") >= 1
            with pytest.raises(RemoteError, match=words) as caught:
                client.submit(tasks.echo.si(1))
            assert caught.value.status == 503
            assert words in daemon.status_line()
            # It goes on trying, and asking works all the while.
            wait_until(lambda: daemon.metric("dyrygentd_commit_failures_total") > failures, timeout_s=_WAIT_S)
            assert handle.node("second").state in ("ready", "dispatching")
            assert handle.status().state == "running"
            assert str(handle.node("second").task_id) not in site.executions.started()
        _ends_well(site, handle)
        wait_until(lambda: daemon.get("/readyz")[0] == 200, timeout_s=_WAIT_S)
        assert client.submit(tasks.echo.si(1)).wait(timeout_s=_WAIT_S).state == "succeeded"
    assert "nothing is dispatched until the database can be written" in daemon.log()
    assert "the database can be written again" in daemon.log()
    assert daemon.stop() == 0
    assert set(_rows(daemon)) == {"succeeded"}


def test_killed_while_the_disk_is_full(site: Site, disk: FaultyDisk, daemon: Daemon) -> None:
    """What could not be saved is found again after kill -9 and a restart with room: nothing is lost, nothing runs twice."""
    with daemon.client() as client:
        handle = _three_in_a_row(client, site, "gate-killed")
        with disk.failing("full"):
            site.executions.release("gate-killed")
            wait_until(lambda: client.stats().engine["counters"]["succeeded"] == 1, timeout_s=_WAIT_S)
            wait_until(lambda: bool(client.health().problems), timeout_s=_WAIT_S)
            daemon.kill()
        daemon.start()
        _ends_well(site, handle)


@pytest.mark.long
def test_verbs_while_the_disk_is_full(site: Site, disk: FaultyDisk, daemon: Daemon) -> None:
    """They are "not yet" and no error, by the client and in the exit status; with room again all is done, and was once."""
    with daemon.client() as client:
        kept = _three_in_a_row(client, site, "gate-verbs")
        waiting = Workflow("waits")
        waiting.sleep(3600, name="pause")
        cancelled = client.submit(waiting)
        with disk.failing("full"):
            with pytest.raises(NotOnDiskYet, match="will be done when it is") as caught:
                cancelled.cancel(why="wrong cluster")
            assert isinstance(caught.value, RemoteNotOnDiskYet)
            assert caught.value.status == 202
            said = _ctl(daemon, "pause", kept.id)
            assert said.returncode == 4
            assert said.stderr.startswith(f"not yet: 'pause' of workflow '{kept.id}' is not on disk yet")
            assert _ctl(daemon, "hold", kept.id, "nowhere").returncode == 1
            assert client.perform_in_bulk("pause", states=["running"]).not_on_disk_yet == []
        wait_until(lambda: daemon.get("/readyz")[0] == 200, timeout_s=_WAIT_S)
        assert cancelled.wait(timeout_s=_WAIT_S).state == "cancelled"
        assert [entry.verb for entry in cancelled.journal()] == ["cancel"]
        assert kept.status().state == "paused"
        kept.resume()
        site.executions.release("gate-verbs")
        _ends_well(site, kept)


@pytest.mark.long
def test_verbs_of_a_daemon_that_is_killed_before_they_are_on_disk(site: Site, disk: FaultyDisk, daemon: Daemon) -> None:
    """As the answer says, they never happened."""
    with daemon.client() as client:
        handle = _three_in_a_row(client, site, "gate-verbs-killed")
        with disk.failing("full"):
            with pytest.raises(NotOnDiskYet) as caught:
                handle.cancel()
            assert "if the daemon is killed before, it never happened" in caught.value.next_step
            daemon.kill()
        daemon.start()
        assert handle.status().state == "running"
        assert handle.journal() == []
        site.executions.release("gate-verbs-killed")
        _ends_well(site, handle)


def _ctl(daemon: Daemon, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from dyrygentd.cli import main; main()", "--socket", str(daemon.socket_path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)


@pytest.mark.long
def test_started_while_the_disk_is_full(site: Site, disk: FaultyDisk) -> None:
    """A new database on a disk without room: exit status 1 and one message, nothing half made is left, and then it starts."""
    daemon = site.daemon("roomless", **disk.environment)
    with disk.failing("full"):
        daemon.launch()
        assert daemon.wait(timeout_s=_WAIT_S) == 1
    log = daemon.log()
    assert f"the database '{daemon.database_path}'" in log
    assert "room" in log
    assert "Traceback" not in log
    with daemon, daemon.client() as client:
        assert client.submit(tasks.echo.si(1)).wait(timeout_s=_WAIT_S).state == "succeeded"


@pytest.mark.long
def test_slow_disk(site: Site, disk: FaultyDisk, daemon: Daemon) -> None:
    """While a transaction takes seconds the daemon answers at once, reads results, says that the database is slow, goes on."""
    with daemon.client() as client:
        handle = _three_in_a_row(client, site, "gate-slow")
        with disk.failing("slow 4000"):
            site.executions.release("gate-slow")
            wait_until(lambda: any("the database is slow" in text for text in client.health().problems), timeout_s=_WAIT_S)
            begun = time.monotonic()
            assert daemon.get("/healthz")[0] == 200
            assert handle.status().state == "running"
            # Far less than one sync, although the machine may be busy.
            assert time.monotonic() - begun < 3.5
            wait_until(lambda: daemon.metric("dyrygentd_present_commit_seconds") > 1, timeout_s=_WAIT_S)
            wait_until(lambda: "the database is slow" in daemon.log(), timeout_s=_WAIT_S)
            # It is slow, and no reason to refuse: what is submitted is answered when it is durable.
            other = client.submit(tasks.echo.si(1))
        _ends_well(site, handle)
        assert other.wait(timeout_s=_WAIT_S).state == "succeeded"


@pytest.mark.long
def test_file_that_may_not_grow(site: Site) -> None:
    """The same with a limit that the kernel keeps, where nothing has to be compiled: no file may be longer than it is."""
    with site.daemon("limited") as daemon, daemon.client() as client:
        handle = _three_in_a_row(client, site, "gate-limit")
        _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
        log = Path(f"{daemon.database_path}-wal").stat().st_size
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (log, hard))
        site.executions.release("gate-limit")
        wait_until(lambda: bool(client.health().problems), timeout_s=_WAIT_S)
        assert "cannot write the database" in client.health().problems[0]
        assert str(handle.node("second").task_id) not in site.executions.started()
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (hard, hard))
        _ends_well(site, handle)
        assert daemon.is_alive


@pytest.mark.long
def test_damaged_database_is_refused_with_the_next_steps(site: Site) -> None:
    """A daemon whose database is damaged does not start: exit status 1, and one message with the file and what to do."""
    with site.daemon("damaged") as daemon:
        with daemon.client() as client:
            assert client.submit(tasks.echo.si(1)).wait(timeout_s=_WAIT_S).state == "succeeded"
        daemon.stop()
        with closing(sqlite3.connect(daemon.database_path)) as database:
            query = "SELECT rootpage FROM sqlite_schema WHERE name = 'workflows_by_name'"
            ((page,),) = database.execute(query).fetchall()
        with daemon.database_path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(os.urandom(4096))
        daemon.log_path.unlink()
        daemon.launch()
        assert daemon.wait(timeout_s=_WAIT_S) == 1
        log = daemon.log()
    assert f"the database '{daemon.database_path}' is damaged" in log
    assert ".dump" in log
    assert "put a copy back" in log
    assert "Traceback" not in log


@pytest.mark.long
@pytest.mark.parametrize("step_s", [86400, -86400])
def test_clock_that_is_set(site: Site, disk: FaultyDisk, daemon: Daemon, step_s: int) -> None:
    """A day forward or back while a workflow sleeps, runs, and waits for its start: no sleep of a day, no busy loop, no loss."""
    with daemon.client() as client:
        workflow = Workflow(f"clock {step_s}")
        first = workflow.add(tasks.wait_for.si(f"gate-clock{step_s}"), name="first", timeout_s=600)
        pause = workflow.sleep(2, name="pause", after=[first])
        workflow.add(tasks.echo.si(2), name="second", after=[pause])
        handle = client.submit(workflow)
        site.executions.wait_started([str(handle.node("first").task_id)])
        disk.set_clock_by(step_s)
        site.executions.release(f"gate-clock{step_s}")
        wait_until(lambda: handle.node("pause").state == "held", timeout_s=_WAIT_S)
        disk.set_clock_by(0)
        _ends_well(site, handle)
        assert daemon.metric("dyrygentd_clock_steps_total") == 2
        turns = daemon.metric("dyrygentd_turns_total")
        assert turns < 100
        assert client.submit(tasks.echo.si(1)).wait(timeout_s=_WAIT_S).state == "succeeded"
    assert "the clock was set by" in daemon.log()


@pytest.mark.long
def test_stopped_while_the_disk_is_slow(site: Site, disk: FaultyDisk, daemon: Daemon) -> None:
    """A transaction that has begun is waited for when the daemon stops, so the end is an orderly one."""
    with daemon.client() as client:
        handle = _three_in_a_row(client, site, "gate-stop")
        with disk.failing("slow 2300"):
            site.executions.release("gate-stop")
            wait_until(lambda: any("the database is slow" in text for text in client.health().problems), timeout_s=_WAIT_S)
            assert daemon.signal(signal.SIGTERM, timeout_s=_WAIT_S) == 0
        daemon.start()
        _ends_well(site, handle)
