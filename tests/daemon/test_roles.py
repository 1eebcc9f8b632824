"""Two daemons on one database: one leads, the other one stands by and takes over, whatever becomes of the first."""

import json
import math
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from click.testing import Result

from dyrygentd import Workflow
from dyrygentd.cli import main
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.succession import until_next_look_s
from dyrygentd.errors import DyrygentError
from dyrygentd.ports.facts import LeaseView
from tests.http.support import unix_connection
from tests.integration.conftest import Site, running_site
from tests.support import tasks
from tests.support.commands import runner
from tests.support.daemon import Daemon
from tests.support.postgres import PostgresServer
from tests.support.servers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300), pytest.mark.long]

_WAIT_S = 60


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server and a worker, shared by the module."""
    with running_site(workers=1) as site:
        yield site


class Pair:
    """Two daemons on a schema of their own; they are not started."""

    def __init__(self, site: Site, postgres: PostgresServer, exits: ExitStack) -> None:
        self._site, self._exits = site, exits
        self.url = postgres.url()
        self.first, self.second = self.make("a"), self.make("b")

    def make(self, name: str, *flags: str) -> Daemon:
        """Prepare one more."""
        where = f"{self.url.conninfo}&schema={self.url.schema}"
        daemon = self._site.daemon(f"{self.url.schema}{name}", "--database", where, *flags)
        self._exits.callback(_end, daemon)
        return daemon

    def start(self) -> None:
        """Have the first one lead and the second one stand by."""
        self.first.start()
        self.second.start()
        assert (role(self.first), role(self.second)) == ("leader", "standby")


def _end(daemon: Daemon) -> None:
    if daemon.is_alive:
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.kill()


def role(daemon: Daemon) -> str:
    """Ask a daemon what it is; one that is starting, or changing its role, may not answer."""
    try:
        with daemon.client() as client:
            return client.health().role
    except DyrygentError:
        return ""


def leads(daemon: Daemon) -> bool:
    """Tell whether a daemon leads."""
    return role(daemon) == "leader"


@pytest.fixture
def pair(site: Site, shared_postgres: PostgresServer) -> Iterator[Pair]:
    """Two daemons, which are ended."""
    site.executions.clear()
    with ExitStack() as exits:
        yield Pair(site, shared_postgres, exits)


@pytest.mark.parametrize(
    ("left_s", "pause_s"), [(4.0, 1.0), (0.95, 1.0), (0.25, 0.35), (0.0, 0.1), (-3.0, 0.1), (-math.inf, 0.1)]
)
def test_next_look_is_not_after_the_end(left_s: float, pause_s: float) -> None:
    """Who stands by looks each second, and as soon as a lease is over that nobody renews: that second would be lost."""
    assert until_next_look_s(LeaseView(None, 1, left_s)) == pytest.approx(pause_s)


def _killed(daemon: Daemon) -> None:
    daemon.kill()


def _stopped(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGSTOP)


@pytest.mark.parametrize("befall", [_killed, _stopped], ids=["killed", "stopped"])
def test_takeover(site: Site, pair: Pair, befall: Callable[[Daemon], None]) -> None:
    """What the first one has accepted goes on at the second, each task once; the first one changes nothing when it comes back."""
    pair.start()
    word = pair.url.schema
    workflow = Workflow("gated")
    first = workflow.add(tasks.wait_for.si(word), name="first")
    workflow.add(tasks.echo.si(5), name="second", after=[first])
    with pair.first.client() as client:
        handle = client.submit(workflow)
        site.executions.wait_started([str(handle.node("first").task_id)])
    befall(pair.first)
    wait_until(lambda: leads(pair.second), timeout_s=_WAIT_S, message=pair.second.log)
    site.executions.release(word)
    with pair.second.client() as client:
        wait_until(lambda: client.get(handle.id).state == "succeeded", timeout_s=_WAIT_S, message=pair.second.log)
        ids = [str(node.task_id) for node in client.handle(handle.id).nodes()]
    if befall is _stopped:
        os.kill(pair.first.pid, signal.SIGCONT)
        wait_until(lambda: role(pair.first) == "standby", timeout_s=_WAIT_S, message=pair.first.log)
        assert "this process stands by" in pair.first.log()
        assert _metric(pair.first, 'lease_changes_total{change="lost"}') == 1
        with pair.first.client() as client:
            assert client.get(handle.id).state == "succeeded"
        assert leads(pair.second)
    site.executions.assert_each_once(ids)
    assert "Traceback" not in pair.first.log() + pair.second.log()


def _metric(daemon: Daemon, name: str) -> float:
    """Return what a daemon tells of itself, by the name with its labels as Prometheus reads it."""
    connection = unix_connection(daemon.socket_path)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    (value,) = [line.split()[-1] for line in lines if line.startswith(f"dyrygentd_{name} ")]
    return float(value)


def _ctl(daemon: Daemon, *arguments: str) -> Result:
    return runner().invoke(main, ["--socket", str(daemon.socket_path), *arguments], catch_exceptions=False)


def test_each_tells_how_the_lease_stands(pair: Pair) -> None:
    """Leader, standby and gateway tell the same, to Prometheus, to people and to systemd; a takeover is counted."""
    gateway = pair.make("g", "--role", "gateway")
    pair.start()
    gateway.start()
    every = (pair.first, pair.second, gateway)
    with pair.first.client() as client:
        wait_until(lambda: client.health().standbys == 1, timeout_s=_WAIT_S)
        leader = client.health().leader
    for daemon, own in zip(every, ("leader", "standby", "gateway"), strict=True):
        assert [_metric(daemon, f'role{{role="{each}"}}') for each in ("leader", "standby", "gateway")] == [
            float(own == each) for each in ("leader", "standby", "gateway")
        ]
        wait_until(lambda daemon=daemon: _metric(daemon, "lease_standbys") == 1, timeout_s=_WAIT_S)  # type: ignore[misc]
        assert -_WAIT_S < _metric(daemon, "lease_left_seconds") <= 5
        assert _metric(daemon, 'lease_changes_total{change="taken"}') == float(own == "leader")
        told = json.loads(_ctl(daemon, "--json", "stats").stdout)
        assert (told["role"], told["term"], told["standbys"]) == (own, 1, 1)
        assert told["leader"] == leader
        assert leader.startswith(f"process {pair.first.pid} on ")
        assert isinstance(told["lease_left_s"], float)
        assert re.search(r"^lease +term 1, \w+ for [\d.]+ s, 1 standby$", _ctl(daemon, "stats").stdout, re.MULTILINE)
        listed = _ctl(daemon, "list").stderr
        assert re.search(rf"^process {pair.first.pid} on .* leads: term 1, .* s, 1 standby$", listed, re.MULTILINE)
        assert re.search(r"term 1, 1 standby", daemon.status_line())
    for daemon in every[1:]:
        assert _metric(daemon, "leader_lag_seconds") >= 0
    pair.first.kill()
    wait_until(lambda: leads(pair.second), timeout_s=_WAIT_S, message=pair.second.log)
    assert _metric(pair.second, 'lease_changes_total{change="taken"}') == 1
    assert _metric(pair.second, 'lease_changes_total{change="lost"}') == 0
    wait_until(lambda: _metric(pair.second, "lease_standbys") == 0, timeout_s=_WAIT_S)


def test_clean_handover_and_back(pair: Pair) -> None:
    """A daemon that is told to end hands over at once; started again it stands by."""
    pair.start()
    os.kill(pair.first.pid, signal.SIGTERM)
    wait_until(lambda: leads(pair.second), timeout_s=_WAIT_S, message=pair.second.log)
    assert pair.first.wait(timeout_s=_WAIT_S) == 0
    pair.first.start()
    assert role(pair.first) == "standby"
    with pair.first.client() as client:
        # By a letter to the one that leads.
        assert client.submit(tasks.echo.si(1)).wait(timeout_s=_WAIT_S).state == "succeeded"


@pytest.mark.parametrize("count", [1, 2])
def test_database_went_back(site: Site, pair: Pair, shared_postgres: PostgresServer, count: int) -> None:
    """A failover that loses turns ends what the leader holds in mind: it, or one that stood by, goes on with what is there."""
    pair.start() if count == 2 else pair.first.start()
    workflow = Workflow("gated")
    gated = workflow.add(tasks.wait_for.si(pair.url.schema), name="first")
    workflow.add(tasks.echo.si(5), name="second", after=[gated])
    with pair.first.client() as client:
        handle = client.submit(workflow)
        site.executions.wait_started([str(handle.node("first").task_id)])
    shared_postgres.execute(f"UPDATE {pair.url.schema}.owner SET turn = turn - 1")
    wait_until(lambda: "this process begins anew" in pair.first.log(), timeout_s=_WAIT_S)
    daemons = [pair.first, pair.second][:count]
    roles = ["leader", "standby"][:count]
    wait_until(lambda: sorted(map(role, daemons)) == roles, timeout_s=_WAIT_S, message=pair.first.log)
    site.executions.release(pair.url.schema)
    with pair.first.client() as client:
        wait_until(lambda: client.get(handle.id).state == "succeeded", timeout_s=_WAIT_S, message=pair.first.log)
        ids = [str(node.task_id) for node in client.handle(handle.id).nodes()]
    site.executions.assert_each_once(ids)
    assert "Traceback" not in pair.first.log()


def test_both_at_once(pair: Pair) -> None:
    """Of two that are started together one leads."""
    pair.first.launch()
    pair.second.launch()
    wait_until(lambda: sorted([role(pair.first), role(pair.second)]) == ["leader", "standby"], timeout_s=_WAIT_S)


def test_connections_are_cut(pair: Pair, shared_postgres: PostgresServer) -> None:
    """A server that ends all sessions changes nothing about who leads."""
    pair.start()
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    for _ in range(3):
        assert shared_postgres.execute(query, f"dyrygentd:{pair.url.schema}")
        with pair.first.client() as client:
            assert client.submit(tasks.echo.si(1), key="the same").wait(timeout_s=_WAIT_S).state == "succeeded"
    assert (role(pair.first), role(pair.second)) == ("leader", "standby")


def test_gateway(pair: Pair, shared_postgres: PostgresServer) -> None:
    """A gateway answers from the beginning, takes submissions once somebody leads, in its host's name, and never leads itself."""
    gateway = pair.make("g", "--role", "gateway", "--host-name", "edge1")
    gateway.start()
    assert role(gateway) == "gateway"
    pair.first.start()
    with gateway.client() as client:
        assert client.submit(tasks.echo.si(1)).wait(timeout_s=_WAIT_S).state == "succeeded"
    assert shared_postgres.execute(f"SELECT DISTINCT host FROM {pair.url.schema}.letters") == [("edge1",)]
    assert pair.first.stop() == 0
    assert role(gateway) == "gateway"
    assert gateway.stop() == 0


def test_another_broker_than_the_leaders(pair: Pair, redis_server: EmbeddedServer) -> None:
    """A standby with another broker would leave what is in flight: it ends, and says what to do; a gateway says so, and stays."""
    pair.first.start()
    flags = ("--broker", redis_server.url, "--result-backend", redis_server.url)
    other, gateway = pair.make("o", *flags), pair.make("g", "--role", "gateway", *flags)
    other.launch()
    assert other.wait(timeout_s=_WAIT_S) == 2
    assert f"that of process {pair.first.pid} on" in other.log()
    assert "configure the same `broker` for all that share the database" in other.log()
    assert "Traceback" not in other.log()
    gateway.start()
    wait_until(lambda: "configure the same `broker`" in gateway.log(), timeout_s=_WAIT_S)
    assert role(gateway) == "gateway"
    assert leads(pair.first)
    # Whoever comes when nobody leads says which broker counts.
    assert pair.first.stop() == 0
    other.start()
    assert leads(other)


def test_gateway_needs_a_server(site: Site) -> None:
    """A file is had by one process alone."""
    daemon = site.daemon("file", "--role", "gateway")
    daemon.launch()
    assert daemon.wait(timeout_s=_WAIT_S) == 2
    assert "name a database on PostgreSQL" in daemon.log()
