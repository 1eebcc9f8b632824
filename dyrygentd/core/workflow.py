"""One workflow in progress: what changes inside it when something happens to one of its nodes.

Theory of operation
===================
*The idea.* Each node carries a count of dependencies that have not settled. When a node settles, the counts of its dependents
drop, and a dependent is decided: it becomes ready, it is *blocked* and remembers which node is to blame, it is skipped because
its rule asks for a failure that did not come, or it goes on waiting. With the usual rule (all succeeded) that takes no look at
the other dependencies; the other rules look at all of them once. Decisions spread through an explicit stack, so depth costs no
recursion, and each edge is touched once in the life of a workflow.

*Values.* The value of a node is kept until every node that wants it has succeeded (and the output's to the end), counted per
value, so that a failed node can be tried again. A join makes one list out of its members' values, hands that on and lets theirs
go. Values are JSON text: the core splices lists from them but never looks inside. Where a rule lets a node run although
a dependency has no value, it gets null in its place.

*Attempts.* The task id of the first attempt is fixed at submission; later ones are derived from it and the attempt's number, so
they need no storage and a crash cannot change them.

*Going back.* `reopen` sets settled nodes back to waiting, and with them everything that never ran because of them, hooks
included; then each is decided anew, so what is still blocked by somebody else is blocked again. A hook that is in flight just
then is told of an end that is none any more: it is marked as stale, and decided anew when it comes back.

*What could go wrong.* A result may arrive before the broker's answer to the publishing (dispatching → succeeded is a row of the
table), twice, or after a cancel (the engine no longer has the task id in flight by then). Any change that is not in the
table raises `InvariantBroken` with the story of the node; the engine then sets the workflow aside and goes on with the others.

*Tried and rejected.* One object per node: 600 bytes each and slow to rebuild after a restart. The rows are flat arrays
instead, and what few nodes have (errors, values, holds, attempts) lives in dictionaries.
"""

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dyrygentd.core.graph import Graph
from dyrygentd.core.notes import UNNEEDED, Failure, Hold, HoldReason, Live, Value, task_id_of_attempt
from dyrygentd.core.policy import LOST_MAX, PLAIN_WORKFLOW, FailureKind, OnFailure, OnLost, Retry, WorkflowPolicy
from dyrygentd.core.ready import ReadyNodes
from dyrygentd.core.rules import How, Verdict, cleans_up, decides_at_once, verdict_of
from dyrygentd.core.states import BAD, GOOD, IN_FLIGHT, SETTLED, TRANSITIONS, NodeState, WorkflowState
from dyrygentd.errors import InvariantBroken

__all__ = ["UNNEEDED", "Failure", "Hold", "HoldReason", "Live", "RunningWorkflow", "Value", "task_id_of_attempt"]

_STATES = tuple(NodeState)
#: The settled states have the highest numbers, so that one comparison tells most changes apart from an end.
_FIRST_SETTLED = min(SETTLED)
#: JSON texts that Python takes for false: a poll that returns one of them asks again.
_FALSE = frozenset({b"null", b"false", b"0", b"0.0", b"-0.0", b'""', b"[]", b"{}"})
#: Set back to waiting when something they wait for is: they never ran, or do not run just now.
_SET_BACK = frozenset({NodeState.BLOCKED, NodeState.CANCELLED, NodeState.READY, NodeState.HELD, NodeState.RETRYING})
#: Failures named in the summary that a hook gets.
_SUMMARY_FAILURES_MAX = 20


class RunningWorkflow:
    """The state of one workflow.

    Guards: every change of a node's state is a row of `TRANSITIONS`; the counts agree with the states; the workflow is finished
    exactly when all its nodes are settled.

    Attributes:
        owner: Number of the user who submitted it; None if nobody can tell.
        has_begun: Whether its start time has come; before, nothing is decided.
        run: How often it was set running again after a cancel; workers remember what was revoked under an earlier number.
        deadline_at: When it is over, 0 for never.
        holds: ``{node: Hold}`` of the nodes that are held, or wait for another attempt.
        on_hold: Nodes that an operator holds, or will as soon as they are free.
        failures: ``{node: n}`` failed attempts since it was last tried from the beginning.
        polling_since: ``{node: time}`` of the first attempt of a poll.
        causes: ``{node: fingerprint}`` of failed nodes.
        unneeded: Nodes that were skipped by their rule, or whose task asked to be ignored.
        late: ``{node: state}`` stored by a worker after the node was settled without it.
        ready: The nodes that wait for their turn.
        ready_since: Since when there are some, or when one went last; of a restored workflow since it was restored.
        changed: Nodes whose record has changed since `take_changed`.
        is_changed: Whether its own record has.
        is_stopped: Whether a failure or the deadline has ended it, so that what is in flight is not tried again.
        stale: Hooks in flight, or held on the way, which were told of an end that is none any more.
        reported: Last state that a worker reported for a node in flight, such as ``STARTED`` or ``RETRY``.
        next_tries: ``{node: (time, worker)}`` of nodes in flight whose task tries again by itself, as far as workers tell.
    """

    __slots__ = (
        "_bad",
        "_counts",
        "_unmet",
        "_unsettled",
        "_used",
        "blocked_by",
        "causes",
        "changed",
        "created_at",
        "deadline_at",
        "dispatched_at",
        "error",
        "errors",
        "failures",
        "finished_at",
        "graph",
        "has_begun",
        "holds",
        "is_changed",
        "is_stopped",
        "key",
        "labels",
        "late",
        "name",
        "next_tries",
        "on_hold",
        "owner",
        "policy",
        "polling_since",
        "priority",
        "ready",
        "ready_since",
        "reported",
        "result",
        "run",
        "settled_at",
        "stale",
        "state",
        "states",
        "unneeded",
        "value_bytes_max",
        "values",
        "workflow_id",
    )

    def __init__(
        self,
        *,
        workflow_id: str,
        name: str,
        graph: Graph,
        created_at: float,
        value_bytes_max: int,
        key: str | None = None,
        labels: Mapping[str, str] | None = None,
        policy: WorkflowPolicy = PLAIN_WORKFLOW,
        owner: int | None = None,
    ) -> None:
        self.workflow_id = workflow_id
        self.owner = owner
        self.name = name
        self.key = key
        self.labels = labels or {}
        self.graph = graph
        self.policy = policy
        self.priority = policy.priority
        self.run = 0
        self.created_at = created_at
        self.deadline_at = max(created_at, policy.start_at) + policy.deadline_s if policy.deadline_s else 0.0
        self.finished_at: float | None = None
        self.state = WorkflowState.RUNNING
        self.result: bytes | None = None
        self.error = ""
        self.states = bytearray(len(graph))
        self.dispatched_at = array("d", bytes(8 * len(graph)))
        self.settled_at = array("d", bytes(8 * len(graph)))
        self.errors: dict[int, str] = {}
        self.causes: dict[int, str] = {}
        self.blocked_by: dict[int, int] = {}
        self.holds: dict[int, Hold] = {}
        self.on_hold: set[int] = set()
        self.failures: dict[int, int] = {}
        self.polling_since: dict[int, float] = {}
        self.unneeded: set[int] = set()
        self.late: dict[int, str] = {}
        self.stale: set[int] = set()
        self.reported: dict[int, str] = {}
        self.next_tries: dict[int, tuple[float, str]] = {}
        self.values: dict[int, Value] = {}
        self.changed: set[int] = set()
        self.is_changed = False
        self._used: dict[int, int] = {}
        self._unmet = graph.unmet_counts()
        self._counts = [0] * len(_STATES)
        self._counts[NodeState.WAITING] = graph.task_count
        self._unsettled = len(graph)
        self._bad = 0
        self.has_begun = False
        self.is_stopped = False
        self.ready = ReadyNodes(graph.heights)
        self.ready_since = created_at
        self.value_bytes_max = value_bytes_max

    def __repr__(self) -> str:
        counts = " ".join(f"{word}={count}" for word, count in self.counts_by_word().items() if count)
        return f"<RunningWorkflow {self.workflow_id} '{self.name}' {self.state} {counts}>"

    # --- beginning --------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start, or wait for the start time; a paused workflow begins at its time, too, and dispatches nothing."""
        self.has_begun = self.policy.start_at <= now
        if self.state is WorkflowState.RUNNING and not self.has_begun:
            self._set_state(WorkflowState.SCHEDULED)
        elif self.state is WorkflowState.SCHEDULED and self.has_begun:
            self._set_state(WorkflowState.RUNNING)
        if self.has_begun:
            self._start(now)

    def _start(self, now: float) -> None:
        """Decide every node that waits for nothing, or may be decided already."""
        graph, unmet = self.graph, self._unmet
        for node in range(len(graph)):
            # A join without dependencies settles at once and may have decided later nodes already.
            if self.states[node] != NodeState.WAITING:
                continue
            count = graph.dependency_count(node)
            if not count and node not in graph.policies and graph.is_task(node):
                self._make_ready(node, now)
            elif not unmet[node] or unmet[node] < count:
                self._consider(node, now)
        if not self._unsettled and not self.state.is_finished:
            self._finish_by_counts(now)

    def resume(
        self,
        live: Iterable[Live],
        *,
        state: WorkflowState = WorkflowState.RUNNING,
        finished_at: float | None = None,
        now: float,
    ) -> None:
        """Take the states from stored rows instead of starting from the beginning."""
        values: dict[int, bytes] = {}
        self.ready_since = now
        for row in live:
            is_free = row.state is NodeState.READY or row.reason == HoldReason.POOL
            self._place(row.node, NodeState.READY if is_free else row.state)
            self._resume_details(row)
            if is_free:
                self.ready.push(row.node)
            if row.value is not None:
                values[row.node] = row.value
            if row.state in SETTLED:
                for dependent in self.graph.dependents(row.node):
                    self._unmet[dependent] -= 1
        self.state, self.finished_at = state, finished_at
        for node, content in values.items():
            self._keep_value(node, content)
        if state.is_finished:
            self.has_begun = True
        else:
            self.begin(now)

    def _resume_details(self, row: Live) -> None:
        node = row.node
        self.dispatched_at[node] = row.dispatched_at
        self.settled_at[node] = row.settled_at
        used = row.attempt - (1 if row.dispatched_at else 0)
        if used > 0:
            self._used[node] = used
        if row.error:
            self.errors[node] = row.error
        if row.cause:
            self.causes[node] = row.cause
        if row.blocked_by is not None:
            self.blocked_by[node] = row.blocked_by
        if row.failures:
            self.failures[node] = row.failures
        if row.polling_since:
            self.polling_since[node] = row.polling_since
        if row.late:
            self.late[node] = row.late
        if row.is_on_hold:
            self.on_hold.add(node)
        if row.is_stale:
            self.stale.add(node)
        if self.states[node] in (NodeState.HELD, NodeState.RETRYING):
            self.holds[node] = Hold(HoldReason(row.reason or HoldReason.TIME), row.held_until)
        elif row.state is NodeState.SKIPPED and row.reason == UNNEEDED:
            self.unneeded.add(node)

    # --- what the engine tells --------------------------------------------------------------------------------------

    def time_passed(self, node: int, now: float) -> bool:
        """Let a held node go, or a failed one try again, if its time has come; tell whether it was."""
        hold = self.holds.get(node)
        if hold is None or not hold.until or hold.until > now:
            return False
        self._let_go(node, now)
        return True

    def is_overdue(self, node: int, now: float) -> bool:
        """Tell whether a node in flight has used up its time."""
        timeout_s = self.timeout_s(node)
        return bool(timeout_s) and self.states[node] in IN_FLIGHT and self.dispatched_at[node] + timeout_s <= now

    def shift_times(self, by_s: float, now: float) -> bool:
        """Move what is measured along with the clock that was set; tell whether there was anything."""
        count = len(self.changed)
        for node, hold in self.holds.items():
            if hold.until and not self._is_named(node, hold):
                self.holds[node] = replace(hold, until=hold.until + by_s)
                self.changed.add(node)
        for node in self.nodes_in(*IN_FLIGHT):
            self.dispatched_at[node] += by_s
            self.changed.add(node)
        for node in self.polling_since:
            self.polling_since[node] += by_s
            self.changed.add(node)
        self.bound_times(now)
        return len(self.changed) > count

    def bound_times(self, now: float) -> None:
        """Let nothing that is measured take longer than its whole time from now, whatever the clock did before."""
        for node, hold in self.holds.items():
            if hold.until > now and not self._is_named(node, hold):
                until = min(hold.until, now + self._longest_hold_s(node, hold))
                if until != hold.until:
                    self.holds[node] = replace(hold, until=until)
                    self.changed.add(node)
        for node in self.nodes_in(*IN_FLIGHT):
            if self.dispatched_at[node] > now:
                self.dispatched_at[node] = now
                self.changed.add(node)
        for node, since in self.polling_since.items():
            if since > now:
                self.polling_since[node] = now
                self.changed.add(node)

    def _is_named(self, node: int, hold: Hold) -> bool:
        """Tell whether a node is held until a time that somebody named, instead of for so many seconds."""
        signature = self.graph.signatures[node]
        return hold.reason is HoldReason.TIME and signature is not None and hold.until == signature.eta_at

    def _longest_hold_s(self, node: int, hold: Hold) -> float:
        signature, policy = self.graph.signatures[node], self.graph.policy(node)
        match hold.reason:
            case HoldReason.TIME:
                return policy.sleep_s if signature is None else signature.countdown_s
            case HoldReason.POLL:
                return policy.poll_every_s
            case _:
                return (self.retry_of(node) or Retry()).backoff_max_s

    def next_ready(self) -> int:
        """Return the ready node with the longest way to go."""
        return self.ready.first

    def take_ready(self, now: float) -> int:
        """Take the ready node with the longest way to go and set it dispatching."""
        node = self.ready.pop()
        self.dispatched_at[node] = self.ready_since = now
        if self.graph.policies and self.graph.policy(node).poll_every_s:
            self.polling_since.setdefault(node, now)
        self._move(node, NodeState.DISPATCHING)
        return node

    def park(self, pool: str) -> int:
        """Hold the ready node that is next because a pool is full. Not recorded: after a restart it is ready again."""
        node = self.ready.pop()
        is_changed = node in self.changed
        self.holds[node] = Hold(HoldReason.POOL, pool=pool)
        self._move(node, NodeState.HELD)
        if not is_changed:
            self.changed.discard(node)
        return node

    def unpark(self, node: int, now: float) -> bool:
        """Make a node ready that a full pool holds; tell whether it was."""
        hold = self.holds.get(node)
        if hold is None or hold.reason is not HoldReason.POOL:
            return False
        self._let_go(node, now)
        return True

    def published(self, node: int) -> None:
        """Note that the broker has the message."""
        if self.states[node] == NodeState.DISPATCHING:
            self._move(node, NodeState.DISPATCHED)

    def note_reported(self, node: int, state: str, next_try_at: float = 0.0, worker: str = "") -> None:
        """Note a state on the way; the same once more does not take away what is known of the next try."""
        if next_try_at:
            self.next_tries[node] = (next_try_at, worker)
        elif self.reported.get(node) != state:
            self.next_tries.pop(node, None)
        self.reported[node] = state

    def succeeded(self, node: int, value: bytes | None, value_error: str, now: float) -> None:
        """Settle a node whose task succeeded; a value that is needed but cannot be carried makes it failed."""
        if self.graph.policies and self._asks_again(node, value, now):
            return
        problem = ""
        if self.graph.value_uses[node]:
            if value is None:
                problem = f"the task succeeded, but its value cannot be passed on: {value_error}"
            elif len(value) > self.value_bytes_max:
                problem = self._too_large(len(value))
        if self.errors or self.causes:
            self.errors.pop(node, None)
            self.causes.pop(node, None)
        if problem:
            self._settle(node, self._state_without_value(node), now, error=problem)
        else:
            self._settle(node, NodeState.SUCCEEDED, now, value=value)

    def _asks_again(self, node: int, value: bytes | None, now: float) -> bool:
        policy = self.graph.policy(node)
        if not policy.poll_every_s or value is None or value not in _FALSE:
            return False
        self.failures.pop(node, None)
        since = self.polling_since.get(node, now)
        if policy.poll_timeout_s and now + policy.poll_every_s > since + policy.poll_timeout_s:
            error = f"the poll did not return anything true within {policy.poll_timeout_s:g} s"
            self._fail(node, Failure(error, FailureKind.INFRASTRUCTURE, cause="poll timeout"), now)
        elif self.is_stopped and not cleans_up(self.graph.policy(node)):
            self._settle(node, NodeState.CANCELLED, now)
        else:
            self._again(node, NodeState.HELD, Hold(HoldReason.POLL, now + policy.poll_every_s))
        return True

    def failed(self, node: int, failure: Failure, now: float, *, chance: float = 0.0) -> None:
        """Settle a node whose task failed, or plan its next attempt; ``chance`` is from 0 to 1."""
        retry = self.retry_of(node)
        failures = self.failures.get(node, 0) + 1
        has_another = retry is not None and retry.applies_to(failure.kind, failure.exception, failures)
        if retry is not None and has_another and not (self.is_stopped and not cleans_up(self.graph.policy(node))):
            self._try_again(node, failure, now + retry.pause_s(failures, chance))
        else:
            self._fail(node, failure, now)

    def lost(self, node: int, error: str, now: float, *, chance: float = 0.0) -> None:
        """Decide about a node whose task has vanished from broker, workers and backend."""
        failure = Failure(error, FailureKind.INFRASTRUCTURE, cause="lost")
        policy = self.graph.policy(node)
        match policy.lost:
            case _ if self.is_stopped and not cleans_up(policy):
                self._fail(node, failure, now)
            case OnLost.HOLD:
                self.errors[node] = error
                self._again(node, NodeState.HELD, Hold(HoldReason.LOST))
            case OnLost.RETRY if self.failures.get(node, 0) + 1 < LOST_MAX:
                retry = self.retry_of(node) or Retry()
                self._try_again(node, failure, now + retry.pause_s(self.failures.get(node, 0) + 1, chance))
            case _:
                self._fail(node, failure, now)

    def is_taken_for_lost(self, node: int) -> bool:
        """Tell whether a node's last attempt was given up as lost, and its end would still be that of the node."""
        hold = self.holds.get(node)
        return hold is not None and (hold.reason is HoldReason.LOST or self.states[node] == NodeState.RETRYING)

    def turned_up(self, node: int, now: float) -> None:
        """Take the attempt back that was taken for lost: it is in flight after all."""
        self._used[node] = self.attempt_of(node) - 1
        self.dispatched_at[node] = now
        del self.holds[node]
        self.errors.pop(node, None)
        self.causes.pop(node, None)
        self._move(node, NodeState.DISPATCHED)

    def ignored(self, node: int, reason: str, now: float) -> None:
        """Skip a node whose task asked for it; what waits for its success is skipped as well, as a native chain stops."""
        self.unneeded.add(node)
        self._settle(node, NodeState.SKIPPED, now, error=reason)

    def succeeded_late(self, node: int, value: bytes | None, value_error: str, now: float) -> None:
        """Correct a failure that was none: somebody revoked the task, or its worker was given up too early."""
        dispatched_at, attempt = self.dispatched_at[node], self.attempt_of(node)
        reopened = self._reopen([node])
        self.dispatched_at[node], self._used[node] = dispatched_at, attempt - 1
        self.succeeded(node, value, value_error, now)
        self._consider_all(now, reopened)

    def _try_again(self, node: int, failure: Failure, at: float) -> None:
        self.failures[node] = self.failures.get(node, 0) + 1
        self.errors[node] = failure.error
        self.causes[node] = failure.fingerprint
        self._again(node, NodeState.RETRYING, Hold(HoldReason.RETRY, at))

    def _fail(self, node: int, failure: Failure, now: float) -> None:
        self.causes[node] = failure.fingerprint
        self._settle(node, NodeState.FAILED, now, error=failure.error)

    def _again(self, node: int, state: NodeState, hold: Hold) -> None:
        """End the present attempt and hold the node for another one."""
        self._used[node] = self.attempt_of(node)
        self.dispatched_at[node] = 0.0
        self.reported.pop(node, None)
        self.next_tries.pop(node, None)
        self.late.pop(node, None)
        self.holds[node] = hold
        self._move(node, state)

    # --- ending -----------------------------------------------------------------------------------------------------

    def cancel(self, now: float) -> list[int]:
        """End everything that is not settled; return the nodes that were in flight."""
        in_flight = []
        for node in range(len(self.graph)):
            state = self.state_of(node)
            if state in SETTLED:
                continue
            if state in IN_FLIGHT:
                in_flight.append(node)
            self._move(node, NodeState.CANCELLED)
            self.settled_at[node] = now
        self.ready.clear()
        self._unmet = array("I", bytes(self._unmet.itemsize * len(self.graph)))
        self.on_hold.clear()
        self.stale.clear()
        self.reported.clear()
        self.next_tries.clear()
        self._finish(WorkflowState.CANCELLED, now)
        return in_flight

    def over_deadline(self, now: float) -> list[int]:
        """Cancel everything but the hooks because the deadline has passed; return the nodes that were in flight."""
        meant = [node for node in range(len(self.graph)) if self.states[node] not in SETTLED and not self._is_hook(node)]
        if not meant:
            return []  # The work was done in time, and only hooks still run.
        self.error = f"the deadline of {self.policy.deadline_s:g} s is over"
        self.is_changed = True
        self.is_stopped = True
        in_flight = [node for node in meant if self.states[node] in IN_FLIGHT]
        self._cancel_open(meant, now)
        return in_flight

    def stop(self, now: float) -> None:
        """Cancel what was not dispatched because a node failed; what is there to clean up after failures still runs."""
        self.is_stopped = self.is_changed = True
        self._cancel_open([node for node in range(len(self.graph)) if self._is_given_up(node)], now)

    def _is_given_up(self, node: int) -> bool:
        """Tell whether a node is cancelled when another one's failure stops the workflow."""
        return self.states[node] not in SETTLED and self.states[node] not in IN_FLIGHT and not cleans_up(self.graph.policy(node))

    def _cancel_open(self, nodes: Iterable[int], now: float) -> None:
        for node in nodes:
            # The end of the one before may have decided this one.
            state = self.states[node]
            if state in SETTLED:
                continue
            if state == NodeState.READY:
                self.ready.remove(node)
            self._settle(node, NodeState.CANCELLED, now)

    def set_aside(self, error: str, now: float) -> None:
        """End a workflow that contradicts itself, as it stands; its story is kept in ``error``."""
        self.ready.clear()
        self.error = error
        self.state, self.finished_at = WorkflowState.FAILED, now
        self.is_changed = True

    # --- what an operator may do ------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Dispatch nothing until `unpause`; results go on coming in."""
        self._set_state(WorkflowState.PAUSED)

    def unpause(self, now: float) -> None:
        """Go on."""
        self._set_state(WorkflowState.RUNNING)
        self.begin(now)

    def set_priority(self, priority: int) -> None:
        """Change whose turn comes first."""
        self.priority = priority
        self.is_changed = True

    def hold(self, node: int) -> None:
        """Keep a node from being dispatched until `release`."""
        self.on_hold.add(node)
        self.changed.add(node)
        if self.states[node] == NodeState.READY:
            self.ready.remove(node)
            self.holds[node] = Hold(HoldReason.OPERATOR)
            self._move(node, NodeState.HELD)
        elif self.states[node] == NodeState.HELD and self.holds[node].reason is HoldReason.POOL:
            self.holds[node] = Hold(HoldReason.OPERATOR)

    def release(self, node: int, now: float) -> None:
        """Let a node go: what an operator, a gate, a time or the next attempt holds, goes at once."""
        self.on_hold.discard(node)
        self.changed.add(node)
        hold = self.holds.get(node)
        if hold is not None and hold.reason is not HoldReason.POOL:
            self._let_go(node, now)

    def skip(self, nodes: Sequence[int], value: bytes, now: float) -> list[int]:
        """Count nodes as succeeded with this value; return those that were in flight."""
        in_flight = [node for node in nodes if self.states[node] in IN_FLIGHT]
        reopened = self.reopen([node for node in nodes if self.states[node] in SETTLED], now, is_considered=False)
        for node in nodes:
            if self.states[node] in SETTLED:
                if self.states[node] == NodeState.SUCCEEDED:
                    continue  # A join that the skip of the one before has finished.
                reopened |= self.reopen([node], now, is_considered=False)
            if self.states[node] == NodeState.READY:
                self.ready.remove(node)
            self.errors.pop(node, None)
            self.causes.pop(node, None)
            self.stale.discard(node)
            self._settle(node, NodeState.SKIPPED, now, value=value)
        self._consider_all(now, reopened)
        return in_flight

    def abandon(self, node: int, now: float) -> None:
        """Give up the attempt that is in flight and start another one at once."""
        self.failures.pop(node, None)
        self._again(node, NodeState.RETRYING, Hold(HoldReason.RETRY, now))
        self._let_go(node, now)

    def reopen(self, nodes: Sequence[int], now: float, *, is_considered: bool = True) -> set[int]:
        """Set nodes that are not in flight back to waiting, with all that never ran because of them; return all that were.

        Args:
            is_considered: Whether each is decided at once; otherwise the caller settles some first and calls `_consider_all`.
        """
        if not nodes:
            return set()
        if self.state.is_finished:
            self._set_running_again(now)
        if self.deadline_at and self.deadline_at <= now:
            self.deadline_at = now + self.policy.deadline_s
            self.error, self.is_changed = "", True
        reset = self._reopen(nodes)
        if is_considered:
            self._consider_all(now, reset)
        return reset

    def _reopen(self, nodes: Iterable[int]) -> set[int]:
        reset = set(nodes)
        if self.graph.hooks and not all(self._is_hook(node) for node in reset):
            # They were decided by an end that is none any more. One in flight is so when it comes back.
            in_flight = {hook for hook in self.graph.hooks if self.states[hook] in IN_FLIGHT}
            reset.update(hook for hook in self.graph.hooks if hook not in in_flight)
            self.changed |= in_flight - self.stale
            self.stale |= in_flight
        stack = [*reset]
        while stack:
            for dependent in self.graph.dependents(stack.pop()):
                if dependent not in reset and (self.states[dependent] in _SET_BACK or dependent in self.unneeded):
                    reset.add(dependent)
                    stack.append(dependent)
        reset = {node for node in reset if self.states[node] != NodeState.WAITING}
        had_settled = [node for node in reset if self.states[node] in SETTLED]
        for node in reset:
            self._set_back(node)
        for node in had_settled:
            for dependent in self.graph.dependents(node):
                self._unmet[dependent] += 1
        self._count_users_anew(reset)
        self.is_changed |= self.is_stopped
        self.is_stopped = False
        return reset

    def _set_running_again(self, now: float) -> None:
        if self.state is WorkflowState.CANCELLED:
            self.run += 1
        self.has_begun = self.policy.start_at <= now
        self._set_state(WorkflowState.RUNNING if self.has_begun else WorkflowState.SCHEDULED)
        self.finished_at, self.result, self.error = None, None, ""

    def _set_back(self, node: int) -> None:
        used = self.attempt_of(node)
        if used:
            self._used[node] = used
        self.dispatched_at[node] = self.settled_at[node] = 0.0
        if self.states[node] == NodeState.READY:
            self.ready.remove(node)
        self.errors.pop(node, None)
        self.causes.pop(node, None)
        self.blocked_by.pop(node, None)
        self.failures.pop(node, None)
        self.polling_since.pop(node, None)
        self.late.pop(node, None)
        self.holds.pop(node, None)
        self.stale.discard(node)
        self.unneeded.discard(node)
        self.values.pop(node, None)
        if self.states[node] != NodeState.WAITING:
            self._move(node, NodeState.WAITING)

    def _count_users_anew(self, reset: set[int]) -> None:
        """Count who takes a value again, since nodes that had taken it are to run once more."""
        kept = {dependency for node in reset for dependency in self.graph.dependencies(node) if dependency in self.values}
        for node in kept:
            self._keep_value(node, self.values[node].content)

    def _consider_all(self, now: float, nodes: Iterable[int]) -> None:
        if self.has_begun:
            for node in sorted(nodes):
                if self.states[node] == NodeState.WAITING:
                    self._consider(node, now)
        if not self._unsettled and not self.state.is_finished:
            self._finish_by_counts(now)

    # --- what can be asked ------------------------------------------------------------------------------------------

    def state_of(self, node: int) -> NodeState:
        """Return the state of a node."""
        return _STATES[self.states[node]]

    def attempt_of(self, node: int) -> int:
        """Return how often the node was dispatched, 0 if never."""
        used = self._used.get(node, 0) if self._used else 0
        return used + 1 if self.dispatched_at[node] else used

    def task_id_of(self, node: int) -> str:
        """Return the task id of the node's present attempt, or its last one; empty for what has no task."""
        first = self.graph.task_ids[node]
        return first if not self._used or not first else task_id_of_attempt(first, self.attempt_of(node))

    def timeout_s(self, node: int) -> float:
        """Return how long an attempt may take, 0 for as long as it likes."""
        own = self.graph.policy(node).timeout_s if self.graph.policies else 0.0
        return own or self.policy.timeout_s

    def retry_of(self, node: int) -> Retry | None:
        """Return the retry policy that holds for a node."""
        own = self.graph.policy(node).retry if self.graph.policies else None
        return own or self.policy.retry

    @property
    def stamp(self) -> str:
        """What every message carries, so that one broadcast can revoke the workflow as it runs now."""
        return self.workflow_id if not self.run else f"{self.workflow_id}.{self.run}"

    @property
    def ready_count(self) -> int:
        """Number of nodes that wait for their turn."""
        return len(self.ready)

    def unmet_count(self, node: int) -> int:
        """Return how many dependencies of a node have not settled."""
        return self._unmet[node]

    @property
    def bad_count(self) -> int:
        """Number of nodes, joins included, that ended and did not succeed."""
        return self._bad

    @property
    def in_flight_count(self) -> int:
        """Number of tasks in the broker or at workers."""
        return self._counts[NodeState.DISPATCHING] + self._counts[NodeState.DISPATCHED]

    @property
    def can_dispatch(self) -> bool:
        """Tell whether a node may be dispatched as far as this workflow is concerned."""
        if not self.ready.heap or self.state is not WorkflowState.RUNNING:
            return False
        return not self.policy.in_flight_max or self.in_flight_count < self.policy.in_flight_max

    @property
    def unsettled_count(self) -> int:
        """Number of nodes, joins included, to which something will still happen."""
        return self._unsettled

    def count(self, state: NodeState) -> int:
        """Return how many nodes are in ``state``; joins are not counted."""
        return self._counts[state]

    @property
    def counts(self) -> Sequence[int]:
        """Number of nodes by the number of their state, joins left out; not to be changed."""
        return self._counts

    def counts_by_word(self) -> dict[str, int]:
        """Return ``{state word: number of nodes}`` for all states; joins are not counted."""
        return {state.word: self._counts[state] for state in _STATES}

    def nodes_in(self, *states: NodeState) -> list[int]:
        """Return the nodes in these states, joins included, in their order."""
        return [node for node in range(len(self.graph)) if self.states[node] in states]

    def failures_by_cause(self) -> list[tuple[str, list[int]]]:
        """Return ``(fingerprint, failed nodes)``, in the order in which the causes first appear among the nodes."""
        causes: dict[str, list[int]] = {}
        for node in self.nodes_in(NodeState.FAILED):
            causes.setdefault(self.causes.get(node, "unknown"), []).append(node)
        return list(causes.items())

    def input_of(self, node: int) -> bytes | None:
        """Return the JSON text of the value that precedes a node, or None if it takes none."""
        if not self.graph.takes_input(node):
            return self._summary_for(node) if self.graph.policies else None
        dependencies = self.graph.dependencies(node)
        contents = [self._content_of(node, dependency) for dependency in dependencies]
        if self.graph.is_join(node) or len(contents) > 1:
            return b"[" + b",".join(contents) + b"]"
        if not contents and not self.graph.is_task(node):
            return b"null"
        return contents[0] if contents else None

    def _content_of(self, node: int, dependency: int) -> bytes:
        value = self.values.get(dependency)
        if value is not None:
            return value.content
        if self.states[dependency] == NodeState.SUCCEEDED:
            raise self._broken(node, f"has lost the value of '{self.graph.names[dependency]}'")
        return b"null"

    def _summary_for(self, node: int) -> bytes | None:
        """Return what a hook is told: how the workflow has ended."""
        signature = self.graph.signatures[node]
        if not self._is_hook(node) or signature is None or signature.immutable:
            return None
        failed = [failed for failed in self.nodes_in(NodeState.FAILED) if not self._is_hook(failed)]
        shown = [
            {"node": self.graph.names[failed], "error": self.errors.get(failed, "")} for failed in failed[:_SUMMARY_FAILURES_MAX]
        ]
        has_failed = any(self.states[end] in BAD for end in self.graph.dependencies(node)) or bool(failed)
        return json.dumps(
            {
                "workflow_id": self.workflow_id,
                "name": self.name,
                "labels": dict(self.labels),
                "state": (WorkflowState.FAILED if has_failed else WorkflowState.SUCCEEDED).value,
                "error": self.error,
                "failures": len(failed),
                "failed": shown,
            }
        ).encode()

    def missing_value(self, nodes: set[int]) -> tuple[int, int] | None:
        """Return ``(node, dependency)`` if one of these cannot run again since a value it takes was let go."""
        for node in sorted(nodes):
            if self.graph.takes_input(node):
                for dependency in self.graph.dependencies(node):
                    is_gone = dependency not in nodes and dependency not in self.values
                    if is_gone and self.states[dependency] == NodeState.SUCCEEDED:
                        return node, dependency
        return None

    def parent_task_id(self, node: int) -> str:
        """Return the task id of the last dependency that is a task; empty if there is none."""
        parent = self.graph.last_dependency(node)
        while parent is not None and not self.graph.is_task(parent):
            parent = self.graph.last_dependency(parent)
        return "" if parent is None else self.task_id_of(parent)

    def take_changed(self) -> set[int]:
        """Return the nodes whose records have changed, and forget them."""
        changed, self.changed = self.changed, set()
        return changed

    # --- how it spreads ---------------------------------------------------------------------------------------------

    def _settle(self, node: int, state: NodeState, now: float, *, value: bytes | None = None, error: str = "") -> None:
        """Settle a node and everything that is decided by it."""
        if self.stale and node in self.stale:
            self._again(node, NodeState.RETRYING, Hold(HoldReason.RETRY, now))
            self._decide_anew(node, now)
            return
        stack = [(node, state, value, error)]
        policies = self.graph.policies
        has_failed, first = False, node
        while stack:
            node, state, value, error = stack.pop()
            if node != first and self.states[node] != NodeState.WAITING:
                continue  # Two of its dependencies decided it in one go.
            self._move(node, state)
            self.settled_at[node] = now
            self.reported.pop(node, None)
            self.next_tries.pop(node, None)
            if error:
                self.errors[node] = error
            has_failed |= state is NodeState.FAILED
            is_good = state in GOOD
            if is_good:
                if value is not None:
                    self._keep_value(node, value)
                if node not in self.unneeded:
                    self._release_inputs(node)  # What was not needed may be yet, if something is retried.
            to_blame = self.blocked_by.get(node, node)
            for dependent in self.graph.dependents(node):
                self._unmet[dependent] -= 1
                if self.states[dependent] != NodeState.WAITING or dependent in self.blocked_by or not self.has_begun:
                    continue
                if policies and dependent in policies:
                    self._decide(dependent, node, stack, now)
                elif not is_good:
                    self.blocked_by[dependent] = to_blame
                    stack.append((dependent, NodeState.BLOCKED, None, ""))
                elif not self._unmet[dependent]:
                    if self.unneeded or self._bad:
                        # Others of its dependencies may not have been good, if an operator has set it back meanwhile.
                        self._decide(dependent, node, stack, now)
                    elif self.graph.is_join(dependent):
                        stack.append(self._handed_on(dependent))
                    else:
                        self._make_ready(dependent, now)
        if has_failed and self.policy.on_failure is OnFailure.STOP and not self.is_stopped:
            self.stop(now)
        if not self._unsettled and not self.state.is_finished:
            self._finish_by_counts(now)

    def _decide(self, node: int, settled: int, stack: list[tuple[int, NodeState, bytes | None, str]], now: float) -> None:
        """Decide a waiting node that has a policy, after one of its dependencies has settled."""
        policy = self.graph.policy(node)
        if self._unmet[node] and not decides_at_once(policy, is_bad=self.states[settled] in BAD):
            return
        verdict, blame = self._verdict(node)
        match verdict:
            case Verdict.BLOCK:
                self.blocked_by[node] = blame
                stack.append((node, NodeState.BLOCKED, None, ""))
            case Verdict.SKIP:
                self.unneeded.add(node)
                stack.append((node, NodeState.SKIPPED, None, ""))
            case Verdict.GO if self.graph.is_join(node):
                stack.append(self._handed_on(node))
            case Verdict.GO:
                self._make_ready(node, now)

    def _consider(self, node: int, now: float) -> None:
        """Decide a waiting node from how its dependencies stand."""
        verdict, blame = self._verdict(node)
        match verdict:
            case Verdict.BLOCK:
                self.blocked_by[node] = blame
                self._settle(node, NodeState.BLOCKED, now)
            case Verdict.SKIP:
                self.unneeded.add(node)
                self._settle(node, NodeState.SKIPPED, now)
            case Verdict.GO if self.graph.is_join(node):
                _, state, value, error = self._handed_on(node)
                self._settle(node, state, now, value=value, error=error)
            case Verdict.GO:
                self._make_ready(node, now)

    def _verdict(self, node: int) -> tuple[Verdict, int]:
        """Return what a node's rule makes of its dependencies, and who is to blame if they block it."""
        blame, has_good, has_unneeded = -1, False, False
        for dependency in self.graph.dependencies(node):
            state = self.states[dependency]
            if state in BAD:
                blame = dependency if blame < 0 else blame
            elif dependency in self.unneeded:
                has_unneeded = True
            elif state in GOOD:
                has_good = True
        waits, has_bad = bool(self._unmet[node]), blame >= 0
        to_blame = self.blocked_by.get(blame, blame)
        how = How(waits, has_bad, has_good, has_unneeded)
        return verdict_of(self.graph.policy(node), how), to_blame

    def _handed_on(self, node: int) -> tuple[int, NodeState, bytes | None, str]:
        """Return how a node without a task settles, with the value that it hands on."""
        if not self.graph.takes_input(node):
            return node, NodeState.SUCCEEDED, None, ""
        for dependency in self.graph.dependencies(node):
            if dependency not in self.values and self.states[dependency] == NodeState.SUCCEEDED:
                # Only the output may lack a value (`succeeded` fails the node otherwise), so nobody misses this list.
                return node, NodeState.SUCCEEDED, None, ""
        value = self.input_of(node)
        assert value is not None
        if len(value) <= self.value_bytes_max:
            return node, NodeState.SUCCEEDED, value, ""
        return node, self._state_without_value(node), None, self._too_large(len(value))

    def _make_ready(self, node: int, now: float) -> None:
        """Let a node go whose dependencies do, or hold it."""
        hold = self._hold_for(node, now)
        if hold is not None:
            self.holds[node] = hold
            self._move(node, NodeState.HELD)
        else:
            self._become_ready(node, now)

    def _become_ready(self, node: int, now: float) -> None:
        if not len(self.ready):
            self.ready_since = now
        self._move(node, NodeState.READY)
        self.ready.push(node)

    def _hold_for(self, node: int, now: float) -> Hold | None:
        signature = self.graph.signatures[node]
        if signature is None:
            policy = self.graph.policy(node)
            return Hold(HoldReason.GATE) if policy.is_gate else Hold(HoldReason.TIME, now + policy.sleep_s)
        until = max(signature.eta_at, now + signature.countdown_s if signature.countdown_s > 0 else 0.0)
        if until > now:
            return Hold(HoldReason.TIME, until)
        return Hold(HoldReason.OPERATOR) if node in self.on_hold else None

    def _let_go(self, node: int, now: float) -> None:
        """End a node's hold; an operator's comes after it."""
        del self.holds[node]
        if node in self.on_hold:
            self.holds[node] = Hold(HoldReason.OPERATOR)
            if self.states[node] == NodeState.RETRYING:
                self._move(node, NodeState.HELD)
            self.changed.add(node)
        elif not self.graph.is_task(node):
            _, state, value, error = self._handed_on(node)
            self._settle(node, state, now, value=value, error=error)
        elif node in self.stale:
            self._decide_anew(node, now)
        elif self._unmet[node] and self._verdict(node)[0] is Verdict.WAIT:
            # What it waited for was set running again while it was in flight: its next attempt comes after that.
            self._move(node, NodeState.WAITING)
        else:
            self._become_ready(node, now)

    def _decide_anew(self, node: int, now: float) -> None:
        """Set a stale hook back that is held for its next attempt, and decide it by how things stand now."""
        self._set_back(node)
        self._consider(node, now)

    def _finish_by_counts(self, now: float) -> None:
        self._finish(WorkflowState.FAILED if self._bad else WorkflowState.SUCCEEDED, now)

    def _finish(self, state: WorkflowState, now: float) -> None:
        self.state, self.finished_at = state, now
        self.is_changed = True
        if state is WorkflowState.SUCCEEDED and self.graph.output is not None:
            value = self.values.get(self.graph.output)
            if value is not None:
                self.result = value.content
            else:
                # Nodes that succeeded without a value that the result needed say why; their records keep it over a crash.
                self.error = next(iter(self.errors.values()), "")

    def _set_state(self, state: WorkflowState) -> None:
        self.state = state
        self.is_changed = True

    def _is_hook(self, node: int) -> bool:
        return bool(self.graph.hooks) and self.graph.policy(node).hook is not None

    # --- values -----------------------------------------------------------------------------------------------------

    def _keep_value(self, node: int, content: bytes) -> None:
        users = 1 if node == self.graph.output else 0
        if self.graph.value_uses[node]:
            users += sum(
                (self.states[dependent] not in GOOD or dependent in self.unneeded) and self.graph.takes_input(dependent)
                for dependent in self.graph.dependents(node)
            )
        if users or (self.states[node] == NodeState.SKIPPED and self.graph.value_uses[node]):
            self.values[node] = Value(content, users)

    def _release_inputs(self, node: int) -> None:
        if not self.values or not self.graph.takes_input(node):
            return
        for dependency in self.graph.dependencies(node):
            value = self.values.get(dependency)
            if value is None:
                continue
            value.users -= 1
            # What an operator gave in the place of a value is there for a rerun, too: nobody could ask them again.
            if not value.users and self.states[dependency] != NodeState.SKIPPED:
                del self.values[dependency]
                self.changed.add(dependency)

    def _state_without_value(self, node: int) -> NodeState:
        """Return what becomes of a node whose value cannot be kept: if only the result misses it, it has succeeded."""
        return NodeState.FAILED if self.graph.feeds_tasks[node] else NodeState.SUCCEEDED

    def _too_large(self, value_bytes: int) -> str:
        return (
            f"the value has {value_bytes} bytes of JSON, the limit is {self.value_bytes_max}: "
            "pass a reference to the data instead, or raise `value_bytes_max`"
        )

    # --- the table --------------------------------------------------------------------------------------------------

    def _move(self, node: int, state: NodeState) -> None:
        """Change a node's state; the only place that does, but for `resume`."""
        before = self.state_of(node)
        if (before, state) not in TRANSITIONS:
            raise self._broken(node, f"cannot go from {before.word} to {state.word}")
        self._place(node, state)
        if state is not NodeState.READY:
            self.changed.add(node)

    def _broken(self, node: int, complaint: str) -> InvariantBroken:
        return InvariantBroken(
            f"node '{self.graph.names[node]}' of workflow '{self.workflow_id}' {complaint}"
            f" (attempt {self.attempt_of(node)}, unmet dependencies {self._unmet[node]}, {self!r})"
        )

    def _place(self, node: int, state: NodeState) -> None:
        before = self.states[node]
        self.states[node] = state
        if self.graph.signatures[node] is not None or not self.graph.is_join(node):
            self._counts[before] -= 1
            self._counts[state] += 1
        if before < _FIRST_SETTLED and state < _FIRST_SETTLED:
            return
        self._unsettled += (before in SETTLED) - (state in SETTLED)
        self._bad += (state in BAD) - (before in BAD)
        if state in SETTLED:
            if self.holds:
                self.holds.pop(node, None)
            if self.on_hold:
                self.on_hold.discard(node)
