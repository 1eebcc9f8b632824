"""Which nodes of a workflow a person looks at first."""

from collections.abc import Sequence
from heapq import nsmallest
from itertools import islice
from typing import Final, NamedTuple

from dyrygentd.core.notes import HoldReason
from dyrygentd.core.states import IN_FLIGHT, NodeState
from dyrygentd.core.workflow import RunningWorkflow

_UNDER_WAY: Final = frozenset({NodeState.HELD, NodeState.RETRYING, *IN_FLIGHT})
_FOR_PERSONS: Final = frozenset({HoldReason.GATE, HoldReason.OPERATOR, HoldReason.LOST})


class Foremost(NamedTuple):
    """Numbers of nodes: the first that failed and that are blocked, and of what is under way the most urgent."""

    failed: Sequence[int]
    blocked: Sequence[int]
    under_way: Sequence[int]


def foremost(workflow: RunningWorkflow, *, limit: int) -> Foremost:
    """Choose nodes, of each kind ``limit`` at most."""
    nodes = workflow.nodes
    return Foremost(
        failed=list(islice(nodes.each_in(NodeState.FAILED), limit)),
        blocked=list(islice(nodes.each_in(NodeState.BLOCKED), limit)),
        under_way=nsmallest(limit, nodes.all_in(*_UNDER_WAY), key=lambda node: _urgency(workflow, node)),
    )


def _urgency(workflow: RunningWorkflow, node: int) -> tuple[int, float]:
    hold, dispatched_at = workflow.holds.get(node), workflow.attempts.dispatched_at[node]
    if hold is not None and hold.reason in _FOR_PERSONS:
        return 0, dispatched_at
    if workflow.state_of(node) in IN_FLIGHT:
        return (1 if workflow.attempts.reported.get(node) else 2), dispatched_at
    return 3, (hold.until or 0.0) if hold is not None else 0.0
