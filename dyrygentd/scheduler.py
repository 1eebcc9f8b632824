"""The asyncio shell around the core: embed this one.

Theory of operation
===================
*The idea.* One task owns the engine. Everybody else (the watcher, the publisher, callers of `submit` and `cancel`) only puts
events into the inbox. A turn takes what is in the inbox, feeds the engine with it, all with one ``now`` and without awaiting, and
carries out the batch that comes back in a fixed order: save and wait until it is durable; watch; hand over for publishing; tell
listeners.

*Publishing* is a task of its own, so a turn does not wait for the broker. It repeats a slice until the dispatcher
accepts it: the intent is on disk, the task id is fixed, and where the broker can, a marker makes a repetition harmless.

*When the disk refuses*, the batch is kept, nothing of it is published, results go on being read, and later batches are merged
into the one that waits. New submissions are refused meanwhile. The work that can pile up is bounded by what is in flight.

*What could go wrong.* A crash at any point: what is on disk decides (see `dyrygentd.core.checkpoint`). A caller that is
cancelled while it waits: its event is in the inbox already, and happens. Cancelling this task: a transaction that has begun is
awaited, since SQLite's thread would finish it anyway.

*Tried and rejected.* Publishing inside the turn: 500 messages take 100 ms, during which no result would be seen.
"""

import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import anyio
import anyio.lowlevel
import anyio.to_thread

from dyrygentd import __version__, canvas, metrics, wire
from dyrygentd.core.checkpoint import WorkflowRecord, restore
from dyrygentd.core.effects import Answer, Batch, Publish, Revoke, RevokeStamped
from dyrygentd.core.engine import Engine, Limits
from dyrygentd.core.events import (
    DrainRequested,
    Event,
    TaskEvent,
    TaskReported,
    TaskRevoked,
    VerbRequested,
    WorkflowRecovered,
    WorkflowSubmitted,
)
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.pools import Pools
from dyrygentd.core.standing import Standing, headline, in_flight_of, standing_of_node, standings
from dyrygentd.core.states import IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.verbs import Request, Verb
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import (
    AmbiguousReference,
    BrokerUnavailable,
    ConfigurationError,
    DaemonUnreachable,
    DyrygentError,
    NodeNotFound,
    NotAccepting,
    NotStored,
    RequestError,
    StoreUnavailable,
    UnknownPool,
    WaitTimeout,
    WorkflowNotFound,
)
from dyrygentd.explain import verdict
from dyrygentd.ports import (
    WORKFLOW_STAMP,
    Clock,
    Dispatcher,
    Inspection,
    Inspector,
    ResultWatcher,
    Selection,
    Store,
    Stored,
    TaskPlace,
)

logger = logging.getLogger("dyrygentd")

#: Documents longer than this are built and parsed in a thread; for shorter ones the hop costs more than the work.
_INLINE_BYTES = 16_384
#: Seconds between two tries to save or to publish: short enough for an operator, long enough not to burn a core.
_RETRY_FIRST_S, _RETRY_MAX_S = 0.2, 5.0
#: Messages per call of the dispatcher: one script call, about 20 ms of encoding, so a cancel is never far behind.
_PUBLISH_SLICE = 100
#: Finished workflows kept unpacked for paging through their nodes.
_UNPACKED_MAX = 2
#: Workflows that one request in bulk may change; each is a transaction.
_BULK_MAX = 1000
#: Tasks in flight that are looked for when somebody asks about a whole workflow.
_INSPECTED_MAX = 5
#: A workflow may finish, and one that has finished may be set running, between looking for it and asking for something.
_ASK_TRIES = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of a scheduler.

    Attributes:
        engine: What is in flight, and how long values may be.
        turn_events_max: Events taken from the inbox in one turn.
        inbox_max: Events in the inbox beyond which progress reports of workers are dropped; results are never dropped.
        submissions_max: Submissions on their way to the disk at one time.
        workflows_max: Unfinished workflows.
        nodes_in_memory_max: Nodes of all unfinished workflows.
        durable_timeout_s: How long a submission waits for the disk before it is answered with an error.
        follow_interval_s: Shortest time between two views that a follower gets.
        pools: ``{name or pattern: size}``: tasks in flight of the nodes that name the pool; each name that fits a pattern is a
            pool of its own.
        queue_limits: ``{queue: tasks in flight}``.
    """

    engine: Limits = field(default_factory=Limits)
    turn_events_max: int = 2000
    inbox_max: int = 100_000
    submissions_max: int = 200
    workflows_max: int = 200_000
    nodes_in_memory_max: int = 5_000_000
    durable_timeout_s: float = 30.0
    follow_interval_s: float = 0.1
    pools: Mapping[str, int] = field(default_factory=dict)
    queue_limits: Mapping[str, int] = field(default_factory=dict)


class SystemClock:
    """The time of this machine."""

    def now(self) -> float:
        """Return Unix time in seconds."""
        return time.time()


class Handle:
    """A submitted workflow, in the process of the scheduler."""

    def __init__(self, scheduler: "Scheduler", workflow_id: str, *, created: bool) -> None:
        self.id = workflow_id
        self.created = created
        self._scheduler = scheduler

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    async def status(self) -> wire.WorkflowView:
        """Return the present view."""
        return await self._scheduler.view(self.id)

    async def wait(self, timeout_s: float | None = None) -> wire.Outcome:
        """Wait for the end. Raises `WaitTimeout`; the workflow goes on then."""
        return await self._scheduler.outcome(self.id, timeout_s=timeout_s)

    async def cancel(self, *, terminate: bool = False, why: str = "") -> wire.Changed:
        """End the workflow now; do nothing if it has finished."""
        return await self.perform(Request(Verb.CANCEL, why=why, terminate=terminate))

    async def pause(self, *, why: str = "") -> wire.Changed:
        """Dispatch nothing more until `resume`; results go on coming in."""
        return await self.perform(Request(Verb.PAUSE, why=why))

    async def resume(self, *, why: str = "") -> wire.Changed:
        """Go on after `pause`."""
        return await self.perform(Request(Verb.RESUME, why=why))

    async def retry(self, *nodes: str, cause: str = "", force: bool = False, why: str = "") -> wire.Changed:
        """Try again what failed and all that never ran because of it: everything, some nodes, or one cause.

        Args:
            force: Also give up an attempt that is in flight.
        """
        return await self.perform(Request(Verb.RETRY, nodes=nodes, cause=cause, force=force, why=why))

    async def hold(self, *nodes: str, why: str = "") -> wire.Changed:
        """Keep nodes from being dispatched until `release`."""
        return await self.perform(Request(Verb.HOLD, nodes=nodes, why=why))

    async def release(self, *nodes: str, why: str = "") -> wire.Changed:
        """Let nodes go that an operator, a gate or a time holds."""
        return await self.perform(Request(Verb.RELEASE, nodes=nodes, why=why))

    async def skip(self, *nodes: str, value: object = None, why: str = "") -> wire.Changed:
        """Count nodes as succeeded, with this value, and go on without them."""
        return await self.perform(Request(Verb.SKIP, nodes=nodes, value=canvas.encode_value(value), why=why))

    async def rerun(self, *nodes: str, why: str = "") -> wire.Changed:
        """Run nodes and everything after them again."""
        return await self.perform(Request(Verb.RERUN, nodes=nodes, why=why))

    async def set_priority(self, priority: int, *, why: str = "") -> wire.Changed:
        """Change whose turn comes first."""
        return await self.perform(Request(Verb.SET_PRIORITY, priority=priority, why=why))

    async def perform(self, request: Request) -> wire.Changed:
        """Carry out a verb; see `Scheduler.perform`."""
        return await self._scheduler.perform(self.id, request)

    async def explain(self, node: str | None = None) -> wire.Explanation:
        """Say why the workflow, or one node, is not running."""
        return await self._scheduler.explain(self.id, node)

    def follow(self) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after changes, until it is finished."""
        return self._scheduler.follow(self.id)


class Scheduler:
    """Runs workflows in an asyncio program. An async context manager: entering recovers what was unfinished.

    It installs no signal handlers and keeps no state outside itself, so a program may have several, each with its own database.

    Args:
        app: The Celery app whose broker, backend and routes are used; not needed if ``dispatcher`` and ``watcher`` are given.
        database: Path of the SQLite file; it is created if it does not exist.
        limits: Bounds of everything that can grow.
        registry: A prometheus_client registry that gets this scheduler's metrics while it runs.
        store, dispatcher, watcher, inspector, clock: Adapters instead of the usual ones, see `dyrygentd.ports` and
            `dyrygentd.testing`.

    Raises:
        ConfigurationError: Neither an app nor adapters were given.
        BackendUnsupported: The app's results cannot be awaited from another process.
        StoreLocked, StoreIncompatible, StoreUnavailable: On entering, if the database cannot be used.
    """

    def __init__(
        self,
        app: Any = None,
        *,
        database: str | Path | None = None,
        limits: SchedulerLimits | None = None,
        registry: metrics.Registry | None = None,
        store: Store | None = None,
        dispatcher: Dispatcher | None = None,
        watcher: ResultWatcher | None = None,
        inspector: Inspector | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.limits = limits or SchedulerLimits()
        self._store = store or _store_of(database)
        self._dispatcher = dispatcher or _dispatcher_of(app)
        self._watcher = watcher or _watcher_of(app, value_bytes_max=self.limits.engine.value_bytes_max)
        self._inspector = inspector or (None if app is None else _inspector_of(app))
        self._clock = clock or SystemClock()
        self._registry = registry
        self._pools = Pools(self.limits.pools, queue_limits=self.limits.queue_limits, queue_of=self._dispatcher.queue_of)
        self._engine = Engine(self.limits.engine, pools=self._pools, chance=random.random)
        self._inbox: deque[Event] = deque()
        self._awake = anyio.Event()
        self._to_publish: deque[Publish] = deque()
        self._publisher_awake = anyio.Event()
        self._to_revoke: list[Revoke] = []
        self._to_revoke_stamped: list[RevokeStamped] = []
        self._to_forget: list[str] = []
        self._errands_awake = anyio.Event()
        self._finishing: dict[str, RunningWorkflow] = {}
        self._submitting: dict[str, anyio.Event] = {}
        self._withdrawn: set[str] = set()
        self._keys: dict[str, str] = {}
        self._key_lock = anyio.Lock()
        self._tickets: dict[int, _Ticket] = {}
        self._last_ticket = 0
        self._reopen_lock = anyio.Lock()
        self._listeners: dict[str, set[_Listener]] = {}
        self._unpacked: OrderedDict[str, RunningWorkflow] = OrderedDict()
        self._store_problem = self._broker_problem = ""
        self._turns_taken = 0
        self._started_at = self._recovered_s = 0.0
        self._has_landed = True
        self._has_ended = False
        self._idle = anyio.Event()
        self._exits = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Scheduler {self._engine!r} inbox={len(self._inbox)} to_publish={len(self._to_publish)}>"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            exits.push_async_callback(_shielded, self._dispatcher.close)
            if self._inspector is not None:
                exits.push_async_callback(_shielded, self._inspector.close)
            await self._store.open()
            exits.push_async_callback(_shielded, self._store.close)
            self._started_at = self._clock.now()
            await self._recover()
            if self._registry is not None:
                collector = metrics.register(self._registry, self.statistics)
                exits.callback(metrics.unregister, self._registry, collector)
            exits.callback(self._tell_that_it_ended)
            tasks = await exits.enter_async_context(anyio.create_task_group())
            exits.callback(tasks.cancel_scope.cancel)
            for work in (self._watch, self._publish, self._run_errands, self._take_turns):
                tasks.start_soon(work, name=f"dyrygentd {work.__name__}")
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if error is not None and not isinstance(error, anyio.get_cancelled_exc_class()):
            # Not by way of the task group, which would wrap it: callers catch what they have raised.
            await self._exits.aclose()
            return None
        return await self._exits.__aexit__(kind, error, traceback)

    # --- submitting and controlling ---------------------------------------------------------------------------------

    async def submit(self, what: Any, *, key: str | None = None, name: str | None = None) -> Handle:
        """Submit a canvas, a `Workflow` or a `Definition`; return when it is on disk.

        Args:
            key: If a workflow was submitted with this key before, that one is returned and nothing is created.

        Raises:
            NotACanvas, DefinitionError: It cannot be run.
            NotAccepting: Not now.
        """
        definition = await anyio.to_thread.run_sync(lambda: canvas.definition_of(what, name=name, key=key))
        submitted = await self.submit_definition(definition)
        return Handle(self, submitted.id, created=submitted.created)

    async def submit_definition(self, definition: Definition) -> wire.Submitted:
        """Submit a definition; return when it is on disk.

        Raises:
            NotAccepting: Not now.
            NotStored: The disk did not answer in time. Without a key the submission is withdrawn, so that trying again does not
                run it twice; with one it may still be taken, and trying again finds it.
        """
        self._refuse_if_not_accepting(len(definition.graph))
        self._refuse_unknown_pools(definition)
        # First, so that nothing waits, and nobody can be cancelled, between looking for the key and the inbox.
        document = await _in_thread_if_long(lambda: wire.encode_definition(definition), 100 * len(definition.graph))
        known = None
        if definition.key is None:
            workflow_id = self._take_in(definition, document)
        else:
            async with self._key_lock:
                known = self._keys.get(definition.key) or await self._store.find_key(definition.key)
                workflow_id = known or self._take_in(definition, document)
        await self._wait_durable(workflow_id, is_keyed=definition.key is not None)
        if known is None:
            return _submitted(workflow_id, definition, created=True)
        view = await self.view(known)
        return wire.Submitted(id=known, name=view.name, tasks=view.tasks, created=False)

    async def perform(self, workflow_id: str, request: Request) -> wire.Changed:
        """Carry out a verb on a workflow or on nodes of it; return when that is on disk.

        Verbs are idempotent: asking for what is so already changes nothing. `dyrygentd.core.verbs` has the tables of what each
        does in which state. Every change is recorded with who asked for it and why.

        Raises:
            WorkflowNotFound, NodeNotFound, CauseNotFound
            VerbRefused: Not in this state; its next step says what is possible.
            ValueGone: A node cannot run again without a value that was let go.
            StoreUnavailable: The disk did not answer in time. It may still be done; repeating it is harmless.
        """
        answer = await self._ask(workflow_id, request)
        if answer.error is not None:
            raise answer.error
        return wire.Changed(
            id=workflow_id,
            verb=request.verb.value,
            is_changed=answer.is_changed,
            nodes=list(answer.nodes),
            workflow=await self.view(workflow_id),
        )

    async def cancel(self, workflow_id: str, *, terminate: bool = False, by: str = "", why: str = "") -> wire.Changed:
        """End a workflow: what was not dispatched never is, what is in flight is revoked. Return when that is on disk.

        Args:
            terminate: End tasks that run, too. Without it they go on, are shown as late, and change nothing.
        """
        return await self.perform(workflow_id, Request(Verb.CANCEL, by=by, why=why, terminate=terminate))

    async def perform_in_bulk(self, selection: Selection, request: Request) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit, newest first, each on its own; at most 1000 of them."""
        done = wire.BulkChanged(verb=request.verb.value, matched=0, changed=[], unchanged=[], refused=[])
        ids: list[str] = []
        page = replace(selection, limit=min(500, _BULK_MAX))
        while len(ids) < _BULK_MAX:
            rows = await self._store.list(page)
            ids += [row.record.workflow_id for row in rows]
            if len(rows) < page.limit:
                break
            page = replace(page, before=rows[-1].cursor)
        done.matched, done.is_complete = len(ids[:_BULK_MAX]), len(ids) < _BULK_MAX
        for workflow_id in ids[:_BULK_MAX]:
            try:
                answer = await self._ask(workflow_id, request)
                if answer.error is not None:
                    raise answer.error
                (done.changed if answer.is_changed else done.unchanged).append(workflow_id)
            except RequestError as error:
                done.refused.append(wire.Refusal(workflow_id, str(error), error.code, error.next_step))
        return done

    async def _ask(self, workflow_id: str, request: Request) -> Answer:
        """Hand a verb to the engine and wait until its answer is on disk."""
        answer = Answer(0, error=WorkflowNotFound(workflow_id))
        for _ in range(_ASK_TRIES):
            if workflow_id in self._engine.workflows:
                answer = await self._ask_engine(VerbRequested(workflow_id, request))
            else:
                # One at a time, so that nobody brings back an older state than another has just made.
                async with self._reopen_lock:
                    await self._wait_until_stored(workflow_id)
                    stored = await self._stored(workflow_id)
                    self._refuse_if_not_accepting(stored.record.task_count)
                    restored = await self._rebuild(stored)
                    answer = await self._ask_engine(VerbRequested(workflow_id, request, restored=restored))
            if not isinstance(answer.error, WorkflowNotFound):
                break
        return answer

    async def _ask_engine(self, event: VerbRequested) -> Answer:
        self._refuse_if_ended(event.workflow_id)
        self._last_ticket += 1
        number, ticket = self._last_ticket, _Ticket()
        self._tickets[number] = ticket
        try:
            self._post(replace(event, ticket=number))
            with anyio.move_on_after(self.limits.durable_timeout_s):
                await ticket.answered.wait()
        finally:
            self._tickets.pop(number, None)
        if ticket.answer is None:
            self._refuse_if_ended(event.workflow_id)
            raise StoreUnavailable(
                self._store_problem or f"the database is slow; '{event.request.verb}' is not on disk yet, and may still be done"
            )
        return ticket.answer

    async def _wait_until_stored(self, workflow_id: str) -> None:
        """Wait until the end of a workflow is on disk."""
        with _Listener(self._listeners, workflow_id) as listener:
            while workflow_id in self._finishing:
                self._refuse_if_ended(workflow_id)
                await listener.wait()

    async def drain(self, *, timeout_s: float = 10.0) -> bool:
        """Dispatch nothing more and wait for what is in flight; tell whether all of it landed in time.

        What is still in flight then is no loss: its results are found after the next start.
        """
        self._post(DrainRequested())
        with anyio.move_on_after(timeout_s):
            while not (self._engine.draining and self._is_quiet()):
                if self._idle.is_set():
                    self._idle = anyio.Event()
                await self._idle.wait()
        return self._is_quiet()

    # --- asking -----------------------------------------------------------------------------------------------------

    async def resolve(self, reference: str) -> str:
        """Return the id for an id, a unique prefix, a name or ``@latest``.

        Raises:
            WorkflowNotFound, AmbiguousReference
        """
        if reference in self._engine.workflows:
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

    async def view(self, workflow_id: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view of a workflow. Raises `WorkflowNotFound`."""
        workflow = self._live(workflow_id)
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
            workflow = self._live(row.record.workflow_id)
            views.append(wire.view_of_record(row.record) if workflow is None else wire.view_of_running(workflow))
        return wire.WorkflowPage(views, str(rows[-1].cursor) if len(rows) == selection.limit else None)

    async def nodes(
        self, workflow_id: str, *, states: frozenset[str] = frozenset(), after: int = 0, limit: int = 100
    ) -> wire.NodePage:
        """Return a page of nodes in the order of the definition, joins included; ``after`` is a cursor."""
        workflow = await self._unpack(workflow_id)
        wanted = [state for state in NodeState if not states or state.word in states]
        views: list[wire.NodeView] = []
        for node in range(after, len(workflow.graph)):
            if len(views) == limit:
                return wire.NodePage(views, str(node))
            if workflow.states[node] in wanted:
                views.append(wire.view_of_node(workflow, node))
        return wire.NodePage(views)

    async def node(self, workflow_id: str, name: str) -> wire.NodeView:
        """Return one node. Raises `WorkflowNotFound` or `NodeNotFound`."""
        workflow = await self._unpack(workflow_id)
        number = workflow.graph.number(name)
        if number is None:
            raise NodeNotFound(workflow_id, name)
        return wire.view_of_node(workflow, number)

    async def causes(self, workflow_id: str) -> wire.Causes:
        """Group the failures of a workflow by what they have in common. Raises `WorkflowNotFound`."""
        return wire.causes_of(await self._unpack(workflow_id))

    async def journal(self, workflow_id: str) -> wire.Journal:
        """Return who did what to a workflow, when and why. Raises `WorkflowNotFound`."""
        entries = await self._store.journal(workflow_id)
        if not entries and self._live(workflow_id) is None and await self._store.record(workflow_id) is None:
            raise WorkflowNotFound(workflow_id)
        return wire.Journal([wire.view_of_entry(entry) for entry in entries])

    async def explain(self, workflow_id: str, node: str | None = None) -> wire.Explanation:
        """Say why a workflow, or one node, is not running, and what can be done: engine, broker, workers and backend asked.

        Raises:
            WorkflowNotFound, NodeNotFound
        """
        workflow = await self._unpack(workflow_id)
        if node is None:
            return await self._explain_workflow(workflow)
        number = workflow.graph.number(node)
        if number is None:
            raise NodeNotFound(workflow_id, node)
        standing = standing_of_node(self._engine, workflow, number, self._clock.now())
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
        found = standings(self._engine, workflow, now)
        verdict_text = headline(self._engine, workflow, now)
        oldest = list(in_flight_of(workflow, _INSPECTED_MAX))
        inspection = await self._inspect(workflow, oldest)
        # The group of what is in flight is told by its oldest member, which was looked for.
        shown = [
            self._found(workflow, oldest[0], standing, inspection)
            if oldest and standing.node == workflow.graph.names[oldest[0]] and standing.code in _IN_FLIGHT_WORDS
            else standing
            for standing in found
        ]
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

    async def _inspect(self, workflow: RunningWorkflow, nodes: Sequence[int]) -> Inspection:
        """Ask the world outside about tasks in flight."""
        if self._inspector is None or not nodes:
            return Inspection()
        return await self._inspector.trace([_place(workflow, node) for node in nodes])

    def _found(self, workflow: RunningWorkflow, node: int, standing: Standing, inspection: Inspection) -> Standing:
        """Put what the world outside knows of a task into what the engine says."""
        task_id = workflow.task_id_of(node)
        if task_id not in inspection.tasks or workflow.state_of(node) not in IN_FLIGHT:
            return standing
        retry = f"dyrygentctl retry {workflow.workflow_id} {workflow.graph.names[node]} --force"
        finding = verdict(inspection, task_id, now=self._clock.now(), retry_command=retry)
        return replace(
            standing,
            code=finding.code,
            text=f"{standing.text}: {finding.text}",
            next_step=finding.next_step or standing.next_step,
        )

    async def wait(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.WorkflowView:
        """Return the view of a workflow once its end is on disk.

        Raises:
            WorkflowNotFound, WaitTimeout
            DaemonUnreachable: The scheduler was left meanwhile.
        """
        with anyio.move_on_after(timeout_s):
            with _Listener(self._listeners, workflow_id) as listener:
                while self._live(workflow_id) is not None:
                    self._refuse_if_ended(workflow_id)
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
        with _Listener(self._listeners, workflow_id) as listener:
            while self._live(workflow_id) is not None:
                yield await self.view(workflow_id)
                self._refuse_if_ended(workflow_id)
                await listener.wait()
                if self._live(workflow_id) is not None:
                    await anyio.sleep(self.limits.follow_interval_s)
        yield await self.view(workflow_id)

    def statistics(self) -> wire.Statistics:
        """Return a snapshot of all parts."""
        engine = asdict(self._engine.statistics())
        engine |= {
            "inbox": len(self._inbox),
            "publish_queue": len(self._to_publish),
            "turns": self._turns_taken,
            "recovery_seconds": self._recovered_s,
        }
        return wire.Statistics(
            version=__version__,
            uptime_s=self._clock.now() - self._started_at,
            engine=engine,
            store=asdict(self._store.statistics()),
            dispatcher=asdict(self._dispatcher.statistics()),
            watcher=asdict(self._watcher.statistics()),
            problems=[*self._problems()],
        )

    def health(self) -> wire.Health:
        """Tell whether everything works, and what does not."""
        problems = self._problems()
        status = "draining" if self._engine.draining else "degraded" if problems else "ok"
        return wire.Health(status=status, version=__version__, problems=[*problems])

    def _problems(self) -> Sequence[str]:
        problems = [problem for problem in (self._store_problem, self._broker_problem) if problem]
        watcher = self._watcher.statistics()
        if watcher.problem:
            problems.append(watcher.problem)
        return problems

    # --- the turn ---------------------------------------------------------------------------------------------------

    def _post(self, *events: Event) -> None:
        self._inbox.extend(events)
        self._awake.set()

    def _post_results(self, events: Sequence[TaskEvent]) -> None:
        """Take events from the watcher; under overload the reports that decide nothing are dropped."""
        if len(self._inbox) > self.limits.inbox_max:
            events = [event for event in events if not isinstance(event, TaskReported)]
        self._inbox.extend(events)
        self._awake.set()

    async def _take_turns(self) -> None:
        while True:
            await self._wait_for_events()
            now = self._clock.now()
            self._feed(now)
            deadline = self._engine.next_deadline()
            if deadline is not None and deadline <= now:
                batch = self._take_batch(now)
                if batch:
                    self._turns_taken += 1
                    await self._save(batch)
                    self._carry_out(batch)
                self._has_landed = True
            if self._engine.draining and self._is_quiet():
                self._idle.set()

    async def _wait_for_events(self) -> None:
        """Wait for something in the inbox, or for the engine's deadline."""
        deadline = self._engine.next_deadline()
        pause_s = None if deadline is None else deadline - self._clock.now()
        if self._inbox or (pause_s is not None and pause_s <= 0):
            await anyio.lowlevel.checkpoint()
            return
        self._awake = anyio.Event()
        with anyio.move_on_after(pause_s):
            await self._awake.wait()

    def _feed(self, now: float) -> None:
        if self._inbox:
            self._has_landed = False
        for _ in range(min(len(self._inbox), self.limits.turn_events_max)):
            self._engine.handle(self._inbox.popleft(), now)

    def _take_batch(self, now: float) -> Batch:
        batch = self._engine.take_batch(now)
        for workflow in batch.finished:
            self._finishing[workflow.workflow_id] = workflow
        return batch

    async def _save(self, batch: Batch) -> None:
        """Make a batch durable, however long it takes; what happens meanwhile is merged into it."""
        pause_s = _RETRY_FIRST_S
        while batch.row_count:
            try:
                with anyio.CancelScope(shield=True):
                    await self._store.save(batch.save_workflows.values(), batch.save_nodes.values(), batch.journal)
                break
            except StoreUnavailable as error:
                if not self._store_problem:
                    logger.error("nothing is dispatched until the database can be written: %s", error)
                self._store_problem = str(error)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)
            now = self._clock.now()
            self._feed(now)
            batch.merge(self._take_batch(now))
        if self._store_problem:
            logger.warning("the database can be written again")
            self._store_problem = ""

    def _carry_out(self, batch: Batch) -> None:
        """Do the rest of a batch that is durable; nothing here waits."""
        for workflow_id, record in batch.save_workflows.items():
            durable = self._submitting.pop(workflow_id, None)
            if durable is not None:
                durable.set()
            if record.key is not None:
                self._keys.pop(record.key, None)
        for workflow in batch.finished:
            del self._finishing[workflow.workflow_id]
            self._withdrawn.discard(workflow.workflow_id)
            self._to_forget.append(workflow.workflow_id)
            logger.info("workflow %s %r %s", workflow.workflow_id, workflow.name, workflow.state)
        if batch.watch:
            self._watcher.watch(batch.watch)
        if batch.publish:
            self._to_publish.extend(message for message in batch.publish if message.workflow_id not in self._withdrawn)
            self._publisher_awake.set()
        if batch.unwatch:
            self._watcher.unwatch(batch.unwatch)
        self._to_revoke.extend(batch.revoke)
        self._to_revoke_stamped.extend(batch.revoke_stamped)
        if self._to_revoke or self._to_revoke_stamped or self._to_forget:
            self._errands_awake.set()
        for answer in batch.answers:
            ticket = self._tickets.pop(answer.ticket, None)
            if ticket is not None:
                ticket.answer = answer
                ticket.answered.set()
        for workflow_id in batch.changed:
            self._unpacked.pop(workflow_id, None)
            for listener in self._listeners.get(workflow_id, ()):
                listener.notify()

    # --- the other tasks --------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        await self._watcher.run(self._post_results)

    async def _publish(self) -> None:
        while True:
            if not self._to_publish:
                self._publisher_awake = anyio.Event()
                await self._publisher_awake.wait()
            size = min(len(self._to_publish), _PUBLISH_SLICE)
            await self._publish_slice([self._to_publish.popleft() for _ in range(size)])

    async def _publish_slice(self, messages: Sequence[Publish]) -> None:
        """Publish, again and again until the broker answers; what was cancelled meanwhile is left out."""
        pause_s = _RETRY_FIRST_S
        while messages := [message for message in messages if self._engine.is_in_flight(message.task_id)]:
            try:
                outcomes = await self._dispatcher.publish(messages)
            except BrokerUnavailable as error:
                if not self._broker_problem:
                    logger.error("nothing is dispatched until the broker answers: %s", error)
                self._broker_problem = str(error)
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)
                continue
            self._post(*outcomes)
            answered = {outcome.task_id for outcome in outcomes}
            messages = [message for message in messages if message.task_id not in answered]
            if self._broker_problem:
                logger.warning("the broker answers again")
                self._broker_problem = ""

    async def _run_errands(self) -> None:
        """Do what may fail without harm: revoke tasks, forget markers."""
        while True:
            if not self._to_revoke and not self._to_revoke_stamped and not self._to_forget:
                self._errands_awake = anyio.Event()
                await self._errands_awake.wait()
            revoke, self._to_revoke = self._to_revoke, []
            stamped, self._to_revoke_stamped = self._to_revoke_stamped, []
            forget, self._to_forget = self._to_forget, []
            try:
                await self._revoke(revoke, stamped)
                if forget:
                    await self._dispatcher.forget(forget)
            except BrokerUnavailable as error:
                # The engine asks again for as long as a task might still run; a marker that stays expires.
                logger.warning("could not revoke %d tasks or forget %d workflows: %s", len(revoke), len(forget), error)

    async def _revoke(self, revokes: Sequence[Revoke], stamped: Sequence[RevokeStamped]) -> None:
        """Take back what no worker has fetched, and tell the workers about the rest."""
        for terminate in (False, True):
            stamps = [revoke.stamp for revoke in stamped if revoke.terminate == terminate]
            if stamps:
                await self._dispatcher.revoke_stamped(WORKFLOW_STAMP, stamps, terminate=terminate)
        withdrawn: set[str] = set()
        for start in range(0, len(revokes), _PUBLISH_SLICE):
            part = revokes[start : start + _PUBLISH_SLICE]
            places = [TaskPlace(revoke.task_id, revoke.attempt, revoke.signature) for revoke in part]
            withdrawn.update(await self._dispatcher.withdraw(places))
        self._post(*[TaskRevoked(task_id, "withdrawn before a worker had it") for task_id in withdrawn])
        for terminate in (False, True):
            ids = [revoke.task_id for revoke in revokes if revoke.terminate == terminate and revoke.task_id not in withdrawn]
            if ids:
                await self._dispatcher.revoke(ids, terminate=terminate)

    # --- recovery ---------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        begun = time.monotonic()
        count = 0
        async for stored in self._store.unfinished():
            try:
                workflow = await self._rebuild(stored)
            except DyrygentError as error:
                await self._set_aside(stored.record, error)
                continue
            self._engine.handle(WorkflowRecovered(workflow), self._clock.now())
            count += 1
        self._recovered_s = time.monotonic() - begun
        if count:
            logger.info("recovered %d unfinished workflows in %.1f s: %r", count, self._recovered_s, self._engine)

    async def _set_aside(self, record: WorkflowRecord, error: DyrygentError) -> None:
        """End a workflow that cannot be rebuilt, so that it keeps no other from going on."""
        logger.error("workflow %s %r cannot be rebuilt and is set aside: %s", record.workflow_id, record.name, error)
        ended = replace(
            record,
            document=None,
            state=WorkflowState.FAILED,
            finished_at=self._clock.now(),
            error=f"it cannot be rebuilt: {error}",
        )
        await self._store.save([ended], [])

    async def _rebuild(self, stored: Stored) -> RunningWorkflow:
        now = self._clock.now()
        document = stored.record.document
        assert document is not None

        def rebuild() -> RunningWorkflow:
            definition = wire.decode_definition(document, nodes_max=NODES_MAX)
            return restore(
                stored.record,
                stored.nodes,
                definition.graph,
                now=now,
                value_bytes_max=self.limits.engine.value_bytes_max,
                policy=definition.policy,
            )

        return await _in_thread_if_long(rebuild, len(document))

    # --- helpers of the public methods ------------------------------------------------------------------------------

    def _refuse_if_not_accepting(self, nodes: int) -> None:
        limits = self.limits
        if self._has_ended:
            raise NotAccepting("the scheduler has ended", next_step="submit again when it is back")
        if self._engine.draining:
            raise NotAccepting("the daemon is stopping", next_step="submit again when it is back")
        if self._store_problem:
            raise NotAccepting(self._store_problem, next_step="free the database's disk; the daemon goes on by itself")
        if len(self._submitting) >= limits.submissions_max:
            raise NotAccepting(f"{limits.submissions_max} submissions are being stored at this moment")
        if len(self._engine.workflows) >= limits.workflows_max:
            raise NotAccepting(f"{limits.workflows_max} workflows are unfinished, the most that `workflows_max` allows")
        if self._engine.node_count + nodes > limits.nodes_in_memory_max:
            raise NotAccepting(
                f"{self._engine.node_count} nodes are in memory, `nodes_in_memory_max` is {limits.nodes_in_memory_max}"
            )

    def _take_in(self, definition: Definition, document: bytes) -> str:
        """Put a new workflow into the inbox and return its id. Its key is kept until the disk has it."""
        self._refuse_if_not_accepting(len(definition.graph))
        workflow_id = str(uuid4())
        self._submitting[workflow_id] = anyio.Event()
        if definition.key is not None:
            self._keys[definition.key] = workflow_id
        self._post(
            WorkflowSubmitted(
                workflow_id=workflow_id,
                name=definition.name,
                graph=definition.graph,
                document=document,
                key=definition.key,
                labels=definition.labels,
                policy=definition.policy,
                adopted=definition.adopted,
            )
        )
        return workflow_id

    def _refuse_unknown_pools(self, definition: Definition) -> None:
        graph = definition.graph
        for node, policy in graph.policies.items():
            if policy.pool and self._pools.size_of(policy.pool) is None:
                raise UnknownPool(graph.names[node], policy.pool, self._pools.names)

    async def _wait_durable(self, workflow_id: str, *, is_keyed: bool) -> None:
        with anyio.move_on_after(self.limits.durable_timeout_s):
            durable = self._submitting.get(workflow_id)
            if durable is not None:
                await durable.wait()
                if workflow_id in self._submitting:
                    self._refuse_if_ended(workflow_id)
            return
        if not is_keyed:
            self._withdrawn.add(workflow_id)
            self._post(VerbRequested(workflow_id, Request(Verb.CANCEL, why="it could not be stored in time")))
        reason = self._store_problem or "the database is slow"
        raise NotStored(reason, self.limits.durable_timeout_s, withdrawn=not is_keyed)

    def _tell_that_it_ended(self) -> None:
        """Wake everybody who waits for something that will not happen any more in this process."""
        self._has_ended = True
        for durable in (*self._submitting.values(), *(ticket.answered for ticket in self._tickets.values())):
            durable.set()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.notify()

    def _refuse_if_ended(self, workflow_id: str) -> None:
        if self._has_ended:
            raise DaemonUnreachable(
                f"the scheduler has ended before workflow '{workflow_id}'",
                next_step="what is on disk goes on when a scheduler is started with the same database",
            )

    def _live(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow whose end is not on disk yet."""
        return self._engine.workflows.get(workflow_id) or self._finishing.get(workflow_id)

    async def _stored(self, workflow_id: str) -> Stored:
        stored = await self._store.load(workflow_id)
        if stored is None:
            raise WorkflowNotFound(workflow_id)
        return stored

    async def _unpack(self, workflow_id: str) -> RunningWorkflow:
        """Return the workflow in its unpacked form; finished ones are read back, the last few are kept."""
        workflow = self._live(workflow_id) or self._unpacked.get(workflow_id)
        if workflow is None:
            workflow = self._unpacked[workflow_id] = await self._rebuild(await self._stored(workflow_id))
            while len(self._unpacked) > _UNPACKED_MAX:
                self._unpacked.popitem(last=False)
        return workflow

    def _is_quiet(self) -> bool:
        """Tell whether nothing is in flight and what came of it is on disk."""
        return self._has_landed and not self._inbox and not self._to_publish and not self._engine.in_flight_count


@dataclass(slots=True)
class _Ticket:
    """Somebody who waits for the answer to a verb."""

    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: Answer | None = None


class _Listener:
    """One caller's interest in the changes of one workflow; a change between two waits is not lost."""

    def __init__(self, listeners: "dict[str, set[_Listener]]", workflow_id: str) -> None:
        self._listeners = listeners
        self._workflow_id = workflow_id
        self._changed = anyio.Event()

    def __enter__(self) -> Self:
        self._listeners.setdefault(self._workflow_id, set()).add(self)
        return self

    def __exit__(self, *_: object) -> None:
        listeners = self._listeners[self._workflow_id]
        listeners.discard(self)
        if not listeners:
            del self._listeners[self._workflow_id]

    def notify(self) -> None:
        self._changed.set()

    async def wait(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()


#: Codes of groups that an inspection can say more about.
_IN_FLIGHT_WORDS = frozenset(state.word for state in IN_FLIGHT)


def _place(workflow: RunningWorkflow, node: int) -> TaskPlace:
    signature = workflow.graph.signatures[node]
    assert signature is not None
    return TaskPlace(workflow.task_id_of(node), workflow.attempt_of(node), signature)


def _facts(workflow: RunningWorkflow, nodes: Sequence[int], inspection: Inspection) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for node in nodes:
        task = inspection.tasks.get(workflow.task_id_of(node))
        if task is not None:
            queue = inspection.queues.get(task.queue)
            facts[workflow.graph.names[node]] = asdict(task) | {"queue": None if queue is None else asdict(queue)}
    return facts


def _submitted(workflow_id: str, definition: Definition, *, created: bool) -> wire.Submitted:
    graph = definition.graph
    return wire.Submitted(
        id=workflow_id,
        name=definition.name,
        tasks=graph.task_count,
        created=created,
        task_id=graph.task_ids[graph.output] or None if graph.output is not None else None,
    )


async def _shielded(close: Callable[[], Awaitable[None]]) -> None:
    """Close to the end, also when the program around is being cancelled."""
    with anyio.CancelScope(shield=True):
        await close()


async def _in_thread_if_long(work: Callable[[], T], size: int) -> T:
    return work() if size <= _INLINE_BYTES else await anyio.to_thread.run_sync(work)


def _store_of(database: str | Path | None) -> Store:
    from dyrygentd.store.sqlite import SqliteStore

    if database is None:
        raise ConfigurationError("no database was named", next_step='pass `database="state.db"`')
    return SqliteStore(Path(database))


def _dispatcher_of(app: Any) -> Dispatcher:
    from dyrygentd.transport.dispatcher import CeleryDispatcher

    return CeleryDispatcher(_required(app))


def _watcher_of(app: Any, *, value_bytes_max: int) -> ResultWatcher:
    from dyrygentd.transport import watcher_of

    return watcher_of(_required(app), value_bytes_max=value_bytes_max)


def _inspector_of(app: Any) -> Inspector:
    from dyrygentd.transport.inspector import CeleryInspector

    return CeleryInspector(app)


def _required(app: Any) -> Any:
    if app is None:
        raise ConfigurationError("no Celery app was given", next_step="pass the app, or adapters of your own")
    return app
