"""The real daemon with its database on PostgreSQL: its work, its restarts, and a server that goes away amid turns."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from dyrygentd import Workflow
from dyrygentd.errors import DyrygentError
from dyrygentd.store.postgres.migrations import VERSION
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.directories import short_directory
from tests.support.postgres import PostgresServer
from tests.support.servers import wait_until
from tests.support.shapes import make

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

_WAIT_S = 120
_TASKS = 300


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server that tests of this module may kill, if they start it again."""
    with short_directory() as directory, PostgresServer(directory) as server:
        yield server


@pytest.fixture
def daemon(site: Site, postgres: PostgresServer, request: pytest.FixtureRequest) -> Daemon:
    """A daemon on a schema of its own; it is not started."""
    name = f"d{abs(hash(request.node.name)) % 10**8}"
    return site.daemon(name, "--database", f"{postgres.conninfo()}&schema={name}")


def test_work_and_restart(site: Site, postgres: PostgresServer, daemon: Daemon) -> None:
    """What was answered is kept over a kill and goes on once; whoever has psql reads it, and a second daemon stands by."""
    schema = daemon.directory.name
    workflow = Workflow("gated")
    first = workflow.add(tasks.wait_for.si(schema), name="first")
    workflow.add(tasks.echo.si(5), name="second", after=[first])
    with daemon, daemon.client() as client:
        handle = client.submit(workflow)
        site.executions.wait_started([str(handle.node("first").task_id)])
        handle.set_priority(7, why="it is late")
        assert client.health().problems == []
        second = site.daemon(f"{schema}b", "--database", f"{postgres.conninfo()}&schema={schema}")
        with second, second.client() as beside:
            assert (beside.health().role, f"process {daemon.pid} " in beside.health().leader) == ("standby", True)
        daemon.kill()
        site.executions.release(schema)
        daemon.start()
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
        assert [(entry.verb, entry.why) for entry in handle.journal()] == [("set-priority", "it is late")]
        site.executions.assert_each_once([str(node.task_id) for node in handle.nodes()])
        names = postgres.execute(f"SELECT node_name, state FROM {schema}.v_nodes WHERE workflow_name = 'gated' ORDER BY node")
        assert names == [("first", "succeeded"), ("second", "succeeded")]
    assert postgres.execute(f"SELECT name, state, tasks FROM {schema}.v_workflows") == [("gated", "succeeded", 2)]
    assert postgres.execute(f"SELECT verb, why FROM {schema}.v_journal") == [("set-priority", "it is late")]


def _role(daemon: Daemon) -> str:
    """Ask a daemon what it is; one that is changing its role may not answer."""
    try:
        with daemon.client() as client:
            return client.health().role
    except DyrygentError:
        return ""


def _killed(postgres: PostgresServer, _: Daemon) -> None:
    postgres.kill()
    postgres.start()


def _cut(postgres: PostgresServer, _: Daemon) -> None:
    postgres.cut("postgres")


def _both(postgres: PostgresServer, daemon: Daemon) -> None:
    postgres.kill()
    daemon.kill()
    postgres.start()
    daemon.start()


@pytest.mark.long
@pytest.mark.parametrize("befall", [_killed, _cut, _both], ids=["killed", "cut", "both-killed"])
def test_server_goes_away(
    site: Site, postgres: PostgresServer, daemon: Daemon, befall: Callable[[PostgresServer, Daemon], None]
) -> None:
    """Whenever the server or the way to it goes, the daemon waits and goes on by itself: each task is executed once."""
    chance = random.Random(befall.__name__)
    shape = make("layered", _TASKS)
    site.executions.clear()
    with daemon, daemon.client() as client:
        handle = client.submit(shape.definition)
        for moment in sorted(chance.randrange(shape.task_count) for _ in range(4)):
            wait_until(lambda moment=moment: len(site.executions.counts()) >= moment, timeout_s=_WAIT_S, message=daemon.log)  # type: ignore[misc]
            befall(postgres, daemon)
        wait_until(lambda: handle.status().state == "succeeded", timeout_s=_WAIT_S, message=daemon.log)
        wait_until(lambda: daemon.get("/readyz")[0] == 200, timeout_s=_WAIT_S)
    shape.assert_executed(site.executions)


@pytest.mark.long
def test_server_is_away(site: Site, postgres: PostgresServer, daemon: Daemon) -> None:
    """As long as it is away nothing is sent and everybody is told; who is started without it waits until it is there."""
    with daemon, daemon.client() as client:
        handle = client.submit(tasks.echo.si(1))
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
        postgres.kill()
        try:
            with pytest.raises(Exception, match=r"database|disk"):
                client.submit(tasks.echo.si(2))
            wait_until(lambda: bool(client.health().problems), timeout_s=_WAIT_S)
            assert "cannot write the database 'postgresql://" in client.health().problems[0]
            assert daemon.get("/readyz")[0] == 503
            assert daemon.get("/healthz")[0] == 200
            other = site.daemon("other", "--database", f"{postgres.conninfo()}&schema=other")
            other.start()
            assert "cannot lead yet, and stands by" in other.log()
            assert "does the server run" in other.log()
            assert _role(other) == "standby"
        finally:
            postgres.start()
        wait_until(lambda: _role(other) == "leader", timeout_s=_WAIT_S, message=other.log)
        with other.client() as at_other:
            assert at_other.submit(tasks.echo.si(4)).wait(timeout_s=_WAIT_S).state == "succeeded"
        assert other.stop() == 0
        assert "Traceback" not in other.log()
        wait_until(lambda: daemon.get("/readyz")[0] == 200, timeout_s=_WAIT_S)
        assert client.submit(tasks.echo.si(3)).wait(timeout_s=_WAIT_S).state == "succeeded"


@pytest.mark.long
def test_server_starts(site: Site, postgres: PostgresServer) -> None:
    """Whoever is started while the server starts waits for it; whom waiting would not help ends, and says what to do."""
    with site.daemon("early", "--database", f"{postgres.conninfo()}&schema=early") as daemon:
        assert daemon.stop() == 0
        with postgres.starting():
            daemon.start()
            assert "the database system is starting up (next: it goes on by itself" in daemon.log()
            assert _role(daemon) == "standby"
        wait_until(lambda: _role(daemon) == "leader", timeout_s=_WAIT_S, message=daemon.log)
    wrong = site.daemon("wrong", "--database", postgres.conninfo("nowhere"))
    wrong.launch()
    assert wrong.wait(timeout_s=_WAIT_S) == 1
    assert "next: make the database" in wrong.log()
    assert "Traceback" not in wrong.log()


@pytest.mark.long
def test_taken_over(site: Site, postgres: PostgresServer, daemon: Daemon) -> None:
    """A daemon that was stopped, and whose place another one has taken, saves nothing when it goes on, says so, and stands by."""
    shape = make("layered", _TASKS)
    site.executions.clear()
    schema = daemon.directory.name
    with daemon, daemon.client() as client:
        handle = client.submit(shape.definition)
        wait_until(lambda: len(site.executions.counts()) >= 100, timeout_s=_WAIT_S, message=daemon.log)
        os.kill(daemon.pid, signal.SIGSTOP)
        postgres.cut("postgres")
        with site.daemon("next", "--database", f"{postgres.conninfo()}&schema={schema}") as other, other.client() as again:
            wait_until(lambda: _role(other) == "leader", timeout_s=_WAIT_S, message=other.log)
            os.kill(daemon.pid, signal.SIGCONT)
            wait_until(lambda: _role(daemon) == "standby", timeout_s=_WAIT_S, message=daemon.log)
            assert f"process {other.pid} on" in daemon.log()
            wait_until(lambda: again.get(handle.id).state == "succeeded", timeout_s=_WAIT_S, message=other.log)
    shape.assert_executed(site.executions)
    assert "Traceback" not in daemon.log()


@pytest.mark.long
def test_ten_thousand_nodes(site: Site, daemon: Daemon) -> None:
    """A large workflow runs to its end, also over a restart in between."""
    shape = make("group", 10_000)
    site.executions.clear()
    with daemon, daemon.client() as client:
        handle = client.submit(shape.definition)
        wait_until(lambda: len(site.executions.counts()) >= 2000, timeout_s=_WAIT_S, message=daemon.log)
        daemon.kill()
        daemon.start()
        assert handle.wait(timeout_s=240).state == "succeeded", daemon.log()
    shape.assert_executed(site.executions)


@pytest.mark.long
def test_moved_amid_work(site: Site, postgres: PostgresServer) -> None:
    """A workflow that began with a file goes on with PostgreSQL and ends with a file again: each task is executed once."""
    schema, shape = "moved", make("layered", 200)
    place = f"{postgres.conninfo()}&schema={schema}"
    site.executions.clear()
    with site.daemon("before") as daemon, daemon.client() as client:
        name = client.submit(shape.definition).id
        wait_until(lambda: len(site.executions.counts()) >= 50, timeout_s=_WAIT_S, message=daemon.log)
        daemon.stop()
        path = str(daemon.database_path)
        assert "rows; name that as `database`" in _run("move-store", path, place, "--host-name", "app1")
        daemon.launch()
        assert daemon.wait(timeout_s=_WAIT_S) == 1
        assert "was moved to 'postgresql://" in daemon.log()
    with site.daemon("between", "--database", place, "--host-name", "app1") as daemon, daemon.client() as client:
        view = client.get(name)
        assert (view.owner, view.owner_name) == (None, f"{os.geteuid()}@app1")
        wait_until(lambda: len(site.executions.counts()) >= 100, timeout_s=_WAIT_S, message=daemon.log)
    back = f"{path}.back"
    assert "rows; name that as `database`" in _run("move-store", place, back, "--host-name", "app1")
    with site.daemon("after", "--database", back) as daemon, daemon.client() as client:
        wait_until(lambda: client.get(name).state == "succeeded", timeout_s=_WAIT_S, message=daemon.log)
        assert client.get(name).owner == os.geteuid()
    shape.assert_executed(site.executions)
    assert "both are files" in _run("move-store", path, back)


@pytest.mark.long
def test_least_rights(site: Site, postgres: PostgresServer) -> None:
    """A role that owns its schema and nothing else is enough; without the schema the start says what a superuser has to do."""
    database = postgres.make_database()
    postgres.execute("CREATE ROLE least LOGIN")
    place = f"{postgres.conninfo(database, user='least')}&schema=ops"
    daemon = site.daemon("least", "--database", place)
    daemon.launch()
    assert daemon.wait(timeout_s=_WAIT_S) == 1
    assert "`CREATE SCHEMA ops AUTHORIZATION least;`" in daemon.log()
    said = _check(place)
    assert "`CREATE SCHEMA ops AUTHORIZATION least;`" in said
    postgres.execute("CREATE SCHEMA ops AUTHORIZATION least", database=database)
    assert "has no tables, which will be made" in _check(place)
    with daemon, daemon.client() as client:
        assert client.submit(tasks.echo.si(1)).wait(timeout_s=_WAIT_S).state == "succeeded"
        assert f"process {daemon.pid} on" in _check(place)
    assert f"schema version {VERSION}, and 1 succeeded workflows" in _check(place)
    assert "the next start takes" in _run("claim", "--database", place)
    for command, tool in (
        (["backup", "copy.db"], "pg_dump"),
        (["restore", "copy.db"], "pg_restore"),
        (["check-db"], "pg_amcheck"),
    ):
        assert tool in _run(*command, "--database", place)


def _check(place: str) -> str:
    return _run("check-config", "--online", "--broker", "redis://127.0.0.1:1/0", "--database", place)


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "dyrygentd", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    return done.stdout + done.stderr
