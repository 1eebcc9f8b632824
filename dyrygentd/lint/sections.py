"""What of the ends of sections may not be meant."""

from collections.abc import Iterator
from typing import Final

from dyrygentd.core.graph import Graph
from dyrygentd.core.section_ends import SectionEnds

#: Edges of one section that are looked at.
_EDGES_MAX: Final = 100_000


def remarks_on_ends(graph: Graph) -> Iterator[tuple[str, str]]:
    """Iterate over ``(node, what it does beside a clean-up of which it may have thought that it follows)``: one a section."""
    ends = graph.section_ends
    for scope, enders in () if ends is None else enumerate(ends.enders):
        assert ends is not None
        if not ends.ends_finally(enders[0]):
            continue
        found = _beside(graph, ends, scope)
        if found is not None:
            part, dependent = (graph.names[node] for node in found)
            said = f"'{dependent}' waits for '{part}' of section '{ends.paths[scope]}', and not for its `finally`"
            yield dependent, f"{said} '{graph.names[enders[0]]}': it may run before that has cleaned up"


def _beside(graph: Graph, ends: SectionEnds, scope: int) -> tuple[int, int] | None:
    """Return a node of a scope and one outside that waits for it alone, if there is any."""
    behind = {dependent for ender in ends.enders[scope] for dependent in graph.dependents(ender)}
    if graph.item_nodes and graph.output is not None:
        behind.add(graph.output)  # The list of a map, which is handed on when all of its workflow has ended.
    left = _EDGES_MAX
    for node in ends.nodes_in(scope):
        for dependent in graph.dependents(node):
            left -= 1
            is_inside = ends.has(scope, dependent) or ends.ended_by.get(dependent) == scope
            if not is_inside and dependent not in behind and graph.policy(dependent).hook is None:
                return node, dependent
        if left < 0:
            break
    return None
