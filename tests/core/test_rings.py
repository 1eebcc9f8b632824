"""Whose turn it is: by priority, then in turn, as often as the weight says."""

import pytest

from dyrygentd.core.rings import Rings
from dyrygentd.errors import InvariantBroken


def _given(rings: Rings, weights: dict[str, int], times: int) -> str:
    order = ""
    for _ in range(times):
        order += rings.first
        rings.give(weights.get(rings.first, 1))
    rings.check()
    return order


def test_in_turn_by_weight() -> None:
    """A workflow with twice the weight gets twice as much, and nobody waits for ever."""
    rings = Rings()
    for workflow_id in "abc":
        rings.join(workflow_id, 0)
    assert _given(rings, {"b": 2}, 8) == "abbcabbc"


def test_higher_priorities_first() -> None:
    """As long as one of a higher priority has something to give, the others wait, and keep their places."""
    rings = Rings()
    rings.join("a", 0)
    rings.join("b", 5)
    assert _given(rings, {}, 3) == "bbb"
    rings.drop_first()
    assert (rings.first, rings.priority_of("b"), rings.priority_of("a")) == ("a", None, 0)


def test_joining_twice_is_once() -> None:
    """Whoever stands in a ring keeps the place, or a workflow that changes often would push ahead, or fall behind."""
    rings = Rings()
    for workflow_id in "aba":
        rings.join(workflow_id, 0)
    assert _given(rings, {}, 4) == "abab"


def test_leaving_from_anywhere() -> None:
    """What leaves takes its turn along; the last one leaves no empty ring behind, and a stranger nothing at all."""
    rings = Rings()
    for workflow_id in "abc":
        rings.join(workflow_id, 1)
    for workflow_id in ("b", "stranger", "a"):
        rings.leave(workflow_id)
    assert rings.first == "c"
    assert rings
    rings.leave("c")
    assert not rings
    rings.check()


def test_contradiction_is_found() -> None:
    """The check that every test makes finds a workflow that stands in two rings."""
    rings = Rings()
    rings.join("a", 0)
    rings._priority_of["a"] = 3
    with pytest.raises(InvariantBroken, match="the table of them"):
        rings.check()


def test_who_comes_before() -> None:
    """Those of higher priorities, then those before it in its own ring; before a stranger all."""
    rings = Rings()
    for workflow_id, priority in (("a", 0), ("b", 0), ("c", 5), ("d", -5)):
        rings.join(workflow_id, priority)
    assert list(rings.before("b")) == ["c", "a"]
    assert list(rings.before("c")) == []
    assert list(rings.before("stranger")) == ["c", "a", "b", "d"]
