"""What is left is run through by chance: polls, rules, retries, pools, and tasks that take longer than any before."""

import pytest

from dyrygentd.core.likely_ends import quantiles, rest_s
from dyrygentd.core.run_times import RunTimes
from tests.support.conversation import parse_graph
from tests.support.simulated_run import SimulatedRun


def told(
    text: str, *, ended: int = 0, failing: int = 0, workers: int = 20, pools: dict[str, int] | None = None
) -> tuple[float, float]:
    """Submit a graph of tasks that take about ten seconds; return the range after so many have ended."""
    run = SimulatedRun(lambda _: 10.0, workers=workers, pools=pools)
    for name in "abcdefgh":
        for _ in range(30):
            run.run_times.ended(f"tasks.{name}", 10.0, is_good=True)
        for _ in range(failing):
            run.run_times.ended(f"tasks.{name}", 10.0, is_good=False)
    if ended:
        run.run_until(parse_graph(text), ended)
    else:
        run.submit(parse_graph(text))
    found = run.estimate()
    assert found.low_s is not None
    assert found.high_s is not None
    return found.low_s, found.high_s


def test_a_poll_asks_for_a_while() -> None:
    """Nobody knows for how long, so the range says so."""
    low_s, high_s = told("a poll=100; b < a")
    assert low_s < 80.0
    assert high_s > 150.0


def test_what_does_not_run_if_all_goes_well_takes_no_time() -> None:
    """Hooks of a failure, and what cleans up; what begins with the first success does not wait for the others."""
    assert told("a; b < a rule=any_failed; c < b; d hook=failure")[1] < 30.0
    low_s, high_s = told("a; b countdown=100; c < a b rule=any_succeeded; d < c", ended=1)
    assert 90.0 < low_s < high_s < 160.0


def test_the_end_of_a_section_comes_behind_it() -> None:
    """Without an edge, and before what is behind it, of one that is half done as well; its hook of a failure takes no time."""
    text = "a section=s; b < a section=s/t; c section=s end=finally; x section=s end=failure; d < c"
    low_s, high_s = told(text)
    assert 30.0 < low_s < high_s < 60.0
    low_s, high_s = told(text, ended=2)
    assert 14.0 < low_s < high_s < 35.0


def test_retries_take_time() -> None:
    """Of a task that fails every second time more attempts are to come, as its policy lets."""
    once = told("a; b < a; c < b; d < c", failing=30)[1]
    again = told("a retry=5 backoff=60; b < a retry=5 backoff=60; c < b retry=5 backoff=60; d < c", failing=30)[1]
    assert again > once + 60.0


def test_a_pool_lets_the_others_pass() -> None:
    """What waits for a place holds nobody else up."""
    text = "a; b < a pool=p; c < a pool=p; d < a pool=p; e < a"
    assert told(text)[0] < 25.0
    assert 30.0 < told(text, pools={"p": 1})[0] < told(text, pools={"p": 1})[1] < 100.0


def test_more_in_flight_than_run() -> None:
    """With one worker the others stand in its queue, and come after what runs."""
    low_s, high_s = told("; ".join("abcdefgh"), ended=2, workers=1)
    assert 45.0 < low_s < 60.0 < high_s < 90.0


def test_how_much_longer() -> None:
    """The longer a task has been running, the fewer are those that took so long; beyond them nobody knows."""
    times = RunTimes()
    for seconds in range(1, 101):
        times.ended("t", float(seconds), is_good=True)
    time = times.view(["t"])["t"]
    assert rest_s(time, 0.0, 0.5) == pytest.approx(50.0, rel=0.2)
    assert rest_s(time, 60.0, 0.5) == pytest.approx(20.0, abs=12.0)
    assert rest_s(time, 1000.0, 0.5) == pytest.approx(300.0)
    assert rest_s(time, 60.0, 1.0) > rest_s(time, 60.0, 0.0) >= 0.0


def test_quantiles() -> None:
    """Of few runs the first and the last."""
    assert quantiles([1.0, 2.0, 3.0], 0.05, 0.95) == (1.0, 3.0)
    assert quantiles([float(number) for number in range(41)], 0.05, 0.95) == (2.0, 38.0)
