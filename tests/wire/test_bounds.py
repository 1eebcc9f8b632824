"""Counting in the text of a document agrees with what a decoder makes of it."""

import json
import runpy
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd import wire
from dyrygentd.core.bounds import DEPTH_MAX
from dyrygentd.errors import BadNode, BadRequest, TooManyNodes
from dyrygentd.wire import bounds

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\[]{},:\n\u00fc', max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab"\\[{,', max_size=4), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(params=[3, pytest.param(40, marks=pytest.mark.long), 1 << 18], autouse=True)
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Windows that are much too short, so that everything is cut by their ends."""
    monkeypatch.setattr(bounds, "_WINDOW", request.param)
    return int(request.param)


def _text(value: Any, spaces: int) -> bytes:
    return json.dumps(value, indent=spaces or None, ensure_ascii=spaces != 2).encode()


@pytest.mark.parametrize("spaces", [0, 1, 2])
def test_members_of_arrays_are_cut_apart(spaces: int) -> None:
    """What stands between the commas of an array are its members, whatever is in them."""

    @settings(max_examples=30)
    @given(st.lists(VALUES, min_size=1, max_size=5))
    def check(value: list[Any]) -> None:
        text = _text(value, spaces)
        assert [json.loads(text[begin:end]) for begin, end in bounds.cut(text, 0)] == value
        for most in range(len(value) + 2):
            assert bounds.has_more_than(text, most) == (len(value) > most)

    check()


@pytest.mark.parametrize("version", [(3, 11, 2), (3, 11, 5)], ids=["3.11.2", "3.11.5"])
@pytest.mark.parametrize("text", [b"[[[{}]]]", b'[{"a":[1,{"b":[]}],"c":{"d,]":"\\""}},[[],[]]]'])
def test_members_are_cut_apart_by_the_patterns_of_each_python(
    text: bytes, version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python before 3.11.5, as Debian 12 has it, loses its place in possessive groups, so it is given other patterns."""
    if sys.version_info < version:
        pytest.skip("its patterns need a later Python")
    monkeypatch.setattr(sys, "version_info", version)
    made = runpy.run_path(str(bounds.__file__))
    assert [json.loads(text[begin:end]) for begin, end in made["cut"](text, 0)] == json.loads(text)
    # Many arrays that are begun and not ended are passed over in their length, and not in its square.
    assert len(list(made["cut"](b'["",' * 60_000, 0))) == 2
    assert len(list(made["cut"](b"[" + b'"\\"",' * 400_000, 0))) == 400_001


def test_members_of_objects_have_names() -> None:
    """The members of an object come with their names, escaped or not."""

    @settings(max_examples=30)
    @given(st.dictionaries(st.text('ab"\\[{,ü', max_size=4), VALUES, min_size=1, max_size=5))
    def check(value: dict[str, Any]) -> None:
        for spaces in (0, 1, 2):
            text = _text(value, spaces)
            found = {name: json.loads(text[begin:end]) for name, _, begin, end in bounds.members(text, 0)}
            assert found == value

    check()


def _depth(value: Any) -> int:
    if isinstance(value, dict | list):
        return 1 + max([0, *(_depth(each) for each in (value.values() if isinstance(value, dict) else value))])
    return 0


def test_depth_is_that_of_the_value() -> None:
    """Brackets in texts are none."""

    @settings(max_examples=30)
    @given(VALUES)
    def check(value: Any) -> None:
        depth = _depth(value)
        for spaces in (0, 2):
            assert [bounds.is_deeper(_text(value, spaces), most) for most in (depth - 1, depth)] == [depth > 0, False]

    check()


@pytest.mark.parametrize("text", [b"", b"[", b'["', b'["\\', b'[[[{"a', b"]", b'{"a":"' + b"x" * 100, b'{"a"' * 50, b"[,,,]"])
def test_what_is_no_json_comes_to_an_end(text: bytes) -> None:
    """Nothing is judged here, and nothing loops."""
    for look in (bounds.nothing,):
        list(bounds.cut(text, 0, look))
        list(bounds.members(text, 0, look))
        bounds.is_deeper(text, 0)
        bounds.has_more_than(text, 0)
        bounds.has_long_number(text)


@pytest.mark.parametrize(
    ("text", "is_long"),
    [
        ("9" * 4300, False),
        ("9" * 4301, True),
        ("-" + "9" * 4300, False),
        ('{"a": [1, ' + "9" * 4301 + "]}", True),
        ('"' + "9" * 5000 + '"', False),
        ("0." + "9" * 5000, False),
        ("1e5", False),
    ],
)
def test_numbers_that_python_does_not_read(text: str, is_long: bool) -> None:
    """Only whole numbers count, and texts of digits do not."""
    assert bounds.has_long_number(text.encode()) == is_long


# --- definitions ----------------------------------------------------------------------------------------------------


def _definition(nodes: int, **fields: Any) -> bytes:
    made = [{"name": f"n{number}", "task": "t", "args": ["x" * 500, number]} for number in range(nodes)]
    return json.dumps({"nodes": made, **fields}).encode()


def test_the_limit_of_nodes_is_met_exactly_in_long_bodies() -> None:
    """What is counted in the text is as many as are decoded."""
    assert len(wire.decode_definition(_definition(1200), nodes_max=1200).graph) == 1200
    with pytest.raises(TooManyNodes, match="limit is 1199"):
        wire.decode_definition(_definition(1200), nodes_max=1199)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"args": ["x" * 1000]}, "`args`, `kwargs` have 1006 bytes, the most is 1000"),
        ({"kwargs": {"a": "x" * 1000}}, "have 1011 bytes"),
        ({"payload": "x" * 1000}, "`payload` has 1002 bytes"),
        ({"args": [json.loads("[" * DEPTH_MAX + "]" * DEPTH_MAX)]}, f"`args` is nested more than {DEPTH_MAX} levels"),
        ({"options": {"headers": {"a": json.loads("[" * DEPTH_MAX + "]" * DEPTH_MAX)}}}, "`options` is nested more than"),
    ],
)
def test_data_of_a_node_has_bounds(node: dict[str, Any], words: str) -> None:
    """Each is refused by the name of the node and of the field, and taken where the bound allows it."""
    body = json.dumps({"nodes": [{"name": "n", "task": "t", **node}]}).encode()
    with pytest.raises(BadNode, match=f"node 'n': .*{words}"):
        wire.decode_definition(body, nodes_max=1, node_bytes_max=1000)
    if "bytes" in words:
        assert len(wire.decode_definition(body, nodes_max=1, node_bytes_max=2000).graph) == 1
    # What is stored was looked at when it came, maybe by a version with other bounds.
    assert len(wire.decode_definition(body, nodes_max=1, node_bytes_max=0).graph) == 1


def test_numbers_that_no_worker_reads_are_refused() -> None:
    """A whole number of more digits than Python reads would make a message that ends workers, and an answer that is an error."""
    body = b'{"nodes":[{"name":"n","task":"t","args":[' + b"9" * 5000 + b"]}]}"
    with pytest.raises(BadNode, match="whole number of more than 4300 digits"):
        wire.decode_definition(body, nodes_max=1)


def test_payload_of_a_workflow_has_the_same_bound() -> None:
    """It is shown with each view."""
    with pytest.raises(BadRequest, match="`payload` has 1002 bytes"):
        wire.decode_definition(_definition(1, payload="x" * 1000), nodes_max=1, node_bytes_max=1000)


def test_nodes_are_named_in_after_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """More names than there may be nodes, and more names in all than are kept in memory, are refused with a way out."""
    many = {"name": "b", "task": "t", "after": ["n0"] * 200_000}
    body = json.dumps({"nodes": [{"name": "n0", "task": "t"}, many]}).encode()
    with pytest.raises(BadRequest, match="node 2: `after` names more nodes than a workflow may have, which are 1000"):
        wire.decode_definition(body, nodes_max=1000)
    assert wire.decode_definition(body, nodes_max=200_000).graph.edge_count == 1
    monkeypatch.setattr(bounds, "EDGES_MAX", 199_999)
    with pytest.raises(BadRequest, match="`after` names more than 199999 nodes in all") as caught:
        wire.decode_definition(body, nodes_max=200_000)
    assert "join" in caught.value.next_step


def test_decoding_is_given_up_when_it_is_told_to() -> None:
    """Whoever waits no longer is noticed amid the nodes, with and without parameters."""

    class Enough(Exception):
        pass

    for fields in ({}, {"parameters": {"p": 1}}):
        looks = 0

        def look() -> None:
            nonlocal looks
            looks += 1
            if looks > 3:
                raise Enough

        with pytest.raises(Enough):
            wire.decode_definition(_definition(3000, **fields), nodes_max=3000, look=look)


def test_long_field_of_a_node_is_named() -> None:
    """What is long where nothing may be is refused before it is read, with its beginning."""
    for field in ("task", "x" * 700_000):
        body = json.dumps({"nodes": [{"name": "n", field: "y" * 700_000}]}).encode()
        with pytest.raises(BadRequest, match=f"node 1: the field `{field[:20]}.*has .* bytes") as caught:
            wire.decode_definition(body, nodes_max=1)
        assert len(str(caught.value)) < 300
        assert caught.value.next_step
