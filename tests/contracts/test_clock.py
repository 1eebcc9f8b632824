"""What every clock promises, see `dyrygentd.ports.Clock`: the system's, the shipped fake, and that of the simulation."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dyrygentd.ports import Clock, SteadyClock
from dyrygentd.scheduler import SystemClock
from dyrygentd.testing import FakeClock
from tests.simulation.virtual import VirtualClock, VirtualLoop


def _run_virtually(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story)


#: ``{name: (make a clock, let a coroutine run in its time)}``
CLOCKS: dict[str, tuple[Callable[[], Clock], Callable[[Coroutine[Any, Any, None]], None]]] = {
    "system": (SystemClock, asyncio.run),
    "fake": (FakeClock, asyncio.run),
    "virtual": (VirtualClock, _run_virtually),
}
Story = Callable[[Callable[[Clock], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=CLOCKS)
def told(request: pytest.FixtureRequest) -> Story:
    """Tell a story with a clock, in the loop where that one goes."""
    make, run = CLOCKS[request.param]

    def tell(story: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
        run(story(make()))

    return tell


def test_unix_seconds(told: Story) -> None:
    """Records of one process are read by the next one, and by people: seconds since 1970, later than this was written."""

    async def story(clock: Clock) -> None:
        assert isinstance(clock.now(), float)
        assert clock.now() > 1_700_000_000

    told(story)


def test_does_not_go_back_by_itself(told: Story) -> None:
    """As long as nobody sets it, what happens later has no earlier time; waiting is the loop's, and does not set it."""

    async def story(clock: Clock) -> None:
        before = [clock.now() for _ in range(100)]
        await asyncio.sleep(0.001)
        assert sorted(before) == before
        assert clock.now() >= before[-1]

    told(story)


def test_steady_never_goes_back(told: Story) -> None:
    """Whoever can be set says how much time has passed all the same; a clock without that is taken for one never set."""

    async def story(clock: Clock) -> None:
        if isinstance(clock, SteadyClock):
            steady = [clock.steady() for _ in range(100)]
            assert sorted(steady) == steady
            assert isinstance(steady[0], float)

    told(story)


def test_the_systems_clock_is_that_of_everybody() -> None:
    """Workers and brokers compare their times with it."""
    before = time.time()
    assert before <= SystemClock().now() <= time.time()
    assert isinstance(SystemClock(), SteadyClock)


def test_setting_the_fake_lets_no_time_pass() -> None:
    """Passing moves both, setting only what the wall says."""
    clock = FakeClock(1000.0)
    steady = clock.steady()
    clock.pass_time(5)
    assert (clock.now(), clock.steady() - steady) == (1005.0, 5.0)
    clock.set_by(-3600)
    assert (clock.now(), clock.steady() - steady) == (1005.0 - 3600, 5.0)
    clock.restart_machine()
    assert (clock.now(), clock.steady()) == (1005.0 - 3600, 0.0)
