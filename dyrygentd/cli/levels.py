"""The shape of a workflow by the levels of all its nodes: what `graph --json` holds, and what is shown of older daemons.

A node's level is the longest way to it, in tasks; joins are passed through. Nodes of one task on one level whose names differ in
numbers only (``fetch-*``) are one row, and levels that repeat (as in a chain of 600 groups) are one block. Everything is one pass
over nodes and their dependencies.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.section_ends import section_ends
from dyrygentd.cli.session import echo_json, say
from dyrygentd.cli.watching import counts_line

if TYPE_CHECKING:
    from dyrygentd import wire

_ROWS_MAX: Final = 40
"""A screen."""

_PERIOD_MAX: Final = 8
"""Levels in a pattern that is recognised when it repeats."""

_PATTERNS_MAX: Final = 4
"""Patterns of names of one task on one level; if there are more, names tell nothing."""

_NUMBER: Final = re.compile(r"\d+")
_STATES_MIN: Final = 24
_WAY_NAMED: Final = 3


@dataclass(slots=True)
class Row:
    """Nodes of one task on one level, or on the levels of a block that correspond to each other.

    Attributes:
        names: What their names have in common, with ``*`` for numbers; empty if that is nothing.
        ended, took_s, longest_s: How many have ended, how long they took together from when they were sent, and the longest.
    """

    what: str
    count: int = 0
    states: Counter[str] = field(default_factory=Counter)
    example: str = ""
    names: str = ""
    ended: int = 0
    took_s: float = 0.0
    longest_s: float = 0.0

    def add(self, node: "wire.NodeView") -> None:
        """Take a node in."""
        self.count += 1
        self.states[node.state] += 1
        self.example = self.example or node.name
        if node.dispatched_at and node.finished_at:
            took_s = max(0.0, node.finished_at - node.dispatched_at)
            self.ended += 1
            self.took_s += took_s
            self.longest_s = max(self.longest_s, took_s)

    def merge(self, other: "Row") -> None:
        """Take in the nodes of another one."""
        self.count += other.count
        self.states.update(other.states)
        self.example = self.example or other.example
        self.ended += other.ended
        self.took_s += other.took_s
        self.longest_s = max(self.longest_s, other.longest_s)


@dataclass(slots=True)
class Block:
    """Levels that follow each other, ``period`` of them repeated; ``rows`` has the rows of one period, level by level."""

    first: int
    period: int
    repeats: int
    rows: list[list[Row]]

    @property
    def last(self) -> int:
        """Return the last of its levels."""
        return self.first + self.period * self.repeats - 1


def write_levels(view: "wire.WorkflowView", nodes: "Sequence[wire.NodeView]") -> None:
    """Write the shape as JSON."""
    levels, way = levels_of(nodes)
    echo_json(_document(view, folded(rows_of(nodes, levels)), way))


def show_levels(view: "wire.WorkflowView", nodes: "Sequence[wire.NodeView]", *, is_all: bool) -> None:
    """Show the shape level by level, on one screen unless ``is_all``."""
    levels, way = levels_of(nodes)
    click.echo(f"{render.inline(view.name)}: {render.state(view.state)}, {render.number(len(nodes), 'node')}")
    rows = _rows(folded(rows_of(nodes, levels)))
    hidden = 0 if is_all else max(0, len(rows) - _ROWS_MAX)
    if hidden:
        half = _ROWS_MAX // 2
        rows[half : half + hidden] = [(("…", f"{hidden:,} rows more", "", "", ""), Counter())]
    click.echo(_table(rows))
    if hidden:
        say(f"{hidden:,} rows were left out: --all shows them")
    named = way if len(way) <= 2 * _WAY_NAMED else [*way[:_WAY_NAMED], "…", *way[-_WAY_NAMED:]]
    click.echo(f"longest way, {render.number(len(way), 'node')}: {render.inline(' -> '.join(named))}")


def levels_of(nodes: "Sequence[wire.NodeView]") -> tuple[list[int], list[str]]:
    """Return each node's level, from 1 (joins have the level of what is before them), and the names on a longest way."""
    number = {node.name: index for index, node in enumerate(nodes)}
    after = [[number[name] for name in node.after if name in number] for node in nodes]
    dependents: list[list[int]] = [[] for _ in nodes]
    for node, dependencies in enumerate(after):
        for dependency in dependencies:
            dependents[dependency].append(node)
    waits: list[Sequence[int]] = [*after]
    for end in section_ends(nodes):
        for ender in end.enders:
            waits[ender] = [*after[ender], *(part for part in end.parts if part not in after[ender])]
        for part in end.parts:
            dependents[part] += [ender for ender in end.enders if part not in after[ender]]
    missing = [len(each) for each in waits]
    ready = [node for node, count in enumerate(missing) if not count]
    levels, before = [0] * len(nodes), [-1] * len(nodes)
    last = -1
    for node in ready:  # It grows while it is read.
        if nodes[node].kind != "join":
            levels[node] += 1
        if last < 0 or levels[node] > levels[last]:
            last = node
        for dependent in dependents[node]:
            if before[dependent] < 0 or levels[node] > levels[dependent]:
                levels[dependent], before[dependent] = levels[node], node
            missing[dependent] -= 1
            if not missing[dependent]:
                ready.append(dependent)
    way = []
    while last >= 0:
        if nodes[last].kind != "join":
            way.append(nodes[last].name)
        last = before[last]
    return levels, way[::-1]


def rows_of(nodes: "Sequence[wire.NodeView]", levels: Sequence[int]) -> list[list[Row]]:
    """Return the rows of each level, in the order in which their first nodes were defined."""
    found: list[dict[str, dict[str, Row]]] = [{} for _ in range(max(levels, default=0))]
    for node, level in zip(nodes, levels, strict=True):
        if node.kind == "join":
            continue
        what = node.task or f"({node.kind})"
        if node.kind == "hook" or node.section_end:
            what += f" ({'hook' if node.kind == 'hook' else node.section_end})"
        pattern = _NUMBER.sub("*", node.name)
        of_task = found[level - 1].setdefault(what, {})
        # Beyond the bound they are one row anyway, so there is no need to keep them apart.
        key = pattern if pattern in of_task or len(of_task) <= _PATTERNS_MAX else ""
        of_task.setdefault(key, Row(what, names=pattern if "*" in pattern else "")).add(node)
    return [[row for of_task in tasks.values() for row in _told_apart(of_task)] for tasks in found]


def _told_apart(of_task: dict[str, Row]) -> list[Row]:
    """Return the rows of one task on one level: by their names, if those tell something."""
    rows = list(of_task.values())
    if len(rows) <= _PATTERNS_MAX and all(row.names for row in rows):
        return rows
    whole = Row(rows[0].what)
    for row in rows:
        whole.merge(row)
    return [whole]


def folded(levels: Sequence[list[Row]]) -> list[Block]:
    """Put levels that repeat into one block: the pattern that covers most, and of those the shortest."""
    shapes = [tuple((row.what, row.names, row.count) for row in rows) for rows in levels]
    blocks, at = [], 0
    while at < len(levels):
        period, repeats = 1, 1
        for length in range(1, _PERIOD_MAX + 1):
            found = _repeats(shapes, at, length)
            if found > 1 and found * length > period * repeats:
                period, repeats = length, found
        rows = [_merged([levels[level] for level in range(at + step, at + period * repeats, period)]) for step in range(period)]
        blocks.append(Block(at + 1, period, repeats, rows))
        at += period * repeats
    return blocks


def _repeats(shapes: Sequence[object], at: int, length: int) -> int:
    """Return how often the next ``length`` levels follow each other."""
    end = at + length
    while end < len(shapes) and shapes[end] == shapes[end - length]:
        end += 1
    return (end - at) // length


def _merged(levels: Sequence[list[Row]]) -> list[Row]:
    """Add up rows of levels of one shape."""
    merged = [Row(row.what, names=row.names) for row in levels[0]]
    for rows in levels:
        for into, row in zip(merged, rows, strict=True):
            into.merge(row)
    return merged


def _rows(blocks: Sequence[Block]) -> list[tuple[tuple[str, ...], Counter[str]]]:
    """Return a row of texts and its states for each row of the blocks."""
    lines: list[tuple[tuple[str, ...], Counter[str]]] = []
    for block in blocks:
        for step, rows in enumerate(block.rows):
            level = str(block.first) if block.last == block.first else f"{block.first}-{block.last}" if step == 0 else ""
            for row in rows:
                each = f"{block.repeats:,} x {row.count // block.repeats:,}" if block.repeats > 1 else f"{row.count:,}"
                names = row.example if row.count == 1 else row.names
                lines.append(((level, each, row.what, names, _took(row)), row.states))
                level = ""
    return lines


def _took(row: Row) -> str:
    if not row.ended:
        return ""
    mean = render.duration(row.took_s / row.ended)
    return mean if row.ended == 1 else f"{mean}, up to {render.duration(row.longest_s)}"


def _table(rows: Sequence[tuple[tuple[str, ...], Counter[str]]]) -> str:
    """Return the table; the states come last, in their colours, and those that say least give way to the terminal's edge."""
    screen = render.screen()
    width = 10_000 if screen is None else screen.columns
    heads = ("LEVEL", "NODES", "TASK", "NAMES", "TOOK")
    # Before anything has ended the last column would take room for nothing, and on a narrow terminal it takes it from the states.
    for columns in (5 if any(cells[4] for cells, _ in rows) else 4, 4):
        lines = render.table(heads[:columns], [cells[:columns] for cells, _ in rows]).splitlines()
        plain = [click.unstyle(line) for line in lines]
        begin = max(map(len, plain)) + 2
        if width - begin >= _STATES_MIN:
            break
    shown = [click.style("STATES", bold=True), *(_states(states, max(_STATES_MIN, width - begin)) for _, states in rows)]
    return "\n".join(
        f"{line}{' ' * (begin - len(text))}{states}".rstrip() for line, text, states in zip(lines, plain, shown, strict=True)
    )


def _states(states: Counter[str], width: int) -> str:
    text = counts_line(states, width=width)
    return (
        ", ".join(" ".join([render.state(word), *rest]) for word, *rest in (part.split(" ") for part in text.split(", ")))
        if text
        else ""
    )


def _document(view: "wire.WorkflowView", blocks: Sequence[Block], way: Sequence[str]) -> dict[str, Any]:
    return {
        "id": view.id,
        "name": view.name,
        "state": view.state,
        "levels": [
            {
                "first": block.first,
                "last": block.last,
                "repeats": block.repeats,
                "groups": [
                    {
                        "level": block.first + step,
                        "task": row.what,
                        "nodes": row.count,
                        "states": row.states,
                        "example": row.example,
                        "names": row.names,
                        "ended": row.ended,
                        "mean_s": round(row.took_s / row.ended, 3) if row.ended else None,
                        "longest_s": round(row.longest_s, 3) if row.ended else None,
                    }
                    for step, rows in enumerate(block.rows)
                    for row in rows
                ],
            }
            for block in blocks
        ],
        "longest_way": way,
    }
