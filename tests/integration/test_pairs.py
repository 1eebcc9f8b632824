"""Stores and brokers that no other test runs together: what was answered goes on after a kill, on each pair."""

from collections.abc import Iterator

import pytest

from dyrygentd import Workflow
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.directories import short_directory
from tests.support.postgres import PostgresServer
from tests.support.servers import CeleryWorker, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60
_BRANCHES = 10


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The flags that name a database."""
    if request.param == "SQLite":
        yield []
        return
    with short_directory() as directory, PostgresServer(directory) as server:
        yield ["--database", server.conninfo()]


@pytest.mark.long
def test_killed_on_rabbitmq(database: list[str], amqp_url: str, rabbitmq_queue: str, quiet_site: Site) -> None:
    """The next process goes on where the last one was: all is executed, at least once, and what depends on it afterwards."""
    workflow = Workflow("fan")
    gate = workflow.add(tasks.wait_for.si("pairs").set(queue=rabbitmq_queue), name="gate")
    fan = [workflow.add(tasks.noop.si().set(queue=rabbitmq_queue), name=f"noop-{n}", after=[gate]) for n in range(_BRANCHES)]
    workflow.add(tasks.noop.si().set(queue=rabbitmq_queue), name="end", after=fan)
    daemon: Daemon = quiet_site.daemon("pair", "--broker", amqp_url, *database)
    worker = CeleryWorker(
        amqp_url,
        quiet_site.server.url,
        log_directory=quiet_site.directory,
        queues=(rabbitmq_queue,),
        records_url=quiet_site.server.url,
    )
    with daemon, daemon.client() as client, worker:
        handle = client.submit(workflow, key="pair")
        quiet_site.executions.wait_started([str(handle.node("gate").task_id)])
        daemon.kill()
        # Its message may be sent once more: whether the broker has it died with the daemon.
        quiet_site.executions.release("pairs", count=3)
        daemon.start()
        wait_until(lambda: quiet_site.executions.counts(), timeout_s=_WAIT_S, message=daemon.log)
        daemon.kill()
        daemon.start()
        assert client.submit(workflow, key="pair").id == handle.id
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()
        counts = quiet_site.executions.counts()
        assert all(counts[str(node.task_id)] >= 1 for node in handle.nodes() if node.task_id)


@pytest.mark.long
def test_standby_goes_on_on_rabbitmq(amqp_url: str, rabbitmq_queue: str, quiet_site: Site) -> None:
    """The daemon that waits takes over what a killed leader has begun there, and executes the rest, at least once."""
    workflow = Workflow("handed over")
    gate = workflow.add(tasks.wait_for.si("over").set(queue=rabbitmq_queue), name="gate")
    workflow.add(tasks.noop.si().set(queue=rabbitmq_queue), name="end", after=[gate])
    worker = CeleryWorker(
        amqp_url,
        quiet_site.server.url,
        log_directory=quiet_site.directory,
        queues=(rabbitmq_queue,),
        records_url=quiet_site.server.url,
    )
    with short_directory() as directory, PostgresServer(directory) as server, worker:
        leader, standby = (
            quiet_site.daemon(name, "--broker", amqp_url, "--database", server.conninfo()) for name in ("leader", "standby")
        )
        with leader, standby, leader.client() as client, standby.client() as beside:
            handle = client.submit(workflow)
            quiet_site.executions.wait_started([str(handle.node("gate").task_id)])
            assert beside.stats().role == "standby"
            leader.kill()
            wait_until(lambda: beside.stats().role == "leader", timeout_s=_WAIT_S, message=standby.log)
            quiet_site.executions.release("over", count=3)
            handed = beside.handle(handle.id)
            assert handed.wait(timeout_s=_WAIT_S).state == "succeeded", standby.log()
            counts = quiet_site.executions.counts()
            assert all(counts[str(node.task_id)] >= 1 for node in handed.nodes() if node.task_id)
