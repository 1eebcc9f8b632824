"""The client for programs and scripts that do not use asyncio. Needs nothing but the standard library and msgspec.

A daemon that restarts interrupts nobody who waits: `Handle.wait` and `Handle.events` come back to it by themselves.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, Unpack

from dyrygentd import wire
from dyrygentd.client import bodies, forms, patience
from dyrygentd.client.connection import Connection, Warn
from dyrygentd.client.ways import Where, find_way
from dyrygentd.errors import DyrygentError
from dyrygentd.tasks.apply_options import ApplyOptions
from dyrygentd.tasks.current import current_parent_task

Views = list[wire.WorkflowView]
Entries = list[wire.JournalView]


class Client:
    """Talks to the daemon; safe to use from several threads.

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
        way = find_way(socket, timeout_s=timeout_s)
        # One that was handed in is closed by whoever made it.
        self._is_own_way = way is not socket
        self._connection = Connection(way, timeout_s=timeout_s, warn=warn, note=note)

    def __repr__(self) -> str:
        return f"<Client {self._connection.way.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End ssh if the daemon is on another host; else nothing is open, as no connection outlives its request."""
        if self._is_own_way:
            self._connection.way.close()

    def submit(
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
    ) -> "Handle":
        """Submit a workflow; return when the daemon has it on disk.

        Inside a Celery task, that one is the parent of the first tasks, as natively.

        Args:
            what: A canvas, a `Workflow`, a `Definition`, or a definition document (a dict, or JSON as bytes).
            key: If this user has submitted a workflow with this key before, its handle is returned and nothing is created;
                with another definition the key is refused. It is forgotten with the workflow's history. Only a submission with
                a key can be repeated without harm after the connection broke.
            name, labels: Instead of those that ``what`` brings.
            series, if_running: As in a definition. `Handle.submitted` has what was ``decided``; of one that was skipped the
                handle is that of the run which goes on.
            parameters: Values of the parameters that a definition document declares.
            on_override: An overridden `apply_async` or `send_task` of a task in a canvas or `Workflow` is called for each node,
                and what it adds is kept; with ``ignore`` it is passed over. One that cannot be called is refused.
            progress: Told what is done (``building``, ``sending``, ``storing``), how much of it, and of how much; of 0 if that is
                not known.
            options: Of a canvas the arguments of its `apply_async`: ``queue``, ``countdown``, ``eta``, ``expires``, ``priority``,
                ``link``, ``link_error``, ``task_id``, ``headers``, limits … They mean what they mean there: of a chain they are
                for its first step, of a group for each member.

        Raises:
            NotACanvas, DefinitionError: It cannot be run; nothing was sent.
            TypeError: An argument of `apply_async` is not taken; the message says where it goes.
            RemoteError: The daemon refuses it: ``key-taken``, ``not-allowed``, an unknown pool …
            RemoteUnavailable: Not now; nothing was taken.
            DaemonUnreachable: If its ``may_be_done`` is true, repeat it with the same key; without one, look first.
        """
        tell = forms.told_by_step(progress)
        tell("building", 0, 0)
        ask = forms.submission(
            what,
            key=key,
            name=name,
            labels=labels,
            series=series,
            if_running=if_running,
            parameters=parameters,
            on_override=on_override,
            options=options,
            parent_task=current_parent_task(),
        )
        answer = self._connection.request(ask, progress=tell)
        submitted = wire.decode(answer, wire.Submitted)
        return Handle(self._connection, submitted.id, submitted)

    def take_over(self, export: bytes) -> "Handle":
        """Hand over what `Handle.export` of another daemon gave; return when this daemon has it on disk.

        A workflow that has not finished must have been paused, with nothing in flight; it comes paused.
        """
        submitted = wire.decode(self._connection.request(forms.importation(export)), wire.Submitted)
        return Handle(self._connection, submitted.id, submitted)

    def get(self, reference: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view of a workflow, by its id, a unique prefix, its name, ``@latest`` or ``key:KEY``."""
        return wire.decode_view(self._connection.request(forms.view(reference, with_result=with_result)))

    def summary(self, reference: str, *, limit: int = 20) -> wire.Summary:
        """Return a workflow and those of its nodes that matter most, ``limit`` of a kind at most; it is named as in `get`."""
        return wire.decode_summary(self._connection.request(forms.summary(reference, limit)))

    def handle(self, reference: str | wire.WorkflowView, *, with_result: bool = False) -> "Handle":
        """Return the handle of a workflow, by its id, a unique prefix, its name or ``@latest``; it keeps the view that was read.

        Args:
            reference: Or a view, of `list` say; then the daemon is not asked.
            with_result: As in `get`.
        """
        view = self.get(reference, with_result=with_result) if isinstance(reference, str) else reference
        return Handle(self._connection, view.id, view=view)

    def list(self, *, limit: int | None = 50, **which: Unpack[forms.Which]) -> Views:
        """Return workflows, newest first, and without the children of others; all of them if ``limit`` is None.

        Args:
            which: ``states``, ``name``, ``labels``, ``since`` …: all that `dyrygentd.client.forms.Which` has.
        """
        listing = forms.Listing(limit=limit, **which)
        for ask in listing:
            listing.take(self._connection.request(ask))
        return listing.views

    def perform_in_bulk(
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
        return wire.decode(self._connection.request(ask), wire.BulkChanged)

    def journal(self, cursor: str | None = None) -> wire.Journal:
        """Return who did what to all workflows: what came after a cursor (`wire.Journal.next`), or the newest 100 entries."""
        return wire.decode(self._connection.request(forms.audit(cursor)), wire.Journal)

    def explain(self, *, most: int = 5) -> wire.Overview:
        """Return what is wrong, what waits for a person, what is stuck and what failed lately; so many of each kind."""
        return wire.decode(self._connection.request(forms.overview(most)), wire.Overview)

    def stats(self) -> wire.Statistics:
        """Return what the daemon is doing."""
        return wire.decode(self._connection.request(forms.STATISTICS), wire.Statistics)

    def run_times(self) -> wire.RunTimesView:
        """Return how long tasks take, by their names, as far as the daemon has measured it."""
        return wire.decode(self._connection.request(forms.RUN_TIMES), wire.RunTimesView)

    def health(self) -> wire.Health:
        """Return whether the daemon does its work."""
        return wire.decode(self._connection.request(forms.HEALTH), wire.Health)


class Handle:
    """One workflow at the daemon.

    Attributes:
        id: The workflow's id, and no task's: an `AsyncResult` of it stays pending for ever. `celery_result` gives those that end.
        submitted: The daemon's answer, if this handle comes from a submission.
        view: What was known when the handle was made, if it comes from `Client.handle`; `status` asks anew.
    """

    def __init__(
        self,
        connection: Connection,
        workflow_id: str,
        submitted: wire.Submitted | None = None,
        *,
        view: wire.WorkflowView | None = None,
    ) -> None:
        self.id = workflow_id
        self.submitted = submitted
        self.view = view
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    def status(self, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view.

        Args:
            with_result: Also fetch the value of the output, for ``view.result``.
        """
        return wire.decode_view(self._connection.request(forms.view(self.id, with_result=with_result)))

    def outcome(self) -> wire.Outcome:
        """Return how it stands now, without waiting: state, value, first error, and the nodes that failed so far.

        Of one that goes on (``is_finished`` is False) there is no value yet.
        """
        view = self.status(with_result=True)
        return wire.outcome_of(view, self._failed_nodes(view))

    def wait(self, timeout_s: float | None = None, *, tell: forms.Seen | None = None) -> wire.Outcome:
        """Wait for the end; a daemon that goes away meanwhile is waited for as well.

        Args:
            tell: Told the view, with its result, whenever one was read: every 20 s, and at the end.

        Raises:
            WaitTimeout: The time is over; the workflow goes on.
        """
        wait = patience.Wait(self.id, timeout_s)
        while True:
            try:
                view = wire.decode_view(self._connection.request(wait.ask()))
                if tell is not None:
                    tell(view)
                if view.is_finished:
                    return wire.outcome_of(view, self._failed_nodes(view))
                wait.answered()
            except DyrygentError as error:
                wait.failed(error)
            time.sleep(wait.pause_s())

    def perform(
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
        return wire.decode(self._connection.request(ask), wire.Changed)

    def cancel(self, *, terminate: bool = False, force: bool = False, why: str = "") -> wire.Changed:
        """End the workflow now, but for what cleans up after its sections; one that has finished stays as it is.

        Args:
            force: End that now, too.
            terminate: End tasks that run, too; without it they go on, are shown as late, and change nothing.
        """
        return self.perform("cancel", terminate=terminate, force=force, why=why)

    def pause(self, *, why: str = "") -> wire.Changed:
        """Dispatch nothing more until `resume`; results go on coming in."""
        return self.perform("pause", why=why)

    def resume(self, *, why: str = "") -> wire.Changed:
        """Go on after `pause`."""
        return self.perform("resume", why=why)

    def retry(self, *nodes: str, cause: str = "", force: bool = False, terminate: bool = False, why: str = "") -> wire.Changed:
        """Try again what failed or was lost, and all that never ran because of it: everything, some nodes, or one cause.

        Args:
            cause: Number or id of a cause, see `causes`; ``lost`` for all that was lost.
            force: Also give up an attempt that is in flight.
            terminate: End that attempt at its worker, too.
        """
        return self.perform("retry", nodes=nodes, cause=cause, force=force, terminate=terminate, why=why)

    def hold(self, *nodes: str, why: str = "") -> wire.Changed:
        """Keep nodes from being dispatched until `release`."""
        return self.perform("hold", nodes=nodes, why=why)

    def release(self, *nodes: str, why: str = "") -> wire.Changed:
        """Let nodes go that an operator, a gate or a time holds; without any, start a workflow now that waits for its time."""
        return self.perform("release", nodes=nodes, why=why)

    def skip(self, *nodes: str, value: object = None, cause: str = "", terminate: bool = False, why: str = "") -> wire.Changed:
        """Count nodes as succeeded, with this value, and go on without them.

        Args:
            cause: Number or id of a cause, see `causes`, or ``lost``: all nodes that failed or were lost for it.
            terminate: End their tasks, too, if a worker has begun them.
        """
        return self.perform("skip", nodes=nodes, value=value, cause=cause, terminate=terminate, why=why)

    def rerun(self, *nodes: str, why: str = "") -> wire.Changed:
        """Run nodes and everything after them again."""
        return self.perform("rerun", nodes=nodes, why=why)

    def set_priority(self, priority: int, *, why: str = "") -> wire.Changed:
        """Change whose turn comes first; higher goes first."""
        return self.perform("set-priority", priority=priority, why=why)

    def explain(self, node: str | None = None) -> wire.Explanation:
        """Return why the workflow, or one node, is not running, and what can be done."""
        return wire.decode(self._connection.request(forms.explanation(self.id, node)), wire.Explanation)

    def fold(self, path: str = "") -> wire.FoldView:
        """Return the workflow folded into at most 300 boxes, or one of its boxes opened, by its path."""
        return wire.decode(self._connection.request(forms.fold(self.id, path)), wire.FoldView)

    def timeline(self, path: str = "", *, bins: int | None = None) -> wire.TimelineView:
        """Return where the time of the workflow, or of a box of it, went, in 2 to 400 bins (60 if you do not say)."""
        return wire.decode(self._connection.request(forms.timeline(self.id, path, bins)), wire.TimelineView)

    def estimate(self) -> wire.EstimateView:
        """Return how long the workflow goes on, as a range, and what bounds it."""
        return wire.decode(self._connection.request(forms.about(self.id, "estimate")), wire.EstimateView)

    def causes(self) -> wire.Causes:
        """Return the failures grouped by cause."""
        return wire.decode(self._connection.request(forms.about(self.id, "causes")), wire.Causes)

    def export(self) -> bytes:
        """Return all of the workflow as JSON, arguments and values included; `take_over` takes it. For the owner and admins."""
        return self._connection.request(forms.about(self.id, "export"))

    def definition(self) -> bytes:
        """Return the definition as JSON, arguments included; `Client.submit` takes it. For the owner and admins."""
        return self._connection.request(forms.about(self.id, "definition"))

    def journal(self) -> Entries:
        """Return who did what to the workflow, oldest first."""
        return wire.decode(self._connection.request(forms.about(self.id, "journal")), wire.Journal).entries

    def nodes(
        self, *, states: Iterable[str] = (), path: str = "", name: str = "", page: int = forms.PAGE
    ) -> Iterator[wire.NodeView]:
        """Iterate over the nodes in their order, page by page.

        Args:
            path: Only those in this box of the fold, by its path, or in this section.
            name: Only those with this in their name, in capital letters or not.
        """
        pages = forms.NodePages(self.id, states=states, path=path, name=name, page=page)
        for ask in pages:
            yield from pages.take(self._connection.request(ask))

    def celery_result(self, app: Any = None) -> Any:
        """Return Celery's own result of the workflow, as `apply_async` of the same canvas does.

        That is the `AsyncResult` of a task or of a chain's last step, with its parents; of a group its `GroupResult`; of a chord
        the `AsyncResult` of its body, whose parent is the header's `GroupResult`. The ids are those of the tasks as they are when
        this is called: right after the submission those of the first attempts. Of a node that was tried again it is the id of
        its latest attempt, since what is stored under an earlier one is how that one ended.

        Args:
            app: The Celery app with the result backend, by default the current one.
        """
        from dyrygentd.results import celery_result

        return celery_result(self.id, self.nodes(), app=app)

    def children(self, *, limit: int | None = None, states: Iterable[str] = ()) -> Views:
        """Return the workflows that are the work of its nodes, those that began last first; theirs are found by their handles."""
        listing = forms.Listing(limit=limit, states=states, parent=self.id)
        for ask in listing:
            listing.take(self._connection.request(ask))
        return listing.views

    def parent(self) -> "Handle | None":
        """Return the workflow whose node this one is the work of; None if somebody submitted it."""
        above = (self.status()).parent
        return None if above is None else Handle(self._connection, above.workflow)

    def node(self, name: str) -> wire.NodeView:
        """Return one node."""
        return wire.decode(self._connection.request(forms.about(self.id, "nodes", name)), wire.NodeView)

    def events(self, *, reconnect_s: float = patience.RECONNECT_S) -> Iterator[wire.WorkflowView]:
        """Iterate over the view now and after each change, until the workflow has finished.

        Args:
            reconnect_s: How long to try to come back to a daemon that went away, before `DaemonUnreachable` is raised.
        """
        for event in self._events(forms.workflow_target(self.id, "events"), reconnect_s):
            if event.view is not None:
                yield event.view

    def follow_fold(self, path: str = "", *, reconnect_s: float = patience.RECONNECT_S) -> Iterator[wire.FoldView]:
        """Iterate over `fold` now and after changes, twice a second at most, until the workflow has finished.

        Only the boxes that have changed are sent. ``reconnect_s`` is as in `events`.
        """
        for event in self._events(forms.fold_events_target(self.id, path), reconnect_s):
            if event.fold is not None:
                yield event.fold

    def _events(self, target: str, reconnect_s: float) -> Iterator[forms.StreamEvent]:
        """Iterate over the events of a stream to its end, across restarts of the daemon."""
        connection = patience.Reconnection(reconnect_s)
        while True:
            try:
                reader = forms.EventReader()
                for line in self._connection.lines(target, silence_max_s=patience.SILENCE_MAX_S):
                    event = reader.feed(line)
                    if event is not None:
                        connection.answered()
                        if event.kind == "end":
                            return
                        yield event
            except DyrygentError as error:
                connection.failed(error)
            time.sleep(connection.pause_s())

    def _failed_nodes(self, view: wire.WorkflowView) -> list[wire.NodeView]:
        ask = forms.failed_nodes(view)
        return [] if ask is None else wire.decode(self._connection.request(ask), wire.NodePage).nodes
