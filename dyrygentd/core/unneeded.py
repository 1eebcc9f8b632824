"""Why a node was not needed: its condition did not hold, its rule or its task said so, or what it is behind was not needed."""

from typing import Final

from dyrygentd.core.section_words import words_of_unneeded_end
from dyrygentd.core.workflow import RunningWorkflow

#: Steps that are followed back to the node with which it began.
_STEPS_BACK_MAX: Final = 1000


def words_of_unneeded(workflow: RunningWorkflow, node: int) -> tuple[str, str]:
    """Return why a node was not needed, and what a person can do."""
    names, error = workflow.graph.names, workflow.errors.get(node, "")
    if node in workflow.graph.choices.provisos and error:
        return f"was not needed: {error}", _ask_again(workflow, node)
    ended = words_of_unneeded_end(workflow, node)
    if ended:
        return f"was not needed: {ended}", ""
    if error:
        return f"was not needed: its task said so: {error}", "`rerun --from NODE` runs it again"
    first = node
    for _ in range(_STEPS_BACK_MAX):
        before = next((other for other in workflow.graph.dependencies(first) if other in workflow.unneeded), None)
        if before is None:
            break
        first = before
    if first == node:
        # What ends a section is decided with that.
        step = "`rerun --from NODE` decides anew" if workflow.graph.policy(node).section_end is None else ""
        return "was not needed: its rule or its task said so", step
    why = f": {workflow.errors[first]}" if first in workflow.errors else ""
    asked = (
        _ask_again(workflow, first) if first in workflow.graph.choices.provisos else f"`rerun --from {names[first]}` decides anew"
    )
    return f"was not needed, since '{names[first]}' was not{why}", asked


def next_step_of_undecided(workflow: RunningWorkflow, node: int) -> str:
    """Return what a person can do about a node whose condition cannot be decided."""
    return f"{_ask_again(workflow, node)}, `skip NODE` goes on without it"


def _ask_again(workflow: RunningWorkflow, node: int) -> str:
    deciders = workflow.graph.choices.deciders.get(node, ())
    if not deciders:
        return "submit it with other values"
    return f"`rerun --from {workflow.graph.names[deciders[0]]}` decides anew"
