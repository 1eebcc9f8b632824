"""Attempts: numbers that only grow, ids that follow from them, and what goes with an attempt that ends."""

from dyrygentd.core.attempts import Attempts
from dyrygentd.core.destination import ROUTES_MAX
from dyrygentd.core.graph import Graph, NodeSpec, Signature
from dyrygentd.core.ids import ALL_MADE, OF_OLD, task_id_of_old
from tests.support.conversation import Conversation, parse_graph


def test_ids_follow_from_the_number() -> None:
    """The first is that of the submission; the one before the present one can be told, too."""
    attempts = Attempts(parse_graph("a; &j < a"))
    assert (attempts.of(0), attempts.task_id_of(0), attempts.task_id_of(1)) == (0, "w/a", "")
    attempts.dispatched_at[0] = 5.0
    assert (attempts.of(0), attempts.task_id_of(0)) == (1, "w/a")
    attempts.end(0)
    attempts.dispatched_at[0] = 6.0
    second = attempts.task_id_of(0)
    assert (attempts.of(0), attempts.task_id_of(0, back=1)) == (2, "w/a")
    assert second != "w/a"
    attempts.take_back(0, 0, 5.0)
    assert (attempts.of(0), attempts.task_id_of(0)) == (1, "w/a")


def test_what_is_known_goes_with_an_attempt() -> None:
    """Nothing that was said of one attempt is told of the next; the failures are counted on until it starts over."""
    attempts = Attempts(parse_graph("a"))
    attempts.dispatched_at[0] = 5.0
    attempts.note_reported(0, "RETRY", 9.0, "worker")
    attempts.note_reported(0, "RETRY")
    assert attempts.next_tries == {0: (9.0, "worker")}
    attempts.note_reported(0, "STARTED")
    assert not attempts.next_tries
    attempts.late[0], attempts.redelivered[0], attempts.failures[0] = "failed", 2, 1
    attempts.end(0)
    assert (attempts.reported, attempts.late, attempts.redelivered, attempts.failures) == ({}, {}, {}, {0: 1})
    attempts.start_over(0, is_first_id_used=False)
    assert (attempts.of(0), attempts.failures) == (1, {})


def test_an_id_that_somebody_else_has_is_passed_over() -> None:
    """Only nodes that were never sent, or whose first id stands for what an operator gave, begin with another one."""
    attempts = Attempts(parse_graph("a; b; c"))
    attempts.dispatched_at[1] = 5.0
    assert attempts.pass_over_ids([0, 1]) == [0]
    attempts.start_over(2, is_first_id_used=True)
    assert [attempts.of(node) for node in range(3)] == [1, 1, 1]


def test_destinations_are_kept_once_for_each_task() -> None:
    """What differs is kept with the node, and so is all of it beyond so many tasks."""
    specs = [NodeSpec(f"n{number}", Signature(f"t{number}"), f"w/n{number}") for number in range(ROUTES_MAX + 1)]
    attempts = Attempts(Graph.build(specs))
    assert all(attempts.note_destination(node, "celery") for node in range(ROUTES_MAX))
    assert not attempts.note_destination(ROUTES_MAX, "celery")
    assert not attempts.note_destination(0, "other")
    assert attempts.sent_to == {ROUTES_MAX: "celery", 0: "other"}
    assert [attempts.destination_of(node) for node in (0, 1, ROUTES_MAX)] == ["other", "celery", "celery"]
    assert not attempts.note_destination(0, "celery")
    assert attempts.destination_of(0) == "celery"


def test_ids_that_can_be_guessed_are_held(conversation: Conversation) -> None:
    """A workflow of an earlier version names its next attempts in a way that anybody can follow."""
    conversation.submit("a; &j < a")
    attempts = conversation.workflow().attempts
    assert (attempts.held_ids(0), attempts.held_ids(1)) == (["w/a"], [""])
    attempts.ids = OF_OLD
    assert attempts.held_ids(0) == ["w/a", task_id_of_old("w/a", 2)]
    attempts.ids = ALL_MADE
