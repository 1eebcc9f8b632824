"""Whose turn it is: which node goes next, and why one does not go.

*Who goes next.* Workflows with ready nodes stand in a ring; each gives one node in turn (or as many as its weight), so a workflow
of ten thousand nodes delays one of three by three places. Inside a workflow the node with the longest path to the end goes
first.

*Priorities and pools.* Each priority has a ring of its own, and the highest that has work goes first. A node whose pool is full
steps aside and stands in line there; it comes back when a place is free.

*Reasons.* What keeps a workflow from dispatching is decided in one place, `Dispatching.held_back`. The loop asks it about the
workflow whose turn it is, and `standing.py` about any, so that what a person is told is what the loop goes by.

*Tried and rejected.* A global heap of ready nodes: one large submission then decides the latency of everybody else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from dyrygentd.core import outcomes
from dyrygentd.core.counting import Counting
from dyrygentd.core.effects import Publish
from dyrygentd.core.flights import Flights
from dyrygentd.core.notes import Failure
from dyrygentd.core.policy import FailureKind
from dyrygentd.core.rings import Rings
from dyrygentd.core.routes import Routes
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.turn import Turn
from dyrygentd.core.workflow import RunningWorkflow


class Bar(Enum):
    """What keeps the nodes of a workflow from being dispatched."""

    DRAINING = "the daemon is stopping"
    NOT_RUNNING = "the workflow has not begun, is paused, or has ended"
    NOTHING_READY = "no node of it is ready"
    WORKFLOW_LIMIT = "as many of its tasks are in flight as its policy allows"
    IN_FLIGHT_MAX = "as many tasks of all workflows are in flight as may be"
    PRIORITY = "a workflow of a higher priority has work"
    TURN = "others of its priority have their turn first"


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Why nothing of a workflow is dispatched just now.

    Attributes:
        bar: What is in the way.
        ahead: How many workflows go before it, as far as it has anything to give.
        priority: Theirs, the highest of them.
        nodes: How many nodes these give before its turn comes, by their weights; 0 if they have a higher priority.
    """

    bar: Bar
    ahead: int = 0
    priority: int = 0
    nodes: int = 0


class Dispatching:
    """Gives ready nodes their places. Guards: a node goes when nothing holds its workflow back, and it is its turn.

    Attributes:
        draining: Whether nothing more is dispatched, until the end.
    """

    __slots__ = ("_counting", "_flights", "_rings", "_routes", "_turn", "_workflows", "draining")

    def __init__(
        self,
        turn: Turn,
        rings: Rings,
        workflows: Mapping[str, RunningWorkflow],
        *,
        flights: Flights,
        routes: Routes,
        counting: Counting,
    ) -> None:
        self._turn = turn
        self._rings = rings
        self._workflows = workflows
        self._flights = flights
        self._routes = routes
        self._counting = counting
        self.draining = False

    def __repr__(self) -> str:
        return f"<Dispatching {self._rings!r} draining={self.draining}>"

    def dispatch(self, now: float) -> None:
        """Dispatch what may go, at most as many as one turn has time for."""
        if self.draining:
            return
        budget, flights, has_pools = self._turn.limits.dispatch_max, self._flights, self._flights.has_pools
        while budget:
            if has_pools:
                flights.call_freed(now)
            if not self._rings:
                # Those who are called may not be able to go: their workflow is paused, or they wait for another pool now.
                if not has_pools or not flights.call_open(now):
                    break
                continue
            workflow = self._workflows.get(self._rings.first)
            bar = Bar.NOT_RUNNING if workflow is None else self._bar(workflow)
            if bar is Bar.IN_FLIGHT_MAX:
                break
            if workflow is None or bar is not None:
                self._rings.drop_first()
                continue
            self._rings.give(workflow.policy.weight)
            try:
                self._dispatch_one(workflow, now)
            except Exception as error:
                flights.set_aside(workflow, error, now)
            budget -= 1

    def is_due(self) -> bool:
        """Tell whether there are places for several nodes, or for all that may be in flight, and somebody stands in line."""
        limits = self._turn.limits
        return not self.draining and bool(self._rings) and len(self._flights.by_id) + limits.refill <= limits.in_flight_max

    # --- why not ----------------------------------------------------------------------------------------------------

    def held_back(self, workflow: RunningWorkflow) -> HoldBack | None:
        """Return why no node of a workflow goes next; None if the next one that has its turn is one of its own."""
        bar = self._bar(workflow)
        if bar is not None and bar is not Bar.IN_FLIGHT_MAX:
            return HoldBack(bar)
        before = [other for other in map(self._workflows.get, self._rings.before(workflow.workflow_id)) if other is not None]
        before = [other for other in before if other.can_dispatch]
        if not before:
            return None if bar is None else HoldBack(bar)
        priority = before[0].priority
        if priority > workflow.priority:
            return HoldBack(bar or Bar.PRIORITY, sum(other.priority > workflow.priority for other in before), priority)
        return HoldBack(bar or Bar.TURN, len(before), priority, sum(map(self._gives, before)))

    def _bar(self, workflow: RunningWorkflow) -> Bar | None:
        """Return what keeps a workflow from dispatching even if it is its turn."""
        if workflow.state is not WorkflowState.RUNNING:
            return Bar.NOT_RUNNING
        if self.draining:
            return Bar.DRAINING
        if not workflow.can_dispatch:
            return Bar.WORKFLOW_LIMIT if workflow.ready.heap else Bar.NOTHING_READY
        return None if len(self._flights.by_id) < self._turn.limits.in_flight_max else Bar.IN_FLIGHT_MAX

    def _gives(self, workflow: RunningWorkflow) -> int:
        """Return how many nodes a workflow gives when its turn comes, as far as can be said before."""
        policy = workflow.policy
        left = policy.in_flight_max - workflow.nodes.in_flight_count if policy.in_flight_max else workflow.ready_count
        return min(policy.weight - self._rings.given_by(workflow.workflow_id), workflow.ready_count, left)

    # --- one node ---------------------------------------------------------------------------------------------------

    def _dispatch_one(self, workflow: RunningWorkflow, now: float) -> None:
        self._turn.touch(workflow)
        node = workflow.ready.first
        signature = workflow.graph.signatures[node]
        assert signature is not None
        route, destination = self._routes.known.get(signature) or self._routes.of(signature)
        if self._routes.is_by_input:
            destination = self._routes.destination_for(workflow, node, signature)
        pools = self._flights.pools_of(workflow, node, destination) if self._flights.has_pools else ()
        full = self._flights.pools.full_one(pools) if pools else None
        if full is not None:
            self._flights.wait_for(full, pools, workflow, now)
            return
        workflow.take_ready(now)
        task_id = workflow.attempts.task_id_of(node)
        if signature.expires_at and signature.expires_at <= now:
            outcomes.failed(workflow, node, Failure("it expired before it was dispatched", FailureKind.EXPIRED, "Expired"), now)
            return
        if workflow.attempts.sent_to or workflow.attempts.routes.get(signature.task) != destination:
            workflow.is_changed |= workflow.attempts.note_destination(node, destination)
        if not self._flights.begin(workflow, node, task_id, now):
            return
        self._counting.task_sent(workflow, node, route)
        self.publish(workflow, node, task_id, destination)

    def publish(self, workflow: RunningWorkflow, node: int, task_id: str, destination: str) -> None:
        """Have the message of a node published."""
        signature = workflow.graph.signatures[node]
        assert signature is not None
        self._turn.batch.publish.append(
            Publish(
                workflow.workflow_id,
                node,
                workflow.attempts.of(node),
                task_id,
                signature,
                workflow.input_text(node),
                workflow.parent_task_id(node),
                workflow.stamp,
                destination,
                "" if workflow.origin.parent is None else workflow.origin.parent.root_id,
            )
        )
