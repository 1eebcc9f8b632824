"""Edges of a graph as two flat arrays (compressed sparse rows), the same the other way round, and what follows from them."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

from dyrygentd.core.choices import Choices
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.section_ends import NO_SCOPE, SectionEnds


class Shape(Protocol):
    """What is gone along: a `Graph` that is being made."""

    names: Sequence[str]
    signatures: Sequence[Signature | None]
    section_ends: SectionEnds | None
    choices: Choices
    output: int | None
    value_uses: "array[int]"

    def __len__(self) -> int: ...

    def is_task(self, node: int) -> bool:
        """Tell whether a node has a task."""

    def is_child(self, node: int) -> bool:
        """Tell whether a workflow of its own is the work of a node."""

    def takes_input(self, node: int) -> bool:
        """Tell whether a node needs the values of its dependencies."""

    def dependencies(self, node: int) -> "array[int]":
        """Return what a node names."""

    def waited_for(self, node: int) -> Iterable[int]:
        """Return all that a node waits for."""


def reversed_edges(nodes: int, start: "array[int]", targets: "array[int]") -> "tuple[array[int], array[int]]":
    """Turn ``node -> dependencies`` into ``node -> dependents`` by counting, in linear time."""
    counts = array("I", bytes(4 * (nodes + 1)))
    for target in targets:
        counts[target + 1] += 1
    for node in range(nodes):
        counts[node + 1] += counts[node]
    reversed_start, place = array("I", counts), array("I", counts)
    edges = array("I", bytes(4 * len(targets)))
    for node in range(nodes):
        for target in targets[start[node] : start[node + 1]]:
            edges[place[target]] = node
            place[target] += 1
    return reversed_start, edges


def heights_along(graph: Shape, order: "array[int]", start: "array[int]", dependents: "array[int]") -> "array[int]":
    """Return the number of tasks on the longest path from each node to an end, itself included."""
    heights = array("I", bytes(4 * len(graph)))
    signatures, ends = graph.signatures, graph.section_ends
    behind = [] if ends is None else [0] * len(ends.paths)
    for node in reversed(order):
        below = 0
        if ends is not None and ends.scope_of[node] != NO_SCOPE:
            below = behind[ends.scope_of[node]]
        for place in range(start[node], start[node + 1]):
            height = heights[dependents[place]]
            if height > below:
                below = height
        heights[node] = below + (signatures[node] is not None or graph.is_child(node))
        if ends is not None and node in ends.ended_by:
            scope = ends.ended_by[node]
            behind[scope] = max(behind[scope], heights[node])
    return heights


def value_uses_along(graph: Shape, order: "array[int]") -> "tuple[array[int], bytearray]":
    """Return how many want the value of each node, and whether a task does; the first is set meanwhile, as it is asked for."""
    # In reverse order, so that a join knows whether anybody wants its list before it asks for its members' values.
    graph.value_uses = uses = array("I", bytes(4 * len(graph)))
    feeds_tasks = bytearray(len(graph))
    if graph.output is not None:
        uses[graph.output] += 1
    signatures, deciders = graph.signatures, graph.choices.deciders
    for node in reversed(order):
        signature = signatures[node]
        if node in deciders:
            # What decides must not be lost, whoever else wants it.
            takes = graph.takes_input(node)
            for dependency in deciders[node]:
                uses[dependency] += not takes
                feeds_tasks[dependency] = 1
        # Most tasks of large workflows take nothing, which is seen faster from here.
        if (signature is None or not signature.immutable) and graph.takes_input(node):
            feeds = feeds_tasks[node] or graph.is_task(node) or graph.is_child(node)
            for dependency in graph.dependencies(node):
                uses[dependency] += 1
                feeds_tasks[dependency] |= feeds
    return uses, feeds_tasks


def cycle_among(graph: Shape, stuck: set[int]) -> list[str]:
    """Walk backwards inside ``stuck`` (each of which has a dependency there) until a node repeats; return the names."""
    seen: dict[int, int] = {}
    path: list[int] = []
    node = min(stuck)
    while node not in seen:
        seen[node] = len(path)
        path.append(node)
        node = next(other for other in graph.waited_for(node) if other in stuck)
    return [graph.names[member] for member in reversed(path[seen[node] :])]
