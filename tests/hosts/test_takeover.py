"""Two daemons on two hosts, one database: whatever befalls who leads, one of them goes on, and each task runs exactly once."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Final

import pytest

from dyrygentd import wire
from dyrygentd.errors import DyrygentError
from tests.hosts.pair import Pair, health_text, leads, role
from tests.hosts.world import IMPATIENT, World
from tests.support.postgres import programs_or_skip
from tests.support.servers import wait_until
from tests.support.shapes import Shape, make
from tests.support.size import of_size

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300)]

_TASKS = 1000 if os.environ.get("DYRYGENTD_TEST_FULL") == "1" else 300
_SEEDS = int(os.environ.get("DYRYGENTD_TEST_SEEDS", of_size(1, 4)))
_WAIT_S = 150


@contextmanager
def _at_work(world: World, pair: Pair, *, tasks: int = _TASKS) -> Iterator[Callable[[float], None]]:
    """Have a workflow be amid its work, and afterwards come to its end, each task executed and pushed once.

    What comes of it waits until such a share of the tasks was executed.
    """
    shape = make("layered", tasks)
    with world.ledger as ledger:
        with _each_at_work(world, pair, shape) as wait_for:
            yield wait_for
        shape.assert_executed(world.executions)
        pushed = Counter(push.task_id for push in ledger.pushes())
    assert [task_id for task_id, count in pushed.items() if count > 1] == []
    assert pair.ended == []
    assert "Traceback" not in pair.log()


@contextmanager
def _each_at_work(world: World, pair: Pair, shape: Shape) -> Iterator[Callable[[float], None]]:
    """Have both daemons run, and a workflow of this shape come to its end."""
    with pair:
        with pair.leader().client() as client:
            workflow_id = client.submit(shape.definition).id

        def wait_for(share: float) -> None:
            wait_until(lambda: len(world.executions.counts()) >= share * shape.task_count, timeout_s=_WAIT_S, message=pair.log)

        def has_ended() -> bool:
            try:
                with pair.leader().client() as client:
                    return client.get(workflow_id).state == "succeeded"
            except (DyrygentError, OSError):
                # It leads no more.
                return False

        wait_for(0.2)
        yield wait_for
        wait_until(has_ended, timeout_s=_WAIT_S, message=pair.log)


def test_leader_is_killed(world: World) -> None:
    """Each in turn is killed; the other one goes on."""
    pair = Pair(world, "killed")
    with _at_work(world, pair) as wait_for:
        for share in (0.3, 0.6):
            wait_for(share)
            leader = pair.leader()
            # It stays down until the other one leads.
            with pair.dead(leader):
                wait_until(partial(leads, pair.other(leader)), timeout_s=_WAIT_S, message=pair.log)
            wait_until(pair.is_whole, timeout_s=_WAIT_S, message=pair.log)


def test_both_are_killed(world: World) -> None:
    """A power cut of both hosts: either of them goes on."""
    pair = Pair(world, "both")
    with _at_work(world, pair) as wait_for:
        wait_for(0.4)
        pair.kill(*pair.daemons)


def test_both_are_restarted(world: World) -> None:
    """Both are told to end and are started at one time, as by an upgrade of all hosts."""
    pair = Pair(world, "again")
    with _at_work(world, pair) as wait_for:
        wait_for(0.4)
        pair.restart()


def test_leader_is_stopped(world: World) -> None:
    """One that is stopped for longer than its lease holds is not waited for; later it sends nothing and says who leads."""
    pair = Pair(world, "stopped")
    with _at_work(world, pair):
        leader = pair.leader()
        os.kill(leader.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: leads(pair.other(leader)), timeout_s=_WAIT_S, message=pair.log)
        finally:
            os.kill(leader.pid, signal.SIGCONT)
        wait_until(lambda: role(leader) == "standby", timeout_s=_WAIT_S, message=pair.log)
        assert "this process stands by" in leader.log()


def test_takeover_of_many_nodes(own_world: World) -> None:
    """A workflow of 10,000 unfinished nodes changes hands; how long that takes is printed."""
    pair, ledger = Pair(own_world, "many"), own_world.ledger
    with closing(ledger), pair:
        leader = pair.leader()
        with leader.client() as client:
            workflow_id = client.submit(make("layered", 10_000).definition).id
        wait_until(lambda: len(own_world.executions.counts()) >= _TASKS, timeout_s=_WAIT_S, message=pair.log)
        begun = time.monotonic()
        with pair.dead(leader):
            for _ in ledger.pushes():
                pass
            wait_until(lambda: any(not push.is_restored for push in ledger.pushes()), timeout_s=_WAIT_S, message=pair.log)
            published_s = time.monotonic() - begun
            wait_until(lambda: leads(pair.other(leader)), timeout_s=_WAIT_S, message=pair.log)
        led_s = time.monotonic() - begun
        print(f"10,000 nodes: the first message {published_s:.1f} s after a kill, led again after {led_s:.1f} s or less")
        with pair.leader().client() as client:
            assert client.get(workflow_id).state == "running"


def test_leader_is_cut_from_postgres(world: World) -> None:
    """The host that leads loses the way to PostgreSQL alone: the other takes over, and the first one sends nothing any more."""
    pair = Pair(world, "cutpg")
    with _at_work(world, pair):
        leader = pair.leader()
        world.network.cut(leader.host.address, world.postgres.host.address)
        wait_until(lambda: leads(pair.other(leader)), timeout_s=_WAIT_S, message=pair.log)
        world.network.mend()


def test_overtaken_leader_cannot_reach_postgres(world: World) -> None:
    """The broker tells it that another one has the database, which it still cannot reach: it stands by, and waits for that."""
    pair = Pair(world, "cutlong")
    with _at_work(world, pair):
        leader = pair.leader()
        world.network.cut(leader.host.address, world.postgres.host.address)
        wait_until(partial(leads, pair.other(leader)), timeout_s=_WAIT_S, message=pair.log)
        wait_until(lambda: "this process stands by" in leader.log() or pair.ended, timeout_s=_WAIT_S, message=pair.log)
        # It serves clients, and says what is wrong.
        wait_until(lambda: role(leader) == "standby" or pair.ended, timeout_s=_WAIT_S, message=pair.log)
        # What it cannot see it does not claim: the other one leads.
        with leader.client() as client:
            health = client.health()
        assert health.problems, pair.log()
        assert not wire.knows_nobody_leads(health), pair.log()
        world.network.mend()


def test_leader_is_cut_from_redis(world: World) -> None:
    """The host that leads loses the way to Redis alone: it has the database still, says what is wrong, and goes on afterwards."""
    pair = Pair(world, "cutredis")
    with _at_work(world, pair):
        leader = pair.leader()
        world.network.cut(leader.host.address, world.redis.address)
        wait_until(lambda: "results cannot be received" in health_text(leader), timeout_s=_WAIT_S, message=pair.log)
        assert (role(leader), role(pair.other(leader))) == ("leader", "standby")
        world.network.mend()


def test_leader_is_cut_from_everything(world: World) -> None:
    """The host that leads is alone."""
    pair = Pair(world, "cutall")
    with _at_work(world, pair):
        leader = pair.leader()
        world.network.cut_off(leader.host, world.c)
        wait_until(lambda: leads(pair.other(leader)), timeout_s=_WAIT_S, message=pair.log)
        world.network.mend()


def test_postgres_restarts(world: World) -> None:
    """A database that both of them lose for a moment is led by one of them afterwards."""
    pair = Pair(world, "restarts")
    with _at_work(world, pair):
        world.postgres.stop()
        world.postgres.start()
        wait_until(pair.is_whole, timeout_s=_WAIT_S, message=pair.log)


def test_bad_weather(world: World) -> None:
    """50 ms to the servers and back, and 2 % of the packets lost, for both of them, and a kill amid it."""
    pair = Pair(world, "weather")
    world.network.slow(world.c, delay_s=0.025, loss=0.02)
    # Each turn takes several of these ways: more tasks would only take longer.
    with _at_work(world, pair, tasks=300) as wait_for:
        wait_for(0.4)
        pair.kill(pair.leader())
    assert world.network.dropped


def test_two_hosts_of_one_name(world: World) -> None:
    """The second one is refused, and both that were there go on: its users would be those of the first one."""
    pair = Pair(world, "named")
    with _at_work(world, pair):
        other = world.daemon("named-e", world.network.host("e"), "--host-name", "a", schema="named", options=IMPATIENT)
        other.launch()
        assert other.wait(timeout_s=_WAIT_S) == 2, other.log()
        assert "this host is called 'a', and so is that of process" in other.log()
        assert pair.is_whole()


def test_postgres_fails_over(own_world: World) -> None:
    """The host of the primary is lost, and one of the daemons goes on with the synchronous replica."""
    world = own_world
    replica = world.replica()
    pair = Pair(world, "failover", replica=replica)
    with _at_work(world, pair):
        for host in (world.a, world.b, replica.host):
            world.network.cut(host.address, world.postgres.host.address)
        replica.promote()


def test_old_backup_is_started_beside_them(world: World) -> None:
    """A daemon on an older copy of the schema is refused by the broker, and changes nothing."""
    pair = Pair(world, "backup")
    tool = programs_or_skip() / "pg_dump"
    if not tool.exists():
        pytest.skip(f"no pg_dump in {tool.parent}")
    with _at_work(world, pair) as wait_for:
        dumped = subprocess.run(
            [str(tool), "--schema=backup", world.postgres.conninfo()], check=True, capture_output=True, text=True
        ).stdout
        database = world.postgres.make_database()
        restored = [str(tool.with_name("psql")), "-q", "-v", "ON_ERROR_STOP=1", world.postgres.conninfo(database)]
        subprocess.run(restored, input=dumped, check=True, capture_output=True, text=True)
        # A later process than the backup knows has the database since.
        pair.kill(pair.leader())
        wait_for(0.5)
        pair.leader()
        copy = world.daemon("copy", world.b, schema="backup", database=database)
        copy.launch()
        assert copy.wait(timeout_s=_WAIT_S) == 5, copy.log()


def _killed(world: World, pair: Pair, chance: random.Random) -> None:
    pair.kill(pair.leader())


def _all_killed(world: World, pair: Pair, chance: random.Random) -> None:
    pair.kill(*pair.daemons)


def _stopped(world: World, pair: Pair, chance: random.Random) -> None:
    pid = pair.leader().pid
    os.kill(pid, signal.SIGSTOP)
    _pass(chance)
    os.kill(pid, signal.SIGCONT)


def _cut_from_postgres(world: World, pair: Pair, chance: random.Random) -> None:
    world.network.cut(pair.leader().host.address, world.postgres.host.address)
    _pass(chance)
    world.mend()


def _cut_from_redis(world: World, pair: Pair, chance: random.Random) -> None:
    world.network.cut(pair.leader().host.address, world.redis.address)
    _pass(chance)
    world.mend()


def _cut_off(world: World, pair: Pair, chance: random.Random) -> None:
    world.network.cut_off(pair.leader().host, world.c)
    _pass(chance)
    world.mend()


def _hangs(world: World, pair: Pair, chance: random.Random) -> None:
    world.postgres.hang()
    _pass(chance)
    world.postgres.go_on()


def _restarts(world: World, pair: Pair, chance: random.Random) -> None:
    world.postgres.stop()
    world.postgres.start()


def _killed_before_it_restarts(world: World, pair: Pair, chance: random.Random) -> None:
    """The other one is amid its takeover, or waits for the lease."""
    pair.kill(pair.leader())
    _pass(chance)
    _restarts(world, pair, chance)


def _storms(world: World, pair: Pair, chance: random.Random) -> None:
    world.network.slow(world.c, delay_s=0.025, loss=0.02)
    _pass(chance)
    world.mend()


def _pass(chance: random.Random) -> None:
    """Let some time pass: how long it takes is a part of what befalls, and chosen by the seed."""
    time.sleep(chance.choice([0.2, 1.0, 3.0, 7.0]))


_FAULTS: Final[Mapping[str, Callable[[World, Pair, random.Random], None]]] = {
    "kill": _killed,
    "kill-both": _all_killed,
    "stop": _stopped,
    "cut-postgres": _cut_from_postgres,
    "cut-redis": _cut_from_redis,
    "cut-off": _cut_off,
    "postgres-hangs": _hangs,
    "postgres-restarts": _restarts,
    "weather": _storms,
    "kill, postgres-restarts": _killed_before_it_restarts,
}


@pytest.mark.parametrize("seed", range(1, _SEEDS + 1))
def test_random_faults(world: World, seed: int) -> None:
    """Whatever happens to whichever of them, at whichever moment."""
    chance = random.Random(seed)
    pair = Pair(world, f"seed{seed}")
    with _at_work(world, pair) as wait_for:
        for share in sorted(chance.uniform(0.2, 0.9) for _ in range(3)):
            wait_for(share)
            name = chance.choice(list(_FAULTS))
            print(f"after {share:.0%}: {name}")
            _FAULTS[name](world, pair, chance)
