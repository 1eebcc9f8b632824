"""Drawings for Graphviz: a node or a box each, which are numbered there, for any text may be a name here."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.section_ends import section_ends

if TYPE_CHECKING:
    from dyrygentd import wire

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
#: What colours a box if any of its nodes is in it; the first that fits does.
_LOUDEST: Final = ("failed", "held", "retrying", "dispatched", "dispatching", "blocked", "cancelled")
#: Graphviz takes longer for heavier edges.

#: Graphviz takes longer for heavier edges.
_WEIGHT_MAX: Final = 100


def write_dot(name: str, nodes: "Sequence[wire.NodeView]") -> None:
    """Write all nodes in Graphviz' language. They are numbered there, for any text may be a name here."""
    number = {node.name: index for index, node in enumerate(nodes)}
    lines = [f"digraph {_dot_text(name)} {{", "  rankdir=LR; node [shape=box, style=filled, fillcolor=white];"]
    for index, node in enumerate(nodes):
        if node.kind == "join":
            lines.append(f"  n{index} [shape=point, tooltip={_dot_text(node.name)}];")
            continue
        when = f"\nwhen {node.when}" if node.when else ""
        text = _dot_text(f"{node.name}\n{node.task or node.kind}{when}\n{node.state}")
        lines.append(f"  n{index} [label={text}, fillcolor={_FILLS.get(node.state, 'white')}];")
    for index, node in enumerate(nodes):
        lines += [f"  n{number[before]} -> n{index};" for before in node.after if before in number]
    for index, end in enumerate(section_ends(nodes)):
        # As through a join: each of the section goes there, and from there to each that waits for it.
        lines.append(f"  s{index} [shape=point, tooltip={_dot_text(f'end of {nodes[end.enders[0]].section}')}];")
        lines += [f"  n{part} -> s{index} [style=dashed];" for part in end.parts]
        lines += [f"  s{index} -> n{ender} [style=dashed];" for ender in end.enders]
    click.echo("\n".join([*lines, "}"]))


def _dot_text(text: str) -> str:
    shown = render.visible(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{shown}"'


def write_boxes(fold: "wire.FoldView") -> None:
    """Write a folded workflow in Graphviz' language."""
    lines = [f"digraph {_dot_text(fold.name)} {{", "  rankdir=LR; node [shape=box, style=filled, fillcolor=white];"]
    for place, box in enumerate(fold.boxes):
        if not box.nodes:
            lines.append(f"  n{place} [shape=point, tooltip={_dot_text(box.title)}];")
            continue
        states = ", ".join(f"{word} {count:,}" for word, count in box.states.items())
        text = _dot_text(f"{box.title}\n{render.number(box.nodes, 'node')}\n{states}")
        lines.append(f"  n{place} [label={text}, fillcolor={_fill(box.states)}];")
    lines += [f"  n{edge.before} -> n{edge.after} [weight={min(edge.weight, _WEIGHT_MAX)}];" for edge in fold.edges]
    click.echo("\n".join([*lines, "}"]))


def _fill(states: Mapping[str, int]) -> str:
    word = next((word for word in _LOUDEST if states.get(word)), max(states, key=states.__getitem__, default=""))
    return _FILLS.get(word, "white")
