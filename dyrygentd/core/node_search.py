"""Finds nodes for people, who know a state, a box, or a part of a name. Looks at each node once, and is meant for a thread."""

from bisect import bisect_left
from collections.abc import Container, Sequence
from itertools import islice

from dyrygentd.core.graph import Graph


def nodes_found(
    graph: Graph,
    among: Sequence[int],
    states: bytes,
    *,
    wanted: Container[int],
    part: str = "",
    after: int = 0,
    limit: int,
) -> tuple[list[int], int | None]:
    """Return the first ``limit`` nodes that fit, and where to go on, None if there are no more.

    Args:
        among: Numbers of nodes, rising.
        states: Of all nodes, by their number.
        wanted: Numbers of the states that fit.
        part: What stands in the name of each; capital letters do not matter.
        after: The number of the first node that is looked at.
    """
    names, part = graph.names, part.casefold()
    fitting = (
        node
        for node in islice(among, bisect_left(among, after), None)
        if states[node] in wanted and (not part or part in names[node].casefold())
    )
    found = [*islice(fitting, limit + 1)]
    return found[:limit], found[limit] if len(found) > limit else None
