"""The server restarts or cuts connections in the middle of a run, under a real worker that reconnects by itself.

A worker whose own connection is lost hands the message it holds back to the queue ("Restoring 1 unacknowledged message") and
executes it again, although it had executed it: Celery's at-least-once. Where a fault reaches the worker, its log therefore says
how many executions more there may be.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import chain, group

from dyrygentd.canvas import definition_of
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.apps import closing
from tests.support.servers import CeleryWorker, wait_until
from tests.support.shapes import Shape, make
from tests.support.tasks import create_app, records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

_TASKS = 300
_MOMENTS = range(20, _TASKS, 50)
_END = "that-is-all"


def _run(site: Site, maltreat: Callable[[redis.Redis], object], *, moments: range = _MOMENTS) -> Shape:
    """Run a workflow and do something to the server after so many executions; check that each message was sent once."""
    shape = make("layered", _TASKS)
    daemon = site.daemon()
    with daemon, daemon.client() as client, records(site.server.url) as orders:
        handle = client.submit(shape.definition)
        for moment in moments:
            wait_until(
                lambda moment=moment: len(site.executions.counts()) >= moment,  # type: ignore[misc]
                timeout_s=60,
                message=daemon.log,
            )
            maltreat(orders)
        outcome = handle.wait(timeout_s=120)
        assert outcome.state == "succeeded", (outcome, daemon.log())
        wait_until(lambda: client.health().status == "ok", message=lambda: str(client.health()))
        assert client.stats().dispatcher["published"] == shape.task_count
    return shape


@pytest.mark.long
def test_connections_of_the_daemon_are_cut(own_site: Site) -> None:
    """Publishing and receiving survive the loss of every connection of the daemon, again and again."""
    connections = _Connections(own_site)
    shape = _run(own_site, connections.kill)
    assert connections.killed
    shape.assert_executed(own_site.executions)


@pytest.mark.long
def test_subscriptions_are_cut(own_site: Site) -> None:
    """`CLIENT KILL TYPE pubsub` hits the daemon's results and the worker's remote control; no message is sent twice."""
    with records(own_site.server.url) as orders, orders.monitor() as monitor:
        shape = _run(own_site, lambda orders: orders.client_kill_filter(_type="pubsub"))
        orders.echo(_END)
        # A script is ours alone: a worker gives back with RPUSH, and answers a census with LPUSH.
        by_script = [each for each in _commands(monitor) if each["client_type"] == "lua"]
    pushed = [each["command"].split()[1] for each in by_script if each["command"].startswith("LPUSH ")]
    assert pushed == ["celery"] * shape.task_count
    _assert_no_more_than_restored(shape, own_site)


@pytest.mark.long
def test_server_restarts_while_we_publish(quiet_site: Site) -> None:
    """Restarts of the server in the middle of publishing leave each message in the queue once."""
    site, shape = quiet_site, make("group", 1500)
    daemon = site.daemon()
    with daemon, daemon.client() as client, records(site.server.url) as orders:
        handle = client.submit(shape.definition)
        for moment in (1, 700):
            wait_until(lambda moment=moment: orders.llen("celery") >= moment, message=daemon.log)  # type: ignore[misc]
            site.server.restart()
        wait_until(lambda: client.stats().dispatcher["published"] == shape.task_count, message=daemon.log)
        assert orders.llen("celery") == shape.task_count
        with CeleryWorker(site.server.url, log_directory=site.directory):
            assert handle.wait(timeout_s=120).state == "succeeded", daemon.log()
    shape.assert_executed(site.executions)


@pytest.mark.long
def test_server_restarts_between_tasks(own_site: Site) -> None:
    """A restart while the worker waits for messages is a pause: the data come back, and all reconnect by themselves.

    Not while it takes one: kombu's transport has it in no key of the server for a moment (celery#4354), or leaves it to the
    visibility timeout of an hour.
    """
    site = own_site
    canvas = chain(_group_of(100), tasks.noop.si().set(queue="later"), _group_of(100))
    shape = Shape("around a restart", definition_of(canvas), 201)
    daemon = site.daemon()
    with daemon, daemon.client() as client, records(site.server.url) as orders:
        handle = client.submit(shape.definition)
        wait_until(lambda: orders.llen("later") == 1, message=daemon.log)
        site.server.restart()
        with CeleryWorker(site.server.url, log_directory=site.directory, queues=["later"]):
            assert handle.wait(timeout_s=120).state == "succeeded", daemon.log()
        wait_until(lambda: client.health().status == "ok", message=lambda: str(client.health()))
    shape.assert_executed(site.executions)


def _commands(monitor: Any) -> Iterator[dict[str, str]]:
    """Yield what the server did while it was monitored, which it keeps until it is read."""
    for command in monitor.listen():
        if command["command"] == f"ECHO {_END}":
            return
        yield command


def _group_of(n: int) -> Any:
    return group([tasks.noop.si() for _ in range(n)])


def _assert_no_more_than_restored(shape: Shape, site: Site) -> None:
    """Check that everything was executed, and more than once only what the worker itself gave back."""
    counts = site.executions.counts()
    assert {task_id for task_id in shape.task_ids if task_id not in counts} == set()
    [log] = site.directory.glob("w*.log")
    restored = sum(int(count) for count in re.findall(r"Restoring (\d+) unacknowledged", log.read_text()))
    assert sum(counts[task_id] for task_id in shape.task_ids) - shape.task_count <= restored


class _Connections:
    """Kills connections that belong to no worker and to no test."""

    def __init__(self, site: Site) -> None:
        # The worker opens some connections only when it executes something.
        with closing(create_app(site.server.url, site.server.url)) as app:
            warm_up = [app.tasks[tasks.noop.name].delay().id for _ in range(5)]
            site.executions.wait_finished(warm_up)
        with records(site.server.url) as orders:
            self._spared = {client["id"] for client in orders.client_list()}
        self.killed = 0

    def kill(self, orders: redis.Redis) -> None:
        """Kill every connection that came after this object was made, but the one that gives the order."""
        own = str(orders.client_id())
        for client in orders.client_list():
            if client["id"] not in self._spared and client["id"] != own:
                self.killed += orders.client_kill_filter(_id=client["id"])
