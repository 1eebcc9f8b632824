"""A timeline as clients see it."""

import pytest

from dyrygentd import wire
from dyrygentd.core.events import TaskFailed, TaskSucceeded
from dyrygentd.core.folding import Folding
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.origin import Origin
from dyrygentd.core.states import NodeState
from dyrygentd.core.timeline import frame_of, times_of
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.wire.timelines import TimelineView, view_of_timeline
from tests.support.conversation import START, Conversation


def view(workflow: RunningWorkflow, now: float, bins: int, *, rows_max: int = 100) -> TimelineView:
    fold = Folding(workflow.graph).at("")
    assert fold is not None
    frame = frame_of(workflow, now, bins)
    return view_of_timeline(workflow, "", fold, frame, times_of(fold, workflow, workflow.states, frame), rows_max=rows_max)


def test_a_row_says_what_happened_when() -> None:
    """Numbers are short, as there are many, and whole where that says all."""
    conversation = Conversation()
    conversation.submit("a; b")
    conversation.turn(TaskSucceeded("w/a", b"1"), after_s=1)
    conversation.turn(TaskFailed("w/b", "no"), after_s=2)
    shown = view(conversation.restored("w"), START + 9, 2)
    assert (shown.since, shown.until, shown.bin_s, shown.rows_left_out) == (START, START + 3, 1.5, 0)
    assert wire.encode(shown.rows[0]) == (
        b'{"path":"~1","kind":"node","title":"a","nodes":1,"first":1000.0,"last":1001.0,"waiting":[0,0],"running":[0.666667,0],'
        b'"again":[0,0],"ended":[1,0],"failed":[0,0],"backoff":[0,0]}'
    )
    assert (shown.rows[1].failed, shown.rows[1].running) == ([0, 1], [1, 1])
    assert wire.decode(wire.encode(shown), TimelineView) == shown


@pytest.mark.parametrize("nodes", [1_000, 20_000])
def test_its_length_does_not_grow_with_the_workflow(nodes: int) -> None:
    """Of the longest timeline there is. Boxes that are too many are counted."""
    specs = [NodeSpec(f"n{number}", Signature("t"), str(number), section=f"s{number % 99}") for number in range(nodes)]
    workflow = RunningWorkflow(workflow_id="w", name="w", graph=Graph.build(specs), origin=Origin(START), value_bytes_max=100)
    for node in range(nodes):
        workflow.nodes.place(node, NodeState.SUCCEEDED)
        workflow.attempts.dispatched_at[node] = START + node % 97
        workflow.nodes.finished_at[node] = START + node % 97 + node % 7
    shown = view(workflow, START + 104, 400)
    assert len(shown.rows) == 99
    assert len(wire.encode(shown)) < 900_000
    few = view(workflow, START + 104, 400, rows_max=10)
    assert (len(few.rows), few.rows_left_out) == (10, 89)
