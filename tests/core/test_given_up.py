"""Which tasks a workflow has given up lately, told by its records alone: workers that were away know nothing of it."""

from dyrygentd.core.events import TaskFailed, TaskSucceeded
from dyrygentd.core.given_up import GivenUp, given_up_by
from tests.support.conversation import START, Conversation


def _given_up(conversation: Conversation, since: float = 0.0) -> list[GivenUp]:
    workflow = conversation.engine.workflows.get("w") or conversation.restored("w")
    return list(given_up_by(workflow, since))


def test_cancelled_in_flight(conversation: Conversation) -> None:
    """What had been sent may still run, and is terminated if that was asked for; what had not is nobody's business."""
    conversation.submit("a; b < a; &j; c countdown=9")
    conversation.ask("cancel")
    assert _given_up(conversation) == [GivenUp(0, "w/a", 1, True)]


def test_long_ago(conversation: Conversation) -> None:
    """Workers that were away for so long have lost their messages by then."""
    conversation.submit("a")
    conversation.ask("cancel")
    assert _given_up(conversation, START + 1) == []


def test_skipped_in_flight(conversation: Conversation) -> None:
    """Its node goes on without it, so it need not end by force."""
    conversation.submit("a; b < a gate=1")
    conversation.ask("skip", "a", force=True)
    assert _given_up(conversation) == [GivenUp(0, "w/a", 1, False)]


def test_timed_out(conversation: Conversation) -> None:
    """A failure of its own is an end; one because its time was over is not."""
    conversation.submit("a timeout=5; b; g gate=1")
    conversation.turn(TaskFailed("w/b", "boom"))
    conversation.turn(after_s=6)
    assert _given_up(conversation) == [GivenUp(0, "w/a", 1, True)]


def test_before_another_attempt(conversation: Conversation) -> None:
    """The attempt whose time was over is given up while the next one waits, and while that runs."""
    conversation.submit("a timeout=5 retry=3 backoff=9 jitter=0")
    conversation.turn(after_s=6)
    assert [(each.task_id, each.attempt, each.terminate) for each in _given_up(conversation)] == [("w/a", 1, True)]
    conversation.turn(after_s=9)
    assert conversation.workflow().attempts.task_id_of(0) != "w/a"
    assert [(each.task_id, each.attempt) for each in _given_up(conversation)] == [("w/a", 1)]


def test_an_attempt_that_ended_is_not(conversation: Conversation) -> None:
    """A failure before a retry was an end, and so was the answer to a poll."""
    conversation.submit("a retry=3 backoff=1 jitter=0; p poll=5; q poll=5")
    conversation.turn(TaskFailed("w/a", "boom"), TaskSucceeded("w/p", b"false"))
    assert _given_up(conversation) == []
    conversation.turn(after_s=6)
    assert _given_up(conversation) == []


def test_seen_to_end_later(conversation: Conversation) -> None:
    """Once its end was noted there is nothing left to revoke."""
    conversation.submit("a; g gate=1")
    conversation.ask("cancel")
    conversation.turn(TaskSucceeded("w/a", b"1"))
    assert _given_up(conversation) == []
