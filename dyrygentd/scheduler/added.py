"""What tasks have added, as definitions: as a worker has packed it (`dyrygentd.worker.additions`), or as a task returned."""

import base64
import binascii
import json
import zlib
from typing import Final

from dyrygentd import wire
from dyrygentd.canvas import definition_of
from dyrygentd.core.additions import Adds
from dyrygentd.core.graph import Definition
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.parent import DEPTH_MAX
from dyrygentd.core.policy import Child
from dyrygentd.errors import BadRequest
from dyrygentd.ports.facts import ADDITION_BYTES_MAX
from dyrygentd.wire.encoding import encode, fields_of, object_of

#: As a field that is not there.
_NULL: Final = b"null"
#: What belongs to a submission, and not to what a task adds.
_NOT_HERE: Final = ("key", "parent_task", "series", "if_running")
_SHOWN_MAX: Final = 50
_WRITE: Final = 'return {"nodes": [...]}, as it is submitted, or a canvas'
#: That nothing is to be done is said by a canvas, so that a list that was not filled is no success.
_NOTHING: Final = "put at least one into it; where nothing is to be done, return group([])"


def definition_of_added(
    child: Child, *, name: str, depth: int, new_id: MadeIds, nodes_max: int, node_bytes_max: int
) -> Definition:
    """Return the definition of what a task has added, checked like a submission.

    Args:
        name: What it is called if it does not say.
        depth: How many workflows are above it.
        new_id: Makes the ids of its tasks.

    Raises:
        BadRequest, DefinitionError, NotACanvas
    """
    if depth > DEPTH_MAX:
        raise BadRequest(
            f"there are {depth} workflows above it, the limit is {DEPTH_MAX}",
            path="$",
            next_step="a task that adds itself has to end some time: submit a workflow of its own instead",
        )
    text = child.document if child.kind == Adds.EXPANDS else _unpacked(child.document)
    # Not built before its bounds are looked at.
    fields = fields_of(text)
    if child.kind == Adds.EXPANDS and "nodes" not in fields:
        fields = fields_of(_definition_of_canvas(text, name))
    elif not fields:
        raise BadRequest("what the task has added is no definition, or was cut", path="$")
    refused = next((field for field in _NOT_HERE if fields.get(field, _NULL) != _NULL), None)
    if refused is not None:
        raise BadRequest(f"`{refused}` cannot be given to what a task adds", path=f"$.{refused}", next_step="leave it out")
    if child.kind == Adds.EXPANDS and not fields["nodes"].strip(b"[] \t\r\n"):
        raise BadRequest("what the task has returned has no nodes", path="$.nodes", next_step=_NOTHING)
    if fields.get("name", _NULL) in (_NULL, b'""'):
        fields["name"] = encode(name)
    body = object_of(fields)
    return wire.decode_definition(body, nodes_max=nodes_max, node_bytes_max=node_bytes_max, new_id=new_id, depth=depth)


def _unpacked(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        # Of what somebody else than the companion has written, no more than this is made.
        text = unpacking.decompress(base64.b64decode(packed, validate=True), ADDITION_BYTES_MAX)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise BadRequest(f"what the task has added cannot be read: {error}", path="$") from error
    return text if unpacking.eof else b""


def _definition_of_canvas(text: bytes, name: str) -> bytes:
    """Return the definition of a canvas that a task has returned which is declared to return one, or a definition."""
    try:
        returned = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"what the task has returned cannot be read: {error}", path="$", next_step=_WRITE) from error
    if isinstance(returned, dict) and isinstance(returned.get("task"), str):
        made = definition_of(returned, name=name, new_id=MadeIds())
        return wire.encode_definition(made, chosen_ids_only=True)
    words = text.decode(errors="replace")
    shown = words if len(words) <= _SHOWN_MAX else f"{words[:_SHOWN_MAX]}…"
    raise BadRequest(f"the task has returned {shown}, which is no definition and no canvas", path="$", next_step=_WRITE)
