"""The published JSON schema of definition files, made of the forms themselves.

A file may hold ``${name}`` wherever a value stands, so each place takes a reference beside its own type: this schema is wider
than what the daemon accepts once the values are put in. Descriptions come from the docstrings of the forms.
"""

from typing import Any, Final, Literal

from msgspec import Struct

from dyrygentd.core.parameters import NAME_PATTERN
from dyrygentd.wire.encoding import schema
from dyrygentd.wire.forms import MapDocument, NodeDocument, WorkflowDocument
from dyrygentd.wire.over import JSON_LINES

SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

#: A reference that stands alone becomes the value itself, whatever its type.
_REFERENCE: Final = {"type": "string", "pattern": r"^\$\{[^}]*\}$"}
#: Where text is expected, it may be a part of it, which matters to words of a fixed set only.
_WITH_REFERENCE: Final = {"type": "string", "pattern": r"\$\{[^}]*\}"}
#: What is not expanded, because it is what the expansion is made of.
_NOT_EXPANDED: Final = ("parameters", "values", "version")


class ParameterDocument(Struct, forbid_unknown_fields=True):
    """A parameter's declaration.

    Attributes:
        type: Of its value; by default that of ``default``, else ``string``. Texts from a command line are read as this type.
        default: Taken if no value is given; without it a value must be given.
        description: What it is for.
        choices: The values that are allowed.
    """

    type: Literal["string", "integer", "number", "boolean", "list", "object"] = "string"
    default: Any = None
    description: str = ""
    choices: list[Any] = []


def definition_schema() -> dict[str, Any]:
    """Describe a definition file as a JSON schema."""
    described = schema(WorkflowDocument, MapDocument, NodeDocument, ParameterDocument)
    definitions = described["$defs"]
    describe_map(definitions["MapDocument"]["properties"], "#/$defs")
    describe_child(definitions["ChildDocument"]["properties"], "#/$defs")
    definitions["ParameterDocument"] = schema(ParameterDocument)["$defs"]["ParameterDocument"]
    definitions["ParameterDocument"]["properties"]["type"].pop("default", None)
    words = {f"#/$defs/{name}" for name, form in definitions.items() if "enum" in form}
    for name, form in definitions.items():
        if name != "ParameterDocument" and "properties" in form:
            for field, about in form["properties"].items():
                if field not in _NOT_EXPANDED:
                    form["properties"][field] = _with_reference(about, words)
    _describe_parameters(definitions["WorkflowDocument"]["properties"]["parameters"])
    return {"$schema": SCHEMA_DIALECT, "title": "dyrygentd definition", **described}


def describe_map(properties: dict[str, Any], definitions: str) -> None:
    """Say what a map may do, and what it may be over: kept as raw JSON, that is anything to who makes the schema.

    Args:
        definitions: Where the other forms are.
    """
    node = {"$ref": f"{definitions}/NodeDocument"}
    graph = {
        "type": "object",
        "properties": {"nodes": {"type": "array", "items": node, "minItems": 1}, "output": {"type": "string"}},
        "required": ["nodes"],
        "additionalProperties": False,
    }
    properties["do"] |= {"anyOf": [node, graph]}
    properties["over"] |= {"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}, _list_in_a_file()]}


def _list_in_a_file() -> dict[str, Any]:
    properties = {JSON_LINES: {"type": "string"}}
    return {"type": "object", "properties": properties, "required": [JSON_LINES], "additionalProperties": False}


def describe_child(properties: dict[str, Any], definitions: str) -> None:
    """Say that what a node begins is a definition, which is kept as raw JSON.

    Args:
        definitions: Where the other forms are.
    """
    properties["definition"] |= {"allOf": [{"$ref": f"{definitions}/WorkflowDocument"}]}


def _describe_parameters(parameters: dict[str, Any]) -> None:
    (members,) = (each for each in parameters["anyOf"] if each.get("type") == "object")
    members["propertyNames"] = {"pattern": f"^{NAME_PATTERN}$"}
    plain = {"type": ["string", "number", "boolean", "array", "null"]}
    members["additionalProperties"] = {"anyOf": [plain, {"$ref": "#/$defs/ParameterDocument"}]}


def _with_reference(about: dict[str, Any], words: set[str]) -> dict[str, Any]:
    """Return the schema of a property that takes a reference as well; what describes it stays beside the choice.

    Args:
        words: References to sets of words.
    """
    beside: dict[str, Any] = {key: about[key] for key in ("description", "default") if key in about}
    inner = {key: value for key, value in about.items() if key not in beside}
    if not inner or inner.get("type") == "string":
        return about
    if inner.get("type") == "array" and isinstance(inner.get("items"), dict):
        inner["items"] = _with_reference(inner["items"], words)
    choices = inner["anyOf"] if inner.keys() == {"anyOf"} else [inner]
    is_word = any("enum" in choice or choice.get("$ref") in words for choice in choices)
    return {**beside, "anyOf": [*choices, _WITH_REFERENCE if is_word else _REFERENCE]}
