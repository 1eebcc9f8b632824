"""Rows of figures, the table of them, and the facts about the machine that belong to them."""

import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any


def samples() -> defaultdict[str, list[float]]:
    """Make a place for samples by name, one sample a run."""
    return defaultdict(list)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours, and the figure it is compared with.

    Attributes:
        n: Size of the case: nodes, tasks, steps.
        ours: One sample a run.
        reference: What the floor or peer is.
        floor: Samples of the floor or peer from the same runs; empty if nothing compares.
        note: Circumstances, such as the rate that was reached.
    """

    benchmark: str
    name: str
    n: int
    unit: str
    ours: Sequence[float]
    reference: str = ""
    floor: Sequence[float] = ()
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Return our median in units of the reference's, or None if there is none."""
        below = statistics.median(self.floor) if self.floor else 0.0
        return statistics.median(self.ours) / below if below else None


@dataclass(frozen=True, slots=True)
class Count:
    """How often the tasks of one run were executed, and in what order."""

    benchmark: str
    name: str
    n: int
    executed: int
    missing: int
    repeated: int
    foreign: int
    out_of_order: int

    @property
    def is_right(self) -> bool:
        """Tell whether each task was executed once, after its dependencies, and nothing else was."""
        return self.executed == self.n and not (self.missing or self.repeated or self.foreign or self.out_of_order)


@dataclass(slots=True)
class Report:
    """Everything that was measured."""

    quick: bool
    server_version: str = ""
    rows: list[Row] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    def as_json(self) -> str:
        """Return all samples with the versions and the machine; no host names, no paths."""
        content: dict[str, Any] = {
            "quick": self.quick,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("dyrygentd", "celery", "kombu", "redis", "hiredis", "uvloop", "aiosqlite")},
                "server": self.server_version,
            },
            "machine": {
                "cores": os.cpu_count(),
                "cores_usable": len(os.sched_getaffinity(0)),
                "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                "system": platform.system(),
                "machine": platform.machine(),
            },
            "rows": [asdict(row) | {"ratio": row.ratio} for row in self.rows],
            "counts": [asdict(count) | {"is_right": count.is_right} for count in self.counts],
        }
        return json.dumps(content, indent=1)

    def as_table(self) -> str:
        """Return the rows as aligned text: median [min..max] of ours and of the reference."""
        head = ("benchmark", "what", "n", "unit", "ours", "reference", "figure", "ratio", "note")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        wrong = [count for count in self.counts if not count.is_right]
        executed = sum(count.executed for count in self.counts)
        if self.counts:
            texts += ["", f"{executed:,} executions in {len(self.counts)} runs, each task once and in order: {not wrong}"]
        texts += [f"WRONG: {count}" for count in wrong]
        return "\n".join(texts)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}x"
    return (
        row.benchmark,
        row.name,
        f"{row.n:,}",
        row.unit,
        _spread(row.ours),
        row.reference,
        _spread(row.floor),
        ratio,
        row.note,
    )


def _spread(samples: Sequence[float]) -> str:
    if not samples:
        return ""
    middle = _figure(statistics.median(samples))
    return middle if len(samples) == 1 else f"{middle} [{_figure(min(samples))}..{_figure(max(samples))}]"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
