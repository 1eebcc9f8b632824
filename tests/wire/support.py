"""Definitions as the tests of this room read them."""

import json
from typing import Any

from dyrygentd import wire
from dyrygentd.core.graph import Definition


def decode(document: object, *, nodes_max: int = 1000) -> Definition:
    """Decode a definition with task ids that count up."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    ids = iter(range(10_000))
    return wire.decode_definition(body, nodes_max=nodes_max, new_id=lambda: f"id-{next(ids)}")


def decode_one(**fields: Any) -> Definition:
    """Decode a definition of one task with some fields."""
    return decode({"nodes": [{"task": "t", **fields}]})
