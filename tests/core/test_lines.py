"""Where nobody tells when tasks begin, the line of a queue does."""

from heapq import heappop, heappush
from random import Random

import pytest

from dyrygentd.core.graph import Graph
from dyrygentd.core.lines import QueueLine, QueueLines
from dyrygentd.core.node_spec import NodeSpec, Signature
from tests.support.simulated_run import SimulatedRun


def begun(line: QueueLine, seconds: list[float], *, workers: int) -> list[tuple[float, float]]:
    """Send all at once, run them; return ``(seconds as they were, as the line tells)`` in the order of their ends."""
    numbers = [line.join() for _ in seconds]
    running: list[tuple[float, int]] = []
    found, now, following = [], 1000.0, 0
    while running or following < len(seconds):
        while following < len(seconds) and len(running) < workers:
            heappush(running, (now + seconds[following], following))
            following += 1
        now, task = heappop(running)
        found.append((seconds[task], now - line.ended(numbers[task], 1000.0, now)))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("workers", [1, 8, 50])
def test_run_times_are_told_from_the_queue(seed: int, workers: int) -> None:
    """Of 500 tasks sent at one time to a few workers, the last has waited a hundred times as long as it runs."""
    chance = Random(seed)
    line = QueueLine()
    found = begun(line, [chance.lognormvariate(0.0, 0.5) for _ in range(500)], workers=workers)
    true, told = (sum(column) / len(found) for column in zip(*found, strict=True))
    assert told == pytest.approx(true, rel=0.2)
    assert line.slots == pytest.approx(workers, rel=0.25)
    assert line.was_full


def test_tasks_that_take_equally_long() -> None:
    """Nobody overtakes anybody then, but those that run at a time end at one time."""
    line = QueueLine()
    found = begun(line, [10.0 + number / 1000 for number in range(80)], workers=8)
    assert sum(told for _, told in found) / len(found) == pytest.approx(10.0, rel=0.2)


def test_fewer_workers_are_noticed() -> None:
    """As long as there is a queue, what was seen long ago counts less and less."""
    line = QueueLine(100.0)
    begun(line, [1.0] * 3000, workers=2)
    assert line.slots < 20.0


def test_a_task_in_the_queue_has_not_begun() -> None:
    """What stands behind those that run is waiting, and begins when enough have left."""
    line = QueueLine(2.0)
    numbers = [line.join() for _ in range(4)]
    assert [line.begun_at(number, 5.0) for number in numbers] == [5.0, 5.0, 0.0, 0.0]
    line.leave(9.0)
    assert [line.begun_at(number, 5.0) for number in numbers[2:]] == [9.0, 0.0]
    assert repr(line) == "<QueueLine in_line=3 slots=2>"


def test_lines_are_bounded() -> None:
    """Names of queues come from users; beyond a hundred they share a line."""
    lines = QueueLines()
    for number in range(300):
        lines.of(f"q{number}").join()
    assert repr(lines) == "<QueueLines queues=101>"
    assert lines.of("q299") is lines.of("q298") is not lines.of("q0")
    assert lines.slots() == {}


def test_how_many_ran_is_known_over_a_restart() -> None:
    """What the last process saw is where the next one begins."""
    lines = QueueLines()
    begun(lines.of("q"), [1.0 + number % 7 for number in range(200)], workers=10)
    again = QueueLines()
    again.read(lines.slots() | {f"q{number}": 0.0 for number in range(200)})
    assert again.of("q").slots == lines.of("q").slots
    assert again.of("q0").slots == 1.0
    again.read({"q": 99.0})
    assert again.of("q").slots == lines.of("q").slots


def test_who_is_not_measured_leaves_as_well() -> None:
    """Of hundreds of tasks only some are measured, and the line is empty when all of them have ended."""
    run = SimulatedRun(lambda _: 1.0, workers=5)
    graph = Graph.build([NodeSpec(f"n{number}", Signature("t"), f"w/{number}") for number in range(400)])
    for _ in run.run(graph):
        pass
    assert repr(run.engine.counting.lines.of("q")).startswith("<QueueLine in_line=0 ")
    assert 300 < run.run_times.count < 400
