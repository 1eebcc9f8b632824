"""Attempts: numbers that only grow, ids that follow from them, and what goes with an attempt that ends."""

from dyrygentd.core.attempts import EARLIER_MAX, QUESTIONS_MAX, Attempts
from dyrygentd.core.destination import ROUTES_MAX
from dyrygentd.core.events import TaskFailed, TaskReported, TaskSucceeded
from dyrygentd.core.graph import Graph
from dyrygentd.core.ids import ALL_MADE, OF_OLD, task_id_of_attempt, task_id_of_old
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.records import Attempt
from tests.support.conversation import START, Conversation, parse_graph


def test_ids_follow_from_the_number() -> None:
    """The first is that of the submission; the one before the present one can be told, too."""
    attempts = Attempts(parse_graph("a; &j < a"))
    assert (attempts.of(0), attempts.task_id_of(0), attempts.task_id_of(1)) == (0, "w/a", "")
    attempts.dispatched_at[0] = 5.0
    assert (attempts.of(0), attempts.task_id_of(0)) == (1, "w/a")
    attempts.end(0, 5.5, ended="failed")
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
    attempts.end(0, 9.5, ended="failed")
    assert (attempts.reported, attempts.late, attempts.redelivered, attempts.failures) == ({}, {}, {}, {0: 1})
    attempts.start_over(0, 9.0, is_first_id_used=False)
    assert (attempts.of(0), attempts.failures) == (1, {})


def test_an_id_that_somebody_else_has_is_passed_over() -> None:
    """Only nodes that were never sent, or whose first id stands for what an operator gave, begin with another one."""
    attempts = Attempts(parse_graph("a; b; c"))
    attempts.dispatched_at[1] = 5.0
    assert attempts.pass_over_ids([0, 1]) == [0]
    attempts.start_over(2, 9.0, is_first_id_used=True)
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


def _tried(attempts: Attempts, node: int, times: int, *, ended: str = "failed") -> None:
    for _ in range(times):
        attempts.dispatched_at[node] = sent_at = float(attempts.of(node) + 1)
        attempts.end(node, sent_at + 0.5, ended=ended, error="no " * 100)


def test_earlier_attempts_are_kept_in_bounds() -> None:
    """The last few of each node are kept, with one text for errors that are alike; of a whole workflow no more than so many."""
    attempts = Attempts(parse_graph("a; b; c; d"), earlier_max=EARLIER_MAX + QUESTIONS_MAX + 1)
    _tried(attempts, 0, EARLIER_MAX + 5)
    kept = attempts.earlier[0]
    assert [each.number for each in kept] == [*range(6, EARLIER_MAX + 6)]
    assert len(kept[0].error) == 200
    assert len({id(each.error) for each in kept}) == 1
    _tried(attempts, 1, QUESTIONS_MAX + 5, ended="not yet")
    assert [each.number for each in attempts.earlier[1]] == [6, 7, 8]
    _tried(attempts, 2, 3)
    _tried(attempts, 3, 2)
    assert [each.number for each in attempts.earlier[2]] == [3]
    assert 3 not in attempts.earlier
    # What is taken back makes room.
    attempts.take_back(2, 2, 3.0)
    assert 2 not in attempts.earlier
    _tried(attempts, 3, 1)
    assert [each.number for each in attempts.earlier[3]] == [3]


def test_each_attempt_has_its_times_and_its_end(conversation: Conversation) -> None:
    """When it was sent, began and ended, who had it, how it ended, and when the next one was due: also after a crash."""
    conversation.submit("a retry=3 backoff=4 jitter=0; once")
    conversation.turn(TaskReported("w/a", "STARTED", start="one@host/17"), after_s=1)
    conversation.turn(TaskReported("w/once", "STARTED", start="one@host/18"), TaskFailed("w/a", "no"), after_s=2)
    first = Attempt(1, START, START + 3, "failed", START + 7, START + 1, "one@host", "no")
    assert conversation.workflow().attempts.earlier == {0: (first,)}
    conversation.turn(after_s=5)
    second_id = task_id_of_attempt("w/a", 2)
    conversation.turn(TaskFailed(second_id, "not again", worker="two@host"), after_s=1)
    conversation.crash()
    second = Attempt(2, START + 8, START + 9, "failed", START + 17, 0.0, "two@host", "not again")
    attempts = conversation.workflow().attempts
    assert attempts.earlier == {0: (first, second)}
    conversation.turn(after_s=8)
    third_id = task_id_of_attempt("w/a", 3)
    conversation.turn(TaskReported(third_id, "STARTED", start="three@host/1"), after_s=1)
    assert conversation.workflow().attempts.began(0) == (START + 18, "three@host")
    conversation.turn(TaskSucceeded(third_id, b"1"), TaskSucceeded("w/once", b"1"), after_s=1)
    attempts = conversation.restored("w").attempts
    # Of what was tried once and succeeded nothing is kept.
    assert (attempts.earlier, attempts.told) == ({0: (first, second)}, {0: (START + 18, "three@host")})
    assert not attempts.workers


def test_whoever_has_an_attempt_is_told_in_either_way() -> None:
    """By the beginning, of which the process is left out, or by a later report; of a name without end nothing is."""
    attempts = Attempts(parse_graph("a"))
    attempts.dispatched_at[0] = 5.0
    attempts.note_reported(0, "STARTED", start="one@host/17")
    assert attempts.began(0) == (0.0, "one@host")
    attempts.note_reported(0, "PROGRESS")
    assert attempts.began(0) == (0.0, "one@host")
    attempts.note_reported(0, "RETRY", 9.0, "two@a/b")
    assert attempts.began(0) == (0.0, "two@a/b")
    attempts.finish(0, is_bad=False)
    assert (attempts.began(0), attempts.told, attempts.reported, attempts.next_tries) == ((0.0, ""), {}, {}, {})
    attempts.note_reported(0, "STARTED", start="w" * 1_000 + "/17")
    assert (attempts.began(0), len(attempts.workers[0])) == ((0.0, ""), 300)


def test_where_a_failure_began_is_kept(conversation: Conversation) -> None:
    """Whoever looks for its log has to know where and when; started over, it is one of those that were."""
    conversation.submit("a; b < a")
    conversation.turn(TaskReported("w/a", "STARTED", start="one@host/17"), after_s=1)
    conversation.turn(TaskFailed("w/a", "no"), after_s=1)
    assert conversation.restored("w").attempts.told == {0: (START + 1, "one@host")}
    conversation.now += 8
    assert conversation.ask("retry", "a").is_changed
    attempts = conversation.workflow().attempts
    assert (attempts.told, attempts.began(0)) == ({}, (0.0, ""))
    assert attempts.earlier == {
        0: (Attempt(1, START, START + 2, "failed", START + 10, START + 1, "one@host", "no", is_over=True),)
    }


def test_nothing_is_kept_of_a_failure_that_nobody_saw_begin(conversation: Conversation) -> None:
    """Workers tell of it only if they are set to; what others tell is not its own."""
    conversation.submit("a; b")
    conversation.turn(TaskReported("w/b", "STARTED", start="one@host/17"), after_s=1)
    conversation.turn(TaskFailed("w/a", "no"), after_s=1)
    attempts = conversation.workflow().attempts
    assert (attempts.told, attempts.began(0)) == ({}, (0.0, ""))


def test_what_waits_for_its_next_attempt_is_due_when_it_starts_over() -> None:
    """Set back while it pauses it is due at once; what was due already waits since then."""
    attempts = Attempts(parse_graph("a; b; c"))
    for node, due_at in ((0, 50.0), (1, 3.0), (2, 0.0)):
        attempts.dispatched_at[node] = 1.0
        attempts.end(node, 2.0, ended="failed", due_at=due_at)
        attempts.start_over(node, 9.0, is_first_id_used=False)
    assert [attempts.earlier[node][0].due_at for node in range(3)] == [9.0, 3.0, 9.0]
    assert not any(attempts.earlier[node][0].is_over for node in range(3))
    # Cancelled meanwhile, and set going again by somebody.
    attempts.start_over(0, 30.0, is_first_id_used=False, ended="cancelled", ended_at=10.0)
    assert attempts.earlier[0][0][4:] == (30.0, 0.0, "", "", True)
    assert "earlier=3" in repr(attempts)
