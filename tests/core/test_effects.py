"""A batch that cannot be saved waits and is merged with the next one; its order of effects stays a promise."""

from dyrygentd.core.effects import Batch
from dyrygentd.core.events import ReportsRead, TaskReported, TaskRevoked, TaskSucceeded
from tests.support.conversation import Conversation, cancel


def test_empty_batch_is_false(conversation: Conversation) -> None:
    """The shell skips a turn that has nothing to carry out."""
    assert not Batch()
    assert not conversation.turn()
    assert Batch(changed={"w": None})


def test_counts_its_rows(conversation: Conversation) -> None:
    """The number of rows is what one transaction writes."""
    assert conversation.submit("a; b; c < a").row_count == 3


def test_merge_keeps_the_newest_rows_and_all_effects(conversation: Conversation) -> None:
    """What waits for the disk is carried out later, in order, with the definition it began with."""
    conversation.tell(conversation.submission("a; b < a"))
    waiting = conversation.take()
    conversation.tell(conversation.submission("a", "v"), TaskReported("w/a", "STARTED"))
    waiting.merge(conversation.take())
    assert [message.task_id for message in waiting.publish] == ["w/a", "v/a"]
    assert waiting.watch == ["w/a", "v/a"]
    assert list(waiting.changed) == ["w", "v"]
    assert {workflow_id: record.document for workflow_id, record in waiting.save_workflows.items()} == dict.fromkeys(
        "wv", b"document"
    )


def test_place_in_the_reports_is_an_effect(conversation: Conversation) -> None:
    """It comes with the batch that has what was reported, alone it is worth a turn, and of two the later counts."""
    conversation.tell(conversation.submission("a"))
    conversation.take()
    conversation.tell(TaskSucceeded("w/a", b"1"), ReportsRead("0-1"))
    waiting = conversation.take()
    assert (waiting.reports_read, [workflow.workflow_id for workflow in waiting.finished]) == ("0-1", ["w"])
    waiting.merge(Batch())
    assert waiting.reports_read == "0-1"
    conversation.tell(ReportsRead("0-2"))
    later = conversation.take()
    assert later
    assert later.row_count == 0
    waiting.merge(later)
    assert waiting.reports_read == "0-2"


def test_merge_drops_what_ended_before_it_was_sent(conversation: Conversation) -> None:
    """A workflow that is cancelled while the disk does not work is not sent, but revoked, as an earlier life may have sent it."""
    conversation.tell(conversation.submission("a"))
    waiting = conversation.take()
    conversation.tell(cancel("w"))
    waiting.merge(conversation.take())
    assert (waiting.watch, waiting.publish) == (["w/a"], [])
    assert (waiting.unwatch, [revoke.task_id for revoke in waiting.revoke]) == ([], ["w/a"])
    assert waiting.save_workflows["w"].document == b"document"
    assert [workflow.workflow_id for workflow in waiting.finished] == ["w"]
    assert waiting.save_nodes["w", 0].state == "cancelled"


def test_merge_does_not_unwatch_what_is_in_flight_again(conversation: Conversation) -> None:
    """Unwatching comes last in a batch, so a task id that was dispatched anew must have left that list."""
    conversation.submit("a id=same")
    conversation.tell(TaskSucceeded("same", b"1"))
    waiting = conversation.take()
    assert waiting.unwatch == ["same"]
    conversation.tell(conversation.submission("a id=same", "v"))
    waiting.merge(conversation.take())
    assert (waiting.watch, waiting.unwatch) == (["same"], [])
    assert [message.workflow_id for message in waiting.publish] == ["v"]


def test_what_ended_in_doubt_is_not_sent_any_more(conversation: Conversation) -> None:
    """Somebody revoked a task that the disk kept from being sent: it is watched on, and must not be sent when the disk works."""
    conversation.tell(conversation.submission("a; b"))
    waiting = conversation.take()
    conversation.tell(TaskRevoked("w/a", "somebody did"))
    waiting.merge(conversation.take())
    assert [message.task_id for message in waiting.publish] == ["w/b"]
    assert waiting.unwatch == []
