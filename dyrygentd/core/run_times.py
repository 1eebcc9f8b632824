"""How long tasks take, by their names: small sketches of what was measured, of which old evidence fades.

*What is measured.* From when a worker began a task to its end: as workers tell (Celery's ``task_track_started``), else as the
line in its queue tells (`dyrygentd.core.lines`). Retries of the task itself are in it. Only tasks that succeeded are measured; of
the others it is counted how many failed.

*A sketch* counts in buckets, each a quarter wider than the one before: from a millisecond to many years in 128 numbers, of which
a task has some ten. After `_FRESH_MAX` values all counts are halved, so that what was long ago fades. A sketch can be added to
another one. It costs a node half a microsecond.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from math import exp, log, sqrt
from typing import Any, Final, NamedTuple

_LEAST_S: Final = 0.001
_FACTOR: Final = 1.25
_SCALE: Final = 1.0 / log(_FACTOR)
_SHIFT: Final = -log(_LEAST_S) * _SCALE
_LAST: Final = 127
#: What a bucket stands for: the mean of values spread evenly over it, in powers.
_MIDDLES: Final = tuple(_LEAST_S * _FACTOR**number * (_FACTOR - 1.0) * _SCALE for number in range(_LAST + 1))
#: Values after which all are halved: the last thousand or two count.
_FRESH_MAX: Final = 1000
#: From so many on one in four is measured: it says as much, and measuring costs a node two microseconds.
_FULL: Final = 300
_ONE_IN: Final = 4
#: Names that are kept; if there are more, a tenth of them goes, those that were not measured for longest.
_NAMES_MAX: Final = 1000
#: Longest name that is kept: it comes from users, and is written to disk.
_NAME_MAX: Final = 300
#: What takes longer than any before takes so many times as long as these.
_LONGER: Final = 1.5
_UNSEEN: Final = 0.25
_VERSION: Final = 1


class RunTime(NamedTuple):
    """How long a task takes, as far as it was measured.

    Attributes:
        seconds: What it may be, rising.
        cumulative: How many were measured up to each of these, faded.
        mean_s, deviation_s: Mean and standard deviation.
        number: How many were measured, faded; the last of ``cumulative`` is a little more, for what has not been seen yet.
        failing: The share of attempts that failed, 0 to 1.
    """

    seconds: tuple[float, ...]
    cumulative: tuple[float, ...]
    mean_s: float
    deviation_s: float
    number: float
    failing: float

    def quantile_s(self, share: float) -> float:
        """Return what so large a share, 0 to 1, did not exceed."""
        return self.seconds[min(bisect_left(self.cumulative, share * self.number), len(self.seconds) - 1)]


class RunTimeSketch:
    """The times of one task. Guards: no evidence is older than some thousands of others.

    Attributes:
        used: When it was measured last, as a number that rises.
    """

    __slots__ = ("_buckets", "_failed", "_passed", "_total", "used")

    def __init__(self) -> None:
        self._buckets: dict[int, float] = {}
        self._total = self._passed = 0
        self._failed = 0.0
        self.used = 0

    def __repr__(self) -> str:
        return f"<RunTimeSketch count={sum(self._buckets.values()):.0f}>"

    def passes_over(self) -> bool:
        """Tell whether the next one need not be measured; asked once for each."""
        if self._total < _FULL:
            return False
        self._passed = (self._passed + 1) % _ONE_IN
        return self._passed != 0

    def add(self, seconds: float) -> None:
        """Add a measurement."""
        bucket = min(int(log(seconds) * _SCALE + _SHIFT), _LAST) if seconds > _LEAST_S else 0
        self._buckets[bucket] = self._buckets.get(bucket, 0.0) + 1.0
        self._total += 1
        if self._total >= _FRESH_MAX:
            self._fade()

    def failed(self) -> None:
        """Count a failure."""
        self._failed += 1.0
        if self._failed >= _FRESH_MAX:
            self._fade()

    def merge(self, other: "RunTimeSketch") -> None:
        """Add what another one has measured."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0.0) + count
        self._failed += other._failed

    def _fade(self) -> None:
        self._buckets = {bucket: count / 2.0 for bucket, count in self._buckets.items() if count > 1.0}
        self._failed /= 2.0
        self._total = round(sum(self._buckets.values()))

    def view(self) -> RunTime | None:
        """Return what is known; None if nothing is."""
        if not self._buckets:
            return None
        buckets = sorted(self._buckets)
        counts, seconds = [self._buckets[bucket] for bucket in buckets], [_MIDDLES[bucket] for bucket in buckets]
        return _run_time(seconds, counts, failed=self._failed)

    def written(self) -> dict[str, Any]:
        """Return it as plain data, for `read`."""
        buckets = {str(bucket): round(count, 1) for bucket, count in self._buckets.items()}
        return {"buckets": buckets, "failed": round(self._failed, 1)}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "RunTimeSketch":
        """Read what was written. Raises `ValueError` (or `TypeError`, `KeyError`, `AttributeError`) if it is something else."""
        sketch = cls()
        for bucket, count in data["buckets"].items():
            number, value = int(bucket), float(count)
            if not (0 <= number <= _LAST and 0.0 < value <= 2 * _FRESH_MAX):
                raise ValueError(f"bucket {number} has {value}")
            sketch._buckets[number] = value
        failed = float(data["failed"])
        if not 0.0 <= failed <= 2 * _FRESH_MAX:
            raise ValueError(f"{failed} failed")
        sketch._failed = failed
        sketch._total = round(sum(sketch._buckets.values()))
        return sketch


class RunTimes:
    """The times of all tasks. Guards: no more than `_NAMES_MAX` names are kept, those that were measured last.

    Attributes:
        count: How many measurements were taken, also those that have faded.
    """

    __slots__ = ("_sketches", "count")

    def __init__(self) -> None:
        self._sketches: dict[str, RunTimeSketch] = {}
        self.count = 0

    def __repr__(self) -> str:
        return f"<RunTimes names={len(self._sketches)} count={self.count}>"

    def __len__(self) -> int:
        return len(self._sketches)

    def passes_over(self, task: str) -> bool:
        """Tell whether the next end of a task need not be measured: one in four is, once hundreds were."""
        sketch = self._sketches.get(task)
        return sketch is not None and sketch.passes_over()

    def ended(self, task: str, seconds: float, *, is_good: bool) -> None:
        """Take the end of an attempt: how long it took if it was good, else that it failed."""
        sketch = self._sketches.get(task)
        if sketch is None:
            if len(task) > _NAME_MAX:
                return
            sketch = self._sketches[task] = RunTimeSketch()
            if len(self._sketches) > _NAMES_MAX:
                self._forget_some()
        self.count = sketch.used = self.count + 1
        if is_good:
            sketch.add(seconds)
        else:
            sketch.failed()

    def view(self, tasks: Iterable[str]) -> dict[str, RunTime]:
        """Return what is known of these tasks, without those of which nothing is."""
        sketches = ((task, self._sketches.get(task)) for task in tasks)
        found = {task: sketch.view() for task, sketch in sketches if sketch is not None}
        return {task: time for task, time in found.items() if time is not None}

    def names(self) -> list[str]:
        """Return the names of all tasks that were measured, the latest first."""
        return sorted(self._sketches, key=lambda task: -self._sketches[task].used)

    def written(self, most: int) -> dict[str, Any]:
        """Return them as plain data, for `read`; those measured last, at most so many."""
        return {"version": _VERSION, "tasks": {task: self._sketches[task].written() for task in self.names()[:most]}}

    def read(self, data: Mapping[str, Any]) -> None:
        """Add what was written before. Raises `ValueError` (or `TypeError`, `KeyError`, `AttributeError`), then nothing is."""
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']}")
        found = {str(task): RunTimeSketch.read(sketch) for task, sketch in data["tasks"].items()}
        # Those measured last come first in what is written, and are to be forgotten last.
        for task, sketch in [*reversed(found.items())][-_NAMES_MAX:]:
            known = self._sketches.setdefault(task[:_NAME_MAX], sketch)
            if known is not sketch:
                known.merge(sketch)
            self.count = known.used = self.count + 1

    def _forget_some(self) -> None:
        for task in self.names()[_NAMES_MAX - _NAMES_MAX // 10 :]:
            # The one that is being measured has not been used yet.
            if self._sketches[task].used:
                del self._sketches[task]


def mixed(times: Iterable[RunTime]) -> RunTime | None:
    """Return what is known of a task like these, of which nothing was measured; None if there are none."""
    counts: dict[float, float] = {}
    for time in times:
        before = 0.0
        for value, upto in zip(time.seconds[:-1], time.cumulative[:-1], strict=True):
            # Each task counts as one, however often it ran.
            counts[value] = counts.get(value, 0.0) + (upto - before) / time.number
            before = upto
    if not counts:
        return None
    seconds = sorted(counts)
    return _run_time(seconds, [counts[value] for value in seconds], failed=0.0)


def likely_factor(time: RunTime, chance: float) -> float:
    """Return by what the true mean may differ from the measured one, with ``chance`` from a normal distribution."""
    # A single measurement does not say how much they vary.
    variation = max(time.deviation_s / time.mean_s if time.mean_s else 0.0, 0.2 + 0.4 / time.number)
    deviation = min(variation / sqrt(time.number), 1.0)
    # On an average the factor is 1.
    return exp(deviation * chance - deviation * deviation / 2.0)


def _run_time(seconds: list[float], counts: list[float], *, failed: float) -> RunTime:
    count = sum(counts)
    mean = sum(value * each for value, each in zip(seconds, counts, strict=True)) / count
    square = sum(each * (value - mean) ** 2 for value, each in zip(seconds, counts, strict=True)) / count
    # The next one may take longer than any before.
    seen, upto = (*seconds, seconds[-1] * _LONGER), (*accumulate(counts), count + _UNSEEN)
    return RunTime(seen, upto, mean, sqrt(square), count, failed / (failed + count))
