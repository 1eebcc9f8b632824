"""Which tasks may be submitted and which queues may be named, at any depth of a definition.

A list that is narrowed means every signature: a node's, those in its callbacks, and those that a task of Celery's would run.
Where it cannot be told what would run, the answer is no.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final

from dyrygentd.core.graph import Graph
from dyrygentd.core.nested import CALL_ERRBACKS, CALLBACKS, Nested, is_carrier, nested_in
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.options import FROM_APP
from dyrygentd.errors import RequestError
from dyrygentd.wire.bounds import Look, nothing

_ANYTHING: Final = ("*",)
#: Options that say where a message goes.
_PLACES: Final = ("queue", "routing_key", "exchange")
_LOOK_EVERY: Final = 500


def nobody(task: str) -> bool:
    """Know no task."""
    return False


class TaskForbidden(RequestError):
    """A node names a task that the daemon's configuration does not let anybody submit.

    Attributes:
        place: Where in the node it stands, if it is not the node's own.
    """

    status = 403
    code = "task-forbidden"
    next_step = "an administrator of the daemon can change `tasks` and `tasks_denied` in its configuration"

    def __init__(self, node: str, task: str, reason: str, place: str = "") -> None:
        where = f", in `{place}`" if place else ""
        super().__init__(f"node '{node}': task '{task}' {reason}{where}")
        self.node = node
        self.task = task
        self.place = place


class QueueForbidden(RequestError):
    """A node names a queue that the daemon's configuration does not let anybody use."""

    status = 403
    code = "queue-forbidden"
    next_step = "leave it out, or ask an administrator of the daemon, who can change `queues` and `queues_denied`"

    def __init__(self, node: str, queue: str, reason: str, place: str) -> None:
        super().__init__(f"node '{node}': '{queue}' in `{place}` {reason}")
        self.node = node
        self.queue = queue
        self.place = place


class Lists:
    """Patterns of names, in which * and ? fit anything; of each pair the second one wins.

    Args:
        tasks, tasks_denied: Names of tasks.
        queues, queues_denied: What options may name as queue, routing key or exchange.
    """

    def __init__(
        self, *, tasks: Sequence[str], tasks_denied: Sequence[str], queues: Sequence[str], queues_denied: Sequence[str]
    ) -> None:
        self._denial_of_task = partial(_denial, "tasks", tuple(tasks), tuple(tasks_denied))
        self._denial_of_queue = partial(_denial, "queues", tuple(queues), tuple(queues_denied))
        self._has_tasks = tuple(tasks) != _ANYTHING or bool(tasks_denied)
        self._has_queues = tuple(queues) != _ANYTHING or bool(queues_denied)

    def check(self, graph: Graph, look: Look = nothing, *, knows: Callable[[str], bool] = nobody) -> None:
        """Raise `TaskForbidden` or `QueueForbidden` if something in a graph fits no list."""
        if not (self._has_tasks or self._has_queues):
            return
        # Large workflows repeat few signatures, and the ones that are equal are one object.
        seen: set[tuple[int, bool]] = set()
        for node, signature in enumerate(graph.signatures):
            if not node % _LOOK_EVERY:
                look()
            if signature is None:
                continue
            # A hook gets the error.
            takes_value = graph.policy(node).is_told_the_end or (graph.takes_input(node) and graph.input_count(node) > 0)
            if (id(signature), takes_value) in seen:
                continue
            seen.add((id(signature), takes_value))
            self._check(graph.names[node], signature, takes_value=takes_value, is_known=knows(signature.task))

    def _check(self, node: str, signature: Signature, *, takes_value: bool, is_known: bool) -> None:
        options: Mapping[str, Any] = {} if signature.options == b"{}" else json.loads(signature.options)
        if is_known and options.get(FROM_APP):
            # It goes where the daemon's app sends it, as a node does that names no queue.
            options = {name: value for name, value in options.items() if name not in options[FROM_APP]}
        # The one of ours is nothing by itself: what it calls is looked at below.
        task = "" if signature.task == CALL_ERRBACKS else signature.task
        self._check_one(node, Nested(task, "", options))
        for nested in _nested(signature, options, takes_value):
            self._check_one(node, nested)

    def _check_one(self, node: str, found: Nested) -> None:
        if self._has_tasks:
            # First of all: what is denied is denied by its name, whatever else may be wrong with it.
            reason = (self._denial_of_task(found.task) if found.task else "") or found.problem
            if reason:
                raise TaskForbidden(node, found.task, reason, found.path)
        if not self._has_queues:
            return
        if found.problem:
            raise QueueForbidden(node, found.task, found.problem, found.path)
        path = f"{found.path}.options" if found.path else "options"
        route = found.options.get("route_name")
        if route and route != found.task:
            raise QueueForbidden(node, str(route), "is another task, whose queue would be taken", f"{path}.route_name")
        for option in _PLACES:
            name = found.options.get(option)
            reason = self._denial_of_queue(str(name)) if name else ""
            if reason:
                raise QueueForbidden(node, str(name), reason, f"{path}.{option}")


def _nested(signature: Signature, options: Mapping[str, Any], takes_value: bool) -> Iterator[Nested]:
    if is_carrier(signature.task):
        args, kwargs = json.loads(signature.args), json.loads(signature.kwargs)
        return nested_in(signature.task, args, kwargs, options, takes_value=takes_value)
    if any(options.get(option) for option in CALLBACKS):
        return nested_in("", None, None, options)
    return iter(())


def _denial(setting: str, allowed: Sequence[str], denied: Sequence[str], name: str) -> str:
    for pattern in denied:
        if fnmatchcase(name, pattern):
            return f"fits '{pattern}' in `{setting}_denied`"
    if not any(fnmatchcase(name, pattern) for pattern in allowed):
        return f"fits nothing in `{setting}` ({', '.join(allowed) or 'which is empty'})"
    return ""
