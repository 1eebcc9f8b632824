"""What others make of a workflow that goes on: it is paused, a node is held or released, all is cancelled, the deadline comes."""

from dyrygentd.core.notes import Hold, HoldReason
from dyrygentd.core.states import FINISHED, IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow


def pause(workflow: RunningWorkflow) -> None:
    """Dispatch nothing until `resume`; results go on coming in."""
    workflow.set_state(WorkflowState.PAUSED)


def resume(workflow: RunningWorkflow, now: float) -> None:
    """Go on."""
    workflow.set_state(WorkflowState.RUNNING)
    workflow.begin(now)


def set_priority(workflow: RunningWorkflow, priority: int) -> None:
    """Change whose turn comes first."""
    workflow.priority = priority
    workflow.is_changed = True


def hold(workflow: RunningWorkflow, node: int, now: float) -> None:
    """Keep a node from being dispatched until `release`."""
    workflow.on_hold.add(node)
    workflow.nodes.changed.add(node)
    if workflow.states[node] == NodeState.READY:
        workflow.ready.remove(node)
        workflow.holds[node] = Hold(HoldReason.OPERATOR)
        workflow.nodes.move(node, NodeState.HELD, now)
    elif workflow.states[node] == NodeState.HELD and workflow.holds[node].reason is HoldReason.POOL:
        workflow.holds[node] = Hold(HoldReason.OPERATOR)


def release(workflow: RunningWorkflow, node: int, now: float) -> None:
    """Let a node go: what an operator, a gate, a time or the next attempt holds, goes at once."""
    workflow.on_hold.discard(node)
    workflow.nodes.changed.add(node)
    hold = workflow.holds.get(node)
    if hold is not None and hold.reason is not HoldReason.POOL:
        workflow.let_go(node, now)


def cancel(workflow: RunningWorkflow, now: float) -> list[int]:
    """End everything that is not finished; return the nodes that were in flight."""
    in_flight = workflow.nodes.all_in(*IN_FLIGHT)
    for hook in workflow.graph.hooks:
        if workflow.states[hook] not in FINISHED:
            workflow.nodes.move(hook, NodeState.CANCELLED, now)
    workflow.nodes.cancel_open(now)
    workflow.nodes.forget_unmet()
    workflow.holds.clear()
    workflow.ready.clear()
    workflow.on_hold.clear()
    workflow.stale.clear()
    workflow.attempts.forget_reports()
    workflow.attempts.tried_again.clear()
    workflow.finish(WorkflowState.CANCELLED, now)
    return in_flight


def over_deadline(workflow: RunningWorkflow, now: float) -> list[int]:
    """Cancel all but hooks and what ends sections because the deadline has passed; return the nodes that were in flight."""
    states, is_at_the_end = workflow.states, workflow.nodes.is_at_the_end
    meant = [node for node in range(len(workflow.graph)) if states[node] not in FINISHED and not is_at_the_end(node)]
    if not meant:
        return []  # The work was done in time, and only hooks and the like still run.
    workflow.error = f"the deadline of {workflow.policy.deadline_s:g} s is over"
    workflow.is_changed = True
    workflow.is_stopped = True
    in_flight = [node for node in meant if workflow.states[node] in IN_FLIGHT]
    workflow.cancel_open(meant, now)
    return in_flight
