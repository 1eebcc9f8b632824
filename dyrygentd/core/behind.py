"""Who comes after nodes, and takes their values: what a skip of these has run without them. Joins are looked through."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from dyrygentd.core.graph import Graph

#: Dependencies that are followed at most: a skip is asked about, and not planned.
_EDGES_MAX: Final = 10_000


class Behind(NamedTuple):
    """How many nodes wait for others, and how many of these take a value of theirs; of very many only the first are counted."""

    dependents: int
    takers: int


def behind(graph: Graph, nodes: Iterable[int], *, most: int = _EDGES_MAX) -> Behind:
    """Count what waits for these nodes, each once, and none of themselves; hooks are left out, which wait for all."""
    meant = frozenset(nodes)
    found: dict[int, bool] = {}
    stack = [(node, True) for node in meant]
    seen = set(stack)
    while stack and most > 0:
        node, hands_on = stack.pop()
        for dependent in graph.first_dependents(node, most):
            most -= 1
            takes = hands_on and graph.takes_input(dependent)
            if graph.is_join(dependent):
                if (dependent, takes) not in seen:
                    seen.add((dependent, takes))
                    stack.append((dependent, takes))
            elif dependent not in meant and graph.policy(dependent).hook is None:
                found[dependent] = found.get(dependent, False) or takes
    return Behind(len(found), sum(found.values()))
