"""A broker that can be asked and takes no writes: named first, with what to do about it, also while nothing is to be sent."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from dyrygentd import Workflow
from tests.integration.conftest import Site, running_site
from tests.support import tasks
from tests.support.servers import wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


class _Refusal(NamedTuple):
    """How a server comes to refuse writes, how it is mended, and what is said then."""

    begin: Callable[[redis.Redis], object]
    end: Callable[[redis.Redis], object]
    cause: str
    step: str


_REFUSALS = {
    "replica": _Refusal(
        lambda orders: orders.replicaof("127.0.0.1", "1"),
        lambda orders: orders.replicaof("NO", "ONE"),
        "You can't write against a read only replica; it is a replica",
        "promote the broker (`redis-cli REPLICAOF NO ONE`)",
    ),
    "full": _Refusal(
        lambda orders: orders.config_set("maxmemory", "1kb"),
        lambda orders: orders.config_set("maxmemory", "0"),
        "it is full",
        "give the broker more memory",
    ),
    "without replicas": _Refusal(
        lambda orders: orders.config_set("min-replicas-to-write", "1"),
        lambda orders: orders.config_set("min-replicas-to-write", "0"),
        "it takes nothing without its replicas",
        "bring the replicas of the broker back",
    ),
}


@pytest.fixture(scope="module")
def idle_site() -> Iterator[Site]:
    """A broker whose results are elsewhere, and nobody who fetches."""
    with running_site(workers=0) as site:
        yield site


@pytest.mark.long
@pytest.mark.parametrize("refusal", _REFUSALS.values(), ids=list(_REFUSALS))
def test_refusal_is_named_while_nothing_is_to_be_sent(idle_site: Site, refusal: _Refusal, tmp_path: Path) -> None:
    """All that there is was sent before; only whoever tries to write learns of it."""
    workflow = Workflow("sent")
    workflow.add(tasks.noop.si(), name="a")
    with idle_site.daemon(tmp_path.name) as daemon, daemon.client() as client, records(idle_site.server.url) as orders:
        handle = client.submit(workflow)
        wait_until(lambda: handle.node("a").state == "dispatched", message=daemon.log)
        refusal.begin(orders)
        try:
            wait_until(lambda: client.health().status == "degraded", message=daemon.log)
            found, overview = handle.explain(), client.explain()
            assert found.verdict.startswith("cannot reach the broker: ")
            assert refusal.cause in found.verdict
            assert found.next_step.startswith(refusal.step)
            assert refusal.cause in overview.verdict
            assert overview.items[0].next_steps[0].startswith(refusal.step)
        finally:
            refusal.end(orders)
        wait_until(lambda: client.health().status == "ok", message=daemon.log)
        assert daemon.log().count("the broker does not answer") == 1
        handle.cancel()
        assert handle.wait(timeout_s=20).state == "cancelled"


def test_refusal_is_named_by_who_asks_at_once(idle_site: Site) -> None:
    """The question itself is refused, before the daemon has looked again."""
    refusal = _REFUSALS["replica"]
    workflow = Workflow("sent")
    workflow.add(tasks.noop.si(), name="a")
    with idle_site.daemon() as daemon, daemon.client() as client, records(idle_site.server.url) as orders:
        handle = client.submit(workflow)
        wait_until(lambda: handle.node("a").state == "dispatched", message=daemon.log)
        refusal.begin(orders)
        try:
            for found, rest in ((handle.explain(), "; it is running"), (handle.explain("a"), "; 'a' has been")):
                assert refusal.cause in found.verdict.partition(rest)[0]
                assert found.next_step.startswith(refusal.step)
        finally:
            refusal.end(orders)
