"""Going back: nodes that have finished are set back to waiting, or finish in another way than they did.

*The idea.* What is set back takes everything with it that never ran because of it, hooks included; then each is decided anew, so
what is still blocked by somebody else is blocked again. A hook that is in flight just then is told of an end that is none any
more: it is marked as stale, and decided anew when it comes back.

These are functions beside `RunningWorkflow`, which decides forwards: nothing here is needed for a workflow that nobody touches.
"""

from collections.abc import Iterable, Sequence

from dyrygentd.core import outcomes
from dyrygentd.core.additions import Addition
from dyrygentd.core.notes import Hold, HoldReason
from dyrygentd.core.section_ends import NO_SCOPE
from dyrygentd.core.states import FINISHED, IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.steps import Steps, exhaust, parts, reached
from dyrygentd.core.workflow import CLEANS_UP, RunningWorkflow

#: Set back to waiting when something they wait for is: they never ran, or do not run just now.
_SET_BACK = frozenset({NodeState.BLOCKED, NodeState.CANCELLED, NodeState.READY, NodeState.HELD, NodeState.RETRYING})


def reopen_in_steps(workflow: RunningWorkflow, nodes: Sequence[int], now: float) -> Steps[set[int]]:
    """Set nodes that are not in flight back to waiting, with all that never ran because of them, and decide each; return them."""
    reset = yield from reopen_undecided_in_steps(workflow, nodes, now)
    yield from workflow.consider_all(now, reset)
    return reset


def reopen_undecided_in_steps(workflow: RunningWorkflow, nodes: Sequence[int], now: float) -> Steps[set[int]]:
    """Set nodes back as `reopen_in_steps` does, and the workflow going; the caller finishes some first and calls `consider_all`.

    Every step leaves the states and their counts in agreement.
    """
    if not nodes:
        return set()
    if workflow.state.is_finished:
        _set_running_again(workflow, now)
    if workflow.deadline_at and workflow.deadline_at <= now:
        workflow.deadline_at = now + workflow.policy.deadline_s
        workflow.error, workflow.is_changed = "", True
    return (yield from _reopen(workflow, nodes, now))


def skip_in_steps(workflow: RunningWorkflow, nodes: Sequence[int], value: bytes, now: float) -> Steps[list[int]]:
    """Count nodes as succeeded with this value; return those that were in flight."""
    in_flight = [node for node in nodes if workflow.states[node] in IN_FLIGHT]
    finished = [node for node in nodes if workflow.states[node] in FINISHED]
    reopened = yield from reopen_undecided_in_steps(workflow, finished, now)
    for node in nodes:
        if workflow.states[node] in FINISHED:
            if workflow.states[node] == NodeState.SUCCEEDED:
                continue  # pragma: no cover - a join that the skip of the one before has finished; no verb means such today
            reopened |= yield from reopen_undecided_in_steps(workflow, [node], now)
        if workflow.states[node] == NodeState.READY:
            workflow.ready.remove(node)
        workflow.errors.pop(node, None)
        workflow.fingerprints.pop(node, None)
        workflow.stale.discard(node)
        workflow.finish_node(node, NodeState.SKIPPED, now, value=value)
    yield from workflow.consider_all(now, reopened)
    return in_flight


def succeeded_late(
    workflow: RunningWorkflow, node: int, value: bytes | None, value_error: str, now: float, *, added: Addition | None = None
) -> None:
    """Correct a failure that was none: somebody revoked the task, or its worker was given up too early."""
    dispatched_at, attempt = workflow.attempts.dispatched_at[node], workflow.attempts.of(node)
    reopened = exhaust(_reopen(workflow, [node], now))
    workflow.attempts.take_back(node, attempt - 1, dispatched_at)
    outcomes.succeeded(workflow, node, value, value_error, now, added=added)
    exhaust(workflow.consider_all(now, reopened))


def abandon(workflow: RunningWorkflow, node: int, now: float) -> None:
    """Give up the attempt that is in flight and start another one at once."""
    workflow.attempts.forget_failures(node)
    workflow.again(node, NodeState.RETRYING, Hold(HoldReason.RETRY, now), now, ended="given up")
    workflow.let_go(node, now)


def set_back_with(workflow: RunningWorkflow, nodes: Iterable[int]) -> Steps[set[int]]:
    """Return these nodes, and those that are set back with them; nothing is changed."""
    reset = set(nodes)
    if _undoes_hooks(workflow, reset):
        reset.update(hook for hook in workflow.graph.hooks if workflow.states[hook] not in IN_FLIGHT)
    # With what never ran because of these, or does not run just now, and what ended a section that is open again.
    following, states, is_at_the_end = workflow.graph.following(), workflow.states, workflow.nodes.is_at_the_end
    return (
        yield from reached(
            reset,
            lambda node: (
                dependent
                for dependent in following(node)
                if states[dependent] in _SET_BACK
                or dependent in workflow.unneeded
                or (states[dependent] not in IN_FLIGHT and is_at_the_end(dependent))
            ),
        )
    )


def _reopen(workflow: RunningWorkflow, nodes: Iterable[int], now: float) -> Steps[set[int]]:
    reset = set(nodes)
    if _undoes_hooks(workflow, reset):
        # One in flight is decided anew when it comes back.
        in_flight = {hook for hook in workflow.graph.hooks if workflow.states[hook] in IN_FLIGHT}
        workflow.nodes.changed |= in_flight - workflow.stale
        workflow.stale |= in_flight
    reset = yield from set_back_with(workflow, reset)
    reset = {node for node in reset if workflow.states[node] != NodeState.WAITING}
    _have_ends_decided_anew(workflow, reset)
    for is_later, part in parts(reset):
        if is_later:
            yield
        had_finished = [node for node in part if workflow.states[node] in FINISHED]
        for node in part:
            workflow.set_back(node, now)
        for node in had_finished:
            for dependent in workflow.graph.dependents(node):
                workflow.nodes.unmet[dependent] += 1
    yield from workflow.values.count_users_anew(reset)
    workflow.is_changed |= workflow.is_stopped
    if workflow.error == CLEANS_UP:
        workflow.error = ""
    workflow.is_stopped = False
    return reset


def _have_ends_decided_anew(workflow: RunningWorkflow, reset: set[int]) -> None:
    """Mark what is in flight at the end of a section that is open again with these nodes."""
    ends = workflow.graph.section_ends
    if ends is None:
        return
    scopes = {ends.scope_of[node] for node in reset} - {NO_SCOPE}
    in_flight = {node for scope in scopes for node in ends.enders[scope] if workflow.states[node] in IN_FLIGHT}
    workflow.nodes.changed |= in_flight - workflow.stale
    workflow.stale |= in_flight


def _undoes_hooks(workflow: RunningWorkflow, reset: set[int]) -> bool:
    """Tell whether hooks were decided by an end that is none any more once these nodes are set back."""
    return bool(workflow.graph.hooks) and not all(workflow.nodes.is_hook(node) for node in reset)


def _set_running_again(workflow: RunningWorkflow, now: float) -> None:
    if workflow.state is WorkflowState.CANCELLED:
        workflow.run += 1
    workflow.start.behind = ""
    workflow.has_begun = workflow.policy.start_at <= now
    workflow.set_state(WorkflowState.RUNNING if workflow.has_begun else WorkflowState.SCHEDULED)
    workflow.finished_at, workflow.result, workflow.error = None, None, ""
