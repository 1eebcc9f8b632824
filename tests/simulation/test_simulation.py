"""The scheduler in a world of faults, by seed; `python -m tests.simulation` runs as many as one likes."""

import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.runs import run
from tests.support.size import of_size

#: 300 take about twenty seconds of one core; CI runs 2,000.
_SEEDS = int(os.environ.get("DYRYGENTD_TEST_SEEDS", of_size(54, 300)))
_PARTS = 6


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What is logged in thousands of outages is looked at elsewhere."""
    logger = logging.getLogger("dyrygentd")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(_PARTS))
def test_promises_hold(part: int) -> None:
    """No seed breaks a promise, whatever fails when; one that does tells its story and how to play it again."""
    facts = Counter[str]()
    for seed in range(1 + part, _SEEDS + 1, _PARTS):
        outcome = run(seed)
        again = f"again: python -m tests.simulation --seed {seed} --story"
        assert not outcome.problem, f"{outcome.story}\n\nseed {seed}: {outcome.problem}\n{again}"
        facts.update(outcome.facts)
    # A world in which nothing goes wrong would show nothing.
    assert facts["lost"]
    assert facts["retried"]
    assert facts["verbs"]
    assert facts["lives"] > _SEEDS / _PARTS
    assert not facts["broken"]


@pytest.mark.parametrize("seed", [126, *(pytest.param(seed, marks=pytest.mark.long) for seed in (3, 5))])
def test_seed_is_a_story(seed: int) -> None:
    """The same seed is the same story, line by line: otherwise what it found could not be found again."""
    first, second = run(seed), run(seed)
    assert first.story == second.story
    assert len(first.story.splitlines()) > 10


@pytest.mark.parametrize("seed", [1824, 4368, 6813, 8814])
def test_what_seeds_have_found_stays_mended(seed: int) -> None:
    """An end that comes with the end of the run, a clock that is set back, skips that are undone during an outage."""
    assert not run(seed).problem
