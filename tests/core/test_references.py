"""A text that names values kept elsewhere is kept, joined and let go like any other."""

import pytest

from dyrygentd.core.events import TaskFailed, TaskSucceeded, VerbRequested
from dyrygentd.core.limits import Limits
from dyrygentd.core.references import Reference, Referring, as_kept, pieces_of, references_in, size_of
from dyrygentd.core.states import NodeState
from dyrygentd.core.values import Joined, as_one
from dyrygentd.core.verbs import Verb, VerbRequest
from tests.support.conversation import Conversation

_BIG = 10_000_000


def _reference(name: str, workflow_id: str = "w", size: int = _BIG) -> Reference:
    return Reference(f"{workflow_id}/{name}", size)


def _end(task: str, name: str | None = None) -> TaskSucceeded:
    """The end of a task whose value was written elsewhere."""
    return TaskSucceeded(f"w/{task}", _reference(name or task).text)


def test_a_text_and_back() -> None:
    """What stands between references stays as it is, and each knows whose it is and how long."""
    one, other = _reference("0-1-a", size=100), _reference("1-1-b", size=50)
    text = as_kept(b'["x",%b,%b]' % (one.text, other.text))
    assert type(text) is Referring
    assert list(references_in(text)) == [one, other]
    assert list(pieces_of(text)) == [b'["x",', one, b",", other, b"]"]
    assert size_of(text) == len(b'["x",,]') + 150
    assert one.workflow_id == "w"
    assert type(as_kept(b"5")) is bytes
    assert size_of(b"12") == 2


def test_handed_on_in_the_place_of_a_value(conversation: Conversation) -> None:
    """A task gets what its message names; after a crash, too; nothing of the value is counted as being in memory."""
    conversation.submit("a; b < a; c < b; x")
    batch = conversation.turn(_end("a"))
    assert batch.publish[0].input == _reference("a").text
    assert conversation.engine.statistics().values_bytes < 100
    conversation.crash()
    assert list(conversation.workflow().values.elsewhere) == ["w/a"]
    conversation.turn(TaskSucceeded("w/b", b"1"))
    assert list(conversation.workflow().values.elsewhere) == []


def test_released_once_nobody_needs_it(conversation: Conversation) -> None:
    """Two take it; the batch that says that the second one has succeeded names it, and no batch before."""
    conversation.submit("a; b < a; c < a; x")
    assert conversation.turn(_end("a")).released == []
    assert conversation.turn(TaskSucceeded("w/b", b"1")).released == []
    assert conversation.turn(TaskSucceeded("w/c", b"1")).released == ["w/a"]
    assert conversation.turn(TaskSucceeded("w/x", b"1")).released == []


def test_kept_for_a_retry(conversation: Conversation) -> None:
    """Who has failed may run again with what it was given."""
    conversation.submit("a; b < a; g gate=1")
    conversation.turn(_end("a"))
    assert conversation.turn(TaskFailed("w/b", "boom")).released == []
    conversation.crash()
    conversation.ask("retry", "b")
    assert list(conversation.workflow().values.elsewhere) == ["w/a"]


def test_a_rerun_makes_another_one(conversation: Conversation) -> None:
    """The value before is released, and the new one, under a name of its own, is kept."""
    conversation.submit("a; g gate=1; b < a g")
    conversation.turn(_end("a", "first"))
    batch = conversation.turn(VerbRequested("w", VerbRequest(Verb.RERUN, nodes=("a",))))
    workflow = conversation.workflow()
    again = conversation.turn(TaskSucceeded(workflow.attempts.task_id_of(0), _reference("second").text))
    assert [*batch.released, *again.released] == ["w/first"]
    assert list(workflow.values.elsewhere) == ["w/second"]


def test_what_nobody_keeps_is_released(conversation: Conversation) -> None:
    """The end of a task that is told twice, of one that nobody knows, and of one whose value nobody takes."""
    conversation.submit("a; b < a; c; x")
    conversation.turn(_end("a", "first"))
    assert conversation.turn(_end("a", "second")).released == ["w/second"]
    assert conversation.turn(_end("foreign")).released == ["w/foreign"]
    assert conversation.turn(_end("c")).released == ["w/c"]
    assert list(conversation.workflow().values.elsewhere) == ["w/first"]


def test_joined_without_being_read(conversation: Conversation) -> None:
    """A join's list names them in order; its length is that of the values themselves."""
    conversation.submit("a; b; &j < a b; g gate=1; t < j g")
    conversation.turn(_end("a"), TaskSucceeded("w/b", b"2"))
    conversation.crash()
    batch = conversation.turn(VerbRequested("w", VerbRequest(Verb.RELEASE, nodes=("g",))))
    given = batch.publish[-1].input
    assert isinstance(given, Joined)
    assert as_one(given) == b"[[%b,2],null]" % _reference("a").text
    assert len(given) == _BIG + len("[[,2],null]")
    assert conversation.turn(TaskSucceeded("w/t", b"1")).released == ["w/a"]


def test_a_join_that_cannot_change_any_more(conversation: Conversation) -> None:
    """A list with a hole in it is a value of its own: it keeps what it names, also when the node that made it is run again."""
    conversation.submit("a; b; &j rule=all_finished < a b; g gate=1; t < j g")
    conversation.turn(_end("a", "first"), TaskFailed("w/b", "boom"))
    values = conversation.workflow().values
    assert values.by_node[2].content == b"[%b,null]" % _reference("first").text
    conversation.crash()
    assert set(conversation.workflow().values.elsewhere) == {"w/first"}


def test_bound_of_one_value(conversation: Conversation) -> None:
    """What is elsewhere counts with its length when it is handed on: no message of any length is ever made."""
    conversation.restart(Limits(value_bytes_max=_BIG + 10))
    conversation.submit("a; b; &j < a b; t < j")
    conversation.turn(_end("a"), _end("b"))
    record = conversation.nodes["w", 2]
    assert record.state == NodeState.FAILED.word
    assert "`value_bytes_max`" in record.error


def test_the_result_is_kept(conversation: Conversation) -> None:
    """What the workflow has for its result stays, named by its record."""
    conversation.submit("a; b < a", output="b")
    conversation.turn(_end("a"))
    assert conversation.turn(_end("b")).released == ["w/a"]
    assert conversation.workflows["w"].result == _reference("b").text


def test_of_another_workflow(conversation: Conversation) -> None:
    """What belongs to another workflow is not deleted by who has been given it."""
    conversation.submit("a; b < a; x")
    conversation.turn(TaskSucceeded("w/a", _reference("x", "child").text))
    assert conversation.turn(TaskSucceeded("w/b", b"1")).released == []


@pytest.mark.parametrize("bound", ["workflow_values_bytes_max", "values_bytes_max"])
def test_the_bound_says_what_else_there_is(conversation: Conversation, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is refused since too much is in memory says where it could be kept."""
    conversation.restart(Limits(**{bound: 10}))
    monkeypatch.setattr(conversation.engine.values, "_why_here", lambda: "; `value_store` names a place")
    conversation.submit("a; g gate=1; b < a g")
    conversation.turn(TaskSucceeded("w/a", b"12345678901"))
    assert conversation.nodes["w", 0].error.endswith("; `value_store` names a place")
