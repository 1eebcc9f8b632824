"""The client for asyncio programs; the same surface as `dyrygentd.client.sync`."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Self, Unpack

from dyrygentd import wire
from dyrygentd.client import bodies, forms, patience
from dyrygentd.client.channel import Channel
from dyrygentd.client.connection import Warn
from dyrygentd.client.ways import Where
from dyrygentd.errors import DyrygentError
from dyrygentd.tasks.apply_options import ApplyOptions
from dyrygentd.tasks.current import current_parent_task

Views = list[wire.WorkflowView]
Entries = list[wire.JournalView]


class AsyncClient:
    """Talks to the daemon; an async context manager.

    Args:
        socket: Path of the daemon's socket, or ``ssh://[user@]host[:port][/path]``: that of another host, by the user's own ssh.
            Default: ``$DYRYGENTD_HOST``, ``$DYRYGENTD_SOCKET``, the system's, the user's.
        timeout_s: How long an answer may take.
        warn: Told once if the daemon has another version; by default that is a Python warning.
        note: Told once, by the first answer, if the daemon is a standby or gateway: who leads, and how old it may be.

    Raises:
        DaemonUnreachable: (all methods) Nobody answers on the socket, or somebody else does.
        RemoteError: (all methods) The daemon refuses.
        NotOnDiskYet: (verbs, submissions with a key) It is no failure: what was asked for is done as soon as the daemon can write
            it. A `RemoteError` as well.
    """

    def __init__(
        self, socket: Where = None, *, timeout_s: float = 60.0, warn: Warn | None = None, note: Warn | None = None
    ) -> None:
        self._channel = Channel(socket, timeout_s=timeout_s, warn=warn, note=note)

    def __repr__(self) -> str:
        return f"<AsyncClient {self._channel.way.name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        await self._channel.close()

    @property
    def vantage(self) -> str:
        """Return what the last answer says of a daemon that does not lead: who does, and how old it may be; empty if it leads."""
        return self._channel.vantage

    async def submit(
        self,
        what: Any,
        *,
        key: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        series: str | None = None,
        if_running: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        on_override: bodies.OnOverride = "call",
        progress: forms.Progress | None = None,
        **options: Unpack[ApplyOptions],
    ) -> "AsyncHandle":
        """Submit a workflow; return when the daemon has it on disk. See `Client.submit`."""
        tell = forms.told_by_step(progress)
        tell("building", 0, 0)
        ask = await asyncio.to_thread(
            forms.submission,
            what,
            key=key,
            name=name,
            labels=labels,
            series=series,
            if_running=if_running,
            parameters=parameters,
            on_override=on_override,
            options=options,
            # Here, and not in the thread, where nobody knows of the task.
            parent_task=current_parent_task(),
        )
        answer = await self._channel.request(ask, progress=tell)
        submitted = wire.decode(answer, wire.Submitted)
        return AsyncHandle(self._channel, submitted.id, submitted)

    async def take_over(self, export: bytes) -> "AsyncHandle":
        """Hand over what `AsyncHandle.export` of another daemon gave; return when this daemon has it on disk.

        A workflow that has not finished must have been paused, with nothing in flight; it comes paused.
        """
        submitted = wire.decode(await self._channel.request(forms.importation(export)), wire.Submitted)
        return AsyncHandle(self._channel, submitted.id, submitted)

    async def get(self, reference: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view of a workflow, by its id, a unique prefix, its name, ``@latest`` or ``key:KEY``."""
        return wire.decode_view(await self._channel.request(forms.view(reference, with_result=with_result)))

    async def summary(self, reference: str, *, limit: int = 20) -> wire.Summary:
        """Return a workflow and those of its nodes that matter most, ``limit`` of a kind at most; it is named as in `get`."""
        return wire.decode_summary(await self._channel.request(forms.summary(reference, limit)))

    async def handle(self, reference: str | wire.WorkflowView, *, with_result: bool = False) -> "AsyncHandle":
        """Return the handle of a workflow, by its id, a unique prefix, its name or ``@latest``; it keeps the view that was read.

        Args:
            reference: Or a view, of `list` say; then the daemon is not asked.
            with_result: As in `get`.
        """
        view = await self.get(reference, with_result=with_result) if isinstance(reference, str) else reference
        return AsyncHandle(self._channel, view.id, view=view)

    async def list(self, *, limit: int | None = 50, **which: Unpack[forms.Which]) -> Views:
        """Return workflows, newest first, and without the children of others; all of them if ``limit`` is None.

        Args:
            which: ``states``, ``name``, ``labels``, ``since`` …: all that `dyrygentd.client.forms.Which` has.
        """
        listing = forms.Listing(limit=limit, **which)
        for ask in listing:
            listing.take(await self._channel.request(ask))
        return listing.views

    async def perform_in_bulk(
        self,
        verb: str,
        *,
        states: Iterable[str] = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        terminate: bool = False,
        why: str = "",
    ) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit, newest first, 1000 at most; what is refused is told and skipped.

        Args:
            verb: ``cancel``, ``pause``, ``resume``, ``retry`` or ``set-priority``.
        """
        ask = forms.verb_in_bulk(verb, states=states, name=name, labels=labels, priority=priority, terminate=terminate, why=why)
        return wire.decode(await self._channel.request(ask), wire.BulkChanged)

    async def journal(self, cursor: str | None = None) -> wire.Journal:
        """Return who did what to all workflows: what came after a cursor (`wire.Journal.next`), or the newest 100 entries."""
        return wire.decode(await self._channel.request(forms.audit(cursor)), wire.Journal)

    async def explain(self, *, most: int = 5) -> wire.Overview:
        """Return what is wrong, what waits for a person, what is stuck and what failed lately; so many of each kind."""
        return wire.decode(await self._channel.request(forms.overview(most)), wire.Overview)

    async def stats(self) -> wire.Statistics:
        """Return what the daemon is doing."""
        return wire.decode(await self._channel.request(forms.STATISTICS), wire.Statistics)

    async def run_times(self) -> wire.RunTimesView:
        """Return how long tasks take, by their names, as far as the daemon has measured it."""
        return wire.decode(await self._channel.request(forms.RUN_TIMES), wire.RunTimesView)

    async def health(self) -> wire.Health:
        """Return whether the daemon does its work."""
        return wire.decode(await self._channel.request(forms.HEALTH), wire.Health)


class AsyncHandle:
    """One workflow at the daemon. See `dyrygentd.client.sync.Handle`.

    Attributes:
        id: The workflow's id, and no task's: an `AsyncResult` of it stays pending for ever. `celery_result` gives those that end.
        view: What was known when the handle was made, if it comes from `AsyncClient.handle`; `status` asks anew.
    """

    def __init__(
        self,
        channel: Channel,
        workflow_id: str,
        submitted: wire.Submitted | None = None,
        *,
        view: wire.WorkflowView | None = None,
    ) -> None:
        self.id = workflow_id
        self.submitted = submitted
        self.view = view
        self._channel = channel

    def __repr__(self) -> str:
        return f"<AsyncHandle {self.id}>"

    async def status(self, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view; with ``with_result`` also the value of the output, as ``view.result``."""
        return wire.decode_view(await self._channel.request(forms.view(self.id, with_result=with_result)))

    async def outcome(self) -> wire.Outcome:
        """Return how it stands now, without waiting: state, value, first error, and the nodes that failed so far.

        Of one that goes on (``is_finished`` is False) there is no value yet.
        """
        view = await self.status(with_result=True)
        return wire.outcome_of(view, await self._failed_nodes(view))

    async def wait(self, timeout_s: float | None = None, *, tell: forms.Seen | None = None) -> wire.Outcome:
        """Wait for the end; a daemon that goes away meanwhile is waited for as well.

        Args:
            tell: Told the view, with its result, whenever one was read: every 20 s, and at the end.

        Raises:
            WaitTimeout: The time is over; the workflow goes on.
        """
        wait = patience.Wait(self.id, timeout_s)
        while True:
            try:
                view = wire.decode_view(await self._channel.request(wait.ask()))
                if tell is not None:
                    tell(view)
                if view.is_finished:
                    return wire.outcome_of(view, await self._failed_nodes(view))
                wait.answered()
            except DyrygentError as error:
                wait.failed(error)
            await asyncio.sleep(wait.pause_s())

    async def perform(
        self,
        verb: str,
        *,
        nodes: Iterable[str] = (),
        cause: str = "",
        value: object = None,
        priority: int | None = None,
        terminate: bool = False,
        force: bool = False,
        why: str = "",
    ) -> wire.Changed:
        """Carry out a verb on the workflow or its nodes; repeating one changes nothing.

        Args:
            verb: ``cancel``, ``pause``, ``resume``, ``retry``, ``hold``, ``release``, ``skip``, ``rerun`` or ``set-priority``.
            why: The reason, for the journal.
        """
        fields = {"cause": cause, "value": value, "priority": priority, "terminate": terminate, "force": force, "why": why}
        ask = forms.verb(self.id, verb, nodes=list(nodes) or None, **fields)
        return wire.decode(await self._channel.request(ask), wire.Changed)

    async def cancel(self, *, terminate: bool = False, force: bool = False, why: str = "") -> wire.Changed:
        """End the workflow now, but for what cleans up after its sections; one that has finished stays as it is.

        Args:
            force: End that now, too.
            terminate: End tasks that run, too; without it they go on, are shown as late, and change nothing.
        """
        return await self.perform("cancel", terminate=terminate, force=force, why=why)

    async def pause(self, *, why: str = "") -> wire.Changed:
        """Dispatch nothing more until `resume`; results go on coming in."""
        return await self.perform("pause", why=why)

    async def resume(self, *, why: str = "") -> wire.Changed:
        """Go on after `pause`."""
        return await self.perform("resume", why=why)

    async def retry(
        self, *nodes: str, cause: str = "", force: bool = False, terminate: bool = False, why: str = ""
    ) -> wire.Changed:
        """Try again what failed or was lost, and all that never ran because of it: everything, some nodes, or one cause.

        Args:
            cause: Number or id of a cause, see `causes`; ``lost`` for all that was lost.
            force: Also give up an attempt that is in flight.
            terminate: End that attempt at its worker, too.
        """
        return await self.perform("retry", nodes=nodes, cause=cause, force=force, terminate=terminate, why=why)

    async def hold(self, *nodes: str, why: str = "") -> wire.Changed:
        """Keep nodes from being dispatched until `release`."""
        return await self.perform("hold", nodes=nodes, why=why)

    async def release(self, *nodes: str, why: str = "") -> wire.Changed:
        """Let nodes go that an operator, a gate or a time holds; without any, start a workflow now that waits for its time."""
        return await self.perform("release", nodes=nodes, why=why)

    async def skip(
        self, *nodes: str, value: object = None, cause: str = "", terminate: bool = False, why: str = ""
    ) -> wire.Changed:
        """Count nodes as succeeded, with this value, and go on without them.

        Args:
            cause: Number or id of a cause, see `causes`, or ``lost``: all nodes that failed or were lost for it.
            terminate: End their tasks, too, if a worker has begun them.
        """
        return await self.perform("skip", nodes=nodes, value=value, cause=cause, terminate=terminate, why=why)

    async def rerun(self, *nodes: str, why: str = "") -> wire.Changed:
        """Run nodes and everything after them again."""
        return await self.perform("rerun", nodes=nodes, why=why)

    async def set_priority(self, priority: int, *, why: str = "") -> wire.Changed:
        """Change whose turn comes first; higher goes first."""
        return await self.perform("set-priority", priority=priority, why=why)

    async def explain(self, node: str | None = None) -> wire.Explanation:
        """Return why the workflow, or one node, is not running, and what can be done."""
        return wire.decode(await self._channel.request(forms.explanation(self.id, node)), wire.Explanation)

    async def fold(self, path: str = "") -> wire.FoldView:
        """Return the workflow folded into at most 300 boxes, or one of its boxes opened, by its path."""
        return wire.decode(await self._channel.request(forms.fold(self.id, path)), wire.FoldView)

    async def timeline(self, path: str = "", *, bins: int | None = None) -> wire.TimelineView:
        """Return where the time of the workflow, or of a box of it, went, in 2 to 400 bins (60 if you do not say)."""
        return wire.decode(await self._channel.request(forms.timeline(self.id, path, bins)), wire.TimelineView)

    async def estimate(self) -> wire.EstimateView:
        """Return how long the workflow goes on, as a range, and what bounds it."""
        return wire.decode(await self._channel.request(forms.about(self.id, "estimate")), wire.EstimateView)

    async def causes(self) -> wire.Causes:
        """Return the failures grouped by cause."""
        return wire.decode(await self._channel.request(forms.about(self.id, "causes")), wire.Causes)

    async def export(self) -> bytes:
        """Return all of the workflow as JSON, arguments and values included; `take_over` takes it. For the owner and admins."""
        return await self._channel.request(forms.about(self.id, "export"))

    async def definition(self) -> bytes:
        """Return the definition as JSON, arguments included; `AsyncClient.submit` takes it. For the owner and admins."""
        return await self._channel.request(forms.about(self.id, "definition"))

    async def journal(self) -> Entries:
        """Return who did what to the workflow, oldest first."""
        return wire.decode(await self._channel.request(forms.about(self.id, "journal")), wire.Journal).entries

    async def nodes(
        self, *, states: Iterable[str] = (), path: str = "", name: str = "", page: int = forms.PAGE
    ) -> AsyncIterator[wire.NodeView]:
        """Iterate over the nodes in their order, page by page. See `dyrygentd.client.sync.Handle.nodes`."""
        pages = forms.NodePages(self.id, states=states, path=path, name=name, page=page)
        for ask in pages:
            for node in pages.take(await self._channel.request(ask)):
                yield node

    async def celery_result(self, app: Any = None) -> Any:
        """Return Celery's own result of the workflow, see `dyrygentd.client.sync.Handle.celery_result`."""
        from dyrygentd.results import celery_result

        return celery_result(self.id, [node async for node in self.nodes()], app=app)

    async def children(self, *, limit: int | None = None, states: Iterable[str] = ()) -> Views:
        """Return the workflows that are the work of its nodes, those that began last first; theirs are found by their handles."""
        listing = forms.Listing(limit=limit, states=states, parent=self.id)
        for ask in listing:
            listing.take(await self._channel.request(ask))
        return listing.views

    async def parent(self) -> "AsyncHandle | None":
        """Return the workflow whose node this one is the work of; None if somebody submitted it."""
        above = (await self.status()).parent
        return None if above is None else AsyncHandle(self._channel, above.workflow)

    async def node(self, name: str) -> wire.NodeView:
        """Return one node."""
        return wire.decode(await self._channel.request(forms.about(self.id, "nodes", name)), wire.NodeView)

    async def events(self, *, reconnect_s: float = patience.RECONNECT_S) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after each change, until the workflow has finished.

        Args:
            reconnect_s: How long to try to come back to a daemon that went away, before `DaemonUnreachable` is raised.
        """
        async for event in self._events(forms.workflow_target(self.id, "events"), reconnect_s):
            if event.view is not None:
                yield event.view

    async def follow_fold(self, path: str = "", *, reconnect_s: float = patience.RECONNECT_S) -> AsyncIterator[wire.FoldView]:
        """Iterate over `fold` now and after changes, twice a second at most, until the workflow has finished.

        Only the boxes that have changed are sent. ``reconnect_s`` is as in `events`.
        """
        async for event in self._events(forms.fold_events_target(self.id, path), reconnect_s):
            if event.fold is not None:
                yield event.fold

    async def _events(self, target: str, reconnect_s: float) -> AsyncIterator[forms.StreamEvent]:
        """Iterate over the events of a stream to its end, across restarts of the daemon."""
        connection = patience.Reconnection(reconnect_s)
        while True:
            try:
                reader = forms.EventReader()
                async for line in self._channel.lines(target, silence_max_s=patience.SILENCE_MAX_S):
                    event = reader.feed(line)
                    if event is not None:
                        connection.answered()
                        if event.kind == "end":
                            return
                        yield event
            except DyrygentError as error:
                connection.failed(error)
            await asyncio.sleep(connection.pause_s())

    async def _failed_nodes(self, view: wire.WorkflowView) -> list[wire.NodeView]:
        ask = forms.failed_nodes(view)
        return [] if ask is None else wire.decode(await self._channel.request(ask), wire.NodePage).nodes
