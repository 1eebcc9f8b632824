"""Which tasks a workflow has given up lately: what an earlier process revoked is not remembered by workers that were away.

Nothing is stored for it: it follows from the records of the nodes. The attempt before one that is in flight may have been given
up by force, which no record tells; to revoke one that has ended does no harm.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from dyrygentd.core.states import IN_FLIGHT, NodeState
from dyrygentd.core.workflow import RunningWorkflow

#: The fingerprint of a node whose time was over, and whose task was terminated for it.
TIMED_OUT: Final = "node timeout"
#: Nodes that may end without their task.
_ENDED: Final = frozenset({NodeState.FAILED, NodeState.CANCELLED, NodeState.SKIPPED})


class GivenUp(NamedTuple):
    """An attempt without which its node went on."""

    node: int
    task_id: str
    attempt: int
    terminate: bool


def given_up_by(workflow: RunningWorkflow, since: float, nodes: Iterable[int] | None = None) -> Iterator[GivenUp]:
    """Iterate over the attempts that were given up at ``since`` or later, as far as the records tell, and may still run."""
    for node in range(len(workflow.graph)) if nodes is None else nodes:
        state = workflow.state_of(node)
        if not workflow.graph.task_ids[node] or not workflow.graph.is_task(node):
            continue
        terminate = workflow.fingerprints.get(node) == TIMED_OUT
        attempt = workflow.attempts.of(node)
        if state in IN_FLIGHT:
            # A failure before a retry was an end, and so was the answer to a poll.
            is_known = (node in workflow.attempts.failures and not terminate) or node in workflow.attempts.polling_since
            if attempt > 1 and not is_known and workflow.attempts.dispatched_at[node] >= since:
                yield GivenUp(node, workflow.attempts.task_id_of(node, back=1), attempt - 1, terminate)
        elif state is NodeState.RETRYING:
            if terminate:
                yield GivenUp(node, workflow.attempts.task_id_of(node), attempt, terminate)
        elif state in _ENDED and _went_on_without(workflow, node, state, since):
            yield GivenUp(node, workflow.attempts.task_id_of(node), attempt, terminate or state is NodeState.CANCELLED)


def _went_on_without(workflow: RunningWorkflow, node: int, state: NodeState, since: float) -> bool:
    """Tell whether a finished node had its task in flight when it was finished, and nothing was heard of that since."""
    if not workflow.attempts.dispatched_at[node] or workflow.nodes.finished_at[node] < since or node in workflow.attempts.late:
        return False
    return node not in workflow.unneeded and (state is not NodeState.FAILED or workflow.fingerprints.get(node) == TIMED_OUT)
