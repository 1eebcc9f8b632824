"""What every lease promises, see `dyrygentd.ports.Lease`. The simulation trusts in its own for behaving as PostgreSQL's."""

import anyio
import pytest

from dyrygentd.errors import Fenced
from dyrygentd.ports import Lease, Store
from dyrygentd.ports.facts import Holder, Term
from tests.contracts.adapters import LeaseSetup
from tests.store.records import node, workflow

pytestmark = pytest.mark.anyio

FIRST, SECOND, THIRD = (Holder(f"ops{number}", number, 1700000000.125) for number in (1, 2, 3))


def _lease(store: Store) -> Lease:
    assert store.lease is not None
    return store.lease


async def _pass_ttl(leasing: LeaseSetup, store: Store) -> None:
    await leasing.pass_time(_lease(store).ttl_s + 0.5)


async def test_nobody_has_it_at_first(leasing: LeaseSetup) -> None:
    """Of a database that nobody ever had nobody is told to lead."""
    view = await _lease(leasing.make()).view()
    assert view.holder is None
    assert not view.is_held
    assert not view.is_ours
    assert view.term == 0


async def test_one_has_it(leasing: LeaseSetup) -> None:
    """Of two that want it one gets it, for the time to live, and everybody can see who."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    assert not await _lease(second).take(SECOND)
    for each in (first, second):
        view = await _lease(each).view()
        assert view.holder == FIRST
        assert view.is_held
        assert 0 < view.left_s <= _lease(each).ttl_s


async def test_each_knows_whether_it_is_its_own(leasing: LeaseSetup) -> None:
    """Two in one process, with one host and one process id, are told apart, also once it is over, or was let go."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    assert [(await _lease(each).view()).is_ours for each in (first, second)] == [True, False]
    await _pass_ttl(leasing, first)
    assert [(await _lease(each).view()).is_ours for each in (first, second)] == [True, False]
    assert await _lease(second).take(FIRST)
    assert [(await _lease(each).view()).is_ours for each in (first, second)] == [False, True]
    await _lease(second).resign()
    assert [(await _lease(each).view()).is_ours for each in (first, second)] == [False, True]


async def test_all_want_it_at_once(leasing: LeaseSetup) -> None:
    """However many want it at one time, it is one's."""
    stores = [leasing.make() for _ in range(5)]
    taken: list[int] = []

    async def take(number: int) -> None:
        if await _lease(stores[number]).take(Holder("ops", number, 1700000000.0)):
            taken.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(len(stores)):
            tasks.start_soon(take, number)
    [number] = taken
    view = await _lease(stores[0]).view()
    assert view.holder is not None
    assert view.holder.pid == number


async def test_it_is_taken_when_it_is_over(leasing: LeaseSetup) -> None:
    """Whoever is silent for the time to live loses it, and from then on changes nothing."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    await first.open()
    await first.save([workflow("before")], [])
    await _pass_ttl(leasing, first)
    assert not (await _lease(second).view()).is_held
    assert await _lease(second).take(SECOND)
    with pytest.raises(Fenced):
        await first.save([workflow("after")], [])
    with pytest.raises(Fenced):
        await first.remember("after", "1")
    with pytest.raises(Fenced):
        await _lease(first).renew()
    await second.open()
    assert await second.record("before") is not None
    assert await second.record("after") is None
    assert await second.recall("after") is None
    view = await _lease(second).view()
    assert view.holder == SECOND


async def test_it_cannot_be_had_back_by_who_lost_it(leasing: LeaseSetup) -> None:
    """Renewing and resigning are of who has it: they change nothing for another one."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    await first.open()
    await _pass_ttl(leasing, first)
    assert await _lease(second).take(SECOND)
    with pytest.raises(Fenced):
        await _lease(first).renew()
    await _lease(first).resign()
    view = await _lease(second).view()
    assert view.holder == SECOND
    assert view.is_held
    assert not await _lease(leasing.make()).take(THIRD)


async def test_what_is_over_goes_on_if_nobody_took_it(leasing: LeaseSetup) -> None:
    """A leader that was stopped for long, or cut off, goes on if nobody else was there, with all that it does."""
    first = leasing.make()
    assert await _lease(first).take(FIRST)
    await first.open()
    await _pass_ttl(leasing, first)
    await _lease(first).renew()
    assert not await _lease(leasing.make()).take(SECOND)
    await _pass_ttl(leasing, first)
    await first.save([workflow("w")], [node("w", 0)])
    assert not await _lease(leasing.make()).take(SECOND)


async def test_what_is_saved_prolongs_it(leasing: LeaseSetup) -> None:
    """Whoever is at work is there: each transaction prolongs the lease, and so does a renewal."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    await first.open()
    most_s = 0.6 * _lease(first).ttl_s
    for number in range(3):
        await leasing.pass_time(most_s)
        await first.save([workflow(f"w{number}")], [])
        await leasing.pass_time(most_s)
        await _lease(first).renew()
    await leasing.pass_time(most_s)
    assert not await _lease(second).take(SECOND)


async def test_it_may_be_taken_again(leasing: LeaseSetup) -> None:
    """Whoever has it may take it: the answer to the first time may have been lost."""
    first = leasing.make()
    assert await _lease(first).take(FIRST)
    assert await _lease(first).take(FIRST)
    await first.open()
    await first.save([workflow("w")], [])


async def test_who_resigns_is_followed_at_once(leasing: LeaseSetup) -> None:
    """A clean stop lets it go, and wakes who waits, long before the lease would be over."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    await first.open()
    assert not await _lease(second).take(SECOND)
    # So that it is listened to, not only about to be.
    await _lease(second).wait(0.1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_lease(second).wait, 3600.0)
        await anyio.wait_all_tasks_blocked()
        await _lease(first).resign()
        await _lease(first).resign()
        with anyio.fail_after(30.0):
            while not await _lease(second).take(SECOND):
                await _lease(second).wait(3600.0)
    await second.open()
    with pytest.raises(Fenced):
        await first.save([workflow("w")], [])


async def test_waiting_has_an_end(leasing: LeaseSetup) -> None:
    """Whoever waits looks again after the time, told or not."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    with anyio.fail_after(30.0):
        await _lease(second).wait(0.1)


async def test_the_term_follows(leasing: LeaseSetup) -> None:
    """Who has taken the lease has no term yet; its number is seen as soon as it is raised, and rises with each leader."""
    stores = [leasing.make() for _ in range(3)]
    for number, (store, holder) in enumerate(zip(stores, (FIRST, SECOND, THIRD), strict=True), start=1):
        assert await _lease(store).take(holder)
        await store.open()
        assert (await _lease(store).view()).term == number - 1
        assert await store.raise_term(holder) == Term(number, holder)
        assert (await _lease(store).view()).term == number
        await _pass_ttl(leasing, store)


async def test_an_overtaken_leader_raises_no_term(leasing: LeaseSetup) -> None:
    """Two leaders never have one term: who was overtaken before it could raise its own raises none."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    await first.open()
    await _pass_ttl(leasing, first)
    assert await _lease(second).take(SECOND)
    with pytest.raises(Fenced):
        await first.raise_term(FIRST)
    await second.open()
    assert await second.raise_term(SECOND) == Term(1, SECOND)


async def test_a_clock_that_is_set_back_delays_nobody(leasing: LeaseSetup) -> None:
    """A lease that lasts for longer than it may is of a clock that was set back: who waits takes it after the time to live."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    await first.open()
    await leasing.pass_time(-3600.0)
    assert not await _lease(second).take(SECOND)
    await _pass_ttl(leasing, second)
    assert await _lease(second).take(SECOND)


async def test_a_clock_that_is_set_back_takes_nothing_from_who_is_there(leasing: LeaseSetup) -> None:
    """A leader that renews its lease keeps it, whatever is done to the clock."""
    first, second = leasing.make(), leasing.make()
    assert await _lease(first).take(FIRST)
    await first.open()
    await leasing.pass_time(-3600.0)
    for _ in range(3):
        assert not await _lease(second).take(SECOND)
        await _lease(first).renew()
        await leasing.pass_time(0.6 * _lease(first).ttl_s)
    assert not await _lease(second).take(SECOND)
