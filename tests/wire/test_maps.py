"""What is wrong with a map is told when it is submitted: the field, what is allowed, and what to do."""

import json
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.errors import BadNode, BadRequest
from dyrygentd.wire.encoding import decode
from dyrygentd.wire.forms import MapDocument
from dyrygentd.wire.maps import checked_map

TASK = {"name": "a", "task": "t"}


def refusal(do: Any, **fields: Any) -> tuple[str, str]:
    """Return why a map is refused, and what to do about it."""
    document = decode(json.dumps({"do": do, **fields}).encode(), MapDocument)
    with pytest.raises(BadNode) as caught:
        checked_map("m", document, node_bytes_max=1000)
    return caught.value.message, caught.value.next_step


@pytest.mark.parametrize(
    ("do", "message", "next_step"),
    [
        (7, "node 'm': `map.do` is the number 7", 'write a task: {"task": "name"}, or a graph: {"nodes": [...]}'),
        ([], "node 'm': `map.do` is a list", 'write a task: {"task": "name"}, or a graph: {"nodes": [...]}'),
        ({}, "node 'm': `task` is missing", "name a task, or write `join: true`, `gate: true`, `sleep_s`, `map` or `workflow`"),
        ({"tsak": "t"}, "node 'm': `map.do`: unknown field `tsak`, at $.map.do", "did you mean 'task'?"),
        ({"task": 7}, "node 'm': `map.do`: `task` must be text or null, and is a whole number, at $.map.do.task", None),
        (
            {"task": "t", "after": ["x"]},
            "node 'm': `map.do` is one task, and has `after`",
            'leave `after` out, or write a graph: {"nodes": [...]}',
        ),
        ({"task": "t", "task_id": "x"}, "node 'm': `map.do` has `task_id`, and there is one for each item", None),
        ({"task": "t", "args": 1}, "node 'm': `args` must be an array", None),
        ({"nodes": []}, "node 'm': `map.do.nodes` is empty", "write at least one task"),
        ({"nodes": [TASK], "x": 1}, "node 'm': `map.do`: unknown field `x`, at $.map.do", "known are nodes, output"),
        ({"nodes": [TASK], "output": "b"}, "node 'm': `map.do.output` names 'b', which is no node of it", "known are a"),
        (
            {"nodes": [{**TASK, "after": ["aa"]}]},
            "node 'm': `map.do`: 'a' waits for 'aa', which is no node of it",
            "did you mean 'a'?",
        ),
        (
            {"nodes": [{"name": "g", "gate": True}]},
            "node 'm': `map.do`: 'g' comes first and has no task, so nobody is given the item",
            "put a task first: it is given the item in front of its arguments",
        ),
        ({"nodes": [TASK, {"name": "h", "task": "t", "hook": "always"}]}, "node 'm': `map.do`: 'h' has `hook`, and", None),
        ({"nodes": [{**TASK, "section": "~x"}]}, "node 'm.a': `section` has a part that begins with '~'", None),
        ({"task": "t", "args": ["x" * 1000]}, "node 'm': `args`, `kwargs` have 1006 bytes, the most is 1000", None),
    ],
)
def test_what_is_done(do: Any, message: str, next_step: str | None) -> None:
    """Whoever writes a map sees its mistakes before it has run half a day to get its list."""
    found = refusal(do)
    assert found[0].startswith(message)
    assert next_step is None or found[1] == next_step


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"over": 7}, "node 'm': `map.over` is the number 7"),
        ({"over": {"a": 1}}, "node 'm': `map.over` is an object"),
        ({"batch": 2, "key": "a"}, "node 'm': `map.key` names single items, and `map.batch` puts them together"),
        ({"batch": 2, "spread": True}, "node 'm': `map.batch` gives a list of items, which `map.spread` would take apart"),
        (
            {"min_success": 1, "on_failure": "stop"},
            "node 'm': `map.min_success` goes on after failures, and `map.on_failure` stops at the first",
        ),
    ],
)
def test_what_contradicts_itself(fields: dict[str, Any], message: str) -> None:
    """Two fields that cannot both be meant are told together."""
    found, next_step = refusal({"task": "t"}, **fields)
    assert (found, bool(next_step)) == (message, True)


def test_cycles() -> None:
    """A graph that waits for itself would hold each item for ever."""
    nodes = [{"name": "a", "task": "t", "after": ["b"]}, {"name": "b", "task": "t", "after": ["a"]}]
    assert "cycle" in refusal({"nodes": nodes})[0]


def test_long_ones_are_counted_before_they_are_built() -> None:
    """A text of `0,` or `{"join":true},` takes a hundred times its length in memory as what it says."""
    many = b'{"join":true},' * 300_000
    with pytest.raises(BadNode, match=r"`map.do.nodes` has more than 200000 nodes"):
        wire.decode_definition(b'{"nodes":[{"name":"m","map":{"over":[1],"do":{"nodes":[%b{}]}}}]}' % many, nodes_max=9)
    values = b'{"definition":{"nodes":[]},"values":{"a":[%b0]}}' % (b"0," * 2_200_000)
    for node in (b'"workflow":%b' % values, b'"map":{"over":[1],"do":{"workflow":%b}}' % values):
        with pytest.raises((BadNode, BadRequest), match="a field of `workflow` has 4400009 bytes, the most is 4194304"):
            wire.decode_definition(b'{"nodes":[{"name":"n",%b}]}' % node, nodes_max=9)
