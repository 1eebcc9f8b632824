"""Workflows that are the work of a node of another one: who waits for whom, and what goes down and up.

The theory of operation stands in the guide of this room. In short: a node waits for its *child* as one that is held; its row says
so before anything of the child is anywhere. The child is taken in if its node still waits for it. Its end and the end of its node
are one turn, hence one transaction, and so is whatever else goes from one to the other.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from dyrygentd.core import outcomes, steering
from dyrygentd.core.bounds import LABELS_MAX
from dyrygentd.core.cancelling import cancel, is_being_cancelled
from dyrygentd.core.child_causes import CHILD_CANCELLED, cause_above, cause_of_refusal
from dyrygentd.core.effects import BeginChild, RevokeStamped
from dyrygentd.core.events import ChildEnded, ChildRefused, WorkflowSubmitted
from dyrygentd.core.flights import Flights
from dyrygentd.core.hooks import first_failed_of
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.parent import Parent
from dyrygentd.core.policy import OnClose
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.references import as_kept
from dyrygentd.core.reopening import reopen_in_steps
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.steps import exhaust
from dyrygentd.core.turn import Turn
from dyrygentd.core.verbs import WORKFLOW_VERBS, Allowed, Verb, VerbRequest, perform_in_steps
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import VerbRefused

#: Verbs that set what has finished going again.
_SETS_GOING: Final = frozenset({Verb.RETRY, Verb.RERUN, Verb.SKIP})
#: Verbs on a whole workflow that mean its unfinished children as well.
_GOES_DOWN: Final = frozenset({Verb.PAUSE, Verb.RESUME, Verb.SET_PRIORITY})


class Children:
    """Who is whose child. Guards: a node and its child never contradict each other once a turn is over.

    Args:
        workflows: Those in memory, as the engine has them.
    """

    __slots__ = ("_flights", "_of", "_turn", "_workflows")

    def __init__(self, turn: Turn, workflows: Mapping[str, RunningWorkflow], flights: Flights) -> None:
        self._turn = turn
        self._workflows = workflows
        self._flights = flights
        # ``{parent's id: {node: its unfinished children}}``: more than one if an earlier one goes on and nobody waits for it.
        self._of: dict[str, dict[int, list[RunningWorkflow]]] = {}

    def __repr__(self) -> str:
        return f"<Children of={len(self._of)} workflows>"

    # --- what can be asked ------------------------------------------------------------------------------------------

    def of(self, workflow_id: str) -> Iterator[RunningWorkflow]:
        """Iterate over the unfinished children of a workflow that are in memory."""
        for children in self._of.get(workflow_id, {}).values():
            yield from children

    def child_of(self, workflow: RunningWorkflow, node: int) -> RunningWorkflow | None:
        """Return the unfinished child that a node waits for, if it is in memory."""
        return self._workflows.get(parent_of(workflow, node).child_id)

    def wants(self, parent: Parent) -> bool:
        """Tell whether a node waits for this child, and nothing of it is here."""
        return self.waits(parent) and parent.child_id not in self._workflows

    def waits(self, parent: Parent) -> bool:
        """Tell whether a node waits for this child."""
        workflow = self._workflows.get(parent.workflow_id)
        return workflow is not None and waits_for(workflow, parent.node, parent.generation)

    # --- beginning --------------------------------------------------------------------------------------------------

    def begin(self, workflow: RunningWorkflow, node: int) -> None:
        """Have the child of a node run that has begun to wait for it, unless it does."""
        parent, child = parent_of(workflow, node), workflow.attempts.additions.child(node)
        if child is None or parent.child_id in self._workflows or workflow.state.is_finished:
            return
        has_input = child.takes_input and next(workflow.values.gone(node), None) is None
        self._turn.batch.begin[parent.child_id] = BeginChild(
            parent,
            f"{workflow.name}: {workflow.graph.names[node]}",
            child,
            workflow.values.input_text(node) if has_input else None,
            has_input or not child.takes_input,
            workflow.origin.owner,
        )

    def labels_of(self, event: WorkflowSubmitted) -> Mapping[str, str]:
        """Return the labels of what was submitted: a child has its parent's as well, as far as there is room beside its own."""
        if event.parent is None:
            return event.labels
        above = self._workflows[event.parent.workflow_id].origin.labels
        return dict(list({**event.labels, **above, **event.labels}.items())[:LABELS_MAX])

    def inherit(self, child: RunningWorkflow, now: float) -> None:
        """Give a child that has just begun what its parent is at: its priority, and whether it is paused."""
        if child.origin.parent is None:
            return
        parent = self._workflows[child.origin.parent.workflow_id]
        child.priority = parent.priority
        if parent.state is WorkflowState.PAUSED and not child.state.is_finished:
            steering.pause(child)

    def begun(self, parent: Parent | None) -> None:
        """Let a node forget the definition of what its task has added: the workflow is saved with that in this turn."""
        workflow = None if parent is None else self._workflows.get(parent.workflow_id)
        if parent is not None and workflow is not None and parent.node in workflow.attempts.additions:
            workflow.attempts.additions.begun(parent.node)
            workflow.nodes.changed.add(parent.node)
            self._turn.touch(workflow)

    def taken_in(self, workflow: RunningWorkflow) -> None:
        """Take note of a workflow that is in memory from now on."""
        parent = workflow.origin.parent
        if parent is not None:
            self._of.setdefault(parent.workflow_id, {}).setdefault(parent.node, []).append(workflow)
        for node, hold in workflow.holds.items():
            if hold.reason is HoldReason.CHILD:
                self.begin(workflow, node)

    def ended(self, workflow: RunningWorkflow) -> None:
        """Forget a workflow that leaves the memory."""
        parent = workflow.origin.parent
        if parent is None:
            return
        by_node = self._of.get(parent.workflow_id, {})
        others = [child for child in by_node.pop(parent.node, ()) if child is not workflow]
        if others:
            by_node[parent.node] = others
        elif not by_node:
            self._of.pop(parent.workflow_id, None)

    # --- up and down ------------------------------------------------------------------------------------------------

    def agree(self, now: float) -> None:
        """Have parents and children of all that has changed in this turn agree."""
        if self._of:
            self._agree(list(self._turn.touched.values()), now, terminate=False)

    def agree_with(self, workflow: RunningWorkflow, now: float, *, terminate: bool) -> None:
        """Do that for one workflow, now; tasks of children that nobody wants any more are ended if ``terminate`` says so."""
        if self._of:
            self._agree([workflow], now, terminate=terminate)

    def _agree(self, changed: list[RunningWorkflow], now: float, *, terminate: bool) -> None:
        while changed:
            workflow = changed.pop()
            if workflow.origin.parent is not None and workflow.state.is_finished:
                parent = workflow.origin.parent
                if self._end(end_of(workflow, parent), now):
                    changed.append(self._workflows[parent.workflow_id])
                elif workflow.state is WorkflowState.SUCCEEDED:
                    self.goes_on(workflow, now)
                    if self._end(end_of(workflow, parent), now):
                        changed.append(self._workflows[parent.workflow_id])
            by_node = self._of.get(workflow.workflow_id)
            if not by_node:
                continue
            nodes = list(by_node) if workflow.state.is_finished else [each for each in workflow.nodes.changed if each in by_node]
            for node in nodes:
                for child in by_node[node]:
                    if self._is_given_up(workflow, node, child):
                        self._cancel(workflow, node, child, now, terminate=terminate)
                        changed.append(child)

    def told(self, event: ChildEnded | ChildRefused, now: float) -> None:
        """End a node by what was found out about its child."""
        if isinstance(event, ChildEnded):
            self._end(event, now)
        elif self.waits(event.parent) and event.is_unneeded:
            workflow, node = self._workflows[event.parent.workflow_id], event.parent.node
            self._try(workflow, lambda: outcomes.ignored(workflow, node, event.error, now), now)
        elif self.waits(event.parent):
            cause = cause_of_refusal(event.error)
            self._fail(self._workflows[event.parent.workflow_id], event.parent.node, cause, event.error, now)

    def _end(self, event: ChildEnded, now: float) -> bool:
        """End the node of a child that has ended, if it waits for that; tell whether it did."""
        parent = event.parent
        if not self.waits(parent):
            return False
        workflow, node = self._workflows[parent.workflow_id], parent.node
        if event.state is not WorkflowState.SUCCEEDED:
            is_cancelled = event.state is WorkflowState.CANCELLED
            why = f": {event.error}" if event.error else ""
            error = f"its workflow '{parent.child_id}' {'was cancelled' if is_cancelled else 'failed'}{why}"
            self._fail(workflow, node, CHILD_CANCELLED if is_cancelled else cause_above(event.cause), error, now)
            return True
        # One without an output hands on nothing, as a task does that returns None.
        value = b"null" if event.result is None and not event.error else event.result
        if value is not None:
            value = as_kept(value)
        self._try(workflow, lambda: outcomes.child_succeeded(workflow, node, value, event.error, now), now)
        return True

    def _fail(self, workflow: RunningWorkflow, node: int, cause: str, error: str, now: float) -> None:
        workflow.fingerprints[node] = cause
        self._try(workflow, lambda: workflow.finish_node(node, NodeState.FAILED, now, error=error), now)

    def _try(self, workflow: RunningWorkflow, change: Callable[[], object], now: float) -> None:
        self._turn.is_urgent = True
        self._turn.touch(workflow)
        try:
            change()
        except Exception as error:
            self._flights.set_aside(workflow, error, now)
        self._turn.touch(workflow)

    def _is_given_up(self, workflow: RunningWorkflow, node: int, child: RunningWorkflow) -> bool:
        """Tell whether nobody waits for a child any more, and it is to end for that."""
        parent, policy = child.origin.parent, workflow.attempts.additions.child(node)
        if parent is None or child.state.is_finished or (policy is not None and policy.on_close is OnClose.ABANDON):
            return False
        if is_being_cancelled(child):
            return False
        return workflow.state.is_finished or not waits_for(workflow, node, parent.generation)

    def _cancel(self, workflow: RunningWorkflow, node: int, child: RunningWorkflow, now: float, *, terminate: bool) -> None:
        why = f"node '{workflow.graph.names[node]}' of workflow '{workflow.workflow_id}' waits for it no more"
        ended = cancel(child, now)
        self._flights.give_up(child, ended, now, terminate=terminate)
        if ended and child.state.is_finished:
            self._turn.batch.revoke_stamped.append(RevokeStamped(child.stamp, terminate))
        detail = "terminating" if terminate else ""
        self._turn.batch.journal.append(JournalEntry(child.workflow_id, now, Verb.CANCEL.value, "", why, detail=detail))
        self._turn.is_urgent = True
        self._turn.touch(child)

    # --- verbs ------------------------------------------------------------------------------------------------------

    def follow(self, workflow: RunningWorkflow, request: VerbRequest, now: float) -> Iterator[RunningWorkflow]:
        """Have the children of a workflow do what a verb has done to it; return those that have changed."""
        if request.verb not in _GOES_DOWN:
            return
        stack = [workflow]
        while stack:
            for child in self.of(stack.pop().workflow_id):
                stack.append(child)
                if WORKFLOW_VERBS[request.verb][child.state] is not Allowed.DOES:
                    continue
                changes = exhaust(perform_in_steps(child, request, now))
                if changes.is_changed:
                    entry = JournalEntry(
                        child.workflow_id, now, request.verb.value, request.by, request.why, detail=changes.detail
                    )
                    self._turn.batch.journal.append(entry)
                    yield child

    def refuse_if_unwanted(self, child: RunningWorkflow, request: VerbRequest) -> None:
        """Do as the function of this name, if the parent is in memory; else the shell has asked."""
        parent = child.origin.parent
        above = None if parent is None else self._workflows.get(parent.workflow_id)
        if above is not None:
            refuse_if_unwanted(above, child, request)

    def recovered(self, workflow: RunningWorkflow) -> None:
        """Have the parent of a child looked at that has finished, as far as is known: the process may have ended before that."""
        parent = workflow.origin.parent
        if parent is not None and parent.workflow_id not in self._workflows:
            self._turn.batch.set_going[parent.child_id] = parent

    def goes_on(self, child: RunningWorkflow, now: float) -> None:
        """Set the node of a child going again that goes on, or has succeeded after all, if it had not succeeded itself."""
        parent = child.origin.parent
        if parent is None:
            return
        workflow = self._workflows.get(parent.workflow_id)
        if workflow is None:
            self._turn.batch.set_going[parent.child_id] = parent
        elif is_to_go_on(workflow, parent, child.state):
            self._try(workflow, lambda: exhaust(reopen_in_steps(workflow, [parent.node], now)), now)


def parent_of(workflow: RunningWorkflow, node: int) -> Parent:
    """Return what the child of a node has as its parent."""
    above = workflow.origin.parent
    depth = 1 if above is None else above.depth + 1
    root_id = workflow.workflow_id if above is None else above.root_id
    name = workflow.graph.names[node]
    return Parent(workflow.workflow_id, node, workflow.attempts.generations.get(node, 0), depth, root_id, name)


def end_of(workflow: RunningWorkflow, parent: Parent) -> ChildEnded:
    """Return what the node of a finished child is told.

    One whose output was skipped has no value, as a task that returns None; that is no reason to fail.
    """
    output, error = workflow.graph.output, workflow.error
    if workflow.state is WorkflowState.SUCCEEDED and (output is None or workflow.states[output] != NodeState.SUCCEEDED):
        error = ""
    first = first_failed_of(workflow) if workflow.state is WorkflowState.FAILED else None
    return ChildEnded(
        parent, workflow.state, workflow.result, error, "" if first is None else workflow.fingerprints.get(first, "")
    )


def waits_for(workflow: RunningWorkflow, node: int, generation: int) -> bool:
    """Tell whether a node waits for this child."""
    hold = workflow.holds.get(node)
    return hold is not None and hold.reason is HoldReason.CHILD and workflow.attempts.generations.get(node, 0) == generation


def is_to_go_on(workflow: RunningWorkflow, parent: Parent, child: WorkflowState) -> bool:
    """Tell whether a node that has ended is to wait for its child again, which is in this state now.

    One that was cancelled is not, if its child was left to itself and goes on; else it is a person who sets that going again.
    """
    state = workflow.state_of(parent.node)
    is_same = (
        workflow.attempts.additions.is_child(parent.node)
        and workflow.attempts.generations.get(parent.node, 0) == parent.generation
    )
    if not is_same or (child.is_finished and child is not WorkflowState.SUCCEEDED):
        return False
    policy = workflow.attempts.additions.child(parent.node)
    is_left = policy is not None and policy.on_close is OnClose.ABANDON
    return state is NodeState.FAILED or (state is NodeState.CANCELLED and not child.is_finished and not is_left)


def refuse_if_unwanted(workflow: RunningWorkflow, child: RunningWorkflow, request: VerbRequest) -> None:
    """Raise `VerbRefused` if a verb would set a finished child going for which its node does not wait, nor would again."""
    parent = child.origin.parent
    if parent is None or request.verb not in _SETS_GOING or not child.state.is_finished:
        return
    if waits_for(workflow, parent.node, parent.generation) or is_to_go_on(workflow, parent, WorkflowState.RUNNING):
        return
    name, state = workflow.graph.names[parent.node], workflow.state_of(parent.node)
    reason = f"its node '{name}' in workflow '{workflow.workflow_id}' is {state.word} and does not wait for it any more"
    instead = f"dyrygentctl rerun {workflow.workflow_id} --from '{name}'"
    raise VerbRefused(
        request.verb.value,
        f"workflow '{child.workflow_id}'",
        child.state.value,
        allowed=[],
        reason=f"{reason}: `{instead}` begins another one",
    )
