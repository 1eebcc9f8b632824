"""Sections are paths with bounds, and cost nothing where there are none."""

import pytest

from dyrygentd.core.bounds import SECTION_DEPTH_MAX, SECTION_LENGTH_MAX
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.sections import Sections, checked_section, flaw_of_section, inside
from dyrygentd.errors import BadNode


def test_each_node_has_its_path() -> None:
    """Nodes of one section share its text, because a workflow has many nodes and few sections."""
    specs = [NodeSpec(str(number), Signature("t"), str(number), section=path) for number, path in enumerate(["", "a/b", "", "a"])]
    sections = Graph.build(specs).sections
    assert [sections.of(node) for node in range(4)] == ["", "a/b", "", "a"]
    assert [sections.number(node) for node in range(4)] == [0, 1, 0, 2]
    assert (sections.paths, bool(sections), repr(sections)) == (("", "a/b", "a"), True, "<Sections 2>")


def test_none_cost_nothing() -> None:
    """Most workflows have no sections, and are not to pay for those of others."""
    sections = Sections(["", ""])
    assert (sections.of(1), sections.paths, bool(sections), repr(sections)) == ("", ("",), False, "<Sections 0>")


def test_parts_are_put_together() -> None:
    """A section in a section is a longer path."""
    assert (inside("", "a"), inside("a", "b/c")) == ("a", "a/b/c")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("x" * (SECTION_LENGTH_MAX + 1), "has 201 characters"),
        ("/".join("x" * (SECTION_DEPTH_MAX + 1)), "has 9 parts"),
        ("a//b", "has a part without a name"),
        ("a/ ", "has a part without a name"),
        ("a/\u202eb", "has characters that cannot be printed"),
        ("a\x1b[2J", "has characters that cannot be printed"),
        ("a/~1", "has a part that begins with '~'"),
    ],
)
def test_refuses_what_nobody_could_open(path: str, words: str) -> None:
    """What is wrong is told with the node and what to write instead."""
    flaw = flaw_of_section(path)
    assert flaw is not None
    assert flaw[0] == words
    with pytest.raises(BadNode, match="node 'n': `section` has ") as caught:
        checked_section("n", path)
    assert caught.value.next_step == flaw[1]


def test_good_ones_are_taken() -> None:
    """Any text that can be read is a section, and so is none."""
    assert (checked_section("n", "drain/osd-42"), checked_section("n", ""), flaw_of_section("żółw 1/ü")) == (
        "drain/osd-42",
        "",
        None,
    )
