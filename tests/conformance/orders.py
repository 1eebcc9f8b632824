"""The order that a canvas asks for, read from Celery's own objects."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tests.conformance.runs import Call

Order = tuple[frozenset[str], frozenset[str]]


def orders_of(canvas: Any) -> Iterator[Order]:
    """List ``(before, after)``: all calls of the first labels come before any call of the second."""
    kind, parts = _parts(canvas)
    if kind == "chain":
        steps = [labels for labels in map(_labels, parts) if labels]
        yield from pairwise(steps)
    elif kind == "chord":
        *header, body = parts
        yield frozenset[str]().union(*map(_labels, header)), _labels(body)
    for part in parts:
        yield from orders_of(part)


def broken_orders(calls: Sequence[Call], orders: Sequence[Order]) -> list[str]:
    """Return which orders were not kept. A label that was called twice tells nothing."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, call in enumerate(calls):
        first.setdefault(call.label, place)
        last[call.label] = place
    once = {label for label, place in first.items() if last[label] == place}
    broken = []
    for before, after in orders:
        wrong = [f"{early} after {late}" for early in before & once for late in after & once if last[early] > first[late]]
        broken += wrong
    return broken


def _parts(canvas: Any) -> tuple[str, list[Any]]:
    if not isinstance(canvas, Mapping):
        return "", []
    kind, inner = canvas.get("subtask_type") or "", canvas["kwargs"]
    match kind:
        case "chain" | "group":
            return kind, list(inner["tasks"])
        case "chord":
            header = inner["header"]
            members = list(header["kwargs"]["tasks"] if isinstance(header, Mapping) else header)
            return kind, [*members, inner.get("body")]
    return "", []


def _labels(canvas: Any) -> frozenset[str]:
    kind, parts = _parts(canvas)
    if kind:
        return frozenset[str]().union(*map(_labels, parts))
    if not isinstance(canvas, Mapping):
        return frozenset()
    inner = canvas["kwargs"]
    if "at" in inner:
        return frozenset([inner["at"].rpartition("/")[2]])
    items = [item[0] if isinstance(item, list | tuple) else item for item in inner.get("it") or ()]
    return frozenset(item.rpartition("/")[2] for item in items)
