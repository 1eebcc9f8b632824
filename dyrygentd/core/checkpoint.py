"""Flat records of what must survive a crash, and the way back from them.

A workflow's record holds its definition once; node records are written only for nodes that are no longer waiting, or were
not for a while, so a submission costs one row whatever its size. Becoming ready is not recorded by itself: it follows from the
states of the dependencies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from dyrygentd.core.graph import Graph
from dyrygentd.core.policy import PLAIN_WORKFLOW, OnFailure, WorkflowPolicy
from dyrygentd.core.states import NODE_STATE_OF_WORD, NodeState, WorkflowState
from dyrygentd.core.workflow import UNNEEDED, Live, RunningWorkflow

_WORDS: Final = tuple(state.word for state in NodeState)


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """The durable part of a workflow.

    Attributes:
        document: The definition; None in records that only update a workflow that is stored already.
        counts: ``{state word: number of nodes}`` when it finished.
        result: JSON text of the output's value, when it finished and the value could be kept.
        error: Why there is no result, or why the workflow is broken.
        priority: As it was last set.
        run: How often it was set running again after a cancel.
        deadline_at: When it is over, 0 for never.
        is_stopped: Whether a failure or the deadline has ended it.
        owner: Number of the user who submitted it; None if nobody can tell.
    """

    workflow_id: str
    name: str
    key: str | None
    labels: Mapping[str, str]
    state: WorkflowState
    created_at: float
    finished_at: float | None = None
    document: bytes | None = None
    task_count: int = 0
    counts: Mapping[str, int] | None = None
    result: bytes | None = None
    error: str = ""
    priority: int = 0
    run: int = 0
    deadline_at: float = 0.0
    is_stopped: bool = False
    owner: int | None = None

    def following(self, earlier: "WorkflowRecord | None") -> "WorkflowRecord":
        """Return this record with the definition of an ``earlier`` one that has not reached the disk yet."""
        if earlier is None or self.document is not None:
            return self
        return replace(self, document=earlier.document)


class NodeRecord(NamedTuple):
    """The durable part of a node; see `Live` and `RunningWorkflow` for the fields.

    A named tuple, since one is made for each change of a node: a frozen dataclass of so many fields takes three times as long.
    """

    workflow_id: str
    node: int
    state: str
    attempt: int
    dispatched_at: float
    finished_at: float
    held_until: float
    blocked_by: int | None
    error: str
    value: bytes | None
    reason: str = ""
    is_on_hold: bool = False
    failures: int = 0
    polling_since: float = 0.0
    cause: str = ""
    late: str = ""
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What somebody did to a workflow.

    Attributes:
        by: Who, as far as it is known.
        why: What they gave as the reason.
        nodes: Names of the nodes that it changed, the first few of them.
        count: How many it changed.
        detail: Further words, such as the new priority.
    """

    workflow_id: str
    at: float
    verb: str
    by: str
    why: str = ""
    nodes: tuple[str, ...] = ()
    count: int = 0
    detail: str = ""


def workflow_record(workflow: RunningWorkflow, *, document: bytes | None = None) -> WorkflowRecord:
    """Return what is to be stored of ``workflow`` itself."""
    finished = workflow.state.is_finished
    return WorkflowRecord(
        workflow_id=workflow.workflow_id,
        name=workflow.name,
        key=workflow.key,
        labels=workflow.labels,
        state=workflow.state,
        created_at=workflow.created_at,
        finished_at=workflow.finished_at,
        document=document,
        task_count=workflow.graph.task_count,
        counts=workflow.counts_by_word() if finished else None,
        result=workflow.result if finished else None,
        error=workflow.error,
        priority=workflow.priority,
        run=workflow.run,
        deadline_at=workflow.deadline_at,
        is_stopped=workflow.is_stopped,
        owner=workflow.owner,
    )


def node_record(workflow: RunningWorkflow, node: int) -> NodeRecord:
    """Return what is to be stored of one node."""
    value, hold = workflow.values.get(node), workflow.holds.get(node) if workflow.holds else None
    return NodeRecord(
        workflow.workflow_id,
        node,
        _WORDS[workflow.states[node]],
        workflow.attempt_of(node),
        workflow.dispatched_at[node],
        workflow.settled_at[node],
        0.0 if hold is None else hold.until,
        workflow.blocked_by.get(node),
        workflow.errors.get(node, ""),
        None if value is None else value.content,
        hold.reason.value if hold is not None else UNNEEDED if node in workflow.unneeded else "",
        node in workflow.on_hold,
        workflow.failures.get(node, 0),
        workflow.polling_since.get(node, 0.0),
        workflow.causes.get(node, ""),
        workflow.late.get(node, ""),
        node in workflow.stale,
    )


def restore(
    record: WorkflowRecord,
    nodes: Iterable[NodeRecord],
    graph: Graph,
    *,
    now: float,
    value_bytes_max: int,
    policy: WorkflowPolicy = PLAIN_WORKFLOW,
) -> RunningWorkflow:
    """Rebuild a workflow from its records; the nodes that are free to go become ready again."""
    workflow = RunningWorkflow(
        workflow_id=record.workflow_id,
        name=record.name,
        key=record.key,
        labels=record.labels,
        graph=graph,
        created_at=record.created_at,
        value_bytes_max=value_bytes_max,
        policy=policy,
        owner=record.owner,
    )
    workflow.priority, workflow.run, workflow.deadline_at = record.priority, record.run, record.deadline_at
    workflow.is_stopped = record.is_stopped
    live = [
        Live(
            node=row.node,
            state=NODE_STATE_OF_WORD[row.state],
            attempt=row.attempt,
            dispatched_at=row.dispatched_at,
            settled_at=row.finished_at,
            held_until=row.held_until,
            blocked_by=row.blocked_by,
            error=row.error,
            value=row.value,
            reason=row.reason,
            is_on_hold=row.is_on_hold,
            failures=row.failures,
            polling_since=row.polling_since,
            cause=row.cause,
            late=row.late,
            is_stale=row.is_stale,
        )
        for row in nodes
    ]
    workflow.resume(live, state=record.state, finished_at=record.finished_at, now=now)
    if workflow.state.is_finished or not workflow.error:
        workflow.result, workflow.error = record.result, record.error
    return workflow


def adopt(workflow: RunningWorkflow, states: Mapping[int, NodeState], now: float) -> None:
    """Begin a workflow of which a part was done, or sent, before it was submitted.

    Values are not adopted. A node that succeeded has failed here if somebody still takes its value: an operator may have it run
    again, or skip it with the value.
    """
    lacking = {node for node in states if _lacks_value(workflow.graph, states, node)}
    states = {node: NodeState.FAILED if node in lacking else state for node, state in states.items()}
    errors = {
        node: _NOT_ADOPTED if node in lacking else _FAILED_BEFORE for node, state in states.items() if state is NodeState.FAILED
    }
    workflow.resume(
        [
            Live(
                node=node,
                state=state,
                attempt=1,
                dispatched_at=now,
                settled_at=now if state.is_settled else 0.0,
                error=errors.get(node, ""),
            )
            for node, state in states.items()
        ],
        now=now,
    )
    workflow.changed.update(states)
    if workflow.policy.on_failure is OnFailure.STOP and errors:
        workflow.stop(now)


def _lacks_value(graph: Graph, states: Mapping[int, NodeState], node: int) -> bool:
    """Tell whether a node that succeeded before has a value that a task is still to be given."""
    return states[node] is NodeState.SUCCEEDED and any(
        dependent not in states and graph.takes_input(dependent) and (graph.is_task(dependent) or graph.feeds_tasks[dependent])
        for dependent in graph.dependents(node)
    )


_FAILED_BEFORE: Final = "it had failed before this workflow was adopted"
_NOT_ADOPTED: Final = (
    "it had succeeded before this workflow was adopted, but its value is not here: retry it, or skip it with the value"
)
