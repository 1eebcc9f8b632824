"""What is wrong with a definition of another shape, in the words of whoever wrote it: which node, which field, what is allowed.

msgspec says what it expected and where (``$.nodes[3].retry.attempts``). The rest is read from the forms themselves, so it cannot
differ from what is accepted. All of this costs a second reading of the document, and happens to refused ones only.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, inspect

from dyrygentd.core.bounds import NAME_LENGTH_MAX
from dyrygentd.errors import BadRequest

#: Names that are compared with a wrong one; a thousand take some 20 ms.
_KNOWN_MAX: Final = 1000

_PARTS: Final = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]")
_NODE: Final = re.compile(r"\$\.nodes\[(\d+)\]")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(.*)`, at ")
_MISSING: Final = re.compile(r"^Object missing required field `(.*)`, at ")
_WORD: Final = re.compile(r"^Invalid enum value (.*), at ")
_EXPECTED: Final = re.compile(r"^Expected (.*), at ")


def explained(error: BadRequest, form: type[Struct], body: bytes = b"", *, node: bytes = b"") -> BadRequest:
    """Return an error that names the node, the field and what is allowed; an error about something else is returned as it is.

    Args:
        body: The document, if it is short; otherwise ``node`` is what the error is about.
    """
    message, path = error.message, error.path
    place = _type_at(form, path)
    where = _node_at(body, node, path)
    field = re.sub(r"^\$(\.nodes\[\d+\])?\.?", "", path)
    subject = f"`{field}`" if field else "a node" if where and not _is_named(where) else "it"
    if unknown := _UNKNOWN.match(message):
        inside = f" in `{field}`" if field else ""
        words, next_step = f"unknown field `{unknown[1]}`{inside}", suggestion(unknown[1], _fields(place))
    elif missing := _MISSING.match(message):
        inside = f" of `{field}`" if field else ""
        words, next_step = f"the field `{missing[1]}`{inside} is missing", f"add `{missing[1]}`"
    elif word := _WORD.match(message):
        words, next_step = f"{subject} cannot be {word[1]}", f"use one of {', '.join(_words(place))}"
    elif expected := _EXPECTED.match(message):
        words, next_step = f"{subject} must be {_in_words(expected[1])}", _allowed(place)
    else:
        return error
    return BadRequest(f"{f'{where}: ' if where else ''}{words}, at {path}", path=path, next_step=next_step)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the next step for a word that is not known."""
    known = [name[:NAME_LENGTH_MAX] for name in islice(known, _KNOWN_MAX)]
    close = get_close_matches(word[:NAME_LENGTH_MAX], known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known are {', '.join(known[:40])}{' …' if len(known) > 40 else ''}" if known else ""


def _in_words(expected: str) -> str:
    """Turn ``int`` and the like into JSON's words."""
    for ours, theirs in _TYPES.items():
        expected = re.sub(rf"\b{ours}\b", theirs, expected)
    # Each of two kinds of numbers is one to whoever writes them.
    expected = expected.replace("a whole number | a number", "a number")
    return (
        expected.replace("`", "").replace(" | ", " or ").replace(", got ", ", and is ").replace(" of length ", " with a length ")
    )


_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
}


def _allowed(place: Any) -> str:
    """Say what a type takes."""
    match _without_null(place):
        case inspect.IntType(ge=low, le=high) | inspect.FloatType(ge=low, le=high) as number:
            word = "a whole number" if isinstance(number, inspect.IntType) else "a number"
            if low is None or high is None:
                return f"write {word}" if low is None else f"write {word}, {_figure(low)} or more"
            return f"write {word} from {_figure(low)} to {_figure(high)}"
        case inspect.StrType(min_length=low, max_length=high):
            return f"write text of {low or 0} to {high} characters" if high is not None else "write text"
        case inspect.EnumType() | inspect.LiteralType() as words:
            return f"use one of {', '.join(_words(words))}"
        case inspect.StructType() as struct:
            return f"write an object with {', '.join(_fields(struct))}"
        case inspect.ListType():
            return "write an array: [...]"
        case inspect.BoolType():
            return "write true or false, without quotation marks"
        case inspect.DictType():
            return "write an object: {...}"
        case inspect.UnionType(types=types):
            each = [_allowed(one).removeprefix("write ") for one in types]
            return f"write {' or '.join(one for one in each if one not in ('', 'a whole number'))}"
        case _:
            return ""


def _figure(bound: float) -> str:
    """Return a bound as it may be written in a definition: a million is not 1e+06."""
    return f"{bound:.0f}" if float(bound).is_integer() and abs(bound) < 1e9 else f"{bound:g}"


def _words(place: Any) -> list[str]:
    match _without_null(place):
        case inspect.EnumType(cls=cls):
            return [str(word.value) for word in cls]
        case inspect.LiteralType(values=values):
            return [str(word) for word in values]
    return []


def _fields(place: Any) -> list[str]:
    struct = _without_null(place)
    return [field.encode_name for field in struct.fields] if isinstance(struct, inspect.StructType) else []


def _type_at(form: type[Struct], path: str) -> Any:
    place: Any = inspect.type_info(form)
    for name, number in _PARTS.findall(path.removeprefix("$")):
        place = _without_null(place)
        match place:
            case inspect.StructType(fields=fields) if name:
                place = next((field.type for field in fields if field.encode_name == name), None)
            case inspect.ListType(item_type=inner) | inspect.DictType(value_type=inner) if number:
                place = inner
            case _:
                return None
    return place


def _without_null(place: Any) -> Any:
    if isinstance(place, inspect.UnionType):
        others = [each for each in place.types if not isinstance(each, inspect.NoneType)]
        return others[0] if len(others) == 1 else place
    return place


class _Called(Struct):
    """What a node is called, of whatever type that is; the rest is passed over."""

    name: Raw = Raw()
    task: Raw = Raw()


class _Nodes(Struct):
    nodes: list[Raw]


def _node_at(body: bytes, node: bytes, path: str) -> str:
    """Return what the node is called at which the path leads, as its author would look for it."""
    match = _NODE.match(path)
    if match is None:
        return ""
    number = int(match[1])
    try:
        node = node or bytes(msgspec.json.decode(body, type=_Nodes).nodes[number])
        called = msgspec.json.decode(node, type=_Called)
    except (msgspec.MsgspecError, LookupError, RecursionError):
        return f"node {number + 1}"
    name, task = _text(called.name), _text(called.task)
    if name:
        return f"node '{name}'"
    return f"node {number + 1} (task '{task}')" if task else f"node {number + 1}"


def _text(raw: Raw) -> str:
    """Return a text, cut to the length that a name may have; nothing if it is none."""
    return str(msgspec.json.decode(raw))[:NAME_LENGTH_MAX] if bytes(raw).startswith(b'"') else ""


def _is_named(where: str) -> bool:
    return where.startswith("node '")
