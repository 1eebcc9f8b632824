"""What is told of the end of a workflow: to its hooks, and as its error. Pure reading; one look at the nodes for each hook."""

import json
from collections.abc import Sequence
from typing import Final, Protocol

from dyrygentd.core.graph import Graph
from dyrygentd.core.node_states import NodeStates
from dyrygentd.core.origin import Origin
from dyrygentd.core.states import NodeState, WorkflowState

#: Failures named in the summary that a hook gets.
_FAILURES_MAX: Final = 20
#: Characters of a workflow's error.
_ERROR_LENGTH_MAX: Final = 1000


class Ending(Protocol):
    """What is told is read from: a `RunningWorkflow`, which asks for it at its end."""

    workflow_id: str
    name: str
    origin: Origin
    graph: Graph
    nodes: NodeStates
    error: str
    errors: dict[int, str]
    fingerprints: dict[int, str]

    def state_of(self, node: int) -> NodeState:
        """Return the state of a node."""


def summary_of(workflow: Ending, hook: int) -> bytes:
    """Return how what a hook waits for has ended, as JSON text: the workflow without its hooks, or a section without its own."""
    names, hooks, counts = workflow.graph.names, set(workflow.graph.hooks), workflow.nodes.sections
    failed = [node for node in workflow.nodes.all_in(NodeState.FAILED) if node not in hooks]
    has_failed, error, section = workflow.nodes.has_failed_work, workflow.error or first_failure_of(workflow), {}
    if counts is not None and hook in counts.ends.ended_by:
        scope = counts.ends.ended_by[hook]
        failed = [node for node in failed if counts.ends.has(scope, node)]
        has_failed, error = bool(counts.bad[scope]), first_failure_of(workflow, failed)
        section = {"section": counts.ends.paths[scope]}
    return json.dumps(
        {
            "workflow_id": workflow.workflow_id,
            "name": workflow.name,
            "labels": dict(workflow.origin.labels),
            **section,
            "state": (WorkflowState.FAILED if has_failed else WorkflowState.SUCCEEDED).value,
            "error": error,
            "failures": len(failed),
            "failed": [{"node": names[node], "error": workflow.errors.get(node, "")} for node in failed[:_FAILURES_MAX]],
        }
    ).encode()


def first_failed_of(workflow: Ending, failed: Sequence[int] | None = None) -> int | None:
    """Return the node that failed first, None if none did; of all nodes this costs a look at each that has an error."""
    if failed is None:
        failed = [node for node in workflow.fingerprints if workflow.state_of(node) is NodeState.FAILED]
        failed += [
            node for node in workflow.errors if node not in workflow.fingerprints and workflow.state_of(node) is NodeState.FAILED
        ]
    return min(failed, key=lambda node: (workflow.nodes.finished_at[node], node), default=None)


def first_failure_of(workflow: Ending, failed: Sequence[int] | None = None) -> str:
    """Return in one line what failed first, empty if nothing did."""
    first = first_failed_of(workflow, failed)
    if first is None:
        return ""
    reason = workflow.errors.get(first) or workflow.fingerprints.get(first, "for no known cause")
    text = f"'{workflow.graph.names[first]}' failed: {reason}"
    return text if len(text) <= _ERROR_LENGTH_MAX else f"{text[: _ERROR_LENGTH_MAX - 1]}…"


def is_enough(workflow: Ending) -> bool:
    """Tell whether a map has its list although some of it failed: so many members succeeded as were asked for."""
    output = workflow.graph.output
    return (
        output is not None
        and workflow.graph.policy(output).succeeded_min is not None
        and workflow.state_of(output) is NodeState.SUCCEEDED
    )
