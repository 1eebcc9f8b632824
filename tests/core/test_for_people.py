"""What goes on only when a person says so is counted by what holds it."""

from dyrygentd.core.events import TaskLost
from dyrygentd.core.for_people import gate_since, people_wanted, waits_for_person
from tests.support.conversation import START, Conversation


def test_counted_by_reason(conversation: Conversation) -> None:
    """Gates, holds and lost tasks wait for somebody; what waits for a time goes by itself."""
    conversation.submit("a; b gate=1; c gate=1; d; e countdown=9; f < e")
    conversation.ask("hold", "f")
    assert waits_for_person(conversation.workflow()) == {"gate": 2}
    conversation.turn(TaskLost("w/a", "nowhere"))
    assert waits_for_person(conversation.workflow()) == {"lost": 1, "gate": 2}
    conversation.turn(after_s=9)
    conversation.succeed("w/e")
    assert list(waits_for_person(conversation.workflow()).items()) == [("lost", 1), ("gate", 2), ("operator", 1)]


def test_over_all_workflows(conversation: Conversation) -> None:
    """What a person is asked for in all, paused workflows among it."""
    conversation.submit("a gate=1", "u")
    conversation.submit("a gate=1; b", "v")
    conversation.submit("a", "w")
    assert waits_for_person(conversation.workflow()) == {}
    assert people_wanted(conversation.engine.workflows.values()) == {"gate": 2}
    conversation.ask("pause", workflow_id="w")
    assert people_wanted(conversation.engine.workflows.values()) == {"gate": 2, "paused": 1}


def test_since_when_a_gate_waits(conversation: Conversation) -> None:
    """Since the last of what it depends on has ended; what is no gate, or has not come so far, does not wait for a release."""
    conversation.submit("a; g < a gate=1; h gate=1; s sleep=9")
    conversation.turn(after_s=5)
    assert gate_since(conversation.workflow(), 1) is None
    conversation.succeed("w/a")
    assert [gate_since(conversation.workflow(), node) for node in range(4)] == [None, START + 5, START, None]
