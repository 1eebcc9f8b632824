"""Counts of the boxes add up to those of the workflow, and name whom to ask about."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.core.fold_counts import counts_of, shares_of
from dyrygentd.core.folding import Folding
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.states import NodeState
from tests.core.test_folding import TINY, boxes_below, graphs
from tests.support.conversation import Conversation


@given(graphs(), st.data())
def test_counts_add_up(graph: Graph, data: st.DataObject) -> None:
    """In each fold the boxes have together what the opened box has, joins left out."""
    states = bytes(data.draw(st.lists(st.sampled_from(NodeState), min_size=len(graph), max_size=len(graph))))
    for _, fold in boxes_below(Folding(graph, TINY)):
        nodes = [node for node in fold.order if not graph.is_join(node)]
        found = counts_of(fold, states, array("d", range(len(graph))), {0: "x", 1: "y"})
        for state in NodeState:
            assert sum(box.counts[state] for box in found) == sum(states[node] == state for node in nodes)
        for box, counts in zip(fold.boxes, found, strict=True):
            mine = [node for node in fold.order[box.start : box.end] if node in nodes]
            assert counts.failed == next((node for node in mine if states[node] == NodeState.FAILED), None)
            assert counts.held == next((node for node in mine if states[node] == NodeState.HELD), None)
            failed = [node for node in mine if states[node] == NodeState.FAILED]
            causes = {0: "x", 1: "y"}
            others = [node for node in failed if causes.get(node) != causes.get(failed[0])]
            assert counts.failed_too == next(iter(others), None)
            in_flight = [node for node in mine if states[node] in (NodeState.DISPATCHING, NodeState.DISPATCHED)]
            assert counts.longest == min(in_flight, default=None)


def test_nodes_apart_from_each_other_are_counted_alike() -> None:
    """More nodes than one call goes over, and not next to each other in the definition."""
    specs = [NodeSpec(str(number), Signature("even" if number % 2 else "odd"), str(number)) for number in range(50_000)]
    fold = Folding(Graph.build(specs)).at("")
    assert fold is not None
    states = bytes([NodeState.FAILED, NodeState.SUCCEEDED]) * 25_000
    assert [(box.counts[NodeState.FAILED], box.counts[NodeState.SUCCEEDED]) for box in counts_of(fold, states, [], {})] == [
        (25_000, 0),
        (0, 25_000),
    ]


def test_another_cause_is_looked_for_among_the_first_failures() -> None:
    """Of a box with a great many failures it costs no more than of one with a thousand."""
    specs = [NodeSpec(str(number), Signature("a" if number < 4999 else "b"), str(number)) for number in range(5000)]
    fold = Folding(Graph.build(specs)).at("")
    assert fold is not None
    states = bytes([NodeState.FAILED]) * 5000
    for other, found in ((999, 999), (1000, None)):
        box, _ = counts_of(fold, states, [], {other: "Boom"})
        assert (box.failed, box.failed_too) == (0, found)


def test_each_box_has_its_share_of_what_is_left() -> None:
    """What has finished is no work any more, and what has no task never was."""
    conversation = Conversation()
    conversation.submit("a; b; &j < a b; c < j")
    workflow = conversation.workflow()
    fold = Folding(workflow.graph).at("")
    assert fold is not None
    weights = array("f", [10.0, 30.0, 0.0, 60.0])
    titles = [box.title for box in fold.boxes]
    shares = shares_of(fold, workflow.states, weights)
    assert shares is not None
    assert dict(zip(titles, shares, strict=True)) == pytest.approx({"a": 0.1, "b": 0.3, "j": 0.0, "c": 0.6})
    conversation.succeed("w/b")
    shares = shares_of(fold, workflow.states, weights)
    assert shares is not None
    assert dict(zip(titles, shares, strict=True)) == pytest.approx({"a": 1 / 7, "b": 0.0, "j": 0.0, "c": 6 / 7})
    assert shares_of(fold, workflow.states, array("f")) is None
