"""A workflow as a trace for Perfetto: Chrome's trace events in JSON, which it calls its legacy format.

There a track may not have slices that overlap other than one within the other: what begins later and ends later is dropped, or
drawn with another one's end (google/perfetto#432, #4280). So nodes of a section, which run side by side, are given *lanes*: a
node has the first one that is free when it begins. Times are whole microseconds, because two slices that touch as decimals may
overlap as binary fractions.

Lanes can be given only when all times are known, and nodes come in the order of the definition. What was read is kept in a file
that has no name, and of each node a few numbers in memory.
"""

import heapq
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from dyrygentd.cli import render

if TYPE_CHECKING:
    from dyrygentd import wire

#: Groups of tracks, one for each section or task; what comes later shares one.
_GROUPS_MAX: Final = 200
#: Characters of an error.
_ERROR_MAX: Final = 300
_OTHERS: Final = "others"
_IN_FLIGHT: Final = ("dispatching", "dispatched")


def trace(view: "wire.WorkflowView", nodes: "Iterable[wire.NodeView]", *, now: float) -> Iterator[str]:
    """Return the text of a trace, part by part: the last attempt of each node as a slice, what has no task as a moment.

    Args:
        nodes: All of the workflow; joins are left out.
        now: When what is in flight is cut off.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        groups, begins, ends, group_of = _spooled(nodes, spool, round(now * 1e6))
        lanes = _lanes(begins, ends, group_of)
        yield '{"displayTimeUnit":"ms","otherData":' + _json({"workflow": view.name, "id": view.id, "state": view.state})
        yield ',"traceEvents":[\n'
        yield ",\n".join(_names(groups, _counted(group_of, lanes)))
        spool.seek(0)
        for line, group, lane in zip(spool, group_of, lanes, strict=True):
            yield f',\n{line.rstrip()},"pid":{group + 1},"tid":{lane + 1}}}'
        yield "\n]}\n"


def _spooled(nodes: "Iterable[wire.NodeView]", spool: Any, now: int) -> "tuple[list[str], array[int], array[int], array[int]]":
    """Write the events of nodes, without their tracks; return the groups, and of each event its beginning, end and group."""
    groups: dict[str, int] = {}
    begins, ends, group_of = array("q"), array("q"), array("H")
    for node in nodes:
        if node.kind == "join" or not (node.dispatched_at or node.finished_at):
            continue
        end = now if node.finished_at is None else round(node.finished_at * 1e6)
        begin = end if node.dispatched_at is None else round(node.dispatched_at * 1e6)
        end = max(begin, end)
        if not node.finished_at and node.state not in _IN_FLIGHT:
            continue
        name = node.section or node.task or f"({node.kind})"
        if name not in groups and len(groups) >= _GROUPS_MAX:
            name = _OTHERS
        group_of.append(groups.setdefault(name, len(groups)))
        begins.append(begin)
        ends.append(end)
        spool.write(_event(node, begin, end) + "\n")
    return list(groups), begins, ends, group_of


def _event(node: "wire.NodeView", begin: int, end: int) -> str:
    """Return an event as far as it is known, without the brace that closes it."""
    told = {
        "task": node.task,
        "task id": node.task_id,
        "attempt": node.attempt or None,
        "state": node.state,
        "error": node.error and render.visible(node.error[:_ERROR_MAX]),
        "reported": node.reported,
    }
    event = {"name": render.inline(node.name), "cat": node.state, "ts": begin}
    event |= {"ph": "i", "s": "t"} if node.dispatched_at is None else {"ph": "X", "dur": end - begin}
    if node.state == "failed":
        event["cname"] = "terrible"
    elif node.attempt > 1:
        event["cname"] = "bad"
    return _json(event | {"args": {name: value for name, value in told.items() if value}})[:-1]


def _lanes(begins: "array[int]", ends: "array[int]", group_of: "array[int]") -> "array[int]":
    """Return a lane for each event, from 0: the lowest of its group in which nothing else is at that time."""
    lanes = array("I", bytes(4 * len(begins)))
    busy: dict[int, list[tuple[int, int]]] = {}
    free: dict[int, list[int]] = {}
    for event in sorted(range(len(begins)), key=begins.__getitem__):
        group = group_of[event]
        mine, unused = busy.setdefault(group, []), free.setdefault(group, [])
        while mine and mine[0][0] <= begins[event]:
            heapq.heappush(unused, heapq.heappop(mine)[1])
        lanes[event] = heapq.heappop(unused) if unused else len(mine)
        # What takes no time keeps its place for a moment, or all that do would be in one spot.
        heapq.heappush(mine, (max(ends[event], begins[event] + 1), lanes[event]))
    return lanes


def _counted(group_of: "array[int]", lanes: "array[int]") -> dict[int, int]:
    """Return how many lanes each group has."""
    found: dict[int, int] = {}
    for group, lane in zip(group_of, lanes, strict=True):
        found[group] = max(found.get(group, 0), lane + 1)
    return found


def _names(groups: list[str], lanes: dict[int, int]) -> Iterator[str]:
    """Return the events that name the tracks and say in which order they stand."""
    for group, name in enumerate(groups):
        about = {"ph": "M", "pid": group + 1, "tid": 0}
        yield _json({"name": "process_name", **about, "args": {"name": render.inline(name)}})
        yield _json({"name": "process_sort_index", **about, "args": {"sort_index": group}})
        for lane in range(lanes.get(group, 0)):
            yield _json({"name": "thread_name", **about, "tid": lane + 1, "args": {"name": f"lane {lane + 1}"}})


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
