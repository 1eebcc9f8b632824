"""What becomes of nodes by their tasks, in flight, late, or of another attempt."""

import pytest

from dyrygentd.core.events import (
    MessagePublished,
    MessageRefused,
    TaskFailed,
    TaskIgnored,
    TaskLost,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
)
from tests.support.conversation import Conversation


def _counts(conversation: Conversation) -> dict[str, int]:
    counters = conversation.engine.statistics().counters
    return {name: count for name, count in counters.items() if count and name not in ("submitted", "dispatched", "verbs")}


def test_strangers_are_counted(conversation: Conversation) -> None:
    """A result of nobody changes nothing; what a dispatcher says of one is not even worth counting."""
    conversation.turn(TaskSucceeded("x", b"1"), TaskReported("x", "STARTED"), MessagePublished("x"), MessageRefused("x", "no"))
    assert _counts(conversation) == {"unrouted": 2}


def test_a_task_may_end_its_chain(conversation: Conversation) -> None:
    """Setting ``self.request.chain`` to nothing skips what follows it alone, and not a body that waits for several."""
    conversation.submit("a; b < a; c; d; e < c d")
    conversation.turn(TaskSucceeded("w/a", b"1", ends_chain=True), TaskSucceeded("w/c", b"1", ends_chain=True))
    assert conversation.states() == {"a": "skipped", "b": "skipped", "c": "succeeded", "d": "dispatching", "e": "waiting"}
    assert _counts(conversation) == {"ignored": 1, "succeeded": 1}


def test_a_destination_that_was_found_out_is_remembered(conversation: Conversation) -> None:
    """Whoever published knows where it went, and a later revoke or look needs that."""
    conversation.submit("a")
    batch = conversation.turn(MessagePublished("w/a", "slow"))
    assert conversation.workflow().attempts.destination_of(0) == "slow"
    assert "w" in batch.save_workflows


def test_a_refused_message_has_failed(conversation: Conversation) -> None:
    """It can never be sent, so no attempt helps."""
    conversation.submit("a retry=5; b < a")
    conversation.turn(MessageRefused("w/a", "no such serializer"))
    assert conversation.states() == {"a": "failed", "b": "blocked"}
    assert _counts(conversation)["refused"] == 1


@pytest.mark.parametrize(
    ("event", "word"),
    [
        (TaskSucceeded("w/a", b"1"), "succeeded"),
        (TaskFailed("w/a", "boom"), "failed"),
        (TaskIgnored("w/a", "no"), "ignored"),
        (TaskLost("w/a", "nowhere"), "lost"),
    ],
)
def test_late_ends_are_noted(
    conversation: Conversation, event: TaskSucceeded | TaskFailed | TaskIgnored | TaskLost, word: str
) -> None:
    """What was cancelled and ran on all the same is told with the node; it is watched no more."""
    conversation.submit("a; b < a")
    conversation.ask("cancel")
    conversation.turn(TaskReported("w/a", "STARTED"))
    batch = conversation.turn(event)
    assert batch.unwatch == ["w/a"]
    assert conversation.restored("w").attempts.late == {0: word}
    assert _counts(conversation)["late"] == 1


def test_a_revoke_that_runs_on_is_awaited(conversation: Conversation) -> None:
    """A worker stores REVOKED at once, also of a task that it has begun and lets go on: how that ends comes after it."""
    conversation.submit("a; b < a gate=1")
    conversation.ask("skip", "a", force=True)
    assert conversation.turn(TaskRevoked("w/a", "revoked")).unwatch == []
    assert conversation.turn(TaskSucceeded("w/a", b"1")).unwatch == ["w/a"]


def test_a_worker_given_up_too_early(conversation: Conversation) -> None:
    """A success after a failure that somebody else reported corrects it, as long as the workflow goes on."""
    conversation.submit("a; b < a; g gate=1")
    conversation.turn(TaskFailed("w/a", "its worker was lost", "WorkerLostError"))
    assert conversation.states()["b"] == "blocked"
    conversation.turn(TaskFailed("w/a", "its worker was lost", "WorkerLostError"))
    conversation.turn(TaskSucceeded("w/a", b"1"))
    assert (conversation.states()["a"], conversation.states()["b"]) == ("succeeded", "dispatching")


def test_a_doubtful_failure_that_is_tried_again(conversation: Conversation) -> None:
    """Another attempt is on its way, so the old one is not watched."""
    conversation.submit("a retry=2 backoff=9 jitter=0")
    conversation.turn(TaskFailed("w/a", "its worker was lost", "WorkerLostError"))
    assert not conversation.engine.flights.is_late("w/a")


def test_an_earlier_attempt_says_nothing_of_the_present_one(conversation: Conversation) -> None:
    """Its end is counted, and the node stays with the attempt that runs now."""
    conversation.submit("a timeout=5 retry=3 backoff=1 jitter=0")
    conversation.turn(after_s=6)
    conversation.turn(after_s=2)
    conversation.turn(TaskSucceeded("w/a", b"1"))
    assert conversation.states() == {"a": "dispatching"}
    assert (_counts(conversation)["late"], conversation.workflow().attempts.late) == (1, {})


def test_lost_and_turned_up(conversation: Conversation) -> None:
    """Its end is the node's end after all, and the journal tells why; being lost once more is no end."""
    conversation.submit("a; b < a")
    conversation.turn(TaskLost("w/a", "nowhere"))
    conversation.turn(TaskLost("w/a", "nowhere"))
    assert conversation.states()["a"] == "held"
    conversation.turn(TaskSucceeded("w/a", b"1"))
    assert conversation.states() == {"a": "succeeded", "b": "dispatching"}
    assert [entry.verb for entry in conversation.journal] == ["lost", "turned-up"]


def test_late_end_of_a_workflow_that_was_forgotten(conversation: Conversation) -> None:
    """It is counted and watched no more; there is nobody to tell."""
    conversation.submit("a")
    conversation.ask("cancel")
    conversation.engine.flights.late._resting.clear()
    assert list(conversation.engine.flights.late_tasks()) == []
    conversation.engine.handle(TaskSucceeded("w/a", b"1"), conversation.now)
    assert conversation.engine.take_batch(conversation.now).unwatch == ["w/a"]


def test_a_late_success_that_breaks_a_workflow() -> None:
    """A bug that a correction meets ends this workflow, and no other."""
    conversation = Conversation()
    conversation.submit("a; b < a; g gate=1")
    conversation.submit("a", "v")
    conversation.turn(TaskFailed("w/a", "its worker was lost", "WorkerLostError"))
    conversation.engine.handle(TaskSucceeded("w/a", 5), conversation.now)  # type: ignore[arg-type]
    batch = conversation.engine.take_batch(conversation.now)
    assert batch.save_workflows["w"].state.value == "failed"
    assert (conversation.engine.counting.counters.broken, list(conversation.engine.workflows)) == (1, ["v"])


def test_a_task_tries_again_by_itself(conversation: Conversation) -> None:
    """A beginning after its own retry is no redelivery."""
    conversation.submit("a")
    conversation.turn(TaskReported("w/a", "STARTED", start="w1/7"), TaskReported("w/a", "RETRY"))
    conversation.turn(TaskReported("w/a", "STARTED", start="w2/9"))
    assert conversation.engine.flights.deliveries.take_suspected() == []


def test_turned_up_under_an_id_that_another_workflow_claims(conversation: Conversation) -> None:
    """Its end cannot be told from the other one's, so the node fails by name."""
    conversation.submit("a; g gate=1")
    conversation.submit("z gate=1", "v")
    conversation.turn(TaskLost("w/a", "nowhere"))
    conversation.engine.flights.claims.release("w")
    conversation.engine.flights.claims.claim("v", ["w/a"])
    conversation.turn(TaskSucceeded("w/a", b"1"))
    assert conversation.states()["a"] == "failed"
