"""A folded workflow as clients see it."""

from dyrygentd import wire
from dyrygentd.core.fold_counts import counts_of
from dyrygentd.core.folding import Folding
from dyrygentd.wire.folds import FoldView, view_of_fold
from tests.support.conversation import Conversation


def view(conversation: Conversation) -> FoldView:
    workflow = conversation.workflow()
    fold = Folding(workflow.graph).at("")
    assert fold is not None
    return view_of_fold(
        workflow, "", fold, counts_of(fold, workflow.states, workflow.attempts.dispatched_at, workflow.fingerprints)
    )


def test_a_box_says_whom_to_ask() -> None:
    """What runs and what is held is named in its box, and nothing is said of what there is not."""
    conversation = Conversation()
    conversation.submit("a; g gate=yes; b < a")
    shown = view(conversation)
    assert (shown.nodes, shown.path, shown.edges_left_out) == (3, "", 0)
    assert [(box.title, box.kind, box.nodes, box.first_level) for box in shown.boxes] == [
        ("a", "node", 1, 1),
        ("g", "node", 1, 1),
        ("b", "node", 1, 2),
    ]
    first, gate, last = shown.boxes
    assert (first.longest, first.longest_since) == ("a", conversation.workflow().attempts.dispatched_at[0])
    assert (gate.held, gate.hold, gate.held_until, gate.task) == ("g", "gate", None, None)
    assert wire.encode(last) == (
        b'{"path":"~3","kind":"node","title":"b","nodes":1,"states":{"waiting":1},"task":"tasks.b","first_level":2,"last_level":2}'
    )
    assert [edge.to_dict() for edge in shown.edges] == [{"before": 0, "after": 2, "weight": 1}]
