"""Nodes whose task never ran: what Celery's result backend is told, so that nobody waits for them for ever."""

import pytest

from dyrygentd.core.events import MessageRefused, TaskFailed, TaskIgnored
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from dyrygentd.core.unrun import StoreOutcome, Told, is_unrun, outcome_of
from tests.support.conversation import START, Conversation


def _told(conversation: Conversation) -> dict[str, StoreOutcome | None]:
    """Return ``{node: what is told}`` of all that a workflow has told, the finished one included."""
    workflow = conversation.engine.workflows.get("w") or conversation.restored("w")
    return {name: outcome_of(workflow, node) for node, name in enumerate(workflow.graph.names)}


def test_what_ran_or_runs_is_nobodys_business(conversation: Conversation) -> None:
    """Its worker stores the result; a join has no id that anybody could wait for."""
    conversation.submit("a; b < a; &j < a; f")
    conversation.turn(TaskFailed("w/f", "boom"))
    conversation.succeed("w/a")
    assert set(_told(conversation).values()) == {None}


def test_blocked_gets_the_failure_that_is_to_blame(conversation: Conversation) -> None:
    """As Celery hands an error on in a chain; behind a chord's header it is a ``ChordError``, but not for each of a group."""
    conversation.submit("a; b < a; c < b; x; d < a x; &j < a; body < j; &k < a; g1 < k; g2 < k")
    conversation.turn(TaskFailed("w/a", "ValueError: no"))
    conversation.succeed("w/x")
    told = _told(conversation)
    assert told["b"] == StoreOutcome("w/b", Told.FAILURE, "ValueError: no", "w/a")
    assert told["c"] == StoreOutcome("w/c", Told.FAILURE, "ValueError: no", "w/a")
    assert told["d"] == StoreOutcome("w/d", Told.FAILURE, "ValueError: no", "w/a", is_chord=True)
    assert told["body"] == StoreOutcome("w/body", Told.FAILURE, "ValueError: no", "w/a", is_chord=True)
    assert told["g1"] == StoreOutcome("w/g1", Told.FAILURE, "ValueError: no", "w/a")


def test_cancelled_before_it_was_sent(conversation: Conversation) -> None:
    """REVOKED, with the reason; what was sent is revoked by its own way."""
    conversation.submit("a; b < a")
    conversation.ask("cancel")
    assert _told(conversation) == {
        "a": None,
        "b": StoreOutcome("w/b", Told.REVOKED, "the workflow was cancelled before the task was sent"),
    }


def test_stopped_by_a_deadline(conversation: Conversation) -> None:
    """The reason of the stop is the reason of each; what was blocked by it is revoked as well."""
    conversation.submit("a; b < a; c countdown=100; d < c rule=none_failed", policy=WorkflowPolicy(deadline_s=5))
    conversation.turn(after_s=6)
    told = _told(conversation)
    assert told["c"] == StoreOutcome("w/c", Told.REVOKED, "the deadline of 5 s is over")
    assert {name: each and each.told for name, each in told.items()} == {"a": None} | dict.fromkeys("bcd", Told.REVOKED)


def test_refused_and_expired(conversation: Conversation) -> None:
    """A message that could not be built has failed; one that expired here is told as a worker would tell it."""
    conversation.submit("a; b < a")
    conversation.turn(MessageRefused("w/a", "no such serializer"))
    told = _told(conversation)["a"]
    assert told == StoreOutcome("w/a", Told.FAILURE, "not dispatched: no such serializer")


def test_skipped_by_an_operator(conversation: Conversation) -> None:
    """A success with the value that was given, or none."""
    conversation.submit("a; b < a; c < a; d < b c")
    conversation.ask("skip", "b", value=b"[7]")
    conversation.ask("skip", "c")
    told = _told(conversation)
    assert told["b"] == StoreOutcome("w/b", Told.SUCCESS, value=b"[7]")
    assert told["c"] == StoreOutcome("w/c", Told.SUCCESS)


def test_not_needed(conversation: Conversation) -> None:
    """What its rule skips is revoked; hooks and what is there for failures is nobody's result."""
    conversation.submit("a; b < a; c < a rule=any_failed; h hook=failure")
    conversation.turn(TaskIgnored("w/a", "no"))
    told = _told(conversation)
    assert told["b"] == StoreOutcome("w/b", Told.REVOKED, "the task was not needed and never sent")
    assert (told["c"], told["h"]) == (None, None)


def test_expired_in_the_queue_of_the_daemon(conversation: Conversation) -> None:
    """Its time was over before its turn came: revoked, as a worker has it."""
    conversation.submit(f"g gate=1; a < g expires={START + 5}")
    conversation.now += 10
    conversation.ask("release", "g")
    told = _told(conversation)["a"]
    assert told == StoreOutcome("w/a", Told.REVOKED, "it expired before it was dispatched")


@pytest.mark.parametrize("on_failure", OnFailure)
def test_each_turn_names_what_is_to_be_told(conversation: Conversation, on_failure: OnFailure) -> None:
    """The batch has the nodes that came to their end without their task, once, when they did."""
    conversation.submit("a; b < a; c < b", policy=WorkflowPolicy(on_failure=on_failure))
    batch = conversation.turn(TaskFailed("w/a", "boom"))
    assert {workflow.graph.names[node] for workflow, node in batch.unrun} == {"b", "c"}
    assert all(is_unrun(workflow, node) for workflow, node in batch.unrun)
