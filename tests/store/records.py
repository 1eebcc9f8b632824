"""Records to save, with every field set to something that a round trip could lose."""

from dataclasses import replace
from typing import Any

from dyrygentd.core.records import NodeRecord, WorkflowRecord
from dyrygentd.core.states import WorkflowState


def workflow(workflow_id: str, **fields: Any) -> WorkflowRecord:
    """A running workflow that was just submitted."""
    record = WorkflowRecord(
        workflow_id=workflow_id,
        name=f"name of {workflow_id}",
        key=f"key of {workflow_id}",
        labels={"cluster": "gra1", "who": "żółw"},
        state=WorkflowState.RUNNING,
        created_at=1700000000.25,
        document=b'{"nodes": []}',
        task_count=3,
    )
    return replace(record, **fields)


def finished(record: WorkflowRecord, state: WorkflowState = WorkflowState.SUCCEEDED, **fields: Any) -> WorkflowRecord:
    """The record that ends a workflow, as the engine makes it: without a document."""
    end: dict[str, Any] = {"finished_at": 1700000100.5, "counts": {"succeeded": 3}, "document": None}
    return replace(record, state=state, **(end | fields))


def node(workflow_id: str, number: int, **fields: Any) -> NodeRecord:
    """A node that has succeeded with a value."""
    record = NodeRecord(
        workflow_id=workflow_id,
        node=number,
        state="succeeded",
        attempt=1,
        dispatched_at=1700000001.125,
        finished_at=1700000002.5,
        held_until=0.0,
        blocked_by=None,
        error="",
        value=b'{"a": [1, "\xc4\x85"]}',
    )
    return record._replace(**fields)
