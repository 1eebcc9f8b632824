"""Somebody sets the clock of the machine, forward or back, by minutes or a day.

What is measured (countdowns, sleeps, pauses before another attempt, polls, timeouts) takes as long as it should by a clock that
nobody sets; what somebody named (ETA, start, deadline, expiry) comes when the clock says so. All of it is Unix time, so time
zones and summer time do not exist here.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest

from dyrygentd.core.graph import Definition
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.ports import Store
from dyrygentd.scheduler import Scheduler
from dyrygentd.scheduler.limits import Pace, SystemClock
from dyrygentd.testing import FakeBroker, FakeClock, MemoryStore
from tests.scheduler import support
from tests.scheduler.support import definition, published, settle, until

pytestmark = pytest.mark.anyio

HOUR, DAY = 3600.0, 86400.0
STEPS = [HOUR, -HOUR, DAY, -DAY]
START = 1_800_000_000.0
#: Looks at the clock often, since the loop's own time is real.
scheduler = partial(support.scheduler, pace=Pace(look_at_clock_s=0.002))


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the machine."""
    return FakeClock(START)


async def _turns_pass(running: Scheduler, count: int = 20) -> None:
    """Let the scheduler look at its clock a few times, to see that nothing happens."""
    for _ in range(count):
        await anyio.sleep(0.003)
    await settle()


def _held(text: str, **policy: Any) -> Definition:
    given = definition(text, prefix="p")
    return replace(given, policy=WorkflowPolicy(**policy)) if policy else given


@pytest.mark.parametrize("step_s", STEPS)
@pytest.mark.parametrize("kind", ["countdown", "sleep", "retry", "poll", "timeout"])
async def test_what_is_measured_takes_as_long_as_it_should(clock: FakeClock, step_s: float, kind: str) -> None:
    """A pause of a minute is over after a minute, whatever is done to the clock meanwhile: not at once, not in a day."""
    answers = iter([False, True])
    fails = iter([ZeroDivisionError("x")])

    def flaky() -> None:
        for error in fails:
            raise error

    broker = FakeBroker({"tasks.poll": lambda: next(answers), "tasks.flaky": flaky}, holds=kind == "timeout")
    text, before = {
        "countdown": ("a countdown=60", []),
        "sleep": ("s sleep=60; a < s", []),
        "retry": ("flaky retry=2 backoff=60 jitter=0", ["flaky"]),
        "poll": ("poll poll=60", ["poll"]),
        "timeout": ("a timeout=60", ["a"]),
    }[kind]
    async with scheduler(broker, clock=clock) as running:
        handle = await running.submit(_held(text))
        await until(lambda: published(broker) == before)
        await _turns_pass(running, 3)
        clock.pass_time(20)
        clock.set_by(step_s)
        await until(lambda: running.statistics().engine["counters"]["clock_steps"] == 1)
        clock.pass_time(39)
        await _turns_pass(running)
        assert published(broker) == before
        assert (await running.view(handle.id)).state == "running"
        clock.pass_time(2)
        view = await running.wait(handle.id, timeout_s=5)
        assert view.state == ("failed" if kind == "timeout" else "succeeded")
        # Nothing rings again and again.
        count = running.statistics().engine["turns"]
        await _turns_pass(running)
        assert running.statistics().engine["turns"] <= count + 2


@pytest.mark.parametrize("kind", ["eta", "start_at"])
@pytest.mark.parametrize("step_s", [HOUR, DAY])
async def test_what_was_named_comes_by_the_clock(clock: FakeClock, step_s: float, kind: str) -> None:
    """An ETA or a start within what was skipped is there at once when the clock is set forward, and nobody sleeps through it."""
    broker = FakeBroker()
    at = START + 1800
    given = _held(f"a eta={at}") if kind == "eta" else _held("a", start_at=at)
    async with scheduler(broker, clock=clock) as running:
        handle = await running.submit(given)
        await _turns_pass(running)
        assert published(broker) == []
        clock.set_by(step_s)
        assert (await running.wait(handle.id, timeout_s=5)).state == "succeeded"


@pytest.mark.parametrize("kind", ["eta", "start_at"])
async def test_what_was_named_waits_when_the_clock_goes_back(clock: FakeClock, kind: str) -> None:
    """An ETA that a clock set back moves away waits for it, and comes then."""
    broker = FakeBroker()
    at = START + 60
    given = _held(f"a eta={at}") if kind == "eta" else _held("a", start_at=at)
    async with scheduler(broker, clock=clock) as running:
        handle = await running.submit(given)
        clock.set_by(-HOUR)
        clock.pass_time(61)
        await _turns_pass(running)
        assert published(broker) == []
        clock.pass_time(HOUR)
        assert (await running.wait(handle.id, timeout_s=5)).state == "succeeded"


@pytest.mark.parametrize("step_s", STEPS)
async def test_deadline_is_a_time_of_the_clock(clock: FakeClock, step_s: float) -> None:
    """A deadline that the clock jumps over has passed; one that it leaves behind comes later."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, clock=clock) as running:
        handle = await running.submit(_held("a; b < a", deadline_s=600.0))
        await until(lambda: published(broker) == ["a"])
        clock.set_by(step_s)
        if step_s < 0:
            clock.pass_time(601)
            await _turns_pass(running)
            assert (await running.view(handle.id)).state == "running"
            clock.pass_time(-step_s)
        assert (await running.wait(handle.id, timeout_s=5)).state == "failed"


@pytest.mark.parametrize("step_s", STEPS)
async def test_clock_that_was_set_while_nothing_ran(clock: FakeClock, step_s: float, reopen: Callable[[], Store]) -> None:
    """After a restart only the clock is known: what is measured takes its whole time at most once more, not an hour or a day."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, reopen(), clock=clock) as running:
        ids = [
            (await running.submit(_held_as(text, prefix))).id
            for prefix, text in (("c", "a countdown=60"), ("t", "b timeout=60"), ("s", "s sleep=60; d < s"))
        ]
        await until(lambda: published(broker) == ["b"])
    clock.restart_machine()
    clock.set_by(step_s)
    broker = FakeBroker()
    async with scheduler(broker, reopen(), clock=clock) as running:
        await until(lambda: running.statistics().engine["counters"]["recovered"] == 3)
        if step_s < 0:
            await _turns_pass(running)
            assert published(broker) == []
            clock.pass_time(61)
        states = [(await running.wait(workflow_id, timeout_s=5)).state for workflow_id in ids]
        assert states == ["succeeded", "failed", "succeeded"]
        assert running.statistics().engine["counters"]["clock_steps"] == 0


def _held_as(text: str, prefix: str) -> Definition:
    return definition(text, prefix=prefix)


@pytest.mark.parametrize("step_s", STEPS)
async def test_what_is_shown_stays_sensible(clock: FakeClock, step_s: float, caplog: pytest.LogCaptureFixture) -> None:
    """The step is logged and counted; a task in flight is not shown as running since tomorrow, and the uptime is right."""
    caplog.set_level(logging.WARNING, "dyrygentd")
    broker = FakeBroker(holds=True)
    async with scheduler(broker, MemoryStore(), clock=clock) as running:
        handle = await running.submit(_held("a; b < a"))
        await until(lambda: published(broker) == ["a"])
        clock.pass_time(10)
        clock.set_by(step_s)
        broker.let_go("p/a")
        await until(lambda: published(broker) == ["a", "b"])
        node = await running.node(handle.id, "a")
        assert node.dispatched_at is not None
        assert node.finished_at is not None
        assert node.finished_at - node.dispatched_at == pytest.approx(10, abs=0.1)
        assert 0 <= running.statistics().uptime_s < 60
        broker.let_go()
        assert (await running.wait(handle.id, timeout_s=5)).state == "succeeded"
    assert [record.message for record in caplog.records if "the clock was set by" in record.message]


async def test_small_differences_are_no_step(clock: FakeClock) -> None:
    """A clock that is adjusted slowly was not set."""
    broker = FakeBroker()
    async with scheduler(broker, clock=clock) as running:
        handle = await running.submit(_held("a countdown=60"))
        for _ in range(5):
            clock.set_by(0.1)
            await _turns_pass(running, 2)
        assert running.statistics().engine["counters"]["clock_steps"] == 0
        clock.pass_time(60)
        await running.wait(handle.id, timeout_s=5)


async def test_idle_scheduler_does_not_look_at_the_clock() -> None:
    """Looking again every few seconds is for those who wait for a time; whoever waits for nothing sleeps."""
    looks = 0

    class Counting(SystemClock):
        def now(self) -> float:
            nonlocal looks
            looks += 1
            return super().now()

    async with scheduler(FakeBroker(), clock=Counting()) as running:
        await (await running.submit(definition("a"))).wait(timeout_s=5)
        await settle(200)
        before = looks
        await anyio.sleep(0.05)
        assert looks == before


async def test_journal_has_the_order_of_what_happened(clock: FakeClock) -> None:
    """Its times are what the clock said: kept from going back, all would be wrong that come after a clock set ahead."""
    async with scheduler(FakeBroker(holds=True), clock=clock) as running:
        handle = await running.submit(definition("a; b < a"))
        clock.set_by(DAY)
        await handle.pause()
        clock.set_by(-DAY)
        clock.pass_time(60)
        await handle.resume()
        entries = (await running.journal(handle.id)).entries
        assert [entry.verb for entry in entries] == ["pause", "resume"]
        assert [entry.at for entry in entries] == [START + DAY, START + 60]
        audited = (await running.audit()).entries
        assert [entry.verb for entry in audited] == ["pause", "resume"]
