"""What the times of a workflow become when the clock is set: what is measured goes on, what somebody named stays."""

from dataclasses import replace

from dyrygentd.core.notes import Hold, HoldReason
from dyrygentd.core.policy import Retry
from dyrygentd.core.states import IN_FLIGHT
from dyrygentd.core.workflow import RunningWorkflow


def shift_times(workflow: RunningWorkflow, by_s: float, now: float) -> bool:
    """Move what is measured along with the clock that was set; tell whether there was anything."""
    count = len(workflow.nodes.changed)
    for node, hold in workflow.holds.items():
        if hold.until and not _is_named(workflow, node, hold):
            workflow.holds[node] = replace(hold, until=hold.until + by_s)
            workflow.nodes.changed.add(node)
    for node in workflow.nodes.all_in(*IN_FLIGHT):
        workflow.attempts.dispatched_at[node] += by_s
        workflow.nodes.changed.add(node)
    for node in workflow.attempts.begun_at:
        workflow.attempts.begun_at[node] += by_s
    for node in workflow.attempts.polling_since:
        workflow.attempts.polling_since[node] += by_s
        workflow.nodes.changed.add(node)
    bound_times(workflow, now)
    return len(workflow.nodes.changed) > count


def bound_times(workflow: RunningWorkflow, now: float) -> None:
    """Let nothing that is measured take longer than its whole time from now, whatever the clock did before."""
    for node, hold in workflow.holds.items():
        if hold.until > now and not _is_named(workflow, node, hold):
            until = min(hold.until, now + _longest_hold_s(workflow, node, hold))
            if until != hold.until:
                workflow.holds[node] = replace(hold, until=until)
                workflow.nodes.changed.add(node)
    for node in workflow.nodes.all_in(*IN_FLIGHT):
        if workflow.attempts.dispatched_at[node] > now:
            workflow.attempts.dispatched_at[node] = now
            workflow.nodes.changed.add(node)
    for node, since in workflow.attempts.polling_since.items():
        if since > now:
            workflow.attempts.polling_since[node] = now
            workflow.nodes.changed.add(node)


def _is_named(workflow: RunningWorkflow, node: int, hold: Hold) -> bool:
    """Tell whether a node is held until a time that somebody named, instead of for so many seconds."""
    signature = workflow.graph.signatures[node]
    return hold.reason is HoldReason.TIME and signature is not None and hold.until == signature.eta_at


def _longest_hold_s(workflow: RunningWorkflow, node: int, hold: Hold) -> float:
    signature, policy = workflow.graph.signatures[node], workflow.graph.policy(node)
    match hold.reason:
        case HoldReason.TIME:
            return policy.sleep_s if signature is None else signature.countdown_s
        case HoldReason.POLL:
            return policy.poll_every_s
        case _:
            return (workflow.retry_of(node) or Retry()).backoff_max_s
