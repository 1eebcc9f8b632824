"""What the end of an attempt makes of its node."""

import pytest

from dyrygentd.core.events import MessagePublished, TaskFailed, TaskIgnored, TaskLost, TaskSucceeded
from dyrygentd.core.policy import LOST_MAX, OnFailure, WorkflowPolicy
from tests.support.conversation import Conversation


def test_a_message_that_went_elsewhere_is_forgotten_with_success(conversation: Conversation) -> None:
    """Where the last message went is needed as long as it may have to be revoked or looked for."""
    conversation.submit("a; b; g gate=1")
    conversation.turn(MessagePublished("w/a", "q1"), MessagePublished("w/b", "q2"))
    attempts = conversation.workflow().attempts
    attempts.sent_to[1] = "q2"
    conversation.succeed("w/b")
    assert attempts.sent_to == {}


@pytest.mark.parametrize("value", [b"null", b"false", b"0", b"0.0", b'""', b"[]", b"{}"])
def test_polls_ask_again(conversation: Conversation, value: bytes) -> None:
    """What Python takes for false is no answer yet."""
    conversation.submit("a poll=5; b < a")
    conversation.succeed("w/a", value=value)
    assert conversation.states() == {"a": "held", "b": "waiting"}
    conversation.turn(after_s=5)
    assert conversation.states()["a"] == "dispatching"


def test_polls_end(conversation: Conversation) -> None:
    """With something true, with their time, or with the workflow that a failure has stopped."""
    conversation.submit("a poll=5; b poll=5 poll_timeout=4; f; c poll=5", policy=WorkflowPolicy(on_failure=OnFailure.STOP))
    conversation.succeed("w/a", value=b"[0]")
    assert conversation.states()["a"] == "succeeded"
    conversation.succeed("w/b", value=b"0")
    assert conversation.states()["b"] == "failed"
    conversation.succeed("w/c", value=b"0")
    assert conversation.states()["c"] == "cancelled"


@pytest.mark.parametrize(("option", "state"), [("retry", "retrying"), ("fail", "failed"), ("hold", "held")])
def test_lost_tasks(conversation: Conversation, option: str, state: str) -> None:
    """The node says what becomes of it."""
    conversation.submit(f"a on_lost={option}; g gate=1")
    conversation.turn(TaskLost("w/a", "nowhere"))
    assert conversation.states()["a"] == state


def test_what_is_lost_again_and_again_kills_workers(conversation: Conversation) -> None:
    """After some times it has failed, whatever its policy."""
    conversation.submit("a on_lost=retry; g gate=1")
    for _ in range(LOST_MAX):
        ((task_id, _, _),) = conversation.engine.flights.in_flight()
        conversation.turn(TaskLost(task_id, "nowhere"))
        conversation.turn(after_s=1000)
    assert conversation.states()["a"] == "failed"


def test_a_stopped_workflow_tries_nothing_again_but_what_cleans_up(conversation: Conversation) -> None:
    """A failure has decided its end; what is there for failures is meant to get through."""
    graph = "f; a retry=3; l on_lost=retry; c < f rule=any_failed retry=3 backoff=9 jitter=0"
    conversation.submit(graph, policy=WorkflowPolicy(on_failure=OnFailure.STOP))
    conversation.turn(TaskFailed("w/f", "boom"))
    conversation.turn(TaskFailed("w/a", "boom"), TaskLost("w/l", "nowhere"), TaskFailed("w/c", "boom"))
    assert conversation.states() == {"f": "failed", "a": "failed", "l": "failed", "c": "retrying"}


def test_ignored_skips_what_waits_for_its_success(conversation: Conversation) -> None:
    """As a native chain stops there; what runs whatever comes, runs."""
    conversation.submit("a; b < a; c < a rule=all_finished")
    conversation.turn(TaskIgnored("w/a", "no need"))
    assert conversation.states() == {"a": "skipped", "b": "skipped", "c": "dispatching"}


def test_a_value_that_is_needed_and_cannot_be_carried(conversation: Conversation) -> None:
    """The task has succeeded, and what follows has nothing to work on: that is a failure, said so."""
    conversation.submit("a; b < a; c; g gate=1")
    conversation.turn(TaskSucceeded("w/a", None, "it is a socket"), TaskSucceeded("w/c", None, "it is a socket"))
    assert conversation.states()["a"] == "failed"
    assert "it is a socket" in conversation.workflow().errors[0]
