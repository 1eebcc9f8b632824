"""Bars of letters."""

import click
import pytest

from dyrygentd.cli.bars import LETTERS, bar, cells_of, legend
from dyrygentd.core.states import NodeState


@pytest.mark.parametrize(
    ("states", "drawn"),
    [
        ({}, ""),
        ({"failed": 1}, "F"),
        ({"succeeded": 3, "waiting": 2}, "SSS··"),
        ({"waiting": 500, "succeeded": 500}, "SSSSS·····"),
        ({"succeeded": 9_999, "failed": 1}, "SSSSSSSSSF"),
        ({"dispatching": 10, "dispatched": 10, "succeeded": 0}, "RRRRRRRRRR"),
        (dict.fromkeys(LETTERS, 1), "SKFCRRTHr·B"),
        (dict.fromkeys(LETTERS, 1) | {"ready": 10**6}, "SKFCRRTHr·B"),
    ],
)
def test_each_state_has_its_share_and_at_least_a_letter(states: dict[str, int], drawn: str) -> None:
    """One failure of ten thousand is seen."""
    assert click.unstyle(bar(states, 10)) == drawn
    assert sum(cells_of(states, 10).values()) == len(drawn)


def test_each_state_has_a_letter() -> None:
    """What the daemon may say is drawn, and the letters are told."""
    assert set(LETTERS) == {state.word for state in NodeState}
    assert legend({"dispatched", "dispatching", "failed"}) == "F failed  R in flight"
