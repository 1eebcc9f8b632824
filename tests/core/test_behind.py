"""Who runs without what is skipped: counted once, through joins, and no more than a person reads."""

import pytest

from dyrygentd.core.behind import Behind, behind
from tests.support.conversation import parse_graph


@pytest.mark.parametrize(
    ("text", "nodes", "expected"),
    [
        ("a", "a", (0, 0)),
        ("a; b < a; c! < a", "a", (2, 1)),
        ("a; b < a; c < b", "a", (1, 1)),
        ("a; b; &j < a b; c < j; d! < j", "a", (2, 1)),
        ("a; b; &j < a b; c < j", "a b", (1, 1)),
        ("a; b < a; c < b", "a b", (1, 1)),
        ("a; &i < a; &j < a; &k < i j; c! < k; d < i", "a", (2, 1)),
        ("a; g < a gate=1; c < g", "a", (1, 1)),
        ("a; h hook=always", "a", (0, 0)),
    ],
)
def test_behind(text: str, nodes: str, expected: tuple[int, int]) -> None:
    """A member of a group is looked at through the join; what is skipped with others does not run without them."""
    graph = parse_graph(text)
    meant = [graph.names.index(name) for name in nodes.split()]
    assert behind(graph, meant) == Behind(*expected)


def test_of_very_many_the_first_are_counted() -> None:
    """To ask costs the same whatever waits."""
    graph = parse_graph("a; " + "; ".join(f"n{number}! < a" for number in range(9)))
    assert behind(graph, [0], most=5) == Behind(5, 0)
