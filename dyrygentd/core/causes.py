"""What failures of one workflow have in common, so that many nodes are told, and dealt with, as a few."""

from dyrygentd.core.lost_causes import fingerprint_of_lost
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.states import NodeState
from dyrygentd.core.workflow import RunningWorkflow


def failures_by_cause(workflow: RunningWorkflow) -> list[tuple[str, list[int]]]:
    """Return ``(fingerprint, nodes that failed or wait as lost)``, in the order in which the causes first appear."""
    groups: dict[str, list[int]] = {}
    for node in sorted([*workflow.nodes.all_in(NodeState.FAILED), *lost_nodes(workflow)]):
        groups.setdefault(fingerprint_of(workflow, node), []).append(node)
    return list(groups.items())


def fingerprint_of(workflow: RunningWorkflow, node: int) -> str:
    """Return what failures of one cause have in common, of a node that failed or is held because its task was lost."""
    if workflow.states[node] == NodeState.HELD:
        return fingerprint_of_lost(workflow.errors.get(node, ""))
    return workflow.fingerprints.get(node, "unknown")


def lost_nodes(workflow: RunningWorkflow) -> list[int]:
    """Return the nodes that are held because their tasks were lost."""
    return sorted(node for node, hold in workflow.holds.items() if hold.reason is HoldReason.LOST)
