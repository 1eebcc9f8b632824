"""What a map is over: the list that is written, the value that is named, or what precedes."""

import json
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.errors import BadNode, DyrygentError
from dyrygentd.wire.encoding import decode
from dyrygentd.wire.forms import MapDocument
from dyrygentd.wire.over import document_of_map, kind_of, list_of, map_of, over_item, source_of, value_over
from tests.wire.support import decode as decode_definition


def a_map(**fields: Any) -> MapDocument:
    """Read a map."""
    return decode(json.dumps({"do": {"task": "t"}, **fields}).encode(), MapDocument)


@pytest.mark.parametrize(
    ("fields", "written", "source", "takes_input"),
    [
        ({}, None, None, True),
        ({"over": "list"}, None, "list", True),
        ({"over": [1, 2]}, b"[1, 2]", None, False),
    ],
)
def test_where_the_list_comes_from(fields: dict[str, Any], written: bytes | None, source: str | None, takes_input: bool) -> None:
    """Text is the name of a node, since no list is a text."""
    document = a_map(**fields)
    child = map_of(document)
    assert (list_of(document), source_of(document), child.takes_input) == (written, source, takes_input)
    assert document_of_map(child) == document


def test_value_of_one_among_several() -> None:
    """The node that is named has the list, whatever else the map waits for."""
    given = b'[[1, 2], "x"]'
    assert value_over(map_of(a_map(over="b")), given, ["b", "a"]) == b"[1, 2]"
    assert value_over(map_of(a_map(over="b")), b"[3]", ["b"]) == b"[3]"
    assert value_over(map_of(a_map()), given, ["b", "a"]) == given
    assert value_over(map_of(a_map(over=[7])), None, ["b"]) == b"[7]"


def test_an_item_is_a_list_or_none() -> None:
    """A map in a map is over the item, which is not taken for the name of a node if it is text."""
    child = over_item(map_of(a_map(batch=2)), b'"text"')
    assert value_over(child, None, ()) == b'"text"'
    assert (child.takes_input, document_of_map(child).batch) == (False, 2)


def test_waits_for_its_list() -> None:
    """Whoever names the list has said what is waited for."""
    nodes = [
        {"name": "m", "map": {"over": "a", "do": {"task": "t"}}, "after": ["b"]},
        {"name": "a", "task": "t"},
        {"name": "b", "task": "t"},
    ]
    graph = decode_definition({"nodes": nodes}).graph
    assert [graph.names[node] for node in graph.dependencies(0)] == ["a", "b"]
    assert graph.value_uses[1] == 1


def test_comes_back() -> None:
    """A map is written as it was given, so that an export has it."""
    document = {"name": "w", "nodes": [{"name": "m", "map": {"over": [1], "do": {"task": "t", "args": [2]}, "key": "."}}]}
    with pytest.raises(BadNode, match="item 0 is no text that could be its key"):
        decode_definition(document)
    document["nodes"][0]["map"].pop("key")  # type: ignore[index]
    definition = decode_definition(document)
    again = wire.decode_definition(wire.encode_definition(definition), nodes_max=10)
    assert again.graph.policies == definition.graph.policies
    assert wire.decode_definition(wire.document_of(definition), nodes_max=10).graph.policies == definition.graph.policies


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"map": {"do": {"task": "t"}}}, "node 'm': it is a map and has no list"),
        ({"map": {"do": {"task": "t"}, "over": []}, "task": "t"}, "node 'm': a map has no task"),
        ({"map": {"do": {"task": "t"}, "over": []}, "join": True}, "node 'm': it is `join` and `map` in one"),
        ({"map": {"do": {"task": "t"}, "over": []}, "retry": {}}, "node 'm': a map has a name, `after`"),
        ({"map": {"do": {"task": "t"}, "over": "m"}}, "form a cycle"),
        ({"map": {"do": {"task": "t"}, "over": "nobody"}}, "node 'm' depends on 'nobody', which is not in the graph"),
        ({"map": {"over": []}}, "the field `do` of `map` is missing"),
        ({"map": {"do": {"task": "t"}, "over": [], "x": 1}}, "unknown field `x` in `map`"),
        ({"map": {"do": {"task": "t"}, "over": [1, 2, 3], "max_items": 2}}, "its list has 3 items, `max_items` is 2"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], words: str) -> None:
    """The smallest wrong map is told by node and field."""
    with pytest.raises(DyrygentError) as caught:
        decode_definition({"nodes": [{"name": "m", **fields}]})
    assert words in str(caught.value)


def test_maps_in_maps_have_a_depth() -> None:
    """A map that had itself in it would never end."""
    do: dict[str, Any] = {"task": "t"}
    for _ in range(8):
        do = {"map": {"do": do}}
    nodes = [{"name": "m", "map": {"over": [], "do": do}}]
    with pytest.raises(BadNode, match="there are 8 workflows above it"):
        decode_definition({"nodes": nodes})
    nodes[0]["map"]["do"] = do["map"]["do"]  # type: ignore[index]
    assert len(decode_definition({"nodes": nodes}).graph) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"", "nothing"), (b"-1.5", "the number -1.5"), (b"false", "false"), (b'{"a":1}', "an object"), (b"[", "a list")],
)
def test_kinds(text: bytes, words: str) -> None:
    """Whoever expected a list is told what there is."""
    assert kind_of(text) == words


def test_workflows_in_maps_keep_their_parameters() -> None:
    """What stands in a map is filled in; a workflow that does the work of a node of it has references of its own."""
    inner = {"parameters": {"x": {"type": "integer"}}, "nodes": [{"name": "a", "task": "t", "args": ["${x}"]}]}
    workflow = {"workflow": {"definition": inner, "input": "x"}}
    for do in (workflow, {"nodes": [{"name": "k", **workflow}]}, {"map": {"do": workflow}}):
        item = [1] if "map" in do else 1
        document = {
            "name": "w",
            "parameters": {"items": {"type": "list"}, "task": "u"},
            "values": {"items": [item]},
            "nodes": [
                {"name": "m", "map": {"over": "${items}", "do": do}},
                {"name": "n", "map": {"over": "${items}", "do": {"task": "${task}"}}},
            ],
        }
        graph = decode_definition(document).graph
        first, second = (graph.policies[node].child for node in range(2))
        assert first is not None
        assert second is not None
        assert b"${x}" in first.document
        assert second.document == b'{"do":{"task":"u"},"over":%s}' % json.dumps([item]).encode().replace(b" ", b"")
