"""Run times are kept in small sketches, which are close to the truth, forget what is old, and can be written down."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.core.run_times import RunTimes, RunTimeSketch, likely_factor, mixed


def times_of(*seconds: float, task: str = "t") -> RunTimes:
    times = RunTimes()
    for each in seconds:
        times.ended(task, each, is_good=True)
    return times


@given(st.lists(st.floats(0.002, 1e6), min_size=1, max_size=200))
def test_a_sketch_is_close(seconds: list[float]) -> None:
    """Whatever was measured, mean and quantiles are told to within a bucket."""
    time = times_of(*seconds).view(["t"])["t"]
    assert time.number == len(seconds)
    assert time.mean_s == pytest.approx(sum(seconds) / len(seconds), rel=0.14)
    assert time.quantile_s(0.5) == pytest.approx(sorted(seconds)[(len(seconds) - 1) // 2], rel=0.14)
    assert time.quantile_s(0.0) <= time.quantile_s(0.5) <= time.quantile_s(1.0) <= time.seconds[-1]


def test_nothing_is_too_short_or_too_long() -> None:
    """A clock that was set, or a task of a thousand years, breaks nothing."""
    time = times_of(-5.0, 0.0, 1e30).view(["t"])["t"]
    assert time.number == 3
    assert time.seconds[0] < 0.002


def test_old_evidence_fades() -> None:
    """A task that has become ten times as fast is known to be soon."""
    times = times_of(*[100.0] * 5000, *[10.0] * 3000)
    time = times.view(["t"])["t"]
    assert time.quantile_s(0.5) == pytest.approx(10.0, rel=0.14)
    assert time.mean_s < 25.0
    assert time.number <= 1000


def test_failures_are_counted_and_fade_as_well() -> None:
    """How often a task fails says how often it is tried again."""
    times = times_of(*[1.0] * 30)
    for _ in range(10):
        times.ended("t", 1.0, is_good=False)
    assert times.view(["t"])["t"].failing == 0.25
    for _ in range(3000):
        times.ended("t", 1.0, is_good=False)
    assert times.view(["t"]).keys() <= {"t"}
    times.ended("never good", 1.0, is_good=False)
    assert "never good" not in times.view(["never good", "unknown"])


def test_names_are_bounded() -> None:
    """A thousand and one tasks do not make a list that only grows; what was measured last stays."""
    times = RunTimes()
    for number in range(2500):
        times.ended(f"t{number}", 1.0, is_good=True)
    assert 900 <= len(times) <= 1000
    assert times.names()[0] == "t2499"
    times.ended("x" * 301, 1.0, is_good=True)
    assert "x" * 301 not in times.names()
    assert repr(times) == f"<RunTimes names={len(times)} count=2500>"


def test_what_is_written_is_read() -> None:
    """A restart knows what the last process knew, and adds what it measures itself."""
    times = times_of(1.0, 2.0, 30.0)
    times.ended("other", 5.0, is_good=True)
    times.ended("t", 5.0, is_good=False)
    data = json.loads(json.dumps(times.written(10)))
    again = RunTimes()
    again.read(data)
    assert again.view(["t", "other"]) == times.view(["t", "other"])
    assert again.names() == ["t", "other"]
    assert [*times.written(1)["tasks"]] == ["t"]
    again.read(data)
    assert again.view(["t"])["t"].number == 6.0


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"version": 2, "tasks": {}},
        {"version": 1, "tasks": {"t": {}}},
        {"version": 1, "tasks": {"t": {"buckets": {"999": 1}, "failed": 0}}},
        {"version": 1, "tasks": {"t": {"buckets": {"1": -1}, "failed": 0}}},
        {"version": 1, "tasks": {"t": {"buckets": {"1": 1}, "failed": -1}}},
        {"version": 1, "tasks": {"t": {"buckets": [], "failed": 0}}},
    ],
)
def test_what_is_broken_is_refused_as_a_whole(data: dict[str, object]) -> None:
    """A note that something else has written changes nothing."""
    times = RunTimes()
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        times.read(data)
    assert len(times) == 0


def test_a_task_of_which_nothing_is_known_is_taken_for_one_of_the_others() -> None:
    """Each of them counts once, however often it ran."""
    times = times_of(*[1.0] * 99)
    times.ended("long", 100.0, is_good=True)
    found = mixed(times.view(["t", "long"]).values())
    assert found is not None
    assert found.quantile_s(0.9) > 90.0
    assert mixed([]) is None


def test_few_measurements_say_little() -> None:
    """The mean of a thousand is close to the truth, that of two may not be."""
    few, many = times_of(1.0, 3.0).view(["t"])["t"], times_of(*[1.0, 3.0] * 400).view(["t"])["t"]
    assert likely_factor(few, 2.0) > 1.5 > 1.1 > likely_factor(many, 2.0) > 1.0
    assert likely_factor(many._replace(mean_s=0.0), 0.0) == pytest.approx(1.0, rel=0.01)


def test_a_sketch_says_how_much_it_knows() -> None:
    """As every part of the core."""
    sketch = RunTimeSketch()
    chance = Random(1)
    for _ in range(7):
        sketch.add(chance.random())
    assert repr(sketch) == "<RunTimeSketch count=7>"


def test_of_many_one_in_four_is_measured() -> None:
    """Measuring costs more than it tells of a task of which hundreds were; what it takes from now on is noticed all the same."""
    times = RunTimes()
    assert not times.passes_over("t")
    for _ in range(300):
        assert not times.passes_over("t")
        times.ended("t", 1.0, is_good=True)
    measured = 0
    for _ in range(8_000):
        if not times.passes_over("t"):
            measured += 1
            times.ended("t", 3.0, is_good=True)
    assert measured == 2_000
    assert times.view(["t"])["t"].mean_s == pytest.approx(3.0, rel=0.15)
