"""Flat records of what must survive a crash, and the way back from them.

A workflow's record holds its definition once; node records are written only for nodes that are no longer waiting, or were
not for a while, so a submission costs one row whatever its size. Becoming ready is not recorded by itself: it follows from the
states of the dependencies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from dyrygentd.core.graph import Graph
from dyrygentd.core.ids import OF_OLD, SOME_FROM_OUTSIDE
from dyrygentd.core.notes import UNNEEDED, Hold, HoldReason
from dyrygentd.core.origin import Origin
from dyrygentd.core.policy import PLAIN_WORKFLOW, OnFailure, WorkflowPolicy
from dyrygentd.core.records import NodeRecord, WorkflowRecord
from dyrygentd.core.series import IfRunning, Series
from dyrygentd.core.start import Start
from dyrygentd.core.states import FINISHED, NODE_STATE_OF_WORD, NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow

_WORDS: Final = tuple(state.word for state in NodeState)
#: When and where an attempt began of which nobody told.
_UNTOLD: Final = (0.0, "")


def workflow_record(workflow: RunningWorkflow, *, document: bytes | None = None) -> WorkflowRecord:
    """Return what is to be stored of ``workflow`` itself."""
    finished, series = workflow.state.is_finished, workflow.origin.series
    return WorkflowRecord(
        workflow_id=workflow.workflow_id,
        name=workflow.name,
        key=workflow.origin.key,
        labels=workflow.origin.labels,
        state=workflow.state,
        created_at=workflow.origin.created_at,
        finished_at=workflow.finished_at,
        document=document,
        task_count=workflow.graph.task_count,
        counts=workflow.nodes.counts_by_word() if finished else None,
        result=workflow.result if finished else None,
        error=workflow.error,
        priority=workflow.priority,
        run=workflow.run,
        deadline_at=workflow.deadline_at,
        is_stopped=workflow.is_stopped,
        owner=workflow.origin.owner,
        routes=dict(workflow.attempts.routes),
        ids=workflow.attempts.ids,
        digest=workflow.origin.digest,
        names=workflow.graph.names if document is not None else (),
        started_early_at=workflow.start.early_at,
        parent_task=workflow.origin.parent_task,
        parent=workflow.origin.parent,
        series="" if series is None else series.name,
        if_running="" if series is None else series.if_running.value,
        queued_behind="" if finished else workflow.start.behind,
    )


def node_record(workflow: RunningWorkflow, node: int) -> NodeRecord:
    """Return what is to be stored of one node."""
    value = workflow.values.by_node.get(node)
    if not workflow.has_notes:
        # What most records are; looking for each of the notes takes as long as all the rest.
        return NodeRecord(
            workflow.workflow_id,
            node,
            _WORDS[workflow.states[node]],
            workflow.attempts.of(node),
            workflow.attempts.dispatched_at[node],
            workflow.nodes.finished_at[node],
            0.0,
            None,
            "",
            None if value is None or value.is_derived else value.content,
        )
    hold = workflow.holds.get(node) if workflow.holds else None
    return NodeRecord(
        workflow.workflow_id,
        node,
        _WORDS[workflow.states[node]],
        workflow.attempts.of(node),
        workflow.attempts.dispatched_at[node],
        workflow.nodes.finished_at[node],
        0.0 if hold is None else hold.until,
        workflow.blocked_by.get(node),
        workflow.errors.get(node, ""),
        None if value is None or value.is_derived else value.content,
        hold.reason.value if hold is not None else UNNEEDED if node in workflow.unneeded else "",
        node in workflow.on_hold,
        workflow.attempts.failures.get(node, 0),
        workflow.attempts.polling_since.get(node, 0.0),
        workflow.fingerprints.get(node, ""),
        workflow.attempts.late.get(node, ""),
        node in workflow.stale,
        workflow.attempts.sent_to.get(node, "") if workflow.attempts.sent_to else "",
        *(workflow.attempts.told.get(node, _UNTOLD) if workflow.attempts.told else _UNTOLD),
        workflow.attempts.earlier.get(node, ()) if workflow.attempts.earlier else (),
        workflow.attempts.generations.get(node, 0) if workflow.attempts.generations else 0,
        workflow.attempts.additions.record(node) if workflow.attempts.additions else (),
        workflow.values.behind.get(node, b"").decode() if workflow.values.behind else "",
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
        graph=graph,
        origin=Origin(
            record.created_at,
            record.key,
            record.digest,
            record.labels,
            record.owner,
            record.parent_task,
            record.parent,
            Series(record.series, IfRunning(record.if_running or IfRunning.ALLOW)) if record.series else None,
        ),
        value_bytes_max=value_bytes_max,
        policy=replace(policy, start_at=record.started_early_at) if record.started_early_at else policy,
    )
    workflow.start, workflow.is_stopped = Start(record.started_early_at, record.queued_behind), record.is_stopped
    workflow.priority, workflow.run, workflow.deadline_at = record.priority, record.run, record.deadline_at
    workflow.attempts.ids, workflow.attempts.routes = record.ids, dict(record.routes)
    rows = list(nodes)
    _read_back(workflow, rows, state=record.state, finished_at=record.finished_at, now=now)
    if workflow.attempts.ids == OF_OLD and all(row.attempt <= 1 for row in rows):
        # No attempt was named in the old way, which can be guessed; the next ones are named in the new one.
        workflow.attempts.ids, workflow.is_changed = SOME_FROM_OUTSIDE, True
    if workflow.state.is_finished or not workflow.error:  # pragma: no branch - a guard: it has none of its own yet
        workflow.result, workflow.error = record.result, record.error
    return workflow


def _read_back(
    workflow: RunningWorkflow,
    rows: Iterable[NodeRecord],
    *,
    state: WorkflowState = WorkflowState.RUNNING,
    finished_at: float | None = None,
    now: float,
) -> None:
    """Take the states from stored rows instead of starting from the beginning."""
    values: dict[int, bytes] = {}
    behind: dict[int, bytes] = {}
    workflow.ready.since = now
    for row in rows:
        state_of_row = NODE_STATE_OF_WORD[row.state]
        is_free = state_of_row is NodeState.READY or row.reason == HoldReason.POOL
        workflow.nodes.place(row.node, NodeState.READY if is_free else state_of_row)
        _read_details(workflow, row)
        if is_free:
            workflow.ready.push(row.node)
        if row.value is not None:
            values[row.node] = row.value
        if row.behind:
            behind[row.node] = row.behind.encode()
        if state_of_row in FINISHED:
            for dependent in workflow.graph.dependents(row.node):
                workflow.nodes.unmet[dependent] -= 1
    workflow.state, workflow.finished_at = state, finished_at
    workflow.values.restore(values, behind)
    if state.is_finished:
        workflow.has_begun = True
    else:
        workflow.begin(now)


def _read_details(workflow: RunningWorkflow, row: NodeRecord) -> None:
    node = row.node
    workflow.attempts.read_back(row)
    workflow.nodes.finished_at[node] = row.finished_at
    if row.error:
        workflow.errors[node] = row.error
    if row.fingerprint:
        workflow.fingerprints[node] = row.fingerprint
    if row.failures and row.fingerprint and NODE_STATE_OF_WORD[row.state] not in FINISHED:
        workflow.attempts.tried_again.failed(node, row.fingerprint, row.error, row.failures)
    if row.blocked_by is not None:
        workflow.blocked_by[node] = row.blocked_by
    if row.is_on_hold:
        workflow.on_hold.add(node)
    if row.generation:
        workflow.attempts.generations[node] = row.generation
    if row.added:
        workflow.attempts.additions.read_back(node, row.added)
    if row.is_stale:
        workflow.stale.add(node)
    if workflow.states[node] in (NodeState.HELD, NodeState.RETRYING):
        workflow.holds[node] = Hold(HoldReason(row.reason or HoldReason.TIME), row.held_until)
    elif workflow.states[node] == NodeState.SKIPPED and row.reason == UNNEEDED:
        workflow.unneeded.add(node)


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
    _read_back(
        workflow,
        [
            NodeRecord(
                workflow.workflow_id,
                node,
                state.word,
                attempt=1,
                dispatched_at=now,
                finished_at=now if state.is_finished else 0.0,
                held_until=0.0,
                blocked_by=None,
                error=errors.get(node, ""),
                value=None,
            )
            for node, state in states.items()
        ],
        now=now,
    )
    workflow.nodes.changed.update(states)
    if workflow.policy.on_failure is OnFailure.STOP and errors:
        workflow.stop(now)


def _lacks_value(graph: Graph, states: Mapping[int, NodeState], node: int) -> bool:
    """Tell whether a node that succeeded before has a value that a task is still to be given."""
    return states[node] is NodeState.SUCCEEDED and any(
        dependent not in states
        and graph.wants(dependent, node)
        and (graph.is_task(dependent) or graph.is_child(dependent) or graph.feeds_tasks[node])
        for dependent in graph.dependents(node)
    )


_FAILED_BEFORE: Final = "it had failed before this workflow was adopted"
_NOT_ADOPTED: Final = (
    "it had succeeded before this workflow was adopted, but its value is not here: retry it, or skip it with the value"
)
