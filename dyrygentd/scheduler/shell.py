"""The scheduler as programs see it: the parts put together, begun and ended.

Theory of operation
===================
*The idea.* One task owns the engine. Everybody else (the watcher, the publisher, callers of `submit` and `cancel`) only puts
events into the inbox. A turn takes what is in the inbox, feeds the engine with it, all with one ``now``, and has the batch that
comes back carried out: `dyrygentd.scheduler.carrying` has the order.

*Beside the inbox* two tables of the engine are changed: `Door` claims and gives up task ids from outside, and the search for lost
tasks takes those that are suspected to have been given out twice. Both may happen within a turn: where very many nodes are worked
on, it lets others in this process have theirs between two steps (`dyrygentd.core.steps`). No workflow is changed by that.

*Publishing* is a task of its own, so a turn does not wait for the broker. It repeats a slice until the dispatcher
accepts it: the intent is on disk, the task id is fixed, and where the broker can, a marker makes a repetition harmless.

*When the disk refuses*, results go on being read, and new submissions are refused. The work that can pile up is bounded by what
is in flight.

*What could go wrong.* A crash at any point: what is on disk decides (see `dyrygentd.core.checkpoint`). A caller that is
cancelled while it waits: its event is in the inbox already, and happens. Cancelling this task: a transaction that has begun is
awaited, since SQLite's thread would finish it anyway.

*Tried and rejected.* Publishing inside the turn: 500 messages take 100 ms, during which no result would be seen.
"""

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from dyrygentd import canvas, metrics, wire
from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import Fenced
from dyrygentd.ports import Clock, Dispatcher, Inspector, OutcomeKeeper, ReportReader, ResultWatcher, Store
from dyrygentd.ports.facts import Selection
from dyrygentd.ports.values import ItemFiles, ValueStore
from dyrygentd.scheduler.adapters import adapters_of
from dyrygentd.scheduler.handle import Handle
from dyrygentd.scheduler.limits import Pace, SchedulerLimits
from dyrygentd.scheduler.parts import Parts
from dyrygentd.scheduler.report import Report
from dyrygentd.scheduler.service import Service
from dyrygentd.scheduler.tenure import questions, unwrapped
from dyrygentd.tasks.current import current_parent_task


class Scheduler(Service):
    """Runs workflows in an asyncio program. An async context manager: entering recovers what was unfinished.

    It installs no signal handlers and keeps no state outside itself, so a program may have several, each with its own database.

    Args:
        app: The Celery app whose broker, backend and routes are used; not needed if ``dispatcher`` and ``watcher`` are given.
        database: Path of an SQLite file, which is created if it does not exist, or a URL that begins with ``postgresql://``.
        limits: Bounds of everything that can grow.
        pace: How often it looks at things.
        registry: A prometheus_client registry that gets this scheduler's metrics while it runs.
        store, dispatcher, watcher, inspector, reports, keeper, clock: Adapters instead of the usual ones, see `dyrygentd.ports`
            and `dyrygentd.testing`.
        values: Where values longer than ``value_spill_bytes`` of the limits are kept, see `dyrygentd.ports.values`; by default in
            memory and in the database, as the others.
        files: Where files are that maps go over, see `dyrygentd.scheduler.item_lists`; by default nowhere.
        chance: Makes ids and jitter; one with a seed makes a run repeatable.
        app_name: What Celery's ``-A`` takes for this app, for commands that people are given.
        on_recovered: Told on entering, after each workflow, how many of how many are there again.
        broker_trouble: Given what is seen of the broker (empty: nothing is wrong), returns what whoever runs it knows.

    Raises:
        ConfigurationError: Neither an app nor adapters were given.
        BackendUnsupported: The app's results cannot be awaited from another process.
        StoreLocked, StoreIncompatible, StoreUnavailable: On entering, if the database cannot be used.
        Fenced: Another process has taken over, with the same database or a copy of it: on entering; or from the ``with``
            statement, whose body is cancelled then. Whoever waits for something is told so, too.
    """

    def __init__(
        self,
        app: Any = None,
        *,
        database: str | Path | None = None,
        limits: SchedulerLimits | None = None,
        pace: Pace | None = None,
        registry: metrics.Registry | None = None,
        store: Store | None = None,
        dispatcher: Dispatcher | None = None,
        watcher: ResultWatcher | None = None,
        inspector: Inspector | None = None,
        reports: ReportReader | None = None,
        keeper: OutcomeKeeper | None = None,
        clock: Clock | None = None,
        values: ValueStore | None = None,
        files: ItemFiles | None = None,
        chance: random.Random | None = None,
        app_name: str = "",
        on_recovered: Callable[[int, int], None] = lambda count, of: None,
        broker_trouble: Callable[[str], str] = str,
        refuse_tasks: Callable[[Graph], None] = lambda graph: None,
    ) -> None:
        limits = limits or SchedulerLimits()
        self.app = app
        self._adapters = adapters_of(
            app,
            database,
            limits,
            store=store,
            dispatcher=dispatcher,
            watcher=watcher,
            inspector=inspector,
            reports=reports,
            keeper=keeper,
            clock=clock,
            values=values,
            files=files,
        )
        self._parts = Parts(
            self._adapters,
            limits,
            pace=pace or Pace(),
            chance=chance or random.SystemRandom(),
            app_name=app_name,
            on_recovered=on_recovered,
            broker_trouble=broker_trouble,
            refuse_tasks=refuse_tasks,
        )
        self._answer_by(self._parts.answers)
        self._report = Report(self._parts)
        self._registry = registry
        self._exits = AsyncExitStack()

    def __repr__(self) -> str:
        waiting = f"inbox={len(self._parts.inbox)} to_publish={self._parts.courier.queue_size}"
        return f"<Scheduler {self._parts.turns.engine!r} {waiting}>"

    async def __aenter__(self) -> Self:
        adapters, parts = self._adapters, self._parts
        async with AsyncExitStack() as exits:
            exits.push_async_callback(_shielded, adapters.dispatcher.close)
            if adapters.inspector is not None:
                exits.push_async_callback(_shielded, adapters.inspector.close)
            # Also if it cannot be had: who has asked for it is connected.
            exits.push_async_callback(_shielded, adapters.store.close)
            await parts.open()
            exits.callback(parts.redaction.close)
            self._report.begin()
            await parts.prepare(await exits.enter_async_context(questions()))
            exits.push_async_callback(_shielded, parts.sentinel.end)
            exits.push_async_callback(_shielded, parts.estimates.end)
            if self._registry is not None:
                collector = metrics.register(self._registry, self.statistics)
                exits.callback(metrics.unregister, self._registry, collector)
            exits.callback(parts.end)
            tasks = await exits.enter_async_context(anyio.create_task_group())
            exits.callback(tasks.cancel_scope.cancel)
            parts.start(tasks)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        is_theirs = error is not None and not isinstance(error, anyio.get_cancelled_exc_class())
        try:
            if not is_theirs:
                return await self._exits.__aexit__(kind, error, traceback)
            # Not by way of the task group, which would wrap it: callers catch what they have raised.
            await self._exits.aclose()
        except BaseExceptionGroup as group:
            found = unwrapped(group)
            if not (is_theirs and isinstance(found, Fenced)):
                raise found from None
        return None

    @property
    def limits(self) -> SchedulerLimits:
        """Return the bounds in force."""
        return self._parts.limits

    # --- submitting and controlling ---------------------------------------------------------------------------------

    async def submit(
        self,
        what: Any,
        *,
        key: str | None = None,
        name: str | None = None,
        series: str | None = None,
        if_running: str | None = None,
    ) -> Handle:
        """Submit a canvas, a `Workflow` or a `Definition`; return when it is on disk.

        Args:
            key: If a workflow was submitted with this key before, that one is returned and nothing is created. With another
                definition the key is refused.
            series, if_running: As of `Client.submit`.

        Raises:
            NotACanvas, DefinitionError: It cannot be run.
            NotAccepting: Not now.
        """
        parent_task = current_parent_task()

        def read() -> Definition:
            definition = canvas.definition_of(
                what, name=name, key=key, series=series, if_running=if_running, calls_overrides=True, new_id=MadeIds()
            )
            return replace(definition, inner=wire.inner_of(definition))

        definition = await anyio.to_thread.run_sync(read)
        if parent_task is not None and definition.parent_task is None:
            definition = replace(definition, parent_task=parent_task)
        submitted = await self.submit_definition(definition)
        return Handle(self, submitted.id, created=submitted.created, decided=submitted.decided)

    def knows_task(self, task: str) -> bool:
        """Tell whether the app of this process has the task, and says itself where it goes."""
        return self._adapters.dispatcher.knows(task)

    async def submit_definition(self, definition: Definition, *, owner: User | int | None = None) -> wire.Submitted:
        """Submit a definition; return when it is on disk.

        Args:
            owner: The user for whom it is submitted.

        Raises:
            BadNode: Its result could not be read here.
            NotAccepting: Not now.
            NotStored: The disk did not answer in time. Without a key the submission is withdrawn, so that trying again does not
                run it twice.
            NotOnDiskYet: The same with a key: it is taken as soon as it can be written, and trying again finds it.
        """
        return await self._parts.reception.submit(definition, User.of(owner))

    async def take_over(self, imported: wire.Imported, *, by: str = "", owner: User | int | None = None) -> wire.Submitted:
        """Take in a workflow that another daemon had, with its states and values; return when it is on disk.

        One that has not finished comes paused, and `resume` lets it go on.

        Args:
            imported: What `wire.decode_export` has read.
            by, owner: Who brings it, for the journal, and whose workflow it is from now on.

        Raises:
            NotImportable: It is here already, or goes on where it came from.
            BadRequest: It contradicts itself.
            NotAccepting: As `submit_definition`.
            NotOnDiskYet: It is taken as soon as it can be written.
        """
        return await self._parts.reception.take_over(imported, by=by, owner=User.of(owner))

    async def perform(self, workflow_id: str, request: VerbRequest) -> wire.Changed:
        """Carry out a verb on a workflow or on nodes of it; return when that is on disk.

        Verbs are idempotent: asking for what is so already changes nothing. `dyrygentd.core.verbs` has the tables of what each
        does in which state. Every change is recorded with who asked for it and why.

        Raises:
            WorkflowNotFound, NodeNotFound, CauseNotFound
            VerbRefused: Not in this state; its next step says what is possible.
            ValueGone: A node cannot run again without a value that was let go.
            NotOnDiskYet: The disk did not answer in time. It will be done as soon as it can be written.
            StoreUnavailable: The disk did not answer in time. Nothing was done.
        """
        return await self._parts.reception.perform(workflow_id, request)

    async def cancel(
        self, workflow_id: str, *, terminate: bool = False, force: bool = False, by: str = "", why: str = ""
    ) -> wire.Changed:
        """End a workflow: what was not dispatched never is, what is in flight is revoked. Return when that is on disk.

        Args:
            terminate: End tasks that run, too. Without it they go on, are shown as late, and change nothing.
            force: End at once what cleans up after sections, too.
        """
        return await self.perform(workflow_id, VerbRequest(Verb.CANCEL, by=by, why=why, terminate=terminate, force=force))

    async def perform_in_bulk(self, selection: Selection, request: VerbRequest) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit, newest first, each on its own; at most 1000 of them."""
        return await self._parts.reception.perform_in_bulk(selection, request)

    def set_limits(self, limits: SchedulerLimits) -> None:
        """Change the bounds that are live, see `SchedulerLimits`; of the others nothing is taken.

        Tasks that are in flight stay there, and what was kept or shown before stays as it is.
        """
        self._parts.set_limits(limits)

    def note(self, words: str) -> None:
        """Have `health` and the status tell what whoever runs the scheduler noticed; nothing takes it back."""
        self._parts.troubles.note(words)

    async def drain(self, *, timeout_s: float = 10.0) -> bool:
        """Dispatch nothing more and wait for what is in flight; tell whether all of it landed in time.

        What is still in flight then is no loss: its results are found after the next start.
        """
        return await self._parts.turns.drain(timeout_s)

    # --- how it stands ----------------------------------------------------------------------------------------------

    @property
    def vantage(self) -> str:
        """Return nothing: who leads is the one to ask."""
        return ""

    def statistics(self) -> wire.Statistics:
        """Return a snapshot of all parts."""
        return self._report.statistics()

    def health(self) -> wire.Health:
        """Tell whether everything works, and what does not."""
        return self._report.health()

    @property
    def workflow_count(self) -> int:
        """Number of unfinished workflows, without those whose submission was withdrawn."""
        return self._report.workflow_count

    def people_wanted(self) -> dict[str, int]:
        """Count what waits for a person: nodes that are ``lost``, a ``gate``, held by an ``operator``; ``paused`` workflows."""
        return self._report.people_wanted()

    @property
    def in_flight_count(self) -> int:
        """Number of tasks in the broker or at workers; nothing of a withdrawn submission was sent."""
        return self._report.in_flight_count

    @property
    def stalled_s(self) -> float:
        """For how long there has been work that no turn took up, though it is not the disk that a turn waits for.

        Anything but 0 for longer than a moment is a bug of ours: a watchdog may end the process for it, and nothing is lost.
        """
        return self._parts.turns.stalled_s


async def _shielded(close: Callable[[], Awaitable[None]]) -> None:
    """Close to the end, also when the program around is being cancelled."""
    with anyio.CancelScope(shield=True):
        await close()
