"""A cancel: at once, or, of a workflow with sections that have begun and clean up after themselves, with that still to come.

What a ``finally`` takes away (a lock, a flag of a cluster) is there whether the workflow failed or somebody cancelled it. So a
cancel ends all work and all hooks, and has the ``finally`` nodes of what has begun run; then the workflow ends as cancelled. Till
then it is one that goes on, and its error says so, which is stored with it: no other mark is needed. The same cancel again has no
effect, so that a client may repeat it; with ``force`` all ends at once.
"""

from dyrygentd.core import steering
from dyrygentd.core.states import FINISHED, IN_FLIGHT, WorkflowState
from dyrygentd.core.steps import Steps, exhaust, parts
from dyrygentd.core.verdicts import ran
from dyrygentd.core.workflow import CLEANS_UP, RunningWorkflow

#: Hooks first: none of them is to be told of an end that is made by and by.
_FIRST, _REST = 0, 1


def is_being_cancelled(workflow: RunningWorkflow) -> bool:
    """Tell whether a workflow was cancelled, and only cleans up."""
    return workflow.is_stopped and workflow.error == CLEANS_UP and not workflow.state.is_finished


def cancel(workflow: RunningWorkflow, now: float) -> list[int]:
    """End everything that is not finished, but for what cleans up; return what was in flight of it."""
    return exhaust(cancel_in_steps(workflow, now))


def cancel_in_steps(workflow: RunningWorkflow, now: float, *, force: bool = False) -> Steps[list[int]]:
    """Do what `cancel` does; with ``force`` end what cleans up as well."""
    if force or not _cleans_up(workflow):
        return steering.cancel(workflow, now)
    states, policies = workflow.states, workflow.graph.policy
    counts = workflow.nodes.sections
    assert counts is not None
    meant = [node for node in range(len(workflow.graph)) if states[node] not in FINISHED and not counts.ends.ends_finally(node)]
    meant.sort(key=lambda node: _FIRST if policies(node).is_told_the_end else _REST)
    in_flight = [node for node in meant if states[node] in IN_FLIGHT]
    workflow.stale.difference_update(meant)
    workflow.error, workflow.is_stopped, workflow.is_changed = CLEANS_UP, True, True
    if workflow.state is WorkflowState.PAUSED:
        workflow.set_state(WorkflowState.RUNNING)
    for is_later, part in parts(meant):
        if is_later:
            yield
        workflow.cancel_open(part, now)
    return in_flight


def _cleans_up(workflow: RunningWorkflow) -> bool:
    """Tell whether there is something to clean up that has begun, and has not been."""
    counts = workflow.nodes.sections
    if counts is None or not workflow.has_begun:
        return False
    ends = counts.ends
    scopes = {scope for node, scope in ends.ended_by.items() if workflow.states[node] not in FINISHED and ends.ends_finally(node)}
    return any(ran(workflow, node) for scope in scopes for node in ends.nodes_in(scope))
