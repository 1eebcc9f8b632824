"""The daemon is killed, again and again, and nothing is lost or executed twice."""

import random
import signal
import time

import pytest

from tests.integration.conftest import IS_FULL, Site
from tests.support.servers import wait_until
from tests.support.shapes import NAMES, make
from tests.support.size import of_size

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

_SEEDS = range(20 if IS_FULL else of_size(1, 3))
_TASKS = 300
_KILLS = 3


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)], ids=lambda number: number.name
)
@pytest.mark.parametrize("seed", _SEEDS)
def test_killed_and_restarted(seed: int, number: signal.Signals, site: Site) -> None:
    """Whenever the daemon dies, the next one goes on where it was: each task is executed once, and in order."""
    chance = random.Random(seed)
    shape = make(chance.choice(NAMES), _TASKS)
    # At 0 it dies as soon as the submission is answered; two of one number kill it while it recovers or just after.
    moments = sorted(chance.choice([0, chance.randrange(shape.task_count)]) for _ in range(_KILLS))
    print(f"seed {seed}: {shape.name}, killed after {moments} executions")
    executions = site.executions
    executions.clear()
    daemon = site.daemon(f"seed-{seed}-{number}")
    with daemon, daemon.client() as client:
        handle = client.submit(shape.definition)
        for moment in moments:
            wait_until(lambda moment=moment: len(executions.counts()) >= moment, timeout_s=60, message=daemon.log)  # type: ignore[misc]
            daemon.signal(number, timeout_s=20)
            daemon.start()
        outcome = handle.wait(timeout_s=120)
        assert outcome.state == "succeeded", (outcome, daemon.log())
    shape.assert_executed(executions)


@pytest.mark.long
@pytest.mark.parametrize("seed", _SEEDS)
def test_killed_while_it_starts(seed: int, site: Site) -> None:
    """A daemon that is killed during its recovery recovers the next time; nothing of it depends on getting ready."""
    chance = random.Random(seed)
    shape = make("layered", _TASKS)
    executions = site.executions
    executions.clear()
    daemon = site.daemon(f"starting-{seed}")
    with daemon, daemon.client() as client:
        handle = client.submit(shape.definition)
        moment = chance.randrange(1, 100)
        wait_until(lambda: len(executions.counts()) >= moment, timeout_s=60, message=daemon.log)
        daemon.kill()
        for _ in range(3):
            daemon.launch()
            # It is killed while it imports, opens, recovers, publishes, or serves already.
            killed_at = time.monotonic() + chance.uniform(0.1, 2.0)
            wait_until(lambda killed_at=killed_at: time.monotonic() > killed_at)  # type: ignore[misc]
            daemon.kill()
        daemon.start()
        assert handle.wait(timeout_s=120).state == "succeeded", daemon.log()
    shape.assert_executed(executions)
