"""Many workflows: what comes in, what a turn has to carry out, and what goes with each of them.

Theory of operation
===================
*The idea.* The engine owns every workflow in progress. `handle` takes one event and changes states; `take_batch` lets time
pass, fills the free places in flight and returns the work that follows. Between the two nothing is awaited, so a turn is
atomic: its changes reach the disk in one transaction, or none does.

*When.* A batch costs a transaction, so it is taken at once only if something can go on because of it: nodes to dispatch, a
submission, a cancel, an end. What changes nothing for anybody else (the broker has a message, one of a thousand members
succeeded) waits ``linger_s`` for company.

*When the clock is set*, what was measured goes on as if nothing had happened: a pause, a poll and a timeout take as long as they
should. Times that somebody named (an ETA, a start, a deadline) are times of the clock, and come when it says so.

*What could go wrong.* A workflow that breaks an invariant, whose handling fails, or whose records the store refuses, is set aside
with its story, its places are freed, and the others go on.

*Parts.* What has come together since the last batch is `Turn`; who goes next, `Dispatching`; who is in flight, `Flights`;
what an event of a task means, `TaskEvents`. Here is what a batch holds, and what a workflow brings and leaves behind.

Long because all of that is one decision a turn.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final, get_args

from dyrygentd.core import outcomes, steering
from dyrygentd.core.checkpoint import adopt, node_record, workflow_record
from dyrygentd.core.children import Children
from dyrygentd.core.clock_steps import bound_times, shift_times
from dyrygentd.core.counting import Counting, EngineStatistics
from dyrygentd.core.decisions import Decision, Decisions
from dyrygentd.core.dispatching import Dispatching, HoldBack
from dyrygentd.core.effects import Answer, Batch, Revoke, RevokeStamped
from dyrygentd.core.events import (
    ChildEnded,
    ChildRefused,
    ClockStepped,
    DrainRequested,
    Event,
    LimitsChanged,
    MessagePublished,
    ReportsRead,
    SaveRefused,
    TaskEvent,
    TaskSucceeded,
    VerbRequested,
    WorkflowImported,
    WorkflowRecovered,
    WorkflowSubmitted,
)
from dyrygentd.core.flights import Flights, as_broken
from dyrygentd.core.given_up import TIMED_OUT, given_up_by
from dyrygentd.core.ids import OF_OLD
from dyrygentd.core.limits import Limits, following
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.notes import Failure, HoldReason
from dyrygentd.core.origin import Origin
from dyrygentd.core.policy import FailureKind
from dyrygentd.core.pools import Pools
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.references import Referring, references_in
from dyrygentd.core.rings import Rings
from dyrygentd.core.routes import Routes, Routing
from dyrygentd.core.series_runs import SeriesRuns
from dyrygentd.core.states import IN_FLIGHT, NodeState
from dyrygentd.core.steps import Steps, exhaust
from dyrygentd.core.story import Story
from dyrygentd.core.task_events import TaskEvents
from dyrygentd.core.timers import WORKFLOW_TIMER, Timers
from dyrygentd.core.turn import Turn
from dyrygentd.core.unrun import is_unrun
from dyrygentd.core.values import ValueBudget
from dyrygentd.core.verbs import Changes, Verb, VerbRequest, perform_in_steps
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DyrygentError, InvariantBroken, WorkflowNotFound

#: Names of nodes in one entry of the journal or one answer; the number is told as well.
_NAMED_MAX: Final = 100
#: Nodes whose records are taken in one step, if more have changed.
_STEP: Final = 1000
#: Those first that come most.
_TASK_EVENTS: Final = (TaskSucceeded, MessagePublished, *get_args(TaskEvent))
#: As a plain number, which is compared faster; beyond it are the ends of which no worker may have told.
_SUCCEEDED: Final = int(NodeState.SUCCEEDED)


class Engine:
    """Decides for all workflows. Guards: at most ``in_flight_max`` task ids are in flight, each for one node.

    Args:
        pools: Named pools and limits of queues.
        chance: Makes numbers from 0 to 1, for the jitter of retries.
        queue_of: Tells to which queue a signature goes, for counting.
        routing: Tells where messages go; without it that is not remembered.
        why_values_here: See `ValueBudget`.

    Attributes:
        children: Whose work which workflow is.
        counting: What is counted.
        flights: Which tasks are in flight, for which nodes, and which are watched on.
        series: The unfinished runs of series.
        workflows: The unfinished workflows by id. A finished one leaves with the batch that records its end.
        node_count: Number of nodes in all of them.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        pools: Pools | None = None,
        chance: Callable[[], float] = lambda: 0.0,
        queue_of: Callable[[Signature], str] = lambda signature: "",
        routing: Routing | None = None,
        why_values_here: Callable[[], str] = str,
    ) -> None:
        self._rings = Rings()
        self._turn = Turn(limits or Limits(), self._rings)
        self.workflows: dict[str, RunningWorkflow] = {}
        self.node_count = 0
        self.pools = pools or Pools()
        self.values = ValueBudget(self.limits.workflow_values_bytes_max, self.limits.values_bytes_max, why_values_here)
        self._routes = Routes(queue_of, routing)
        self.counting = Counting(self._routes)
        self._timers = Timers(self.workflows)
        self._decisions = Decisions()
        self._story = Story()
        self.flights = Flights(self._turn, self.workflows, pools=self.pools, timers=self._timers, counting=self.counting)
        self.series = SeriesRuns(self._turn, self.flights, decisions=self._decisions, timers=self._timers.set_of_workflow)
        self._dispatching = Dispatching(
            self._turn, self._rings, self.workflows, flights=self.flights, routes=self._routes, counting=self.counting
        )
        self.children = Children(self._turn, self.workflows, self.flights)
        self._tasks = TaskEvents(self._turn, self.flights, counting=self.counting, decisions=self._decisions, chance=chance)

    def __repr__(self) -> str:
        return f"<Engine workflows={len(self.workflows)} in_flight={self.flights.in_flight_count}>"

    @property
    def limits(self) -> Limits:
        """Bounds of what is kept and done at a time."""
        return self._turn.limits

    @property
    def changed_now(self) -> Collection[str]:
        """Ids of the workflows that have changed in this turn, whose batch was not taken yet. For tests."""
        return self._turn.touched.keys()

    @property
    def draining(self) -> bool:
        """Whether nothing more is dispatched, until the end."""
        return self._dispatching.draining

    # --- events in --------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take note of one event; its effects come with the next batch."""
        if self._turn.changed_at is None:
            self._turn.changed_at = now
        if isinstance(event, _TASK_EVENTS):
            if type(event) is TaskSucceeded and type(event.value) is Referring:
                self.values.offer(references_in(event.value))
            self._tasks.happened(event, now)
            return
        self._turn.is_urgent |= not isinstance(event, ReportsRead)
        match event:
            case WorkflowSubmitted():
                self._submitted(event, now)
            case WorkflowRecovered():
                self._recovered(event.workflow, now)
            case WorkflowImported():
                self._imported(event, now)
            case VerbRequested():
                exhaust(self.verb_in_steps(event, now))
            case ChildEnded() | ChildRefused():
                self.children.told(event, now)
            case LimitsChanged():
                self._turn.limits = following(self._turn.limits, event.limits)
            case DrainRequested():
                self._dispatching.draining = True
            case SaveRefused():
                self._save_refused(event, now)
            case ClockStepped():
                self._clock_stepped(event.by_s, now)
            case ReportsRead():
                self._turn.batch.reports_read = event.offset
            case _:  # pragma: no cover - only for mypy: events of tasks are told apart above, which is faster
                self._tasks.happened(event, now)

    def next_deadline(self) -> float | None:
        """Return when `take_batch` is due if nothing else happens: a time, 0 for at once, None for never."""
        if self._turn.is_urgent or self._dispatching.is_due() or self.series.is_due:
            return 0.0
        due = self.flights.late.next_at()
        if self._timers.next_at is not None:
            due.append(self._timers.next_at)
        if self._turn.changed_at is not None:
            due.append(self._turn.changed_at + self.limits.linger_s)
        decided_at = self._decisions.next_at()
        if decided_at is not None:
            due.append(decided_at)
        return min(due, default=None)

    def held_back(self, workflow: RunningWorkflow) -> HoldBack | None:
        """Return why no node of a workflow goes next; None if the next one that has its turn is one of its own."""
        return self._dispatching.held_back(workflow)

    def statistics(self, now: float = 0.0) -> EngineStatistics:
        """Return an immutable snapshot; ages are counted to ``now``."""
        return self.counting.statistics(
            self.workflows.values(),
            now,
            in_flight=self.flights.in_flight_count,
            in_flight_max=self.limits.in_flight_max,
            is_draining=self.draining,
            late=len(self.flights.late),
            values=self.values,
            timers=len(self._timers),
            pools=self.pools.views(),
        )

    def check_tables(self) -> None:
        """Raise `InvariantBroken` if rings, timers or the notes of late tasks disagree with the workflows. For tests."""
        for workflow_id, workflow in self.workflows.items():
            if workflow_id in self._turn.touched:
                continue  # Its timers and its place in a ring come with the end of the turn.
            if workflow.can_dispatch and self._rings.priority_of(workflow_id) != workflow.priority:
                raise InvariantBroken(f"{workflow!r} could dispatch, but stands in no ring of its priority")
            self._timers.check(workflow)
        self._rings.check()
        self.series.check()
        self.flights.check()

    # --- effects out ------------------------------------------------------------------------------------------------

    def take_batch(self, now: float) -> Batch:
        """Let time pass until ``now``, dispatch what may go, and return the work of this turn."""
        return exhaust(self.batch_in_steps(now))

    def batch_in_steps(self, now: float) -> Steps[Batch]:
        """Do what `take_batch` does, some thousand nodes at a time if very many have changed; no event may come in between."""
        self._let_time_pass(now)
        # What goes on because a child has ended goes in the same turn; and so ends one whose node found a task to have expired.
        self.children.agree(now)
        self.series.go_on(now)
        self._dispatching.dispatch(now)
        self.children.agree(now)
        for workflow in self._turn.touched.values():
            if len(workflow.nodes.changed) > _STEP:
                yield from self._record_in_steps(workflow)
            self._collect(workflow, now)
        self._turn.touched.clear()
        self._turn.batch.journal += self._decisions.take(now)
        batch = self._turn.take_batch()
        batch.released = self.values.take_released()
        if batch.unwatch or batch.revoke:
            self.flights.drop_landed(batch)
        return batch

    def _collect(self, workflow: RunningWorkflow, now: float) -> None:
        """Turn what changed inside one workflow into records, timers, a place in the ring, or its end."""
        batch = self._turn.batch
        batch.changed[workflow.workflow_id] = None
        if workflow.origin.parent is not None:
            # Whoever looks at that one sees how its children are.
            batch.changed[workflow.origin.parent.workflow_id] = None
        self._record(workflow, workflow.nodes.take_changed())
        if workflow.is_changed:
            workflow.is_changed = False
            earlier = batch.save_workflows.get(workflow.workflow_id)
            batch.save_workflows[workflow.workflow_id] = workflow_record(workflow).following(earlier)
        if workflow.state.is_finished and workflow.workflow_id in self.workflows:
            self._turn.batch.journal += self._decisions.end(workflow.workflow_id, now)
            self._finished(workflow)

    def _record_in_steps(self, workflow: RunningWorkflow) -> Iterator[None]:
        changed = iter(workflow.nodes.take_changed())
        while part := list(islice(changed, _STEP)):
            self._record(workflow, part)
            yield

    def _record(self, workflow: RunningWorkflow, nodes: Iterable[int]) -> None:
        """Take the records of nodes that have changed, and set their timers."""
        batch = self._turn.batch
        is_of_old, states, save_nodes = workflow.attempts.ids == OF_OLD, workflow.states, batch.save_nodes
        has_guests, workflow_id = self.flights.has_pools and self.pools.has_guests, workflow.workflow_id
        for node in nodes:
            if is_of_old:
                self.flights.claims.claim(workflow_id, workflow.attempts.held_ids(node))
            save_nodes[workflow_id, node] = node_record(workflow, node)
            if states[node] > _SUCCEEDED and is_unrun(workflow, node):
                batch.unrun.append((workflow, node))
            hold = workflow.holds.get(node) if workflow.holds else None
            if has_guests and (hold is None or hold.reason is not HoldReason.POOL):
                self.pools.leave(workflow.workflow_id, node)
            if hold is not None and hold.until:
                self._timers.set(hold.until, workflow, node)
            elif hold is not None and hold.reason is HoldReason.CHILD:
                self.children.begin(workflow, node)

    def _finished(self, workflow: RunningWorkflow) -> None:
        del self.workflows[workflow.workflow_id]
        self.children.ended(workflow)
        self.flights.claims.release(workflow.workflow_id)
        self.series.leave(workflow)
        if workflow.nodes.unfinished:
            # It is broken and not to be trusted: whatever comes of it is made from its records.
            for node in range(len(workflow.graph)) if self.pools.has_guests else ():
                self.pools.leave(workflow.workflow_id, node)
        else:
            self.flights.late.rest(workflow)
        self.counting.workflow_ended(workflow)
        self._turn.batch.finished.append(workflow)
        self.node_count -= len(workflow.graph)
        workflow.values.count_out()

    # --- time -------------------------------------------------------------------------------------------------------

    def _let_time_pass(self, now: float) -> None:
        while due := self._timers.take_due(now):
            workflow, node = due
            try:
                self._ring_alarm(workflow, node, now)
            except Exception as error:
                self.flights.set_aside(workflow, error, now)
        if self.flights.late.is_quiet:
            return
        for task_id, late in self.flights.late.drop_over(now):
            watched = self.workflows.get(late.workflow_id)
            if (
                watched is not None
                and outcomes.is_taken_for_lost(watched, late.node)
                and watched.attempts.task_id_of(late.node) == task_id
            ):
                # It waits for a person, who may be spared the decision.
                self.flights.late.note(task_id, replace(late, until=now + self.limits.late_watch_s))
            else:
                self._turn.batch.unwatch.append(task_id)
        self._turn.batch.revoke += self.flights.late.revoke_again(now)

    def _ring_alarm(self, workflow: RunningWorkflow, node: int, now: float) -> None:
        if node == WORKFLOW_TIMER:
            if workflow.start.behind:
                return  # Its times are set anew when it begins.
            if not workflow.has_begun:
                workflow.begin(now)
            if workflow.deadline_at and workflow.deadline_at <= now and not workflow.state.is_finished:
                was_stopped = workflow.is_stopped
                self.flights.give_up(workflow, steering.over_deadline(workflow, now), now, terminate=True)
                self.children.agree_with(workflow, now, terminate=True)
                if workflow.is_stopped and not was_stopped:
                    self._decisions.note(workflow.workflow_id, Decision.DEADLINE, "", now, why=workflow.error)
            self._turn.touch(workflow)
        elif workflow.time_passed(node, now):
            self._turn.touch(workflow)
        elif workflow.is_overdue(node, now):
            self.counting.counters.timed_out += 1
            self.flights.give_up(workflow, [node], now, terminate=True)
            error = f"no result within {workflow.timeout_s(node):g} s"
            self._tasks.decided(Decision.TIMED_OUT, workflow, node, now, error)
            self._tasks.failed(workflow, node, Failure(error, FailureKind.INFRASTRUCTURE, "Timeout", TIMED_OUT), now)
            self._turn.touch(workflow)

    def _clock_stepped(self, by_s: float, now: float) -> None:
        """Let everything that is measured take as long as it should, and keep to the times that somebody named."""
        self.counting.counters.clock_steps += 1
        self._timers.clear()
        for workflow in self.workflows.values():
            if shift_times(workflow, by_s, now):
                self._turn.touch(workflow)
            self._timers.set_of_workflow(workflow)
            for node, hold in workflow.holds.items():
                if hold.until:
                    self._timers.set(hold.until, workflow, node)
        for _, workflow, node in self.flights.in_flight():
            self._timers.set_timeout(workflow, node)
        self.flights.late.shift_times(by_s)

    # --- one event each ---------------------------------------------------------------------------------------------

    def _submitted(self, event: WorkflowSubmitted, now: float) -> None:
        if event.parent is not None and not self.children.wants(event.parent):
            if event.workflow_id not in self.workflows:
                self.flights.claims.release(event.workflow_id)
            return
        if self.series.skips(event, now):
            return
        workflow = RunningWorkflow(
            workflow_id=event.workflow_id,
            name=event.name,
            graph=event.graph,
            origin=Origin(
                now,
                event.key,
                event.digest,
                self.children.labels_of(event),
                event.owner,
                event.parent_task,
                event.parent,
                event.series,
            ),
            value_bytes_max=self.limits.value_bytes_max,
            policy=event.policy,
            story=self._story,
        )
        workflow.attempts.ids = event.ids
        self.counting.counters.submitted += 1
        self.workflows[event.workflow_id] = workflow
        self.series.admit(workflow, now)
        if event.adopted:
            adopt(workflow, event.adopted, now)
        else:
            workflow.begin(now)
        self.children.inherit(workflow, now)
        self.children.begun(event.parent)
        workflow.is_changed = False
        self._turn.batch.save_workflows[event.workflow_id] = workflow_record(workflow, document=event.document)
        self._taken_in(workflow, now)

    def _recovered(self, workflow: RunningWorkflow, now: float) -> None:
        self.counting.counters.recovered += 1
        # The clock may have been set back while no process ran.
        bound_times(workflow, now)
        self.workflows[workflow.workflow_id] = workflow
        self._taken_in(workflow, now)
        self.children.recovered(workflow)
        for task in given_up_by(workflow, now - self.limits.late_watch_s):
            signature = workflow.graph.signatures[task.node]
            assert signature is not None
            if self.flights.holder_of(task.task_id) not in (None, workflow.workflow_id):
                continue  # Another workflow has this id, and it is that one's task.
            revoke = Revoke(task.task_id, task.attempt, signature, task.terminate, workflow.attempts.destination_of(task.node))
            self._turn.batch.revoke.append(revoke)
            self._turn.batch.watch.append(task.task_id)
            self.flights.watch_late(workflow, task.node, task.task_id, now, revoke)
            self.flights.late.begin_revoking(now)

    def _imported(self, event: WorkflowImported, now: float) -> None:
        """Take a workflow over with all that is stored of it; one that has finished goes to the store alone."""
        for child in event.children:
            # Before what is above it, which would begin another one.
            self._imported(child, now)
        workflow = event.workflow
        self.counting.counters.imported += 1
        self._turn.batch.save_workflows[workflow.workflow_id] = event.record
        self._turn.batch.save_nodes |= {(workflow.workflow_id, record.node): record for record in event.nodes}
        self._turn.batch.journal += event.journal
        if not workflow.state.is_finished:
            bound_times(workflow, now)
            self.workflows[workflow.workflow_id] = workflow
            self._taken_in(workflow, now)

    def _taken_in(self, workflow: RunningWorkflow, now: float) -> None:
        """Set up what goes with a workflow that is new here; what it has in flight is watched."""
        self._story.take_over(workflow.nodes.story)
        workflow.nodes.story = self._story
        workflow.values.count_in(self.values, workflow.workflow_id)
        self.node_count += len(workflow.graph)
        self.series.join(workflow)
        self.flights.claim(workflow)
        self._timers.set_of_workflow(workflow)
        if workflow.nodes.in_flight_count:
            for node in workflow.nodes.all_in(*IN_FLIGHT):
                task_id = workflow.attempts.task_id_of(node)
                if self.flights.begin(workflow, node, task_id, now) and workflow.state_of(node) is NodeState.DISPATCHING:
                    self._dispatching.publish(workflow, node, task_id, workflow.attempts.destination_of(node))
        for node, hold in workflow.holds.items():
            if hold.until:
                self._timers.set(hold.until, workflow, node)
            elif hold.reason is HoldReason.LOST:
                task_id = workflow.attempts.task_id_of(node)
                if self.flights.holder_of(task_id) in (None, workflow.workflow_id):
                    self.flights.watch_late(workflow, node, task_id, now)
                    self._turn.batch.watch.append(task_id)
        self.children.taken_in(workflow)
        self._turn.touch(workflow)

    # --- verbs ------------------------------------------------------------------------------------------------------

    def verb_in_steps(self, event: VerbRequested, now: float) -> Steps[None]:
        """Do what `handle` does, in steps if very many nodes change; nothing else may be handled in between."""
        self._turn.is_urgent = True
        if self._turn.changed_at is None:
            self._turn.changed_at = now
        request = event.request
        workflow = self.workflows.get(event.workflow_id) or self.flights.late.resting(event.workflow_id) or event.restored
        try:
            if workflow is None:
                raise WorkflowNotFound(event.workflow_id)
            self.children.refuse_if_unwanted(workflow, request)
            deadline_at = workflow.deadline_at
            changes = yield from perform_in_steps(workflow, request, now)
        except Exception as error:
            if isinstance(error, DyrygentError) and not isinstance(error, InvariantBroken):
                self.counting.counters.verbs_refused += 1
                self._answer(Answer(event.ticket, error=error))
                return
            assert workflow is not None
            self.flights.set_aside(workflow, error, now)
            self._answer(Answer(event.ticket, error=as_broken(error)))
        else:
            if changes.is_changed:
                workflow.nodes.changed.update(workflow.attempts.pass_over_ids(event.taken))
            self._note_changes(workflow, request, changes, event.ticket, now)
            if workflow.deadline_at != deadline_at:
                self._timers.set(workflow.deadline_at, workflow, WORKFLOW_TIMER)

    def _note_changes(self, workflow: RunningWorkflow, request: VerbRequest, changes: Changes, ticket: int, now: float) -> None:
        names = tuple(workflow.graph.names[node] for node in changes.nodes[:_NAMED_MAX])
        if changes.is_changed:
            self.counting.counters.verbs += 1
            self._take_back(workflow, now)
            self.flights.give_up(workflow, changes.ended, now, terminate=request.terminate)
            if request.verb is Verb.CANCEL and changes.ended and workflow.state.is_finished:
                self._turn.batch.revoke_stamped.append(RevokeStamped(workflow.stamp, request.terminate))
            self._turn.batch.journal.append(
                JournalEntry(
                    workflow_id=workflow.workflow_id,
                    at=now,
                    verb=request.verb.value,
                    by=request.by,
                    why=request.why,
                    nodes=names,
                    count=len(changes.nodes),
                    detail=changes.detail,
                    letter=request.letter,
                )
            )
            self._turn.touch(workflow)
            self.children.agree_with(workflow, now, terminate=request.terminate)
            for child in self.children.follow(workflow, request, now):
                self._moved(child)
                self._turn.touch(child)
        self._answer(Answer(ticket, names, changes.is_changed, count=len(changes.nodes)))

    def _take_back(self, workflow: RunningWorkflow, now: float) -> None:
        """Put a finished workflow that goes on among the others; one that went on may have another place in the rings."""
        if workflow.workflow_id not in self.workflows:
            self.flights.late.wake(workflow.workflow_id)
            self.workflows[workflow.workflow_id] = workflow
            self._taken_in(workflow, now)
            self.children.goes_on(workflow, now)
            self.series.came_back(workflow, now)
        elif not workflow.has_begun:
            self._timers.set_of_workflow(workflow)
        self._moved(workflow)

    def _moved(self, workflow: RunningWorkflow) -> None:
        """Give a workflow the place in the rings that its priority has, if that has changed."""
        if self._rings.priority_of(workflow.workflow_id) != workflow.priority:
            self._rings.leave(workflow.workflow_id)

    def _answer(self, answer: Answer) -> None:
        if answer.ticket:
            self._turn.batch.answers.append(answer)

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _save_refused(self, event: SaveRefused, now: float) -> None:
        workflow = self.workflows.get(event.workflow_id)
        if workflow is None:
            # It has ended, and its end is what is refused.
            self.counting.counters.broken += 1
        else:
            self.flights.set_aside(workflow, InvariantBroken(event.error), now)
