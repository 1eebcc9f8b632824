"""The guide for two hosts: its commands, on a PostgreSQL and a Redis of the test's own, and two directories as hosts."""

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from dyrygentd import Workflow
from dyrygentd.daemon.example import example
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import ROOT, Daemon
from tests.support.directories import short_directory
from tests.support.postgres import PostgresServer, programs_or_skip
from tests.support.servers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_GUIDE = (ROOT / "systemd/README.md").read_text()
_WAIT_S = 60
#: What the host would do besides; the environment of the tests has the package already.
_SHIM = """
sudo() { if [ "$1" = -u ]; then shift 2; fi; "$@"; }
pip() { test "$1" = install; }
systemctl() { :; }
dyrygentctl() { :; }
dyrygentd() { test "$1" = install-units; }
"""


def commands(name: str) -> str:
    """Return the block of commands that is marked with a name."""
    found = re.search(rf"(?ms)^<!-- hosts: {name} -->\n```sh\n(.*?)^```", _GUIDE)
    assert found is not None, f"no block of commands is marked '<!-- hosts: {name} -->'"
    return found[1]


def follow(name: str, server: PostgresServer, host: Path) -> None:
    """Carry out a block as on a host whose /etc is a directory, with the test's own servers in place of the guide's."""
    steps = (
        commands(name)
        .replace("/opt/dyrygentd/bin/", "")
        .replace("/etc/cred", f"{host}/cred")
        .replace("/etc/dyry", f"{host}/dyry")
    )
    path = f"{programs_or_skip()}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PGHOST": str(server.socket.parent),
        "PGPORT": str(server.port),
        "PGUSER": "postgres",
    }
    done = subprocess.run(
        ["bash", "-euc", f"set -o pipefail\n{_SHIM}\n{steps}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server on which the guide's database was made."""
    with short_directory() as directory, PostgresServer(directory) as server:
        follow("database", server, directory)
        yield server


def host(name: str, site: Site, postgres: PostgresServer, *, is_gateway: bool = False) -> Daemon:
    """Make a host of the guide, whose service has its credentials from systemd; it is not started."""
    directory = site.directory / name
    directory.mkdir()
    (directory / "dyrygentd").mkdir()
    # As the ten minutes have left it.
    (directory / "dyrygentd/dyrygentd.toml").write_text(example())
    follow("service", postgres, directory)
    if is_gateway:
        follow("gateway", postgres, directory)
    credentials = directory / "credentials"
    credentials.mkdir()
    urls = {
        # As the unit loads them, see LoadCredential= there. The test's server has no TLS, and no name.
        "database-url": re.sub(
            r"@db\.example/(\w+)\?.*",
            rf"@/\1?host={postgres.socket.parent}&port={postgres.port}",
            _read(directory, "database-url"),
        ),
        "broker-url": re.sub(r"rediss://.*", site.server.url, _read(directory, "broker-url")),
    }
    for credential, url in urls.items():
        (credentials / credential).write_text(url)
    return _Service(directory, credentials)


class _Service(Daemon):
    """The daemon as its unit starts it: database and broker are credentials."""

    def __init__(self, directory: Path, credentials: Path) -> None:
        environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
        configuration = directory / "dyrygentd" / "dyrygentd.toml"
        if configuration.exists():
            environment["DYRYGENTD_CONFIG"] = str(configuration)
        super().__init__(["--drain-timeout-s", "0.2"], directory=directory, environment=environment)
        at = self._command.index("--database")
        del self._command[at : at + 2]


def _read(directory: Path, name: str) -> str:
    return (directory / "credstore" / f"dyrygentd.{name}").read_text().strip()


@pytest.mark.parametrize("name", ["database", "service", "gateway", "upgrade"])
def test_commands_are_shell(name: str) -> None:
    """A slip in a block that few people try is seen here."""
    subprocess.run(["bash", "-n", "-c", commands(name)], check=True, timeout=30)


def test_second_host_goes_on(site: Site, postgres: PostgresServer) -> None:
    """By the guide alone: what one host has taken goes on at the other one, once, with the rights that the guide gives."""
    first, second = (host(name, site, postgres) for name in ("ops1", "ops2"))
    workflow = Workflow("two hosts")
    gate = workflow.add(tasks.wait_for.si("hosts"), name="gate")
    workflow.add(tasks.echo.si(2), name="after", after=[gate])
    with first, first.client() as client:
        handle = client.submit(workflow, key="once")
        site.executions.wait_started([str(handle.node("gate").task_id)])
    site.executions.release("hosts")
    with second, second.client() as client:
        again = client.submit(workflow, key="once")
        assert again.id == handle.id
        assert again.wait(timeout_s=_WAIT_S).state == "succeeded", second.log()
        site.executions.assert_each_once([str(node.task_id) for node in again.nodes()])
    assert "secret" not in first.log() + second.log()


@pytest.mark.long
def test_standby_and_gateway_pass_on(site: Site, postgres: PostgresServer) -> None:
    """A third host is a gateway by the guide: what it takes runs once, and is followed, though the leader is killed."""
    hosts = {name: host(f"{name}-3", site, postgres, is_gateway=name == "shop") for name in ("ops1", "ops2", "shop")}
    with ExitStack() as exits:
        for each in hosts.values():
            exits.enter_context(each)
        client, beside = (exits.enter_context(hosts[name].client()) for name in ("shop", "ops2"))
        assert (client.stats().role, beside.stats().role) == ("gateway", "standby")
        handle = client.submit(tasks.wait_for.si("three"), key="three")
        site.executions.wait_started([str(node.task_id) for node in handle.nodes()])
        followed = exits.enter_context(ThreadPoolExecutor(1)).submit(_followed, hosts["shop"], handle.id)
        hosts["ops1"].kill()
        wait_until(lambda: beside.stats().role == "leader", timeout_s=_WAIT_S, message=hosts["ops2"].log)
        site.executions.release("three")
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", hosts["ops2"].log()
        states = followed.result(timeout=_WAIT_S)
        assert (states[0], states[-1]) == ("running", "succeeded")
        site.executions.assert_each_once([str(node.task_id) for node in handle.nodes()])


def _followed(host: Daemon, workflow_id: str) -> list[str]:
    """Follow a workflow to its end; return its states as they came."""
    with host.client() as client:
        return [view.state for view in client.handle(workflow_id).events()]
