"""One workflow in progress: what changes inside it when something happens to one of its nodes.

Theory of operation
===================
*The idea.* Each node carries a count of dependencies that have not finished. When a node finishes, the counts of its dependents
drop, and a dependent is decided: it becomes ready, it is *blocked* and remembers which node is to blame, it is skipped because
its rule asks for a failure that did not come, or it goes on waiting. With the usual rule (all succeeded) that takes no look at
the other dependencies; the other rules look at all of them once. Decisions spread through an explicit stack, so depth costs no
recursion, and each edge is touched once in the life of a workflow.

*Beside it.* The states and their counts, the values that are kept, and the attempts are parts with promises of their own. What an
attempt's end means (`outcomes.py`), what others make of a workflow (`steering.py`) and going back (`reopening.py`) are functions
over it, which end here: in `finish_node`.

Long because how that spreads is one thought.

*Hooks* are decided when everything but hooks has finished, by the same count that tells whether the workflow has failed: one of a
failure runs exactly if the workflow fails, whatever rules let its ends succeed all the same. What ends a section is decided so,
too, when all else of that has finished, as `section_counts.py` counts it.

*What could go wrong.* A result may arrive before the broker's answer to the publishing (dispatching → succeeded is a row of the
table), twice, or after a cancel (the engine no longer has the task id in flight by then). Any change that is not in the
table raises `InvariantBroken` with the story of the node; the engine then sets the workflow aside and goes on with the others.

*Tried and rejected.* One object per node: 600 bytes each and slow to rebuild after a restart. The rows are flat arrays
instead, and what few nodes have (errors, values, holds, attempts) lives in dictionaries.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from dyrygentd.core.additions import Additions
from dyrygentd.core.attempts import Attempts
from dyrygentd.core.deciding import cause_of_undecided, choice_of
from dyrygentd.core.graph import Graph
from dyrygentd.core.holding import hold_for
from dyrygentd.core.hooks import first_failure_of, is_enough, summary_of
from dyrygentd.core.kept_values import EndNotes, KeptValues
from dyrygentd.core.node_states import FIRST_BAD, NodeStates
from dyrygentd.core.notes import Hold, HoldReason
from dyrygentd.core.origin import Origin
from dyrygentd.core.policy import PLAIN_WORKFLOW, OnFailure, Retry, WorkflowPolicy
from dyrygentd.core.ready import ReadyNodes
from dyrygentd.core.rules import Verdict, cleans_up
from dyrygentd.core.start import Start
from dyrygentd.core.states import FINISHED, GOOD, IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.steps import Steps, parts
from dyrygentd.core.story import Story
from dyrygentd.core.values import Text
from dyrygentd.core.verdicts import may_be_decided, verdict

#: How a node is to end: its number, its state, its value and its error.
_End = tuple[int, NodeState, Text | None, str]

#: The error of a workflow that was cancelled, as long as it cleans up. It is stored, and known by that: not to be changed.
CLEANS_UP: Final = "it was cancelled, and ends when its sections have cleaned up"

_WAITING, _DISPATCHING = int(NodeState.WAITING), int(NodeState.DISPATCHING)


class RunningWorkflow:
    """The state of one workflow.

    Guards: each dependent of what has finished is decided, once; the workflow is finished exactly when they all are.

    Attributes:
        nodes: The states of its nodes, their counts, and whose record has changed.
        states: The numbers of these states, as ``nodes`` has them; not to be changed.
        origin: What its submission said of it.
        has_begun: Whether its start time has come, and nothing in `start` keeps it; before, nothing is decided.
        run: How often it was set running again after a cancel; workers remember what was revoked under an earlier number.
        deadline_at: When it is over, 0 for never.
        attempts: How often its nodes were dispatched, under which ids, and how it stands with the present attempts.
        holds: ``{node: Hold}`` of the nodes that are held, or wait for another attempt.
        on_hold: Nodes that an operator holds, or will as soon as they are free.
        fingerprints: ``{node: text}`` of failed nodes: what failures of one cause have in common.
        unneeded: Nodes that were skipped by their rule, or whose task asked to be ignored.
        ready: The nodes that wait for their turn.
        is_changed: Whether its own record has changed.
        is_stopped: Whether a failure or the deadline has ended it, so that what is in flight is not tried again.
        stale: Hooks in flight, or held on the way, which were told of an end that is none any more.
        values: Those that somebody still needs.
    """

    __slots__ = (
        "__weakref__",
        "_hooks_undecided",
        "attempts",
        "blocked_by",
        "deadline_at",
        "error",
        "errors",
        "fingerprints",
        "finished_at",
        "graph",
        "has_begun",
        "holds",
        "is_changed",
        "is_stopped",
        "name",
        "nodes",
        "on_hold",
        "origin",
        "policy",
        "priority",
        "ready",
        "result",
        "run",
        "stale",
        "start",
        "state",
        "states",
        "unneeded",
        "values",
        "workflow_id",
    )

    def __init__(
        self,
        *,
        workflow_id: str,
        name: str,
        graph: Graph,
        origin: Origin,
        value_bytes_max: int,
        policy: WorkflowPolicy = PLAIN_WORKFLOW,
        story: Story | None = None,
    ) -> None:
        self.workflow_id = workflow_id
        self.name = name
        self.origin = origin
        self.attempts = Attempts(graph)
        self.graph = graph
        self.policy = policy
        self.priority = policy.priority
        self.run = 0
        self.deadline_at = max(origin.created_at, policy.start_at) + policy.deadline_s if policy.deadline_s else 0.0
        self.finished_at: float | None = None
        self.state = WorkflowState.RUNNING
        self.result: bytes | None = None
        self.error = ""
        self.nodes = NodeStates(workflow_id, graph, story)
        self.states = self.nodes.states
        self.errors: dict[int, str] = {}
        self.fingerprints: dict[int, str] = {}
        self.blocked_by: dict[int, int] = {}
        self.holds: dict[int, Hold] = {}
        self.on_hold: set[int] = set()
        self.unneeded: set[int] = set()
        self.stale: set[int] = set()
        notes = EndNotes(self.unneeded, self.errors, self.blocked_by)
        self.values = KeptValues(self.nodes, graph, notes=notes, owner=origin.owner, bytes_max=value_bytes_max)
        self.attempts.additions = Additions(graph, self.values)
        self.is_changed = False
        # Those that wait to be decided, and perhaps some that were decided otherwise, such as by an operator.
        self._hooks_undecided = set(graph.hooks)
        self.has_begun = False
        self.start = Start()
        self.is_stopped = False
        self.ready = ReadyNodes(graph.ranks(), origin.created_at)

    def __repr__(self) -> str:
        counts = " ".join(f"{word}={count}" for word, count in self.nodes.counts_by_word().items() if count)
        return f"<RunningWorkflow {self.workflow_id} '{self.name}' {self.state} {counts}>"

    # --- beginning --------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start, or wait for the start time; a paused workflow begins at its time, too, and dispatches nothing."""
        self.has_begun = self.policy.start_at <= now and not self.start.behind
        if self.state is WorkflowState.RUNNING and not self.has_begun:
            self.set_state(WorkflowState.SCHEDULED)
        elif self.state is WorkflowState.SCHEDULED and self.has_begun:
            self.set_state(WorkflowState.RUNNING)
        if self.has_begun:
            self._start(now)

    def start_now(self, now: float) -> None:
        """Begin before the time that was given; the deadline counts from now on."""
        self.start = Start(early_at=now)
        self.policy = replace(self.policy, start_at=now)
        if self.policy.deadline_s:
            self.deadline_at = now + self.policy.deadline_s
        self.is_changed = True
        self.begin(now)

    def _start(self, now: float) -> None:
        """Decide every node that waits for nothing, or may be decided already."""
        graph, unmet = self.graph, self.nodes.unmet
        for node in range(len(graph)):
            # A join without dependencies finishes at once and may have decided later nodes already.
            if self.states[node] != NodeState.WAITING:
                continue
            count = graph.dependency_count(node)
            if not count and node not in graph.policies and graph.is_task(node):
                self._make_ready(node, now)
            elif not unmet[node] or unmet[node] < count:
                self._consider(node, now)
        if not self.nodes.unfinished and not self.state.is_finished:
            self._finish_by_counts(now)

    # --- what the engine tells --------------------------------------------------------------------------------------

    def time_passed(self, node: int, now: float) -> bool:
        """Let a held node go, or a failed one try again, if its time has come; tell whether it was."""
        hold = self.holds.get(node)
        if hold is None or not hold.until or hold.until > now:
            return False
        self.let_go(node, now)
        return True

    def is_overdue(self, node: int, now: float) -> bool:
        """Tell whether a node in flight has used up its time."""
        timeout_s = self.timeout_s(node)
        return bool(timeout_s) and self.states[node] in IN_FLIGHT and self.attempts.dispatched_at[node] + timeout_s <= now

    def take_ready(self, now: float) -> int:
        """Take the ready node with the longest way to go and set it dispatching."""
        node = self.ready.pop()
        self.attempts.dispatched_at[node] = self.ready.since = now
        if self.graph.policies and self.graph.policy(node).poll_every_s:
            self.attempts.polling_since.setdefault(node, now)
        self.nodes.move(node, NodeState.DISPATCHING, now)
        return node

    def park(self, pool: str, now: float) -> int:
        """Hold the ready node that is next because a pool is full. Not recorded: after a restart it is ready again."""
        node = self.ready.pop()
        is_changed = node in self.nodes.changed
        self.holds[node] = Hold(HoldReason.POOL, pool=pool)
        self.nodes.move(node, NodeState.HELD, now)
        if not is_changed:
            self.nodes.changed.discard(node)
        return node

    def unpark(self, node: int, now: float) -> bool:
        """Make a node ready that a full pool holds; tell whether it was."""
        hold = self.holds.get(node)
        if hold is None or hold.reason is not HoldReason.POOL:
            return False
        self.let_go(node, now)
        return True

    def published(self, node: int, now: float) -> None:
        """Note that the broker has the message."""
        if self.states[node] == _DISPATCHING:
            self.nodes.move(node, NodeState.DISPATCHED, now)

    def again(self, node: int, state: NodeState, hold: Hold, now: float, *, ended: str, error: str = "") -> None:
        """End the present attempt and hold the node for another one; ``ended`` and ``error`` are as in `Attempt`."""
        self.attempts.end(node, now, ended=ended, due_at=hold.until, error=error)
        self.holds[node] = hold
        self.nodes.move(node, state, now)

    # --- ending -----------------------------------------------------------------------------------------------------

    def stop(self, now: float) -> None:
        """Cancel what was not dispatched because a node failed; what is there to clean up after failures still runs."""
        self.is_stopped = self.is_changed = True
        self.cancel_open([node for node in range(len(self.graph)) if self._is_given_up(node)], now)

    def _is_given_up(self, node: int) -> bool:
        """Tell whether a node is cancelled when another one's failure stops the workflow."""
        return self.states[node] not in FINISHED and self.states[node] not in IN_FLIGHT and not cleans_up(self.graph.policy(node))

    def cancel_open(self, nodes: Iterable[int], now: float) -> None:
        """Cancel those of these nodes that have not finished; the tasks of what is in flight are given up by the caller."""
        for node in nodes:
            # The end of the one before may have decided this one.
            state = self.states[node]
            if state in FINISHED:
                continue
            if state == NodeState.READY:
                self.ready.remove(node)
            self.finish_node(node, NodeState.CANCELLED, now)

    def set_aside(self, error: str, now: float) -> None:
        """End a workflow that contradicts itself, as it stands; its story is kept in ``error``."""
        self.ready.clear()
        self.attempts.tried_again.clear()
        self.error = error
        self.state, self.finished_at = WorkflowState.FAILED, now
        self.is_changed = True

    def set_back(self, node: int, now: float) -> None:
        """Have a node wait as if it had never begun; the caller counts it for its dependents again, if it had finished."""
        # The result backend was told of a success under its first task id, and nothing takes the place of that.
        was_given = self.states[node] == NodeState.SKIPPED and node not in self.unneeded
        ended, ended_at, error = self.states[node], self.nodes.finished_at[node], self.errors.get(node, "")
        if node not in self.attempts.additions or ended < FIRST_BAD:
            # Else its task has succeeded, and what has failed or was cancelled is what that has added.
            self.attempts.start_over(
                node, now, ended=NodeState(ended).word, ended_at=ended_at, error=error, is_first_id_used=was_given
            )
        if self.states[node] == NodeState.READY:
            self.ready.remove(node)
        if ended in GOOD or ended == NodeState.HELD:
            # What failed goes on in the same child, and everything else begins with a new one.
            self.attempts.begin_anew(node)
        self.errors.pop(node, None)
        self.fingerprints.pop(node, None)
        self.blocked_by.pop(node, None)
        self.holds.pop(node, None)
        self.stale.discard(node)
        self.unneeded.discard(node)
        self.values.drop(node)
        if self.nodes.is_hook(node):
            self._hooks_undecided.add(node)
        self.nodes.move(node, NodeState.WAITING, now)

    def consider_all(self, now: float, nodes: Iterable[int]) -> Steps[None]:
        """Decide those of these nodes that wait, in steps; before the workflow has begun, none."""
        if self.has_begun:
            for is_later, part in parts(sorted(nodes)):
                if is_later:
                    yield
                for node in part:
                    if self.states[node] == NodeState.WAITING:
                        self._consider(node, now)
        if not self.nodes.unfinished and not self.state.is_finished:  # pragma: no cover - a guard: what is set back is open
            self._finish_by_counts(now)

    # --- what can be asked ------------------------------------------------------------------------------------------

    def state_of(self, node: int) -> NodeState:
        """Return the state of a node."""
        return self.nodes.of(node)

    @property
    def has_notes(self) -> bool:
        """Tell whether anything is to be stored of any node beside its state, its attempt, its times and its value."""
        attempts = self.attempts
        return bool(
            (self.errors or self.fingerprints or self.holds or self.blocked_by or self.unneeded or self.on_hold or self.stale)
            or (attempts.failures or attempts.polling_since or attempts.late or attempts.sent_to or attempts.earlier)
            or attempts.generations
        )

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

    @property
    def can_dispatch(self) -> bool:
        """Tell whether a node may be dispatched as far as this workflow is concerned."""
        if not self.ready.heap or self.state is not WorkflowState.RUNNING:
            return False
        return not self.policy.in_flight_max or self.nodes.in_flight_count < self.policy.in_flight_max

    def input_text(self, node: int) -> Text | None:
        """Return the value that precedes a node, a long one by reference, or None if it takes none; a hook is told the end."""
        if self.graph.takes_input(node):
            return self.values.input_text(node)
        signature = self.graph.signatures[node]
        if signature is None or signature.immutable or not self.graph.policy(node).is_told_the_end:
            return None
        return summary_of(self, node)

    def parent_task_id(self, node: int) -> str:
        """Return the task id of the last dependency that is a task, else of the task that submitted it all; empty if none has."""
        parent = self.graph.last_dependency(node)
        while parent is not None and not self.graph.is_task(parent):
            parent = self.graph.last_dependency(parent)
        if parent is not None:
            return self.attempts.task_id_of(parent)
        return "" if self.origin.parent_task is None else self.origin.parent_task.task_id

    # --- how it spreads ---------------------------------------------------------------------------------------------

    def finish_node(self, node: int, state: NodeState, now: float, *, value: Text | None = None, error: str = "") -> None:
        """Finish a node and everything that is decided by it."""
        if self.stale and node in self.stale:
            # It ran for an end that is none any more, so what came of it counts for nothing.
            self.again(node, NodeState.RETRYING, Hold(HoldReason.RETRY, now), now, ended="stale")
            self._decide_anew(node, now)
            return
        stack: list[_End] = [(node, state, value, error)]
        graph, states, unmet = self.graph, self.states, self.nodes.unmet
        has_failed, first = False, node
        while stack:
            node, state, value, error = stack.pop()
            if node != first and states[node] != _WAITING:  # pragma: no cover - a guard: whoever is to blame is noted at once
                continue  # Two of its dependencies decided it in one go.
            self._end(node, state, value, error, now)
            is_good = state < FIRST_BAD
            has_failed |= state is NodeState.FAILED
            to_blame = node if is_good else self.blocked_by.get(node, node)
            for dependent in graph.dependents(node):
                unmet[dependent] -= 1
                if states[dependent] != _WAITING or dependent in self.blocked_by or not self.has_begun:
                    # It went on without this one, stands in the stack already, or is decided when the workflow begins.
                    continue
                if graph.policies and dependent in graph.policies:
                    decided = self._decided(dependent, now) if may_be_decided(self, dependent, node) else None
                elif not is_good:
                    # The usual rule asks for all, so the first that failed blocks it, whatever the others do.
                    self.blocked_by[dependent] = to_blame
                    decided = dependent, NodeState.BLOCKED, None, ""
                elif unmet[dependent]:
                    continue
                elif self.unneeded or self.nodes.bad:
                    # Others of its dependencies may not have been good, if an operator has set it back meanwhile.
                    decided = self._decided(dependent, now)
                elif graph.is_join(dependent):
                    decided = self.values.handed_on(dependent)
                else:
                    self._make_ready(dependent, now)
                    continue
                if decided is not None:
                    stack.append(decided)
            if self.nodes.sections is not None and self.nodes.sections.closed and self.has_begun:
                stack += self._decided_ends(now)
        if has_failed and self.policy.on_failure is OnFailure.STOP and not self.is_stopped:
            self.stop(now)
        if self._hooks_undecided and self.nodes.unfinished == self.nodes.hooks_open and self.has_begun:
            # Nothing but hooks is left, so it is known whether the workflow has failed.
            self._decide_hooks(now)
        if not self.nodes.unfinished and not self.state.is_finished:
            self._finish_by_counts(now)

    def _end(self, node: int, state: NodeState, value: Text | None, error: str, now: float) -> None:
        """Note how a node has ended, and forget what was noted on its way."""
        self.nodes.move(node, state, now)
        if self.holds:
            self.holds.pop(node, None)
        if self.on_hold:
            self.on_hold.discard(node)
        if self.attempts.tried_again.cause_of:
            self.attempts.tried_again.forget(node)
        if self.attempts.reported or self.attempts.workers:
            self.attempts.finish(node, is_bad=state is NodeState.FAILED)
        if error:
            self.errors[node] = error
        if state >= FIRST_BAD:
            # It keeps what it takes, since it may be tried again; and what it has added.
            return
        self.attempts.additions.drop(node)
        values = self.values
        if value is not None:
            values.keep(node, value)
        # What was not needed may be yet, if something is retried; and what a value is made of is kept with it.
        if (
            values.by_node
            and node not in self.unneeded
            and (self.graph.signatures[node] is not None or not values.is_derived(node))
        ):
            values.release_inputs(node)

    def _decided_ends(self, now: float) -> list[_End]:
        """Decide what waits for sections of which all else has finished; return those that end at once."""
        assert self.nodes.sections is not None
        waiting = [node for node in self.nodes.sections.take_closed() if self.states[node] == _WAITING]
        return [end for node in waiting if (end := self._decided(node, now)) is not None]

    def _decide_hooks(self, now: float) -> None:
        """Decide the hooks that wait, now that everything else has finished."""
        undecided, self._hooks_undecided = self._hooks_undecided, set()
        for node in sorted(undecided):
            if self.states[node] == NodeState.WAITING:
                self._consider(node, now)

    def _consider(self, node: int, now: float) -> None:
        """Decide a waiting node, with all that follows from that."""
        decided = self._decided(node, now)
        if decided is not None:
            _, state, value, error = decided
            self.finish_node(node, state, now, value=value, error=error)

    def _decided(self, node: int, now: float) -> _End | None:
        """Decide a waiting node by how its dependencies stand; return how it ends if it does, else let it go or wait."""
        decision, blame = verdict(self, node)
        said = ""
        if decision is Verdict.GO and self.graph.choices.provisos:
            decision, said = choice_of(self, node)
        match decision:
            case Verdict.BLOCK:
                self.blocked_by[node] = blame
                return node, NodeState.BLOCKED, None, ""
            case Verdict.SKIP:
                self.unneeded.add(node)
                return node, NodeState.SKIPPED, None, said
            case Verdict.FAIL:
                self.fingerprints[node] = cause_of_undecided(self, node, said)
                return node, NodeState.FAILED, None, said
            case Verdict.GO if self.graph.is_join(node):
                return self.values.handed_on(node)
            case Verdict.GO:
                self._make_ready(node, now)
        return None

    def _make_ready(self, node: int, now: float) -> None:
        """Let a node go whose dependencies do, or hold it."""
        hold = hold_for(self.graph, node, self.on_hold, now, is_child=self.attempts.additions.is_child(node))
        if hold is not None:
            self.holds[node] = hold
            self.nodes.move(node, NodeState.HELD, now)
        else:
            self._become_ready(node, now)

    def _become_ready(self, node: int, now: float) -> None:
        if not self.ready.heap:
            self.ready.since = now
        self.nodes.move(node, NodeState.READY, now)
        self.ready.push(node)

    def let_go(self, node: int, now: float) -> None:
        """End a node's hold; an operator's comes after it."""
        del self.holds[node]
        if node in self.on_hold:
            self.holds[node] = Hold(HoldReason.OPERATOR)
            if self.states[node] == NodeState.RETRYING:
                self.nodes.move(node, NodeState.HELD, now)
            self.nodes.changed.add(node)
        elif self.attempts.additions.is_child(node):
            self.holds[node] = Hold(HoldReason.CHILD)
            self.nodes.changed.add(node)
        elif not self.graph.is_task(node):
            _, state, value, error = self.values.handed_on(node)
            self.finish_node(node, state, now, value=value, error=error)
        elif node in self.stale:
            self._decide_anew(node, now)
        elif (self.nodes.unmet[node] or self.nodes.is_at_the_end(node)) and verdict(self, node)[0] is Verdict.WAIT:
            # What it waited for was set running again while it was in flight: its next attempt comes after that.
            self.nodes.move(node, NodeState.WAITING, now)
        else:
            self._become_ready(node, now)

    def _decide_anew(self, node: int, now: float) -> None:
        """Set a stale hook back that is held for its next attempt, and decide it by how things stand now."""
        self.set_back(node, now)
        self._consider(node, now)

    def _finish_by_counts(self, now: float) -> None:
        bad = WorkflowState.FAILED
        if self.is_stopped and self.error == CLEANS_UP:
            bad, self.error = WorkflowState.CANCELLED, ""
        self.finish(bad if self.nodes.bad and not is_enough(self) else WorkflowState.SUCCEEDED, now)

    def finish(self, state: WorkflowState, now: float) -> None:
        """Note how the workflow has ended, with its result, or with why it has none or has failed."""
        self.state, self.finished_at = state, now
        self.is_changed = True
        if state is WorkflowState.FAILED and not self.error:
            self.error = first_failure_of(self)
        if state is WorkflowState.SUCCEEDED and self.graph.output is not None:
            value = self.values.by_node.get(self.graph.output)
            if value is not None:
                self.result = value.content
            else:
                # Nodes that succeeded without a value that the result needed say why; their records keep it over a crash.
                self.error = next((error for node, error in self.errors.items() if node not in self.graph.choices.provisos), "")

    def set_state(self, state: WorkflowState) -> None:
        """Change the state of a workflow that goes on, or goes on again; its end is `finish`."""
        self.state = state
        self.is_changed = True
