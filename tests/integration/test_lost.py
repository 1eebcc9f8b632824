"""Tasks that vanish under real workers: found without a person, and what only looks lost is left alone."""

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from dyrygentd import Workflow
from dyrygentd.client.sync import Client, Handle
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

#: Tasks are looked for a second after they were sent, and lost after another one without a trace.
_QUICK = ("--lost-after-s", "1", "--lost-confirm-s", "1")
_WAIT_S = 60


@pytest.fixture
def daemon(quiet_site: Site) -> Iterator[Daemon]:
    """A daemon that is quick to look for tasks."""
    with quiet_site.daemon("daemon", *_QUICK) as daemon:
        yield daemon


def _node(handle: Handle, name: str) -> Any:
    return next(node for node in handle.nodes() if node.name == name)


def _wait_state(handle: Handle, name: str, state: str) -> Any:
    wait_until(lambda: _node(handle, name).state == state, timeout_s=_WAIT_S, message=lambda: str(_node(handle, name)))
    return _node(handle, name)


def _looks(client: Client) -> int:
    return int(client.stats().lost["looks"])


def _wait_for_looks(client: Client, count: int) -> None:
    """Wait until the daemon has looked for overdue tasks so often from now on."""
    wanted = _looks(client) + count
    wait_until(lambda: _looks(client) >= wanted, timeout_s=_WAIT_S, message=lambda: str(client.stats().lost))


def _stored_states(daemon: Daemon) -> list[str]:
    with closing(sqlite3.connect(daemon.database_path)) as database:
        return [state for (state,) in database.execute("SELECT state FROM nodes")]


@pytest.mark.long
def test_policy_decides_when_a_worker_dies(client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """What a killed worker had acknowledged is lost: tried again, failed, or held for a person, as its policy says."""
    worker = start_worker(pool="threads", concurrency=3)
    workflow = Workflow("worker dies")
    again = workflow.add(tasks.wait_for.si("again"), name="again", idempotent=True)
    workflow.add(tasks.wait_for.si("fails"), name="fails", on_lost="fail")
    workflow.add(tasks.wait_for.si("asks"), name="asks")
    workflow.add(tasks.echo.si(1), name="after", after=[again])
    handle = client.submit(workflow)
    first = {node.name: str(node.task_id) for node in handle.nodes()}
    quiet_site.executions.wait_started([first[name] for name in ("again", "fails", "asks")])
    worker.kill()
    start_worker()
    assert "its task is lost" in _wait_state(handle, "fails", "failed").error
    held = _wait_state(handle, "asks", "held")
    assert held.hold == "lost"
    assert "no worker " in held.error
    assert "retry" in handle.explain("asks").next_step
    wait_until(lambda: _node(handle, "again").attempt == 2, timeout_s=_WAIT_S)
    quiet_site.executions.release("again", value="done")
    assert _wait_state(handle, "again", "succeeded").task_id != first["again"]
    _wait_state(handle, "after", "succeeded")
    handle.retry("asks")
    quiet_site.executions.release("asks")
    outcome = handle.wait(timeout_s=_WAIT_S)
    assert (outcome.state, [node.name for node in outcome.failed_nodes]) == ("failed", ["fails"])
    counters = client.stats().engine["counters"]
    assert (counters["lost"], counters["turned_up"]) == (3, 0)


@pytest.mark.long
def test_late_acknowledgement_is_redelivered_and_not_lost(
    client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]
) -> None:
    """With `acks_late` the message of a killed worker stays reserved, until the broker gives it to another one."""
    worker = start_worker()
    handle = client.submit(tasks.wait_for_late.si("gate"))
    (node,) = handle.nodes()
    quiet_site.executions.wait_started([str(node.task_id)])
    worker.kill()
    _wait_for_looks(client, 3)
    assert _node(handle, node.name).state == "dispatched"
    assert client.stats().lost["findings"]["orphaned"]
    assert not client.stats().engine["counters"]["lost"]


@pytest.mark.long
def test_deleted_message_is_lost(client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """A message that somebody took out of the queue is missed; those beside it are left alone, with and without a worker."""
    workflow = Workflow("deleted")
    for name in ("gone", "stays"):
        workflow.add(tasks.echo.si(1).set(queue=name), name=name)
    handle = client.submit(workflow)
    with records(quiet_site.server.url) as broker:
        wait_until(lambda: broker.llen("gone") == 1 and broker.llen("stays") == 1)
        broker.delete("gone")
    assert _wait_state(handle, "gone", "held").hold == "lost"
    assert _node(handle, "stays").state == "dispatched"
    assert client.stats().lost["findings"]["no-consumer"]
    start_worker(queues=["gone", "stays"])
    _wait_state(handle, "stays", "succeeded")
    handle.retry("gone")
    assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"


@pytest.mark.long
def test_retry_with_a_countdown_is_not_lost(client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """A task that waits at its worker for a retry of Celery's own is found there, under the tag of the new message."""
    start_worker(pool="threads")
    handle = client.submit(tasks.retry_later.si(3600))
    (node,) = handle.nodes()
    wait_until(
        lambda: client.stats().lost["findings"]["reserved"] >= 2, timeout_s=_WAIT_S, message=lambda: str(client.stats().lost)
    )
    assert not client.stats().engine["counters"]["lost"]
    assert _node(handle, node.name).state == "dispatched"


@pytest.mark.long
def test_silent_worker_may_have_it(client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """A worker that is stopped listens and does not answer: nobody decides about its tasks, and they end when it goes on."""
    worker = start_worker()
    handle = client.submit(tasks.wait_for.si("gate"))
    (node,) = handle.nodes()
    quiet_site.executions.wait_started([str(node.task_id)])
    worker.send_signal(signal.SIGSTOP)
    try:
        _wait_for_looks(client, 3)
        findings = client.stats().lost["findings"]
        # Where the pool `solo` executes, the message is acknowledged when it is done.
        assert findings["unknown"] or findings["reserved"], findings
        assert not findings["lost"], findings
        assert _node(handle, node.name).state == "dispatched"
    finally:
        worker.send_signal(signal.SIGCONT)
    quiet_site.executions.release("gate")
    assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"


@pytest.mark.long
def test_task_that_was_taken_for_lost_turns_up(
    client: Client, daemon: Daemon, quiet_site: Site, start_worker: Callable[..., CeleryWorker]
) -> None:
    """A worker that shuts down warmly is silent and connected: nobody decides. Cut off, its task is lost, and succeeds later.

    Also if the daemon was killed in between.
    """
    worker = start_worker(pool="threads", arguments=["--without-gossip", "--without-mingle"])
    workflow = Workflow("warm")
    task = workflow.add(tasks.wait_for.si("gate"), name="slow")
    workflow.add(tasks.identity.s(), name="after", after=[task])
    handle = client.submit(workflow)
    quiet_site.executions.wait_started([str(_node(handle, "slow").task_id)])
    worker.send_signal(signal.SIGTERM)
    _wait_for_looks(client, 4)
    assert _node(handle, "slow").state == "dispatched"
    with records(quiet_site.server.url) as broker:
        for connection in broker.client_list():
            if connection["cmd"] == "brpop":
                broker.client_kill_filter(_id=connection["id"])
    assert _wait_state(handle, "slow", "held").hold == "lost"
    wait_until(lambda: "held" in _stored_states(daemon))
    daemon.kill()
    daemon.start()
    assert _node(handle, "slow").hold == "lost"
    start_worker()
    quiet_site.executions.release("gate", value="all the same")
    outcome = handle.wait(timeout_s=_WAIT_S)
    assert (outcome.state, outcome.result) == ("succeeded", "all the same")
    assert client.stats().engine["counters"]["turned_up"] == 1
    assert quiet_site.executions.counts()[_node(handle, "slow").task_id] == 1


@pytest.mark.long
def test_many_overdue_tasks_cost_little(client: Client, quiet_site: Site) -> None:
    """Two thousand overdue tasks in a queue behind fifty thousand messages are found in one search a round."""
    with records(quiet_site.server.url) as broker:
        for _ in range(50):
            broker.lpush("celery", *['{"headers": {}, "properties": {"correlation_id": "someone-else"}}'] * 1000)
        handle = client.submit(_fan(2000))
        wait_until(lambda: client.stats().lost["findings"]["no-consumer"] >= 2000, timeout_s=_WAIT_S)
        before = broker.info("cpu")["used_cpu_user"]
        _wait_for_looks(client, 4)
        print(f"4 rounds of 500 tasks: {broker.info('cpu')['used_cpu_user'] - before:.2f} s of the server's CPU")
        assert not client.stats().lost["missing"]
    assert handle.status().counts["dispatched"] == 2000


def _fan(count: int) -> Workflow:
    workflow = Workflow("fan")
    for number in range(count):
        workflow.add(tasks.echo.si(number), name=f"n{number}")
    return workflow
