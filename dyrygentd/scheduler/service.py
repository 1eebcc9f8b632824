"""What is asked of whoever serves clients: a `Scheduler`, or a deputy that answers beside one."""

from collections.abc import AsyncIterator
from typing import Protocol

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.user import User
from dyrygentd.core.verbs import VerbRequest
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler.faces import Faces


class Service(Protocol):
    """All that `dyrygentd.http` calls. What is raised is told at `Scheduler`, whose methods these are.

    One that does not lead answers what is asked as the leader would, from what that has stored, and passes on what is to be
    changed; or raises `NotLeader`, and nothing was done.
    """

    @property
    def vantage(self) -> str:
        """Return what goes with each answer, see `dyrygentd.wire.health.VANTAGE_HEADER`; empty of one that leads."""

    @property
    def faces(self) -> Faces:
        """Return what shows workflows to people."""

    # --- submitting and controlling ---------------------------------------------------------------------------------

    def knows_task(self, task: str) -> bool:
        """Tell whether the app of this process has the task, and says itself where it goes."""

    async def submit_definition(self, definition: Definition, *, owner: User | None = None) -> wire.Submitted:
        """Submit a definition; return when it is durable."""

    async def take_over(self, imported: wire.Imported, *, by: str = "", owner: User | None = None) -> wire.Submitted:
        """Take in a workflow that another daemon had; return when it is durable."""

    async def perform(self, workflow_id: str, request: VerbRequest) -> wire.Changed:
        """Carry out a verb on a workflow or on nodes of it; return when that is durable."""

    async def perform_in_bulk(self, selection: Selection, request: VerbRequest) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit."""

    # --- asking -----------------------------------------------------------------------------------------------------

    async def resolve(self, reference: str, *, owner: User | None = None) -> str:
        """Return the id for an id, a unique prefix, a name, ``@latest``, or ``key:`` with a key that ``owner`` has given."""

    async def owner(self, workflow_id: str) -> User | None:
        """Return the user who submitted a workflow; None if nobody can tell."""

    def is_at_hand(self, workflow_id: str) -> bool:
        """Tell whether a workflow is in memory and short, so that asking about its nodes costs others nothing."""

    async def definition(self, workflow_id: str) -> bytes:
        """Return the definition of a workflow as JSON, with its arguments."""

    async def export(self, workflow_id: str) -> bytes:
        """Return all that is stored of a workflow as JSON."""

    async def view(self, workflow_id: str, *, with_result: bool = False) -> wire.WorkflowView:
        """Return the present view of a workflow."""

    async def list(self, selection: Selection) -> wire.WorkflowPage:
        """Return a page of workflows, newest first."""

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
        """Return a page of nodes."""

    async def node(self, workflow_id: str, name: str, *, with_arguments: bool = True) -> wire.NodeView:
        """Return one node."""

    async def summary(self, workflow_id: str, *, limit: int = 20) -> wire.Summary:
        """Return what is to be known of a workflow at one look."""

    async def causes(self, workflow_id: str) -> wire.Causes:
        """Group the failures of a workflow by what they have in common."""

    async def journal(self, workflow_id: str) -> wire.Journal:
        """Return who did what to a workflow, when and why."""

    async def audit(self, after: int | None = None, *, limit: int = 100) -> wire.Journal:
        """Return who did what to all workflows, oldest first."""

    async def explain(self, workflow_id: str, node: str | None = None) -> wire.Explanation:
        """Say why a workflow, or one node, is not running, and what can be done."""

    async def overview(self, *, most: int = 5) -> wire.Overview:
        """Say what is wrong, what waits for a person, what is stuck and what failed lately."""

    async def wait(self, workflow_id: str, *, timeout_s: float | None = None) -> wire.WorkflowView:
        """Return the view of a workflow once its end is durable."""

    def follow(self, workflow_id: str) -> AsyncIterator[wire.WorkflowView]:
        """Iterate over the view now and after changes, until it is finished."""

    def statistics(self) -> wire.Statistics:
        """Return what this process does."""

    def health(self) -> wire.Health:
        """Tell whether everything works, and what does not."""
