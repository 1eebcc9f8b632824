"""Nodes whose task never ran, and what Celery's result backend is to be told under their task ids.

Whoever holds an `AsyncResult` of such a task would wait for ever: no worker will store anything. What is told is derived from how
the node stands, so it needs no storage, and after a crash it is derived again:

- *blocked*: the failure of the node that is to blame, as Celery hands it on in a chain; behind a join Celery's
  ``ChordError``, but for a group.
- *cancelled before it was sent*: REVOKED, and so is one that was not needed because what precedes it asked to be ignored.
- *failed before it was sent* (the message could not be built, it had expired): that failure.
- *skipped by an operator before it was sent*: the value they gave. Nothing ever takes the place of a stored success, so another
  run of such a node has another task id (`dyrygentd.core.reopening`); all others keep theirs, and their run overwrites this.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from dyrygentd.core.deciding import UNDECIDED
from dyrygentd.core.policy import Rule
from dyrygentd.core.states import BAD, NodeState

if TYPE_CHECKING:
    from dyrygentd.core.graph import Graph
    from dyrygentd.core.workflow import RunningWorkflow

#: Fingerprints of failures that came before the message was sent.
_UNSENT: Final = frozenset({"refused", "Expired"})
#: Dependents of a join that are looked at: joins of error callbacks are among them, and a body.
_LOOKED_AT_MAX: Final = 8
_CANCELLED: Final = "the workflow was cancelled before the task was sent"
_UNNEEDED: Final = "the task was not needed and never sent"


class Told(StrEnum):
    """What is told, as Celery calls it."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"


class StoreOutcome(NamedTuple):
    """Tell the result backend how a task ended that never ran.

    Attributes:
        reason: In one line; of a failure ``Exception: words`` if it has the name of one.
        to_blame: Task id of which this is the failure, empty if it is its own.
        is_chord: It waits for several, one of which is to blame.
        value: JSON text of a success.
    """

    task_id: str
    told: Told
    reason: str = ""
    to_blame: str = ""
    is_chord: bool = False
    value: bytes = b"null"


def is_unrun(workflow: "RunningWorkflow", node: int) -> bool:
    """Tell whether a node has finished, its task never ran, and somebody may wait for it."""
    graph, state = workflow.graph, workflow.state_of(node)
    if not graph.is_task(node):
        return False
    if state is NodeState.FAILED:
        cause = workflow.fingerprints.get(node, "")
        return cause in _UNSENT or cause.startswith(UNDECIDED)
    if state not in (NodeState.BLOCKED, NodeState.CANCELLED, NodeState.SKIPPED) or workflow.attempts.of(node):
        return False
    # Hooks and what is there for failures have nobody who waits for them, and are not needed as a rule.
    policy = graph.policy(node)
    return not policy.is_told_the_end and not (node in workflow.unneeded and policy.rule is Rule.ANY_FAILED)


def outcome_of(workflow: "RunningWorkflow", node: int) -> StoreOutcome | None:
    """Return what is to be told of a node as it stands now, None if nothing is."""
    if not is_unrun(workflow, node):
        return None
    task_id = workflow.attempts.task_id_of(node)
    match workflow.state_of(node):
        case NodeState.SKIPPED if node not in workflow.unneeded:
            value = workflow.values.by_node.get(node)
            return StoreOutcome(task_id, Told.SUCCESS, value=b"null" if value is None else value.content)
        case NodeState.SKIPPED:
            return StoreOutcome(task_id, Told.REVOKED, _UNNEEDED)
        case NodeState.CANCELLED:
            return StoreOutcome(task_id, Told.REVOKED, workflow.error if workflow.is_stopped and workflow.error else _CANCELLED)
        case NodeState.FAILED:
            reason = workflow.errors.get(node, "it was not sent")
            return StoreOutcome(task_id, Told.REVOKED if workflow.fingerprints.get(node) == "Expired" else Told.FAILURE, reason)
    return _blocked(workflow, node, task_id)


def _is_fan(graph: "Graph", join: int) -> bool:
    """Tell whether several tasks follow a join: each member of a group that is a chord's body gets the error itself."""
    dependents = graph.first_dependents(join, _LOOKED_AT_MAX)
    return len(dependents) == _LOOKED_AT_MAX or sum(map(graph.is_task, dependents)) > 1


def _blocked(workflow: "RunningWorkflow", node: int, task_id: str) -> StoreOutcome:
    graph, blame = workflow.graph, workflow.blocked_by.get(node, node)
    reason = workflow.errors.get(blame) or f"'{graph.names[blame]}' was {workflow.state_of(blame).word}"
    first_bad = next((other for other in graph.dependencies(node) if workflow.states[other] in BAD), node)
    is_chord = graph.input_count(node) > 1 or (graph.is_join(first_bad) and not _is_fan(graph, first_bad))
    told = Told.REVOKED if workflow.state_of(blame) is NodeState.CANCELLED else Told.FAILURE
    return StoreOutcome(task_id, told, reason, workflow.attempts.task_id_of(blame), is_chord)
