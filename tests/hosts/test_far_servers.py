"""A daemon whose servers are on another host: whatever network and servers do to it, each task runs exactly once."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.hosts.world import IMPATIENT, DaemonAt, World
from tests.support.servers import wait_until
from tests.support.shapes import Shape, make

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300)]

_TASKS = 1000 if os.environ.get("DYRYGENTD_TEST_FULL") == "1" else 300
_WAIT_S = 150


@contextmanager
def _at_work(world: World, daemon: DaemonAt, *, when: int = _TASKS // 3) -> Iterator[Shape]:
    """Have a workflow be amid its work inside, and afterwards come to its end, each task executed and pushed once."""
    shape = make("layered", _TASKS)
    with world.ledger as ledger, daemon, daemon.client() as client:
        handle = client.submit(shape.definition)
        wait_until(lambda: len(world.executions.counts()) >= when, timeout_s=_WAIT_S, message=daemon.log)
        yield shape
        wait_until(lambda: handle.status().state == "succeeded", timeout_s=_WAIT_S, message=daemon.log)
        wait_until(lambda: daemon.get("/readyz")[0] == 200, timeout_s=_WAIT_S, message=daemon.log)
        assert daemon.stop() == 0, daemon.log()
        pushed = Counter(push.task_id for push in ledger.pushes())
    shape.assert_executed(world.executions)
    assert [task_id for task_id, count in pushed.items() if count > 1] == []
    assert "Traceback" not in daemon.log()


def _troubled(daemon: DaemonAt, words: str) -> None:
    """Wait until the daemon tells of it."""
    wait_until(lambda: words in daemon.get("/healthz")[1], timeout_s=_WAIT_S, message=daemon.log)


def test_postgres_cut_silently(world: World) -> None:
    """The way to PostgreSQL is cut without a word: the daemon notices, says so, and goes on by itself when it is there again."""
    daemon = world.daemon("pgcut", world.a, options=IMPATIENT)
    with _at_work(world, daemon):
        world.network.cut(world.a.address, world.postgres.host.address)
        _troubled(daemon, "cannot write the database")
        world.network.mend()


def test_redis_cut_silently(world: World) -> None:
    """The same of Redis, for messages and results."""
    daemon = world.daemon("rdcut", world.a)
    with _at_work(world, daemon):
        world.network.cut(world.a.address, world.redis.address)
        _troubled(daemon, "results cannot be received")
        world.network.mend()


def test_everything_cut_silently(world: World) -> None:
    """A host that is alone with its daemon for a while."""
    daemon = world.daemon("allcut", world.a, options=IMPATIENT)
    with _at_work(world, daemon):
        world.network.cut_off(world.a, world.c)
        _troubled(daemon, "cannot write the database")
        world.network.mend()


def test_postgres_hangs(world: World) -> None:
    """A server that takes what is sent and answers nothing is noticed, too, and waited for."""
    daemon = world.daemon("pghang", world.a, options=IMPATIENT)
    with _at_work(world, daemon):
        world.postgres.hang()
        _troubled(daemon, "cannot write the database")
        world.postgres.go_on()


def test_end_while_postgres_hangs(world: World) -> None:
    """A daemon whose server hangs can be stopped, and the next start goes on."""
    daemon = world.daemon("pgend", world.a, options=IMPATIENT)
    with _at_work(world, daemon):
        world.postgres.hang()
        assert daemon.stop(timeout_s=_WAIT_S) == 0, daemon.log()
        world.postgres.go_on()
        daemon.start()


def test_end_while_everything_is_cut(world: World) -> None:
    """So can one that nobody is there for."""
    daemon = world.daemon("cutend", world.a)
    with _at_work(world, daemon):
        world.network.cut_off(world.a, world.c)
        assert daemon.stop(timeout_s=_WAIT_S) == 0, daemon.log()
        world.network.mend()
        daemon.start()


def test_bad_weather(world: World) -> None:
    """50 ms to the servers and back, and 2 % of the packets lost, make everything slower and nothing wrong."""
    daemon = world.daemon("weather", world.a)
    world.network.slow(world.c, delay_s=0.025, loss=0.02)
    with _at_work(world, daemon):
        pass
    assert world.network.dropped


def test_postgres_restarts(world: World) -> None:
    """A server that is stopped and started again is connected to anew."""
    daemon = world.daemon("pgrestart", world.a)
    with _at_work(world, daemon):
        world.postgres.stop()
        world.postgres.start()


def test_postgres_fails_over(own_world: World) -> None:
    """The host of the primary is lost, and the synchronous replica has all that was answered for."""
    world = own_world
    replica = world.replica()
    daemon = world.daemon("failover", world.a, replica=replica, options=IMPATIENT)
    with _at_work(world, daemon):
        for host in (world.a, replica.host):
            world.network.cut(host.address, world.postgres.host.address)
        replica.promote()
