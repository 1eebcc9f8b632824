"""Workflows that do the work of a node, as they are written in a definition and kept with it, and made into what is begun."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Raw

from dyrygentd.core.policy import Child
from dyrygentd.errors import BadNode, BadRequest
from dyrygentd.wire.encoding import decode_any, encode
from dyrygentd.wire.forms import ChildDocument

#: The kind of a child that has a definition of its own.
WORKFLOW: Final = "workflow"
#: What stands for the value of a parameter of this type that is not known yet, when a definition is looked at.
_STAND_INS: Final[Mapping[str, Any]] = {"string": "x", "integer": 1, "number": 1, "boolean": True, "list": [], "object": {}}


def child_of(name: str, document: ChildDocument) -> Child:
    """Return what a node's document has of its workflow. Raises `BadNode`."""
    definition = bytes(document.definition).strip()
    if not definition.startswith(b"{"):
        raise BadNode(name, "`workflow.definition` must be an object", next_step='write {"nodes": [...]}, as it is submitted')
    if document.input is not None and document.values and document.input in document.values:
        raise BadNode(
            name,
            f"parameter '{document.input}' has a value, and is the `input` as well",
            next_step="leave it out of `workflow.values`, or leave out `workflow.input`",
        )
    kept = encode(ChildDocument(definition=Raw(definition), values=document.values, input=document.input))
    return Child(WORKFLOW, kept, document.input is not None, document.on_close)


def document_of_child(child: Child) -> ChildDocument:
    """Return the workflow of a node as it is written."""
    document: ChildDocument = decode_any(child.document, ChildDocument)
    document.on_close = child.on_close
    return document


def with_input(child: Child, value: bytes) -> Child:
    """Return the workflow of a node that has the value which it takes."""
    document = document_of_child(child)
    if document.input is not None:
        document.values = (document.values or {}) | {document.input: decode_any(value, Any)}
        document.input = None
    return Child(child.kind, encode(document), on_close=child.on_close)


def body_of_child(child: Child, given: bytes | None, name: str) -> bytes:
    """Return what is to be begun, in the form of what is submitted.

    Args:
        given: JSON text of what precedes the node, if the child takes that.
        name: What it is called if its definition does not say.

    Raises:
        BadRequest
    """
    document = document_of_child(child)
    definition: dict[str, Raw] = decode_any(bytes(document.definition), dict[str, Raw])
    refused = next((field for field in ("key", "parent_task", "series", "if_running") if field in definition), None)
    if refused is not None:
        raise BadRequest(f"`{refused}` cannot be given to the workflow of a node", path=f"$.{refused}", next_step="leave it out")
    values: dict[str, Any] = decode_any(bytes(definition["values"]), dict[str, Any]) if "values" in definition else {}
    values |= document.values or {}
    texts = {key: Raw(encode(value)) for key, value in values.items()}
    if document.input is not None:
        texts[document.input] = Raw(b"null" if given is None else given)
    if texts:
        definition["values"] = Raw(encode(texts))
    definition.setdefault("name", Raw(encode(name)))
    return encode(definition)


def stand_in(child: Child) -> tuple[bytes | None, bool]:
    """Return a text for what is not known before it is begun, and whether what is wrong with that is wrong with any."""
    document = document_of_child(child)
    if document.input is None:
        return None, True
    definition: dict[str, Any] = decode_any(bytes(document.definition), dict[str, Any])
    parameters = definition.get("parameters")
    about = parameters.get(document.input) if isinstance(parameters, dict) else None
    if not isinstance(about, dict):
        return encode("x" if about is None else about), about is not None
    if isinstance(about.get("choices"), list) and about["choices"]:
        return encode(about["choices"][0]), True
    if about.get("default") is not None:
        return encode(about["default"]), True
    kind = about.get("type", "string")
    return encode(_STAND_INS.get(kind if isinstance(kind, str) else "", "x")), kind in ("integer", "number", "boolean")
