"""Bounds that are looked at before anything is built of a document: what is refused costs about its own length.

A decoder makes an object of each value, some twenty to a hundred times as long as its text, and only then compares their number
with a bound. So the values are counted in the text first. In most documents there are not even as many commas as there may be
values; the others are cut at the commas of one level by regular expressions, which pass over what is inside in C. They see a
window of the text at a time, since each call holds the interpreter's lock, and with it the loop.

Nothing here judges whether it is JSON: that is left to the decoder, and what is no JSON is counted in some way or other.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from dyrygentd.core.bounds import DEPTH_MAX, LABELS_MAX, NAME_LENGTH_MAX
from dyrygentd.errors import BadNode, BadRequest

#: Arguments and payload of one node, and the payload of a workflow. All of it is sent to a worker in one message, and a quarter
#: of the longest value that is passed from task to task is long for what somebody has written down.
NODE_BYTES_MAX: Final = 4 * 1024 * 1024
#: Options of one node: names, times, headers, and the signatures of callbacks.
OPTIONS_BYTES_MAX: Final = 1024 * 1024
#: Names in all `after` together. Each costs some twenty bytes for as long as the workflow runs.
EDGES_MAX: Final = 4_000_000
#: Arrays and objects in one document. A node has five and what is in its arguments, so this is twenty for each of the most nodes
#: that are accepted by default. To count what is nested takes a step for each.
CONTAINERS_MAX: Final = 4_000_000
#: Fields of a document beside its nodes and payload: labels, policy and names, all of them escaped.
_FIELD_BYTES_MAX: Final = LABELS_MAX * 2 * NAME_LENGTH_MAX * 12 + 16_384
#: Fields of one object that has at most twenty, repeated ones included.
_FIELDS_MAX: Final = 100
#: Python reads no longer whole number (`sys.get_int_max_str_digits`), and neither do the workers.
DIGITS_MAX: Final = 4300

_WINDOW: Final = 256 * 1024
_LOOK_EVERY: Final = 4096

Look = Callable[[], None]
"""Called now and then by long work; raises when nobody wants it any more."""


def nothing() -> None:
    """Look at nothing: the work is wanted."""


# --- cutting --------------------------------------------------------------------------------------------------------

#: "As often as it goes, and never less": Python before 3.11.5 loses its place in such groups (python/cpython#106052). There they
#: may be given up again, one by one, which finds the same: what they pass over begins and ends with marks that nothing else has.
_OFTEN: Final = b"*+" if sys.version_info >= (3, 11, 5) else b"*"
_STRING: Final = rb'"(?:[^"\\]++|\\.)' + _OFTEN + b'"'


def _flat(without: bytes = b"") -> bytes:
    """Return a pattern of what has neither arrays nor objects in it."""
    plain = rb'[^"\[\]{}' + without + rb"]*+"
    return plain + rb"(?:" + _STRING + plain + rb")" + _OFTEN


def _with_containers(around: bytes, inside: bytes) -> bytes:
    return around + rb"(?:(?:\[" + inside + rb"\]|\{" + inside + rb"\})" + around + rb")" + _OFTEN


_NESTED: Final = _with_containers(_flat(), _flat())
#: What may be passed over between two commas of the level that is cut, and below it.
_BESIDE: Final = re.compile(_with_containers(_flat(b","), _NESTED), re.DOTALL)
_BELOW: Final = re.compile(_NESTED, re.DOTALL)
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)' + _OFTEN, re.DOTALL)
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_KEY: Final = re.compile(rb'[ \t\r\n]*+("(?:[^"\\]|\\.){0,%d}")[ \t\r\n]*+:[ \t\r\n]*+' % (2 * NAME_LENGTH_MAX), re.DOTALL)
_QUOTE, _COMMA = ord('"'), ord(",")


def cut(text: bytes, start: int, look: Look = nothing) -> Iterator[tuple[int, int]]:
    """Yield begin and end of what stands between the commas of the array or object at ``start``, up to its end or the text's."""
    at = begin = start + 1
    depth, steps = 1, 0
    while at < len(text):
        steps += 1
        if not steps % _LOOK_EVERY:
            look()
        passed = (_BESIDE if depth == 1 else _BELOW).match(text, at, at + _WINDOW)
        assert passed is not None
        at = passed.end()
        if at >= len(text):
            break
        mark = text[at]
        if mark == _COMMA and depth == 1:
            yield begin, at
            begin = at + 1
        elif mark == _QUOTE:
            at = _end_of_string(text, at + 1)
        elif mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
            if not depth:
                break
        else:
            # The window's end: there is no need to go on by one.
            continue
        at += 1
    yield begin, min(at, len(text))


def _end_of_string(text: bytes, at: int) -> int:
    """Return where a string ends that is longer than a window, or is not ended."""
    while at < len(text):
        passed = _IN_STRING.match(text, at, at + _WINDOW)
        assert passed is not None
        if passed.end() < len(text) and text[passed.end()] == _QUOTE:
            return passed.end()
        # A backslash at the window's end stays for the next one; at the text's end there is none.
        at = passed.end() if passed.end() > at else at + 2
    return len(text)


def has_more_than(text: bytes, most: int, look: Look = nothing) -> bool:
    """Tell whether an array or object, as it stands in a document, has more members than ``most``."""
    if text.count(b",") < most:
        return False
    return any(number >= most for number, _ in enumerate(cut(text, _skip_space(text, 0), look)))


def count_of(text: bytes) -> int:
    """Return how many members an array or object has, as it stands in a document."""
    return sum(1 for _ in cut(text, _skip_space(text, 0)))


def _skip_space(text: bytes, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def members(text: bytes, start: int, look: Look = nothing) -> Iterator[tuple[str, bytes, int, int]]:
    """Yield name, written name, begin and end of the value of each member of an object; an empty name for one too long for ours.

    Raises:
        BadRequest: There are far more than any object of ours has.
    """
    for number, (begin, end) in enumerate(cut(text, start, look)):
        if number >= _FIELDS_MAX:
            raise BadRequest(f"an object has more than {_FIELDS_MAX} fields, at $", path="$", next_step="name each field once")
        key = _KEY.match(text, begin, end)
        if key is None:
            yield "", b'""', begin, end
            continue
        try:
            name = str(json.loads(key[1]))
        except ValueError:
            name = ""
        yield name, key[1], key.end(), end


# --- documents ------------------------------------------------------------------------------------------------------


def check_counts(body: bytes, most: Mapping[str, int], long: Mapping[str, int], look: Look = nothing) -> None:
    """Refuse a document with too many values before they are built.

    Args:
        most: ``{field: most members}`` of the fields that are arrays.
        long: ``{field: most bytes}`` of further fields that may be long. All others are short.

    Raises:
        BadRequest: There are more; `TooMany` for members.
    """
    if body.count(b"[") + body.count(b"{") > CONTAINERS_MAX:
        raise BadRequest(
            f"the body has more than {CONTAINERS_MAX} arrays and objects, at $",
            path="$",
            next_step="pass a reference to long data instead of the data",
        )
    # Each value but the first one of an array or object stands behind a comma.
    if body.count(b",") < min(most.values()):
        return
    start = _skip_space(body, 0)
    if body[start : start + 1] != b"{":
        return  # The decoder says so, at its first byte.
    for name, written, begin, end in members(body, start, look):
        if name in most:
            _check_count(name, body, begin, most[name], look)
        elif end - begin > long.get(name, _FIELD_BYTES_MAX):
            shown = json.loads(written) or f"{body[begin : begin + 20].decode(errors='replace')}…"
            raise BadRequest(
                f"`{shown}` has {end - begin} bytes, the most is {long.get(name, _FIELD_BYTES_MAX)}, at $.{name}",
                path=f"$.{name}",
                next_step="pass a reference to long data instead of the data",
            )


class TooMany(BadRequest):
    """An array has more members than a bound allows."""

    def __init__(self, field: str, most: int) -> None:
        super().__init__(f"`{field}` has more than {most} members, at $.{field}", path=f"$.{field}", next_step="give fewer")
        self.field = field


def _check_count(name: str, body: bytes, begin: int, most: int, look: Look) -> None:
    if body[begin : begin + 1] not in (b"[", b"{"):
        return
    for number, _ in enumerate(cut(body, begin, look)):
        if number >= most:
            raise TooMany(name, most)


# --- nodes ----------------------------------------------------------------------------------------------------------


def check_long_node(node: bytes, number: int, most: int, look: Look = nothing) -> None:
    """Refuse a long node, as it stands in a document, that is long where it may not be.

    Args:
        most: Names in ``after``.
    """
    if not node.startswith(b"{"):
        return
    for name, _, begin, end in members(node, 0, look):
        if name not in _LONG_OF_NODE and end - begin > _FIELD_BYTES_MAX:
            field = name[:NAME_LENGTH_MAX] or node[begin : begin + 40].decode(errors="replace").strip(' "')
            words = f"node {number + 1}: the field `{field}` has {end - begin} bytes, the most is {_FIELD_BYTES_MAX}"
            raise BadRequest(
                f"{words}, at $.nodes[{number}]",
                path=f"$.nodes[{number}]",
                next_step="only `after`, `args`, `kwargs`, `map`, `options`, `payload` and `workflow` may be long",
            )
        if name == "workflow":
            _check_long_child(node[begin:end], number, look)
        if name == "after" and has_more_than(node[begin:end], most, look):
            path = f"$.nodes[{number}].after"
            words = f"node {number + 1}: `after` names more nodes than a workflow may have, which are {most}, at {path}"
            raise BadRequest(words, path=path, next_step="name each node once")


def _check_long_child(workflow: bytes, number: int, look: Look) -> None:
    """Refuse values for the workflow of a node that would be built before anybody looks at how long they are."""
    if not workflow.startswith(b"{"):
        return
    for name, _, begin, end in members(workflow, 0, look):
        if name != "definition" and end - begin > NODE_BYTES_MAX:
            path = f"$.nodes[{number}].workflow.{name[:NAME_LENGTH_MAX]}"
            raise BadRequest(
                f"node {number + 1}: a field of `workflow` has {end - begin} bytes, the most is {NODE_BYTES_MAX}, at {path}",
                path=path,
                next_step="pass a reference to long data instead of the data",
            )


_LONG_OF_NODE: Final = frozenset({"after", "args", "kwargs", "map", "options", "payload", "workflow"})


def check_data(name: str, parts: Mapping[str, bytes], most: int) -> None:
    """Refuse data of a node that is too long, or that no worker could read: too deep, or with numbers that are too long.

    Args:
        name: Of the node; empty for the workflow itself.
        parts: ``{field: JSON text}``.

    Raises:
        BadNode, BadRequest
    """
    length = sum(map(len, parts.values()))
    if length > most:
        words = ", ".join(f"`{field}`" for field in parts)
        setting = "" if "options" in parts else " (`node_bytes_max`)"
        reason = f"{words} {'have' if len(parts) > 1 else 'has'} {length} bytes, the most is {most}{setting}"
        raise _bad(name, reason, "pass a reference to long data instead of the data")
    for field, text in parts.items():
        if len(text) > DEPTH_MAX and is_deeper(text, DEPTH_MAX):
            raise _bad(name, f"`{field}` is nested more than {DEPTH_MAX} levels deep", "flatten it, or pass it as a text")
        if len(text) > DIGITS_MAX and has_long_number(text):
            raise _bad(name, f"`{field}` has a whole number of more than {DIGITS_MAX} digits", "pass it as a text")


def _bad(name: str, reason: str, next_step: str) -> BadNode | BadRequest:
    if name:
        return BadNode(name, reason, next_step=next_step)
    return BadRequest(f"{reason}, at $", path="$", next_step=next_step)


def is_deeper(text: bytes, most: int) -> bool:
    """Tell whether JSON is nested deeper than ``most``."""
    if text.count(b"[") + text.count(b"{") <= most:
        return False
    depth, at = 0, 0
    while at < len(text):
        found = _NEXT.match(text, at, at + _WINDOW)
        assert found is not None
        at = found.end()
        if at >= len(text):
            break
        mark = text[at]
        if mark == _QUOTE:
            at = _end_of_string(text, at + 1)
        elif mark in b"[{":
            depth += 1
            if depth > most:
                return True
        elif mark in b"]}":
            depth -= 1
        else:
            continue
        at += 1
    return False


_NEXT: Final = re.compile(_flat(), re.DOTALL)
#: From the first digit of a run only, so that long runs are not tried from each of their digits.
_DIGITS: Final = re.compile(rb"(?<![0-9])[0-9]{%d}" % (DIGITS_MAX + 1))


def has_long_number(text: bytes) -> bool:
    """Tell whether JSON has a whole number that is too long; digits inside texts are none."""
    if _DIGITS.search(text) is None:
        return False
    try:
        json.loads(text, parse_int=_short, object_pairs_hook=_nothing_of, parse_float=_nothing_of)
    except OverflowError:
        return True
    # What is no JSON is told by who decodes it.
    except (ValueError, RecursionError):
        return False
    return False


def _short(digits: str) -> None:
    if len(digits.lstrip("-")) > DIGITS_MAX:
        raise OverflowError


def _nothing_of(_: Any) -> None:
    return None
