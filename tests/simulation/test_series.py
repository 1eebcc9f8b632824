"""Runs of a series in a world of faults, by seed; `python -m tests.simulation --series` runs as many as one likes."""

import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.series import run
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
def test_runs_follow_each_other(part: int) -> None:
    """No seed has two at work where one may be, or leaves one that waits for nobody, whatever fails when."""
    facts = Counter[str]()
    for seed in range(1 + part, _SEEDS + 1, _PARTS):
        outcome = run(seed)
        again = f"again: python -m tests.simulation --series --seed {seed} --story"
        assert not outcome.problem, f"{outcome.story}\n\nseed {seed}: {outcome.problem}\n{again}"
        facts.update(outcome.facts)
    assert facts["skipped"]
    assert facts["waited"]
    assert facts["ended for another"]
    assert not facts["broken"]
