"""The id of a child follows from whose it is."""

from dyrygentd.core.parent import Parent


def test_a_child_has_one_id() -> None:
    """It is the same after a crash, and another one for another node, workflow or generation: nothing is begun twice."""
    parent = Parent("w", 3, generation=1, depth=2, root_id="r")
    assert parent.child_id == Parent("w", 3, generation=1).child_id
    others = [Parent("v", 3, generation=1), Parent("w", 4, generation=1), Parent("w", 3, generation=2)]
    assert len({each.child_id for each in (parent, *others)}) == 4
