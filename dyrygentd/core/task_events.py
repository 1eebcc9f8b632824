"""What follows from events of tasks: each changes its node, is counted, and may be told in the journal."""

from collections.abc import Callable
from typing import Final, assert_never

from dyrygentd.core import outcomes
from dyrygentd.core.counting import Counting
from dyrygentd.core.decisions import Decision, Decisions
from dyrygentd.core.events import (
    DOUBTFUL,
    MessagePublished,
    MessageRefused,
    TaskEvent,
    TaskFailed,
    TaskIgnored,
    TaskLost,
    TaskRedelivered,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
)
from dyrygentd.core.flights import Flights
from dyrygentd.core.notes import Failure
from dyrygentd.core.policy import FailureKind
from dyrygentd.core.reactions import Reaction, reaction_to
from dyrygentd.core.reopening import succeeded_late
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.tried_again import BY_ITSELF
from dyrygentd.core.turn import Turn
from dyrygentd.core.workflow import RunningWorkflow

#: What workers with `task_track_started` store first.
_STARTED: Final = "STARTED"
_RETRY: Final = "RETRY"
_RUNNING: Final = WorkflowState.RUNNING
#: Why a node is skipped whose task has set ``self.request.chain``.
_ENDED: Final = "the task ended its chain"
_LATE_WORDS: Final[dict[type[TaskEvent], str]] = {
    TaskSucceeded: NodeState.SUCCEEDED.word,
    TaskRevoked: "revoked",
    TaskIgnored: "ignored",
    TaskLost: "lost",
}


class TaskEvents:
    """What becomes of nodes by their tasks. Guards: an event changes the node that has the task, or had it last.

    Args:
        chance: Makes numbers from 0 to 1, for the jitter of retries.
    """

    def __init__(
        self, turn: Turn, flights: Flights, *, counting: Counting, decisions: Decisions, chance: Callable[[], float]
    ) -> None:
        self._turn = turn
        self._flights = flights
        self._counting = counting
        self._decisions = decisions
        self._chance = chance

    def happened(self, event: TaskEvent, now: float) -> None:
        """Change what follows from an event of a task, in flight or late; any other one is counted and that is all."""
        place = self._flights.by_id.get(event.task_id)
        if place is None:
            if event.task_id in self._flights.late:
                self._late_event(event, now)
            elif not isinstance(event, MessagePublished | MessageRefused | TaskRedelivered):
                self._counting.counters.unrouted += 1
            return
        workflow, node = place
        try:
            self._apply(event, workflow, node, now)
        except Exception as error:
            self._flights.set_aside(workflow, error, now)
        if workflow.state is not _RUNNING:
            self._turn.is_urgent |= workflow.state.is_finished
        self._turn.touch(workflow)

    def _apply(self, event: TaskEvent, workflow: RunningWorkflow, node: int, now: float) -> None:
        match event:
            case MessagePublished():
                if event.destination:
                    workflow.is_changed |= workflow.attempts.note_destination(node, event.destination)
                workflow.published(node, now)
            case TaskSucceeded(ends_chain=True) if workflow.graph.is_chained(node):
                self._apply(TaskIgnored(event.task_id, _ENDED), workflow, node, now)
            case TaskSucceeded():
                self._counting.counters.succeeded += 1
                self._counting.task_ended(workflow, node, "succeeded", now)
                self._flights.land(event.task_id, now)
                outcomes.succeeded(workflow, node, event.value, event.value_error, now, added=event.added)
            case TaskReported():
                if event.start:
                    self._flights.deliveries.began(event.task_id, event.start)
                elif event.state == _RETRY:
                    self._tries_again(event, workflow, node)
                if event.state == _STARTED and node not in workflow.attempts.reported:
                    self._counting.task_began(workflow, node, now)
                workflow.attempts.note_reported(node, event.state, event.next_try_at, event.worker, event.start)
            case TaskRedelivered():
                self._redelivered(event, workflow, node, now)
            case TaskFailed():
                self._counting.counters.failed += 1
                self._counting.task_ended(workflow, node, "failed", now)
                self._flights.land(event.task_id, now)
                workflow.attempts.note_worker(node, event.worker)
                self.failed(workflow, node, Failure(event.error, event.kind, event.exception, event.fingerprint), now)
                if event.exception in DOUBTFUL:
                    self._doubt(workflow, node, event.task_id, now)
            case TaskRevoked():
                self._counting.counters.revoked += 1
                self._counting.task_ended(workflow, node, "failed", now)
                self._flights.land(event.task_id, now)
                kind = FailureKind.EXPIRED if event.is_expired else FailureKind.REVOKED
                self.failed(
                    workflow, node, Failure(f"revoked: {event.reason}", kind, fingerprint=f"revoked: {event.reason}"), now
                )
                if not event.is_expired:
                    self._doubt(workflow, node, event.task_id, now)
            case TaskIgnored():
                self._counting.counters.ignored += 1
                self._counting.task_ended(workflow, node, "ignored", now)
                self._flights.land(event.task_id, now)
                outcomes.ignored(workflow, node, event.reason, now)
            case TaskLost():
                self._counting.counters.lost += 1
                self._counting.task(workflow, node, "lost")
                self._flights.land(event.task_id, now)
                outcomes.lost(workflow, node, event.error, now, chance=self._chance())
                self.decided(Decision.LOST, workflow, node, now, event.error)
                self._counting.retry(workflow, node)
                self._flights.watch_late(workflow, node, event.task_id, now)
            case MessageRefused():
                self._counting.counters.refused += 1
                self._flights.land(event.task_id, now)
                self.failed(workflow, node, Failure(f"not dispatched: {event.error}", FailureKind.REFUSED), now)
            case _:
                assert_never(event)

    def _tries_again(self, event: TaskReported, workflow: RunningWorkflow, node: int) -> None:
        """Count a task that asks for another try by itself, beside the attempts that failed before."""
        self._flights.deliveries.tries_again(event.task_id, event.next_try_at)
        tries = self._flights.deliveries.tries(event.task_id)
        if tries:
            failures = workflow.attempts.failures.get(node, 0) + tries
            workflow.attempts.tried_again.failed(node, BY_ITSELF, event.error, failures)

    def _redelivered(self, event: TaskRedelivered, workflow: RunningWorkflow, node: int, now: float) -> None:
        """Count a message that was given out once more, and give the task up if that was too often."""
        self._counting.counters.redelivered += 1
        times = workflow.attempts.redelivered[node] = self._flights.deliveries.confirmed(event.task_id)
        most, whose = outcomes.redeliveries_max(workflow, node, self._turn.limits.redeliveries_max)
        if not most or times <= most:
            return
        self._flights.give_up(workflow, [node], now, terminate=True)
        error = (
            f"the broker gave it out again {times} times, more than the {most} that {whose} allows (`redeliveries_max`): its"
            f" worker dies with it, or it takes longer than the visibility timeout ({event.story})"
        )
        self.decided(Decision.GIVEN_UP, workflow, node, now, error)
        self.failed(workflow, node, Failure(error, FailureKind.TASK, "Redelivered", "redelivered"), now)

    def failed(self, workflow: RunningWorkflow, node: int, failure: Failure, now: float) -> None:
        """Have a node fail, or plan its next attempt."""
        outcomes.failed(workflow, node, failure, now, chance=self._chance())
        self._counting.retry(workflow, node)
        if workflow.state_of(node) is NodeState.RETRYING:
            self.decided(Decision.RETRIED, workflow, node, now, workflow.errors.get(node, ""))

    def decided(self, decision: Decision, workflow: RunningWorkflow, node: int, now: float, why: str) -> None:
        """Have the journal tell what was decided about a node."""
        detail = f"now {workflow.state_of(node).word}" if decision is Decision.LOST else ""
        self._decisions.note(workflow.workflow_id, decision, workflow.graph.names[node], now, why=why, detail=detail)

    def _doubt(self, workflow: RunningWorkflow, node: int, task_id: str, now: float) -> None:
        """Go on watching a task that was reported as ended by somebody else than itself."""
        if workflow.state_of(node) is NodeState.FAILED:
            # `Flights.drop_landed` keeps it from being unwatched.
            self._flights.watch_late(workflow, node, task_id, now)

    def _late_event(self, event: TaskEvent, now: float) -> None:
        """Note what became of a task without which its node has gone on; only a failure that was none is corrected."""
        late = self._flights.late.get(event.task_id)
        assert late is not None
        workflow, node = self._flights.known(late.workflow_id), late.node
        # An earlier attempt says nothing about the present one.
        is_its_last = workflow is not None and workflow.attempts.task_id_of(node) == event.task_id
        state = workflow.state_of(node) if workflow is not None and is_its_last else None
        reaction, is_doubted = reaction_to(event, state), late.revoke is None
        if reaction is Reaction.NOTHING:
            return
        if workflow is not None and reaction is Reaction.TURNS_UP and outcomes.is_taken_for_lost(workflow, node):
            self._turns_up(event, workflow, node, now)
            return
        if is_doubted and isinstance(event, TaskFailed | TaskRevoked | TaskLost):
            return  # What is known already, read once more.
        self._counting.counters.late += 1
        if workflow is not None:
            self._counting.task(workflow, node, "late")
        if isinstance(event, TaskRevoked) and late.revoke is not None and not late.revoke.terminate:
            # A worker stores that at once, also of a task that runs and goes on: how it ends is stored after it.
            self._flights.late.expect_end(event.task_id)
        else:
            self._flights.late.drop(event.task_id)
            self._turn.batch.unwatch.append(event.task_id)
        if workflow is None or state is None or not state.is_finished:
            return
        is_over = workflow.state.is_finished
        if reaction is Reaction.CORRECTS and isinstance(event, TaskSucceeded) and is_doubted and not is_over:
            self._corrected(event, workflow, node, now)
        else:
            workflow.attempts.late[node] = _LATE_WORDS.get(type(event), "failed")
            workflow.nodes.changed.add(node)
        self._turn.touch(workflow)

    def _turns_up(self, event: TaskEvent, workflow: RunningWorkflow, node: int, now: float) -> None:
        """Take the attempt back that was taken for lost, with nothing sent in its place yet, and let it end."""
        self._counting.counters.turned_up += 1
        outcomes.turned_up(workflow, node, now)
        self.decided(Decision.TURNED_UP, workflow, node, now, "its end was seen after it had been taken for lost")
        if self._flights.begin(workflow, node, event.task_id, now):
            self.happened(event, now)

    def _corrected(self, event: TaskSucceeded, workflow: RunningWorkflow, node: int, now: float) -> None:
        """Let a node have succeeded whose failure somebody else than the task had told."""
        try:
            succeeded_late(workflow, node, event.value, event.value_error, now, added=event.added)
        except Exception as error:
            self._flights.set_aside(workflow, error, now)
        self._turn.is_urgent = True
