"""Whether those that stand by have the leader's broker; `test_roles.py` has two daemons that do not."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import celery
import pytest

from dyrygentd.daemon.same_broker import BrokerPlace, compare_brokers, note_broker
from dyrygentd.errors import ConfigurationError, StoreUnavailable
from dyrygentd.ports.facts import LeaseView
from dyrygentd.testing import MemoryStore
from tests.deputy.support import LEADER, FixedLease

pytestmark = pytest.mark.anyio

#: The machine of the leader.
_APP1 = LEADER.host
_OWN = BrokerPlace("redis://one:6379", _APP1)


class _RenewedLease(FixedLease):
    """A lease that is renewed at each look."""

    async def view(self) -> LeaseView:
        self.left_s += 1.0
        return await super().view()


@asynccontextmanager
async def _noted(theirs: BrokerPlace, *, term: int = 7, pid: int = LEADER.pid) -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open()
    await note_broker(store, theirs, term=term, pid=pid)
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("theirs", "own", "doubt"),
    [
        (_OWN, _OWN, ""),
        (_OWN, _OWN._replace(machine="app2"), ""),
        (
            BrokerPlace("redis://localhost:6379", _APP1),
            BrokerPlace("redis://localhost:6379", "app2"),
            "the broker redis://localhost:6379 of 'app2' has to be that of 'ops1', too",
        ),
        (
            BrokerPlace("redis+socket:///run/redis.sock", _APP1),
            BrokerPlace("redis+socket:///run/redis.sock", "app2"),
            "the broker redis+socket:///run/redis.sock of 'app2' has to be that of 'ops1', too",
        ),
        (BrokerPlace("amqp://127.0.0.1:5672", _APP1), BrokerPlace("amqp://127.0.0.1:5672", _APP1), ""),
    ],
)
async def test_same_address(theirs: BrokerPlace, own: BrokerPlace, doubt: str) -> None:
    """One address is one broker, unless it is that of the machine itself, which nobody can tell."""
    async with _noted(theirs) as store:
        assert await compare_brokers(store, _RenewedLease(3.0), own) == doubt


async def test_another_address() -> None:
    """It is refused, with both named, as soon as the leader is seen to go on."""
    async with _noted(_OWN) as store:
        with pytest.raises(ConfigurationError, match=r"redis://two:6379, and that of process 17 on 'ops1'.* is redis://one:6379"):
            await compare_brokers(store, _RenewedLease(3.0), BrokerPlace("redis://two:6379", "app2"))


@pytest.mark.parametrize(("left_s", "term", "pid"), [(-1.0, 7, LEADER.pid), (3.0, 6, LEADER.pid), (3.0, 7, 4711)])
async def test_nobody_to_compare_with(left_s: float, term: int, pid: int) -> None:
    """What a leader has noted that is there no more binds nobody, also while its successor has the lease, and no term yet."""
    async with _noted(_OWN, term=term, pid=pid) as store:
        assert await compare_brokers(store, _RenewedLease(left_s), BrokerPlace("redis://two:6379", "app2")) == ""


async def test_leader_that_is_silent_is_not_compared_with() -> None:
    """Its lease runs out: who was killed, and is started again with another broker, may lead."""

    class _SilentLease(FixedLease):
        async def view(self) -> LeaseView:
            self.left_s -= 1.0
            return await super().view()

    async with _noted(_OWN) as store:
        assert await compare_brokers(store, _SilentLease(3.0), BrokerPlace("redis://two:6379", "app2")) == ""


async def test_nothing_is_known() -> None:
    """Before anybody has noted anything there is nothing to say, and a server that is away is the caller's to wait for."""
    store, lease = MemoryStore(), FixedLease(3.0)
    await store.open()
    assert await compare_brokers(store, lease, _OWN) == ""
    lease.is_away = True
    with pytest.raises(StoreUnavailable):
        await compare_brokers(store, lease, _OWN)
    await store.close()


def test_address_is_nobodys_secret() -> None:
    """What is noted, and told to others, has neither user nor password."""
    place = BrokerPlace.of(celery.Celery(broker="redis://ann:secret@one:6380/3"))
    assert place.address == "redis://one:6380/3"
    assert "secret" not in json.dumps(place)
