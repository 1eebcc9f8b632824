"""Counts and sums that metrics are made of."""

import pytest

from dyrygentd.core.tally import OTHERS, SumsByName, Tally


def test_values_up_to_a_bound_are_in_it() -> None:
    """A value that equals a bound counts below it, as Prometheus has it; above the last bound there is one more place."""
    tally = Tally((1.0, 10.0))
    for value in (0.5, 1.0, 1.5, 10.0, 11.0):
        tally.add(value)
    tally.add(2.0, count=3)
    assert (tally.counts, tally.total) == ([2, 5, 1], 30.0)


def test_no_value_is_negative() -> None:
    """A clock that was set back must not make a sum fall, which would be read as a restart."""
    tally = Tally((1.0,))
    tally.add(-5.0)
    assert (tally.counts, tally.total) == ([1, 0], 0.0)


def test_examples_name_a_workflow() -> None:
    """The last value in each place that had a workflow is kept, so that a slow one can be looked at."""
    tally = Tally((1.0,))
    tally.add(0.5)
    tally.add(0.6, workflow="v", now=7.0)
    tally.add(0.7, workflow="w", now=8.0)
    assert tally.view() == {"bounds": [1.0], "counts": [3, 0], "sum": pytest.approx(1.8), "examples": {"0": [0.7, "w", 8.0]}}


def test_names_are_bounded() -> None:
    """Names come from users without end; the first few have sums of their own, the rest one together."""
    sums = SumsByName(("sent", "seconds"), names_max=2)
    sums.add(("a", "q"), "sent", seconds=2.0)
    for name in ("b", "c", "d", "a"):
        sums.add((name, "q"), "sent")
    assert sums.view() == {
        "a": {"sent": 2, "seconds": 2.0},
        "b": {"sent": 1, "seconds": 0},
        OTHERS: {"sent": 2, "seconds": 0},
    }
    assert sums.view(part=1)["q"] == {"sent": 3, "seconds": 2.0}
