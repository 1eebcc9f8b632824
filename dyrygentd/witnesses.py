"""Who may have a task that nobody who answered has: a pure reading of an inspection, shared by verdicts and explanations.

*The rule.* A task that was found nowhere is lost only if everybody who could have it was heard. A worker need not answer: it may
have no remote control, be busy in the pool ``solo``, hang, or shut down warmly with its last tasks. So each place that counts
workers without asking them is looked at: who was reached by the question, who takes from the queue (RabbitMQ counts consumers),
who is connected (Redis lists the connections that fetch messages, one a worker), whose heartbeat is heard, and who stored that it
began. If no place counts them, whoever took the message may be one who never answers.

*What answers and does not tell.* Celery keeps messages that wait for a rate limit where no inspection shows them. Redis has them
among the reservations; RabbitMQ does not tell. A living worker that takes from the queue and limits the task may have it.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from dyrygentd.core.absence import Absence
from dyrygentd.core.lost_causes import ENDED_SILENTLY
from dyrygentd.core.words import counted, span
from dyrygentd.ports.facts import Inspection, QueueFacts, TaskFacts

_NAMES_MAX: Final = 3
#: Workers kept in mind; one that is older was replaced long ago.
_ROSTER_MAX: Final = 1000
#: Queues whose last consumer is kept on disk.
_KEPT_MAX: Final = 200
#: What workers with `task_track_started` store first.
_STARTED: Final = "STARTED"
#: Clocks of hosts differ, and workers tell their age in whole seconds.
_CLOCKS_S: Final = 5.0


def suspects(inspection: Inspection, task: TaskFacts, queue: QueueFacts) -> list[str]:
    """Tell who may have a task that nobody who answered has; nothing if there is nobody."""
    if inspection.workers is None:
        return ["the workers could not be asked"]
    answered = frozenset(inspection.workers)
    found: list[str] = []
    if inspection.listening is not None and inspection.listening > len(answered):
        who = named(_silent_ones(inspection), brackets=True)
        found.append(f"{inspection.listening - len(answered)} of {inspection.listening} workers did not answer{who}")
    else:
        mute = sorted((inspection.heard or frozenset()) - answered)
        if mute:
            found.append(f"{named(mute)} {'lives and does' if len(mute) == 1 else 'live and do'} not answer")
    if inspection.connected is not None:
        # Where workers that answer take from the queue, connections that wait for nothing are those of monitors rather.
        connected = inspection.connected + (0 if queue.workers else inspection.connected_before)
        if connected > len(answered):
            verb = "fetches" if connected == 1 else "fetch"
            connections = counted(connected, "connection")
            found.append(f"{connections} to the broker {verb} messages, and {counted(len(answered), 'worker')} answered")
    elif inspection.listening is None:
        found += _uncounted_elsewhere(inspection, queue)
    elif not queue.workers and not _has_vanished(inspection, task, queue):
        found.append(f"nobody who answers takes from queue '{queue.name}', so somebody who does not answer took it")
    if not inspection.is_counted and task.stored_state == _STARTED and task.stored_worker:
        starter = task.stored_worker
        if starter not in answered and starter not in inspection.last_answered and not found:
            found.append(f"{starter}, which started it, has never answered")
    return found


def limited_by(inspection: Inspection, task: TaskFacts, queue: QueueFacts) -> tuple[list[str], str]:
    """Return the living workers in whose rate limit a task may wait, and the limit."""
    if task.is_reserved is False or task.stored_state:
        return [], ""  # It was acknowledged, or has begun before: a limit is met first.
    limits = {name: inspection.alive[name].rates.get(task.task, "") for name in queue.workers if name in inspection.alive}
    names = [name for name, rate in limits.items() if rate]
    return names, limits[names[0]] if names else ""


def end_of_starter(inspection: Inspection, task: TaskFacts, *, dispatched_at: float, now: float) -> tuple[str, bool]:
    """Say what the worker that stored the task's beginning tells about its end, and whether it ended without a result."""
    starter = task.stored_worker
    if not starter or not task.stored_state:
        return "", False
    if starter in (inspection.workers or ()):
        alive = inspection.alive.get(starter)
        uptime_s = None if alive is None else alive.uptime_s
        if uptime_s is not None and dispatched_at and now - uptime_s > dispatched_at + _CLOCKS_S:
            return (
                f"{starter}, which started it, was itself started anew at {clock(now - uptime_s)}: it was ended with the task",
                False,
            )
        return (
            f"{starter}, which started it, is alive and no longer has it: it {ENDED_SILENTLY} (Ignore, or one that could not be"
            " stored, went to another backend, or has expired)",
            True,
        )
    others = [name for name in inspection.workers or () if name != starter]
    last = inspection.last_answered.get(starter)
    since = "" if last is None else f" since {clock(last)}"
    rest = f"; {named(others)} {'does' if len(others) == 1 else 'do'} not have it" if others else ""
    return f"{starter} had it, and does not answer{since}{rest}", False


def survivors(inspection: Inspection, queue: QueueFacts, *, since: float | None, now: float) -> list[str]:
    """Tell which workers take from a queue and ran already then: none of them has gone, and each may have dropped what it had."""
    ages = {name: inspection.alive[name].uptime_s for name in queue.workers if name in inspection.alive}
    if since is None:
        return []
    return sorted(name for name, age_s in ages.items() if age_s is not None and now - age_s < since - _CLOCKS_S)


def last_consumer(inspection: Inspection, queue: str, now: float) -> str:
    """Say who was last seen to take from a queue, and when; empty if nobody was."""
    if queue not in inspection.last_consumed:
        return ""
    worker, at = inspection.last_consumed[queue]
    # Results that came since tell nothing of who has stopped to take them.
    return f"; the last that said to consume it is {worker}, asked {span(now - at)} ago at {clock(at)}"


class Roster:
    """Which workers answered, and when last. Guards: no more than `_ROSTER_MAX` are kept, the latest.

    Attributes:
        absence: When nobody could answer, as no daemon ran; None if that is not known.
        told_at: When workers last said from which queues they take, as Unix time.
    """

    def __init__(self) -> None:
        self.absence: Absence | None = None
        self.told_at = 0.0
        self._last: dict[str, float] = {}
        self._last_of_queue: dict[str, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"<Roster workers={len(self._last)}>"

    @property
    def last_answered(self) -> Mapping[str, float]:
        """``{worker: Unix time}``."""
        return self._last

    @property
    def last_consumed(self) -> Mapping[str, tuple[str, float]]:
        """``{queue: (worker, Unix time)}``."""
        return self._last_of_queue

    def seen(self, inspection: Inspection, now: float) -> Inspection:
        """Take note of an inspection, and return it with what is known of those who answered before."""
        self.note(inspection, now)
        return replace(inspection, last_answered=self.last_answered, last_consumed=self.last_consumed, absence=self.absence)

    def note(self, inspection: Inspection, now: float) -> None:
        """Take note of who answered, and who takes from which queue."""
        self.told_at = now if inspection.consumed else self.told_at
        for queue, workers in inspection.consumed.items():
            if workers:
                self._last_of_queue.pop(queue, None)
                self._last_of_queue[queue] = (workers[0], now)
        while len(self._last_of_queue) > _ROSTER_MAX:
            del self._last_of_queue[next(iter(self._last_of_queue))]
        for name in inspection.workers or ():
            self._last.pop(name, None)
            self._last[name] = now
        while len(self._last) > _ROSTER_MAX:
            del self._last[next(iter(self._last))]

    def written(self) -> str:
        """Return who took from which queue, for `read`; of very many queues the latest."""
        return json.dumps(dict(list(self._last_of_queue.items())[-_KEPT_MAX:]))

    def read(self, note: str | None) -> None:
        """Take what `written` wrote, where nothing newer is known; what cannot be read is nothing."""
        with suppress(ValueError, TypeError, AttributeError):
            known = {str(queue): (str(worker), float(at)) for queue, (worker, at) in json.loads(note or "{}").items()}
            self._last_of_queue = known | self._last_of_queue


def _silent_ones(inspection: Inspection) -> list[str]:
    """Name those who may be the silent ones: heard now, or answering before; the latest first."""
    answered = frozenset(inspection.workers or ())
    heard = (inspection.heard or frozenset()) - answered
    earlier = sorted(inspection.last_answered, key=lambda name: -inspection.last_answered[name])
    begun = sorted({task.stored_worker for task in inspection.tasks.values() if task.stored_state == _STARTED} - {""})
    return [name for name in dict.fromkeys([*sorted(heard), *begun, *earlier]) if name not in answered]


def _uncounted_elsewhere(inspection: Inspection, queue: QueueFacts) -> list[str]:
    """Judge by the consumers of a queue, where the broker does not tell whom a question reached."""
    if queue.consumers is not None and len(queue.workers) >= queue.consumers:
        return []
    if queue.consumers is not None:
        return [f"{counted(queue.consumers, 'worker')} take from queue '{queue.name}', and {len(queue.workers)} of them answered"]
    return ["not every worker may have answered" if inspection.workers else "no worker answered"]


def _has_vanished(inspection: Inspection, task: TaskFacts, queue: QueueFacts) -> bool:
    """Tell whether a worker that answered earlier, and may have had the task, is gone."""
    gone = inspection.last_answered.keys() - frozenset(inspection.workers or ())
    if task.stored_worker:
        return task.stored_worker in gone
    if not inspection.last_consumed:
        return bool(gone)
    # Workers of other queues come and go, and tell nothing of this one.
    last = inspection.last_consumed.get(queue.name)
    return last is not None and last[0] not in (inspection.workers or ())


def named(names: Sequence[str], *, brackets: bool = False) -> str:
    """Write a few names, and how many more there are."""
    rest = len(names) - _NAMES_MAX
    text = ", ".join(names[:_NAMES_MAX]) + (f" and {rest} more" if rest > 0 else "")
    return f" ({text})" if brackets and text else text


def clock(at: float) -> str:
    """Write a time of day."""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"
