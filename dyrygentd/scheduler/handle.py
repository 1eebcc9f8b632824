"""A submitted workflow, in the process of the scheduler."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from dyrygentd import canvas, wire
from dyrygentd.core.verbs import Verb, VerbRequest


class Running(Protocol):
    """What a handle asks of the scheduler that runs its workflow; see `dyrygentd.scheduler.Scheduler`, which knows handles."""

    @property
    def app(self) -> Any:
        """Return the Celery app, None if adapters were given instead."""

    async def view(self, workflow_id: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view."""

    async def nodes(
        self, workflow_id: str, *, states: frozenset[str] = frozenset(), after: int = 0, limit: int = 100
    ) -> wire.NodePage:
        """Return a page of nodes."""

    async def outcome(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.Outcome:
        """Wait for the end and return how it ended."""

    async def perform(self, workflow_id: str, request: VerbRequest) -> wire.Changed:
        """Carry out a verb."""

    async def explain(self, workflow_id: str, node: str | None = None) -> wire.Explanation:
        """Say why the workflow, or one node, is not running."""

    def follow(self, workflow_id: str) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after changes, until it is finished."""


class Handle:
    """A submitted workflow, in the process of the scheduler.

    Attributes:
        created: Whether the submission made it.
        decided: Of one of a series ``began``, ``queued``, or ``skipped``: then this is the run that goes on.
    """

    def __init__(self, scheduler: Running, workflow_id: str, *, created: bool, decided: str = "") -> None:
        self.id = workflow_id
        self.created = created
        self.decided = decided
        self._scheduler = scheduler

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    async def status(self) -> wire.WorkflowView:
        """Return the present view."""
        return await self._scheduler.view(self.id)

    async def wait(self, timeout_s: float | None = None) -> wire.Outcome:
        """Wait for the end. Raises `WaitTimeout`; the workflow goes on then."""
        return await self._scheduler.outcome(self.id, timeout_s=timeout_s)

    async def celery_result(self, app: Any = None) -> Any:
        """Return Celery's own result of the workflow, see `dyrygentd.client.sync.Handle.celery_result`."""
        from dyrygentd.results import celery_result

        nodes, after = list[wire.NodeView](), 0
        while True:
            page = await self._scheduler.nodes(self.id, after=after, limit=1000)
            nodes += page.nodes
            if page.next is None:
                return celery_result(self.id, nodes, app=app or self._scheduler.app)
            after = int(page.next)

    async def cancel(self, *, terminate: bool = False, force: bool = False, why: str = "") -> wire.Changed:
        """End the workflow now, but for what cleans up after its sections, with ``force`` that too; or do nothing."""
        return await self.perform(VerbRequest(Verb.CANCEL, why=why, terminate=terminate, force=force))

    async def pause(self, *, why: str = "") -> wire.Changed:
        """Dispatch nothing more until `resume`; results go on coming in."""
        return await self.perform(VerbRequest(Verb.PAUSE, why=why))

    async def resume(self, *, why: str = "") -> wire.Changed:
        """Go on after `pause`."""
        return await self.perform(VerbRequest(Verb.RESUME, why=why))

    async def retry(
        self, *nodes: str, cause: str = "", force: bool = False, terminate: bool = False, why: str = ""
    ) -> wire.Changed:
        """Try again what failed and all that never ran because of it: everything, some nodes, or one cause.

        Args:
            force: Also give up an attempt that is in flight.
            terminate: End that attempt at its worker, too.
        """
        request = VerbRequest(Verb.RETRY, nodes=nodes, cause=cause, force=force, terminate=terminate, why=why)
        return await self.perform(request)

    async def hold(self, *nodes: str, why: str = "") -> wire.Changed:
        """Keep nodes from being dispatched until `release`."""
        return await self.perform(VerbRequest(Verb.HOLD, nodes=nodes, why=why))

    async def release(self, *nodes: str, why: str = "") -> wire.Changed:
        """Let nodes go that an operator, a gate or a time holds."""
        return await self.perform(VerbRequest(Verb.RELEASE, nodes=nodes, why=why))

    async def skip(self, *nodes: str, value: object = None, terminate: bool = False, why: str = "") -> wire.Changed:
        """Count nodes as succeeded, with this value, and go on without them.

        Args:
            terminate: End their tasks, too, if a worker has begun them.
        """
        return await self.perform(
            VerbRequest(Verb.SKIP, nodes=nodes, value=canvas.encode_value(value), terminate=terminate, why=why)
        )

    async def rerun(self, *nodes: str, why: str = "") -> wire.Changed:
        """Run nodes and everything after them again."""
        return await self.perform(VerbRequest(Verb.RERUN, nodes=nodes, why=why))

    async def set_priority(self, priority: int, *, why: str = "") -> wire.Changed:
        """Change whose turn comes first."""
        return await self.perform(VerbRequest(Verb.SET_PRIORITY, priority=priority, why=why))

    async def perform(self, request: VerbRequest) -> wire.Changed:
        """Carry out a verb; see `Scheduler.perform`."""
        return await self._scheduler.perform(self.id, request)

    async def explain(self, node: str | None = None) -> wire.Explanation:
        """Say why the workflow, or one node, is not running."""
        return await self._scheduler.explain(self.id, node)

    def follow(self) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after changes, until it is finished."""
        return self._scheduler.follow(self.id)
