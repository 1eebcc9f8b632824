"""What an inspection has found out so far, and what is learnt of what workers and the result backend say."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from celery import states

from dyrygentd.ports.facts import QueueFacts, TaskFacts, WorkerFacts
from dyrygentd.transport.meta import error_of_retry, is_never_ran, stored_at, worker_of

#: Queues of one worker that are kept in mind.
_QUEUES_MAX: Final = 1000


@dataclass(slots=True)
class FoundSoFar:
    """What has been found out so far."""

    tasks: dict[str, TaskFacts]
    queues: dict[str, QueueFacts] = field(default_factory=dict)
    queues_of: dict[str, list[str]] = field(default_factory=dict)
    workers: list[str] | None = None
    listening: int | None = None
    problems: list[str] = field(default_factory=list)
    connected: int | None = None
    connected_before: int = 0
    alive: dict[str, WorkerFacts] = field(default_factory=dict)
    consumed: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def learn(self, task_id: str, **facts: Any) -> None:
        """Note facts of a task."""
        self.tasks[task_id] = replace(self.tasks[task_id], **facts)

    def doubt_queues(self) -> None:
        """Note that a task that was not found may be in the broker all the same."""
        self.queues = {name: replace(facts, is_searched=False) for name, facts in self.queues.items()}

    def nowhere(self) -> list[str]:
        """Return the tasks that are not in the part of the queue that was searched, nor at a worker that answered."""
        return [
            task.task_id
            for task in self.tasks.values()
            if task.position is None and not task.worker and task.stored_state not in states.READY_STATES
        ]


def consumed_of(answers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return ``{queue: workers}`` of what workers say of their queues."""
    consumed: dict[str, list[str]] = {}
    for worker, queues in sorted(answers.items()):
        for queue in (queues or ())[:_QUEUES_MAX]:
            consumed.setdefault(str(queue.get("name")), []).append(worker)
    return consumed


def at_worker(worker: str, state: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is learnt of a task that a worker said to have."""
    started_at = request.get("time_start")
    return {"worker": worker, "worker_state": state, "started_at": float(started_at) if started_at else None}


def met_at(task: TaskFacts, worker: str, state: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is learnt of a task that one more worker said to have."""
    met = at_worker(worker, state, request)
    is_redelivered = task.is_redelivered or bool((request.get("delivery_info") or {}).get("redelivered"))
    if task.worker_state != "active":
        return {**met, "is_redelivered": is_redelivered}
    if state != "active":
        return {"is_redelivered": is_redelivered}
    return {"is_redelivered": is_redelivered, "also_at": {**task.also_at, worker: met["started_at"] or 0.0}}


def rates_of(registered: Iterable[Any], names: Container[str]) -> dict[str, str]:
    """Read the rate limits of some tasks from what a worker says: ``name [rate_limit=2/m]``."""
    rates = {}
    for each in registered:
        name, _, rest = str(each).partition(" [rate_limit=")
        if rest and name in names:
            rates[name] = rest.rstrip("]")
    return rates


def stored_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is learnt of a task of which something is stored."""
    state = meta.get("status")
    if state in (None, states.PENDING) or is_never_ran(meta):
        return {"stored_state": ""}
    return {
        "stored_state": str(state),
        "stored_at": stored_at(meta.get("date_done")),
        "stored_worker": worker_of(meta),
        "stored_error": error_of_retry(meta),
    }
