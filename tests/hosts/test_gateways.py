"""Clients of three hosts submit at gateways while who leads is killed: what was answered runs once, and nothing runs twice."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest

from dyrygentd import Client, Workflow
from dyrygentd.errors import DaemonUnreachable, RemoteUnavailable
from tests.hosts.pair import Pair, role
from tests.hosts.world import IMPATIENT, DaemonAt, World
from tests.support import tasks
from tests.support.servers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(600)]

_WAIT_S: Final = 150
_GATEWAYS: Final = ("e", "f", "g")
#: Clients, seconds between two submissions of each, kills, and seconds between two of these.
_SIZE: Final = (200, 5.0, 6, 20.0) if os.environ.get("DYRYGENTD_TEST_FULL") == "1" else (24, 1.0, 3, 7.0)


@dataclass(slots=True)
class Crowd:
    """What the clients were answered. Guards: a client goes on with the next submission once one was answered.

    Attributes:
        answers: ``{key at a gateway: id}``.
        repeated: How often something was submitted again since its answer was lost, or it was not taken.
        longest_s: How long the longest wait for an answer was, with all repetitions.
        other: What else was answered, which nothing should be.
    """

    answers: dict[str, str] = field(default_factory=dict)
    repeated: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    other: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def submit_for_long(self, gateway: DaemonAt, name: str, pause_s: float) -> None:
        """Submit one workflow after the other, until it is over."""
        number = 0
        with gateway.client() as client:
            while not self.is_over.is_set():
                number += 1
                key = f"{name}-{number}"
                begun = time.monotonic()
                self.answers[key] = self._submit(client, key)
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                # What was answered is the same for ever.
                if number % 4 == 0 and (again := self._submit(client, key)) != self.answers[key]:
                    self.other.append(f"{key} is {self.answers[key]}, and {again}")
                # As people and programs do: how often they come is a part of what is tried.
                self.is_over.wait(pause_s)

    def _submit(self, client: Client, key: str) -> str:
        workflow = Workflow("pair")
        first = workflow.add(tasks.echo.si(1), name="first")
        workflow.add(tasks.echo.si(2), name="second", after=[first])
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                return client.submit(workflow, key=key).id
            except (DaemonUnreachable, RemoteUnavailable) as error:
                if time.monotonic() > deadline:
                    raise
                self.repeated[type(error).__name__] += 1
                time.sleep(0.2)


@contextmanager
def _gateways(world: World, schema: str) -> Iterator[list[DaemonAt]]:
    """Have a gateway on each of three hosts."""
    made = [
        world.daemon(
            f"{schema}-{name}",
            world.network.host(name),
            *("--role", "gateway", "--host-name", f"host-{name}"),
            schema=schema,
            options=IMPATIENT,
        )
        for name in _GATEWAYS
    ]
    with ExitStack() as exits:
        for gateway in made:
            del gateway.environment["NOTIFY_SOCKET"]
            gateway.launch()
            exits.callback(_end, gateway)
        for gateway in made:
            _wait_serving(gateway)
        yield made


def _wait_serving(gateway: DaemonAt) -> None:
    wait_until(lambda: role(gateway) == "gateway", timeout_s=_WAIT_S, message=gateway.log)


def _end(daemon: DaemonAt) -> None:
    if daemon.is_alive:
        daemon.kill()


def test_each_answered_submission_runs_once(own_world: World) -> None:
    """Who leads is killed again and again, and with it one of the gateways; both are started again."""
    clients, pause_s, kills, every_s = _SIZE
    world, crowd = own_world, Crowd()
    pair = Pair(world, "crowd")
    with (
        world.ledger as ledger,
        pair,
        _gateways(world, "crowd") as gateways,
        ThreadPoolExecutor(clients) as threads,
    ):
        working = [
            threads.submit(crowd.submit_for_long, gateways[number % len(gateways)], f"client{number}", pause_s)
            for number in range(clients)
        ]
        try:
            for number in range(kills):
                # Answers come while somebody leads, and while nobody does.
                time.sleep(every_s)
                gateway = gateways[number % len(gateways)]
                gateway.kill()
                pair.kill(pair.leader())
                gateway.launch()
                _wait_serving(gateway)
        finally:
            crowd.is_over.set()
        for each in working:
            each.result(timeout=2 * _WAIT_S)
        ids = set(crowd.answers.values())
        assert len(ids) == len(crowd.answers)
        wait_until(
            lambda: _states(world) == {"succeeded": len(ids)}, timeout_s=_WAIT_S, message=lambda: _what_is_left(world, pair)
        )
        for gateway in gateways:
            assert gateway.stop() == 0, gateway.log()
        pushed = Counter(push.task_id for push in ledger.pushes())
    stored = {str(row[0]) for row in world.postgres.execute("SELECT id FROM crowd.workflows")}
    executed = Counter(world.executions.counts())
    print(
        f"{clients} clients at {len(gateways)} gateways: {len(ids)} submissions answered while {kills} leaders were killed, "
        f"{sum(crowd.repeated.values())} repeated ({dict(crowd.repeated)}), the longest answer after {crowd.longest_s:.1f} s; "
        f"{len(executed)} tasks executed"
    )
    assert crowd.other == []
    assert stored == ids
    assert (len(executed), set(executed.values())) == (2 * len(ids), {1})
    assert (len(pushed), set(pushed.values())) == (2 * len(ids), {1})
    assert pair.ended == []
    assert "Traceback" not in pair.log() + "".join(gateway.log() for gateway in gateways)


def _what_is_left(world: World, pair: Pair) -> str:
    """Say how many are in which state, and why some of those that run do not end."""
    left = [str(row[0]) for row in world.postgres.execute("SELECT id FROM crowd.workflows WHERE finished_at IS NULL LIMIT 3")]
    with pair.leader().client() as client:
        reasons = [str(client.handle(each).explain()) for each in left]
    return "\n".join([str(_states(world)), *reasons, pair.log()])


def _states(world: World) -> dict[str, int]:
    """Count workflows by their states, as the database has them."""
    counted = world.postgres.execute("SELECT state, count(*) FROM crowd.workflows GROUP BY 1")
    return {str(state): int(count) for state, count in counted}
