"""What goes on only when a person says so is counted by what holds it."""

from dyrygentd.core.events import TaskLost
from dyrygentd.core.for_people import people_wanted, waits_for_person
from tests.support.conversation import Conversation


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
