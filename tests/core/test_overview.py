"""What waits for a person and what is under way longest, over all workflows."""

import pytest

from dyrygentd.core.events import MessagePublished, TaskFailed, TaskLost
from dyrygentd.core.limits import Limits
from dyrygentd.core.lost_causes import ENDED_SILENTLY
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.overview import Survey, Waiting, survey_in_steps
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.steps import exhaust
from tests.support.conversation import START, Conversation


def _survey(conversation: Conversation, *, most: int = 10, oldest_max: int = 10) -> Survey:
    return exhaust(survey_in_steps(conversation.engine, most=most, oldest_max=oldest_max))


def test_what_waits_for_a_person(conversation: Conversation) -> None:
    """Which workflow, for what, how many nodes, the first few of them, and since when."""
    conversation.submit("a; " + "; ".join(f"g{number} < a gate=1" for number in range(7)))
    conversation.now += 60
    conversation.succeed("w/a")
    survey = _survey(conversation)
    gates = ("g0", "g1", "g2", "g3", "g4")
    assert survey.waiting == {HoldReason.GATE: [Waiting(HoldReason.GATE, "w", "name of w", 7, gates, START + 60)]}
    assert (survey.waiting_count, survey.nodes_waiting) == ({HoldReason.GATE: 1}, {HoldReason.GATE: 7})


def test_lost_tasks_that_would_end_so_again(conversation: Conversation) -> None:
    """Another attempt helps some, and of those that ended silently none; one that differs makes it worth while."""
    conversation.submit("a; b")
    conversation.turn(TaskLost("w/a", f"it {ENDED_SILENTLY}"))
    assert _survey(conversation).waiting[HoldReason.LOST][0].ends_again
    conversation.turn(TaskLost("w/b", "nowhere"))
    assert not _survey(conversation).waiting[HoldReason.LOST][0].ends_again


def test_all_are_counted_and_few_are_named(conversation: Conversation) -> None:
    """An answer is short, whatever there is."""
    for number in range(4):
        conversation.submit("g gate=1; a; b countdown=5", f"w{number}")
        conversation.turn(TaskFailed(f"w{number}/a", "boom"))
    for number in range(3):
        conversation.submit("a", f"p{number}")
        conversation.ask("pause", workflow_id=f"p{number}")
    survey = _survey(conversation, most=2)
    assert (len(survey.waiting[HoldReason.GATE]), survey.waiting_count[HoldReason.GATE]) == (2, 4)
    assert (survey.paused, survey.paused_count) == ([("p0", "name of p0"), ("p1", "name of p1")], 3)
    assert (survey.failing, survey.failing_count) == ([("w0", "name of w0", 1), ("w1", "name of w1", 1)], 4)


def test_what_is_to_begin(conversation: Conversation) -> None:
    """The next start is the earliest of all; a gate in a workflow that has not begun would wait since then."""
    for number, start in enumerate((500, 100, 300)):
        conversation.submit("a", f"w{number}", policy=WorkflowPolicy(start_at=START + start))
    survey = _survey(conversation)
    assert (survey.scheduled_count, survey.next_start) == (3, START + 100)


def test_in_flight_longest(conversation: Conversation) -> None:
    """The oldest come first, and only so many; those of one time in any fixed order, as workflows have none."""
    conversation.submit("a; b", "v")
    conversation.now += 5
    conversation.submit("c")
    conversation.turn(MessagePublished("v/a"))
    names = [workflow.graph.names[node] for workflow, node in _survey(conversation).oldest]
    assert names == ["a", "b", "c"]
    assert len(_survey(conversation, oldest_max=2).oldest) == 2


def test_who_waits_for_a_place() -> None:
    """Who is paused would not go on if there were one."""
    conversation = Conversation(Limits(in_flight_max=1))
    for name in ("has it", "paused", "first", "second"):
        conversation.submit("a", name)
    conversation.ask("pause", workflow_id="paused")
    survey = _survey(conversation)
    assert survey.first_ready is not None
    assert (survey.first_ready.workflow_id, survey.ready_count) == ("first", 3)


@pytest.mark.parametrize(("step", "steps"), [(1000, 0), (3, 3), (4, 1)])
def test_others_have_their_turn(conversation: Conversation, step: int, steps: int) -> None:
    """Very many workflows are looked at some at a time, and what is held in them counts."""
    for number in range(3):
        conversation.submit("a gate=1; b gate=1", f"w{number}")
    assert len(list(survey_in_steps(conversation.engine, most=5, oldest_max=5, step=step))) == steps
