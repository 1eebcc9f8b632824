"""Finds tasks that have vanished, so that nothing hangs because a worker or a broker has lost what it had.

Theory of operation
===================
*The idea.* Celery tells nobody when a worker dies with a task that it had acknowledged, when a message is lost between two
commands of a worker (celery#4354), or when a broker comes back empty. So tasks that are in flight for ``lost_after_s`` are looked
for in the broker, at the workers and in the result backend (`dyrygentd.ports.Inspector`).

*When a task is lost.* It was found nowhere, twice, ``lost_confirm_s`` apart: in no queue, in no reservation, at none of the
workers, all of which answered, and without a result. Who is silent may have it (`dyrygentd.witnesses` tells who that may be), and
one that answered shortly before and is gone now, since it may be connecting again. Then nothing is decided, and it is looked for
again.

*What it costs.* Nothing for tasks that end in time. A task is looked for after ``lost_after_s``, then at intervals of half its
age, ten minutes at most; at most `_ROUND_MAX` at one time, with one search of each queue for all of them, and a look that took
long is followed by a long pause. Nothing is looked for while broker or backend are known to be away.

*What could go wrong.* Nobody can be sure. A worker without a connection goes on with its task, and so does one that shuts down
for longer than ``lost_confirm_s``. So a task that was taken for lost is watched on (see `dyrygentd.core.late`): its end counts
as long as no other attempt was sent. And nothing is sent a second time by itself unless the node says that it is idempotent, or
asks for it.

*Time* is the event loop's: a clock that is put forward makes nobody overdue.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

import anyio

from dyrygentd.core.engine import Engine
from dyrygentd.core.events import TaskLost, TaskRedelivered
from dyrygentd.core.lost_causes import fingerprint_of_lost
from dyrygentd.core.states import NodeState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.ports import Clock, Inspector
from dyrygentd.ports.facts import Inspection, TaskPlace
from dyrygentd.scheduler.doubts import BackendAway, Doubt
from dyrygentd.scheduler.whereabouts import Code, Whereabouts, whereabouts_of
from dyrygentd.witnesses import Roster, clock

logger = logging.getLogger("dyrygentd.lost")

#: Tasks looked for at one time: a few kilobytes for each place that is asked.
_ROUND_MAX: Final = 500
#: Longest time between two looks for one task, and the share of its age that is waited otherwise.
_PAUSE_MAX_S: Final = 600.0
_SHARE_OF_AGE: Final = 0.5
#: Longest time between two rounds; and how many times as long as a look took is waited after it.
_ROUND_EVERY_S: Final = 5.0
_REST: Final = 3.0
#: Workers send a heartbeat every two seconds, if nobody has told them otherwise.
_LISTEN_S: Final = 5.0
#: Nodes named in one line of the log.
_NAMED_MAX: Final = 3
#: Workers kept in mind.
_WORKERS_MAX: Final = 10_000


@dataclass(slots=True)
class _Case:
    """A task in flight: since when it is known, when it is looked for, and since when it has not been found.

    ``doubt`` says what happened to the broker while it was in flight, and ``away`` that the result backend was away then; the
    latter is forgotten as soon as the task is found somewhere, since nobody has dropped it. ``urgent_since`` is when there was a
    reason to look before the task's time, as long as no look has answered it.
    """

    since: float
    due: float
    missing_since: float | None = None
    began_at: float = 0.0
    urgent_since: float | None = None
    doubt: str = ""
    away: str = ""


class LostTasks:
    """Looks for overdue tasks. Guards: a task is told to be lost only after it was found nowhere twice.

    Args:
        after_s: How long a task is in flight before it is looked for.
        confirm_s: How long it must not be found anywhere before it is taken for lost.
        post: Takes the verdicts.
        problems: Tells what keeps the scheduler from its work; while there is anything nobody is asked.
        is_backend_away: Tells whether results cannot be received now.
        has_ended: Tells whether a worker has reported the end of a task, which is not lost then.
        is_unreported: Tells whether no worker with a companion was ever heard of.
        roster: Who answered, whoever asked.
        app: What Celery's ``-A`` takes; empty if that is not known.
    """

    def __init__(
        self,
        engine: Engine,
        inspector: Inspector,
        clock: Clock,
        *,
        after_s: float,
        confirm_s: float,
        post: Callable[[TaskLost | TaskRedelivered], None],
        problems: Callable[[], Sequence[str]],
        is_backend_away: Callable[[], bool] = lambda: False,
        has_ended: Callable[[str], bool] = lambda _: False,
        is_unreported: Callable[[], bool] = lambda: False,
        roster: Roster | None = None,
        app: str = "",
    ) -> None:
        self._engine = engine
        self._inspector = inspector
        self._clock = clock
        self._after_s = after_s
        self._confirm_s = confirm_s
        self._post = post
        self._problems = problems
        self._is_backend_away = is_backend_away
        self._away = BackendAway()
        self._has_ended = has_ended
        self._is_unreported = is_unreported
        self._roster = roster or Roster()
        self._app = app
        self._cases: dict[str, _Case] = {}
        self._answered_at: dict[str, float] = {}
        self._doubts = ""
        self._found_lost: list[tuple[RunningWorkflow, int, str]] = []
        self._awake = anyio.Event()
        self._looks = 0
        self._look_s = 0.0
        self._findings = dict.fromkeys(get_args(Code), 0)

    def __repr__(self) -> str:
        return f"<LostTasks in flight={len(self._cases)} missing={self._missing_count}>"

    def doubt_all(self, reason: str) -> None:
        """Look for everything that is in flight at once; ``reason`` is told with what is not found."""
        self._doubts = f"{reason} at {clock(self._clock.now())}"
        self._awake.set()

    def doubt_of(self, task_id: str) -> Doubt:
        """Return what happened to broker and result backend while a task was in flight, and when it can be found lost."""
        case = self._cases.get(task_id)
        if case is None:
            return Doubt(confirmed_in_s=self._after_s + self._confirm_s)
        return Doubt(case.doubt, case.away, self._confirmed_in_s(case))

    def _confirmed_in_s(self, case: _Case) -> float:
        now = anyio.current_time()
        first_look = max(case.due, now) if case.missing_since is None else case.missing_since
        return max(0.0, first_look + self._confirm_s - now)

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot: rounds, what was found in them, and how many tasks are missing at the moment."""
        return {"looks": self._looks, "missing": self._missing_count, "findings": dict(self._findings)}

    @property
    def _missing_count(self) -> int:
        return sum(case.missing_since is not None for case in self._cases.values())

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        pause_s = self._round_every_s
        while True:
            with anyio.move_on_after(pause_s):
                await self._awake.wait()
            self._awake = anyio.Event()
            self._look_s = 0.0
            self._away.note(self._clock.now(), is_away=self._is_backend_away())
            if not self._problems() and not self._engine.draining:
                await self.look()
            pause_s = max(self._round_every_s, _REST * self._look_s)

    @property
    def _round_every_s(self) -> float:
        return max(0.01, min(_ROUND_EVERY_S, self._after_s / 4, self._confirm_s / 4))

    async def look(self) -> None:
        """Look for those that are due, and tell which are lost."""
        now = anyio.current_time()
        in_flight = self._take_stock(now)
        due = sorted(
            (case.due, task_id)
            for task_id, case in self._cases.items()
            if case.due <= now and _is_dispatched(*in_flight[task_id])
        )[:_ROUND_MAX]
        places = {task_id: sought(*in_flight[task_id]) for _, task_id in due}
        if not places:
            return
        heard: frozenset[str] | None = frozenset()
        if any(self._is_second_look(task_id, now) for task_id in places):
            heard = await self._inspector.heard(listen_s=min(_LISTEN_S, self._confirm_s))
        begun = anyio.current_time()
        inspection = await self._inspector.trace(list(places.values()))
        self._look_s = anyio.current_time() - begun
        self._looks += 1
        silent = self._silent(inspection, heard, anyio.current_time())
        inspection = replace(self._roster.seen(inspection, self._clock.now()), heard=heard)
        for task_id in places:
            self._judge(task_id, inspection, silent, *in_flight[task_id])
        self._log_lost()

    def _take_stock(self, now: float) -> dict[str, tuple[RunningWorkflow, int]]:
        """Take note of what is in flight, forget what is not, and return it.

        What is on its way to the broker, perhaps with its answer in the inbox, is looked for later; a doubt is about it as well.
        """
        in_flight = {task_id: (workflow, node) for task_id, workflow, node in self._engine.flights.in_flight()}
        first_due = now + self._after_s
        suspected = frozenset(self._engine.flights.deliveries.take_suspected())
        self._cases = {task_id: self._cases.get(task_id) or _Case(now, first_due) for task_id in in_flight}
        for task_id in suspected & self._cases.keys():
            self._cases[task_id].due = self._cases[task_id].urgent_since = now
        if self._doubts:
            if in_flight:
                logger.warning("%s: looking for all %d tasks in flight", self._doubts, len(in_flight))
            else:
                logger.warning("%s; nothing was in flight", self._doubts)
            for case in self._cases.values():
                case.due, case.urgent_since, case.doubt = now, now, self._doubts
            self._doubts = ""
        if away := self._away.take():
            for task_id, (workflow, node) in in_flight.items():
                if _is_dispatched(workflow, node) and workflow.attempts.dispatched_at[node] <= self._away.until:
                    self._cases[task_id].away = away
        return in_flight

    def _is_second_look(self, task_id: str, now: float) -> bool:
        missing_since = self._cases[task_id].missing_since
        return missing_since is not None and now - missing_since >= self._confirm_s

    def _silent(self, inspection: Inspection, heard: frozenset[str] | None, now: float) -> str:
        """Return who may be away for a moment only; empty if there is nobody. The others are told by `dyrygentd.witnesses`."""
        answered = frozenset(inspection.workers or ())
        if heard is None:
            return "the workers' heartbeats could not be listened to"
        self._answered_at |= dict.fromkeys(answered, now)
        self._answered_at = {
            worker: at for worker, at in self._answered_at.items() if now - at < self._confirm_s or worker in answered
        }
        while len(self._answered_at) > _WORKERS_MAX:
            del self._answered_at[next(iter(self._answered_at))]
        vanished = sorted(self._answered_at.keys() - answered)
        return f"{_named(vanished)} was there a moment ago" if vanished else ""

    def _judge(self, task_id: str, inspection: Inspection, silent: str, workflow: RunningWorkflow, node: int) -> None:
        case, now = self._cases[task_id], anyio.current_time()
        whereabouts = whereabouts_of(
            inspection,
            task_id,
            now=self._clock.now(),
            has_ended=self._has_ended(task_id),
            is_unreported=self._is_unreported(),
            dispatched_at=workflow.attempts.dispatched_at[node],
            setback=case.doubt,
            away=case.away,
            app=self._app,
        )
        self._note_redelivery(task_id, case, inspection, whereabouts)
        code: Code = "unknown" if whereabouts.code == "lost" and silent else whereabouts.code
        self._findings[code] += 1
        if whereabouts.code not in ("lost", "unknown"):
            case.away, case.urgent_since = "", None
        age_s = now - case.since
        case.due = now + min(_PAUSE_MAX_S, max(self._after_s, _SHARE_OF_AGE * age_s))
        if code == "unknown" and case.missing_since is not None:
            # It was missing, and somebody who may have it is silent: that may be cleared up soon.
            case.due = now + self._confirm_s
        elif code == "unknown" and case.urgent_since is not None:
            # Whoever was silent may have been busy for a moment only; the longer that lasts, the less often we ask.
            case.due = min(case.due, now + max(self._confirm_s, _SHARE_OF_AGE * (now - case.urgent_since)))
        elif code != "lost":
            case.missing_since = None
        elif case.missing_since is None:
            case.missing_since = now
            case.due = now + self._confirm_s
        elif now - case.missing_since >= self._confirm_s:
            missing_s = now - case.missing_since
            self._found_lost.append((workflow, node, whereabouts.text))
            self._post(TaskLost(task_id, _story(whereabouts, missing_s)))
        else:
            case.due = case.missing_since + self._confirm_s

    def _log_lost(self) -> None:
        """Log what was found lost in a round: one line for each workflow and kind, however many tasks there are."""
        groups: dict[tuple[str, str], list[tuple[RunningWorkflow, int, str]]] = {}
        for workflow, node, text in self._found_lost:
            groups.setdefault((workflow.workflow_id, fingerprint_of_lost(text)), []).append((workflow, node, text))
        self._found_lost.clear()
        for (workflow_id, _), found in groups.items():
            workflow, node, text = found[0]
            names = ", ".join(f"'{workflow.graph.names[each]}'" for _, each, _ in found[:_NAMED_MAX])
            more = f" and {len(found) - _NAMED_MAX} more" if len(found) > _NAMED_MAX else ""
            what = f"task {workflow.attempts.task_id_of(node)} is" if len(found) == 1 else f"{len(found)} tasks are"
            logger.warning("%s lost, of %s%s in workflow %s: %s", what, names, more, workflow_id, text)

    def _note_redelivery(self, task_id: str, case: _Case, inspection: Inspection, whereabouts: Whereabouts) -> None:
        """Tell of a message that was given out once more; each beginning counts once, whoever had it before."""
        task = inspection.tasks.get(task_id)
        if task is None or task.worker_state != "active" or not (task.is_redelivered or task.also_at):
            return
        began_at = max([task.started_at or 0.0, *task.also_at.values()])
        if began_at > case.began_at:
            case.began_at = began_at
            self._post(TaskRedelivered(task_id, whereabouts.text))


def _is_dispatched(workflow: RunningWorkflow, node: int) -> bool:
    return workflow.state_of(node) is NodeState.DISPATCHED


def sought(workflow: RunningWorkflow, node: int) -> TaskPlace:
    """Return what to look for of a node that is in flight."""
    signature = workflow.graph.signatures[node]
    assert signature is not None
    return TaskPlace(
        workflow.attempts.task_id_of(node), workflow.attempts.of(node), signature, workflow.attempts.destination_of(node)
    )


def _story(whereabouts: Whereabouts, missing_s: float) -> str:
    """Say what is kept of a task that was lost: where it is not, and how that can be read."""
    return f"its task is lost: {whereabouts.text.removeprefix('nobody has it: it is ')} (found nowhere for {missing_s:.0f} s)"


def _named(workers: Iterable[str]) -> str:
    return ", ".join(list(workers)[:3])


def empty_statistics() -> dict[str, Any]:
    """Return the statistics of a scheduler that cannot look for tasks."""
    return {"looks": 0, "missing": 0, "findings": dict.fromkeys(get_args(Code), 0)}
