"""What can be asked: views, listings, nodes, journals, explanations, and the waiting for changes. Changes nothing."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import anyio

from dyrygentd import __version__, wire
from dyrygentd.core.behind import behind
from dyrygentd.core.node_search import nodes_found
from dyrygentd.core.states import NodeState
from dyrygentd.core.user import User
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import AmbiguousReference, NodeNotFound, OutsideError, WaitTimeout, WorkflowNotFound
from dyrygentd.ports import Clock, Store
from dyrygentd.ports.facts import Selection
from dyrygentd.ports.mailbox import NotTakenYet, RefusedLater
from dyrygentd.scheduler.archive import Archive, in_thread_if_long
from dyrygentd.scheduler.decided import Decided
from dyrygentd.scheduler.explanations import Explanations
from dyrygentd.scheduler.families import Families
from dyrygentd.scheduler.folds import Folds
from dyrygentd.scheduler.listeners import Listener, Listeners
from dyrygentd.scheduler.log_links import LogLinks
from dyrygentd.scheduler.members import home_of, node_of
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.sight import Sight
from dyrygentd.scheduler.still_running import StillRunning
from dyrygentd.scheduler.summary import foremost
from dyrygentd.wire.again import definition_again
from dyrygentd.wire.letters import error_of_refusal

#: How soon those who follow a workflow are told that something keeps the daemon from its work, or does no more.
_PROBLEMS_LOOK_S: Final = 1.0
#: Begins a reference that is a key; a name that begins so goes first.
_KEY: Final = "key:"
#: Nodes of a workflow that is looked through within a millisecond or two.
_SHORT_MAX: Final = 2_000


class Queries:
    """Answers from memory what is live, and from the store what has finished.

    Args:
        explanations: Says why something is not running.
        problems: Tells what keeps the scheduler from its work.
        still_running: Finds tasks that run although their nodes have gone on.
        folds: Knows which nodes are in a box.
        log_links: Knows where the logs of attempts are.
        families: Knows the children of workflows.
    """

    def __init__(
        self,
        sight: Sight,
        *,
        store: Store,
        archive: Archive,
        listeners: Listeners,
        clock: Clock,
        redaction: Redaction,
        explanations: Explanations,
        problems: Callable[[], Sequence[str]],
        follow_interval_s: float,
        still_running: StillRunning,
        folds: Folds,
        log_links: LogLinks,
        families: Families,
    ) -> None:
        self._families = families
        self._sight = sight
        self._store = store
        self._archive = archive
        self._listeners = listeners
        self._clock = clock
        self._redaction = redaction
        self._explanations = explanations
        self._problems = problems
        self._follow_interval_s = follow_interval_s
        self._still_running = still_running
        self._folds = folds
        self._log_links = log_links

    # --- views ------------------------------------------------------------------------------------------------------

    async def resolve(self, reference: str, *, owner: User | None = None) -> str:
        """Return the id for an id, a unique prefix, a name, ``@latest``, or ``key:`` with a key that ``owner`` has given.

        Raises:
            WorkflowNotFound, AmbiguousReference
        """
        if reference in self._sight.engine.workflows:
            return reference
        if reference == "@latest":
            newest = await self._store.list(Selection(limit=1))
            if not newest:
                raise WorkflowNotFound(reference)
            return newest[0].record.workflow_id
        fitting = await self._store.find(reference) if reference else []
        if not fitting and reference.startswith(_KEY) and (known := await self._store.find_key(reference[len(_KEY) :], owner)):
            fitting = [known]
        if not fitting:
            return await self._known_by_letter(reference)
        if len(fitting) > 1:
            raise AmbiguousReference(reference, fitting)
        return fitting[0]

    async def _known_by_letter(self, reference: str) -> str:
        """Return the workflow of somebody whose key was known when the letter with this id was read.

        Raises:
            RefusedLater, NotTakenYet, WorkflowNotFound
        """
        mailbox = self._store.mailbox
        letter = None if mailbox is None or not reference else await mailbox.find(reference)
        if letter is None:
            raise WorkflowNotFound(reference)
        if letter.is_refused:
            error = error_of_refusal(letter.answer)
            raise RefusedLater(reference, error.message, next_step=error.next_step)
        if not letter.known_as:
            raise NotTakenYet(reference)
        return letter.known_as

    async def owner(self, workflow_id: str) -> User | None:
        """Return the user who submitted a workflow; None if nobody can tell. Raises `WorkflowNotFound`."""
        workflow = self._sight.live(workflow_id)
        if workflow is not None:
            return workflow.origin.owner
        record = await self._store.record(workflow_id)
        if record is None:
            raise WorkflowNotFound(workflow_id)
        return record.owner

    def is_at_hand(self, workflow_id: str) -> bool:
        """Tell whether a workflow is in memory, and short."""
        workflow = self._sight.live(workflow_id) or self._archive.kept(workflow_id)
        return workflow is not None and len(workflow.graph) <= _SHORT_MAX

    async def definition(self, workflow_id: str) -> bytes:
        """Return the definition of a workflow as JSON, so that it can be submitted again. Raises `WorkflowNotFound`."""
        document = (await self._archive.stored(workflow_id)).record.document
        assert document is not None
        return await in_thread_if_long(lambda: definition_again(document), len(document))

    async def export(self, workflow_id: str) -> bytes:
        """Return all that is stored of a workflow, and of those below it, as JSON.

        Raises `WorkflowNotFound`, `BadRequest` if they are too many, and as `ValueReading.stored` does.
        """
        tree: list[wire.Exported] = []
        async for each in self._families.tree(workflow_id):
            stored = await self._archive.values.stored(await self._archive.stored(each))
            tree.append(wire.Exported(stored.record, stored.nodes, await self._store.journal(each)))
        now, size = self._clock.now(), sum(len(each.record.document or b"") for each in tree)
        return await in_thread_if_long(lambda: wire.encode_export(tree, version=__version__, now=now), size)

    async def view(self, workflow_id: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view of a workflow. Raises `WorkflowNotFound`."""
        await self._sight.look(workflow_id)
        if (workflow := self._sight.live(workflow_id)) is not None and workflow.holds:
            await self._families.look_below(workflow)
            workflow = self._sight.live(workflow_id)
        if workflow is not None:
            view = wire.view_of_running(workflow, with_result=with_result)
        else:
            record = await self._store.record(workflow_id)
            if record is None:
                raise WorkflowNotFound(workflow_id)
            view = wire.view_of_record(record, with_result=with_result)
        if with_result:
            await self._fill_in(view)
        view.may_run_on = self._sight.engine.flights.given_up_count(workflow_id)
        if workflow is not None:
            # One whose end is not on disk yet has them, too.
            view.problems = [*self._problems()]
            self._families.add_to(workflow, view)
        return view

    async def _fill_in(self, view: wire.WorkflowView) -> None:
        """Read a result that is kept beside the database, or say why it is not there."""
        result = view.result_text
        if result is None:
            return
        try:
            view.show_result(await self._archive.values.text(result))
        except OutsideError as error:
            view.show_result(None)
            view.error = view.error or error.message

    async def list(self, selection: Selection) -> wire.WorkflowPage:
        """Return a page of workflows, newest first; there is one page only of those that ended last."""
        rows = await self._store.list(selection)
        await self._sight.look(*(row.record.workflow_id for row in rows if row.record.finished_at is None))
        live = (self._sight.live(row.record.workflow_id) for row in rows)
        await self._families.look_below(*(workflow for workflow in live if workflow is not None))
        views = []
        for row in rows:
            workflow = self._sight.live(row.record.workflow_id)
            views.append(wire.view_of_record(row.record) if workflow is None else wire.view_of_running(workflow))
            if workflow is not None:
                self._families.add_to(workflow, views[-1])
        has_more = len(rows) == selection.limit and not selection.by_end
        return wire.WorkflowPage(views, str(rows[-1].cursor) if has_more else None)

    async def nodes(
        self,
        workflow_id: str,
        *,
        states: frozenset[str] = frozenset(),
        path: str = "",
        name: str = "",
        after: int = 0,
        limit: int = 100,
    ) -> wire.NodePage:
        """Return a page of nodes in the order of the definition, joins included. Raises `WorkflowNotFound` or `BoxNotFound`.

        Args:
            path, name: Only those in a box of the fold, and those with this in their name, in capital letters or not.
            after: The cursor of the page before.
        """
        workflow = await self.unpacked(workflow_id)
        wanted = {state for state in NodeState if not states or state.word in states}
        among = await self._folds.nodes(workflow, path) if path else range(len(workflow.graph))
        before = bytes(workflow.states)
        found, following = await in_thread_if_long(
            lambda: nodes_found(workflow.graph, among, before, wanted=wanted, part=name, after=after, limit=limit),
            len(among),
            _SHORT_MAX,
        )
        # While a thread looked, some may have gone on.
        shown = [node for node in found if workflow.states[node] in wanted]
        views = [self._view_of_node(workflow, node) for node in shown]
        await self._families.fill_in(workflow, shown, views)
        return wire.NodePage(views, None if following is None else str(following))

    async def node(self, workflow_id: str, name: str, *, with_arguments: bool) -> wire.NodeView:
        """Return one node, its arguments and payload as they may be shown. Raises `WorkflowNotFound` or `NodeNotFound`."""
        workflow = await self.unpacked(await home_of(self.unpacked, workflow_id, name))
        number = node_of(workflow, name)
        if number is None:
            raise NodeNotFound(workflow_id, name)
        signature = workflow.graph.signatures[number]
        arguments = self._redaction.arguments(signature) if with_arguments and signature is not None else ""
        view = self._view_of_node(workflow, number, with_attempts=True)
        self._log_links.add_to(workflow, number, view.attempts, self._clock.now())
        view.arguments = arguments or None
        view.payload = self._redaction.data(workflow.graph.policy(number).payload) if with_arguments else None
        await Decided(self._store).fill_in(workflow, [number], [view])
        await self._families.fill_in(workflow, [number], [view])
        view.dependents, view.takers = behind(workflow.graph, [number])
        return view

    def _view_of_node(self, workflow: RunningWorkflow, node: int, *, with_attempts: bool = False) -> wire.NodeView:
        view = wire.view_of_node(workflow, node, with_attempts=with_attempts)
        view.may_run_on = self._still_running.may_run_on(workflow, node)
        return view

    async def summary(self, workflow_id: str, *, limit: int) -> wire.Summary:
        """Return what is to be known of a workflow at one look, but the daemon's problems. Raises `WorkflowNotFound`.

        Args:
            limit: Nodes of a kind at most.
        """
        workflow = await self.unpacked(workflow_id)
        decided = await Decided(self._store).by_whom(workflow, ())
        view, foremost_nodes = await self.view(workflow_id, with_result=True), foremost(workflow, limit=limit)
        failed, blocked, under_way = ([self._view_of_node(workflow, node) for node in nodes] for nodes in foremost_nodes)
        await Decided(self._store).fill_in(workflow, foremost_nodes.under_way, under_way)
        await self._families.fill_in(workflow, foremost_nodes.under_way, under_way)
        await self._families.fill_in(workflow, foremost_nodes.failed, failed)
        return wire.Summary(
            workflow=view,
            causes=self._causes_of(workflow),
            failed=failed,
            blocked=blocked,
            under_way=under_way,
            decided=decided.of_workflow,
        )

    async def behind(self, workflow_id: str, names: Sequence[str]) -> dict[str, int]:
        """Count what runs without nodes that are skipped, as the answer to that tells it. Raises `WorkflowNotFound`."""
        graph = (await self.unpacked(workflow_id)).graph
        return behind(graph, [number for name in names if (number := graph.number(name)) is not None])._asdict()

    async def causes(self, workflow_id: str) -> wire.Causes:
        """Group the failures of a workflow, and what is tried again, by what they have in common. Raises `WorkflowNotFound`."""
        return self._causes_of(await self.unpacked(workflow_id))

    def _causes_of(self, workflow: RunningWorkflow) -> wire.Causes:
        now = self._clock.now()
        return self._log_links.add_to_causes(workflow, wire.causes_of(workflow, now), now)

    async def journal(self, workflow_id: str) -> wire.Journal:
        """Return who did what to a workflow, when and why. Raises `WorkflowNotFound`."""
        entries = await self._store.journal(workflow_id)
        if not entries and self._sight.live(workflow_id) is None and await self._store.record(workflow_id) is None:
            raise WorkflowNotFound(workflow_id)
        return wire.Journal([wire.view_of_entry(entry) for entry in entries])

    async def audit(self, after: int | None, *, limit: int) -> wire.Journal:
        """Return who did what to all workflows, oldest first."""
        rows = await self._store.audit(after, limit=limit)
        cursor = rows[-1][0] if rows else after or 0
        return wire.Journal([wire.view_of_entry(entry) for _, entry in rows], str(cursor))

    async def explain(self, workflow_id: str, node: str | None = None) -> wire.Explanation:
        """Say why a workflow, or one node, is not running; see `dyrygentd.scheduler.explanations`."""
        # Who has the places that it waits for may be another one.
        await self._sight.look_at_all()
        workflow = await self.unpacked(workflow_id if node is None else await home_of(self.unpacked, workflow_id, node))
        found = await self._explanations.explain(workflow, node)
        if node is not None and (number := node_of(workflow, node)) is not None:
            now = self._clock.now()
            self._log_links.add_to(workflow, number, found.attempts, now)
            found.logs = self._log_links.of_last(workflow, number, now)
        return found

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def wait(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.WorkflowView:
        """Return the view of a workflow once its end is on disk.

        Raises:
            WorkflowNotFound, WaitTimeout
            DaemonUnreachable: The scheduler was left meanwhile.
        """
        await self._sight.look(workflow_id)
        with anyio.move_on_after(timeout_s):
            with self._listeners.to(workflow_id) as listener:
                while self._sight.live(workflow_id) is not None:
                    self._sight.refuse_if_ended(workflow_id)
                    await listener.wait()
            return await self.view(workflow_id)
        raise WaitTimeout(workflow_id, timeout_s or 0.0)

    async def outcome(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.Outcome:
        """Wait for the end and return how it ended. Raises as `wait` does."""
        await self.wait(workflow_id, timeout_s=timeout_s)
        view = await self.view(workflow_id, with_result=True)
        failed = [] if view.state == "succeeded" else (await self.nodes(workflow_id, states=frozenset({"failed"}))).nodes
        return wire.outcome_of(view, failed)

    async def follow(self, workflow_id: str) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after changes, at most one per ``follow_interval_s``, until it is finished."""
        await self._sight.look(workflow_id)
        with self._listeners.to(workflow_id) as listener:
            while self._sight.live(workflow_id) is not None:
                yield await self.view(workflow_id)
                self._sight.refuse_if_ended(workflow_id)
                await self._changed(listener)
                if self._sight.live(workflow_id) is not None:
                    await anyio.sleep(self._follow_interval_s)
        yield await self.view(workflow_id)

    async def _changed(self, listener: Listener) -> None:
        """Wait for a change of a workflow, or of what keeps the daemon from its work: then nothing else may change."""
        problems = [*self._problems()]
        while [*self._problems()] == problems:
            with anyio.move_on_after(_PROBLEMS_LOOK_S):
                await listener.wait()
                return

    async def unpacked(self, workflow_id: str) -> RunningWorkflow:
        """Return a workflow, from memory or from the store; it is not to be changed. Raises `WorkflowNotFound`."""
        await self._sight.look(workflow_id)
        return self._sight.live(workflow_id) or await self._archive.unpacked(workflow_id)
