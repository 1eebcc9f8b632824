"""What a failed node was given null for: an operator had skipped what would have told a value."""

from typing import Final

from dyrygentd.core.states import NodeState
from dyrygentd.core.workflow import RunningWorkflow

#: Dependencies looked at, those of joins among them; what comes behind them is not told.
_LOOKED_AT_MAX: Final = 10_000


def given_null_for(workflow: RunningWorkflow, node: int) -> list[int]:
    """Return the skipped nodes whose value a node takes, directly or through joins, and for which it gets null."""
    if not workflow.graph.takes_input(node):
        return []
    found, stack, seen = [], [node], {node}
    while stack and len(seen) < _LOOKED_AT_MAX:
        for dependency in workflow.graph.inputs(stack.pop()):
            if dependency in seen:
                continue
            seen.add(dependency)
            if workflow.state_of(dependency) is NodeState.SKIPPED:
                if dependency not in workflow.unneeded and _is_null(workflow, dependency):
                    found.append(dependency)
            elif workflow.graph.is_join(dependency):
                stack.append(dependency)
    return sorted(found)


def _is_null(workflow: RunningWorkflow, node: int) -> bool:
    value = workflow.values.by_node.get(node)
    return value is not None and value.content == b"null"


def words_of_given_null(workflow: RunningWorkflow, node: int) -> tuple[str, str]:
    """Return what is told of a failed node beside its error, and its next steps; empty if it was given null for nothing."""
    found = given_null_for(workflow, node)
    if not found:
        return "", ""
    name = workflow.graph.names[found[0]]
    more, were = (f" and {len(found) - 1:,} more", "were") if len(found) > 1 else ("", "was")
    # The value of what is skipped cannot be changed. As soon as it is to run again, it can be skipped with another one.
    step = (
        f"`rerun --from {name}` runs what was skipped, and then this, `skip NODE` goes on without it"
        f", a retry ends in the same way; or else rerun '{name}', and skip it with `--value JSON` before it ends"
    )
    return f"; it was given null for '{name}'{more}, which {were} skipped", step
