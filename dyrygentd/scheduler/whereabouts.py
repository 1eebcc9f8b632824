"""Says in one sentence where a dispatched task is, and what a person can do about it: a pure reading of an inspection."""

from dataclasses import dataclass
from shlex import quote
from typing import Final, Literal, NamedTuple

from dyrygentd.commands import without_force
from dyrygentd.core.lost_causes import ENDED_SILENTLY, EXPIRED
from dyrygentd.core.words import counted, span
from dyrygentd.misspelt import misspelling
from dyrygentd.ports.facts import BACKEND_SILENT, Inspection, QueueFacts, TaskFacts
from dyrygentd.witnesses import clock, end_of_starter, last_consumer, limited_by, named, survivors, suspects

Code = Literal["queued", "no-consumer", "reserved", "running", "orphaned", "lost", "finished", "unknown"]

#: Celery's final states; what a user stores under another name does not end a task.
_FINAL: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
#: Why a worker that runs may not answer.
_SILENT: Final = "one does not answer that is busy in the pool `solo`, hangs, or takes no JSON (`accept_content`)"
#: In commands, if the daemon has no app of its own.
_UNKNOWN_APP: Final = "APP"
_RETRY: Final = "dyrygentctl retry WORKFLOW NODE --force"
#: What nobody can know of a task that was found nowhere, if its worker has no companion.
_UNREPORTED: Final = (
    "; a task that ended by Ignore, or stored nothing, looks the same: with `dyrygentd.worker.install(app)` in the workers' app"
    " it would be known"
)
#: The same where it is certain that the task has ended, and the question is how.
_HOW_IT_ENDED: Final = "; with `dyrygentd.worker.install(app)` in the workers' app it would be known how"
#: A task that was given out once more so many times is not one whose worker was restarted.
REDELIVERIES_MANY: Final = 3
#: Tasks looked for at one time, for somebody who asks: those that have been in flight longest.
LOOKED_FOR_MAX: Final = 40
#: For how long an answer of the workers holds; a look takes a second where nobody tells how many workers there are.
FRESH_S: Final = 3.0
#: A task that runs for so many seconds may hang.
_LONG_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Whereabouts:
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
    dispatched_at: float
    setback: str
    away: str
    app: str
    tries: int
    again: int

    @property
    def skip(self) -> str:
        """The command that goes on without it."""
        return without_force(self.retry).replace(" retry ", " skip ", 1)

    @property
    def suspects(self) -> list[str]:
        """Who may have it without having said so."""
        return suspects(self.inspection, self.task, self.queue)

    @property
    def has_everyone_answered(self) -> bool:
        """Whether a worker that did not say to have the task does not have it."""
        return not self.suspects

    @property
    def silence(self) -> str:
        """Who did not answer."""
        return "; ".join(self.suspects) or "every worker answered"


def whereabouts_of(
    inspection: Inspection,
    task_id: str,
    *,
    now: float,
    seen_within_s: float = 10.0,
    retry_command: str = _RETRY,
    has_ended: bool = False,
    is_unreported: bool = False,
    dispatched_at: float = 0.0,
    setback: str = "",
    away: str = "",
    app: str = "",
    tries: int = 0,
    again: int = 0,
) -> Whereabouts:
    """Decide where a task is that was published and has no result yet, as far as we know.

    Args:
        seen_within_s: How long a stored result may take to be noticed: the watcher's sweep.
        retry_command: What starts a new attempt of this node.
        has_ended: A worker has reported that it ended.
        is_unreported: No worker with `dyrygentd.worker.install` was ever heard of.
        dispatched_at: When it was sent, 0 if that is not known.
        setback: What happened to the broker while it was in flight, and when.
        away: When the result backend was away while it was in flight.
        app: What Celery's ``-A`` takes, for commands; empty if that is not known.
        tries: How often it has asked for another try, as far as that was seen.
        again: How often the broker has given it out once more, as far as that was seen.
    """
    task = inspection.tasks.get(task_id, TaskFacts(task_id))
    queue = inspection.queues.get(task.queue, QueueFacts(task.queue))
    app = app or _UNKNOWN_APP
    case = _Case(task, queue, inspection, now, retry_command, is_unreported, dispatched_at, setback, away, app, tries, again)
    if task.stored_state in _FINAL:
        return _finished(case, seen_within_s)
    if has_ended:
        text = "a worker has reported that it ended; its result is looked for, and if there is none, the report is what counts"
        return Whereabouts("finished", text, "wait for half a minute")
    if task.worker_state == "active":
        return _running(case)
    if task.worker:
        return _at_worker(case)
    if task.position is not None:
        return _queued(case)
    if task.is_reserved:
        return _limited(case) or _reserved_by_unknown(case)
    return _nowhere(case)


def _finished(case: _Case, seen_within_s: float) -> Whereabouts:
    task = case.task
    by = f" by {task.stored_worker}" if task.stored_worker else ""
    ago = f" {span(case.now - task.stored_at)} ago" if task.stored_at is not None else ""
    text = f"its result is stored already ({task.stored_state}{by}{ago}); it will be seen within {span(seen_within_s)}"
    return Whereabouts("finished", text, "if it is not: `dyrygentctl stats` tells whether results can be received")


def _running(case: _Case) -> Whereabouts:
    task = case.task
    since = "" if task.started_at is None else f" for {span(case.now - task.started_at)}, since {clock(task.started_at)}"
    state = f"; it reports {task.stored_state}" if task.stored_state and task.stored_state != "STARTED" else ""
    if task.also_at:
        return _running_twice(case, since, state)
    step = ""
    if task.is_redelivered:
        state += "; the broker gave it out once more after a worker had it"
        step = _end_to_redeliveries(case)
    if task.started_at is not None and case.now - task.started_at >= _LONG_S:
        step = f"if it hangs: `{case.retry}` starts a new attempt; the old one goes on at its worker, and keeps its place there"
    return Whereabouts("running", f"runs on {task.worker}{since}{state}", step)


def _end_to_redeliveries(case: _Case) -> str:
    return (
        "its worker dies with it (look after its memory, and `reject_on_worker_lost`), or it takes longer than the visibility"
        f" timeout: `{case.skip}` goes on without it, and `redeliveries_max` of node or workflow bounds it"
    )


def _running_twice(case: _Case, since: str, state: str) -> Whereabouts:
    """Tell of a message that the broker gave to a second worker while the first one is still at work."""
    task = case.task
    others = [f"on {worker} for {span(case.now - at)}" if at else f"on {worker}" for worker, at in task.also_at.items()]
    timeout = ""
    if task.redelivered_at is not None and task.reserved_since is not None:
        timeout = f" of {task.redelivered_at - task.reserved_since:g} s"
    return Whereabouts(
        "running",
        f"runs on {task.worker}{since}, and {', and '.join(others)}{state}: the broker gave it out once more while it ran",
        f"with `acks_late`, let the visibility timeout{timeout} be longer than the task takes (`broker_transport_options`);"
        " the first end counts",
    )


def _at_worker(case: _Case) -> Whereabouts:
    task = case.task
    if task.worker_state == "scheduled" and task.stored_state == "RETRY":
        when = "" if task.due_at is None else f", next at {clock(task.due_at)} (in {span(task.due_at - case.now)})"
        times = f", after {case.tries} {'try' if case.tries == 1 else 'tries'}" if case.tries else ""
        error = f"; it ended last with {task.stored_error}" if task.stored_error else ""
        step = f"wait, if what it waits for can still come; `{case.skip}` goes on without it, and revokes it"
        return Whereabouts("reserved", f"waits at {task.worker} for its retry{times}{when}{error}", step)
    if task.worker_state == "scheduled":
        return Whereabouts("reserved", f"waits at {task.worker} for its countdown or ETA")
    since = "" if task.reserved_since is None else f" for {span(case.now - task.reserved_since)}"
    return Whereabouts(
        "reserved",
        f"reserved by {task.worker}{since}, which runs other tasks first",
        _end_to_redeliveries(case)
        if case.again >= REDELIVERIES_MANY
        else "wait; against long waiting: more concurrency, or `worker_prefetch_multiplier = 1` at the workers",
    )


def _queued(case: _Case) -> Whereabouts:
    position = case.task.position or 0
    behind = "at its head" if position == 0 else f"behind {counted(position, 'message')}"
    where = f"waits in queue '{case.queue.name}' {behind}"
    return _waiting(case, where)


def _waiting(case: _Case, where: str) -> Whereabouts:
    """Tell of a message in a queue who is there to fetch it."""
    queue, workers = case.queue, case.inspection.workers
    start = _start(case, queue.name)
    if queue.consumers == 0:
        others = ""
        if workers:
            others = f"; {counted(len(workers), 'worker')} ({named(workers)}) answered, for other queues"
            add = f"celery -A {case.app} control -d {workers[0]} add_consumer {quote(queue.name)}"
            start += f", or let {workers[0]} consume it, too: `{add}`"
        last = last_consumer(case.inspection, queue.name, case.now)
        misspelt, step = misspelling(case.inspection, case.task, case.retry)
        return Whereabouts("no-consumer", f"{where}, which nobody consumes{others}{last}{misspelt}", f"{step}{start}{_app(case)}")
    consumers = queue.consumers if queue.consumers is not None else len(queue.workers)
    if consumers:
        names = f" ({named(queue.workers)})" if queue.workers else ""
        verb = "consumes" if consumers == 1 else "consume"
        return Whereabouts("queued", f"{where}; {counted(consumers, 'worker')} {verb} it{names}", "wait, or start more workers")
    text = f"{where}; whether anybody consumes it is not known: {case.silence}"
    return Whereabouts("queued", text, f"look after the workers, {_SILENT}; else {start}")


def _reserved_by_unknown(case: _Case) -> Whereabouts:
    task = case.task
    since = "" if task.reserved_since is None else f" {span(case.now - task.reserved_since)} ago"
    if not case.has_everyone_answered:
        return Whereabouts(
            "reserved",
            f"a worker reserved it{since}, and it is not known which: {case.silence}",
            "look after the workers: one that is busy in the pool `solo` does not answer, and neither does one that hangs",
        )
    redelivery = "the broker redelivers it after the visibility timeout"
    if task.redelivered_at is not None and task.reserved_since is not None:
        timeout_s = task.redelivered_at - task.reserved_since
        left_s = task.redelivered_at - case.now
        when = f", in {span(left_s)}" if left_s > 0 else ", which is over: as soon as a worker runs"
        redelivery = f"{redelivery} of {timeout_s:g} s{when}"
    who = "no worker has it" if case.inspection.workers else "no worker runs"
    start = "" if case.inspection.workers else f"{_start(case, case.queue.name)}; then "
    gone = "that worker is gone, or is shutting down"
    alive = survivors(case.inspection, case.queue, since=task.reserved_since, now=case.now)
    if alive:
        gone += (
            f", or it is {named(alive)} and has dropped it, as Celery's worker does with what it has fetched when its connection"
            " to the broker breaks (a broker that was restarted)"
        )
    return Whereabouts(
        "orphaned",
        f"a worker reserved it{since}, and {who} now: {gone}; {redelivery}",
        f"{start}wait for that, or `{case.retry}` starts a new attempt now; the task may run twice",
    )


def _limited(case: _Case) -> Whereabouts | None:
    """Tell of a task that may wait for a worker's rate limit, where no inspection shows it; None if none limits it."""
    names, rate = limited_by(case.inspection, case.task, case.queue)
    if not names:
        return None
    is_sure = case.task.is_reserved and case.has_everyone_answered and len(names) == 1
    since = "" if case.task.reserved_since is None else f", reserved {span(case.now - case.task.reserved_since)} ago"
    return Whereabouts(
        "reserved",
        f"{'waits' if is_sure else 'probably waits'} at {named(names)} for the rate limit of {rate}{since}",
        f"wait, or raise it: `celery -A {case.app} control rate_limit {case.task.task} RATE`{_app(case)}",
    )


def _nowhere(case: _Case) -> Whereabouts:
    """Decide on a task that was found neither in a queue nor at a worker."""
    task, queue = case.task, case.queue
    is_gone_from_broker = queue.is_searched and task.is_reserved is not True
    limited = _limited(case) if is_gone_from_broker else None
    if limited is not None:
        return limited
    if is_gone_from_broker and case.has_everyone_answered and task.stored_state is not None:
        return _lost(case)
    is_opaque = task.is_reserved is None and not queue.is_searched and not task.stored_state
    if queue.length and is_opaque and case.inspection.workers is not None:
        # RabbitMQ: the messages of a queue cannot be looked at.
        return _waiting(case, f"is probably one of the {counted(queue.length, 'message')} in queue '{queue.name}'")
    known: list[str] = []
    if task.stored_state:
        by = f" by {task.stored_worker}" if task.stored_worker else ""
        known.append(f"the last state stored{by} is {task.stored_state}")
    if is_gone_from_broker:
        known.append(f"it is not in queue '{queue.name}'")
    unknown = [*case.inspection.problems]
    if not is_gone_from_broker and queue.length:
        unknown.append(f"queue '{queue.name}' has {counted(queue.length, 'message')}, and not all were looked at")
    if not case.has_everyone_answered and case.inspection.workers is not None:
        unknown.append(case.silence)
    if task.stored_state is None and not case.inspection.problems:
        unknown.append("the result backend was not asked")
    if is_gone_from_broker and task.stored_state is not None:
        known.append("so a worker that does not answer has it, or it is lost")
    text = "; ".join(["nobody who answered has it", *known, *unknown]) + (_UNREPORTED if case.is_unreported else "")
    step = f"look after the workers and the broker, then ask again; {_SILENT}"
    if any(problem.startswith(BACKEND_SILENT) for problem in case.inspection.problems):
        step = "bring the result backend back first; what has ended meanwhile without a result is found lost then"
        text = text.removesuffix(_UNREPORTED)
    return Whereabouts("unknown", text, step)


def _lost(case: _Case) -> Whereabouts:
    task = case.task
    stored = "no result is stored"
    if task.stored_state:
        by = f" by {task.stored_worker}" if task.stored_worker else ""
        stored = f"the last state stored{by} is {task.stored_state}"
    age_s, kept_s = case.now - case.dispatched_at, case.inspection.results_kept_s
    expired = _expired(case)
    if not expired and case.dispatched_at and 0 < kept_s < age_s:
        stored += f", which is kept for {span(kept_s)} (`result_expires`), and it was sent {span(age_s)} ago:"
        stored += f" if no daemon ran when it ended, {EXPIRED}"
    start = "" if case.inspection.workers else f"{_start(case, task.queue)}; " if task.queue else "start a worker; "
    listening = "no worker knows it" if case.inspection.workers else "no worker runs"
    where = f"not in queue '{task.queue}'" if task.queue else "not in the broker"
    reading, has_ended = end_of_starter(case.inspection, task, dispatched_at=case.dispatched_at, now=case.now)
    # What is alive and has stored nothing may have been unable to: another attempt would end otherwise.
    is_dropped = bool(case.away) and not (case.setback and not task.stored_state)
    if is_dropped and has_ended:
        reading, has_ended = reading.partition(f": it {ENDED_SILENTLY}")[0], False
    elif not has_ended:
        died = "either its worker died, or is shutting down and still at work"
        if not task.stored_state and case.inspection.workers and not is_dropped:
            conf = f"celery -A {case.app} inspect conf"
            died += f", or the workers store results in another backend (`{conf}` shows their `result_backend`)"
        reading = f"{reading}: {died}" if reading else died
    if case.setback and not task.stored_state:
        reading = f"{case.setback}, and its message was in it"
    elif case.setback:
        reading = f"{case.setback}; {reading}"
    if expired:
        reading = f"{expired}; else {reading}" if reading else expired
    if is_dropped:
        reading = f"{case.away}, and workers that could not store results may have dropped it; if not: {reading}"
    hint = "" if not case.is_unreported or is_dropped or (case.setback and not task.stored_state) else _UNREPORTED
    if hint and has_ended:
        hint = _HOW_IT_ENDED
    retry = f"if no worker is shutting down, `{case.retry}` starts a new attempt"
    if case.setback and not task.stored_state:
        retry = f"wait for a minute: what nobody has is found lost then, and one command is for all of it; {retry} before"
    if is_dropped and not expired:
        # No command: this stands for a group of nodes, whose names go into the one above alone.
        retry += "; what is known to have run to its end can be skipped instead"
    if has_ended:
        retry = f"`{case.skip}` goes on without it; a new attempt would end in the same way (`{case.retry}`)"
    elif expired:
        done = f"`{case.skip}` goes on then, with `--value JSON` if others take its value"
        retry = f"see whether its work is done: {done}; if not: {retry}"
    return Whereabouts("lost", f"nobody has it: it is {where}, {listening}, {stored}; {reading}{hint}", f"{start}{retry}")


def _expired(case: _Case) -> str:
    """Say that a result may have come and gone while no daemon ran; empty if it cannot."""
    absence, kept_s = case.inspection.absence, case.inspection.results_kept_s
    if absence is None or not absence.may_have_hidden(dispatched_at=case.dispatched_at, kept_s=kept_s):
        return ""
    since = f"no daemon ran from {clock(absence.since)}"
    if absence.was_killed:
        since = f"the daemon before was killed, after {clock(absence.since)}, and none ran"
    return (
        f"{since} to {clock(absence.until)}, and results are kept for {span(kept_s)} (`result_expires`):"
        f" if it ended then, {EXPIRED}"
    )


def _start(case: _Case, queue: str) -> str:
    return f"start a worker for it: `celery -A {case.app} worker -Q {quote(queue)}`"


def _app(case: _Case) -> str:
    """Say what APP stands for, where the daemon has no app whose name could be said."""
    return " (APP: the workers' app, as `module:app`)" if case.app == _UNKNOWN_APP else ""
