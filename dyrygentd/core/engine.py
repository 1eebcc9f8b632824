"""Many workflows: who goes next, what is in flight, and what a turn has to carry out.

Theory of operation
===================
*The idea.* The engine owns every workflow in progress. `handle` takes one event and changes states; `take_batch` lets time
pass, fills the free places in flight and returns the work that follows. Between the two nothing is awaited, so a turn is
atomic: its changes reach the disk in one transaction, or none does.

*Who goes next.* Workflows with ready nodes stand in a ring; each gives one node in turn, so a workflow of ten thousand nodes
delays one of three by three places. Inside a workflow the node with the longest path to the end goes first.

*In flight* is not a counter but a table, ``{task id: (workflow, node)}``, so a place can neither leak nor be given twice. It
is also the routing of results: a task id that is not in it is late, doubled or foreign; it is counted and changes nothing.

*When.* A batch costs a transaction, so it is taken at once only if something can go on because of it: nodes to dispatch, a
submission, a cancel, an end. What changes nothing for anybody else (the broker has a message, one of a thousand members
succeeded) waits ``linger_s`` for company.

*What could go wrong.* A workflow that breaks an invariant is set aside with its story, its places are freed, and the others
go on. A task id that another workflow already has in flight fails the node that came second: letting it go would mix up two
results.

*Tried and rejected.* A global heap of ready nodes: one large submission then decides the latency of everybody else.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from heapq import heapify, heappop, heappush
from typing import assert_never

from dyrygentd.core.checkpoint import node_record, workflow_record
from dyrygentd.core.effects import Batch, Publish
from dyrygentd.core.events import (
    CancelRequested,
    DrainRequested,
    Event,
    MessagePublished,
    MessageRefused,
    TaskEvent,
    TaskFailed,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
    WorkflowRecovered,
    WorkflowSubmitted,
)
from dyrygentd.core.states import IN_FLIGHT, NodeState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the engine.

    Attributes:
        in_flight_max: Tasks in the broker or at workers at one time. The rest waits here, where it can still be cancelled.
        linger_s: How long changes that let nothing go on may wait for company, so that they share a transaction.
        dispatch_max: Nodes dispatched in one turn, so that one turn stays short.
        value_bytes_max: Longest value, as JSON text, that is passed from node to node or kept as a result.
    """

    in_flight_max: int = 2000
    dispatch_max: int = 500
    value_bytes_max: int = 16 * 1024 * 1024
    linger_s: float = 0.02

    @property
    def refill(self) -> int:
        """Return how many places in flight are filled up together; one at a time if there are only few."""
        return max(1, self.in_flight_max // 20)


@dataclass(slots=True)
class Counters:
    """What has happened since the engine was made; only ever counts up."""

    submitted: int = 0
    recovered: int = 0
    dispatched: int = 0
    succeeded: int = 0
    failed: int = 0
    revoked: int = 0
    refused: int = 0
    unrouted: int = 0
    workflows_succeeded: int = 0
    workflows_failed: int = 0
    workflows_cancelled: int = 0
    broken: int = 0


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """A snapshot of the engine."""

    workflows: int
    nodes: dict[str, int]
    in_flight: int
    in_flight_max: int
    draining: bool
    counters: dict[str, int]


class Engine:
    """Decides for all workflows. Guards: at most ``in_flight_max`` task ids are in flight, each for one node.

    Attributes:
        workflows: The unfinished workflows by id. A finished one leaves with the batch that records its end.
        node_count: Number of nodes in all of them.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.counters = Counters()
        self.workflows: dict[str, RunningWorkflow] = {}
        self.draining = False
        self.node_count = 0
        self._in_flight: dict[str, tuple[RunningWorkflow, int]] = {}
        self._ring: deque[RunningWorkflow] = deque()
        self._in_ring: set[str] = set()
        self._held: list[tuple[float, str, int]] = []
        self._touched: dict[str, RunningWorkflow] = {}
        self._batch = Batch()
        self._is_urgent = False
        self._changed_at: float | None = None

    def __repr__(self) -> str:
        return f"<Engine workflows={len(self.workflows)} in_flight={len(self._in_flight)}>"

    # --- events in --------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take note of one event; its effects come with the next batch."""
        if self._changed_at is None:
            self._changed_at = now
        self._is_urgent |= not isinstance(event, TaskEvent)
        match event:
            case WorkflowSubmitted():
                self._submitted(event, now)
            case WorkflowRecovered():
                self._recovered(event.workflow)
            case CancelRequested():
                self._cancel(event.workflow_id, now)
            case DrainRequested():
                self.draining = True
            case _:
                self._task_event(event, now)

    def next_deadline(self) -> float | None:
        """Return when `take_batch` is due if nothing else happens: a time, 0 for at once, None for never."""
        if self._is_urgent or self._can_dispatch(self.limits.refill):
            return 0.0
        held = self._held[0][0] if self._held else None
        if self._changed_at is None:
            return held
        lingered = self._changed_at + self.limits.linger_s
        return lingered if held is None else min(held, lingered)

    @property
    def in_flight_count(self) -> int:
        """Number of tasks in the broker or at workers."""
        return len(self._in_flight)

    def is_in_flight(self, task_id: str) -> bool:
        """Tell whether a result for this task id would still change something."""
        return task_id in self._in_flight

    def statistics(self) -> EngineStatistics:
        """Return an immutable snapshot."""
        nodes = dict.fromkeys((state.word for state in NodeState), 0)
        for workflow in self.workflows.values():
            for state in NodeState:
                nodes[state.word] += workflow.count(state)
        return EngineStatistics(
            workflows=len(self.workflows),
            nodes=nodes,
            in_flight=len(self._in_flight),
            in_flight_max=self.limits.in_flight_max,
            draining=self.draining,
            counters=asdict(self.counters),
        )

    def in_flight(self) -> Iterator[tuple[str, RunningWorkflow, int]]:
        """Iterate over ``(task id, workflow, node)``."""
        for task_id, (workflow, node) in self._in_flight.items():
            yield task_id, workflow, node

    # --- effects out ------------------------------------------------------------------------------------------------

    def take_batch(self, now: float) -> Batch:
        """Let time pass until ``now``, dispatch what may go, and return the work of this turn."""
        self._release_held(now)
        if not self.draining:
            self._dispatch(now)
        for workflow in self._touched.values():
            self._collect(workflow)
        self._touched.clear()
        batch, self._batch = self._batch, Batch()
        if batch.unwatch:
            self._drop_landed(batch)
        self._is_urgent, self._changed_at = False, None
        return batch

    def _drop_landed(self, batch: Batch) -> None:
        """Keep what a turn both began and ended out of its batch, and watched what is in flight anew."""
        batch.watch = [task_id for task_id in batch.watch if task_id in self._in_flight]
        batch.publish = [message for message in batch.publish if message.task_id in self._in_flight]
        batch.unwatch = [task_id for task_id in batch.unwatch if task_id not in self._in_flight]

    def _dispatch(self, now: float) -> None:
        budget = self.limits.dispatch_max
        while budget and self._can_dispatch(1):
            workflow = self._ring.popleft()
            if not workflow.ready_count:
                self._in_ring.discard(workflow.workflow_id)
                continue
            self._ring.append(workflow)
            try:
                self._dispatch_one(workflow, now)
            except InvariantBroken as error:
                self._set_aside(workflow, error, now)
            budget -= 1

    def _can_dispatch(self, places: int) -> bool:
        return bool(self._ring) and not self.draining and len(self._in_flight) + places <= self.limits.in_flight_max

    def _dispatch_one(self, workflow: RunningWorkflow, now: float) -> None:
        node = workflow.take_ready(now)
        self._touch(workflow)
        task_id = workflow.task_id_of(node)
        if task_id in self._in_flight:
            workflow.failed(node, f"task id '{task_id}' is in flight for another node already", now)
            return
        self._in_flight[task_id] = (workflow, node)
        self.counters.dispatched += 1
        self._batch.watch.append(task_id)
        self._publish(workflow, node)

    def _publish(self, workflow: RunningWorkflow, node: int) -> None:
        signature = workflow.graph.signatures[node]
        assert signature is not None
        self._batch.publish.append(
            Publish(
                workflow_id=workflow.workflow_id,
                node=node,
                attempt=workflow.attempt_of(node),
                task_id=workflow.task_id_of(node),
                signature=signature,
                input=workflow.input_of(node),
                parent_id=workflow.parent_task_id(node),
            )
        )

    def _release_held(self, now: float) -> None:
        while self._held and self._held[0][0] <= now:
            _, workflow_id, node = heappop(self._held)
            workflow = self.workflows.get(workflow_id)
            if workflow is not None and workflow.release_held(node, now):
                self._touch(workflow)

    def _collect(self, workflow: RunningWorkflow) -> None:
        """Turn what changed inside one workflow into records, holds, a place in the ring, or its end."""
        batch = self._batch
        batch.changed.add(workflow.workflow_id)
        for node in workflow.take_changed():
            batch.save_nodes[workflow.workflow_id, node] = node_record(workflow, node)
            if node in workflow.held_until:
                heappush(self._held, (workflow.held_until[node], workflow.workflow_id, node))
        if workflow.state.is_finished:
            self._finished(workflow)

    def _finished(self, workflow: RunningWorkflow) -> None:
        del self.workflows[workflow.workflow_id]
        name = f"workflows_{workflow.state}"
        setattr(self.counters, name, getattr(self.counters, name) + 1)
        earlier = self._batch.save_workflows.get(workflow.workflow_id)
        self._batch.save_workflows[workflow.workflow_id] = workflow_record(workflow).following(earlier)
        self._batch.finished.append(workflow)
        self.node_count -= len(workflow.graph)

    # --- one event each ---------------------------------------------------------------------------------------------

    def _submitted(self, event: WorkflowSubmitted, now: float) -> None:
        workflow = RunningWorkflow(
            workflow_id=event.workflow_id,
            name=event.name,
            key=event.key,
            labels=event.labels,
            graph=event.graph,
            created_at=now,
            value_bytes_max=self.limits.value_bytes_max,
        )
        self.counters.submitted += 1
        self.node_count += len(event.graph)
        self.workflows[event.workflow_id] = workflow
        self._batch.save_workflows[event.workflow_id] = workflow_record(workflow, document=event.document)
        workflow.start(now)
        self._touch(workflow)

    def _recovered(self, workflow: RunningWorkflow) -> None:
        self.counters.recovered += 1
        self.node_count += len(workflow.graph)
        self.workflows[workflow.workflow_id] = workflow
        for node in range(len(workflow.graph)):
            state = workflow.state_of(node)
            if state in IN_FLIGHT:
                task_id = workflow.task_id_of(node)
                self._in_flight[task_id] = (workflow, node)
                self._batch.watch.append(task_id)
                if state is NodeState.DISPATCHING:
                    self._publish(workflow, node)
            elif state is NodeState.HELD:
                heappush(self._held, (workflow.held_until[node], workflow.workflow_id, node))
        self._touch(workflow)

    def _cancel(self, workflow_id: str, now: float) -> None:
        workflow = self.workflows.get(workflow_id)
        # One that has finished in this turn stays until the batch is taken, and keeps its end.
        if workflow is None or workflow.state.is_finished:
            return
        if workflow.held_until:
            self._held = [held for held in self._held if held[1] != workflow_id]
            heapify(self._held)
        for node in workflow.cancel(now):
            task_id = workflow.task_id_of(node)
            self._landed(task_id)
            self._batch.revoke.append(task_id)
        self._touch(workflow)

    def _task_event(self, event: TaskEvent, now: float) -> None:
        place = self._in_flight.get(event.task_id)
        if place is None:
            if not isinstance(event, MessagePublished | MessageRefused):
                self.counters.unrouted += 1
            return
        workflow, node = place
        try:
            self._apply(event, workflow, node, now)
        except InvariantBroken as error:
            self._set_aside(workflow, error, now)
        self._is_urgent |= workflow.state.is_finished
        self._touch(workflow)

    def _apply(self, event: TaskEvent, workflow: RunningWorkflow, node: int, now: float) -> None:
        match event:
            case MessagePublished():
                workflow.published(node)
            case TaskReported():
                workflow.reported[node] = event.state
            case TaskSucceeded():
                self.counters.succeeded += 1
                self._landed(event.task_id)
                workflow.succeeded(node, event.value, event.value_error, now)
            case TaskFailed():
                self.counters.failed += 1
                self._landed(event.task_id)
                workflow.failed(node, event.error, now)
            case TaskRevoked():
                self.counters.revoked += 1
                self._landed(event.task_id)
                workflow.failed(node, f"revoked: {event.reason}", now)
            case MessageRefused():
                self.counters.refused += 1
                self._landed(event.task_id)
                workflow.failed(node, f"not dispatched: {event.error}", now)
            case _:
                assert_never(event)

    def _set_aside(self, workflow: RunningWorkflow, error: InvariantBroken, now: float) -> None:
        self.counters.broken += 1
        workflow.set_aside(str(error), now)
        for task_id in [task_id for task_id, (owner, _) in self._in_flight.items() if owner is workflow]:
            self._landed(task_id)
        self._touch(workflow)

    def _landed(self, task_id: str) -> None:
        if self._in_flight.pop(task_id, None) is not None:
            self._batch.unwatch.append(task_id)

    def _touch(self, workflow: RunningWorkflow) -> None:
        self._touched[workflow.workflow_id] = workflow
        if workflow.ready_count and workflow.workflow_id not in self._in_ring:
            self._in_ring.add(workflow.workflow_id)
            self._ring.append(workflow)
