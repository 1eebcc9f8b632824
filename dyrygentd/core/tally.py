"""Counts of how large values were, and sums by name with a bound on the names: what metrics are made of.

Not prometheus_client's own, because these stand where every node passes: 0.4 µs instead of 1.9 to 3.6 µs for a value.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

#: Upper bounds of seconds: a push takes milliseconds, a task may take hours.
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
#: Upper bounds of rows.
ROWS: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
#: What stands for all names beyond the bound.
OTHERS: Final = "(others)"


class Tally:
    """How many values there were up to each bound, and their sum.

    Attributes:
        bounds: Upper bounds, rising; above the last one is one more.
        counts: How many values were in each, not added up.
        examples: ``{number of the bound: (value, workflow, Unix time)}``, the last value in each that had a workflow.
    """

    __slots__ = ("bounds", "counts", "examples", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.examples: dict[int, tuple[float, str, float]] = {}

    def add(self, value: float, *, count: int = 1, workflow: str = "", now: float = 0.0) -> None:
        """Count a value, or so many of them; a clock that was set makes none negative."""
        value = max(value, 0.0)
        place = bisect_left(self.bounds, value)
        self.counts[place] += count
        self.total += value * count
        if workflow:
            self.examples[place] = (value, workflow, now)

    def view(self) -> dict[str, object]:
        """Return it as plain data: ``{"bounds", "counts", "sum", "examples"}``."""
        return {
            "bounds": list(self.bounds),
            "counts": list(self.counts),
            "sum": self.total,
            "examples": {str(place): list(example) for place, example in self.examples.items()},
        }


class SumsByName:
    """Sums for each name. Guards: there are never more than so many names; the rest is added up under `OTHERS`.

    A name may have several parts, such as a task and its queue.

    Args:
        words: What is summed up.
        names_max: The first so many names have sums of their own.
    """

    __slots__ = ("_names_max", "_sums", "_words")

    def __init__(self, words: Sequence[str], names_max: int) -> None:
        self._words = {word: number for number, word in enumerate(words)}
        self._names_max = names_max
        self._sums: dict[tuple[str, ...], list[float]] = {}

    def add(self, name: tuple[str, ...], word: str, value: float = 1.0, *, seconds: float = 0.0) -> None:
        """Add to a sum, and seconds to that of the word ``seconds``."""
        sums = self._sums.get(name)
        if sums is None:
            if len(self._sums) >= self._names_max:
                name = (OTHERS,) * len(name)
            sums = self._sums.setdefault(name, [0.0] * len(self._words))
        sums[self._words[word]] += value
        if seconds:
            sums[self._words["seconds"]] += seconds

    def view(self, part: int = 0) -> dict[str, dict[str, float]]:
        """Return ``{one part of the name: {word: sum}}``."""
        totals: dict[str, list[float]] = {}
        for name, sums in self._sums.items():
            total = totals.setdefault(name[part], [0.0] * len(sums))
            for place, value in enumerate(sums):
                total[place] += value
        return {name: dict(zip(self._words, sums, strict=True)) for name, sums in totals.items()}
