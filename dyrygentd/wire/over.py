"""What a map is over: a list that is written out, a file, the value of a node, or what precedes; how it is kept with its node."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Raw

from dyrygentd.core.policy import Child
from dyrygentd.errors import BadNode, BadRequest
from dyrygentd.wire.encoding import decode, decode_any, encode
from dyrygentd.wire.forms import MapDocument, NodeDocument

#: The kind of a child whose nodes are made of a list.
MAP: Final = "map"
#: The field of what stands for a list in a file, and the longest that may be.
JSON_LINES: Final = "json_lines"
_NAMING_MAX: Final = 2_000


def map_of(document: MapDocument) -> Child:
    """Return what a node's document has of its map."""
    return Child(MAP, encode(document), takes_input=list_of(document) is None)


def document_of_map(child: Child) -> MapDocument:
    """Return the map of a node as it is written."""
    return decode(child.document, MapDocument)


def over_item(child: Child, item: bytes) -> Child:
    """Return a map that is over an item of the map around it, whatever that is."""
    document = document_of_map(child)
    document.over = Raw(item)
    return Child(MAP, encode(document))


def list_of(document: MapDocument) -> bytes | None:
    """Return the list that is written out in a map, None if it comes from a node."""
    over = bytes(document.over).strip()
    return None if over == b"null" or over.startswith(b'"') else over


def source_of(document: MapDocument) -> str | None:
    """Return the name of the node whose value is the list, None if the map does not say."""
    over = bytes(document.over).strip()
    return str(decode_any(over, str)) if over.startswith(b'"') else None


def await_lists(nodes: Iterable[NodeDocument]) -> None:
    """Have each map wait for the node that it is over."""
    for node in nodes:
        source = None if node.map is None else source_of(node.map)
        if source is not None and source not in node.after:
            node.after = [source, *node.after]


def refuse_without_list(name: str, node: NodeDocument) -> None:
    """Raise `BadNode` if a map has nothing to be over."""
    if node.map is not None and not node.after and list_of(node.map) is None:
        next_step = "name the node whose value is the list in `map.over`, or write the list there"
        raise BadNode(name, "it is a map and has no list", next_step=next_step)


def value_over(child: Child, given: bytes | None, after: Sequence[str]) -> bytes:
    """Return the JSON text of what a map is over.

    Args:
        given: The value of what precedes, the list of the values of several; None if it takes none.
        after: Names of what precedes.
    """
    document = document_of_map(child)
    if given is None:
        return bytes(document.over)
    source = source_of(document)
    if source is None or len(after) < 2:
        return given
    return bytes(decode_any(given, list[Raw])[after.index(source)])


def file_of(value: bytes) -> str | None:
    """Return the name of the file of JSON lines that stands for a list, as ``{"json_lines": NAME}``; None of any other value."""
    if len(value) > _NAMING_MAX or not value.lstrip().startswith(b"{"):
        return None
    try:
        found = decode_any(value, dict[str, Any])
    except BadRequest:
        return None
    name = found.get(JSON_LINES)
    return name if isinstance(name, str) and len(found) == 1 else None


def kind_of(value: bytes) -> str:
    """Say what a JSON text is, for somebody who expected a list."""
    words = {b"{": "an object", b"[": "a list", b'"': "text", b"n": "null", b"t": "true", b"f": "false", b"": "nothing"}
    return words.get(value[:1]) or f"the number {value[:30].decode(errors='replace')}"
