"""Two versions on one database, as during an upgrade: standbys first, the leader last, and a workflow runs on all the while.

The older one is what was committed once; the newer one is the working copy.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from dyrygentd import Workflow
from dyrygentd.canvas import NodeRef
from dyrygentd.store.postgres.migrations import VERSION
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import ROOT, Daemon
from tests.support.directories import short_directory
from tests.support.postgres import PostgresServer
from tests.support.servers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300)]

#: A commit that has leases, and the version of its schema.
_OLDER: Final = "9998d57"
_OLDER_VERSION: Final = 2
_WAIT_S = 90
_STEPS = 30

Make = Callable[..., Daemon]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server for schemas of tests."""
    with short_directory() as directory, PostgresServer(directory) as server:
        yield server


@pytest.fixture(scope="module")
def older(site: Site) -> Path:
    """The package as it was."""
    place = site.directory / "older"
    place.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", _OLDER, "dyrygentd"], capture_output=True, timeout=60, check=False
    )
    if archive.returncode:
        pytest.skip(f"this is no clone with the commit {_OLDER}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(place)], input=archive.stdout, timeout=60, check=True)
    return place


@pytest.fixture
def daemon_of(site: Site, postgres: PostgresServer, request: pytest.FixtureRequest) -> Make:
    """Make daemons of a version on the database of this test."""
    schema = request.node.name.replace("test_", "")

    def make(name: str, package: Path | None, *flags: str) -> Daemon:
        # With this a Python is started: what is forked has the working copy in it.
        environment = {"PYTHONPATH": f"{package}:{ROOT}", "PYTHONSAFEPATH": "1"} if package else {}
        database = f"{postgres.conninfo()}&schema={schema}"
        return site.daemon(f"{name}-{schema}", "--database", database, *flags, **environment)

    return make


def role(daemon: Daemon) -> str:
    """Return what it is now."""
    with daemon.client() as client:
        return client.stats().role


def wait_leads(daemon: Daemon) -> None:
    """Wait until it leads."""
    wait_until(lambda: role(daemon) == "leader", timeout_s=_WAIT_S, message=daemon.log)


def version(postgres: PostgresServer, schema: str) -> int:
    """Return that of a schema."""
    ((found,),) = postgres.execute(f"SELECT version FROM {schema}.about")
    return int(found)


def test_upgrade_without_a_gap(site: Site, postgres: PostgresServer, daemon_of: Make, older: Path) -> None:
    """The newer one stands by as long as the older one leads, and changes nothing; then it leads, and each task runs once."""
    workflow = Workflow("upgrade")
    last: list[NodeRef] = []
    for number in range(_STEPS):
        last = [workflow.add(tasks.sleep.si(0.2), name=f"n{number}", after=last)]
    gate = workflow.add(tasks.wait_for.si("upgraded"), name="gate", after=last)
    workflow.add(tasks.echo.si("end"), name="end", after=[gate])
    schema = "upgrade_without_a_gap"
    first, second = daemon_of("a", older), daemon_of("b", None)
    with first:
        with first.client() as client:
            handle = client.submit(workflow)
        with second, second.client() as client:
            assert (role(second), role(first), version(postgres, schema)) == ("standby", "leader", _OLDER_VERSION)
            assert client.get(handle.id).state == "running"
            with first.client() as leading:
                wait_until(lambda: leading.stats().standbys, timeout_s=_WAIT_S, message=second.log)
            wait_until(lambda: "of an older version" in second.log(), timeout_s=_WAIT_S, message=second.log)
            assert first.stop() == 0
            wait_leads(second)
            assert version(postgres, schema) == VERSION
            # Going back is refused, and the step is told.
            first.launch()
            assert first.wait(timeout_s=_WAIT_S) == 1
            assert "newer dyrygentd" in first.log().rpartition("error: ")[2]
            site.executions.release("upgraded")
            assert client.handle(handle.id).wait(timeout_s=_WAIT_S).state == "succeeded", second.log()
            site.executions.assert_each_once([str(node.task_id) for node in client.handle(handle.id).nodes()])
    assert "Traceback" not in second.log()


def test_older_beside_newer(postgres: PostgresServer, daemon_of: Make) -> None:
    """Who waits, and has the older version, ends and says so as soon as the schema is newer; a gateway shows it."""
    leader, standby, gateway = (daemon_of("a", None), daemon_of("b", None), daemon_of("c", None, "--role", "gateway"))
    with leader, standby, gateway:
        assert (role(standby), role(gateway)) == ("standby", "gateway")
        # What a newer leader does first.
        postgres.execute("UPDATE older_beside_newer.about SET version = %s", VERSION + 1)
        assert standby.wait(timeout_s=_WAIT_S) == 1
        error = standby.log().rpartition("error: ")[2]
        assert f"newer dyrygentd (schema {VERSION + 1}, this one reads up to {VERSION})" in error
        assert "install that version here, too" in error
        with gateway.client() as client:
            wait_until(lambda: "newer dyrygentd" in str(client.stats().problems), timeout_s=_WAIT_S, message=gateway.log)
        assert gateway.is_alive
