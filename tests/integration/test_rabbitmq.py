"""RabbitMQ under the real daemon: connections that are cut or stall, and what can be known of a message that is gone."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from celery import group
from kombu.connection import Connection

from dyrygentd import Workflow
from dyrygentd.client.sync import Client, Handle
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.proxy import TcpGate
from tests.support.servers import CeleryWorker, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_TASKS = 30
_WAIT_S = 60


@pytest.fixture
def gate(amqp_url: str) -> Iterator[TcpGate]:
    """The way from the daemon to RabbitMQ; workers have their own."""
    parts = urlsplit(amqp_url)
    with TcpGate((parts.hostname or "127.0.0.1", parts.port or 5672)) as gate:
        yield gate


@pytest.fixture
def daemon(amqp_url: str, gate: TcpGate, quiet_site: Site) -> Iterator[Daemon]:
    """A daemon that reaches RabbitMQ through the gate, has its results in Redis, and soon looks for what is lost."""
    parts = urlsplit(amqp_url)
    user = f"{parts.username}:{parts.password}@" if parts.username else ""
    url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{gate.port}"))
    flags = ["--broker", url, "--lost-after-s", "1", "--lost-confirm-s", "1"]
    with quiet_site.daemon("rabbit", *flags) as daemon:
        yield daemon


def _worker(site: Site, amqp_url: str, queue: str, **options: Any) -> CeleryWorker:
    return CeleryWorker(
        amqp_url, site.server.url, log_directory=site.directory, queues=(queue,), records_url=site.server.url, **options
    )


def _take(amqp_url: str, queue: str) -> None:
    """Take a message out of the queue, and lose it."""
    with Connection(amqp_url) as connection, closing(connection.channel()) as channel:
        message = channel.basic_get(queue, no_ack=True)
        assert message is not None


@pytest.mark.long
@pytest.mark.parametrize("how", ["cut", "stalled"])
def test_way_to_the_broker(
    how: str, daemon: Daemon, client: Client, gate: TcpGate, amqp_url: str, rabbitmq_queue: str, quiet_site: Site
) -> None:
    """A connection that is cut, or over which nothing comes any more, is told; afterwards all is sent and ends."""
    warm_up = client.submit(tasks.noop.si().set(queue=rabbitmq_queue))
    wait_until(lambda: warm_up.status().counts == {"dispatched": 1}, message=daemon.log)
    gate.shut() if how == "cut" else gate.stall()
    handle = client.submit(group(tasks.noop.si().set(queue=rabbitmq_queue) for _ in range(_TASKS)))
    wait_until(lambda: client.health().status == "degraded", timeout_s=_WAIT_S, message=lambda: str(client.health()))
    assert "cannot publish" in daemon.status_line()
    assert handle.status().counts == {"dispatching": _TASKS}
    gate.open()
    with _worker(quiet_site, amqp_url, rabbitmq_queue):
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()
    wait_until(lambda: client.health().status == "ok", message=lambda: str(client.health()))
    # At least once: here nobody can tell whether what was cut off had arrived.
    counts = quiet_site.executions.counts()
    assert all(counts[str(node.task_id)] >= 1 for node in handle.nodes() if node.task_id)
    assert "Traceback" not in daemon.log()


def _two(queue: str, first: Any) -> Workflow:
    workflow = Workflow("two")
    workflow.add(first.set(queue=queue), name="first")
    workflow.add(tasks.noop.si().set(queue=queue), name="second")
    return workflow


def _is_queued(handle: Handle) -> bool:
    return handle.status().counts == {"dispatched": 2}


@pytest.mark.long
def test_message_that_is_gone_is_lost(
    client: Client, daemon: Daemon, amqp_url: str, rabbitmq_queue: str, quiet_site: Site
) -> None:
    """Once the queue is empty and its consumers have answered, a message that nobody has is lost, and held for an operator."""
    handle = client.submit(_two(rabbitmq_queue, tasks.noop.si()))
    wait_until(lambda: _is_queued(handle), message=daemon.log)
    _take(amqp_url, rabbitmq_queue)
    with _worker(quiet_site, amqp_url, rabbitmq_queue):
        wait_until(lambda: handle.status().counts == {"succeeded": 1, "held": 1}, timeout_s=_WAIT_S, message=daemon.log)
        [held] = [node for node in handle.nodes() if node.state == "held"]
        assert held.hold == "lost"
        handle.retry(held.name, why="it was taken out of the queue")
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
    quiet_site.executions.assert_each_once([str(node.task_id) for node in handle.nodes()])


@pytest.mark.long
def test_message_behind_others_is_not_judged(
    client: Client, daemon: Daemon, amqp_url: str, rabbitmq_queue: str, quiet_site: Site, tmp_path: Path
) -> None:
    """While there are messages in the queue, which nobody can look into, one that is gone may be among them: it is unknown."""
    key = tmp_path.name
    handle = client.submit(_two(rabbitmq_queue, tasks.noop.si()))
    wait_until(lambda: _is_queued(handle), message=daemon.log)
    _take(amqp_url, rabbitmq_queue)
    other = client.submit(_two(rabbitmq_queue, tasks.wait_for.si(key)))
    wait_until(lambda: _is_queued(other), message=daemon.log)
    looks = client.stats().lost["looks"]
    wait_until(lambda: client.stats().lost["looks"] >= looks + 2, timeout_s=_WAIT_S, message=lambda: str(client.stats().lost))
    assert handle.status().counts == {"dispatched": 2}
    assert client.stats().engine["counters"]["lost"] == 0
    quiet_site.executions.release(key)
    with _worker(quiet_site, amqp_url, rabbitmq_queue):
        assert other.wait(timeout_s=_WAIT_S).state == "succeeded"
        wait_until(lambda: handle.status().counts == {"succeeded": 1, "held": 1}, timeout_s=_WAIT_S, message=daemon.log)
