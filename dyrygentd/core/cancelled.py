"""What can be done about a node that was cancelled: work that is done is not done again, and no node goes alone.

A retry or skip of a node sets all going that was cancelled behind it, so only the first of them has a command.
"""

from collections.abc import Sequence
from typing import Final

from dyrygentd.core.policy import Rule
from dyrygentd.core.states import BAD, NodeState
from dyrygentd.core.workflow import RunningWorkflow

#: As the engine notes how a task ended without which its node had gone on.
_SUCCEEDED: Final = "succeeded"
#: Rules by which a node is blocked as soon as one dependency has not succeeded.
_NEEDS_ALL: Final = frozenset({Rule.ALL_SUCCEEDED, Rule.NONE_FAILED})
#: Steps back to what was stopped first; longer ways are cut.
STEPS_BACK_MAX: Final = 100_000
#: What those have in common each of which has a value of its own.
_WITH_VALUE: Final = "value "
#: Nodes with values of their own that are told one by one.
_APART_MAX: Final = 5


def words_of_cancelled(workflow: RunningWorkflow, node: int) -> tuple[str, str]:
    """Return the words and the next step for a cancelled node."""
    late = workflow.attempts.late.get(node)
    if late == _SUCCEEDED:
        text = f"was cancelled; its task ended as {late} later"
        if not workflow.graph.feeds_tasks[node]:
            return text, "`skip NODE` goes on without running it again"
        text += f"; others take what it has returned, the result of task {workflow.attempts.task_id_of(node)}"
        return text, "`skip NODE --value null` goes on without running it again"
    if late:
        return f"was cancelled; its task ended as {late} later", "`retry NODE` runs it"
    first = _stopped_before(workflow, node)
    if first == node:
        return "was cancelled", "`retry NODE` runs it"
    name, verb = workflow.graph.names[first], "skip" if workflow.attempts.late.get(first) == _SUCCEEDED else "retry or skip"
    alone = "; alone it would end as blocked" if workflow.graph.policy(node).rule in _NEEDS_ALL else ""
    return f"was cancelled, and waits for '{name}', which has not succeeded", f"{verb} '{name}', and it goes on after that{alone}"


def _stopped_before(workflow: RunningWorkflow, node: int) -> int:
    """Follow a cancelled node back to the first that has to be retried or skipped, with which it is set going, too."""
    for _ in range(STEPS_BACK_MAX):  # pragma: no branch - nobody waits for a test of so long a way
        following = next((other for other in waited_for(workflow, node) if workflow.state_of(other) in BAD), None)
        if following is None:
            break
        node = following
    return node


def group_of_cancelled(workflow: RunningWorkflow, node: int) -> tuple[str, str]:
    """Return ``(order, what they have in common)``: how tasks ended late, then what waits for others that did not succeed."""
    word, late = NodeState.CANCELLED.word, workflow.attempts.late.get(node, "")
    if late == _SUCCEEDED and workflow.graph.feeds_tasks[node]:
        # Each has a value of its own; of very many only the first is told.
        return word, f"{_WITH_VALUE}{node if len(workflow.attempts.late) <= _APART_MAX else ''}"
    if not late and any(workflow.state_of(other) in BAD for other in waited_for(workflow, node)):
        return f"{word} behind others", ""
    return word, late


def cancelled_by_cause(workflow: RunningWorkflow) -> dict[str, list[int]]:
    """Return the cancelled nodes by what they have in common, so that one command can be for all of a group."""
    groups: dict[str, list[int]] = {}
    for node in workflow.nodes.all_in(NodeState.CANCELLED):
        groups.setdefault(fingerprint_of_cancelled(workflow, node), []).append(node)
    return groups


def fingerprint_of_cancelled(workflow: RunningWorkflow, node: int) -> str:
    """Return what a cancelled node has in common with others, whatever its name; no failure has a fingerprint that begins so."""
    kind, common = group_of_cancelled(workflow, node)
    return f"{kind}: value" if common.startswith(_WITH_VALUE) else f"{kind}: {common}"


def waited_for(workflow: RunningWorkflow, node: int) -> Sequence[int]:
    """Return what a node waits for: a hook for everything but hooks, what ends a section for the rest of that."""
    graph = workflow.graph
    if graph.policy(node).hook is None:
        return graph.dependencies(node) if graph.policy(node).section_end is None else [*dict.fromkeys(graph.waited_for(node))]
    hooks = set(graph.hooks)
    return [other for other in range(len(graph)) if other not in hooks]
