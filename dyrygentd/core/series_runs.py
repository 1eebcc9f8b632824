"""Which runs of a series go on, which one waits, and what a new one does about that.

Theory of operation
===================
*The idea.* All runs that have not finished are in memory, so what `if_running` asks is answered in the turn that takes the
submission in, and saved in its transaction: two submissions at once come one after the other, whichever gateways had them.

*Going* is every run that has not finished and does not wait for another one: also one that is paused, or whose start time is
ahead. *Waiting* is a run that was submitted with ``queue_one`` while one was going: its state is `scheduled`, and `Start.behind`
names whom it waits for. One waits at most; a newer one takes its place, and the older one is cancelled and says why.

*It begins* in the turn in which the last one that was going ends, however that ends, and after a restart if none is left: a
workflow that could not be rebuilt has ended without a turn.

*Verbs* are what a person decides, so nobody asks the series then: `retry` of a run that had ended, `release` of one that waits,
go on beside others, count as going from then on, and the journal says so.

*A skipped submission* leaves nothing but an entry in the journal of the run that goes on. Its key stays free, so that the same
can be submitted later on purpose, such as by a backfill.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dyrygentd.core import steering
from dyrygentd.core.decisions import DAEMON, Decision, Decisions
from dyrygentd.core.effects import RevokeStamped
from dyrygentd.core.events import WorkflowSubmitted
from dyrygentd.core.flights import Flights
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.series import Admission, IfRunning, SeriesWord
from dyrygentd.core.turn import Turn
from dyrygentd.core.user import User
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken

#: Whose, and its name.
_Key = tuple[User | None, str]


@dataclass(slots=True)
class SeriesCounters:
    """How submissions of a series were decided, since the start.

    Attributes:
        ended: Runs that were cancelled for a newer one.
    """

    began: int = 0
    queued: int = 0
    skipped: int = 0
    ended: int = 0


class SeriesRuns:
    """The unfinished runs of all series. Guards: of each one waits at most, and only while another one goes on.

    Args:
        timers: Sets the timers of a workflow that begins.

    Attributes:
        counters: What was decided.
    """

    def __init__(self, turn: Turn, flights: Flights, *, decisions: Decisions, timers: Callable[[RunningWorkflow], None]) -> None:
        self.counters = SeriesCounters()
        self._turn = turn
        self._flights = flights
        self._decisions = decisions
        self._set_timers = timers
        self._runs: dict[_Key, dict[str, RunningWorkflow]] = {}
        #: Those of which a run may have ended, or one that waits has come, since the last look.
        self._due: set[_Key] = set()

    def __repr__(self) -> str:
        return f"<SeriesRuns series={len(self._runs)} due={len(self._due)}>"

    @property
    def is_due(self) -> bool:
        """Whether a run may have to begin."""
        return bool(self._due)

    # --- a submission -----------------------------------------------------------------------------------------------

    def skips(self, event: WorkflowSubmitted, now: float) -> bool:
        """Decide whether a submission is skipped; if so that is noted, and nothing comes of it."""
        series = event.series
        if series is None or series.if_running is not IfRunning.SKIP:
            return False
        going = next(iter(self._going((event.owner, series.name))), None)
        if going is None:
            return False
        self.counters.skipped += 1
        skipped = Admission(SeriesWord.SKIPPED, going.workflow_id, owner=event.owner, key=event.key)
        self._turn.batch.admissions[event.workflow_id] = skipped
        with_key = "" if event.key is None else f" with key '{event.key}'"
        why = f"a submission{with_key} for series '{series.name}' came while this run goes on"
        self._decisions.note(going.workflow_id, Decision.SKIPPED, "", now, why=why)
        self._turn.touch(going)
        return True

    def admit(self, workflow: RunningWorkflow, now: float) -> None:
        """Decide what a new run does; it has not begun, and is not among the others yet."""
        series = workflow.origin.series
        if series is None:
            return
        key, going, ended = (workflow.origin.owner, series.name), "", list[str]()
        older = self._open(key)
        running = [each for each in older if not each.start.behind]
        if series.if_running is IfRunning.CANCEL_OLD:
            ended = self._cancel(older, f"run {workflow.workflow_id} of its series '{series.name}' was to take its place", now)
        elif series.if_running is IfRunning.QUEUE_ONE and running:
            going = running[0].workflow_id
            replaced = [each for each in older if each.start.behind]
            ended = self._cancel(replaced, f"run {workflow.workflow_id} of its series '{series.name}' waits in its place", now)
            _wait_for(workflow, going)
        word = SeriesWord.QUEUED if going else SeriesWord.BEGAN
        self.counters.queued += bool(going)
        self.counters.began += not going
        self._turn.batch.admissions[workflow.workflow_id] = Admission(word, going, tuple(ended))

    def _cancel(self, older: Iterable[RunningWorkflow], why: str, now: float) -> list[str]:
        """Cancel runs as `cancel` does; return them."""
        ended = []
        for workflow in older:
            try:
                count = workflow.nodes.unfinished
                in_flight = steering.cancel(workflow, now)
                workflow.error = why
                self._flights.give_up(workflow, in_flight, now, terminate=False)
            except Exception as error:
                # A bug that it met must not keep the new one from beginning.
                self._flights.set_aside(workflow, error, now)
            else:
                if in_flight:
                    self._turn.batch.revoke_stamped.append(RevokeStamped(workflow.stamp))
                entry = JournalEntry(workflow.workflow_id, now, "cancel", DAEMON, why, count=count)
                self._turn.batch.journal.append(entry)
            self.counters.ended += 1
            self._turn.touch(workflow)
            ended.append(workflow.workflow_id)
        return ended

    # --- runs come and go -------------------------------------------------------------------------------------------

    def join(self, workflow: RunningWorkflow) -> None:
        """Take a run in that is unfinished."""
        key = _key_of(workflow)
        if key is not None:
            self._runs.setdefault(key, {})[workflow.workflow_id] = workflow
            if workflow.start.behind:
                self._due.add(key)

    def leave(self, workflow: RunningWorkflow) -> None:
        """Let a run go that has finished."""
        key = _key_of(workflow)
        runs = None if key is None else self._runs.get(key)
        if key is None or runs is None or runs.pop(workflow.workflow_id, None) is None:
            return
        if runs:
            self._due.add(key)
        else:
            del self._runs[key]

    def came_back(self, workflow: RunningWorkflow, now: float) -> None:
        """Note in the journal of a run that somebody set going again if another one goes on."""
        key = _key_of(workflow)
        others = [] if key is None else [each for each in self._going(key) if each is not workflow]
        if others:
            why = f"run {others[0].workflow_id} of its series goes on, too"
            self._decisions.note(workflow.workflow_id, Decision.BESIDE, "", now, why=why)

    def go_on(self, now: float) -> None:
        """Let those begin that waited for what has ended in this turn."""
        if not self._runs:
            self._due.clear()
            return
        ended = (_key_of(each) for each in self._turn.touched.values() if each.state.is_finished)
        due = self._due | {key for key in ended if key is not None}
        self._due = set()
        for key in sorted(due, key=lambda each: (each[1], str(each[0]))):
            self._begin_next(key, now)

    def _begin_next(self, key: _Key, now: float) -> None:
        older = self._open(key)
        running = [each for each in older if not each.start.behind]
        for workflow in older:
            if not workflow.start.behind:
                continue
            if not running:
                _begin(workflow, now)
                self._set_timers(workflow)
                self._turn.touch(workflow)
                running.append(workflow)
            elif all(each.workflow_id != workflow.start.behind for each in running):
                _wait_for(workflow, running[0].workflow_id)
                self._turn.touch(workflow)

    # --- what is there ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `InvariantBroken` if a run waits for nobody. For tests."""
        for key, runs in self._runs.items():
            # What has finished in this turn is there until the batch is taken.
            is_waiting = [each for each in runs.values() if each.start.behind and not each.state.is_finished]
            if is_waiting and len(is_waiting) == len(runs) and key not in self._due:
                raise InvariantBroken(f"{is_waiting} wait for nobody of series '{key[1]}'")

    def _open(self, key: _Key) -> list[RunningWorkflow]:
        """Return the runs that have not finished, also those that have in this turn left out."""
        return [each for each in self._runs.get(key, {}).values() if not each.state.is_finished]

    def _going(self, key: _Key) -> list[RunningWorkflow]:
        return [each for each in self._open(key) if not each.start.behind]


def _wait_for(workflow: RunningWorkflow, run: str) -> None:
    """Have a workflow begin when another run has ended; its deadline counts from then on."""
    workflow.start.behind, workflow.is_changed = run, True


def _begin(workflow: RunningWorkflow, now: float) -> None:
    """Let a workflow begin that waited, or wait for its start time."""
    workflow.start.behind = ""
    if workflow.policy.deadline_s:
        workflow.deadline_at = max(now, workflow.policy.start_at) + workflow.policy.deadline_s
    workflow.is_changed = True
    workflow.begin(now)


def _key_of(workflow: RunningWorkflow) -> _Key | None:
    series = workflow.origin.series
    return None if series is None else (workflow.origin.owner, series.name)
