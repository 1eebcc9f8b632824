"""How often the broker gave a task out: suspected by beginnings, counted when a worker confirms it."""

from dyrygentd.core import deliveries
from dyrygentd.core.deliveries import Deliveries


def test_another_beginning_is_a_suspicion() -> None:
    """The same worker may tell its beginning twice; another one means that the message went out once more."""
    known = Deliveries()
    assert repr(known) == "<Deliveries tasks=0 suspected=0>"
    known.began("a", "w1/7")
    known.began("a", "w1/7")
    assert known.take_suspected() == []
    known.began("a", "w2/9")
    assert (known.take_suspected(), known.take_suspected()) == (["a"], [])
    assert repr(known) == "<Deliveries tasks=1 suspected=0>"


def test_a_retry_of_its_own_is_none() -> None:
    """A task that asks for another try begins again by right."""
    known = Deliveries()
    known.tries_again("stranger")
    known.began("a", "w1/7")
    known.tries_again("a")
    known.tries_again("a")
    known.began("a", "w2/9")
    assert known.take_suspected() == []
    assert (known.tries("a"), known.tries("stranger")) == (1, 0)


def test_confirmed_counts_what_was_seen() -> None:
    """What workers began is the least that there were, even if only the last one was confirmed."""
    known = Deliveries()
    assert [known.confirmed("a"), known.confirmed("a")] == [1, 2]
    for worker in ("w1", "w2", "w3", "w4"):
        known.began("b", worker)
    assert known.confirmed("b") == 3


def test_what_ended_is_forgotten() -> None:
    """A new attempt is counted anew; a stranger does no harm."""
    known = Deliveries()
    known.began("a", "w1")
    known.forget("a")
    known.forget("stranger")
    known.began("a", "w2")
    assert known.take_suspected() == []


def test_bounded() -> None:
    """Tasks come without end; the oldest are forgotten, and no more are suspected than can be asked about."""
    known = Deliveries()
    for number in range(deliveries._TASKS_MAX + 1):
        known.began(str(number), "w1")
    known.began("0", "w2")
    assert known.take_suspected() == []
    for number in range(1000, 1000 + deliveries._SUSPECTED_MAX + 1):
        known.began(str(number), "w2")
    assert len(known.take_suspected()) == deliveries._SUSPECTED_MAX


def test_retries_of_a_task_that_does_not_tell_its_beginnings() -> None:
    """The time of its next try tells one from another, and what is told twice counts once."""
    known = Deliveries()
    for next_try_at in (5.0, 5.0, 0.0, 9.0):
        known.tries_again("a", next_try_at)
    assert known.tries("a") == 2
    known.began("b", "w1")
    known.tries_again("b")
    known.tries_again("b", 5.0)
    assert known.tries("b") == 1
