"""What boxes of a fold have to do with each other: which waits for which, and how circles among them are cut.

A circle is possible because people say what belongs together. Each node in one is given a *phase*: how often the longest way to
it goes from one box of a circle to another. Inside a box phases never fall along an edge, and from box to box they rise, so boxes
that are cut by phase do not wait for each other.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dyrygentd.core.graph import Graph


class Edge(NamedTuple):
    """A box, one that waits for it, and the number of edges of the graph that it stands for."""

    before: int
    after: int
    weight: int


def edges_between(graph: Graph, nodes: "array[int]", box_of: Sequence[int]) -> list[Edge]:
    """Return the edges between boxes of ``nodes``, in their order; ``box_of`` is negative for all other nodes."""
    counts: dict[tuple[int, int], int] = {}
    for node in nodes:
        box = box_of[node]
        for dependency in graph.dependencies(node):
            before = box_of[dependency]
            if before != box and before >= 0:
                counts[before, box] = counts.get((before, box), 0) + 1
    for ender, parts in _waited_for(graph, nodes, box_of):
        box = box_of[ender]
        for before, count in parts.items():
            if before != box:
                counts[before, box] = counts.get((before, box), 0) + count
    return [Edge(*pair, count) for pair, count in sorted(counts.items())]


def phases_in(
    graph: Graph, levels: Sequence[int], nodes: "array[int]", box_of: Sequence[int], edges: Iterable[Edge], boxes: int
) -> dict[int, int]:
    """Return ``{node: phase}`` of nodes in boxes that wait for each other in a circle, and in those between circles."""
    circle = _in_circles(edges, boxes)
    if not circle:
        return {}
    of_level: dict[int, list[int]] = {}
    for node in nodes:
        if box_of[node] in circle:
            of_level.setdefault(levels[node], []).append(node)
    phases: dict[int, int] = {}
    # ``{scope: {box: highest phase of what is there}}``
    ends, latest = graph.section_ends, dict[int, dict[int, int]]()
    for level in sorted(of_level):
        for node in of_level[level]:
            box, phase = box_of[node], 0
            for dependency in graph.dependencies(node):
                if dependency in phases:
                    phase = max(phase, phases[dependency] + (box_of[dependency] != box))
            if ends is not None and node in ends.ended_by:
                for before, other in latest.get(ends.ended_by[node], {}).items():
                    phase = max(phase, other + (before != box))
            phases[node] = phase
            for scope in () if ends is None else ends.scopes_around(node):
                of_scope = latest.setdefault(scope, {})
                of_scope[box] = max(of_scope.get(box, 0), phase)
    return phases


def _waited_for(graph: Graph, nodes: "array[int]", box_of: Sequence[int]) -> Iterator[tuple[int, Mapping[int, int]]]:
    """Iterate over ``(what ends a section, {box: how many nodes of that section are in it})``."""
    ends = graph.section_ends
    if ends is None:
        return
    known: dict[int, Counter[int]] = {}
    for node in nodes:
        scope = ends.ended_by.get(node)
        if scope is None:
            continue
        if scope not in known:
            known[scope] = Counter(box_of[part] for part in ends.nodes_in(scope) if box_of[part] >= 0)
        yield node, known[scope]


def reduced(edges: Sequence[Edge], boxes: int) -> list[Edge]:
    """Return the edges of a graph without circles that do not follow from others."""
    after: list[list[int]] = [[] for _ in range(boxes)]
    for edge in edges:
        after[edge.before].append(edge.after)
    order = _sorted_out(edges, boxes, backwards=True)
    # For each box the boxes that wait for it, as the bits of a number: 300 boxes are 300 bits.
    reached = [0] * boxes
    for box in order:
        for other in after[box]:
            reached[box] |= reached[other] | 1 << other
    return [
        edge for edge in edges if not any(reached[other] >> edge.after & 1 for other in after[edge.before] if other != edge.after)
    ]


def _in_circles(edges: Iterable[Edge], boxes: int) -> set[int]:
    edges = list(edges)
    outside = {*_sorted_out(edges, boxes), *_sorted_out(edges, boxes, backwards=True)}
    return set(range(boxes)) - outside


def _sorted_out(edges: Iterable[Edge], boxes: int, *, backwards: bool = False) -> list[int]:
    """Return the boxes that wait for no circle, each behind those that it waits for; backwards, those for which none waits."""
    following: list[list[int]] = [[] for _ in range(boxes)]
    missing = [0] * boxes
    for edge in edges:
        before, after = (edge.after, edge.before) if backwards else (edge.before, edge.after)
        following[before].append(after)
        missing[after] += 1
    order = [box for box in range(boxes) if not missing[box]]
    for box in order:  # It grows while it is read.
        for other in following[box]:
            missing[other] -= 1
            if not missing[other]:
                order.append(other)
    return order
