"""A workflow as a trace for Perfetto: Chrome's trace events in JSON, which it calls its legacy format.

There a track may not have slices that overlap other than one within the other: what begins later and ends later is dropped, or
drawn with another one's end (google/perfetto#432, #4280). So nodes of a section, which run side by side, are given *lanes*: a
node has the first one that is free when it begins, for all its attempts and the pauses between them. Times are whole
microseconds, because two slices that touch as decimals may overlap as binary fractions.

Lanes can be given only when all times are known, and nodes come in the order of the definition. What was read is kept in a file
that has no name, and of each node a few numbers in memory.
"""

import heapq
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
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
#: How attempts end that are drawn in red.
_BAD: Final = ("failed", "lost")


def trace(view: "wire.WorkflowView", nodes: "Iterable[wire.NodeView]", *, now: float) -> Iterator[str]:
    """Return the text of a trace, part by part: each attempt and each pause as a slice, what has no task as a moment.

    Args:
        nodes: All of the workflow; joins are left out.
        now: When what is in flight is cut off.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        groups, begins, ends, group_of, counts = _spooled(nodes, spool, now)
        lanes = _lanes(begins, ends, group_of)
        yield '{"displayTimeUnit":"ms","otherData":' + _json({"workflow": view.name, "id": view.id, "state": view.state})
        yield ',"traceEvents":[\n'
        yield ",\n".join(_names(groups, _counted(group_of, lanes)))
        spool.seek(0)
        for group, lane, count in zip(group_of, lanes, counts, strict=True):
            for line in islice(spool, count):
                yield f',\n{line.rstrip()},"pid":{group + 1},"tid":{lane + 1}}}'
        yield "\n]}\n"


def _spooled(
    nodes: "Iterable[wire.NodeView]", spool: Any, now: float
) -> "tuple[list[str], array[int], array[int], array[int], array[int]]":
    """Write the events of nodes, without their tracks.

    Returns:
        The groups, and of each node the beginning of its first event, the end of its last one, its group, and how many it has.
    """
    groups: dict[str, int] = {}
    begins, ends, group_of, counts = array("q"), array("q"), array("H"), array("H")
    for node in nodes:
        events = list(_events(node, now)) if node.kind != "join" else []
        if not events:
            continue
        name = node.section or node.task or f"({node.kind})"
        if name not in groups and len(groups) >= _GROUPS_MAX:
            name = _OTHERS
        group_of.append(groups.setdefault(name, len(groups)))
        begins.append(events[0]["ts"])
        ends.append(events[-1]["ts"] + events[-1].get("dur", 0))
        counts.append(len(events))
        # Without the brace that closes it, before which its track is to stand.
        spool.writelines(_json(event)[:-1] + "\n" for event in events)
    return list(groups), begins, ends, group_of, counts


def _events(node: "wire.NodeView", now: float) -> "Iterator[dict[str, Any]]":
    """Return what a node did, in the order of time and none over another one, without its track."""
    shown = [attempt for attempt in node.attempts or _only_attempt(node) if attempt.ended_at or attempt.state in _IN_FLIGHT]
    # What earlier versions of the daemon do not tell, and what ended without having been sent, has one event.
    name, at = render.inline(node.name), 0
    for attempt in shown:
        begin, end = max(at, _us(attempt.sent_at)), _us(attempt.ended_at or now)
        if attempt.backoff_s and at:
            due = min(begin, at + _us(attempt.backoff_s))
            yield {"name": f"{name}: pause", "cat": "backoff", "ts": at, "ph": "X", "dur": due - at, "cname": "grey", "args": {}}
        at = max(begin, end)
        event = {"name": name, "cat": attempt.state, "ts": begin, "ph": "X", "dur": at - begin}
        if attempt.state in _BAD:
            event["cname"] = "terrible"
        elif attempt.number > 1:
            event["cname"] = "bad"
        yield event | {"args": _args(node, attempt)}
    child = node.child
    if child is not None and not shown:
        begin, end = _us(child.created_at), _us(child.finished_at or now)
        about = {"workflow": child.id, "state": child.state, "tasks": child.tasks, "error": _error(child.error)}
        told = {name: value for name, value in about.items() if value}
        event = {"name": name, "cat": node.state, "ts": begin, "ph": "X", "dur": max(0, end - begin), "args": told}
        yield event | ({"cname": "terrible"} if node.state in _BAD else {})
    elif not shown and node.finished_at:
        args = {"task": node.task, "task id": node.task_id, "state": node.state, "error": _error(node.error)}
        told = {name: value for name, value in args.items() if value}
        yield {"name": name, "cat": node.state, "ts": _us(node.finished_at), "ph": "i", "s": "t", "args": told}


def _args(node: "wire.NodeView", attempt: "wire.AttemptView") -> dict[str, Any]:
    told = {
        "task": node.task,
        "task id": attempt.task_id,
        "attempt": attempt.number,
        "state": attempt.state,
        "error": _error(attempt.error),
        "reported": node.reported if attempt.state in _IN_FLIGHT else "",
        "worker": attempt.worker,
        "began s after it was sent": round(attempt.started_at - attempt.sent_at, 3) if attempt.started_at else None,
        "waited s": attempt.waited_s and round(attempt.waited_s, 3),
    }
    return {name: value for name, value in told.items() if value}


def _only_attempt(node: "wire.NodeView") -> "list[wire.AttemptView]":
    """Return the last attempt of a node of which no others are told."""
    from dyrygentd import wire

    if not node.dispatched_at:
        return []
    sent_at, task_id, error = node.dispatched_at, node.task_id or "", node.error or ""
    return [wire.AttemptView(node.attempt, node.state, sent_at, task_id, ended_at=node.finished_at, error=error)]


def _error(error: str | None) -> str:
    return render.visible((error or "")[:_ERROR_MAX])


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


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
