"""Nodes are found by what people know of them, page by page, none twice and none left out."""

from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.core.graph import Graph
from dyrygentd.core.node_search import nodes_found
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.states import NodeState

_GRAPH = Graph.build([NodeSpec(f"Node-{number:02}", Signature("t"), str(number)) for number in range(30)])


@given(
    st.binary(min_size=30, max_size=30).map(lambda data: bytes(byte % len(NodeState) for byte in data)),
    st.sets(st.sampled_from(NodeState)),
    st.sets(st.integers(0, 29)).map(sorted),
    st.sampled_from(["", "1", "node-0", "ODE-2", "x"]),
    st.integers(1, 7),
)
def test_pages_have_all_that_fits(states: bytes, wanted: set[NodeState], among: list[int], part: str, limit: int) -> None:
    """Whoever turns the pages to the end has seen each node that fits, once, in order."""
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        found, after = nodes_found(_GRAPH, among, states, wanted=wanted, part=part, after=after, limit=limit)
        assert after is None or len(found) == limit
        seen += found
    names = _GRAPH.names
    assert seen == [node for node in among if states[node] in wanted and part.lower() in names[node].lower()]


def test_capital_letters_do_not_matter() -> None:
    """Nobody remembers how a host was written."""
    waiting = bytes(30)
    assert nodes_found(_GRAPH, range(30), waiting, wanted={0}, part="nODE-1", limit=3) == ([10, 11, 12], 13)
    assert nodes_found(_GRAPH, range(30), waiting, wanted={0}, part="node-29", after=13, limit=1) == ([29], None)
