"""The checker itself: it finds each kind of damage, so its silence in all other tests means something."""

from collections.abc import Callable

import pytest

from dyrygentd.core.invariants import check_engine, check_workflow
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.workflow import Hold, HoldReason, RunningWorkflow
from dyrygentd.errors import InvariantBroken
from tests.core.conversation import Conversation

Damage = Callable[[RunningWorkflow], object]


def _block_for_nothing(workflow: RunningWorkflow) -> None:
    workflow._place(1, NodeState.BLOCKED)
    workflow.blocked_by[1], workflow.settled_at[1] = 0, 1.0


#: ``(what is damaged, what the checker says)`` in ``a; b < a; c < b; d countdown=9; e`` with a succeeded and b, e in flight.
DAMAGES: dict[str, tuple[Damage, str]] = {
    "waits for nothing": (
        lambda workflow: workflow._place(1, NodeState.WAITING),
        "waits although all its dependencies have settled",
    ),
    "runs too early": (lambda workflow: workflow._place(2, NodeState.DISPATCHED), "went on before its dependencies succeeded"),
    "blocked by nobody": (lambda workflow: workflow._place(2, NodeState.BLOCKED), "is blocked by nobody"),
    "blocked for nothing": (
        _block_for_nothing,
        "is blocked although no dependency failed",
    ),
    "value lost": (lambda workflow: workflow.values.clear(), "has lost a value that it needs"),
    "held for no reason": (lambda workflow: workflow.holds.clear(), "is held for no reason, or not held with one"),
    "not held with a reason": (
        lambda workflow: workflow.holds.update({2: Hold(HoldReason.TIME, 1.0)}),
        "is held for no reason, or not held with one",
    ),
    "counts": (lambda workflow: workflow._counts.__setitem__(NodeState.FAILED, 1), "counts 1 failed nodes, there are 0"),
    "unsettled": (lambda workflow: setattr(workflow, "_unsettled", 7), "counts 7 unsettled nodes, there are 4"),
    "ended too early": (lambda workflow: setattr(workflow, "state", WorkflowState.FAILED), "has 4 unsettled nodes"),
    "heap": (lambda workflow: workflow._push_ready(2), "has 1 nodes in its heap, 0 are ready"),
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
    conversation.engine._in_flight.pop("w/a")
    with pytest.raises(InvariantBroken, match=r"in flight by the table: \{'w/b'"):
        check_engine(conversation.engine)
    conversation.restart(conversation.limits)
