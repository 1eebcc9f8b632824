"""One leads and the others stand by, by seed; `python -m tests.simulation --standby` runs as many as one likes."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator

import anyio
import pytest

from tests.simulation.members import Member
from tests.simulation.mutants import MUTANTS, noticed
from tests.simulation.processes import HostClock, ProcessLoop
from tests.simulation.runs import Outcome, told
from tests.simulation.standby import Standby, run
from tests.simulation.virtual import TimeStandsStill, VirtualLoop
from tests.simulation.world import BrokenPromise
from tests.support.size import of_size

#: A hundred take twenty to thirty seconds of one core; CI runs 2,000.
_SEEDS = int(os.environ.get("DYRYGENTD_TEST_STANDBY_SEEDS", of_size(24, 300)))
_PARTS = of_size(1, 4)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("dyrygentd")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


def _told(outcome: Outcome) -> str:
    again = f"again: python -m tests.simulation --standby --seed {outcome.seed} --story"
    return f"{outcome.story}\n\nseed {outcome.seed}: {outcome.problem}\n{again}"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(_PARTS))
def test_one_leads(part: int) -> None:
    """No seed breaks a promise, whatever happens to processes, servers, ways and clocks."""
    facts = Counter[str]()
    for seed in range(1 + part, _SEEDS + 1, _PARTS):
        outcome = run(seed)
        assert not outcome.problem, _told(outcome)
        facts.update(outcome.facts)
    # A world in which nobody takes over would show nothing.
    assert facts["leaders"] > 2 * _SEEDS / _PARTS
    assert facts["pushes"] > 5 * _SEEDS / _PARTS
    assert facts["verbs"]
    assert facts["cancels"]
    assert facts["waits"]
    assert facts["asked for what is so"]


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_wrong_is_noticed(name: str) -> None:
    """A fault that somebody puts into the product, or a server, breaks a promise within some hundred seeds."""
    assert "BrokenPromise" in next(noticed(name, range(1, 401)), "")


def test_time_that_stands_still_is_told() -> None:
    """A seed in which something is always ready ends and says so; a test's timeout would not end it, as the loop catches that."""

    async def story() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await anyio.sleep(1)

    with pytest.raises(TimeStandsStill, match="turns of the loop at one moment"):
        anyio.run(story, backend="asyncio", backend_options={"loop_factory": VirtualLoop})


@pytest.mark.parametrize("stops", [Member.suspend, lambda member: member.process.stop()], ids=["suspended", "stopped"])
def test_broken_promise_ends_what_is_stopped(stops: Callable[[Member], None]) -> None:
    """Whoever finds one while a process stands still ends the world at once, and is what is told."""

    class Broken(Standby):
        async def _break_things(self) -> None:
            await anyio.sleep(10.0)
            stops(self.members[0])
            self.story.broken = BrokenPromise("it was found")
            await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as found:
        anyio.run(Broken(1).play, backend="asyncio", backend_options={"loop_factory": ProcessLoop})
    assert "BrokenPromise: it was found" in told(found.value)


def test_steady_clock_of_a_machine_never_goes_back() -> None:
    """It stands still as long as anybody has suspended the machine, and goes on from there."""

    async def story() -> list[float]:
        clock, told = HostClock(), []
        for suspends in (True, True, False, False, False):
            await anyio.sleep(10.0)
            if suspends:
                clock.suspend()
            else:
                clock.wake()
            told.append(clock.steady())
        await anyio.sleep(10.0)
        return [*told, clock.steady()]

    told = anyio.run(story, backend="asyncio", backend_options={"loop_factory": ProcessLoop})
    assert told == [10.0, 10.0, 10.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize("seed", [7, pytest.param(11, marks=pytest.mark.long)])
def test_seed_is_a_story(seed: int) -> None:
    """The same seed is the same story, line by line."""
    first, second = run(seed), run(seed)
    assert first.story == second.story
    assert len(first.story.splitlines()) > 10
