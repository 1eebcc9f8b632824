"""What goes on only when a person says so."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from dyrygentd.core.notes import HoldReason
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.workflow import RunningWorkflow

#: What only a person ends, in the order in which it is told.
FOR_PEOPLE: Final = (HoldReason.LOST, HoldReason.GATE, HoldReason.OPERATOR)


def waits_for_person(workflow: RunningWorkflow) -> dict[str, int]:
    """Count the nodes of a workflow that go on only when somebody says so, by what holds them."""
    if not workflow.holds:
        return {}
    held = Counter([hold.reason for hold in workflow.holds.values()])
    return {reason.value: held[reason] for reason in FOR_PEOPLE if held[reason]}


def people_wanted(workflows: Iterable[RunningWorkflow]) -> dict[str, int]:
    """Count what waits for a person in all workflows: nodes by what holds them, and whole workflows that are ``paused``."""
    wanted = Counter[str]()
    for workflow in workflows:
        if workflow.holds:
            wanted.update(waits_for_person(workflow))
        if workflow.state is WorkflowState.PAUSED:
            wanted["paused"] += 1
    return {word: wanted[word] for word in (*FOR_PEOPLE, "paused") if wanted[word]}


def waits_since(workflow: RunningWorkflow, node: int) -> float:
    """Return since when a node waits: since the last of what it depends on has ended."""
    begun = max(workflow.origin.created_at, workflow.policy.start_at)
    return max((workflow.nodes.finished_at[other] for other in workflow.graph.dependencies(node)), default=0.0) or begun


def gate_since(workflow: RunningWorkflow, node: int) -> float | None:
    """Return since when a gate waits for its release; None of everything else."""
    hold = workflow.holds.get(node)
    return waits_since(workflow, node) if hold is not None and hold.reason is HoldReason.GATE else None
