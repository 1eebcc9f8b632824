"""The nodes that wait for their turn: the longest way first, whatever is taken out of the middle."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.core.ready import ReadyNodes

HEIGHTS = array("i", [3, 1, 4, 1, 5, 9, 2, 6])


def test_longest_way_first() -> None:
    """The critical path decides how long a workflow takes, so its nodes go first; among equals the first node."""
    ready = ReadyNodes(HEIGHTS)
    for node in range(8):
        ready.push(node)
    assert ready.first == 5
    assert [ready.pop() for _ in range(8)] == [5, 7, 4, 2, 0, 6, 1, 3]


@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "remove", "clear"]), st.integers(0, 7)), max_size=60))
def test_agrees_with_a_list(steps: list[tuple[str, int]]) -> None:
    """Marks of what was taken out are never seen: it is a sorted list that is cheaper."""
    ready, plain = ReadyNodes(HEIGHTS), set[int]()
    for step, node in steps:
        if step == "push" and node not in plain:
            ready.push(node)
            plain.add(node)
        elif step == "pop" and plain:
            first = min(plain, key=lambda node: (-HEIGHTS[node], node))
            assert (ready.first, ready.pop()) == (first, first)
            plain.remove(first)
        elif step == "remove" and node in plain:
            ready.remove(node)
            plain.remove(node)
        elif step == "clear":
            ready.clear()
            plain.clear()
        assert (len(ready), set(ready), bool(ready.heap)) == (len(plain), plain, bool(plain))


def test_taken_out_and_put_back() -> None:
    """It stands once, where it stood, whether its mark was still there or not."""
    ready = ReadyNodes(HEIGHTS)
    for node in (5, 0, 1):
        ready.push(node)
    ready.remove(0)
    assert list(ready) == [5, 1]
    ready.push(0)
    assert [ready.pop() for _ in range(3)] == [5, 0, 1]


def test_what_was_taken_out_behind_the_first() -> None:
    """With the first one gone the marked entries behind it go, too, so that the next one is one that is there."""
    ready = ReadyNodes(HEIGHTS)
    for node in (5, 7, 4):
        ready.push(node)
    ready.remove(7)
    assert ready.pop() == 5
    assert (ready.first, list(ready)) == (4, [4])
