"""Workflows in workflows in a world of faults, by seed; `python -m tests.simulation --children` runs as many as one likes."""

import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.children import run
from tests.support.size import of_size

#: 150 take about twenty seconds of one core.
_SEEDS = int(os.environ.get("DYRYGENTD_TEST_SEEDS", of_size(30, 150)))
_PARTS = 3


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("dyrygentd")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(_PARTS))
def test_trees_hold(part: int) -> None:
    """No seed leaves a child that nobody waits for, or a node that waits for none, whatever fails when."""
    facts = Counter[str]()
    for seed in range(1 + part, _SEEDS + 1, _PARTS):
        outcome = run(seed)
        again = f"again: python -m tests.simulation --children --seed {seed} --story"
        assert not outcome.problem, f"{outcome.story}\n\nseed {seed}: {outcome.problem}\n{again}"
        facts.update(outcome.facts)
    assert facts["children"]
    assert facts["additions"]
    assert facts["levels"] > facts["children"] / 10
    assert facts["verbs"]
    assert not facts["broken"]


def test_seed_is_a_story() -> None:
    """The same seed is the same story, children and their ids included."""
    assert run(86).story == run(86).story


def test_weather_keeps_no_parent_from_going_on() -> None:
    """A child was run anew while the broker was away: its parent, which had failed, waits for it later."""
    assert not run(2354).problem
