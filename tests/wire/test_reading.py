"""Long definitions are read some nodes at a time, with the same end."""

import json
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.errors import (
    BadRequest,
    DyrygentError,
)
from dyrygentd.wire.forms import NodeDocument, WorkflowDocument
from dyrygentd.wire.reading import DocumentReader

_MANY = [
    {"name": f"n{number}", "task": "t", "args": ["ż", number], "after": [f"n{number - 1}"] if number else []}
    for number in range(1201)
]


@pytest.mark.parametrize(
    "document",
    [
        {"nodes": _MANY, "name": "x", "labels": {"a": "b"}, "payload": [1], "policy": {"timeout_s": 5}, "key": "k"},
        {"nodes": []},
        {"nodes": [*_MANY, {"name": 7}]},
        {"nodes": [*_MANY, {"name": "n5", "taskk": "t"}]},
        {"nodes": [*_MANY, None]},
        {"nodes": [*_MANY, {"name": "n5", "task": "t"}]},
        {"nodes": [*_MANY, {"name": "y", "task": "t", "after": ["nobody"]}]},
        {"nodes": 7},
        {"nodez": _MANY},
        {"nodes": _MANY, "labels": {"a": 7}},
        {"nodes": _MANY, "version": 99},
        [],
    ],
)
def test_long_definitions_are_decoded_alike(document: Any) -> None:
    """Some nodes at a time or all at once: the same definition comes of it, or the same error in the same words."""
    body = json.dumps(document).encode()
    found: list[object] = []
    for limit in (0, 10**9):
        reader = DocumentReader(WorkflowDocument, NodeDocument, sliced_bytes=limit)
        new_id = iter(map(str, range(10_000))).__next__
        try:
            made = wire.decode_definition(body, nodes_max=10_000, new_id=new_id, reader=reader)
            found.append((wire.encode_definition(made), made.name, made.key, dict(made.labels), made.payload))
        except DyrygentError as error:
            found.append((type(error), str(error), error.next_step, getattr(error, "path", "")))
    assert found[0] == found[1]


def test_long_definition_that_breaks_off() -> None:
    """What is no JSON is told as such, some nodes at a time too."""
    reader = DocumentReader(WorkflowDocument, NodeDocument, sliced_bytes=0)
    with pytest.raises(BadRequest, match="not valid JSON"):
        wire.decode_definition(json.dumps({"nodes": _MANY}).encode()[:-5], nodes_max=10_000, reader=reader)
