"""What is known beside the canvas: the app with its tasks, routes and settings, and the workers that answered."""

import inspect
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dyrygentd.core.nested import CALL_ERRBACKS
from dyrygentd.core.options import LIMITS, clash_of
from dyrygentd.lint.faults import Fault, resembling
from dyrygentd.lint.fleet import faults_of_gap
from dyrygentd.lint.options import faults_of_callbacks, faults_of_options, is_finite
from dyrygentd.tasks.bodies import stores_own_end, uses_of_surroundings
from dyrygentd.tasks.endings import remarks_without_companion
from dyrygentd.tasks.fleet import Fleet
from dyrygentd.tasks.remarks import Remark, remark_without_bound, remarks_of_app, remarks_of_task
from dyrygentd.tasks.signatures import signature_of

_COMPARISONS_MAX: Final = 50
"""Unknown names for which a similar one is looked for."""

_VISIBILITY_TIMEOUT_S: Final = 3600.0
"""Kombu's default for Redis."""


class Call(NamedTuple):
    """A signature, read."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]


class Surroundings:
    """What is known beside the canvas. The app's parts are asked for once for each task or signature."""

    def __init__(
        self,
        app: Any,
        *,
        known_tasks: Collection[str] | None,
        known_queues: Collection[str] | None,
        visibility_timeout_s: float | None,
        fleet: Fleet,
    ) -> None:
        self.app = app
        self.fleet = fleet
        self.registry: Mapping[str, Any] = {} if app is None else app.tasks
        self.known_tasks = None if known_tasks is None else frozenset(known_tasks)
        self.known_queues = None if known_queues is None else frozenset(known_queues)
        self.visibility_timeout_s = visibility_timeout_s or _visibility_timeout_of(app)
        self.now = time.time()
        self._parameters: dict[str, inspect.Signature | None] = {}
        self._options: dict[bytes, Sequence[Fault]] = {}
        self._tasks: dict[str, Sequence[Fault]] = {}
        self._queues: dict[str, Sequence[Fault]] = {}
        self._gaps: dict[tuple[str, str], Sequence[Fault]] = {}
        self._comparisons = 0
        #: Whether workers have the companion, and whether they import it at least.
        self.has_companion = CALL_ERRBACKS in self.registry or fleet.has_companion
        self.imports_companion = False
        #: Whether the workflow's policy says how often the broker may give a task out again.
        self.has_bound = False

    def parameters_of(self, task: str) -> inspect.Signature | None:
        """Return what the task's function takes; None if it is not known, or does not want to be checked."""
        if task not in self._parameters:
            self._parameters[task] = _parameters_of(self.registry.get(task))
        return self._parameters[task]

    def faults_of_options(self, text: bytes, options: Mapping[str, Any]) -> Sequence[Fault]:
        """Check publish options, once for each text of them."""
        if text not in self._options:
            self._options[text] = [*faults_of_options(options), *faults_of_callbacks(options)]
        return self._options[text]

    def faults_of_task(self, task: str) -> Sequence[Fault]:
        """Look a task up among those that workers have, else among those of the app."""
        if task not in self._tasks:
            self._tasks[task] = list(self._look_task_up(task))
        return self._tasks[task]

    def faults_of_gap(self, task: str, queue: str) -> Sequence[Fault]:
        """Look for workers that get a task and do not know it."""
        if (task, queue) not in self._gaps:
            self._gaps[task, queue] = list(faults_of_gap(self.fleet, task, queue))
        return self._gaps[task, queue]

    def faults_of_class(self, call: "Call", *, is_taken: bool) -> Iterator[Fault]:
        """Tell what the task's class and its app's settings say that matters here."""
        clash = clash_of(call.options) if all(map(is_finite, (call.options.get(name, 0) for name in LIMITS))) else None
        if clash is not None:
            yield Fault("limits-crossed", "", f"`soft_time_limit` {clash.reason}")
        task = self.registry.get(call.task)
        if task is None or call.task.startswith("celery."):
            return
        for remark in (*remarks_of_task(task, self.app), *(remarks_of_app(self.app) if is_taken else ())):
            yield Fault(remark.code, remark.subject, remark.words)

    def without_bound(self, task: str) -> Remark | None:
        """Tell whether the broker may give the task out again and again."""
        return remark_without_bound(self.registry[task]) if task in self.registry else None

    def faults_of_queue(self, queue: str) -> Sequence[Fault]:
        """Look a queue up among those that workers consume."""
        known = self.known_queues
        if known is None or queue in known:
            return ()
        if queue not in self._queues:
            said = f"no worker consumes the queue '{queue}'{self._resembling(queue, known)}"
            self._queues[queue] = [Fault("unknown-queue", queue, said)]
        return self._queues[queue]

    def queue_of(self, call: "Call") -> str | None:
        """Return the queue that a call would be sent to, if that can be told. Raises what the app's routers raise."""
        task = self.registry.get(call.task)
        queue = call.options.get("queue") or getattr(task, "queue", None)
        if self.app is None:
            return queue
        given = {**call.options, "queue": queue} if queue else dict(call.options)
        routed = self.app.amqp.router.route(given, call.task, call.args, call.kwargs, task).get("queue")
        name: str | None = getattr(routed, "name", routed)
        return name

    def _look_task_up(self, task: str) -> Iterator[Fault]:
        if self.known_tasks is not None:
            if task not in self.known_tasks:
                said = f"no worker has the task '{task}'{self._resembling(task, self.known_tasks)}"
                yield Fault("unknown-task", task, said)
        elif self.app is not None and task not in self.registry:
            said = f"the app has no task '{task}'{self._resembling(task, self.registry)}"
            yield Fault("task-not-in-app", task, said)
        code = getattr(getattr(self.registry.get(task), "run", None), "__code__", None)
        if "add_to_chord" in getattr(code, "co_names", ()) and not (self.has_companion or self.imports_companion):
            yield Fault("add-to-chord", task, f"'{task}' calls `add_to_chord`")
        own = None if task.startswith("celery.") else self.registry.get(task)
        if not self.has_companion and own is not None:
            for remark in remarks_without_companion(own, is_imported=self.imports_companion):
                yield Fault(remark.code, remark.subject, remark.words)
        if stores_own_end(own) and not (self.has_companion or self.imports_companion):
            yield Fault("own-end", task, f"'{task}' stores a final state about itself while it runs")
        if used := uses_of_surroundings(own):
            yield Fault("own-chain", task, f"'{task}' uses {', '.join(f'`self.request.{name}`' for name in used)}")

    def _resembling(self, name: str, known: Collection[str]) -> str:
        # Only the first few are shown, and comparing costs milliseconds.
        self._comparisons += 1
        return resembling(name, known) if self._comparisons <= _COMPARISONS_MAX else ""


def _visibility_timeout_of(app: Any) -> float:
    given = None if app is None else (app.conf.broker_transport_options or {}).get("visibility_timeout")
    return float(given) if isinstance(given, int | float) else _VISIBILITY_TIMEOUT_S


def _parameters_of(task: Any) -> inspect.Signature | None:
    # Celery's own tasks take what they like; without `typing`, Celery does not check arguments either.
    if task is None or task.name.startswith("celery.") or not getattr(task, "typing", True):
        return None
    try:
        return signature_of(task.run)
    except (TypeError, ValueError):
        return None
