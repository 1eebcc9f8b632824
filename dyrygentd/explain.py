"""Says in one sentence where a dispatched task is, and what a person can do about it: a pure reading of an inspection."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from dyrygentd.ports import Inspection, QueueFacts, TaskFacts

Code = Literal["queued", "no-consumer", "reserved", "running", "orphaned", "lost", "finished", "unknown"]

#: Celery's final states; what a user stores under another name does not end a task.
_FINAL: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
_RETRY: Final = "dyrygentctl retry WORKFLOW NODE --force"
_NAMES_MAX: Final = 3
#: What nobody can know of a task that was found nowhere, if its worker has no companion.
_UNREPORTED: Final = (
    "; a task that ended by Ignore, or stored nothing, looks the same: with `dyrygentd.worker.install(app)` in the workers' app"
    " it would be known"
)
#: A task that runs for so many seconds may hang.
_LONG_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a task is.

    Attributes:
        code: A stable word for programs.
        text: What is the case, in words.
        next_step: What a person can do, empty if there is nothing to do.
    """

    code: Code
    text: str
    next_step: str = ""


class _Case(NamedTuple):
    """A task, its queue, and who was asked."""

    task: TaskFacts
    queue: QueueFacts
    inspection: Inspection
    now: float
    retry: str
    is_unreported: bool

    @property
    def has_everyone_answered(self) -> bool:
        """Whether a worker that did not say to have the task does not have it."""
        workers, listening = self.inspection.workers, self.inspection.listening
        if workers is None:
            return False
        if listening is not None:
            return len(workers) >= listening
        # Each worker consumes a queue once. Who does not consume it any more gave its messages back.
        return self.queue.consumers is not None and len(self.queue.workers) >= self.queue.consumers

    @property
    def silence(self) -> str:
        """Who did not answer."""
        workers, listening = self.inspection.workers, self.inspection.listening
        if workers is None:
            return "the workers could not be asked"
        if listening is not None and listening > len(workers):
            return f"{listening - len(workers)} of {listening} workers did not answer"
        return "not every worker may have answered" if workers else "no worker answered"


def verdict(
    inspection: Inspection,
    task_id: str,
    *,
    now: float,
    seen_within_s: float = 10.0,
    retry_command: str = _RETRY,
    has_ended: bool = False,
    is_unreported: bool = False,
) -> Finding:
    """Decide where a task is that was published and has no result yet, as far as we know.

    Args:
        seen_within_s: How long a stored result may take to be noticed: the watcher's sweep.
        retry_command: What starts a new attempt of this node.
        has_ended: A worker has reported that it ended.
        is_unreported: No worker with `dyrygentd.worker.install` was ever heard of.
    """
    task = inspection.tasks.get(task_id, TaskFacts(task_id))
    queue = inspection.queues.get(task.queue, QueueFacts(task.queue))
    case = _Case(task, queue, inspection, now, retry_command, is_unreported)
    if task.stored_state in _FINAL:
        return _finished(case, seen_within_s)
    if has_ended:
        text = "a worker has reported that it ended; its result is looked for, and if there is none, the report is what counts"
        return Finding("finished", text, "wait for half a minute")
    if task.worker_state == "active":
        return _running(case)
    if task.worker:
        return _at_worker(case)
    if task.position is not None:
        return _queued(case)
    if task.is_reserved:
        return _reserved_by_unknown(case)
    return _nowhere(case)


def _finished(case: _Case, seen_within_s: float) -> Finding:
    task = case.task
    by = f" by {task.stored_worker}" if task.stored_worker else ""
    ago = f" {_span(case.now - task.stored_at)} ago" if task.stored_at is not None else ""
    text = f"its result is stored already ({task.stored_state}{by}{ago}); it will be seen within {_span(seen_within_s)}"
    return Finding("finished", text, "if it is not: `dyrygentctl stats` tells whether results can be received")


def _running(case: _Case) -> Finding:
    task = case.task
    since = "" if task.started_at is None else f" for {_span(case.now - task.started_at)}, since {_clock(task.started_at)}"
    state = f"; it reports {task.stored_state}" if task.stored_state and task.stored_state != "STARTED" else ""
    step = ""
    if task.started_at is not None and case.now - task.started_at >= _LONG_S:
        step = f"if it hangs: `{case.retry}` starts a new attempt; the old one goes on at its worker, and keeps its place there"
    return Finding("running", f"runs on {task.worker}{since}{state}", step)


def _at_worker(case: _Case) -> Finding:
    task = case.task
    if task.worker_state == "scheduled":
        what = "its retry" if task.stored_state == "RETRY" else "its countdown or ETA"
        return Finding("reserved", f"waits at {task.worker} for {what}")
    since = "" if task.reserved_since is None else f" for {_span(case.now - task.reserved_since)}"
    return Finding(
        "reserved",
        f"reserved by {task.worker}{since}, which runs other tasks first",
        "wait; against long waiting: more concurrency, or `worker_prefetch_multiplier = 1` at the workers",
    )


def _queued(case: _Case) -> Finding:
    position = case.task.position or 0
    behind = "at its head" if position == 0 else f"behind {_count(position, 'message')}"
    where = f"waits in queue '{case.queue.name}' {behind}"
    return _waiting(case, where)


def _waiting(case: _Case, where: str) -> Finding:
    """Tell of a message in a queue who is there to fetch it."""
    queue, workers = case.queue, case.inspection.workers
    start = _start(queue.name)
    if queue.consumers == 0:
        others = ""
        if workers:
            others = f"; {_count(len(workers), 'worker')} ({_named(workers)}) answered, for other queues"
            start += f", or let one of these consume it: `celery -A APP control add_consumer {queue.name}`"
        return Finding("no-consumer", f"{where}, which nobody consumes{others}", start)
    consumers = queue.consumers if queue.consumers is not None else len(queue.workers)
    if consumers:
        names = f" ({_named(queue.workers)})" if queue.workers else ""
        verb = "consumes" if consumers == 1 else "consume"
        return Finding("queued", f"{where}; {_count(consumers, 'worker')} {verb} it{names}", "wait, or start more workers")
    text = f"{where}; whether anybody consumes it is not known: {case.silence}"
    return Finding("queued", text, f"look after the workers, they may be busy in the pool `solo`, or hang; else {start}")


def _reserved_by_unknown(case: _Case) -> Finding:
    task = case.task
    since = "" if task.reserved_since is None else f" {_span(case.now - task.reserved_since)} ago"
    if not case.has_everyone_answered:
        return Finding(
            "reserved",
            f"a worker reserved it{since}, and it is not known which: {case.silence}",
            "look after the workers: one that is busy in the pool `solo` does not answer, and neither does one that hangs",
        )
    redelivery = "the broker redelivers it after the visibility timeout"
    if task.redelivered_at is not None and task.reserved_since is not None:
        timeout_s = task.redelivered_at - task.reserved_since
        left_s = task.redelivered_at - case.now
        when = f", in {_span(left_s)}" if left_s > 0 else ", which is over: as soon as a worker runs"
        redelivery = f"{redelivery} of {timeout_s:g} s{when}"
    who = "no worker has it" if case.inspection.workers else "no worker runs"
    start = "" if case.inspection.workers else f"{_start(case.queue.name)}; then "
    return Finding(
        "orphaned",
        f"a worker reserved it{since}, and {who} now: that worker is gone, or is shutting down; {redelivery}",
        f"{start}wait for that, or `{case.retry}` starts a new attempt now; the task may run twice",
    )


def _nowhere(case: _Case) -> Finding:
    """Decide on a task that was found neither in a queue nor at a worker."""
    task, queue = case.task, case.queue
    is_gone_from_broker = queue.is_searched and task.is_reserved is not True
    if is_gone_from_broker and case.has_everyone_answered and task.stored_state is not None:
        return _lost(case)
    is_opaque = task.is_reserved is None and not queue.is_searched and not task.stored_state
    if queue.length and is_opaque and case.inspection.workers is not None:
        # RabbitMQ: the messages of a queue cannot be looked at.
        return _waiting(case, f"is probably one of the {_count(queue.length, 'message')} in queue '{queue.name}'")
    known: list[str] = []
    if task.stored_state:
        by = f" by {task.stored_worker}" if task.stored_worker else ""
        known.append(f"the last state stored{by} is {task.stored_state}")
    if is_gone_from_broker:
        known.append(f"it is not in queue '{queue.name}'")
    unknown = [*case.inspection.problems]
    if not is_gone_from_broker and queue.length:
        unknown.append(f"queue '{queue.name}' has {_count(queue.length, 'message')}, and not all were looked at")
    if not case.has_everyone_answered and case.inspection.workers is not None:
        unknown.append(case.silence)
    if task.stored_state is None and not case.inspection.problems:
        unknown.append("the result backend was not asked")
    if is_gone_from_broker and task.stored_state is not None:
        known.append("so a worker that does not answer has it, or it is lost")
    text = "; ".join(["nobody who answered has it", *known, *unknown]) + (_UNREPORTED if case.is_unreported else "")
    return Finding(
        "unknown",
        text,
        "look after the workers and the broker, then ask again; one that is busy in the pool `solo` does not answer",
    )


def _lost(case: _Case) -> Finding:
    task = case.task
    stored = "no result is stored"
    if task.stored_state:
        by = f" by {task.stored_worker}" if task.stored_worker else ""
        stored = f"the last state stored{by} is {task.stored_state}"
    start = "" if case.inspection.workers else f"{_start(task.queue)}; " if task.queue else "start a worker; "
    listening = "no worker knows it" if case.inspection.workers else "no worker runs"
    where = f"not in queue '{task.queue}'" if task.queue else "not in the broker"
    return Finding(
        "lost",
        f"nobody has it: it is {where}, {listening}, {stored}; either its worker died, or is shutting down and still at work"
        f"{_UNREPORTED if case.is_unreported else ''}",
        f"{start}if no worker is shutting down, `{case.retry}` starts a new attempt",
    )


def _start(queue: str) -> str:
    return f"start a worker for it: `celery -A APP worker -Q {queue}`"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _NAMES_MAX
    return ", ".join(names[:_NAMES_MAX]) + (f" and {rest} more" if rest > 0 else "")


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"


def _span(seconds: float) -> str:
    """Write a duration in its two largest units."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
