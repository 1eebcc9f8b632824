"""A second process takes over from a first one, by seed."""

import logging
import os
from collections.abc import Iterator

import pytest

from tests.simulation.takeover import Takeover

_SEEDS = int(os.environ.get("DYRYGENTD_TEST_SEEDS", "60"))
_PARTS = 4


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("dyrygentd")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(_PARTS))
def test_one_at_a_time(part: int) -> None:
    """Nothing of the first one arrives once the broker has heard of the second, and what it has answered before is kept."""
    shared = fenced_pushes = 0
    for seed in range(1 + part, _SEEDS + 1, _PARTS):
        takeover = Takeover(seed)
        try:
            takeover.run()
        except BaseException as error:
            raise AssertionError(f"{takeover.story}\n\nseed {seed}") from error
        shared += takeover.is_shared
        fenced_pushes += takeover.fenced_pushes
    # A world in which nobody tries would show nothing.
    assert 0 < shared < _SEEDS / _PARTS
    assert fenced_pushes
