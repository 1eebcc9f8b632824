"""The tasks and workflows of `dyrygentd demo`, the records that the tasks leave, and the check of these against the graphs.

A worker runs them with ``celery -A dyrygentd.demo worker``; `dyrygentctl submit dyrygentd.demo:blog` submits one of them.

Each execution appends its start and its end to one list in Redis, so that the position orders what happened at all workers.
"""

import functools
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from celery import Celery, chain, chord, current_task, group
from celery.signals import worker_ready

from dyrygentd.canvas import Workflow
from dyrygentd.core.graph import Graph
from dyrygentd.core.ids import task_id_of_attempt

LAYERS: Final = 10
PROBLEMS_MAX: Final = 5

#: The definition file that is run as the last piece.
REPLACEMENT: Final = Path(__file__).with_name("replace_hardware.json")

_LOG: Final = "demo:log"
_READY: Final = "demo:ready"
_START, _END = "+", "-"

# With a configuration of its own and without fixups, the user's CELERY_CONFIG_MODULE and DJANGO_SETTINGS_MODULE are left alone.
app = Celery("dyrygentd.demo", set_as_current=False, fixups=[], config_source={"broker_connection_retry_on_startup": True})


def recorded(function: Callable[..., Any]) -> Any:
    """Make a Celery task of a function; each execution is recorded."""

    @functools.wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = _connection()
        # The start is sent and not waited for, so a task costs one round trip. The end is in the list before Celery stores the
        # result: what starts because of that result starts behind it.
        connection.send_command("RPUSH", _LOG, _START + self.request.id)
        try:
            return function(*args, **kwargs)
        finally:
            connection.send_command("RPUSH", _LOG, _END + self.request.id)
            connection.read_response()
            connection.read_response()

    return app.task(run, bind=True, name=f"{__name__}.{function.__name__}")


@recorded
def noop(*args: Any, **kwargs: Any) -> bool:
    """Take anything and do nothing."""
    return True


@recorded
def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y


@recorded
def total(numbers: list[int]) -> int:
    """Add the results of a group."""
    return sum(numbers)


# The steps of a replacement. What they would do they say; what goes wrong does so on purpose, once in each workflow.


@recorded
def set_weight(cluster: str, osd: int, weight: int) -> str:
    """Let Ceph move the data away."""
    return f"osd.{osd} of {cluster} has weight {weight}"


@recorded
def set_downtime(host: str, hours: int) -> str:
    """Keep the monitoring quiet; it does not answer at first."""
    if _times() == 1:
        raise ConnectionError("the monitoring does not answer")
    return f"{host} is quiet for {hours} h"


@recorded
def is_healthy(cluster: str) -> bool:
    """Look whether Ceph has moved the data; the third look finds it done."""
    return _times() >= 3


@recorded
def remove_node(cluster: str, osd: int) -> str:
    """Take the OSD out."""
    return f"osd.{osd} is out of {cluster}"


@recorded
def tell_technicians(text: str) -> str:
    """Write to the people in the data centre; the mail is refused at first."""
    if _times() == 1:
        raise PermissionError("the mail was refused")
    return text


@recorded
def add_node(cluster: str, osd: int) -> str:
    """Take the OSD in again."""
    return f"osd.{osd} is back in {cluster}"


@recorded
def tell_team(summary: dict[str, Any]) -> str:
    """Tell the team what failed."""
    return f"{summary['name']}: {', '.join(failed['node'] for failed in summary['failed'])}"


def _times() -> int:
    """Return how often the present task was called in its workflow, this time included."""
    request = current_task.request
    with _client(app.conf.broker_url) as client:
        return int(client.incr(f"demo:times:{request.root_id}:{request.task}"))


# --- workflows ------------------------------------------------------------------------------------------------------


def blog() -> Any:
    """Return a chain of five chords, 57 tasks."""
    return chain([noop.s(0)] + [chord([noop.s(i) for i in range(10)], noop.s()) for _ in range(5)] + [noop.s()])


def nested() -> Any:
    """Return groups in groups, 23 tasks."""
    inner = group(group([noop.s() for i in range(5)]), chain([noop.s() for i in range(5)]))
    steps = inner | noop.s() | group([noop.s() for i in range(5)]) | noop.s()
    return group(steps, chain([noop.s() for i in range(5)])) | noop.s()


def sums() -> Any:
    """Return a chord whose values matter: 100 additions and their total, 9900."""
    return chord([add.s(i, i) for i in range(100)], total.s())


def layers(tasks: int) -> Workflow:
    """Return layers of tasks, each of which waits for the whole layer before."""
    workflow = Workflow()
    count = min(LAYERS, tasks)
    before: list[Any] = []
    for number in range(count):
        width = tasks * (number + 1) // count - tasks * number // count
        layer = [workflow.add(noop.si(), after=before) for _ in range(width)]
        if number + 1 < count:
            # A layer of n behind one of m costs n + m dependencies, not n * m.
            before = [workflow.join(layer)]
    return workflow


def replacement() -> dict[str, Any]:
    """Return the definition file of a hardware replacement, with values for a cluster in a hurry."""
    document: dict[str, Any] = json.loads(REPLACEMENT.read_bytes())
    return document | {"values": {"osd": 42, "check_every_s": 0.2}}


@dataclass(frozen=True, slots=True)
class Piece:
    """A workflow to be shown, how many tasks it has, and the result that it must have.

    Attributes:
        tasks: Gates count too.
        make: Returns a canvas, a `Workflow` or a definition document.
        attempts: ``{node: number}`` of how often each must have been tried, if an operator is needed; else each is tried once.
    """

    name: str
    tasks: int
    make: Callable[[], Any]
    expected: object
    attempts: Mapping[str, int] | None = None


def programme(nodes: int | None) -> list[Piece]:
    """Return what is shown, with one more workflow of so many tasks if a number is given."""
    pieces = [
        Piece("chain of chords", 57, blog, True),
        Piece("groups in groups", 23, nested, True),
        Piece("sum of 100 sums", 101, sums, 9900),
    ]
    if nodes is not None:
        # Of several ends none is the output, so there is no result, unless there is one task at the end.
        expected = True if nodes <= LAYERS else None
        pieces.append(Piece(f"{min(LAYERS, nodes)} layers", nodes, functools.partial(layers, nodes), expected))
    once = dict.fromkeys(("weight", "remove", "add", "alarm"), 1)
    attempts = {**once, "downtime": 2, "healthy": 3, "technicians": 2, "confirm": 0}
    pieces.append(Piece("replace hardware", 8, replacement, "osd.42 is back in gra1", attempts))
    return pieces


# --- records --------------------------------------------------------------------------------------------------------


class Records:
    """What the workers and the tasks wrote down."""

    def __init__(self, url: str) -> None:
        self._client = _client(url)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def ready_workers(self) -> int:
        """Return how many workers have begun to consume."""
        return int(self._client.llen(_READY))

    def note(self, what: str) -> None:
        """Put a mark among the executions, as if it were one: the position of something that a person did."""
        self._client.rpush(_LOG, _START + what, _END + what)

    def executions(self) -> "Executions":
        """Return all executions so far."""
        entries: Any = self._client.lrange(_LOG, 0, -1)
        return Executions(entry.decode() for entry in entries)


class Executions:
    """How often each task was executed, and the positions of its first start and its first end.

    Attributes:
        counts: ``{task id: number of executions}``.
    """

    def __init__(self, log: Iterable[str]) -> None:
        self.counts: Counter[str] = Counter()
        self.started: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        for position, entry in enumerate(log):
            task_id = entry[1:]
            if entry[0] == _START:
                self.counts[task_id] += 1
                self.started.setdefault(task_id, position)
            else:
                self.ended.setdefault(task_id, position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A workflow that ran, and what was found when the records were compared with its graph.

    Attributes:
        tasks: How many executions there must have been: one for each attempt of each task.
        once: How many of its tasks were executed exactly once.
        in_order: How many started after all of their dependencies had ended.
        problems: The first few deviations, in words.
    """

    name: str
    id: str
    state: str
    tasks: int
    seconds: float
    once: int
    in_order: int
    result: object
    expected: object
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Tell whether it did what it must."""
        return (
            self.state == "succeeded"
            and self.once == self.in_order == self.tasks
            and self.result == self.expected
            and not self.problems
        )


def check(
    graph: Graph, executions: Executions, *, attempts: Mapping[int, int] | None = None, marks: Mapping[int, str] | None = None
) -> tuple[int, int, list[str]]:
    """Return how many attempts ran exactly once, how many ran in order, and the first few that did not.

    Args:
        attempts: ``{node: number}``, one of each task by default.
        marks: ``{gate: mark}`` of what was noted when it was opened.
    """
    once = in_order = 0
    problems: list[str] = []
    never = float("inf")
    # When the dependents of each node may start. A node's dependencies have lower numbers: `Workflow` knows no others.
    opens_at = [-1.0] * len(graph)
    for node, name in enumerate(graph.names):
        # A hook that was run because of a failure came before what it waits for: that ran when the failure was mended.
        before = () if node in graph.hooks else graph.dependencies(node)
        ready_at = max((opens_at[dependency] for dependency in before), default=-1.0)
        ids = list(_ids_of(graph, node, 1 if attempts is None else attempts.get(node, 0)))
        if marks is not None and node in marks:
            opened_at = executions.started.get(marks[node], -1)
            ready_at = opened_at if opened_at > ready_at else never
        for task_id in ids:
            count, started = executions.counts[task_id], executions.started.get(task_id, -1)
            once += count == 1
            in_order += started > ready_at
            if count != 1:
                problems.append(f"'{name}' was executed {count} times")
            elif started <= ready_at:
                problems.append(f"'{name}' started before its dependencies had ended")
            ready_at = executions.ended.get(task_id, never)
        opens_at[node] = ready_at
    return once, in_order, problems[:PROBLEMS_MAX]


def ids_of(graph: Graph, attempts: Mapping[int, int] | None) -> set[str]:
    """Return the task ids of all attempts."""
    nodes = range(len(graph))
    return {task_id for node in nodes for task_id in _ids_of(graph, node, 1 if attempts is None else attempts.get(node, 0))}


def unknown(known: Iterable[str], executions: Executions) -> list[str]:
    """Return the ids of what was executed and is not known."""
    return sorted(executions.counts.keys() - set(known))


def _ids_of(graph: Graph, node: int, attempts: int) -> Iterator[str]:
    first = graph.task_ids[node]
    if first:
        for attempt in range(1, attempts + 1):
            yield task_id_of_attempt(first, attempt)


# --- in the worker --------------------------------------------------------------------------------------------------

_own = threading.local()


def _connection() -> Any:
    """Return the connection of this thread; a pool's child must not use the one it was forked with."""
    if getattr(_own, "pid", None) != os.getpid():
        _own.connection, _own.pid = _client(app.conf.broker_url).connection_pool.make_connection(), os.getpid()
    return _own.connection


def _client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(url.replace("redis+socket://", "unix://"), socket_timeout=30.0)


def _tell_ready(**_: Any) -> None:
    with _client(app.conf.broker_url) as client:
        client.rpush(_READY, os.getpid())


worker_ready.connect(_tell_ready)
