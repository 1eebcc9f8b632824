"""JSON in and out, with errors that tell the place."""

import codecs
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Raw, Struct

from dyrygentd.errors import BadRequest

_encoder = msgspec.json.Encoder()
_WORDS_MAX = 300
_PATH_MAX = 1000
_WINDOW = 256 * 1024
_PATH = re.compile(r" - at `(?:key` in `)?(?P<path>[^`]*)`$")


def encode(value: object) -> bytes:
    """Write any of the forms of this room as JSON."""
    return _encoder.encode(value)


T = TypeVar("T")


def decode(body: bytes, form: type[T]) -> T:
    """Read one of the forms of this room. Raises `BadRequest` with the path of the first error."""
    decoded: T = decode_any(body, form)
    return decoded


def decode_any(body: bytes, form: Any) -> Any:
    """Read a form that is no class, such as ``dict[str, Any]``; raises as `decode` does."""
    try:
        # What is kept as raw text is not looked into below, and must not fail when a message is built from it.
        check_text(body)
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        message, path = _parted(str(error))
        raise BadRequest(f"{message}, at {path}", path=path) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", path="$") from error


def check_text(body: bytes, *, window: int = _WINDOW) -> None:
    """Raise `UnicodeDecodeError` if it is no UTF-8, without a second copy of it in memory.

    Args:
        window: Bytes that are looked at together.
    """
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), window):
        decoder.decode(body[start : start + window])
    decoder.decode(b"", final=True)


def _parted(message: str) -> tuple[str, str]:
    """Part msgspec's words from the path at their end; they may repeat a name of megabytes, of which a beginning will do."""
    match = _PATH.search(message, max(0, len(message) - _PATH_MAX))
    words = message[: min(match.start(), _WORDS_MAX)] if match else message[:_WORDS_MAX]
    if (match.start() if match else len(message)) > _WORDS_MAX:
        words += "…`"
    return words, match["path"] if match else "$"


def schemas(forms: Iterable[type[Struct]]) -> dict[str, Any]:
    """Describe views as JSON schemas, ``{name: schema}``, for an OpenAPI document."""
    described = _describable(forms)
    _, components = msgspec.json.schema_components(described.values(), ref_template="#/components/schemas/{name}")
    _document(components, described)
    return components


def schema(form: type[Struct], *parts: type[Struct]) -> dict[str, Any]:
    """Describe one form as a JSON schema of its own; ``parts`` are the forms inside it that keep raw JSON."""
    forms = _describable([*parts, form])
    described: dict[str, Any] = msgspec.json.schema(forms[form])
    _document(described["$defs"], forms)
    return described


def _document(components: dict[str, Any], described: Mapping[type[Struct], type[Struct]]) -> None:
    """Move what docstrings say of their attributes to the fields, where editors show it."""
    structs = {form.__name__: form for form in described}
    for form in [*described]:
        structs |= {inner.__name__: inner for inner in _structs_in(form)}
    for name, about in components.items():
        if name not in structs:
            continue
        text, fields = _read_docstring(structs[name].__doc__ or "")
        about["description"] = text
        for field, words in fields.items():
            if field in about.get("properties", {}):
                about["properties"][field]["description"] = words


def _structs_in(form: type[Struct]) -> set[type[Struct]]:
    """Return the forms that the fields of a form name, in lists and mappings, too."""
    found: set[type[Struct]] = set()
    parts: list[Any] = [field.type for field in msgspec.structs.fields(form)]
    while parts:
        part = parts.pop()
        if isinstance(part, type) and issubclass(part, Struct):
            found.add(part)
        parts += get_args(part)
    return found


def _read_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """Return the text of a docstring and what it says of each attribute."""
    text, _, attributes = inspect.cleandoc(docstring).partition("Attributes:\n")
    fields: dict[str, str] = {}
    for names, words in _ATTRIBUTE.findall(textwrap.dedent(attributes)):
        fields |= dict.fromkeys(names.split(", "), " ".join(words.replace("``", "`").split()))
    return " ".join(text.replace("``", "`").split()), fields


#: ``name: words`` or ``name, name: words``; further lines are indented.
_ATTRIBUTE = re.compile(r"(?m)^(\w+(?:, \w+)*): (.*(?:\n +.*)*)")


def _describable(forms: Iterable[type[Struct]]) -> dict[type[Struct], type[Struct]]:
    """Return forms with the same fields in which raw JSON is anything, since msgspec has no schema for a default of raw JSON.

    A form that others refer to comes before them.
    """
    found: dict[type[Struct], type[Struct]] = {}
    for form in forms:
        fields: list[Any] = []
        given = msgspec.structs.fields(form)
        if not any(field.type is Raw or any(part in found for part in get_args(field.type)) for field in given):
            found[form] = form
            continue
        for field in given:
            kind = Any if field.type is Raw else field.type
            if get_origin(kind) is list and get_args(kind)[0] in found:
                kind = list[found[get_args(kind)[0]]]  # type: ignore[misc]
            elif any(part in found for part in get_args(kind)):
                kind = Union[tuple(found.get(part, part) for part in get_args(kind))]  # noqa: UP007
            default = json.loads(bytes(field.default)) if isinstance(field.default, Raw) else field.default
            if field.required:
                fields.append((field.encode_name, kind))
            elif field.default_factory is not NODEFAULT:
                fields.append((field.encode_name, kind, msgspec.field(default_factory=field.default_factory)))
            elif default == [] or default == {}:
                fields.append((field.encode_name, kind, msgspec.field(default_factory=type(default))))
            else:
                fields.append((field.encode_name, kind, default))
        config = form.__struct_config__
        described = msgspec.defstruct(form.__name__, fields, forbid_unknown_fields=config.forbid_unknown_fields, kw_only=True)
        described.__doc__ = form.__doc__
        found[form] = described
    return found


def fields_of(text: bytes) -> dict[str, bytes]:
    """Return the fields of an object as they are written, none of anything else; nothing of them is built."""
    try:
        fields: dict[str, Raw] = decode_any(text, dict[str, Raw])
    except BadRequest:
        return {}
    return {name: bytes(value) for name, value in fields.items()}


def object_of(fields: Mapping[str, bytes]) -> bytes:
    """Write an object of fields that are written already."""
    return b"{%b}" % b",".join([b"%b:%b" % (encode(name), value) for name, value in fields.items()])
