"""Many workflows: who goes next, what is in flight, and what a turn has to carry out.

Theory of operation
===================
*The idea.* The engine owns every workflow in progress. `handle` takes one event and changes states; `take_batch` lets time
pass, fills the free places in flight and returns the work that follows. Between the two nothing is awaited, so a turn is
atomic: its changes reach the disk in one transaction, or none does.

*Who goes next.* Workflows with ready nodes stand in a ring; each gives one node in turn (or as many as its weight), so a workflow
of ten thousand nodes delays one of three by three places. Inside a workflow the node with the longest path to the end goes
first.

*In flight* is not a counter but a table, ``{task id: (workflow, node)}``, so a place can neither leak nor be given twice. It
is also the routing of results: a task id that is not in it is late, doubled or foreign; it is counted and changes nothing but the
note of what was late. What was cancelled while in flight is watched on for a while, and revoked again, since a worker that was
away does not know. What was taken for lost is watched on as well: nobody can be sure, and if it ends all the same before
another attempt was sent, that is the node's end.

*Priorities and pools.* Each priority has a ring of its own, and the highest that has work goes first. A node whose pool is full
steps aside and stands in line there; it comes back when a place is free.

*When.* A batch costs a transaction, so it is taken at once only if something can go on because of it: nodes to dispatch, a
submission, a cancel, an end. What changes nothing for anybody else (the broker has a message, one of a thousand members
succeeded) waits ``linger_s`` for company.

*When the clock is set*, what was measured goes on as if nothing had happened: a pause, a poll and a timeout take as long as they
should. Times that somebody named (an ETA, a start, a deadline) are times of the clock, and come when it says so.

*What could go wrong.* A workflow that breaks an invariant, whose handling fails, or whose records the store refuses, is set aside
with its story, its places are freed, and the others go on. A task id that another workflow already has in flight fails the node
that came second: letting it go would mix up two results.

*Tried and rejected.* A global heap of ready nodes: one large submission then decides the latency of everybody else.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from heapq import heapify, heappop, heappush
from typing import Final, assert_never

from dyrygentd.core.checkpoint import JournalEntry, adopt, node_record, workflow_record
from dyrygentd.core.effects import Answer, Batch, Publish, Revoke, RevokeStamped
from dyrygentd.core.events import (
    ClockStepped,
    DrainRequested,
    Event,
    MessagePublished,
    MessageRefused,
    ReportsRead,
    SaveRefused,
    TaskEvent,
    TaskFailed,
    TaskIgnored,
    TaskLost,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
    VerbRequested,
    WorkflowImported,
    WorkflowRecovered,
    WorkflowSubmitted,
)
from dyrygentd.core.graph import Signature
from dyrygentd.core.policy import FailureKind
from dyrygentd.core.pools import Pools, PoolView
from dyrygentd.core.rings import Rings
from dyrygentd.core.states import IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.tally import SumsByName, Tally
from dyrygentd.core.verbs import Done, Request, Verb, perform
from dyrygentd.core.workflow import Failure, HoldReason, RunningWorkflow
from dyrygentd.errors import DyrygentError, InvariantBroken, WorkflowNotFound

#: Names of nodes in one entry of the journal or one answer; the number is told as well.
_NAMED_MAX: Final = 100
#: Timers are sorted out when there are more than this and more than twice as many as after the last time.
_TIMERS_MIN: Final = 10_000
#: Pauses between two broadcasts that revoke the same tasks.
_REVOKE_AGAIN_FIRST_S, _REVOKE_AGAIN_MAX_S = 10.0, 300.0
#: Names of tasks and of workflows that are counted apart, and what of tasks.
_NAMES_MAX: Final = 100
TASK_WORDS: Final = ("dispatched", "succeeded", "failed", "ignored", "lost", "retried", "late", "seconds")
#: Signatures whose queue is kept in mind.
_PLACES_MAX: Final = 1000
#: What workers with `task_track_started` store first.
_STARTED: Final = "STARTED"
_STATE_WORDS: Final = tuple(state.word for state in NodeState)
#: In a timer, in the place of a node: it is the workflow's start or deadline.
_WORKFLOW_TIMER: Final = -1
#: A worker's last word about these may be corrected by the task itself (celery#3085, #1703).
_DOUBTFUL_EXCEPTIONS: Final = frozenset({"WorkerLostError"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the engine.

    Attributes:
        in_flight_max: Tasks in the broker or at workers at one time. The rest waits here, where it can still be cancelled.
        linger_s: How long changes that let nothing go on may wait for company, so that they share a transaction.
        dispatch_max: Nodes dispatched in one turn, so that one turn stays short.
        value_bytes_max: Longest value, as JSON text, that is passed from node to node or kept as a result.
        late_watch_s, late_max: How long, and how many, tasks are watched after a cancel, to show what they did in the end.
    """

    in_flight_max: int = 2000
    dispatch_max: int = 500
    value_bytes_max: int = 16 * 1024 * 1024
    linger_s: float = 0.02
    late_watch_s: float = 3600.0
    late_max: int = 10_000

    @property
    def refill(self) -> int:
        """Return how many places in flight are filled up together; one at a time if there are only few."""
        return max(1, self.in_flight_max // 20)


@dataclass(slots=True)
class Counters:
    """What has happened since the engine was made; only ever counts up."""

    submitted: int = 0
    recovered: int = 0
    imported: int = 0
    dispatched: int = 0
    succeeded: int = 0
    failed: int = 0
    revoked: int = 0
    ignored: int = 0
    lost: int = 0
    turned_up: int = 0
    timed_out: int = 0
    refused: int = 0
    retried: int = 0
    late: int = 0
    unrouted: int = 0
    verbs: int = 0
    verbs_refused: int = 0
    workflows_succeeded: int = 0
    workflows_failed: int = 0
    workflows_cancelled: int = 0
    broken: int = 0
    clock_steps: int = 0


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """A snapshot of the engine."""

    workflows: int
    nodes: dict[str, int]
    in_flight: int
    in_flight_max: int
    draining: bool
    counters: dict[str, int]
    late: int = 0
    timers: int = 0
    pools: list[PoolView] = field(default_factory=list)
    workflow_states: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    oldest_workflow_s: float = 0.0
    oldest_ready_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Late:
    """A task that is still watched although its node has gone on without it."""

    workflow_id: str
    node: int
    until: float
    revoke: Revoke | None


class Engine:
    """Decides for all workflows. Guards: at most ``in_flight_max`` task ids are in flight, each for one node.

    Args:
        pools: Named pools and limits of queues.
        chance: Makes numbers from 0 to 1, for the jitter of retries.
        queue_of: Tells to which queue a signature goes, for counting.

    Attributes:
        workflows: The unfinished workflows by id. A finished one leaves with the batch that records its end.
        node_count: Number of nodes in all of them.
        task_seconds: From dispatch to the end of a task.
        start_seconds: From dispatch to the first word that a worker has begun it, of workers that tell.
        by_task: What became of tasks, by name and queue, and their seconds from dispatch to end.
        by_workflow: What became of workflows, by name, and their seconds from beginning to end.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        pools: Pools | None = None,
        chance: Callable[[], float] = lambda: 0.0,
        queue_of: Callable[[Signature], str] = lambda signature: "",
    ) -> None:
        self.limits = limits or Limits()
        self.pools = pools or Pools()
        self._has_pools = bool(self.pools)
        self._chance = chance
        self._queue_of = queue_of
        self._places: dict[Signature, tuple[str, str]] = {}
        self.counters = Counters()
        self.workflows: dict[str, RunningWorkflow] = {}
        self.draining = False
        self.node_count = 0
        self.task_seconds, self.start_seconds = Tally(), Tally()
        self.by_task = SumsByName(TASK_WORDS, _NAMES_MAX)
        self.by_workflow = SumsByName(("succeeded", "failed", "cancelled", "seconds"), _NAMES_MAX)
        self._in_flight: dict[str, tuple[RunningWorkflow, int]] = {}
        self._rings = Rings()
        self._timers: list[tuple[float, str, int]] = []
        self._timers_max = _TIMERS_MIN
        self._pools_freed: set[str] = set()
        self._pools_open: set[str] = set()
        self._late: OrderedDict[str, _Late] = OrderedDict()
        self._late_in: Counter[str] = Counter()
        self._resting: dict[str, RunningWorkflow] = {}
        self._revoke_again_at: float | None = None
        self._revoke_again_s = _REVOKE_AGAIN_FIRST_S
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
        self._is_urgent |= not isinstance(event, TaskEvent | ReportsRead)
        match event:
            case WorkflowSubmitted():
                self._submitted(event, now)
            case WorkflowRecovered():
                self._recovered(event.workflow, now)
            case WorkflowImported():
                self._imported(event, now)
            case VerbRequested():
                self._verb(event, now)
            case DrainRequested():
                self.draining = True
            case SaveRefused():
                self._save_refused(event, now)
            case ClockStepped():
                self._clock_stepped(event.by_s, now)
            case ReportsRead():
                self._batch.reports_read = event.offset
            case _:
                self._task_event(event, now)

    def next_deadline(self) -> float | None:
        """Return when `take_batch` is due if nothing else happens: a time, 0 for at once, None for never."""
        if self._is_urgent or self._can_dispatch(self.limits.refill):
            return 0.0
        due = [self._timers[0][0]] if self._timers else []
        if self._changed_at is not None:
            due.append(self._changed_at + self.limits.linger_s)
        if self._late:
            due.append(next(iter(self._late.values())).until)
        if self._revoke_again_at is not None:
            due.append(self._revoke_again_at)
        return min(due, default=None)

    @property
    def in_flight_count(self) -> int:
        """Number of tasks in the broker or at workers."""
        return len(self._in_flight)

    def is_in_flight(self, task_id: str) -> bool:
        """Tell whether a result for this task id would still change something."""
        return task_id in self._in_flight

    def statistics(self, now: float = 0.0) -> EngineStatistics:
        """Return an immutable snapshot; ages are counted to ``now``."""
        workflows = self.workflows.values()
        # Summed up column by column: of 20,000 workflows that takes a fifth of the time of adding them one after the other.
        columns = map(sum, zip(*[workflow.counts for workflow in workflows], strict=True))
        nodes = dict.fromkeys(_STATE_WORDS, 0) | dict(zip(_STATE_WORDS, columns, strict=False))
        states, held, oldest, oldest_ready = Counter[WorkflowState](), Counter[HoldReason](), now, now
        for workflow in workflows:
            if workflow.holds:
                held.update([hold.reason for hold in workflow.holds.values()])
            states[workflow.state] += 1
            if workflow.has_begun:
                oldest = min(oldest, workflow.created_at)
            if workflow.can_dispatch:
                oldest_ready = min(oldest_ready, workflow.ready_since)
        return EngineStatistics(
            workflows=len(self.workflows),
            nodes=nodes,
            in_flight=len(self._in_flight),
            in_flight_max=self.limits.in_flight_max,
            draining=self.draining,
            counters=asdict(self.counters),
            late=len(self._late),
            timers=len(self._timers),
            pools=self.pools.views(),
            workflow_states={state.value: states[state] for state in WorkflowState if not state.is_finished},
            held={reason.value: held[reason] for reason in HoldReason},
            oldest_workflow_s=now - oldest,
            oldest_ready_s=now - oldest_ready,
        )

    def in_flight(self) -> Iterator[tuple[str, RunningWorkflow, int]]:
        """Iterate over ``(task id, workflow, node)``."""
        for task_id, (workflow, node) in self._in_flight.items():
            yield task_id, workflow, node

    def check_tables(self) -> None:
        """Raise `InvariantBroken` if rings, timers or the notes of late tasks disagree with the workflows. For tests."""
        timers = set(self._timers)
        for workflow_id, workflow in self.workflows.items():
            if workflow_id in self._touched:
                continue  # Its timers and its place in a ring come with the end of the turn.
            if workflow.can_dispatch and self._rings.priority_of(workflow_id) != workflow.priority:
                raise InvariantBroken(f"{workflow!r} could dispatch, but stands in no ring of its priority")
            due = [(hold.until, node) for node, hold in workflow.holds.items() if hold.until]
            due += [] if workflow.has_begun else [(workflow.policy.start_at, _WORKFLOW_TIMER)]
            missing = [node for at, node in due if (at, workflow_id, node) not in timers]
            if missing:
                raise InvariantBroken(f"{workflow!r} waits for times that nobody looks at, of nodes {missing}")
        self._rings.check()
        late_in = Counter(late.workflow_id for late in self._late.values())
        if late_in != self._late_in or not self._resting.keys() <= late_in.keys() or self._late.keys() & self._in_flight.keys():
            raise InvariantBroken(f"late tasks of {dict(late_in)}, counted are {dict(self._late_in)}")

    # --- effects out ------------------------------------------------------------------------------------------------

    def take_batch(self, now: float) -> Batch:
        """Let time pass until ``now``, dispatch what may go, and return the work of this turn."""
        self._let_time_pass(now)
        if not self.draining:
            self._dispatch(now)
        for workflow in self._touched.values():
            self._collect(workflow)
        self._touched.clear()
        batch, self._batch = self._batch, Batch()
        if batch.unwatch or batch.revoke:
            self._drop_landed(batch)
        self._is_urgent, self._changed_at = False, None
        return batch

    def _drop_landed(self, batch: Batch) -> None:
        """Keep what a turn both began and ended out of its batch, and watched what is in flight anew."""
        batch.watch = [task_id for task_id in batch.watch if self._is_watched(task_id)]
        batch.publish = [message for message in batch.publish if message.task_id in self._in_flight]
        batch.unwatch = [task_id for task_id in batch.unwatch if not self._is_watched(task_id)]

    def _is_watched(self, task_id: str) -> bool:
        return task_id in self._in_flight or task_id in self._late

    def _dispatch(self, now: float) -> None:
        budget = self.limits.dispatch_max
        while budget:
            if self._pools_freed:
                self._pools_open |= self._pools_freed
                self._call_to(self._pools_freed, now)
                self._pools_freed.clear()
            if not self._can_dispatch(1):
                # Those who were called may not be able to go: their workflow is paused, or they wait for another pool now.
                if self._rings or not self._pools_open or not self._call_to(self._pools_open, now):
                    break
                continue
            workflow = self._next_in_ring()
            if workflow is None:
                continue
            try:
                self._dispatch_one(workflow, now)
            except Exception as error:
                self._set_aside(workflow, error, now)
            budget -= 1

    def _next_in_ring(self) -> RunningWorkflow | None:
        """Return the workflow whose turn it is; one that has nothing to give leaves its ring."""
        workflow = self.workflows.get(self._rings.first)
        if workflow is None or not workflow.can_dispatch:
            self._rings.drop_first()
            return None
        self._rings.give(workflow.policy.weight)
        return workflow

    def _can_dispatch(self, places: int) -> bool:
        return bool(self._rings) and not self.draining and len(self._in_flight) + places <= self.limits.in_flight_max

    def _dispatch_one(self, workflow: RunningWorkflow, now: float) -> None:
        self._touch(workflow)
        pools = self._pools_of(workflow, workflow.next_ready()) if self._has_pools else ()
        full = self.pools.full_one(pools) if pools else None
        if full is not None:
            self.pools.wait(full, workflow.workflow_id, workflow.park(full))
            self._pools_open.update(pool for pool in pools if pool != full and self.pools.is_callable(pool))
            return
        node = workflow.take_ready(now)
        signature = workflow.graph.signatures[node]
        assert signature is not None
        task_id = workflow.task_id_of(node)
        if task_id in self._in_flight:
            error = f"task id '{task_id}' is in flight for another node already"
            workflow.failed(node, Failure(error, FailureKind.REFUSED), now)
            return
        if signature.expires_at and signature.expires_at <= now:
            workflow.failed(node, Failure("it expired before it was dispatched", FailureKind.EXPIRED, "Expired"), now)
            return
        self._begin_flight(workflow, node, task_id)
        self.counters.dispatched += 1
        self.by_task.add(self._place_of(signature), "dispatched")
        self._publish(workflow, node)

    def _begin_flight(self, workflow: RunningWorkflow, node: int, task_id: str) -> None:
        late = self._late.pop(task_id, None)
        if late is not None:
            self._count_late_out(late)
        self._in_flight[task_id] = (workflow, node)
        if self._has_pools:
            self.pools.take(self._pools_of(workflow, node))
        self._batch.watch.append(task_id)
        timeout_s = workflow.timeout_s(node)
        if timeout_s:
            self._set_timer(workflow.dispatched_at[node] + timeout_s, workflow, node)

    def _pools_of(self, workflow: RunningWorkflow, node: int) -> tuple[str, ...]:
        if not self._has_pools:
            return ()
        signature = workflow.graph.signatures[node]
        return () if signature is None else self.pools.needed_by(signature, workflow.graph.policy(node))

    def _call_to(self, pools: set[str], now: float) -> bool:
        """Let those go on who stand in line for a pool that has places; tell whether there was anybody."""
        is_anybody = False
        for pool in pools:
            for workflow_id, node in self.pools.called(pool):
                is_anybody = True
                workflow = self.workflows[workflow_id]
                workflow.unpark(node, now)
                self._touch(workflow)
        self._pools_open = {pool for pool in self._pools_open if self.pools.is_callable(pool)}
        return is_anybody

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
                stamp=workflow.stamp,
            )
        )

    def _collect(self, workflow: RunningWorkflow) -> None:
        """Turn what changed inside one workflow into records, timers, a place in the ring, or its end."""
        batch = self._batch
        batch.changed.add(workflow.workflow_id)
        for node in workflow.take_changed():
            batch.save_nodes[workflow.workflow_id, node] = node_record(workflow, node)
            hold = workflow.holds.get(node) if workflow.holds else None
            if self._has_pools and self.pools.has_guests and (hold is None or hold.reason is not HoldReason.POOL):
                self.pools.leave(workflow.workflow_id, node)
            if hold is not None and hold.until:
                self._set_timer(hold.until, workflow, node)
        if workflow.is_changed:
            workflow.is_changed = False
            earlier = batch.save_workflows.get(workflow.workflow_id)
            batch.save_workflows[workflow.workflow_id] = workflow_record(workflow).following(earlier)
        if workflow.state.is_finished and workflow.workflow_id in self.workflows:
            self._finished(workflow)

    def _finished(self, workflow: RunningWorkflow) -> None:
        del self.workflows[workflow.workflow_id]
        if workflow.unsettled_count:
            # It is broken and not to be trusted: whatever comes of it is made from its records.
            for node in range(len(workflow.graph)) if self.pools.has_guests else ():
                self.pools.leave(workflow.workflow_id, node)
        elif self._late_in[workflow.workflow_id]:
            self._resting[workflow.workflow_id] = workflow
        name = f"workflows_{workflow.state}"
        setattr(self.counters, name, getattr(self.counters, name) + 1)
        if workflow.finished_at is not None:
            self.by_workflow.add((workflow.name,), workflow.state.value)
            self.by_workflow.add((workflow.name,), "seconds", max(0.0, workflow.finished_at - workflow.created_at))
        self._batch.finished.append(workflow)
        self.node_count -= len(workflow.graph)

    # --- time -------------------------------------------------------------------------------------------------------

    def _set_timer(self, at: float, workflow: RunningWorkflow, node: int) -> None:
        heappush(self._timers, (at, workflow.workflow_id, node))
        if len(self._timers) > self._timers_max:
            # Most timers of timeouts outlive their task, and verbs set some again that are set already.
            self._timers = [timer for timer in set(self._timers) if self._is_meant(timer)]
            heapify(self._timers)
            self._timers_max = max(_TIMERS_MIN, 2 * len(self._timers))

    def _is_meant(self, timer: tuple[float, str, int]) -> bool:
        at, workflow_id, node = timer
        workflow = self.workflows.get(workflow_id)
        if workflow is None:
            return False
        if node == _WORKFLOW_TIMER:
            return at in (workflow.policy.start_at, workflow.deadline_at)
        hold = workflow.holds.get(node)
        if hold is not None:
            return hold.until == at
        return workflow.state_of(node) in IN_FLIGHT and workflow.dispatched_at[node] + workflow.timeout_s(node) == at

    def _let_time_pass(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, workflow_id, node = heappop(self._timers)
            workflow = self.workflows.get(workflow_id)
            # One that has finished in this turn stays until the batch is taken, and keeps its end.
            if workflow is None or workflow.state.is_finished:
                continue
            try:
                self._ring_alarm(workflow, node, now)
            except Exception as error:
                self._set_aside(workflow, error, now)
        while self._late and next(iter(self._late.values())).until <= now:
            task_id, late = self._late.popitem(last=False)
            workflow = self.workflows.get(late.workflow_id)
            if workflow is not None and workflow.is_taken_for_lost(late.node) and workflow.task_id_of(late.node) == task_id:
                # It waits for a person, who may be spared the decision.
                self._late[task_id] = replace(late, until=now + self.limits.late_watch_s)
                continue
            self._forget_late(task_id, late)
        if self._revoke_again_at is not None and self._revoke_again_at <= now:
            self._revoke_again(now)

    def _ring_alarm(self, workflow: RunningWorkflow, node: int, now: float) -> None:
        if node == _WORKFLOW_TIMER:
            if not workflow.has_begun:
                workflow.begin(now)
            if workflow.deadline_at and workflow.deadline_at <= now and not workflow.state.is_finished:
                self._end_flights(workflow, workflow.over_deadline(now), now, terminate=True)
            self._touch(workflow)
        elif workflow.time_passed(node, now):
            self._touch(workflow)
        elif workflow.is_overdue(node, now):
            self.counters.timed_out += 1
            self._end_flights(workflow, [node], now, terminate=True)
            error = f"no result within {workflow.timeout_s(node):g} s"
            self._failed(workflow, node, Failure(error, FailureKind.INFRASTRUCTURE, "Timeout", "node timeout"), now)
            self._touch(workflow)

    def _revoke_again(self, now: float) -> None:
        """Repeat what workers keep in memory only, for those that were away."""
        again = [late.revoke for late in self._late.values() if late.revoke is not None]
        self._batch.revoke += again
        self._revoke_again_s = min(2 * self._revoke_again_s, _REVOKE_AGAIN_MAX_S)
        self._revoke_again_at = now + self._revoke_again_s if again else None

    def _clock_stepped(self, by_s: float, now: float) -> None:
        """Let everything that is measured take as long as it should, and keep to the times that somebody named."""
        self.counters.clock_steps += 1
        self._timers.clear()
        for workflow in self.workflows.values():
            if workflow.shift_times(by_s, now):
                self._touch(workflow)
            self._set_workflow_timers(workflow)
            for node, hold in workflow.holds.items():
                if hold.until:
                    self._set_timer(hold.until, workflow, node)
        for workflow, node in self._in_flight.values():
            timeout_s = workflow.timeout_s(node)
            if timeout_s:
                self._set_timer(workflow.dispatched_at[node] + timeout_s, workflow, node)
        for task_id, late in self._late.items():
            self._late[task_id] = replace(late, until=late.until + by_s)
        if self._revoke_again_at is not None:
            self._revoke_again_at += by_s

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
            policy=event.policy,
            owner=event.owner,
        )
        self.counters.submitted += 1
        self.workflows[event.workflow_id] = workflow
        if event.adopted:
            adopt(workflow, event.adopted, now)
        else:
            workflow.begin(now)
        workflow.is_changed = False
        self._batch.save_workflows[event.workflow_id] = workflow_record(workflow, document=event.document)
        self._taken_in(workflow, now)

    def _recovered(self, workflow: RunningWorkflow, now: float) -> None:
        self.counters.recovered += 1
        # The clock may have been set back while no process ran.
        workflow.bound_times(now)
        self.workflows[workflow.workflow_id] = workflow
        self._taken_in(workflow, now)

    def _imported(self, event: WorkflowImported, now: float) -> None:
        """Take a workflow over with all that is stored of it; one that has finished goes to the store alone."""
        workflow = event.workflow
        self.counters.imported += 1
        self._batch.save_workflows[workflow.workflow_id] = event.record
        self._batch.save_nodes |= {(workflow.workflow_id, record.node): record for record in event.nodes}
        self._batch.journal += event.journal
        if not workflow.state.is_finished:
            workflow.bound_times(now)
            self.workflows[workflow.workflow_id] = workflow
            self._taken_in(workflow, now)

    def _taken_in(self, workflow: RunningWorkflow, now: float) -> None:
        """Set up what goes with a workflow that is new here; what it has in flight is watched."""
        self.node_count += len(workflow.graph)
        self._set_workflow_timers(workflow)
        if workflow.in_flight_count:
            for node in workflow.nodes_in(*IN_FLIGHT):
                self._begin_flight(workflow, node, workflow.task_id_of(node))
                if workflow.state_of(node) is NodeState.DISPATCHING:
                    self._publish(workflow, node)
        for node, hold in workflow.holds.items():
            if hold.until:
                self._set_timer(hold.until, workflow, node)
            elif hold.reason is HoldReason.LOST:
                task_id = workflow.task_id_of(node)
                self._watch_late(workflow, node, task_id, now)
                self._batch.watch.append(task_id)
        self._touch(workflow)

    def _set_workflow_timers(self, workflow: RunningWorkflow) -> None:
        if not workflow.has_begun:
            self._set_timer(workflow.policy.start_at, workflow, _WORKFLOW_TIMER)
        if workflow.deadline_at:
            self._set_timer(workflow.deadline_at, workflow, _WORKFLOW_TIMER)

    # --- verbs ------------------------------------------------------------------------------------------------------

    def _verb(self, event: VerbRequested, now: float) -> None:
        request = event.request
        workflow = self.workflows.get(event.workflow_id) or self._resting.get(event.workflow_id) or event.restored
        try:
            if workflow is None:
                raise WorkflowNotFound(event.workflow_id)
            deadline_at = workflow.deadline_at
            done = perform(workflow, request, now)
        except Exception as error:
            if isinstance(error, DyrygentError) and not isinstance(error, InvariantBroken):
                self.counters.verbs_refused += 1
                self._answer(Answer(event.ticket, error=error))
                return
            assert workflow is not None
            self._set_aside(workflow, error, now)
            self._answer(Answer(event.ticket, error=_broken(error)))
        else:
            self._done(workflow, request, done, event.ticket, now)
            if workflow.deadline_at != deadline_at:
                self._set_timer(workflow.deadline_at, workflow, _WORKFLOW_TIMER)

    def _done(self, workflow: RunningWorkflow, request: Request, done: Done, ticket: int, now: float) -> None:
        names = tuple(workflow.graph.names[node] for node in done.nodes[:_NAMED_MAX])
        if done.is_changed:
            self.counters.verbs += 1
            self._take_back(workflow, now)
            self._end_flights(workflow, done.ended, now, terminate=request.terminate)
            if request.verb is Verb.CANCEL and done.ended:
                self._batch.revoke_stamped.append(RevokeStamped(workflow.stamp, request.terminate))
            self._batch.journal.append(
                JournalEntry(
                    workflow_id=workflow.workflow_id,
                    at=now,
                    verb=request.verb.value,
                    by=request.by,
                    why=request.why,
                    nodes=names,
                    count=len(done.nodes),
                    detail=done.detail,
                )
            )
            self._touch(workflow)
        self._answer(Answer(ticket, names, done.is_changed))

    def _take_back(self, workflow: RunningWorkflow, now: float) -> None:
        """Put a finished workflow that goes on among the others; one that went on may have another place in the rings."""
        if workflow.workflow_id not in self.workflows:
            self._resting.pop(workflow.workflow_id, None)
            self.workflows[workflow.workflow_id] = workflow
            self._taken_in(workflow, now)
        elif not workflow.has_begun:
            self._set_workflow_timers(workflow)
        if self._rings.priority_of(workflow.workflow_id) != workflow.priority:
            self._rings.leave(workflow.workflow_id)

    def _answer(self, answer: Answer) -> None:
        if answer.ticket:
            self._batch.answers.append(answer)

    def _end_flights(self, workflow: RunningWorkflow, nodes: list[int], now: float, *, terminate: bool) -> None:
        """Give up tasks that are in flight: revoke them, and watch for what they do all the same."""
        for node in nodes:
            task_id, signature = workflow.task_id_of(node), workflow.graph.signatures[node]
            assert signature is not None
            revoke = Revoke(task_id, workflow.attempt_of(node), signature, terminate)
            self._batch.revoke.append(revoke)
            if self._in_flight.pop(task_id, None) is not None:
                self._free_pools(workflow, node)
                self._watch_late(workflow, node, task_id, now, revoke)
        if nodes:
            self._revoke_again_s = _REVOKE_AGAIN_FIRST_S
            self._revoke_again_at = now + self._revoke_again_s

    def _watch_late(self, workflow: RunningWorkflow, node: int, task_id: str, now: float, revoke: Revoke | None = None) -> None:
        self._late[task_id] = _Late(workflow.workflow_id, node, now + self.limits.late_watch_s, revoke)
        self._late_in[workflow.workflow_id] += 1
        while len(self._late) > self.limits.late_max:
            oldest, late = self._late.popitem(last=False)
            self._forget_late(oldest, late)

    def _forget_late(self, task_id: str, late: _Late) -> None:
        self._batch.unwatch.append(task_id)
        self._count_late_out(late)

    def _count_late_out(self, late: _Late) -> None:
        self._late_in[late.workflow_id] -= 1
        if not self._late_in[late.workflow_id]:
            del self._late_in[late.workflow_id]
            self._resting.pop(late.workflow_id, None)

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _task_event(self, event: TaskEvent, now: float) -> None:
        place = self._in_flight.get(event.task_id)
        if place is None:
            if event.task_id in self._late:
                self._late_event(event, now)
            elif not isinstance(event, MessagePublished | MessageRefused):
                self.counters.unrouted += 1
            return
        workflow, node = place
        try:
            self._apply(event, workflow, node, now)
        except Exception as error:
            self._set_aside(workflow, error, now)
        self._is_urgent |= workflow.state.is_finished
        self._touch(workflow)

    def _apply(self, event: TaskEvent, workflow: RunningWorkflow, node: int, now: float) -> None:
        match event:
            case MessagePublished():
                workflow.published(node)
            case TaskReported():
                if event.state == _STARTED and node not in workflow.reported:
                    self.start_seconds.add(max(0.0, now - workflow.dispatched_at[node]), workflow=workflow.workflow_id, now=now)
                workflow.note_reported(node, event.state, event.next_try_at, event.worker)
            case TaskSucceeded():
                self.counters.succeeded += 1
                self._note_end(workflow, node, "succeeded", now)
                self._landed(event.task_id)
                workflow.succeeded(node, event.value, event.value_error, now)
            case TaskFailed():
                self.counters.failed += 1
                self._note_end(workflow, node, "failed", now)
                self._landed(event.task_id)
                failure = Failure(event.error, event.kind, event.exception, event.cause)
                self._failed(workflow, node, failure, now)
                if event.exception in _DOUBTFUL_EXCEPTIONS:
                    self._doubt(workflow, node, event.task_id, now)
            case TaskRevoked():
                self.counters.revoked += 1
                self._note_end(workflow, node, "failed", now)
                self._landed(event.task_id)
                kind = FailureKind.EXPIRED if event.is_expired else FailureKind.REVOKED
                self._failed(workflow, node, Failure(f"revoked: {event.reason}", kind, cause=f"revoked: {event.reason}"), now)
                if not event.is_expired:
                    self._doubt(workflow, node, event.task_id, now)
            case TaskIgnored():
                self.counters.ignored += 1
                self._note_end(workflow, node, "ignored", now)
                self._landed(event.task_id)
                workflow.ignored(node, event.reason, now)
            case TaskLost():
                self.counters.lost += 1
                self.by_task.add(self._task_of(workflow, node), "lost")
                self._landed(event.task_id)
                workflow.lost(node, event.error, now, chance=self._chance())
                self._note_retry(workflow, node)
                self._watch_late(workflow, node, event.task_id, now)
            case MessageRefused():
                self.counters.refused += 1
                self._landed(event.task_id)
                self._failed(workflow, node, Failure(f"not dispatched: {event.error}", FailureKind.REFUSED), now)
            case _:
                assert_never(event)

    def _failed(self, workflow: RunningWorkflow, node: int, failure: Failure, now: float) -> None:
        workflow.failed(node, failure, now, chance=self._chance())
        self._note_retry(workflow, node)

    def _note_retry(self, workflow: RunningWorkflow, node: int) -> None:
        """Count a task that is tried again, if it is."""
        if workflow.state_of(node) is NodeState.RETRYING:
            self.counters.retried += 1
            self.by_task.add(self._task_of(workflow, node), "retried")

    def _note_end(self, workflow: RunningWorkflow, node: int, outcome: str, now: float) -> None:
        """Count the end of a task under its name, and how long it took from its dispatch."""
        seconds, task = max(0.0, now - workflow.dispatched_at[node]), self._task_of(workflow, node)
        self.task_seconds.add(seconds, workflow=workflow.workflow_id, now=now)
        self.by_task.add(task, outcome)
        self.by_task.add(task, "seconds", seconds)

    def _task_of(self, workflow: RunningWorkflow, node: int) -> tuple[str, str]:
        signature = workflow.graph.signatures[node]
        return ("", "") if signature is None else self._place_of(signature)

    def _place_of(self, signature: Signature) -> tuple[str, str]:
        """Return a task's name and queue; large workflows repeat few signatures."""
        place = self._places.get(signature)
        if place is None:
            if len(self._places) >= _PLACES_MAX:
                self._places.clear()
            place = self._places[signature] = signature.task, self._queue_of(signature)
        return place

    def _doubt(self, workflow: RunningWorkflow, node: int, task_id: str, now: float) -> None:
        """Go on watching a task that was reported as ended by somebody else than itself."""
        if workflow.state_of(node) is NodeState.FAILED:
            # `_drop_landed` keeps it from being unwatched.
            self._watch_late(workflow, node, task_id, now)

    def _late_event(self, event: TaskEvent, now: float) -> None:
        """Note what became of a task without which its node has gone on; only a failure that was none is corrected."""
        if isinstance(event, MessagePublished | MessageRefused | TaskReported):
            return
        late = self._late[event.task_id]
        workflow = self.workflows.get(late.workflow_id) or self._resting.get(late.workflow_id)
        node = late.node
        if workflow is not None and self._turns_up(event, workflow, node):
            self.counters.turned_up += 1
            workflow.turned_up(node, now)
            self._begin_flight(workflow, node, event.task_id)
            self._task_event(event, now)
            return
        is_doubted = late.revoke is None
        if is_doubted and isinstance(event, TaskFailed | TaskRevoked | TaskLost):
            return  # What is known already, read once more.
        self.counters.late += 1
        if workflow is not None:
            self.by_task.add(self._task_of(workflow, node), "late")
        if isinstance(event, TaskRevoked) and late.revoke is not None and not late.revoke.terminate:
            # A worker stores that at once, also of a task that runs and goes on: how it ends is stored after it.
            self._late[event.task_id] = replace(late, revoke=None)
        else:
            del self._late[event.task_id]
            self._forget_late(event.task_id, late)
        if workflow is None:
            return
        if workflow.task_id_of(node) != event.task_id or not workflow.state_of(node).is_settled:
            return  # It was an earlier attempt, which says nothing about the present one.
        is_failed = workflow.state_of(node) is NodeState.FAILED
        if is_doubted and isinstance(event, TaskSucceeded) and is_failed and not workflow.state.is_finished:
            try:
                workflow.succeeded_late(node, event.value, event.value_error, now)
            except Exception as error:
                self._set_aside(workflow, error, now)
            self._is_urgent = True
        else:
            workflow.late[node] = _LATE_WORDS.get(type(event), "failed")
            workflow.changed.add(node)
        self._touch(workflow)

    def _turns_up(self, event: TaskEvent, workflow: RunningWorkflow, node: int) -> bool:
        """Tell whether this is the end of a task that was taken for lost, with nothing sent in its place yet.

        One that is to be tried again anyway is spared that by a success only.
        """
        is_its_last = workflow.task_id_of(node) == event.task_id
        if not is_its_last or not workflow.is_taken_for_lost(node) or isinstance(event, TaskLost):
            return False
        return workflow.state_of(node) is NodeState.HELD or isinstance(event, TaskSucceeded)

    def _save_refused(self, event: SaveRefused, now: float) -> None:
        workflow = self.workflows.get(event.workflow_id)
        if workflow is None:
            # It has ended, and its end is what is refused.
            self.counters.broken += 1
        else:
            self._set_aside(workflow, InvariantBroken(event.error), now)

    def _set_aside(self, workflow: RunningWorkflow, error: Exception, now: float) -> None:
        """End a workflow that contradicts itself; a bug that it met must not end the others as well."""
        self.counters.broken += 1
        workflow.set_aside(str(_broken(error)), now)
        for task_id in [task_id for task_id, (owner, _) in self._in_flight.items() if owner is workflow]:
            self._landed(task_id)
        self._touch(workflow)

    def _landed(self, task_id: str) -> None:
        place = self._in_flight.pop(task_id, None)
        if place is not None:
            self._batch.unwatch.append(task_id)
            if self._has_pools:
                self._free_pools(*place)

    def _free_pools(self, workflow: RunningWorkflow, node: int) -> None:
        pools = self._pools_of(workflow, node)
        if pools:
            self.pools.give_back(pools)
            self._pools_freed.update(pools)
            self._is_urgent |= any(self.pools.is_waited_for(pool) for pool in pools)

    def _touch(self, workflow: RunningWorkflow) -> None:
        self._touched[workflow.workflow_id] = workflow
        if workflow.can_dispatch:
            self._rings.join(workflow.workflow_id, workflow.priority)


def _broken(error: Exception) -> InvariantBroken:
    """Return an unexpected error as what it is: a bug of ours, and where it is."""
    if isinstance(error, InvariantBroken):
        return error
    place, step = "", error.__traceback__
    while step is not None:
        place, step = f"{step.tb_frame.f_code.co_name}:{step.tb_lineno}", step.tb_next
    return InvariantBroken(f"unexpected {type(error).__name__}: {error} (in {place})")


_LATE_WORDS: Final[dict[type[TaskEvent], str]] = {
    TaskSucceeded: NodeState.SUCCEEDED.word,
    TaskRevoked: "revoked",
    TaskIgnored: "ignored",
    TaskLost: "lost",
}
