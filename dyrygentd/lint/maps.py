"""Maps: what is done with each item is looked at as any graph, with one item of which nothing is known."""

from dyrygentd import wire
from dyrygentd.core.graph import Graph
from dyrygentd.lint.graph import check_graph
from dyrygentd.lint.report import LintReport
from dyrygentd.lint.surroundings import Surroundings


def check_map(outer: Graph, name: str, inner: Graph, surroundings: Surroundings, report: LintReport) -> None:
    """Look at a map.

    Args:
        outer: The graph that it stands in.
        inner: What is made of it for one item.
    """
    node = outer.number(name)
    child = None if node is None else outer.policy(node).child
    assert child is not None
    sample = wire.sample_of(name, child)
    if not sample.takes_item:
        report.add("map-item-untaken", None, node=name, said=f"'{name}' calls the same for each item of its list")
    check_graph(inner, (), surroundings, report, knows_arguments=not sample.is_spread)
