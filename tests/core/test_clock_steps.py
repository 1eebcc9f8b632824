"""When the clock is set, what is measured takes as long as it should, and what somebody named keeps its time."""

import pytest

from dyrygentd.core.effects import Batch
from dyrygentd.core.events import ClockStepped, TaskFailed, TaskReported, TaskSucceeded
from tests.support.conversation import START, Conversation


def _step(conversation: Conversation, by_s: float) -> Batch:
    return conversation.turn(ClockStepped(by_s), after_s=by_s)


@pytest.mark.parametrize("by_s", [3600.0, -600.0])
def test_measured_times_go_along(conversation: Conversation, by_s: float) -> None:
    """A countdown, a sleep, a pause before a retry and one of a poll take as long as ever, whichever way the clock went."""
    conversation.submit("a countdown=9; s sleep=9; r retry=2 backoff=9 jitter=0; p poll=9; f")
    conversation.turn(TaskFailed("w/r", "boom"), TaskSucceeded("w/p", b"false"))
    workflow = conversation.workflow()
    names = workflow.graph.names
    _step(conversation, by_s)
    assert {names[node]: hold.until for node, hold in workflow.holds.items()} == dict.fromkeys("asrp", START + by_s + 9)
    assert workflow.attempts.dispatched_at[4] == START + by_s
    assert workflow.attempts.polling_since[3] == START + by_s
    assert {name for (_, node), _ in conversation.nodes.items() for name in [names[node]]} == set(names)
    assert conversation.engine.next_deadline() == START + by_s + 9
    assert conversation.engine.counting.counters.clock_steps == 1
    assert len(conversation.turn(after_s=9).publish) == 3


def test_a_beginning_goes_along(conversation: Conversation) -> None:
    """Else a task would have been running for longer than since it was sent."""
    conversation.submit("a")
    conversation.tell(TaskReported("w/a", "STARTED"))
    attempts = conversation.workflow().attempts
    before = attempts.begun_at[0] - attempts.dispatched_at[0]
    _step(conversation, 3600.0)
    assert attempts.begun_at[0] - attempts.dispatched_at[0] == before


def test_a_named_time_stays(conversation: Conversation) -> None:
    """Whoever named a moment meant that moment, by whatever clock."""
    conversation.submit(f"a eta={START + 100}")
    _step(conversation, 50)
    assert conversation.workflow().holds[0].until == START + 100
    assert [message.task_id for message in _step(conversation, 50).publish] == ["w/a"]


def test_timeouts_go_along(conversation: Conversation) -> None:
    """A task that has run for a second has not run for an hour because the clock was set."""
    conversation.submit("a timeout=60; b countdown=5")
    _step(conversation, 3600)
    assert conversation.states()["a"] == "dispatching"
    conversation.turn(after_s=61)
    assert conversation.states()["a"] == "failed"


def test_nothing_to_move(conversation: Conversation) -> None:
    """A workflow in which nothing is measured is not written anew."""
    conversation.submit("a gate=1")
    batch = conversation.turn(ClockStepped(5.0))
    assert batch.row_count == 0


def test_a_clock_set_back_while_no_process_ran(conversation: Conversation) -> None:
    """What was saved by a clock that was ahead waits for its own length at most, and has not begun in the future."""
    conversation.submit("a countdown=9; s sleep=9; r retry=2 backoff=4 backoff_max=8 jitter=0; p poll=9; f")
    conversation.turn(TaskFailed("w/r", "boom"), TaskSucceeded("w/p", b"false"))
    conversation.now = now = START - 5000
    conversation.crash()
    workflow = conversation.workflow()
    names = workflow.graph.names
    assert {names[node]: hold.until for node, hold in workflow.holds.items()} == {
        "a": now + 9,
        "s": now + 9,
        "r": now + 8,
        "p": now + 9,
    }
    assert (workflow.attempts.dispatched_at[4], workflow.attempts.polling_since[3]) == (now, now)
