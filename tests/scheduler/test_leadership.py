"""A lease is kept, trusted no longer than nobody else can have it, and what is not trusted sends and answers nothing."""

from collections.abc import Callable, Sequence

import anyio
import pytest

from dyrygentd.errors import BrokerUnavailable, Fenced, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import BrokerMemory, Holder, LeaseView, Namesake
from dyrygentd.scheduler.leadership import Leadership, NotConfirmed
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.testing import FakeBroker, FakeClock, FakeDispatcher, MemoryStore
from tests.scheduler.support import definition, published, scheduler, settle, until
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio

_OTHER = Holder("elsewhere", 4711, 1700000000.0)


class _Lease:
    """A lease that is had by another process for ``others_s``, and refuses as it is told to."""

    ttl_s = 0.05

    def __init__(self, others_s: Callable[[], float] = lambda: -1.0) -> None:
        self.refusal: Exception | None = None
        self.renewals = 0
        self.taken: list[Holder] = []
        self.others_s = others_s

    async def take(self, holder: Holder) -> bool:
        self.taken.append(holder)
        return self.others_s() <= 0

    async def renew(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        self.renewals += 1

    def lose(self, error: Fenced) -> None:
        self.lost = error

    async def resign(self) -> None:
        """Nobody waits."""

    async def view(self) -> LeaseView:
        return LeaseView(_OTHER, 1, self.others_s())

    async def wait(self, timeout_s: float) -> None:
        await anyio.sleep(timeout_s)

    async def namesakes(self, name: str, machine: str, holder: Holder) -> Sequence[Namesake]:
        return []


def _leading(lease: _Lease, clock: FakeClock, **options: float) -> Leadership:
    return Leadership(lease, clock, **options)


async def test_trusted_for_less_than_it_holds() -> None:
    """It is trusted from the beginning of a question that was answered, for less than the time that it holds."""
    clock, lease = FakeClock(), _Lease()
    leadership = _leading(lease, clock)
    assert (leadership.problem, leadership.holder) == ("", None)
    await leadership.begin()
    # The term names it, too, so that nobody is told of another moment.
    assert lease.taken == [leadership.holder]
    assert leadership.problem == ""
    seen = [leadership.is_trusted]
    for passed_s in (0.039, 0.002):
        clock.pass_time(passed_s)
        seen.append(leadership.is_trusted)
    assert seen == [True, True, False]
    # Also where there is nothing to do, so that nobody waits for a turn: it is not ready any more.
    assert leadership.problem.startswith("the lease was not renewed in time, and another process may lead")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leadership.run)
        await leadership.wait_trusted()
        assert lease.renewals == 1
        # Somebody sets the clock, to and fro.
        clock.set_by(86400)
        assert leadership.is_trusted
        clock.set_by(-2 * 86400)
        assert leadership.is_trusted
        tasks.cancel_scope.cancel()


async def test_slow_answer_is_counted_from_its_question() -> None:
    """What is answered late was prolonged at some time before, nobody knows when."""
    clock = FakeClock()

    class Slow(_Lease):
        async def take(self, holder: Holder) -> bool:
            clock.pass_time(1.0)
            return True

    leadership = _leading(Slow(), clock)
    await leadership.begin()
    assert not leadership.is_trusted


async def test_without_a_lease() -> None:
    """Where a lock decides, nobody waits and everything is trusted."""
    leadership = Leadership(None, FakeClock())
    await leadership.begin()
    await leadership.run()
    await leadership.confirm()
    assert leadership.is_trusted


async def test_lease_of_one_that_is_gone() -> None:
    """It is taken as soon as it is over."""
    clock = FakeClock()
    end = clock.now() + 3.0

    def left_s() -> float:
        clock.pass_time(0.5)
        return end - clock.now()

    leadership = _leading(_Lease(left_s), clock)
    await leadership.begin()
    assert leadership.left_s > -1
    assert clock.now() >= end


async def test_lease_of_one_that_leads() -> None:
    """Who sees it renewed gives up, and says who has it."""
    clock = FakeClock()

    def left_s() -> float:
        clock.pass_time(0.5)
        return 3.0

    with pytest.raises(StoreLocked, match="in use by process 4711 on 'elsewhere'"):
        await _leading(_Lease(left_s), clock).begin()


async def test_database_is_away_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again until it is back; nobody has taken it meanwhile, so it goes on."""
    clock, lease = FakeClock(), _Lease()
    leadership = _leading(lease, clock, confirm_max_s=0.02)
    await leadership.begin()
    lease.refusal = StoreUnavailable("no way to it")
    clock.pass_time(1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leadership.run)
        await until(lambda: "was not renewed" in caplog.text)
        with pytest.raises(NotConfirmed, match="no way to it"):
            await leadership.confirm()
        assert not leadership.is_trusted
        lease.refusal = None
        await leadership.wait_trusted()
        assert caplog.text.count("was not renewed") == 1
        assert "nobody has taken it" in caplog.text
        tasks.cancel_scope.cancel()


async def test_taken_by_another() -> None:
    """Whoever waits is told who has it."""
    clock, lease = FakeClock(), _Lease()
    leadership = _leading(lease, clock)
    await leadership.begin()
    clock.pass_time(1.0)
    lease.refusal = Fenced(1, 2, _OTHER.words)
    seen: list[Fenced] = []

    async def wait() -> None:
        try:
            await leadership.wait_trusted()
        except Fenced as error:
            seen.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with pytest.raises(Fenced):
            await leadership.run()
    assert [error.message for error in seen] == [lease.refusal.message]
    with pytest.raises(Fenced):
        await leadership.confirm()


async def test_confirmed_anew() -> None:
    """What is trusted may be another's after a suspension: the database is asked, once for all who wait meanwhile."""
    lease = _Lease()
    leadership = _leading(lease, FakeClock())
    await leadership.begin()
    async with anyio.create_task_group() as asking:
        for _ in range(100):
            asking.start_soon(leadership.confirm_anew)
    assert 1 <= lease.renewals <= 2
    lease.refusal = StoreUnavailable("no way to it")
    with pytest.raises(NotConfirmed, match="no way to it"):
        await leadership.confirm_anew()
    lease.refusal = Fenced(1, 2, _OTHER.words)
    await leadership.confirm()
    with pytest.raises(Fenced):
        await leadership.confirm_anew()
    await Leadership(None, FakeClock()).confirm_anew()


async def test_database_is_asked_where_the_broker_cannot_be() -> None:
    """A verb that changes nothing is answered by the lease then, whether that is trusted still or not."""

    class Deaf(FakeDispatcher):
        is_deaf = False

        async def memory(self, name: str) -> BrokerMemory | None:
            if self.is_deaf:
                raise BrokerUnavailable("away")
            return await super().memory(name)

    broker, lease, store = FakeBroker(holds=True), _Lease(), MemoryStore()
    lease.ttl_s = 3600.0
    store.lease = lease
    dispatcher = Deaf(broker)
    async with scheduler(broker, store, dispatcher=dispatcher) as running:
        handle = await running.submit(definition("a"))
        assert (await handle.resume()).state == "running"
        assert lease.renewals == 0
        dispatcher.is_deaf = True
        assert (await handle.resume()).state == "running"
        assert lease.renewals == 1
        lease.refusal = Fenced(1, 2, _OTHER.words)
        with pytest.raises(Fenced):
            await handle.resume()


async def test_end() -> None:
    """When the process ends nobody waits for a renewal."""
    clock = FakeClock()
    leadership = _leading(_Lease(), clock)
    leadership.end()
    with pytest.raises(NotConfirmed):
        await leadership.confirm()


async def test_what_is_not_trusted_waits() -> None:
    """Without trust nothing is published, and no submission or verb is answered with success; with it all goes on."""
    broker, lease, store = FakeBroker(), _Lease(), MemoryStore()
    store.lease = lease
    answered: list[str] = []
    async with scheduler(broker, store) as running:
        lease.refusal = StoreUnavailable("no way to it")
        await until(lambda: not running._parts.tenure.leadership.is_trusted)

        async def submit() -> None:
            answered.append((await running.submit_definition(definition("a"))).id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            await until(lambda: store.statistics().commits > 0)
            await settle()
            assert not answered
            assert not published(broker)
            lease.refusal = None
            await until(lambda: bool(answered and published(broker)))


async def test_overtaken_with_something_to_send() -> None:
    """A scheduler that is found overtaken while messages wait for trust ends for that reason, and for no other one beside it."""
    broker, lease, store = FakeBroker(), _Lease(), MemoryStore()
    store.lease = lease
    with pytest.raises(Fenced, match="process 4711 on 'elsewhere'"):  # noqa: PT012 - the statement is what ends
        async with scheduler(broker, store) as running, anyio.create_task_group() as tasks:
            lease.refusal = StoreUnavailable("no way to it")
            await until(lambda: not running._parts.tenure.leadership.is_trusted)

            async def submit() -> None:
                with pytest.raises((Fenced, NotConfirmed)):
                    await running.submit_definition(definition("a"))

            tasks.start_soon(submit)
            await until(lambda: running._parts.courier._publisher_awake.is_set())
            await settle()
            running._parts.tenure.lose(Fenced(1, 2, _OTHER.words))
            await anyio.sleep_forever()


async def test_lost_while_it_runs() -> None:
    """A scheduler whose lease is another's ends, and says who has it."""
    broker, lease, store = FakeBroker(), _Lease(), MemoryStore()
    store.lease = lease
    with pytest.raises(Fenced, match="process 4711 on 'elsewhere'"):  # noqa: PT012 - the statement is what ends
        async with scheduler(broker, store):
            lease.refusal = Fenced(1, 2, _OTHER.words)
            await anyio.sleep_forever()


@pytest.mark.long
async def test_who_is_refused_leaves_no_connection(shared_postgres: PostgresServer) -> None:
    """A program that tries again and again to lead, beside one that does, takes no more of the server's connections each time."""
    url = shared_postgres.url()
    leader = PostgresStore(url, lease_ttl_s=1.0)
    await leader.open()
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"

    async def renew() -> None:
        while True:
            await leader.lease.renew()
            await anyio.sleep(0.1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(renew)
        # It has a name, so that no collector of garbage closes what was left open.
        refused = scheduler(FakeBroker({}), PostgresStore(url, lease_ttl_s=1.0))
        with pytest.raises(StoreLocked):
            await refused.__aenter__()
        tasks.cancel_scope.cancel()
    await leader.close()
    await until(lambda: shared_postgres.execute(query, f"dyrygentd:{url.schema}") == [(0,)])
    assert "Scheduler" in repr(refused)
