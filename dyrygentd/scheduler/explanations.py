"""Why is it not running? Engine, broker, workers and backend are asked, and what each knows is put together.

The engine's own answer comes first (`dyrygentd.core.standing`). What is in flight is looked for, bounded, and its group is
divided by where its members are; others add what they know: who holds a pool, which workers know a task, whose old task still
runs, who paused or cancelled it. What keeps the whole daemon from its work goes before all of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple

from dyrygentd import wire
from dyrygentd.commands import command_on
from dyrygentd.core.for_people import gate_since
from dyrygentd.core.lost_causes import ENDED_SILENTLY
from dyrygentd.core.standing import Standing, headline, in_flight_of, standing_of_node, standings_in_steps
from dyrygentd.core.states import IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.tries import left_out
from dyrygentd.core.verbs import cause_of
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import NodeNotFound
from dyrygentd.ports import Clock, Inspector, ReportReader, Store
from dyrygentd.ports.facts import Inspection, TaskPlace
from dyrygentd.scheduler.bottoms import Bottoms
from dyrygentd.scheduler.decided import Decided
from dyrygentd.scheduler.doubts import Doubt, suspicion_of
from dyrygentd.scheduler.holders import Holders
from dyrygentd.scheduler.lost import sought
from dyrygentd.scheduler.members import node_of
from dyrygentd.scheduler.outages import Outages
from dyrygentd.scheduler.redaction import without_secrets
from dyrygentd.scheduler.sight import Sight
from dyrygentd.scheduler.skew import Skew
from dyrygentd.scheduler.still_running import StillRunning
from dyrygentd.scheduler.taking_turns import in_steps
from dyrygentd.scheduler.whereabouts import LOOKED_FOR_MAX, Whereabouts, whereabouts_of
from dyrygentd.witnesses import Roster

#: Names given as examples.
_NAMED_MAX: Final = 5
#: What is said of tasks that do not go on by themselves, in the verdict on their workflow.
_TROUBLES: Final = {
    "no-consumer": "nobody consumes queue '{queue}'",
    "orphaned": "no worker has '{node}' any more, which one had fetched",
    "lost": "'{node}' seems to be lost",
    "runs-on": "the task of '{node}' still runs",
}


class Sources(NamedTuple):
    """What there is to ask beside the engine.

    Attributes:
        problems, outages: Tell what keeps the scheduler from its work.
        doubt_of: Tells what happened to broker and result backend while a task was in flight.
        app: What Celery's ``-A`` takes; empty if that is not known.
        roster: Who answered, whoever asked.
        still_running: Finds tasks that run although their nodes have gone on.
        redact: Hides secrets in what tasks have stored.
        waits_of: Tells why the workflow of a node, by its id, cannot begin just now; empty if it can.
    """

    inspector: Inspector | None
    reports: ReportReader | None
    problems: Callable[[], Sequence[str]]
    outages: Callable[[], Outages]
    doubt_of: Callable[[str], Doubt]
    app: str
    roster: Roster
    still_running: StillRunning
    redact: Callable[[str], str]
    waits_of: Callable[[str], str] = lambda child_id: ""


class Explanations:
    """Puts together why a workflow or a node is not running."""

    def __init__(self, sight: Sight, store: Store, *, clock: Clock, around: Sources) -> None:
        self._sight = sight
        self._store = store
        self._clock = clock
        self._around = around
        self._inspector = around.inspector
        self._still_running = around.still_running
        self._bottoms = Bottoms(sight, self._explain_workflow, around.waits_of)

    async def explain(self, workflow: RunningWorkflow, node: str | None = None) -> wire.Explanation:
        """Say why a workflow, or one node, is not running, and what can be done. Raises `NodeNotFound`."""
        workflow = self._sight.engine.flights.known(workflow.workflow_id) or workflow
        if node is None:
            return await self._explain_workflow(workflow)
        number = node_of(workflow, node)
        if number is None:
            raise NodeNotFound(workflow.workflow_id, node)
        standing = standing_of_node(self._sight.engine, workflow, number, self._clock.now())
        is_late = number in self._still_running.candidates(workflow, most=len(workflow.graph))
        inspection = await self._inspect(workflow, [number] if workflow.state_of(number) in IN_FLIGHT or is_late else [])
        standing = self._found(workflow, number, standing, inspection)
        for whereabouts in self._still_running.running(workflow, [number] if is_late else [], inspection).values():
            standing = _beside(standing, whereabouts)
        [standing] = await self._filled_in(workflow, [standing])
        is_on_hold = number in workflow.on_hold
        decided = await Decided(self._store).by_whom(workflow, [standing], is_on_hold=is_on_hold)
        # What is to be sent, or was, waits for what keeps the daemon from its work; a gate or a failure does not.
        is_paused = workflow.state is WorkflowState.PAUSED and standing.code == "waiting"
        is_kept = workflow.state_of(number) in (NodeState.READY, *IN_FLIGHT)
        outages = self._around.outages().seen_by(inspection.problems) if is_kept else Outages()
        return wire.Explanation(
            id=workflow.workflow_id,
            state=workflow.state.value,
            node=workflow.graph.names[number],
            code=standing.code,
            verdict="; ".join([*outages.headlines, standing.text, *(["the workflow is paused"] if is_paused else [])]),
            next_step=outages.next_step(workflow.workflow_id) or standing.next_step,
            problems=[*self._around.problems(), *inspection.problems],
            facts=_facts(workflow, [number], inspection),
            decided=decided.of_standing(standing, is_on_hold=is_on_hold) or decided.of_workflow,
            blocked_by=None if (blamed := workflow.blocked_by.get(number)) is None else workflow.graph.names[blamed],
            is_on_hold=is_on_hold,
            attempts=wire.views_of_attempts(workflow, number) if number in workflow.attempts.earlier else [],
            attempts_left_out=left_out(workflow, number),
        )

    async def _explain_workflow(self, workflow: RunningWorkflow) -> wire.Explanation:
        now, engine = self._clock.now(), self._sight.engine
        found = await in_steps(standings_in_steps(engine, workflow, now))
        oldest = list(in_flight_of(workflow, LOOKED_FOR_MAX))
        late = self._still_running.candidates(workflow)
        inspection = await self._inspect(workflow, [*oldest, *late])
        runs_on = self._still_running.running(workflow, late, inspection)
        if runs_on:
            found = await in_steps(standings_in_steps(engine, workflow, now, frozenset(runs_on)))
        shown: list[Standing] = []
        for standing in found:
            if oldest and standing.node == workflow.graph.names[oldest[0]] and standing.code in _IN_FLIGHT_WORDS:
                shown += self._split(workflow, oldest, standing, inspection, now)
            elif (number := workflow.graph.number(standing.node)) in runs_on and number is not None:
                shown.append(_beside(standing, runs_on[number]))
            else:
                shown.append(standing)
        shown = sorted(await self._filled_in(workflow, shown), key=lambda each: not each.is_urgent)
        outages = Outages() if workflow.state.is_finished else self._around.outages().seen_by(inspection.problems)
        decided = await Decided(self._store).by_whom(workflow, shown)
        return wire.Explanation(
            id=workflow.workflow_id,
            state=workflow.state.value,
            code=workflow.state.value,
            verdict="; ".join([*outages.headlines, headline(engine, workflow, now), *_troubles(workflow, shown, inspection)]),
            next_step=outages.next_step(workflow.workflow_id) or _first_step(workflow, shown),
            standings=[_view(workflow, standing, decided.of_standing(standing)) for standing in shown],
            problems=[*self._around.problems(), *inspection.problems],
            facts=_facts(workflow, oldest, inspection),
            decided=decided.of_workflow,
        )

    async def _filled_in(self, workflow: RunningWorkflow, standings: Sequence[Standing]) -> list[Standing]:
        """Add what others than the engine and the inspection know."""
        standings = [_with_home_of_value(workflow, standing, self._around.app) for standing in standings]
        skew, holders = Skew(self._inspector, self._trace, self._around.app), Holders(self._sight.engine, self._trace)
        filled = []
        for standing in standings:
            told = await skew.told(workflow, standing)
            told = await holders.told(workflow, told, self._clock.now())
            filled.append(await self._bottoms.told(workflow, told))
        return filled

    def _split(
        self, workflow: RunningWorkflow, looked_for: Sequence[int], standing: Standing, inspection: Inspection, now: float
    ) -> Sequence[Standing]:
        """Divide the group of what is in flight by where its members were found.

        One answer for all would be that of the oldest, and hide that others are somewhere else.
        """
        names = workflow.graph.names
        state = next((state for state in IN_FLIGHT if state.word == standing.code), workflow.state_of(looked_for[0]))
        places: dict[tuple[str, str], list[Standing]] = {}
        for node in looked_for:
            if workflow.state_of(node) is state:
                each = standing_of_node(self._sight.engine, workflow, node, now)
                each = self._found(workflow, node, each, inspection)
                places.setdefault((each.code, _queue_of(workflow, names[node], inspection)), []).append(each)
        if not places:
            return []  # All of them have moved on while the workers were asked.
        if len(places) == 1:
            found = self._found(workflow, looked_for[0], standing, inspection)
            [members] = places.values()
            # All of them are known by name then, and one command can serve them all.
            is_complete = found.code in _TROUBLES and len(members) == standing.count
            return [replace(found, examples=tuple(member.node for member in members)) if is_complete else found]
        groups = [
            replace(members[0], count=len(members), examples=tuple(member.node for member in members))
            for members in places.values()
        ]
        groups.sort(key=lambda group: group.code not in _TROUBLES)
        # As many as there are now: some may have ended while the workers were asked.
        known = frozenset(looked_for)
        others = [node for node in workflow.nodes.all_in(state) if node not in known]
        if others:
            examples = tuple(names[node] for node in others[:_NAMED_MAX])
            text = f"'{examples[0]}' and others, in the broker or at a worker: only the {len(looked_for)} oldest are looked for"
            if len(others) == 1:
                text = f"'{examples[0]}' is in the broker or at a worker: only the {len(looked_for)} oldest are looked for"
            groups.append(Standing(standing.code, text, "", examples[0], count=len(others), examples=examples))
        return groups

    async def _inspect(self, workflow: RunningWorkflow, nodes: Sequence[int]) -> Inspection:
        """Ask the world outside about tasks in flight."""
        return await self._trace([sought(workflow, node) for node in nodes])

    async def _trace(self, places: Sequence[TaskPlace]) -> Inspection:
        if self._inspector is None or not places:
            return Inspection()
        inspection = self._around.roster.seen(await self._inspector.trace(places), self._clock.now())
        return without_secrets(inspection, self._around.redact)

    def _found(self, workflow: RunningWorkflow, node: int, standing: Standing, inspection: Inspection) -> Standing:
        """Put what the world outside knows of a task into what the engine says."""
        task_id = workflow.attempts.task_id_of(node)
        if task_id not in inspection.tasks or workflow.state_of(node) not in IN_FLIGHT:
            return standing
        retry = command_on("retry", workflow.workflow_id, [workflow.graph.names[node]], force=True)
        reports, doubt = self._around.reports, self._around.doubt_of(task_id)
        whereabouts = whereabouts_of(
            inspection,
            task_id,
            now=self._clock.now(),
            retry_command=retry,
            has_ended=reports is not None and reports.has_ended(task_id),
            is_unreported=reports is not None and not reports.statistics().is_heard,
            dispatched_at=workflow.attempts.dispatched_at[node],
            setback=doubt.broker,
            away=doubt.results,
            app=self._around.app,
            tries=self._sight.engine.flights.deliveries.tries(task_id),
            again=workflow.attempts.redelivered.get(node, 0),
        )
        suspicion = suspicion_of(doubt) if whereabouts.code == "lost" else ""
        return replace(
            standing,
            code=whereabouts.code,
            text=f"{standing.text}: {whereabouts.text}{suspicion}",
            next_step=whereabouts.next_step or standing.next_step,
        )


#: Codes of groups that an inspection can say more about.
_IN_FLIGHT_WORDS: Final = frozenset(state.word for state in IN_FLIGHT)


def _beside(standing: Standing, whereabouts: Whereabouts) -> Standing:
    """Say of a node that went on without its task that this still runs, before anybody starts another one."""
    return replace(standing, code="runs-on", text=f"{standing.text}; {whereabouts.text}", next_step=whereabouts.next_step)


def _with_home_of_value(workflow: RunningWorkflow, standing: Standing, app: str) -> Standing:
    """Say how to see what a cancelled node's task has returned, where others take it."""
    number = workflow.graph.number(standing.node)
    task_id = "" if number is None else workflow.attempts.task_id_of(number)
    if standing.code != "cancelled" or not task_id or f"the result of task {task_id}" not in standing.text:
        return standing
    return replace(standing, text=f"{standing.text}, which `celery -A {app or 'APP'} result {task_id}` shows")


def _queue_of(workflow: RunningWorkflow, name: str, inspection: Inspection) -> str:
    number = workflow.graph.number(name)
    task = None if number is None else inspection.tasks.get(workflow.attempts.task_id_of(number))
    return "" if task is None else task.queue


def _facts(workflow: RunningWorkflow, nodes: Sequence[int], inspection: Inspection) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for node in nodes:
        task = inspection.tasks.get(workflow.attempts.task_id_of(node))
        if task is not None:
            queue = inspection.queues.get(task.queue)
            facts[workflow.graph.names[node]] = asdict(task) | {"queue": None if queue is None else asdict(queue)}
    return facts


def _troubles(workflow: RunningWorkflow, shown: Sequence[Standing], inspection: Inspection) -> list[str]:
    """Say for the verdict on a workflow what does not go on by itself."""
    return list(
        dict.fromkeys(
            _trouble(standing).format(node=standing.node, queue=_queue_of(workflow, standing.node, inspection))
            for standing in shown
            if standing.code in _TROUBLES and (workflow.state is WorkflowState.RUNNING or standing.code == "runs-on")
        )
    )


def _trouble(standing: Standing) -> str:
    """Return what is to be said of tasks that do not go on by themselves."""
    if standing.code == "lost" and ENDED_SILENTLY in standing.text:
        return f"'{{node}}' {ENDED_SILENTLY}"
    return _TROUBLES[standing.code]


def _first_step(workflow: RunningWorkflow, shown: Sequence[Standing]) -> str:
    if workflow.state is WorkflowState.PAUSED:
        return "`resume`"
    if workflow.state is WorkflowState.SCHEDULED:
        return "`release`"
    return shown[0].next_step if shown else ""


def _view(workflow: RunningWorkflow, standing: Standing, decided: wire.JournalView | None) -> wire.StandingView:
    number = workflow.graph.number(standing.node)
    return wire.StandingView(
        code=standing.code,
        text=standing.text,
        node=standing.node,
        next_step=standing.next_step,
        count=standing.count,
        examples=list(standing.examples),
        cause="" if standing.count == 1 or number is None else cause_of(workflow, number),
        gate_since=None if number is None else gate_since(workflow, number),
        decided=decided,
    )
