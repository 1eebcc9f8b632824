"""Timers: what is due is told in its order, and what nobody waits for any more is sorted out."""

import pytest

from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.timers import WORKFLOW_TIMER, Timers
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import START, Conversation


def _held() -> tuple[RunningWorkflow, Timers]:
    """Return a workflow of which two nodes are held until a time, and timers that know of none."""
    conversation = Conversation()
    conversation.submit("a countdown=5; b countdown=9; c")
    workflow = conversation.workflow()
    return workflow, Timers({"w": workflow})


def test_due_in_order() -> None:
    """The first to be due comes first, and nothing comes before its time."""
    workflow, found = _held()
    for node, hold in reversed(workflow.holds.items()):
        found.set(hold.until, workflow, node)
    found.set(1007.0, workflow, WORKFLOW_TIMER)
    assert found.next_at == 1005.0
    assert found.take_due(1004.9) is None
    assert [found.take_due(1008.0) for _ in range(3)] == [(workflow, 0), (workflow, WORKFLOW_TIMER), None]
    assert (len(found), found.next_at) == (1, 1009.0)


def test_of_a_workflow_that_is_gone() -> None:
    """Nobody is woken for a workflow that has ended."""
    workflow, _ = _held()
    found = Timers({})
    found.set(1005.0, workflow, 0)
    assert found.take_due(2000.0) is None
    assert not len(found)


def test_sorted_out() -> None:
    """Timers that mean nothing any more, or stand there twice, do not pile up."""
    workflow, _ = _held()
    found = Timers({"w": workflow}, least=3)
    for at in (1005.0, 1005.0, 1006.0, 1009.0):
        found.set(at, workflow, 0 if at < 1009.0 else 1)
    assert len(found) == 2
    found.check(workflow)


def test_a_missing_one_is_found() -> None:
    """A node that waits for a time at which nobody looks would wait for ever."""
    workflow, found = _held()
    found.set(1005.0, workflow, 0)
    with pytest.raises(InvariantBroken, match=r"nobody looks at, of nodes \[1\]"):
        found.check(workflow)


def test_those_of_workflows_are_sorted_out_too(conversation: Conversation) -> None:
    """A start or a deadline that was moved, and what is gone, means nothing any more; what still holds stays."""
    conversation.submit("a", policy=WorkflowPolicy(start_at=START + 5))
    workflow = conversation.workflow()
    gone = _held()[0]
    found = Timers({"w": workflow}, least=2)
    gone.workflow_id = "gone"
    for at, owner in ((START + 5, workflow), (START + 6, workflow), (START + 7, gone)):
        found.set(at, owner, WORKFLOW_TIMER)
    assert (len(found), found.next_at) == (1, START + 5)


def test_timeouts_of_tasks_in_flight_stay(conversation: Conversation) -> None:
    """One is meant as long as the task is in flight and its time is the same."""
    conversation.submit("a timeout=5")
    workflow = conversation.workflow()
    found = Timers({"w": workflow}, least=1)
    found.set(START + 5, workflow, 0)
    found.set(START + 6, workflow, 0)
    assert (len(found), found.next_at) == (1, START + 5)
