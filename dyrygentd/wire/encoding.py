"""JSON in and out, with errors that tell the place."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

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
    _, components = msgspec.json.schema_components(forms, ref_template="#/components/schemas/{name}")
    return components
