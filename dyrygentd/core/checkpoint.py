"""Flat records of what must survive a crash, and the way back from them.

A workflow's record holds its definition once; node records are written only for nodes that are no longer waiting, so a
submission costs one row whatever its size. Ready is not recorded: it follows from the states of the dependencies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dyrygentd.core.graph import Graph
from dyrygentd.core.states import NODE_STATE_OF_WORD, NodeState, WorkflowState
from dyrygentd.core.workflow import Live, RunningWorkflow


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """The durable part of a workflow.

    Attributes:
        document: The definition; None in records that only update a workflow that is stored already.
        counts: ``{state word: number of tasks}`` when it finished.
        result: JSON text of the output's value, when it finished and the value could be kept.
        error: Why there is no result, or why the workflow is broken.
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

    def following(self, earlier: "WorkflowRecord | None") -> "WorkflowRecord":
        """Return this record with the definition of an ``earlier`` one that has not reached the disk yet."""
        if earlier is None or self.document is not None:
            return self
        return replace(self, document=earlier.document)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """The durable part of a node."""

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
    )


def node_record(workflow: RunningWorkflow, node: int) -> NodeRecord:
    """Return what is to be stored of one node."""
    value = workflow.values.get(node)
    return NodeRecord(
        workflow_id=workflow.workflow_id,
        node=node,
        state=workflow.state_of(node).word,
        attempt=workflow.attempt_of(node),
        dispatched_at=workflow.dispatched_at[node],
        finished_at=workflow.settled_at[node],
        held_until=workflow.held_until.get(node, 0.0),
        blocked_by=workflow.blocked_by.get(node),
        error=workflow.errors.get(node, ""),
        value=None if value is None else value.content,
    )


def restore(
    record: WorkflowRecord, nodes: Iterable[NodeRecord], graph: Graph, *, now: float, value_bytes_max: int
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
    )
    live = [
        Live(
            node=row.node,
            state=NODE_STATE_OF_WORD[row.state],
            dispatched_at=row.dispatched_at,
            settled_at=row.finished_at,
            held_until=row.held_until,
            blocked_by=row.blocked_by,
            error=row.error,
            value=row.value,
        )
        for row in nodes
        if row.state != NodeState.WAITING.word
    ]
    workflow.resume(live, state=record.state, finished_at=record.finished_at, now=now)
    workflow.result, workflow.error = record.result, record.error
    return workflow
