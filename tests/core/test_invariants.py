"""The checker itself: it finds each kind of damage, so its silence in all other tests means something."""

from collections.abc import Callable

import pytest

from dyrygentd.core import states
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import TaskFailed
from dyrygentd.core.invariants import check_engine, check_workflow
from dyrygentd.core.limits import Limits
from dyrygentd.core.notes import Hold, HoldReason
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.values import Value
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import Conversation

Damage = Callable[[RunningWorkflow], object]


def _block_for_nothing(workflow: RunningWorkflow) -> None:
    workflow.nodes.place(1, NodeState.BLOCKED)
    workflow.blocked_by[1], workflow.nodes.finished_at[1] = 0, 1.0


#: ``(what is damaged, what the checker says)`` in ``a; b < a; c < b; d countdown=9; e`` with a succeeded and b, e in flight.
DAMAGES: dict[str, tuple[Damage, str]] = {
    "waits for nothing": (
        lambda workflow: workflow.nodes.place(1, NodeState.WAITING),
        "waits although all its dependencies have finished",
    ),
    "runs too early": (
        lambda workflow: workflow.nodes.place(2, NodeState.DISPATCHED),
        "went on before its dependencies succeeded",
    ),
    "blocked by nobody": (lambda workflow: workflow.nodes.place(2, NodeState.BLOCKED), "is blocked by nobody"),
    "blocked for nothing": (
        _block_for_nothing,
        "is blocked although no dependency failed",
    ),
    "value lost": (lambda workflow: workflow.values.by_node.clear(), "has lost a value that it needs"),
    "held for no reason": (lambda workflow: workflow.holds.clear(), "is held for no reason, or not held with one"),
    "not held with a reason": (
        lambda workflow: workflow.holds.update({2: Hold(HoldReason.TIME, 1.0)}),
        "is held for no reason, or not held with one",
    ),
    "counts": (lambda workflow: workflow.nodes.counts.__setitem__(NodeState.FAILED, 1), "counts 1 failed nodes, there are 0"),
    "unfinished": (lambda workflow: setattr(workflow.nodes, "unfinished", 7), "counts 7 unfinished nodes, there are 4"),
    "ended too early": (lambda workflow: setattr(workflow, "state", WorkflowState.FAILED), "has 4 unfinished nodes"),
    "bad": (lambda workflow: setattr(workflow.nodes, "bad", 2), "counts 2 nodes that did not succeed, there are 0"),
    "unmet": (lambda workflow: workflow.nodes.unmet.__setitem__(2, 2), "counts 2 unmet dependencies, there are 1"),
    "blames somebody": (lambda workflow: workflow.blocked_by.update({2: 0}), "is blocked by nobody, or blames one"),
    "not needed": (lambda workflow: workflow.unneeded.add(2), "is not needed, and not skipped"),
    "held when finished": (lambda workflow: workflow.on_hold.add(0), "is finished, and an operator's hold is left"),
    "time of an end": (
        lambda workflow: workflow.nodes.finished_at.__setitem__(2, 1.0),
        "is finished without a time, or has one too early",
    ),
    "a value too early": (lambda workflow: workflow.values.by_node.update({2: Value(b"1", 1)}), "has a value and no success"),
    "held without an operator": (
        lambda workflow: workflow.holds.update({3: Hold(HoldReason.OPERATOR)}),
        "is held by an operator who does not hold it",
    ),
    "held for ever": (
        lambda workflow: workflow.holds.update({3: Hold(HoldReason.TIME)}),
        "until a time that its reason does not",
    ),
    "retry that is none": (
        lambda workflow: workflow.holds.update({3: Hold(HoldReason.RETRY, 1.0)}),
        "is retrying without a retry",
    ),
    "heap": (lambda workflow: workflow.ready.push(2), "has 1 nodes in its heap, 0 are ready"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_finds_damage(conversation: Conversation, damage: str) -> None:
    """Each disagreement between derived and basic state is found and named."""
    conversation.submit("a; b < a; c < b; d countdown=9; e")
    conversation.succeed("w/a")
    workflow = conversation.workflow()
    check_workflow(workflow)
    harm, complaint = DAMAGES[damage]
    harm(workflow)
    with pytest.raises(InvariantBroken, match=complaint):
        check_workflow(workflow)
    conversation.restart(conversation.limits)


def test_finds_a_wrong_table_of_what_is_in_flight(conversation: Conversation) -> None:
    """A place that leaked would never be given again, and a missing one loses a result."""
    conversation.submit("a; b")
    conversation.engine.flights.by_id.pop("w/a")
    with pytest.raises(InvariantBroken, match=r"in flight by the table: \{'w/b'"):
        check_engine(conversation.engine)
    conversation.restart(conversation.limits)


def _lose_rings(engine: Engine) -> None:
    engine._rings._rings.clear()
    engine._rings._priority_of.clear()


#: ``(what is damaged, what the checker says)`` in an engine with ``a pool=p; b pool=p; c countdown=9; d; e``, one task in flight.
ENGINE_DAMAGES: dict[str, tuple[Callable[[Engine], object], str]] = {
    "ring": (_lose_rings, "could dispatch, but stands in no ring"),
    "ring of another priority": (lambda engine: engine._rings._priority_of.update(w=1), "stands in no ring of its priority"),
    "two rings": (lambda engine: engine._rings._rings[0].append("w"), "the rings are"),
    "timers": (lambda engine: engine._timers.clear(), "waits for times that nobody looks at"),
    "late": (lambda engine: engine.flights.late._count_of.update(w=1), "late tasks of"),
    "places": (lambda engine: engine.pools.give_back(("p",)), "places taken in pools"),
    "line": (lambda engine: engine.pools.leave("w", 1), "does not stand in line"),
}


@pytest.mark.parametrize("damage", ENGINE_DAMAGES)
def test_finds_damage_in_the_engine(damage: str) -> None:
    """A table that disagrees with the workflows would lose a turn, a time or a place, silently."""
    conversation = Conversation(Limits(in_flight_max=2), pools={"p": 1})
    conversation.submit("a pool=p; b pool=p; c countdown=9; d; e")
    check_engine(conversation.engine)
    harm, complaint = ENGINE_DAMAGES[damage]
    harm(conversation.engine)
    with pytest.raises(InvariantBroken, match=complaint):
        check_engine(conversation.engine)


def test_an_end_that_is_none_is_found(conversation: Conversation) -> None:
    """A workflow that has succeeded although a node has not contradicts itself."""
    conversation.submit("a")
    (workflow,) = conversation.turn(TaskFailed("w/a", "boom")).finished
    check_workflow(workflow)
    workflow.state = WorkflowState.SUCCEEDED
    with pytest.raises(InvariantBroken, match="has 1 nodes that did not succeed"):
        check_workflow(workflow)


def test_a_cancel_that_no_row_allows_is_found() -> None:
    """Cancelling all at once goes by the table of transitions, as every single move does."""
    conversation = Conversation()
    conversation.submit("a; b < a")
    nodes = conversation.workflow().nodes
    before = set(states.TRANSITIONS)
    assert all((state, NodeState.CANCELLED) in before for state in NodeState if not state.is_finished)
    nodes.cancel_open(conversation.now)
    assert nodes.unfinished == 0
