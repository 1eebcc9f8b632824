"""What can be asked: views, listings, nodes, journals, explanations, and the waiting for changes. Changes nothing."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, replace
from shlex import quote
from typing import Any, Final

import anyio

from dyrygentd import __version__, canvas, wire
from dyrygentd.core.standing import Standing, headline, in_flight_of, standing_of_node, standings
from dyrygentd.core.states import IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import AmbiguousReference, NodeNotFound, WaitTimeout, WorkflowNotFound
from dyrygentd.explain import verdict
from dyrygentd.ports import Clock, Inspection, Inspector, ReportReader, Selection, Store
from dyrygentd.scheduler.archive import Archive, in_thread_if_long
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.lost import place_of
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.turns import Turns

#: Tasks in flight that are looked for when somebody asks about a whole workflow.
_INSPECTED_MAX: Final = 40
#: What is said of tasks that do not go on by themselves, in the verdict on their workflow.
_TROUBLES: Final = {
    "no-consumer": "nobody consumes queue '{queue}'",
    "orphaned": "the worker that had '{node}' is gone",
    "lost": "'{node}' is lost",
}


class Queries:
    """Answers from memory what is live, and from the store what has finished.

    Args:
        problems: Tells what keeps the scheduler from its work.
    """

    def __init__(
        self,
        turns: Turns,
        store: Store,
        archive: Archive,
        listeners: Listeners,
        clock: Clock,
        inspector: Inspector | None,
        reports: ReportReader | None,
        redaction: Redaction,
        *,
        problems: Callable[[], Sequence[str]],
        follow_interval_s: float,
    ) -> None:
        self._turns = turns
        self._store = store
        self._archive = archive
        self._listeners = listeners
        self._clock = clock
        self._inspector = inspector
        self._reports = reports
        self._redaction = redaction
        self._problems = problems
        self._follow_interval_s = follow_interval_s

    # --- views ------------------------------------------------------------------------------------------------------

    async def resolve(self, reference: str) -> str:
        """Return the id for an id, a unique prefix, a name or ``@latest``.

        Raises:
            WorkflowNotFound, AmbiguousReference
        """
        if reference in self._turns.engine.workflows:
            return reference
        if reference == "@latest":
            newest = await self._store.list(Selection(limit=1))
            if not newest:
                raise WorkflowNotFound(reference)
            return newest[0].record.workflow_id
        fitting = await self._store.find(reference) if reference else []
        if not fitting:
            raise WorkflowNotFound(reference)
        if len(fitting) > 1:
            raise AmbiguousReference(reference, fitting)
        return fitting[0]

    async def owner(self, workflow_id: str) -> int | None:
        """Return the number of the user who submitted a workflow; None if nobody can tell. Raises `WorkflowNotFound`."""
        workflow = self._turns.live(workflow_id)
        if workflow is not None:
            return workflow.owner
        record = await self._store.record(workflow_id)
        if record is None:
            raise WorkflowNotFound(workflow_id)
        return record.owner

    async def definition(self, workflow_id: str) -> bytes:
        """Return the definition of a workflow as JSON, as it was stored. Raises `WorkflowNotFound`."""
        stored = await self._archive.stored(workflow_id)
        assert stored.record.document is not None
        return stored.record.document

    async def export(self, workflow_id: str) -> bytes:
        """Return all that is stored of a workflow as JSON. Raises `WorkflowNotFound`."""
        stored, journal, now = await self._archive.stored(workflow_id), await self._store.journal(workflow_id), self._clock.now()
        assert stored.record.document is not None
        return await in_thread_if_long(
            lambda: wire.encode_export(stored.record, stored.nodes, journal, version=__version__, now=now),
            len(stored.record.document),
        )

    async def view(self, workflow_id: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view of a workflow. Raises `WorkflowNotFound`."""
        workflow = self._turns.live(workflow_id)
        if workflow is not None:
            return wire.view_of_running(workflow, with_result=with_result)
        record = await self._store.record(workflow_id)
        if record is None:
            raise WorkflowNotFound(workflow_id)
        return wire.view_of_record(record, with_result=with_result)

    async def list(self, selection: Selection) -> wire.WorkflowPage:
        """Return a page of workflows, newest first."""
        rows = await self._store.list(selection)
        views = []
        for row in rows:
            workflow = self._turns.live(row.record.workflow_id)
            views.append(wire.view_of_record(row.record) if workflow is None else wire.view_of_running(workflow))
        return wire.WorkflowPage(views, str(rows[-1].cursor) if len(rows) == selection.limit else None)

    async def nodes(
        self, workflow_id: str, *, states: frozenset[str] = frozenset(), after: int = 0, limit: int = 100
    ) -> wire.NodePage:
        """Return a page of nodes in the order of the definition, joins included; ``after`` is a cursor."""
        workflow = await self._unpacked(workflow_id)
        wanted = [state for state in NodeState if not states or state.word in states]
        views: list[wire.NodeView] = []
        for node in range(after, len(workflow.graph)):
            if len(views) == limit:
                return wire.NodePage(views, str(node))
            if workflow.states[node] in wanted:
                views.append(wire.view_of_node(workflow, node))
        return wire.NodePage(views)

    async def node(self, workflow_id: str, name: str, *, with_arguments: bool) -> wire.NodeView:
        """Return one node, its arguments as they may be shown. Raises `WorkflowNotFound` or `NodeNotFound`."""
        workflow = await self._unpacked(workflow_id)
        number = workflow.graph.number(name)
        if number is None:
            raise NodeNotFound(workflow_id, name)
        signature = workflow.graph.signatures[number]
        arguments = self._redaction.arguments(signature) if with_arguments and signature is not None else ""
        return wire.view_of_node(workflow, number, arguments=arguments)

    async def causes(self, workflow_id: str) -> wire.Causes:
        """Group the failures of a workflow by what they have in common. Raises `WorkflowNotFound`."""
        return wire.causes_of(await self._unpacked(workflow_id))

    async def journal(self, workflow_id: str) -> wire.Journal:
        """Return who did what to a workflow, when and why. Raises `WorkflowNotFound`."""
        entries = await self._store.journal(workflow_id)
        if not entries and self._turns.live(workflow_id) is None and await self._store.record(workflow_id) is None:
            raise WorkflowNotFound(workflow_id)
        return wire.Journal([wire.view_of_entry(entry) for entry in entries])

    async def audit(self, after: int | None, *, limit: int) -> wire.Journal:
        """Return who did what to all workflows, oldest first."""
        rows = await self._store.audit(after, limit=limit)
        cursor = rows[-1][0] if rows else after or 0
        return wire.Journal([wire.view_of_entry(entry) for _, entry in rows], str(cursor))

    # --- why it is not running ---------------------------------------------------------------------------------------

    async def explain(self, workflow_id: str, node: str | None = None) -> wire.Explanation:
        """Say why a workflow, or one node, is not running, and what can be done: engine, broker, workers and backend asked.

        Raises:
            WorkflowNotFound, NodeNotFound
        """
        workflow = await self._unpacked(workflow_id)
        if node is None:
            return await self._explain_workflow(workflow)
        number = workflow.graph.number(node)
        if number is None:
            raise NodeNotFound(workflow_id, node)
        standing = standing_of_node(self._turns.engine, workflow, number, self._clock.now())
        inspection = await self._inspect(workflow, [number] if workflow.state_of(number) in IN_FLIGHT else [])
        standing = self._found(workflow, number, standing, inspection)
        return wire.Explanation(
            id=workflow_id,
            state=workflow.state.value,
            node=node,
            code=standing.code,
            verdict=standing.text,
            next_step=standing.next_step,
            problems=[*self._problems(), *inspection.problems],
            facts=_facts(workflow, [number], inspection),
        )

    async def _explain_workflow(self, workflow: RunningWorkflow) -> wire.Explanation:
        now = self._clock.now()
        found = standings(self._turns.engine, workflow, now)
        verdict_text = headline(self._turns.engine, workflow, now)
        oldest = list(in_flight_of(workflow, _INSPECTED_MAX))
        inspection = await self._inspect(workflow, oldest)
        shown: list[Standing] = []
        for standing in found:
            if oldest and standing.node == workflow.graph.names[oldest[0]] and standing.code in _IN_FLIGHT_WORDS:
                shown += self._split(workflow, oldest, standing, inspection, now)
            else:
                shown.append(standing)
        troubles = dict.fromkeys(
            _TROUBLES[standing.code].format(node=standing.node, queue=_queue_of(workflow, standing.node, inspection))
            for standing in shown
            if standing.code in _TROUBLES and workflow.state is WorkflowState.RUNNING
        )
        verdict_text = "; ".join([verdict_text, *troubles])
        first = shown[0] if shown else None
        return wire.Explanation(
            id=workflow.workflow_id,
            state=workflow.state.value,
            code=workflow.state.value,
            verdict=verdict_text,
            next_step="" if first is None else first.next_step,
            standings=[
                wire.StandingView(
                    code=standing.code,
                    text=standing.text,
                    node=standing.node,
                    next_step=standing.next_step,
                    count=standing.count,
                    examples=list(standing.examples),
                )
                for standing in shown
            ],
            problems=[*self._problems(), *inspection.problems],
            facts=_facts(workflow, oldest, inspection),
        )

    def _split(
        self, workflow: RunningWorkflow, looked_for: Sequence[int], standing: Standing, inspection: Inspection, now: float
    ) -> Sequence[Standing]:
        """Divide the group of what is in flight by where its members were found.

        One answer for all would be that of the oldest, and hide that others are somewhere else.
        """
        names = workflow.graph.names
        state = workflow.state_of(looked_for[0])
        places: dict[tuple[str, str], list[Standing]] = {}
        for node in looked_for:
            if workflow.state_of(node) is state:
                each = standing_of_node(self._turns.engine, workflow, node, now)
                each = self._found(workflow, node, each, inspection)
                places.setdefault((each.code, _queue_of(workflow, names[node], inspection)), []).append(each)
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
        rest = standing.count - sum(group.count for group in groups)
        if rest > 0:
            following = in_flight_of(workflow, workflow.in_flight_count)
            other = next((names[node] for node in following if node not in looked_for and workflow.state_of(node) is state), "")
            text = f"'{other}' and others, in the broker or at a worker: only the {len(looked_for)} oldest are looked for"
            groups.append(Standing(standing.code, text, "", other, count=rest, examples=(other,)))
        return groups

    async def _inspect(self, workflow: RunningWorkflow, nodes: Sequence[int]) -> Inspection:
        """Ask the world outside about tasks in flight."""
        if self._inspector is None or not nodes:
            return Inspection()
        return await self._inspector.trace([place_of(workflow, node) for node in nodes])

    def _found(self, workflow: RunningWorkflow, node: int, standing: Standing, inspection: Inspection) -> Standing:
        """Put what the world outside knows of a task into what the engine says."""
        task_id = workflow.task_id_of(node)
        if task_id not in inspection.tasks or workflow.state_of(node) not in IN_FLIGHT:
            return standing
        retry = f"dyrygentctl retry {workflow.workflow_id} {quote(workflow.graph.names[node])} --force"
        reports = self._reports
        finding = verdict(
            inspection,
            task_id,
            now=self._clock.now(),
            retry_command=retry,
            has_ended=reports is not None and reports.has_ended(task_id),
            is_unreported=reports is not None and not reports.statistics().is_heard,
        )
        return replace(
            standing,
            code=finding.code,
            text=f"{standing.text}: {finding.text}",
            next_step=finding.next_step or standing.next_step,
        )

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def wait(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.WorkflowView:
        """Return the view of a workflow once its end is on disk.

        Raises:
            WorkflowNotFound, WaitTimeout
            DaemonUnreachable: The scheduler was left meanwhile.
        """
        with anyio.move_on_after(timeout_s):
            with self._listeners.to(workflow_id) as listener:
                while self._turns.live(workflow_id) is not None:
                    self._turns.refuse_if_ended(workflow_id)
                    await listener.wait()
            return await self.view(workflow_id)
        raise WaitTimeout(workflow_id, timeout_s or 0.0)

    async def outcome(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.Outcome:
        """Wait for the end and return how it ended. Raises as `wait` does."""
        await self.wait(workflow_id, timeout_s=timeout_s)
        view = await self.view(workflow_id, with_result=True)
        failed = [] if view.state == "succeeded" else (await self.nodes(workflow_id, states=frozenset({"failed"}))).nodes
        return wire.outcome_of(view, failed, decode_value=canvas.decode_value)

    async def follow(self, workflow_id: str) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after changes, at most one per ``follow_interval_s``, until it is finished."""
        with self._listeners.to(workflow_id) as listener:
            while self._turns.live(workflow_id) is not None:
                yield await self.view(workflow_id)
                self._turns.refuse_if_ended(workflow_id)
                await listener.wait()
                if self._turns.live(workflow_id) is not None:
                    await anyio.sleep(self._follow_interval_s)
        yield await self.view(workflow_id)

    async def _unpacked(self, workflow_id: str) -> RunningWorkflow:
        return self._turns.live(workflow_id) or await self._archive.unpacked(workflow_id)


#: Codes of groups that an inspection can say more about.
_IN_FLIGHT_WORDS = frozenset(state.word for state in IN_FLIGHT)


def _queue_of(workflow: RunningWorkflow, name: str, inspection: Inspection) -> str:
    number = workflow.graph.number(name)
    task = None if number is None else inspection.tasks.get(workflow.task_id_of(number))
    return "" if task is None else task.queue


def _facts(workflow: RunningWorkflow, nodes: Sequence[int], inspection: Inspection) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for node in nodes:
        task = inspection.tasks.get(workflow.task_id_of(node))
        if task is not None:
            queue = inspection.queues.get(task.queue)
            facts[workflow.graph.names[node]] = asdict(task) | {"queue": None if queue is None else asdict(queue)}
    return facts
