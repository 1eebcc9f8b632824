"""Where a message was put is remembered: it is looked for, counted and taken back there, whatever routes say now."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import chain
from kombu.connection import Connection

from dyrygentd import Workflow
from dyrygentd.client.sync import Client, Handle
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_QUICK = ("--app", "tests.support.routed", "--lost-after-s", "1", "--lost-confirm-s", "1")
_WAIT_S = 60


@pytest.fixture
def broker(quiet_site: Site) -> Iterator[redis.Redis]:
    """The broker's Redis."""
    with records(quiet_site.server.url) as client:
        yield client


def _daemon(site: Site, route: str, *flags: str) -> Daemon:
    return site.daemon("daemon", *_QUICK, *flags, DYRYGENTD_TEST_ROUTE=route)


def _one(**options: Any) -> Workflow:
    workflow = Workflow("one")
    workflow.add(tasks.wait_for.si("gate"), name="a", **options)
    return workflow


def _wait_for_looks(client: Client, count: int) -> None:
    wanted = int(client.stats().lost["looks"]) + count
    wait_until(lambda: client.stats().lost["looks"] >= wanted, timeout_s=_WAIT_S, message=lambda: str(client.stats().lost))


def _sharded(key: str) -> Workflow:
    workflow = Workflow("sharded")
    first = workflow.add(tasks.identity.si(key), name="first")
    workflow.add(tasks.wait_for.s(), name="a", after=[first], idempotent=True)
    return workflow


@pytest.mark.long
def test_router_that_looks_at_values(quiet_site: Site, broker: redis.Redis, start_worker: Callable[..., CeleryWorker]) -> None:
    """A task that a value has sent to a queue without workers waits there, once, within the limit, and can be taken back."""
    start_worker(pool="threads")
    with _daemon(quiet_site, "by argument", "--queue-limits", "shard-eu=1") as daemon, daemon.client() as client:
        first, second = client.submit(_sharded("eu")), client.submit(_sharded("eu"))
        wait_until(lambda: broker.llen("shard-eu") == 1, message=daemon.log)
        _wait_for_looks(client, 4)
        assert broker.llen("shard-eu") == 1
        assert sorted([first.node("a").hold or "", second.node("a").hold or ""]) == ["", "pool"]
        waiting, held = (first, second) if first.node("a").hold is None else (second, first)
        found = waiting.explain("a")
        assert found.code == "no-consumer", found
        assert "waits in queue 'shard-eu' at its head" in found.verdict
        assert not client.stats().engine["counters"]["lost"]
        gone = str(waiting.node("a").task_id)
        waiting.cancel()
        # The one that waited for the place goes into the queue; the other is not there any more.
        wait_until(lambda: held.node("a").state == "dispatched", message=daemon.log)
        wait_until(lambda: broker.llen("shard-eu") == 1, message=daemon.log)
        start_worker(pool="threads", queues=["shard-eu"])
        quiet_site.executions.release("eu", value="done", count=2)
        assert held.wait(timeout_s=_WAIT_S).result == "done"
        counts = quiet_site.executions.counts()
        assert gone not in counts
        assert counts[str(held.node("a").task_id)] == 1


@pytest.mark.long
def test_changed_routes(quiet_site: Site, broker: redis.Redis, start_worker: Callable[..., CeleryWorker]) -> None:
    """What waits in the queue of an earlier route is found there after a restart, neither lost nor sent again."""
    with _daemon(quiet_site, "old") as daemon, daemon.client() as client:
        stays, goes = client.submit(_one(idempotent=True)), client.submit(_one())
        wait_until(lambda: broker.llen("old") == 2, message=daemon.log)
        wait_until(lambda: goes.node("a").state == "dispatched")
    with _daemon(quiet_site, "new") as daemon, daemon.client() as client:
        stays, goes = client.handle(stays.id), client.handle(goes.id)
        _wait_for_looks(client, 4)
        assert (broker.llen("old"), broker.llen("new")) == (2, 0)
        assert stays.explain("a").facts["a"]["queue"]["name"] == "old"
        goes.cancel()
        wait_until(lambda: broker.llen("old") == 1, message=daemon.log)
        later = client.submit(_one())
        wait_until(lambda: broker.llen("new") == 1, message=daemon.log)
        start_worker(pool="threads", concurrency=2, queues=["old", "new"])
        quiet_site.executions.release("gate", count=2)
        assert stays.wait(timeout_s=_WAIT_S).state == "succeeded"
        assert later.wait(timeout_s=_WAIT_S).state == "succeeded"
        assert sorted(quiet_site.executions.counts().values()) == [1, 1]
        assert not client.stats().engine["counters"]["lost"]


def test_two_queues_of_one_task(quiet_site: Site, broker: redis.Redis) -> None:
    """Nodes of one workflow and one task may go to several queues: each is remembered, over a restart with other routes, too."""
    workflow = Workflow("two queues")
    workflow.add(tasks.wait_for.si("gate"), name="usual")
    workflow.add(tasks.wait_for.si("gate").set(queue="own"), name="own")

    def queues(handle: Handle) -> list[str]:
        facts = handle.explain().facts
        return [facts[name]["queue"]["name"] for name in ("usual", "own")]

    with _daemon(quiet_site, "old") as daemon, daemon.client() as client:
        handle = client.submit(workflow)
        wait_until(lambda: handle.status().counts == {"dispatched": 2}, message=daemon.log)
        assert queues(handle) == ["old", "own"]
    with _daemon(quiet_site, "new") as daemon, daemon.client() as client:
        assert queues(client.handle(handle.id)) == ["old", "own"]
        client.handle(handle.id).cancel()
        wait_until(lambda: not broker.llen("old") and not broker.llen("own"), message=daemon.log)


@pytest.mark.long
def test_changed_routes_on_rabbitmq(quiet_site: Site, amqp_url: str, rabbitmq_queue: str) -> None:
    """There, too, the queue that is looked at is the one that has the message."""
    with _daemon(quiet_site, rabbitmq_queue, "--broker", amqp_url) as daemon, daemon.client() as client:
        handle = client.submit(_one(idempotent=True))
        wait_until(lambda: handle.node("a").state == "dispatched", message=daemon.log)
    other = f"{rabbitmq_queue}-new"
    try:
        with _daemon(quiet_site, other, "--broker", amqp_url) as daemon, daemon.client() as client:
            handle = client.handle(handle.id)
            _wait_for_looks(client, 4)
            assert handle.node("a").attempt == 1
            found = handle.explain("a")
            assert (found.code, found.facts["a"]["queue"]["name"]) == ("no-consumer", rabbitmq_queue), found
            worker = CeleryWorker(
                amqp_url,
                quiet_site.server.url,
                log_directory=quiet_site.directory,
                queues=(rabbitmq_queue,),
                records_url=quiet_site.server.url,
            )
            with worker:
                quiet_site.executions.release("gate")
                assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
            assert list(quiet_site.executions.counts().values()) == [1]
    finally:
        with Connection(amqp_url) as connection:
            connection.default_channel.queue_delete(other)


def test_canvas_of_values(quiet_site: Site, broker: redis.Redis) -> None:
    """A chain as people write it is routed by the value, too."""
    with _daemon(quiet_site, "by argument") as daemon, daemon.client() as client:
        client.submit(chain(tasks.wait_for.si("us"), tasks.noop.si()))
        wait_until(lambda: broker.llen("shard-us") == 1, message=daemon.log)
