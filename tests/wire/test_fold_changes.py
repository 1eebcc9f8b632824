"""Whoever applies what has changed of a fold has the fold as it stands, however much they have missed."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dyrygentd import wire
from dyrygentd.core.fold_counts import counts_of
from dyrygentd.core.folding import Folding
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.origin import Origin
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.wire.fold_changes import FoldChanges, FoldHistory, with_changes
from dyrygentd.wire.folds import FoldView

_READERS = 3


def workflow_of(nodes: int) -> RunningWorkflow:
    """Make a workflow of pairs of nodes in sections."""
    specs = [NodeSpec(f"n{number}", Signature("t"), str(number), section=f"s{number // 2}") for number in range(nodes)]
    return RunningWorkflow(workflow_id="w", name="w", graph=Graph.build(specs), origin=Origin(1.0), value_bytes_max=100)


class Looking:
    """Looks at a workflow again and again."""

    def __init__(self, nodes: int) -> None:
        self.workflow = workflow_of(nodes)
        self._folding = Folding(self.workflow.graph)

    def look(self) -> FoldView:
        fold = self._folding.at("")
        assert fold is not None
        counts = counts_of(fold, self.workflow.states, self.workflow.attempts.dispatched_at, self.workflow.fingerprints)
        return wire.view_of_fold(self.workflow, "", fold, counts)


def caught_up(history: FoldHistory, known: FoldView | None) -> FoldView:
    """Return what a reader has after what it is sent, as it comes over the wire."""
    told = history.since(0 if known is None else known.seq)
    if isinstance(told, FoldView):
        return wire.decode(wire.encode(told), FoldView)
    assert known is not None
    return with_changes(known, wire.decode(wire.encode(told), FoldChanges))


steps = st.tuples(
    st.dictionaries(st.integers(0, 9), st.sampled_from(NodeState), max_size=3),
    st.sampled_from([WorkflowState.RUNNING, WorkflowState.PAUSED]),
    st.sets(st.integers(0, _READERS - 1)),
)


@given(st.lists(steps, max_size=12))
def test_changes_lead_to_what_is_there(made: list[tuple[dict[int, NodeState], WorkflowState, set[int]]]) -> None:
    """Readers that look at each change, at some or at the last one alone all see the fold that is asked for anew."""
    looking = Looking(10)
    history = FoldHistory(looking.look())
    readers: list[FoldView | None] = [None] * _READERS
    for places, state, who in made:
        for node, to in places.items():
            looking.workflow.nodes.place(node, to)
        looking.workflow.state = state
        before = history.view
        history.take(looking.look())
        assert (history.view.seq > before.seq) == (replace(history.view, seq=0) != replace(before, seq=0))
        for reader in who:
            readers[reader] = caught_up(history, readers[reader])
            assert readers[reader] == history.view
    for known in readers:
        assert replace(caught_up(history, known), seq=0) == looking.look()


def test_only_what_has_changed_is_sent() -> None:
    """One node of hundreds moves one box, and nothing is sent twice to who has it."""
    looking = Looking(20)
    history = FoldHistory(looking.look())
    first = history.view
    assert repr(history) == "<FoldHistory seq=1 path='' boxes=10>"
    assert history.since(0) is first
    assert history.since(1) == FoldChanges(1, "running", [])
    looking.workflow.nodes.place(7, NodeState.FAILED)
    history.take(looking.look())
    told = history.since(1)
    assert isinstance(told, FoldChanges)
    assert [(changed.place, changed.box.title, changed.box.failed) for changed in told.boxes] == [(3, "s3", "n7")]
    assert len(wire.encode(told)) < 250
    assert with_changes(first, told).boxes[3].states == {"waiting": 1, "failed": 1}
    assert first.boxes[3].states == {"waiting": 2}


def test_other_boxes_are_sent_whole() -> None:
    """Places mean something for the boxes alone that the reader has."""
    history = FoldHistory(Looking(4).look())
    history.take(Looking(6).look())
    told = history.since(1)
    assert told is history.view
    assert (history.view.seq, len(history.view.boxes)) == (2, 3)
