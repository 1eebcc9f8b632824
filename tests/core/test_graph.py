"""A graph refuses what cannot run, and derives the rest once, in linear time."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.policy import Hook, NodePolicy, Rule
from dyrygentd.errors import BadNode, CycleError, DuplicateNode, DuplicateTaskId, EmptyWorkflow, TooManyNodes, UnknownDependency
from tests.core.test_model import Model, Shape, graph_of, shapes
from tests.support.conversation import parse_graph


def test_answers_about_its_nodes() -> None:
    """Numbers, names, edges and joins can be asked for, because everything else is built on them."""
    graph = parse_graph("a; b < a; &j < b a; c! < j")
    assert len(graph) == 4
    assert (graph.task_count, graph.edge_count) == (3, 4)
    assert [graph.number(name) for name in ("a", "c", "nobody")] == [0, 3, None]
    assert list(graph.dependencies(2)) == [1, 0]
    assert list(graph.dependents(0)) == [1, 2]
    assert [graph.dependency_count(node) for node in range(4)] == [0, 1, 2, 1]
    assert [graph.last_dependency(node) for node in range(4)] == [None, 0, 0, 2]
    assert [graph.is_join(node) for node in range(4)] == [False, False, True, False]
    assert repr(graph) == "<Graph nodes=4 tasks=3 edges=4>"


def test_refuses_nothing_to_run() -> None:
    """An empty workflow would succeed without having done anything."""
    with pytest.raises(EmptyWorkflow):
        Graph.build([])


def test_refuses_too_many_nodes() -> None:
    """The limit is the largest number accepted, and the error names both."""
    assert len(Graph.build(_tasks("ab"), nodes_max=2)) == 2
    with pytest.raises(TooManyNodes, match="has 3 nodes, the limit is 2"):
        Graph.build(_tasks("abc"), nodes_max=2)


def test_refuses_two_nodes_of_one_name() -> None:
    """Names are how nodes refer to each other, so they must be unique."""
    with pytest.raises(DuplicateNode, match="'a'"):
        Graph.build([NodeSpec("a", Signature("t"), "1"), NodeSpec("a", Signature("t"), "2")])


def test_refuses_two_tasks_of_one_id() -> None:
    """Two nodes of one task id would get each other's result; joins have none and may share it."""
    with pytest.raises(DuplicateTaskId, match="nodes 'a', 'b' have the same task id '1'"):
        Graph.build([NodeSpec("a", Signature("t"), "1"), NodeSpec("b", Signature("t"), "1")])
    assert parse_graph("&i; &j").task_count == 0


def test_refuses_unknown_names() -> None:
    """A dependency or an output that does not exist is named with who asks for it."""
    with pytest.raises(UnknownDependency, match="node 'b' depends on 'x'"):
        parse_graph("a; b < a x")
    with pytest.raises(UnknownDependency, match="'x'"):
        parse_graph("a", output="x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < a", {"a"}),
        ("a < b; b < a", {"a", "b"}),
        ("before; a < before c; b < a; c < b; after < c", {"a", "b", "c"}),
        ("after < a; a < b; b < c; c < b", {"b", "c"}),
        ("&i < j; &j < i", {"i", "j"}),
    ],
)
def test_names_exactly_the_nodes_of_a_cycle(text: str, expected: set[str]) -> None:
    """The error goes once round the cycle along the dependencies, leaving out what merely hangs on it."""
    with pytest.raises(CycleError) as caught:
        parse_graph(text)
    nodes = caught.value.nodes
    after = {line.split("<")[0].strip().strip("&"): line.split("<")[1].split() for line in text.split("; ") if "<" in line}
    assert set(nodes) == expected
    assert len(nodes) == len(expected)
    assert all(before in after[node] for before, node in zip(nodes, [*nodes[1:], nodes[0]], strict=True))


def test_long_cycle_is_shown_in_short() -> None:
    """A cycle of thousands must not fill the screen."""
    with pytest.raises(CycleError) as caught:
        Graph.build(_chain(5000, closed=True))
    assert len(str(caught.value)) < 200
    assert len(caught.value.nodes) == 100


def test_repeated_dependency_counts_once() -> None:
    """A node named twice is waited for once, or its dependent would wait for ever."""
    graph = parse_graph("a; b; c < b a b")
    assert list(graph.dependencies(2)) == [1, 0]
    assert list(graph.unmet_counts()) == [0, 0, 2]


@pytest.mark.parametrize(
    ("text", "output"),
    [("a", "a"), ("a; b < a", "b"), ("a; b", None), ("a < b; b", "a"), ("a; b; &j < a b", "j")],
)
def test_the_only_end_is_the_output(text: str, output: str | None) -> None:
    """The result of a workflow is its last node's, unless there are several."""
    graph = parse_graph(text)
    assert graph.output == (None if output is None else graph.number(output))


def test_output_can_be_chosen() -> None:
    """A result may come from the middle of a workflow."""
    assert parse_graph("a; b < a", output="a").output == 0


def test_heights_count_tasks_to_the_end() -> None:
    """The critical path is counted in tasks, so joins add nothing."""
    assert list(parse_graph("a; &j < a; b < j; c < b; d < a").heights) == [3, 2, 2, 1, 1]


def test_value_uses_stop_at_joins_nobody_wants() -> None:
    """Values that only feed a list that nobody takes need not be kept."""
    graph = parse_graph("a; b; &j < a b; c! < j; d! < j; e < a")
    assert list(graph.value_uses) == [1, 0, 0, 0, 0, 0]
    graph = parse_graph("a; b; &j < a b; c < j; d! < j")
    assert list(graph.value_uses) == [1, 1, 1, 0, 0]
    assert list(graph.feeds_tasks) == [1, 1, 1, 0, 0]
    graph = parse_graph("a; b; &j < a b")
    assert list(graph.value_uses) == [1, 1, 1]
    assert list(graph.feeds_tasks) == [0, 0, 0]


def test_deep_chain_needs_no_recursion() -> None:
    """Ten thousand tasks in a row are an ordinary workflow."""
    graph = Graph.build(_chain(10_000))
    assert graph.heights[0] == 10_000
    assert graph.output == 9_999


def test_group_after_group_costs_the_sum() -> None:
    """Through a join, n and m tasks have n+m edges and not n*m."""
    n, m = 300, 200
    first = [NodeSpec(f"a{i}", Signature("t"), f"a{i}") for i in range(n)]
    second = [NodeSpec(f"b{i}", Signature("t"), f"b{i}", ["j"]) for i in range(m)]
    graph = Graph.build([*first, NodeSpec("j", None, "", [node.name for node in first]), *second])
    assert graph.edge_count == n + m
    assert sum(len(graph.dependents(node)) for node in range(len(graph))) == n + m


@given(shapes(), st.none() | st.integers(0, 7))
def test_agrees_with_a_naive_reading(shape: list[Shape], output: int | None) -> None:
    """Edges, heights, uses and takers are what their definitions say, whatever the order of the nodes."""
    graph = graph_of(shape, "w", None if output is None else output % len(shape))
    model = Model(shape, graph.output, 0.0)
    dependents = [[other for other, node in enumerate(shape) if number in node.after] for number in range(len(shape))]
    heights: dict[int, int] = {}
    takers: dict[int, bool] = {}
    for number in reversed(model.order()):
        heights[number] = max((heights[other] for other in dependents[number]), default=0) + (not shape[number].is_join)
        takers[number] = number == graph.output or any(_takes(shape, takers, other) for other in dependents[number])
    uses = [
        (number == graph.output) + sum(_takes(shape, takers, other) for other in dependents[number])
        for number in range(len(shape))
    ]
    assert [list(graph.dependencies(number)) for number in range(len(shape))] == [node.after for node in shape]
    assert [list(graph.dependents(number)) for number in range(len(shape))] == dependents
    assert dict(enumerate(graph.heights)) == heights
    assert list(graph.value_uses) == uses
    assert {number for number, feeds in enumerate(graph.feeds_tasks) if feeds} == model.wanted()


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=6, max_size=6))
def test_refuses_exactly_the_cyclic(after: list[list[int]]) -> None:
    """A graph is accepted if and only if its nodes can be put in an order."""
    specs = [
        NodeSpec(str(number), Signature("t"), str(number), [str(other) for other in named]) for number, named in enumerate(after)
    ]
    remaining = set(range(6))
    while free := {number for number in remaining if not remaining & set(after[number])}:
        remaining -= free
    if not remaining:
        Graph.build(specs)
        return
    with pytest.raises(CycleError) as caught:
        Graph.build(specs)
    nodes = [int(name) for name in caught.value.nodes]
    assert all(before in after[node] for before, node in zip(nodes, [*nodes[1:], nodes[0]], strict=True))


def _takes(shape: list[Shape], takers: dict[int, bool], number: int) -> bool:
    return takers[number] if shape[number].is_join else shape[number].is_mutable


def _tasks(names: Sequence[str]) -> list[NodeSpec]:
    return [NodeSpec(name, Signature("t"), name) for name in names]


def _chain(length: int, *, closed: bool = False) -> list[NodeSpec]:
    signature = Signature("t")
    first = [str(length - 1)] if closed else []
    return [NodeSpec(str(i), signature, str(i), [str(i - 1)] if i else first) for i in range(length)]


@pytest.mark.parametrize(
    ("policy", "after", "reason"),
    [
        (NodePolicy(hook=Hook.ALWAYS), ["a"], "a hook waits for all ends of the graph"),
        (NodePolicy(hook=Hook.ALWAYS, rule=Rule.ALL_FINISHED), [], "a hook waits for all ends of the graph"),
        (NodePolicy(rule=Rule.ANY_FAILED), [], "rule 'any_failed' needs something to wait for"),
        (NodePolicy(rule=Rule.ANY_SUCCEEDED), [], "rule 'any_succeeded' needs something to wait for"),
    ],
)
def test_refuses_what_no_order_of_events_could_satisfy(policy: NodePolicy, after: list[str], reason: str) -> None:
    """It would wait for ever, or run although nobody meant it to."""
    with pytest.raises(BadNode, match=f"node 'b': {reason}") as refused:
        Graph.build([NodeSpec("a", Signature("t"), "1"), NodeSpec("b", Signature("t"), "2", after, policy)])
    assert refused.value.next_step


def test_whose_ids_came_from_outside() -> None:
    """Those that a client chose, if that is known; else any of them may be those of other tasks."""
    graph = parse_graph("a; &j < a; b < j")
    assert Definition(graph, "w").nodes_from_outside == [0, 2]
    assert Definition(graph, "w", chosen=frozenset({2}), is_fresh=True).nodes_from_outside == [2]
    assert Definition(graph, "w", chosen=frozenset({2})).nodes_from_outside == [0, 2]
