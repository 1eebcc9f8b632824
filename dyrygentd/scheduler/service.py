"""What is asked of whoever serves clients: a `Scheduler`, or a deputy that answers beside one.

Both answer by the same parts, which are asked here once. What they are made on is not the same: the engine's own workflows, or a
mirror of what is stored. What changes something is carried out by one, and passed on by the other.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.user import User
from dyrygentd.core.verbs import VerbRequest
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler.answers import Answers
from dyrygentd.scheduler.faces import Faces


class Service(ABC):
    """All that `dyrygentd.http` calls. What the abstract methods raise is told at `Scheduler`.

    One that does not lead answers what is asked as the leader would, from what that has stored, and passes on what is to be
    changed; or raises `NotLeader`, and nothing was done.
    """

    def _answer_by(self, answers: Answers) -> None:
        """Take what answers; called once, when it is made."""
        self._queries, self._overviews, self._faces = answers

    # --- how it stands ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def vantage(self) -> str:
        """Return what goes with each answer, see `dyrygentd.wire.health.VANTAGE_HEADER`; empty of one that leads."""

    @abstractmethod
    def statistics(self) -> wire.Statistics:
        """Return what this process does."""

    @abstractmethod
    def health(self) -> wire.Health:
        """Tell whether everything works, and what does not."""

    # --- submitting and controlling ---------------------------------------------------------------------------------

    @abstractmethod
    def knows_task(self, task: str) -> bool:
        """Tell whether the app of this process has the task, and says itself where it goes."""

    @abstractmethod
    async def submit_definition(self, definition: Definition, *, owner: User | None = None) -> wire.Submitted:
        """Submit a definition; return when it is durable."""

    @abstractmethod
    async def take_over(self, imported: wire.Imported, *, by: str = "", owner: User | None = None) -> wire.Submitted:
        """Take in a workflow that another daemon had; return when it is durable."""

    @abstractmethod
    async def perform(self, workflow_id: str, request: VerbRequest) -> wire.Changed:
        """Carry out a verb on a workflow or on nodes of it; return when that is durable."""

    @abstractmethod
    async def perform_in_bulk(self, selection: Selection, request: VerbRequest) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit."""

    # --- asking -----------------------------------------------------------------------------------------------------

    @property
    def faces(self) -> Faces:
        """Return what shows workflows to people."""
        return self._faces

    async def resolve(self, reference: str, *, owner: User | int | None = None) -> str:
        """Return the id for an id, a unique prefix, a name, ``@latest``, or ``key:`` with a key that ``owner`` has given.

        Raises:
            WorkflowNotFound, AmbiguousReference
        """
        return await self._queries.resolve(reference, owner=User.of(owner))

    async def owner(self, workflow_id: str) -> User | None:
        """Return the user who submitted a workflow; None if nobody can tell. Raises `WorkflowNotFound`."""
        return await self._queries.owner(workflow_id)

    def is_at_hand(self, workflow_id: str) -> bool:
        """Tell whether a workflow is in memory and short, so that asking about its nodes costs others nothing."""
        return self._queries.is_at_hand(workflow_id)

    async def definition(self, workflow_id: str) -> bytes:
        """Return the definition of a workflow as JSON, with its arguments. Raises `WorkflowNotFound`."""
        return await self._queries.definition(workflow_id)

    async def export(self, workflow_id: str) -> bytes:
        """Return all that is stored of a workflow as JSON, for another daemon's `take_over`. Raises `WorkflowNotFound`."""
        return await self._queries.export(workflow_id)

    async def view(self, workflow_id: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view of a workflow. Raises `WorkflowNotFound`."""
        return await self._queries.view(workflow_id, with_result=with_result)

    async def list(self, selection: Selection) -> wire.WorkflowPage:
        """Return a page of workflows, newest first."""
        return await self._queries.list(selection)

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
        """Return a page of nodes, joins included, of a box and with ``name`` in theirs if given; ``after`` is a cursor."""
        return await self._queries.nodes(workflow_id, states=states, path=path, name=name, after=after, limit=limit)

    async def node(self, workflow_id: str, name: str, *, with_arguments: bool = True) -> wire.NodeView:
        """Return one node; its arguments are shortened, and without secrets. Raises `WorkflowNotFound` or `NodeNotFound`."""
        return await self._queries.node(workflow_id, name, with_arguments=with_arguments)

    async def summary(self, workflow_id: str, *, limit: int = 20) -> wire.Summary:
        """Return what is to be known of a workflow at one look, ``limit`` nodes of a kind at most. Raises `WorkflowNotFound`."""
        found, health = await self._queries.summary(workflow_id, limit=limit), self.health()
        found.problems, found.notices = health.problems, health.notices
        found.estimate = None if found.workflow.is_finished else await self.faces.estimate(workflow_id)
        return found

    async def causes(self, workflow_id: str) -> wire.Causes:
        """Group the failures of a workflow by what they have in common. Raises `WorkflowNotFound`."""
        return await self._queries.causes(workflow_id)

    async def journal(self, workflow_id: str) -> wire.Journal:
        """Return who did what to a workflow, when and why. Raises `WorkflowNotFound`."""
        return await self._queries.journal(workflow_id)

    async def audit(self, after: int | None = None, *, limit: int = 100) -> wire.Journal:
        """Return who did what to all workflows, oldest first: what came after a cursor, or the newest."""
        return await self._queries.audit(after, limit=limit)

    async def explain(self, workflow_id: str, node: str | None = None) -> wire.Explanation:
        """Say why a workflow, or one node, is not running, and what can be done: engine, broker, workers and backend asked.

        Raises:
            WorkflowNotFound, NodeNotFound
        """
        return await self._queries.explain(workflow_id, node)

    async def overview(self, *, most: int = 5) -> wire.Overview:
        """Say what is wrong, what waits for a person, what is stuck and what failed lately; at most so many of each kind."""
        return await self._overviews.overview(most=most)

    async def wait(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.WorkflowView:
        """Return the view of a workflow once its end is on disk.

        Raises:
            WorkflowNotFound, WaitTimeout
            DaemonUnreachable: The scheduler was left meanwhile.
        """
        return await self._queries.wait(workflow_id, timeout_s=timeout_s)

    async def outcome(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.Outcome:
        """Wait for the end and return how it ended. Raises as `wait` does."""
        return await self._queries.outcome(workflow_id, timeout_s=timeout_s)

    def follow(self, workflow_id: str) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after changes, at most one per ``follow_interval_s``, until it is finished."""
        return self._queries.follow(workflow_id)
