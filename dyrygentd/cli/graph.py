"""`dyrygentctl graph`: the shape of a workflow, folded so that 10,000 nodes fit on a screen.

A node's level is the longest way to it, in tasks; joins are passed through. Nodes of one task on one level are one row, and
levels that repeat (as in a chain of 600 groups) are one block. Everything is one pass over nodes and their dependencies.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli import Session, command, main, render, say

if TYPE_CHECKING:
    from dyrygentd import wire

_ROWS_MAX: Final = 40
"""A screen."""

_PERIOD_MAX: Final = 8
"""Levels in a pattern that is recognised when it repeats."""

_WAY_NAMED: Final = 3
_FILLS: Final = {
    "succeeded": "palegreen",
    "skipped": "honeydew",
    "dispatching": "lightblue",
    "dispatched": "lightblue",
    "held": "khaki",
    "retrying": "khaki",
    "failed": "salmon",
    "cancelled": "lightgrey",
    "blocked": "mistyrose",
}


@dataclass(slots=True)
class Row:
    """Nodes of one task on one level, or on the levels of a block that correspond to each other."""

    what: str
    count: int
    states: Counter[str]
    example: str


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


@main.command(short_help="Show the shape of a workflow, folded to a screen.")
@click.argument("reference", metavar="REF")
@click.option("--dot", "is_dot", is_flag=True, help="All nodes for Graphviz: pipe it into `dot -Tsvg`.")
@click.option("--all", "is_all", is_flag=True, help="Do not shorten what is longer than a screen.")
@command
def graph(session: Session, reference: str, is_dot: bool, is_all: bool) -> None:
    """Show the shape of a workflow: level by level, nodes of one task in one row, levels that repeat in one block.

    \b
    Example: dyrygentctl graph @latest --dot | dot -Tsvg > graph.svg
    """
    handle = session.handle(reference)
    view = handle.status()
    nodes = list(handle.nodes(page=1000))
    if is_dot:
        write_dot(view.name, nodes)
        return
    levels, way = levels_of(nodes)
    blocks = folded(rows_of(nodes, levels))
    if session.is_json:
        click.echo(json.dumps(_document(view, blocks, way), ensure_ascii=False))
        return
    click.echo(f"{render.inline(view.name)}: {render.state(view.state)}, {render.number(len(nodes), 'node')}")
    lines = _lines(blocks)
    hidden = 0 if is_all else max(0, len(lines) - _ROWS_MAX)
    if hidden:
        half = _ROWS_MAX // 2
        lines[half : half + hidden] = [("…", f"{hidden:,} rows more", "", "")]
    click.echo(render.table(("LEVEL", "NODES", "TASK", "STATES"), lines))
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
    missing = [len(dependencies) for dependencies in after]
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
    found: list[dict[str, Row]] = [{} for _ in range(max(levels, default=0))]
    for node, level in zip(nodes, levels, strict=True):
        if node.kind == "join":
            continue
        what = node.task or f"({node.kind})"
        if node.kind == "hook":
            what += " (hook)"
        row = found[level - 1].setdefault(what, Row(what, 0, Counter(), node.name))
        row.count += 1
        row.states[node.state] += 1
    return [list(rows.values()) for rows in found]


def folded(levels: Sequence[list[Row]]) -> list[Block]:
    """Put levels that repeat into one block: the pattern that covers most, and of those the shortest."""
    shapes = [tuple((row.what, row.count) for row in rows) for rows in levels]
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
    merged = [Row(row.what, 0, Counter(), row.example) for row in levels[0]]
    for rows in levels:
        for into, row in zip(merged, rows, strict=True):
            into.count += row.count
            into.states.update(row.states)
    return merged


def _lines(blocks: Sequence[Block]) -> list[tuple[str, str, str, str]]:
    lines = []
    for block in blocks:
        for step, rows in enumerate(block.rows):
            level = str(block.first) if block.last == block.first else f"{block.first}-{block.last}" if step == 0 else ""
            for row in rows:
                each = f"{block.repeats:,} x {row.count // block.repeats:,}" if block.repeats > 1 else f"{row.count:,}"
                states = click.unstyle(render.counts(row.states))
                lines.append((level, each, row.what if row.count > 1 else f"{row.what}  {row.example}", states))
                level = ""
    return lines


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
                    }
                    for step, rows in enumerate(block.rows)
                    for row in rows
                ],
            }
            for block in blocks
        ],
        "longest_way": way,
    }


def write_dot(name: str, nodes: "Sequence[wire.NodeView]") -> None:
    """Write all nodes in Graphviz' language. They are numbered there, for any text may be a name here."""
    number = {node.name: index for index, node in enumerate(nodes)}
    lines = [f"digraph {_dot_text(name)} {{", "  rankdir=LR; node [shape=box, style=filled, fillcolor=white];"]
    for index, node in enumerate(nodes):
        if node.kind == "join":
            lines.append(f"  n{index} [shape=point, tooltip={_dot_text(node.name)}];")
            continue
        text = _dot_text(f"{node.name}\n{node.task or node.kind}\n{node.state}")
        lines.append(f"  n{index} [label={text}, fillcolor={_FILLS.get(node.state, 'white')}];")
    for index, node in enumerate(nodes):
        lines += [f"  n{number[before]} -> n{index};" for before in node.after if before in number]
    click.echo("\n".join([*lines, "}"]))


def _dot_text(text: str) -> str:
    shown = render.visible(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{shown}"'
