"""The log of changes: an error about a node tells how the node came to where it is, and the log never grows beyond its bound."""

import pytest

from dyrygentd.core.events import MessagePublished, TaskFailed
from dyrygentd.core.states import NodeState
from dyrygentd.core.story import ROWS_MAX, Story
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import Conversation


def test_error_tells_the_last_changes(conversation: Conversation) -> None:
    """Whoever reads of a broken invariant sees how the node came there, and nothing of its neighbours."""
    conversation.submit("a; b")
    conversation.turn(MessagePublished("w/a"), after_s=1)
    conversation.turn(TaskFailed("w/a", "boom"), after_s=2.5)
    workflow = conversation.workflow()
    with pytest.raises(InvariantBroken) as caught:
        workflow.nodes.move(0, NodeState.READY, conversation.now)
    assert caught.value.message.endswith(
        "; its last changes: waiting -> ready at 00:16:40.000000, ready -> dispatching at 00:16:40.000000,"
        " dispatching -> dispatched at 00:16:41.000000, dispatched -> failed at 00:16:43.500000)"
    )


def test_broken_workflow_keeps_its_story(conversation: Conversation) -> None:
    """The daemon goes on without it, so what is stored as its error is all that a person has in the morning."""
    conversation.submit("a")
    workflow = conversation.workflow()
    workflow.nodes.place(0, NodeState.BLOCKED)
    conversation.engine.handle(MessagePublished("w/a"), conversation.now)
    workflow.nodes.place(0, NodeState.DISPATCHING)
    workflow.nodes.place(0, NodeState.RETRYING)
    conversation.engine.handle(TaskFailed("w/a", "boom"), conversation.now)
    batch = conversation.engine.take_batch(conversation.now)
    assert "cannot go from retrying to failed" in batch.save_workflows["w"].error
    assert "waiting -> ready at 00:16:40.000000, ready -> dispatching at 00:16:40.000000" in batch.save_workflows["w"].error


def test_cancel_of_all_is_one_row(conversation: Conversation) -> None:
    """A cancel of a hundred thousand nodes must not push the story of all others out."""
    conversation.submit("a; b < a; c < a")
    conversation.turn(*[], after_s=1)
    story, before = conversation.workflow().nodes.story, len(conversation.workflow().nodes.story)
    conversation.ask("cancel")
    assert len(story) == before + 1
    assert [str(change) for change in story.of("w", 2)] == ["whatever it was -> cancelled at 00:16:41.000000"]


def test_reopened_workflow_tells_to_the_engine(conversation: Conversation) -> None:
    """One that was read back goes on in the log of all, with what happened to it on the way there."""
    conversation.submit("a; b")
    story = conversation.workflow().nodes.story
    conversation.turn(TaskFailed("w/a", "boom"), TaskFailed("w/b", "boom"))
    conversation.crash()
    conversation.ask("retry", "a")
    nodes = conversation.workflow().nodes
    assert nodes.story is not story
    assert [change.after for change in nodes.story.of("w", 0)] == [NodeState.WAITING, NodeState.READY, NodeState.DISPATCHING]


def test_nothing_known_is_said() -> None:
    """Silence would read as if nothing had happened."""
    assert Story().told("w", 0) == "no change of it is known here"


def test_log_is_bounded() -> None:
    """It outlives millions of changes and costs the same."""
    story = Story()
    for number in range(ROWS_MAX + 10):
        story.note(("w", number, NodeState.WAITING, NodeState.READY, 1.0))
    assert (len(story), story.of("w", 9), len(story.of("w", 10))) == (ROWS_MAX, [], 1)
    assert repr(story) == f"<Story {ROWS_MAX} changes>"
