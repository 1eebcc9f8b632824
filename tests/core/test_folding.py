"""A fold shows any graph in a few boxes, each node in one of them, down to single nodes."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.core.folding import BOUNDS, Box, BoxKind, Fold, FoldBounds, Folding
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.policy import NodePolicy, SectionEnd
from dyrygentd.core.sections import inside

#: So small that graphs of thirty nodes are folded by everything there is.
TINY = FoldBounds(nodes=2, sections=3, groups=3, levels=2, pages=3, boxes=7, edges=3)


def task(name: str, after: Sequence[str] = (), what: str = "t", section: str = "") -> NodeSpec:
    return NodeSpec(name, Signature(what), name, after, section=section)


def titles(folding: Folding, path: str = "") -> list[tuple[str, str, int]]:
    """Return kind, title and number of nodes of each box."""
    fold = folding.at(path)
    assert fold is not None
    return [(box.kind.value, box.title, box.end - box.start) for box in fold.boxes]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Make a graph of up to thirty nodes, with sections that may well be in each other's way."""
    sections = st.sampled_from(["", "", "a", "b", "a/x", "a/y", "c", "d", "e/x/y"])
    specs: list[NodeSpec] = []
    for number in range(draw(st.integers(1, 30))):
        after = draw(st.lists(st.integers(0, number - 1).map(str), max_size=3)) if number else []
        section = draw(sections)
        if draw(st.integers(0, 4)):
            specs.append(task(str(number), after, draw(st.sampled_from("tuv")), section))
        else:
            policy = draw(st.sampled_from([NodePolicy(), NodePolicy(is_gate=True), NodePolicy(sleep_s=1)]))
            specs.append(NodeSpec(str(number), None, "", after, policy, section))
    paths = sorted({spec.section for spec in specs} - {""})
    for number, path in enumerate(draw(st.lists(st.sampled_from(paths), max_size=4)) if paths else ()):
        policy = NodePolicy(section_end=draw(st.sampled_from(SectionEnd)))
        spec = NodeSpec(f"end-{number}", Signature("u"), f"end-{number}", (), policy, path)
        # Of a path that has nothing but hooks there is no end to wait for before the others are in it.
        specs.append(spec)
    return Graph.build(specs)


def boxes_below(folding: Folding, path: str = "", depth: int = 0) -> Iterator[tuple[str, Fold]]:
    """Iterate over all folds of a graph with their paths."""
    assert depth < 60
    fold = folding.at(path)
    assert fold is not None
    yield path, fold
    for box in fold.boxes:
        if box.end - box.start > 1:
            yield from boxes_below(folding, f"{path}/{box.key}" if path else box.key, depth + 1)


def members(fold: Fold, box: Box) -> list[int]:
    return sorted(fold.order[box.start : box.end])


@given(graphs(), st.sampled_from([TINY, BOUNDS]))
def test_each_node_is_in_one_box_down_to_itself(graph: Graph, bounds: FoldBounds) -> None:
    """Whoever opens boxes finds all nodes, none twice, and never more boxes than fit on a screen."""
    folding = Folding(graph, bounds)
    found: dict[str, list[int]] = {"": [*range(len(graph))]}
    for path, fold in boxes_below(folding):
        assert sorted(fold.order) == found[path]
        assert [box.start for box in fold.boxes] == [0, *(box.end for box in fold.boxes)][:-1]
        assert len(fold.boxes) <= bounds.boxes
        assert len({box.key for box in fold.boxes}) == len(fold.boxes)
        for box in fold.boxes:
            assert box.start < box.end
            assert [graph.is_join(node) for node in fold.order[box.start : box.counted]] == [False] * (box.counted - box.start)
            assert [graph.is_join(node) for node in fold.order[box.counted : box.end]] == [True] * (box.end - box.counted)
            if box.end - box.start == 1 and box.kind is not BoxKind.SECTION and box.kind is not BoxKind.SECTIONS:
                assert (box.kind, box.title) == (BoxKind.NODE, graph.names[fold.order[box.start]])
            found[f"{path}/{box.key}" if path else box.key] = members(fold, box)


@given(graphs(), st.sampled_from([TINY, BOUNDS]))
def test_nodes_of_a_box_are_those_that_it_shows(graph: Graph, bounds: FoldBounds) -> None:
    """The list beside a drawn box has the same nodes, in the order of the definition, also of a box that is not opened."""
    folding = Folding(graph, bounds)
    assert folding.nodes_in("") == array("I", range(len(graph)))
    for path, fold in boxes_below(folding):
        for box in fold.boxes:
            assert [*(folding.nodes_in(inside(path, box.key)) or ())] == members(fold, box)
        assert folding.nodes_in(inside(path, "nothing")) is None
    assert [folding.nodes_in(path) for path in ("/", "//", "/~1", "~1/", "nothing/~1")] == [None] * 5


@given(graphs(), st.sampled_from([TINY, BOUNDS]))
def test_boxes_wait_for_each_other_as_their_nodes_do(graph: Graph, bounds: FoldBounds) -> None:
    """The edges say which box waits for which, through others or directly, and no box waits for itself."""
    for _, fold in boxes_below(Folding(graph, replace(bounds, edges=10_000))):
        box_of = {node: number for number, box in enumerate(fold.boxes) for node in members(fold, box)}
        real = {
            (box_of[before], box_of[node])
            for node in fold.order
            for before in graph.waited_for(node)
            if before in box_of and box_of[before] != box_of[node]
        }
        shown = {(edge.before, edge.after) for edge in fold.edges}
        assert shown <= real
        assert _closure(shown) == _closure(real)
        assert not any(before == after for before, after in _closure(real))


@given(graphs())
def test_the_same_graph_has_the_same_boxes(graph: Graph) -> None:
    """A path can be kept and shared, and leads to the same nodes after a restart."""
    once, again = ([*boxes_below(Folding(graph, TINY))] for _ in range(2))
    assert once == again


def _closure(edges: set[tuple[int, int]]) -> set[tuple[int, int]]:
    known = set(edges)
    while more := {(a, d) for a, b in known for c, d in edges if b == c} - known:
        known |= more
    return known


def test_sections_come_first_and_are_opened_by_name() -> None:
    """What people have named is what they look for; inside are sections again, then nodes."""
    graph = Graph.build(
        [task("a"), task("b", "a", section="drain/one"), task("c", "b", section="drain/two"), task("d", "c", section="check")]
    )
    folding = Folding(graph)
    assert titles(folding) == [("section", "drain", 2), ("section", "check", 1), ("node", "a", 1)]
    assert titles(folding, "drain") == [("section", "one", 1), ("section", "two", 1)]
    assert titles(folding, "drain/two") == [("node", "c", 1)]
    assert [folding.at(path) for path in ("nothing", "drain/three", "nothing/x", "~9", "/", "drain/", "//drain")] == [None] * 7
    assert repr(folding) == "<Folding nodes=4>"


def test_many_of_one_kind_are_one_box_and_then_pages() -> None:
    """Ten thousand members of a group are one box between what is before and after them."""
    many = [task(f"t{number}", ["first"], "resize") for number in range(10_000)]
    graph = Graph.build([task("first", what="begin"), *many, NodeSpec("j", None, "", [node.name for node in many])])
    folding = Folding(graph)
    assert titles(folding) == [("node", "first", 1), ("group", "resize", 10_000), ("node", "j", 1)]
    fold = folding.at("")
    assert fold is not None
    assert [tuple(edge) for edge in fold.edges] == [(0, 1, 10_000), (1, 2, 10_000)]
    assert (fold.boxes[1].task, fold.boxes[1].levels, fold.boxes[2].task) == ("resize", (2, 2), "")
    pages = titles(folding, "~2")
    assert (len(pages), pages[0]) == (100, ("page", "t0 … t99", 100))
    assert titles(folding, "~2/~1")[0] == ("page", "t0 … t39", 40)
    assert titles(folding, "~2/~1/~3")[0] == ("node", "t80", 1)


def test_neighbours_tell_nodes_of_one_task_apart() -> None:
    """Of a hundred tasks of one name those that lead somewhere else are a box of their own."""
    first = [task(f"a{number}") for number in range(50)]
    second = [task(f"b{number}", [f"a{number}"], "even" if number % 2 else "odd") for number in range(50)]
    assert titles(Folding(Graph.build([*first, *second]))) == [
        ("group", "t", 25),
        ("group", "t", 25),
        ("group", "odd", 25),
        ("group", "even", 25),
    ]


def test_a_group_of_gates_is_called_by_its_kind() -> None:
    """What has no task has no other name for all of it."""
    gates = [NodeSpec(f"g{number}", None, "", ["a"], NodePolicy(is_gate=True)) for number in range(50)]
    assert titles(Folding(Graph.build([task("a"), *gates]))) == [("node", "a", 1), ("group", "gate", 50)]


def test_a_long_chain_is_ranges_of_levels() -> None:
    """Ten thousand steps fit on a screen, and each is found in three clicks."""
    chain = [task(str(number), [str(number - 1)] if number else []) for number in range(10_000)]
    folding = Folding(Graph.build(chain))
    ranges = titles(folding)
    assert (len(ranges), ranges[0], ranges[-1]) == (
        40,
        ("levels", "levels 1 to 250", 250),
        ("levels", "levels 9751 to 10000", 250),
    )
    assert titles(folding, "~40/~36") == [("node", str(number), 1) for number in range(9995, 10_000)]


def test_many_kinds_on_two_levels_are_the_levels() -> None:
    """What nothing tells apart in few boxes is told apart by when it runs, however uneven that is."""
    few = [task(f"a{number}", (), f"x{number}") for number in range(5)]
    folding = Folding(Graph.build([*few, *[task(f"b{number}", ["a1"], f"y{number}") for number in range(200)]]))
    assert titles(folding) == [("levels", "level 1", 5), ("levels", "level 2", 200)]
    assert titles(folding, "~2")[0] == ("page", "b0 … b39", 40)


def test_many_sections_are_ranges_that_follow_each_other() -> None:
    """A section for each of a thousand hosts is found by range, and then by its name."""
    hosts = [task(f"{number}", [str(number - 1)] if number else [], section=f"host-{number}") for number in range(1000)]
    folding = Folding(Graph.build(hosts))
    assert titles(folding)[:2] == [("sections", "host-0 … host-9", 10), ("sections", "host-10 … host-19", 10)]
    assert titles(folding, "~2/host-13") == [("node", "13", 1)]
    uneven = [task(str(number), section=f"host-{number}") for number in range(101)]
    assert titles(Folding(Graph.build(uneven)))[-1] == ("sections", "host-100", 1)


def test_a_section_around_another_one_is_cut() -> None:
    """If the first and the last step are in one section, it stands before and after what is between them."""
    graph = Graph.build([task("a", section="s"), task("b", "a", section="m"), task("c", "b", section="s"), task("d", "c")])
    folding = Folding(graph)
    assert titles(folding) == [("section", "s (1 of 2)", 1), ("section", "s (2 of 2)", 1), ("section", "m", 1), ("node", "d", 1)]
    assert titles(folding, "~2") == [("node", "c", 1)]
    assert folding.at("~2/~1") is None
    assert titles(folding, "m") == [("node", "b", 1)]


def test_sections_that_alternate_give_way_to_levels() -> None:
    """Cut a hundred times, sections would tell nothing; in a range of levels they are seen again."""
    steps = [task(str(number), [str(number - 1)] if number else [], section="ab"[number % 2]) for number in range(400)]
    folding = Folding(Graph.build(steps))
    assert titles(folding)[0] == ("levels", "levels 1 to 10", 10)
    assert len(titles(folding, "~1")) == 10


def test_edges_are_bounded_and_counted() -> None:
    """Where everything waits for everything, some edges are shown and the number of the others is told."""
    first = [task(f"a{number}", (), f"a{number}") for number in range(20)]
    second = [task(f"b{number}", [node.name for node in first], f"b{number}") for number in range(20)]
    bounds = FoldBounds(edges=100)
    fold = Folding(Graph.build([*first, *second]), bounds).at("")
    assert fold is not None
    assert (len(fold.edges), fold.edges_left_out) == (100, 300)


def test_only_the_last_folds_are_kept() -> None:
    """Whoever looks into all boxes makes the daemon remember a few."""
    graph = Graph.build([task(str(number), section=f"s{number}") for number in range(30)])
    folding = Folding(graph)
    first = folding.at("")
    assert folding.at("") is first
    for number in range(30):
        assert folding.at(f"s{number}") is not None
    assert len(folding._kept) == 12
