"""What keeps failing, in words and numbers: by cause, the worst first, and at a price that does not grow with the nodes."""

from dyrygentd.core.attempts import EARLIER_MAX
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskReported, TaskSucceeded
from dyrygentd.core.overview import survey_in_steps
from dyrygentd.core.policy import FailureKind
from dyrygentd.core.retry_loops import keeps_failing, times_in_a_row, tried_again, words_of_loops
from dyrygentd.core.standing import headline, standing_of_node, standings_in_steps
from dyrygentd.core.steps import exhaust
from tests.support.conversation import Conversation

_RETRY = "retry=99 backoff=10 backoff_max=10"


def _fail(conversation: Conversation, *names: str, cause: str = "Boom", wait_s: float = 10.0) -> None:
    """Have the attempts of nodes fail that are in flight, and let time pass."""
    workflow = conversation.workflow()
    numbers = {name: workflow.graph.number(name) for name in names}
    ids = [workflow.attempts.task_id_of(node) for node in numbers.values() if node is not None]
    conversation.turn(*[TaskFailed(task_id, f"{cause}: no", cause, FailureKind.TASK, cause) for task_id in ids])
    conversation.turn(after_s=wait_s)


def _words(conversation: Conversation) -> list[str]:
    return [loop.words(conversation.now) for loop in keeps_failing(conversation.workflow())]


def test_one_node(conversation: Conversation) -> None:
    """Which, how often, with what, and when it is tried again; two failures are none of this yet."""
    conversation.submit(f"a {_RETRY}")
    _fail(conversation, "a")
    [tried] = tried_again(conversation.workflow())
    assert tried.words(conversation.now).startswith("'a' has failed once, and is in flight")
    _fail(conversation, "a")
    assert _words(conversation) == []
    [tried] = tried_again(conversation.workflow())
    assert (tried.count, tried.failures, tried.fingerprint, tried.error) == (1, 2, "Boom", "Boom: no")
    assert tried.words(conversation.now) == "'a' has failed 2 times in a row within 20 s, and is in flight once more: Boom: no"
    _fail(conversation, "a", wait_s=4.0)
    assert _words(conversation) == ["'a' has failed 3 times in a row within 24 s, and is tried again in 6 s: Boom: no"]
    assert keeps_failing(conversation.workflow())[0].next_at == conversation.now + 6


def test_since_when(conversation: Conversation) -> None:
    """Since the first failure of the row was sent, also if that is not kept any more; a good attempt begins anew."""
    conversation.submit(f"a {_RETRY}; b {_RETRY} poll=10")
    began = conversation.now
    for _ in range(EARLIER_MAX + 3):
        _fail(conversation, "a")
    [loop] = keeps_failing(conversation.workflow())
    assert (loop.most, loop.since) == (EARLIER_MAX + 3, began)
    conversation.turn(TaskSucceeded(conversation.workflow().attempts.task_id_of(1), b"false"))
    conversation.turn(after_s=10.0)
    good = conversation.now
    for _ in range(4):
        _fail(conversation, "b")
    assert {loop.nodes: loop.since for loop in tried_again(conversation.workflow())}["a", "b"] == began
    conversation.ask("skip", "a")
    assert {loop.nodes: loop.since for loop in tried_again(conversation.workflow())} == {("b",): good}
    for _ in range(EARLIER_MAX):
        _fail(conversation, "b")
    [loop] = keeps_failing(conversation.workflow())
    # As far as it is known.
    assert (loop.most, loop.since) == (EARLIER_MAX + 4, good + 40.0)


def test_many_nodes(conversation: Conversation) -> None:
    """One line for all of a cause: the sum, the worst of them, and the next attempt of any."""
    conversation.submit(f"a {_RETRY}; b {_RETRY}; c {_RETRY}; d {_RETRY}")
    for _ in range(3):
        _fail(conversation, "a", "b")
    _fail(conversation, "b", "c", wait_s=3.0)
    [loop] = keeps_failing(conversation.workflow())
    assert (loop.count, loop.failures, loop.nodes, loop.most, loop.in_flight) == (2, 7, ("b", "a"), 4, 1)
    assert _words(conversation) == [
        "2 nodes have failed 7 times, 'b' 4 times in a row within 33 s; one of them is tried again in 7 s: Boom: no"
    ]
    [tried] = tried_again(conversation.workflow())
    assert (tried.count, tried.failures) == (3, 8)


def test_the_worst_cause_comes_first(conversation: Conversation) -> None:
    """A verdict names one of several, and how many nodes there are in all."""
    conversation.submit(f"a {_RETRY}; b {_RETRY}")
    for _ in range(3):
        _fail(conversation, "a")
    for _ in range(4):
        _fail(conversation, "b", cause="Bang")
    workflow = conversation.workflow()
    assert [loop.fingerprint for loop in keeps_failing(workflow)] == ["Bang", "Boom"]
    assert [loop.fingerprint for loop in keeps_failing(workflow, most=1)] == ["Bang"]
    assert words_of_loops(workflow, conversation.now) == "; 2 nodes keep failing, most often 'b'"
    found = exhaust(survey_in_steps(conversation.engine, most=1, oldest_max=1))
    assert ([loop.tried.fingerprint for loop in found.loops], found.loops_count, found.looping) == (["Bang"], 2, 2)


def test_few_are_looked_at(conversation: Conversation) -> None:
    """All are counted, and of a great many the first are looked at."""
    conversation.submit("; ".join(f"n{number} {_RETRY}" for number in range(4)))
    for _ in range(3):
        _fail(conversation, *(f"n{number}" for number in range(4)))
    [loop] = keeps_failing(conversation.workflow(), looked_at=2)
    assert (loop.count, loop.failures, loop.nodes, loop.in_flight) == (4, 12, ("n0", "n1"), 2)


def test_held_on_the_way(conversation: Conversation) -> None:
    """What an operator holds has no time of a next attempt; with an error that nobody knows nothing is made up."""
    conversation.submit(f"a {_RETRY}")
    for _ in range(3):
        _fail(conversation, "a", wait_s=0.0)
        conversation.turn(after_s=10.0)
    _fail(conversation, "a", wait_s=0.0)
    conversation.ask("hold", "a")
    conversation.turn(after_s=20.0)
    conversation.workflow().attempts.tried_again.causes["Boom"].error = ""
    assert _words(conversation) == ["'a' has failed 4 times in a row within 50 s, and waits to be tried again"]


def test_a_task_that_tries_by_itself_has_its_own_time(conversation: Conversation) -> None:
    """As far as workers tell it."""
    conversation.submit("a")
    for number in range(3):
        conversation.turn(TaskReported("w/a", "RETRY", "w", next_try_at=2000.0 + number, error="OSError: busy"))
    [loop] = keeps_failing(conversation.workflow())
    assert (loop.next_at, loop.failures, loop.error) == (2002.0, 3, "OSError: busy")


def test_how_it_stands(conversation: Conversation) -> None:
    """Whoever asks for the node, or the workflow, is told of the failures behind it, also while an attempt is in flight."""
    conversation.submit(f"a {_RETRY}; b {_RETRY}; c {_RETRY}")
    engine, workflow = conversation.engine, conversation.workflow()
    _fail(conversation, "b", cause="Other", wait_s=0.0)
    for _ in range(3):
        _fail(conversation, "a", wait_s=10.0)
    assert headline(engine, workflow, conversation.now) == (
        "it is running: 3 tasks in flight; 'a' has failed 3 times in a row within 30 s, and is in flight once more: Boom: no"
    )
    conversation.turn(MessagePublished(workflow.attempts.task_id_of(0)))
    standing = standing_of_node(engine, workflow, 0, conversation.now)
    assert standing.text.endswith("(attempt 4, after 3 failures in a row, the last with Boom: no)")
    _fail(conversation, "a", wait_s=0.0)
    _fail(conversation, "b", "c", cause="Other", wait_s=0.0)
    found = exhaust(standings_in_steps(engine, workflow, conversation.now))
    assert [(each.code, each.node, each.count) for each in found] == [("retrying", "a", 1), ("retrying", "b", 2)]
    assert found[0].text == "'a' failed 4 times in a row, now in attempt 4 (Boom: no) and is tried again in 10 s"
    assert times_in_a_row(workflow, 1) == ""
