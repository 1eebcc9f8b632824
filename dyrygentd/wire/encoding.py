"""JSON in and out, with errors that tell the place."""

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Raw, Struct

from dyrygentd.errors import BadRequest

_encoder = msgspec.json.Encoder()
_PATH = re.compile(r" - at `(?P<path>[^`]*)`$")


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
        if not body.isascii():
            body.decode()  # What is kept as raw text is not looked into below, and must not fail when a message is built from it.
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        message = str(error)
        match = _PATH.search(message)
        path = match["path"] if match else "$"
        raise BadRequest(f"{_PATH.sub('', message)}, at {path}", path=path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", path="$") from error


def schemas(forms: Iterable[type[Struct]]) -> dict[str, Any]:
    """Describe views as JSON schemas, ``{name: schema}``, for an OpenAPI document."""
    described = _described(forms)
    _, components = msgspec.json.schema_components(described.values(), ref_template="#/components/schemas/{name}")
    return components


def schema(form: type[Struct], *parts: type[Struct]) -> dict[str, Any]:
    """Describe one form as a JSON schema of its own; ``parts`` are the forms inside it that keep raw JSON."""
    described: dict[str, Any] = msgspec.json.schema(_described([*parts, form])[form])
    return described


def _described(forms: Iterable[type[Struct]]) -> dict[type[Struct], type[Struct]]:
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
            default = json.loads(bytes(field.default)) if isinstance(field.default, Raw) else field.default
            if field.required:
                fields.append((field.name, kind))
            elif field.default_factory is not NODEFAULT:
                fields.append((field.name, kind, msgspec.field(default_factory=field.default_factory)))
            elif default == [] or default == {}:
                fields.append((field.name, kind, msgspec.field(default_factory=type(default))))
            else:
                fields.append((field.name, kind, default))
        config = form.__struct_config__
        described = msgspec.defstruct(form.__name__, fields, forbid_unknown_fields=config.forbid_unknown_fields, kw_only=True)
        described.__doc__ = form.__doc__
        found[form] = described
    return found
