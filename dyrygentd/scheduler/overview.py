"""What is wrong, and what waits for a person, in all workflows: the first question at three in the morning.

*What it costs* does not grow with what workflows have: one look at each that has not finished, in steps; one question to the
broker and the workers about the few tasks that have been in flight longest, whoever asks at that moment; and a few rows of the
store. While broker or backend are known to be away nobody is asked.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import anyio

from dyrygentd import wire
from dyrygentd.advice import step_after
from dyrygentd.commands import command_on
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.overview import Loop, Survey, Waiting, survey_in_steps
from dyrygentd.core.pools import QUEUE_PREFIX
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.states import IN_FLIGHT
from dyrygentd.core.words import counted, span
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import OutsideError
from dyrygentd.ports import Clock, Store
from dyrygentd.ports.facts import BROKER_SILENT, Inspection, Selection, TaskFacts
from dyrygentd.scheduler.doubts import suspicion_of
from dyrygentd.scheduler.explanations import Sources
from dyrygentd.scheduler.lost import sought
from dyrygentd.scheduler.redaction import without_secrets
from dyrygentd.scheduler.sight import Sight
from dyrygentd.scheduler.taking_turns import in_steps
from dyrygentd.scheduler.whereabouts import FRESH_S, LOOKED_FOR_MAX, REDELIVERIES_MANY, Whereabouts, whereabouts_of

#: A task that runs for so long is told.
_RUNNING_LONG_S: Final = 3600.0
#: What "lately" means for failures.
_LATELY_S: Final = 86_400.0
_STUCK: Final = frozenset({"no-consumer", "orphaned", "lost"})
_NO_TASK: Final = TaskFacts("")
_NEXT: Final = {
    "disk": ["see that the database can be reached, has room and can be written: it goes on by itself"],
    "broker": ["see that the broker runs and can be reached: it goes on by itself"],
    "backend": [
        "see that the result backend runs: it goes on by itself; until then workers cannot store results, and may drop tasks",
        'dyrygentctl pause --state running --why "the result backend is down" --yes',
    ],
    "daemon": [],
    "unasked": [],
}
#: As the servers are called in what is to be done about them.
_SERVERS: Final = {"broker": "the broker", "backend": "the result backend"}


@dataclass(frozen=True, slots=True)
class _Stuck:
    """Tasks in flight about which the same is to be said."""

    whereabouts: Whereabouts
    workflow: RunningWorkflow
    node: int
    count: int
    code: str = ""


class Overviews:
    """Answers what is wrong, and what waits for a person.

    Args:
        around: What there is to ask beside the engine.
        troubles: Tells what keeps the scheduler from its work.
        notices: Tells what else people should know.
    """

    def __init__(
        self,
        sight: Sight,
        *,
        store: Store,
        clock: Clock,
        around: Sources,
        troubles: Callable[[], Sequence[tuple[str, str]]],
        notices: Callable[[], Sequence[str]],
        young_s: float,
        queued_long_s: float,
    ) -> None:
        self._sight = sight
        self._young_s = young_s
        self._queued_long_s = queued_long_s
        self._store = store
        self._clock = clock
        self._around = around
        self._troubles = troubles
        self._notices = notices
        self._asking = anyio.Lock()
        self._asked_at = -FRESH_S
        self._inspection = Inspection()
        self._asked_for: list[tuple[RunningWorkflow, int]] = []

    def __repr__(self) -> str:
        return f"<Overviews asked_for={len(self._asked_for)}>"

    async def overview(self, *, most: int) -> wire.Overview:
        """Return it, with at most so many items of a kind."""
        await self._sight.look_at_all()
        engine, now = self._sight.engine, self._clock.now()
        survey = await in_steps(survey_in_steps(engine, most=most, oldest_max=LOOKED_FOR_MAX))
        troubles = list(self._troubles())
        items = [_problem(where, words) for where, words in troubles]
        items += [wire.OverviewItem("notice", "daemon", words) for words in self._notices()]
        if engine.draining:
            items.insert(0, wire.OverviewItem("problem", "daemon", "the daemon is stopping and dispatches nothing more"))
        left_out: dict[str, int] = {}
        items += await self._people(survey, left_out, most=most, now=now)
        stuck, unasked = await self._stuck(survey, is_quiet=bool(troubles), now=now)
        items += stuck[:most]
        _note_left_out(left_out, "stuck", len(stuck) - most)
        items += [_loop_item(loop, now) for loop in survey.loops]
        _note_left_out(left_out, f"failed {KEEPS_FAILING}", survey.loops_count - len(survey.loops))
        try:
            items += await self._failures(survey, left_out, most=most, now=now)
        except OutsideError as error:
            unasked.append(f"failures cannot be looked for: {error.message}")
        busy = self._busy(survey)
        items += busy[:most]
        _note_left_out(left_out, "busy", len(busy) - most)
        items += [_problem("broker" if words.startswith(BROKER_SILENT) else "unasked", words) for words in unasked]
        for item in items:
            item.root_name = self._name_of_root(item.workflow)
        problems = [*(words for _, words in troubles), *unasked]
        status = "problem" if problems or engine.draining else "attention" if any(map(_is_work, items)) else "ok"
        return wire.Overview(
            status=status,
            verdict=_verdict(items, survey, left_out, workflows=len(engine.workflows), in_flight=engine.flights.in_flight_count),
            at=now,
            workflows=len(engine.workflows),
            in_flight=engine.flights.in_flight_count,
            items=sorted(items, key=lambda item: _KINDS.index(item.kind)),
            left_out=left_out,
            problems=problems,
        )

    def _name_of_root(self, workflow_id: str) -> str:
        """Return the name of the uppermost workflow above one, empty if there is none: nobody has given names to children."""
        workflow = self._sight.live(workflow_id)
        parent = None if workflow is None else workflow.origin.parent
        root = None if parent is None else self._sight.live(parent.root_id)
        return "" if root is None else root.name

    # --- what waits for a person ------------------------------------------------------------------------------------

    async def _people(self, survey: Survey, left_out: dict[str, int], *, most: int, now: float) -> list[wire.OverviewItem]:
        items = []
        for reason, waiting in survey.waiting.items():
            for each in waiting:
                entry = await self._last_entry(each.workflow_id, _ENTRIES[reason]) if reason in _ENTRIES else None
                items.append(_waiting_item(each, entry, now))
            _note_left_out(left_out, f"person {_CODES[reason]}", survey.waiting_count[reason] - len(waiting))
        for workflow_id, name in survey.paused:
            by = await self._last_entry(workflow_id, "pause")
            who = "" if by is None else f" by {by.by} {span(now - by.at)} ago{f': {by.why}' if by.why else ''}"
            resume = f"dyrygentctl resume {workflow_id}"
            since = None if by is None else by.at
            text = f"is paused{who}"
            items.append(wire.OverviewItem("person", "paused", text, workflow_id, name, since=since, next_steps=[resume]))
        _note_left_out(left_out, "person paused", survey.paused_count - len(survey.paused))
        return sorted(items, key=lambda item: _PEOPLE.index(item.code))

    async def _last_entry(self, workflow_id: str, verb: str) -> JournalEntry | None:
        with suppress(OutsideError):
            # Not the whole journal: there may be hundreds of workflows, each with thousands of names in it.
            return await self._store.last_entry(workflow_id, verb)
        return None

    # --- what is stuck ----------------------------------------------------------------------------------------------

    async def _stuck(self, survey: Survey, *, is_quiet: bool, now: float) -> tuple[list[wire.OverviewItem], list[str]]:
        """Return what is in flight and does not go on, and what could not be asked; nobody is asked while all is quiet."""
        if self._around.inspector is None or is_quiet:
            return [], []
        oldest = [(flow, node) for flow, node in survey.oldest if now - flow.attempts.dispatched_at[node] >= self._young_s]
        if not oldest:
            return [], []
        looked_for, inspection = await self._inspect(oldest)
        groups: dict[tuple[str, str, str], _Stuck] = {}
        for workflow, node in looked_for:
            whereabouts = self._whereabouts(workflow, node, inspection)
            again = workflow.attempts.redelivered.get(node, 0)
            task = inspection.tasks.get(workflow.attempts.task_id_of(node), _NO_TASK)
            if whereabouts is not None and whereabouts.code not in _STUCK and (again >= REDELIVERIES_MANY or task.also_at):
                words = f"the broker has given it out again {again:,} times: " if again > 1 else ""
                told = replace(whereabouts, text=f"{words}{whereabouts.text}")
                groups["redelivered", "", task.task_id] = _Stuck(told, workflow, node, 1, "redelivered")
                continue
            if whereabouts is None or not _is_stuck(
                whereabouts.code, now - workflow.attempts.dispatched_at[node], queued_long_s=self._queued_long_s
            ):
                continue
            queue = inspection.tasks[workflow.attempts.task_id_of(node)].queue
            # What waits in one queue waits for one thing, whoever wants it; what was lost is each workflow's own affair.
            key = (whereabouts.code, queue, "" if whereabouts.code in ("no-consumer", "queued") else workflow.workflow_id)
            known = groups.get(key)
            first = _Stuck(whereabouts, workflow, node, 0) if known is None else known
            groups[key] = replace(first, count=first.count + 1)
        found = sorted(groups.values(), key=lambda each: each.whereabouts.code not in _STUCK)
        return [_stuck_item(each, now, is_all=len(looked_for) < LOOKED_FOR_MAX) for each in found], [*inspection.problems]

    async def _inspect(self, oldest: list[tuple[RunningWorkflow, int]]) -> tuple[list[tuple[RunningWorkflow, int]], Inspection]:
        """Ask the world outside, or take the answer that somebody else has just got."""
        assert self._around.inspector is not None
        async with self._asking:
            if anyio.current_time() - self._asked_at >= FRESH_S:
                inspection = await self._around.inspector.trace([sought(workflow, node) for workflow, node in oldest])
                self._inspection = without_secrets(self._around.roster.seen(inspection, self._clock.now()), self._around.redact)
                self._asked_for, self._asked_at = oldest, anyio.current_time()
            return self._asked_for, self._inspection

    def _whereabouts(self, workflow: RunningWorkflow, node: int, inspection: Inspection) -> Whereabouts | None:
        task_id, reports = workflow.attempts.task_id_of(node), self._around.reports
        doubt = self._around.doubt_of(task_id)
        if task_id not in inspection.tasks or workflow.state_of(node) not in IN_FLIGHT:
            return None
        found = whereabouts_of(
            inspection,
            task_id,
            now=self._clock.now(),
            retry_command=command_on("retry", workflow.workflow_id, [workflow.graph.names[node]], force=True),
            has_ended=reports is not None and reports.has_ended(task_id),
            is_unreported=reports is not None and not reports.statistics().is_heard,
            dispatched_at=workflow.attempts.dispatched_at[node],
            setback=doubt.broker,
            away=doubt.results,
            app=self._around.app,
            tries=self._sight.engine.flights.deliveries.tries(task_id),
            again=workflow.attempts.redelivered.get(node, 0),
        )
        return replace(found, text=found.text + suspicion_of(doubt)) if found.code == "lost" else found

    # --- what has failed, and what is full --------------------------------------------------------------------------

    async def _failures(self, survey: Survey, left_out: dict[str, int], *, most: int, now: float) -> list[wire.OverviewItem]:
        items = [
            wire.OverviewItem(
                "failed",
                "failing",
                f"goes on, and {counted(count, 'node')} failed",
                workflow_id,
                name,
                count=count,
                next_steps=[f"dyrygentctl explain {workflow_id}"],
            )
            for workflow_id, name, count in survey.failing
        ]
        _note_left_out(left_out, "failed failing", survey.failing_count - len(survey.failing))
        # One more, to tell whether there are more; all that failed in a day may be many, and are not counted.
        selection = Selection(states=frozenset({"failed"}), ended_since=now - _LATELY_S, by_end=True, limit=most + 1)
        rows = [row.record for row in await self._store.list(selection)]
        for record in rows[:most]:
            ended = record.finished_at or now
            items.append(
                wire.OverviewItem(
                    "failed",
                    "failed",
                    f"has failed {span(now - ended)} ago{f': {record.error}' if record.error else ''}",
                    record.workflow_id,
                    record.name,
                    count=(record.counts or {}).get("failed", 0),
                    since=ended,
                    next_steps=[f"dyrygentctl explain {record.workflow_id}"],
                )
            )
        _note_left_out(left_out, "failed failed", len(rows) - most)
        return items

    def _busy(self, survey: Survey) -> list[wire.OverviewItem]:
        engine = self._sight.engine
        items = []
        if survey.ready_count and engine.flights.in_flight_count >= engine.limits.in_flight_max:
            bound = f"{engine.limits.in_flight_max:,} tasks are in flight, as many as `in_flight_max` allows"
            text = f"{bound}: {_wait(survey.ready_count)} for a place"
            items.append(_busy_item("in-flight", text, survey.ready_count, survey.first_ready))
        for pool in sorted(engine.pools.views(), key=lambda pool: -pool.waiting):
            if pool.waiting and pool.used >= pool.size:
                text = f"{_places(pool.name, pool.size)} taken: {_wait(pool.waiting)}"
                first = engine.pools.first_in_line(pool.name)
                items.append(_busy_item("pool", text, pool.waiting, engine.workflows.get(first[0]) if first else None))
        return items


_KINDS: Final = ("problem", "notice", "person", "stuck", "failed", "busy")
_CODES: Final = {HoldReason.LOST: "lost", HoldReason.GATE: "gate", HoldReason.OPERATOR: "hold"}
#: The verb of the entry in the journal that tells who holds nodes, or when the daemon took them for lost.
_ENTRIES: Final = {HoldReason.OPERATOR: "hold", HoldReason.LOST: "lost"}
_PEOPLE: Final = ("lost", "gate", "hold", "paused")
#: What has failed several times in a row and is tried again.
KEEPS_FAILING: Final = "keeps-failing"


def _wait(count: int) -> str:
    return f"{counted(count, 'node')} {'waits' if count == 1 else 'wait'}"


def _places(pool: str, size: int) -> str:
    """Name the places of a pool, or of what a queue may have in flight, as the subject of "taken"."""
    what = f"of pool '{pool}'"
    if pool.startswith(QUEUE_PREFIX):
        what = f"in the limit of queue '{pool.removeprefix(QUEUE_PREFIX)}'"
    return f"the one place {what} is" if size == 1 else f"all {size:,} places {what} are"


def _busy_item(code: str, text: str, count: int, waiting: RunningWorkflow | None) -> wire.OverviewItem:
    """Say what is full, and lead to a workflow that waits for it: who has the places is told to whoever waits for one."""
    if waiting is None:
        return wire.OverviewItem("busy", code, text, count=count)
    steps = [f"dyrygentctl explain {waiting.workflow_id}"]
    return wire.OverviewItem("busy", code, text, waiting.workflow_id, waiting.name, count=count, next_steps=steps)


def _note_left_out(left_out: dict[str, int], kind: str, count: int) -> None:
    if count > 0:
        left_out[kind] = count


def _is_work(item: wire.OverviewItem) -> bool:
    """Tell whether somebody may have to do something."""
    return item.kind in ("person", "stuck", "failed")


def _problem(where: str, words: str) -> wire.OverviewItem:
    """Say what keeps the daemon from its work, and what to do about it."""
    steps = list(_NEXT[where])
    if where in _SERVERS:
        steps[0] = step_after(words, _SERVERS[where], "it goes on by itself") or steps[0]
    return wire.OverviewItem("problem", where, words, next_steps=steps)


def _waiting_item(each: Waiting, entry: JournalEntry | None, now: float) -> wire.OverviewItem:
    """Say what waits for a person.

    Args:
        entry: What the journal has of it: who holds it, or when it was lost.
    """
    is_one = each.count == 1
    nodes = f"'{each.nodes[0]}'" if is_one else counted(each.count, "node")
    release = command_on("release", each.workflow_id, each.nodes)
    explain = f"dyrygentctl explain {each.workflow_id}"
    # When a task was lost is known from the journal alone.
    since = entry.at if entry is not None else None if each.reason is HoldReason.LOST else each.since
    ago = "" if since is None else span(now - since)
    steps = [release if each.count == len(each.nodes) else explain]
    match each.reason:
        case HoldReason.LOST:
            text = f"{nodes} {'was' if is_one else 'were'} lost{ago and f' {ago} ago'}"
            steps = [explain, f"dyrygentctl retry {each.workflow_id} --lost"]
            if each.ends_again:
                # Another attempt would end in the same way.
                skip = command_on("skip", each.workflow_id, each.nodes)
                steps = [explain, skip] if each.count == len(each.nodes) else [explain]
        case HoldReason.GATE:
            text = f"{nodes} {'is a gate and waits' if is_one else 'are gates and wait'} for {ago}"
        case _:
            who, why = ("an operator", "") if entry is None else (entry.by, entry.why)
            text = f"{nodes} {'is' if is_one else 'are'} held by {who} for {ago}{why and f': {why}'}"
    about = (each.workflow_id, each.name, list(each.nodes), each.count, since)
    return wire.OverviewItem("person", _CODES[each.reason], text, *about, next_steps=steps)


def _loop_item(loop: Loop, now: float) -> wire.OverviewItem:
    """Say what is tried again and again, and will be if nobody does anything."""
    tried, (workflow_id, name) = loop.tried, (loop.workflow_id, loop.name)
    if tried.count == 1:
        steps = [command_on(verb, workflow_id, tried.nodes) for verb in ("explain", "skip")]
    else:
        steps = [f"dyrygentctl show {workflow_id} --causes"]
    about = (workflow_id, name, list(tried.nodes), tried.count)
    return wire.OverviewItem("failed", KEEPS_FAILING, tried.words(now), *about, next_steps=steps)


def _is_stuck(code: str, age_s: float, *, queued_long_s: float) -> bool:
    """Tell whether a task in flight is told of, by where it is and how long ago it was sent."""
    return code in _STUCK or age_s >= (_RUNNING_LONG_S if code == "running" else queued_long_s)


def _stuck_item(each: _Stuck, now: float, *, is_all: bool) -> wire.OverviewItem:
    workflow, name = each.workflow, each.workflow.graph.names[each.node]
    since = workflow.attempts.dispatched_at[each.node]
    more = "" if each.count == 1 else f" ({'' if is_all else 'at least '}{each.count - 1:,} more like it)"
    text = f"'{name}'{more} was sent {span(now - since)} ago: {each.whereabouts.text}"
    steps = [each.whereabouts.next_step] if each.whereabouts.next_step else []
    if each.count > 1 or not steps:
        steps.append(f"dyrygentctl explain {workflow.workflow_id}")
    about = (workflow.workflow_id, workflow.name, [name], each.count, since)
    return wire.OverviewItem("stuck", each.code or each.whereabouts.code, text, *about, next_steps=steps)


def _verdict(
    items: Sequence[wire.OverviewItem], survey: Survey, left_out: dict[str, int], *, workflows: int, in_flight: int
) -> str:
    """Say all of it in one sentence, what is broken first."""
    problems = [item.text.rstrip(".") for item in items if item.kind == "problem"]
    people = {item.workflow for item in items if item.kind == "person"}
    more = sum(count for kind, count in left_out.items() if kind.startswith("person "))
    waiting = len(people) + more
    stuck = sum(item.count for item in items if item.kind == "stuck" and item.code in _STUCK)
    again = sum(item.code == "redelivered" for item in items)
    failed = sum(item.code == "failed" for item in items)
    parts = [problems[0]] if problems else []
    if len(problems) > 1:
        parts[0] += f" (and {counted(len(problems) - 1, 'more problem')})"
    if waiting:
        parts.append(f"{counted(waiting, 'workflow')} {'waits' if waiting == 1 else 'wait'} for a person")
    if stuck:
        # No more than these were looked for, however many of them are stuck.
        least = "at least " if len(survey.oldest) >= LOOKED_FOR_MAX or "stuck" in left_out else ""
        parts.append(f"{least}{counted(stuck, 'task')} {'is' if stuck == 1 else 'are'} stuck")
    if again:
        parts.append(f"the broker has given out {counted(again, 'task')} more than once")
    if survey.looping:
        parts.append(f"{counted(survey.looping, 'node')} {'keeps' if survey.looping == 1 else 'keep'} failing")
    if failed:
        many = " or more" if "failed failed" in left_out else ""
        parts.append(f"{counted(failed, 'workflow')}{many} failed in the last 24 h")
    if not parts:
        parts = ["nothing is wrong" if all(item.kind == "busy" for item in items) else "nothing is broken"]
    scheduled = f", {survey.scheduled_count:,} of them later" if survey.scheduled_count else ""
    return f"{'; '.join(parts)} ({counted(workflows, 'workflow')} under way{scheduled}, {counted(in_flight, 'task')} in flight)"
