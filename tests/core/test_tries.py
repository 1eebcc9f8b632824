"""What a node did with its time: attempt by attempt, with the pauses and waits between them."""

from dyrygentd.core.attempts import EARLIER_MAX
from dyrygentd.core.events import TaskFailed, TaskLost, TaskSucceeded
from dyrygentd.core.ids import task_id_of_attempt
from dyrygentd.core.records import Attempt
from dyrygentd.core.states import NodeState
from dyrygentd.core.tries import Doing, Stretch, left_out, spans_of, tries_of
from tests.support.conversation import START, Conversation


def _spans(conversation: Conversation, node: int = 0) -> list[tuple[str, float, float]]:
    """Return what a node did, with times since the beginning."""
    workflow = conversation.restored("w")
    spans = spans_of(workflow, node, workflow.states[node], START, conversation.now)
    return [(span.doing.name.lower(), span.begin - START, span.end - START) for span in spans]


def test_a_node_that_was_tried_once_has_one_attempt(conversation: Conversation) -> None:
    """It waited from the end of what it depends on, and what is in flight has no end."""
    conversation.submit("a; b countdown=3; c < a; d < c")
    conversation.turn(TaskSucceeded("w/a", b"1"), after_s=2)
    conversation.turn(after_s=1)
    workflow = conversation.workflow()
    [a], [b], [c] = (tries_of(workflow, node) for node in range(3))
    assert a == (Attempt(1, START, START + 2, "succeeded"), 0.0, 0.0)
    assert (b.attempt.sent_at, b.attempt.ended_at, b.waited_s) == (START + 3, 0.0, 3.0)
    assert (c.attempt.ended, c.backoff_s, c.waited_s) == ("dispatching", 0.0, 0.0)
    assert tries_of(workflow, 3) == []
    assert [left_out(workflow, node) for node in range(3)] == [0, 0, 0]


def test_pauses_until_it_is_due_are_apart_from_waits(conversation: Conversation) -> None:
    """A pause ends when the next attempt is due; what waits then waits as any other one does."""
    conversation.submit("a retry=3 backoff=2 jitter=0")
    conversation.turn(TaskFailed("w/a", "no"), after_s=1)
    assert _spans(conversation) == [("running", 0, 1)]
    conversation.now += 1
    assert _spans(conversation) == [("running", 0, 1), ("backoff", 1, 2)]
    conversation.turn(after_s=3)
    assert _spans(conversation) == [("running", 0, 1), ("backoff", 1, 3), ("waiting", 3, 5)]
    conversation.turn(TaskSucceeded(task_id_of_attempt("w/a", 2), b"1"), after_s=1)
    assert _spans(conversation) == [("running", 0, 1), ("backoff", 1, 3), ("waiting", 3, 5), ("again", 5, 6)]
    first, second = tries_of(conversation.restored("w"), 0)
    assert (first.waited_s, second.backoff_s, second.waited_s) == (0, 2, 2)


def test_what_was_lost_waits_for_a_person(conversation: Conversation) -> None:
    """Nothing tries it again by itself, so there is no pause; what had ended and is set going again did nothing meanwhile."""
    conversation.submit("a on_lost=hold")
    conversation.turn(TaskLost("w/a", "it is nowhere"), after_s=1)
    conversation.now += 4
    assert conversation.ask("release", "a").is_changed
    assert _spans(conversation) == [("running", 0, 1), ("waiting", 1, 5)]
    conversation.turn(TaskFailed(task_id_of_attempt("w/a", 2), "no"), after_s=1)
    conversation.now += 10
    assert conversation.ask("retry", "a").is_changed
    conversation.now += 2
    ended = [("running", 0, 1), ("waiting", 1, 5), ("again", 5, 6), ("again", 16, 18)]
    assert _spans(conversation) == ended
    assert [each.attempt.ended for each in tries_of(conversation.workflow(), 0)] == ["lost", "failed", "dispatching"]
    # Held back for something else, it waits for that and not for its turn.
    conversation.ask("cancel")
    assert _spans(conversation) == ended


def test_a_node_that_does_not_run_any_more_has_run(conversation: Conversation) -> None:
    """Set back until what it depends on has run again, it does nothing, and its attempts stay."""
    conversation.submit("a; b < a")
    conversation.turn(TaskSucceeded("w/a", b"1"), after_s=1)
    conversation.turn(TaskSucceeded("w/b", b"1"), after_s=1)
    conversation.now += 1
    conversation.ask("rerun", "a")
    conversation.now += 1
    assert conversation.states() == {"a": "dispatching", "b": "waiting"}
    assert _spans(conversation, 1) == [("running", 1, 2)]


def test_questions_of_a_poll_are_one_span(conversation: Conversation) -> None:
    """Whoever looks sees one poll; asked again from the beginning, what was before is apart."""
    conversation.submit("p poll=2")
    task_id = "w/p"
    for attempt in range(2, 8):
        conversation.turn(TaskSucceeded(task_id, b"0"), after_s=1)
        conversation.turn(after_s=2)
        task_id = task_id_of_attempt("w/p", attempt)
    assert _spans(conversation) == [("running", 0, 18)]
    assert left_out(conversation.workflow(), 0) == 3
    assert [each.attempt.ended for each in tries_of(conversation.workflow(), 0)] == [*["not yet"] * 3, "dispatching"]
    conversation.turn(TaskSucceeded(task_id, b"1"), after_s=1)
    conversation.now += 1
    conversation.ask("rerun", "p")
    conversation.now += 1
    assert _spans(conversation)[-1] == ("running", 20, 21)


def test_what_is_not_kept_counts_as_pause(conversation: Conversation) -> None:
    """What many attempts did long ago is not known one by one, and was no wait for a place."""
    conversation.submit("a retry=50 backoff=1 backoff_max=1 jitter=0")
    task_id = "w/a"
    for attempt in range(2, EARLIER_MAX + 4):
        conversation.turn(TaskFailed(task_id, "no"), after_s=1)
        conversation.turn(after_s=1)
        task_id = task_id_of_attempt("w/a", attempt)
    assert left_out(conversation.workflow(), 0) == 2
    assert _spans(conversation)[:2] == [("backoff", 0, 4), ("again", 4, 5)]
    known = tries_of(conversation.workflow(), 0)
    assert (len(known), known[0].waited_s, known[0].backoff_s, known[1].waited_s) == (EARLIER_MAX + 1, None, 0.0, 0.0)


def test_a_clock_that_was_set_makes_spans_shorter() -> None:
    """One thing at a time, whatever the times say."""
    conversation = Conversation()
    conversation.submit("a")
    workflow = conversation.workflow()
    workflow.attempts.earlier[0] = (Attempt(1, START, START + 9, "failed"), Attempt(2, START + 4, START + 12, "failed"))
    workflow.attempts.take_back(0, 2, START + 7)
    spans = spans_of(workflow, 0, NodeState.DISPATCHED, START + 20, START + 13)
    assert spans == [
        Stretch(Doing.RUNNING, START, START + 9),
        Stretch(Doing.AGAIN, START + 9, START + 12),
        Stretch(Doing.AGAIN, START + 12, START + 13),
    ]
