"""Who leads, as a process sees that does not."""

import anyio
import pytest

from dyrygentd.deputy.lookout import Lookout
from dyrygentd.testing import MemoryStore
from tests.deputy.support import LEADER, FixedLease
from tests.scheduler.support import until

pytestmark = pytest.mark.anyio


async def test_leader_is_known_as_long_as_its_lease_holds() -> None:
    """What was seen once is not taken for true when the lease would be over."""
    lease = FixedLease(4.0)
    lookout = Lookout(lease, MemoryStore())
    assert (lookout.leader, lookout.term, lookout.lag_s, lookout.is_leaderless) == ("", 0, None, False)
    assert (lookout.left_s, lookout.standbys) == (None, 0)
    await lookout.look()
    assert (lookout.leader, lookout.term, lookout.problem) == (LEADER.words, 7, "")
    assert lookout.lag_s == pytest.approx(1.0, abs=30)
    assert lookout.left_s == pytest.approx(4.0, abs=30)
    assert lookout.standbys == 2
    lease.left_s = -2.0
    await lookout.look()
    assert (lookout.leader, lookout.is_leaderless) == ("", True)
    lease.left_s = float("-inf")
    await lookout.look()
    assert lookout.lag_s is lookout.left_s is None


async def test_database_that_is_away_is_told_until_it_is_back() -> None:
    """What was seen last stays, with what is wrong beside it."""
    lease = FixedLease(1000.0)
    lookout = Lookout(lease, MemoryStore(), look_s=0.001)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lookout.run)
        await until(lambda: bool(lookout.leader))
        lease.is_away = True
        await until(lambda: lookout.problem == "the server is away")
        assert lookout.leader == LEADER.words
        assert "the server is away" in repr(lookout)
        lease.is_away = False
        await until(lambda: not lookout.problem)
        tasks.cancel_scope.cancel()


async def test_who_cannot_look_does_not_know_that_nobody_leads() -> None:
    """A lease that was over when the way to the database was lost may be another's since: an operator would go by the word."""
    lease = FixedLease(-2.0)
    lookout = Lookout(lease, MemoryStore())
    await lookout.look()
    assert lookout.is_leaderless
    lease.is_away = True
    await lookout.look()
    assert (lookout.leader, lookout.is_leaderless) == ("", False)


async def test_first_look_is_not_waited_for_long() -> None:
    """A server that says nothing keeps nobody who asks waiting: they are told so."""
    lease = FixedLease(4.0)
    lease.is_silent = True
    lookout = Lookout(lease, MemoryStore())
    with anyio.fail_after(60):
        await lookout.look_first()
    assert lookout.problem == "the database has not answered yet"
    lease.is_silent = False
    await lookout.look_first()
    assert (lookout.problem, lookout.leader) == ("", LEADER.words)


async def test_without_a_lease_nobody_says_who_leads() -> None:
    """Then it is not said either that nobody does."""
    lookout = Lookout(None, MemoryStore())
    await lookout.look()
    assert (lookout.leader, lookout.lag_s, lookout.is_leaderless) == ("", None, False)
