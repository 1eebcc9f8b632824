"""Values as JSON text in kombu's dialect, and whose fault it is if JSON cannot carry one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from kombu.utils import json

from dyrygentd.errors import BadNode, BadRequest

PASS_PLAIN_DATA: Final = "pass text, numbers, lists and dicts, or a reference to the data"

#: How JSON begins half of a surrogate pair; most texts have none, not even whole ones.
_SURROGATE: Final = "\\ud"


def encode_value(value: object) -> bytes:
    """Write a value as JSON text in kombu's dialect. Raises `BadRequest` if JSON cannot carry it."""
    try:
        return _json_text(value)
    # Kombu asks the value itself (``__json__``), which may raise anything.
    except Exception as error:
        raise BadRequest(f"JSON cannot carry the {type(value).__name__}: {error}", next_step=PASS_PLAIN_DATA) from error


def decode_value(json_text: bytes) -> object:
    """Read JSON text in kombu's dialect. Raises `BadRequest` if it is malformed or has an unknown type in it."""
    try:
        return json.loads(json_text)
    # A decoder is called with whatever the text holds, and users register decoders of their own.
    except Exception as error:
        raise BadRequest(f"the value is not valid JSON: {error}") from error


def json_array(name: str, args: Sequence[Any]) -> bytes:
    try:
        return _json_text(args)
    # Kombu asks the values themselves (``__json__``), which may raise anything.
    except Exception as error:
        _blame(name, ((f"argument {position}", value) for position, value in enumerate(args, start=1)))
        raise BadNode(name, f"the arguments cannot be written as JSON: {error}", next_step=PASS_PLAIN_DATA) from error


def json_object(name: str, members: Mapping[str, Any], word: str) -> bytes:
    try:
        return _json_text(members)
    except Exception as error:
        _blame(name, ((f"{word} '{key}'", value) for key, value in members.items()))
        raise BadNode(name, f"the {word}s cannot be written as JSON: {error}", next_step=PASS_PLAIN_DATA) from error


def _blame(name: str, values: Iterable[tuple[str, Any]]) -> None:
    """Raise `BadNode` for the first value that JSON cannot carry."""
    for words, value in values:
        try:
            _json_text(value)
        except Exception as error:
            reason = f"{words} is a '{type(value).__name__}' that JSON cannot carry: {error}"
            raise BadNode(name, reason, next_step=PASS_PLAIN_DATA) from error


def _json_text(value: object) -> bytes:
    # NaN and Infinity are no JSON: the daemon would refuse them without knowing the node.
    text: str = json.dumps(value, allow_nan=False, separators=(",", ":"))
    if _SURROGATE in text:
        _check_surrogates(json.dumps(value, allow_nan=False, ensure_ascii=False))
    return text.encode()


def _check_surrogates(text: str) -> None:
    """Raise `ValueError` if there is a half of a surrogate pair in a text, as in names of files that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(f"it holds {half!r}, which is no character; pass a file name as bytes (`os.fsencode`)") from None
