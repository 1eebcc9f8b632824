"""Real processes break in many ways, at moments that a seed chooses, and no promise does.

``python -m tests.faults`` makes such runs by the hundred.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.__main__ import run_seed
from tests.faults.causes import CAUSES, chosen_faults
from tests.faults.crashing_daemon import POINTS
from tests.faults.results import run_chaos
from tests.faults.soak import read_options, run_soak
from tests.faults.world import World
from tests.support.daemon import ROOT
from tests.support.directories import short_directory

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

_IS_FULL = os.environ.get("DYRYGENTD_TEST_FULL") == "1"
#: Faults of all kinds, and none that takes long by itself.
_SEEDS = (1, 2, 3, 4, 6, 9)
#: Points of one run: each costs a start of the daemon. Every fourth, so that those of recovery find something to recover.
_BATCHES = [POINTS[begin::4] for begin in range(4)]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Servers and workers for all runs."""
    with short_directory() as directory, World(directory) as world:
        yield world


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 21) if _IS_FULL else _SEEDS)
def test_random_faults(seed: int, world: World) -> None:
    """Whatever breaks while workflows run, each attempt is pushed once, and every node ends as it must."""
    verdict = run_seed(world, seed, workflows=3 if _IS_FULL else 2, size=60 if _IS_FULL else 40)
    print(verdict.line())
    assert verdict.is_well, "\n".join(verdict.errors)


@pytest.mark.long
@pytest.mark.parametrize("points", _BATCHES, ids=lambda points: points[0])
def test_crash_points(points: Sequence[str], world: World) -> None:
    """The daemon may die at any step of what it does to disk and broker: the next one goes on from there."""
    faults = [f"crash@{point}:1" for point in points]
    seed = 1000 + _BATCHES.index(tuple(points))
    verdict = run_seed(world, seed, faults=faults, workflows=len(faults), size=12, waits_for_crashes=True)
    print(verdict.line())
    assert verdict.is_well, "\n".join(verdict.errors)
    assert verdict.crashed == [*points], "not every point was passed"


def test_every_fault_has_its_turn() -> None:
    """A few dozen seeds meet every fault and most of the crash points."""
    met = {fault.partition(":")[0] for seed in range(1, 201) for fault in chosen_faults(seed)}
    assert met >= {*CAUSES, *(f"crash@{point}" for point in POINTS)}


def test_what_crashes_is_in_its_place() -> None:
    """The daemon that crashes finds what it replaces; else each of the long runs would tell so, at length."""
    command = [sys.executable, "-m", "tests.faults.crashing_daemon", "serve", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_results_in_chaos() -> None:
    """No result of real workers goes missing, whatever happens to the connection on which they come."""
    chaos = run_chaos(6000 if _IS_FULL else 600, say=print)
    print(chaos.text())
    assert chaos.is_well, chaos.text()


@pytest.mark.long
def test_soaking_a_little(short_tmp: Path) -> None:
    """The soak counts right: every push once, every task executed, with a fault every few seconds."""
    arguments = ["--minutes", "0.2", "--rate", "60", "--fault-every-s", "4", "--sample-every-s", "2"]
    text, _ = run_soak(read_options(arguments), say=print, output=short_tmp)
    assert "errors: 0\n" in text, text
    assert len((short_tmp / "samples.csv").read_text().splitlines()) > 3
