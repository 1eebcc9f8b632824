"""What people are told of the ends of sections: for what they wait, and why they were not needed."""

import pytest

from dyrygentd.core.events import TaskFailed
from dyrygentd.core.standing import standing_of_node
from tests.support.conversation import Conversation


def _told(conversation: Conversation, name: str) -> tuple[str, str, str]:
    workflow = conversation.workflow()
    node = workflow.graph.number(name)
    assert node is not None
    standing = standing_of_node(conversation.engine, workflow, node, conversation.now)
    return standing.code, standing.text, standing.next_step


def test_what_a_finally_waits_for_is_named() -> None:
    """It may be in a subsection; the node to look at is the one that has not finished."""
    conversation = Conversation()
    conversation.submit("a! section=s; b! section=s/t; clean! section=s end=finally; told! section=s end=always")
    conversation.succeed("w/a")
    code, text, _ = _told(conversation, "clean")
    assert code == "waiting"
    assert text.startswith("'clean' waits for 1 of 2 nodes before the end of section 's', first 'b': 'b' is on its way")
    assert "waits for 2 of 3 nodes before the end of section 's', first 'clean', which" in _told(conversation, "told")[1]


@pytest.mark.parametrize(
    ("events", "name", "words"),
    [
        (["x"], "clean", "'clean' was not needed: nothing of section 's' ran, so there is nothing to end"),
        (["x"], "bad", "'bad' was not needed: nothing of section 's' ran, so there is nothing to end"),
        (["a"], "good", "'good' was not needed: section 's' has failed"),
        ([], "bad", "'bad' was not needed: section 's' has succeeded"),
        ([], "rare", "'rare' was not needed: its rule or its task said so"),
    ],
)
def test_why_an_end_was_not_needed(events: list[str], name: str, words: str) -> None:
    """A retry in the section decides it anew, so there is no other step."""
    conversation = Conversation()
    conversation.submit(
        "x!; y! gate=1; a! < x section=s; clean! section=s end=finally; rare! < a section=s end=finally rule=any_failed;"
        "good! section=s end=success; bad! section=s end=failure"
    )
    for task in ("x", "a", "clean", "rare"):
        if task in conversation.states() and conversation.states()[task] == "dispatching":
            conversation.turn(TaskFailed(f"w/{task}", "boom")) if task in events else conversation.succeed(f"w/{task}")
    assert _told(conversation, name) == ("unneeded", words, "")


def test_who_is_to_blame_behind_a_finally() -> None:
    """The node that failed in the section, not the one that cleaned up after it."""
    conversation = Conversation()
    conversation.submit("a! section=s; clean! section=s end=finally; next! < clean; y gate=1")
    conversation.turn(TaskFailed("w/a", "boom"))
    conversation.succeed("w/clean")
    assert _told(conversation, "next") == ("blocked", "'next' never ran, because of 'a'", "retry or skip 'a'")
