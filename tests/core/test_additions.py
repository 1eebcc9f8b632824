"""What tasks add: the node is held with its own value until that has ended, and goes on in it when it is tried again."""

import pytest

from dyrygentd.core.additions import Addition, Adds
from dyrygentd.core.children import parent_of
from dyrygentd.core.effects import Batch
from dyrygentd.core.events import ChildEnded, ChildRefused, TaskFailed, TaskSucceeded
from dyrygentd.core.limits import Limits
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.states import WorkflowState
from tests.support.conversation import Conversation

_CHAIN = "a!; b < a"
_CHORD = "a!; b!; &j < a b; c < j"


def _added(task_id: str, kind: Adds = Adds.BESIDE, *, value: bytes = b'"own"') -> TaskSucceeded:
    return TaskSucceeded(task_id, value, added=Addition(kind, b"packed"))


def _held(conversation: Conversation, kind: Adds = Adds.BESIDE, shape: str = _CHAIN) -> Batch:
    """Have the task of ``a`` succeed and add something."""
    conversation.submit(shape)
    return conversation.turn(_added("w/a", kind))


def test_result_and_addition_are_one_transaction(conversation: Conversation) -> None:
    """The row of the node has the value and what is to be begun; nothing of either is anywhere without the other."""
    batch = _held(conversation)
    row = batch.save_nodes["w", 0]
    assert (row.state, row.reason, row.added, row.generation) == ("held", "child", ("beside", "packed", '"own"', ""), 1)
    (begin,) = batch.begin.values()
    assert (begin.child.kind, begin.child.document, begin.input) == ("beside", b"packed", None)
    assert conversation.states() == {"a": "held", "b": "waiting"}
    assert conversation.engine.flights.in_flight_count == 0


def test_what_follows_gets_the_own_value(conversation: Conversation) -> None:
    """What was added runs, and then what follows the task is given what that has returned."""
    _held(conversation)
    child = conversation.begin("x")
    assert conversation.states()["b"] == "waiting"
    (message,) = conversation.succeed(f"{child}/x", value=b'"of the addition"').publish
    assert (message.task_id, message.input) == ("w/b", b'"own"')


def test_definition_is_let_go_when_it_is_taken_in(conversation: Conversation) -> None:
    """The child is saved with its document in the turn in which its node forgets that."""
    _held(conversation)
    before = conversation.workflow().values.bytes
    batch = conversation.submit("x", parent_of(conversation.workflow(), 0).child_id, parent=parent_of(conversation.workflow(), 0))
    assert batch.save_nodes["w", 0].added == ("beside", "", '"own"', "")
    assert conversation.workflow().values.bytes == before - len(b"packed")


@pytest.mark.parametrize("is_begun", [False, True])
def test_crash(conversation: Conversation, *, is_begun: bool) -> None:
    """Whatever was lost, the same is asked for again, or goes on; the task does not run a second time."""
    (asked,) = _held(conversation).begin
    child = conversation.begin("x") if is_begun else ""
    conversation.crash()
    batch = conversation.turn()
    assert [message.task_id for message in batch.publish] == ([f"{child}/x"] if is_begun else [])
    if not is_begun:
        assert [*batch.begin] == [asked]
        child = conversation.begin("x")
    assert child == asked
    (message,) = conversation.succeed(f"{child}/x").publish
    assert message.input == b'"own"'


def test_values_behind_in_lists(conversation: Conversation) -> None:
    """They stand right behind the own one in the list of a join, also after a crash, and nowhere else."""
    conversation.submit("a!; b!; &j < a b; c < j; d < a; e < a b")
    conversation.turn(_added("w/a", Adds.BEHIND))
    child = conversation.begin("x", output="x")
    batch = conversation.succeed(f"{child}/x", value=b" [5, 6] ")
    assert [(message.task_id, bytes(message.input or b"")) for message in batch.publish] == [("w/d", b'"own"')]
    assert batch.save_nodes["w", 0].behind == "5, 6"
    conversation.crash()
    batch = conversation.succeed("w/b", value=b'"b"')
    given = {message.task_id: bytes(message.input or b"") for message in batch.publish}
    assert {given["w/c"], given["w/e"]} == {b'["own",5, 6,"b"]'}
    conversation.succeed("w/c", "w/d", "w/e")
    assert conversation.workflows["w"].state is WorkflowState.SUCCEEDED
    assert conversation.engine.values.bytes == 0


def test_nothing_behind(conversation: Conversation) -> None:
    """An addition without values leaves the list as it is."""
    _held(conversation, Adds.BEHIND, _CHORD)
    child = conversation.begin("x", output="x")
    conversation.succeed(f"{child}/x", value=b"[]")
    (message,) = conversation.succeed("w/b", value=b"2").publish
    assert bytes(message.input or b"") == b'["own",2]'


@pytest.mark.parametrize("value", [b'"x"', b"{}", b"null"])
def test_what_is_to_go_behind_and_is_no_list(value: bytes, conversation: Conversation) -> None:
    """What somebody else than the companion has written would break the list that it is put into."""
    _held(conversation, Adds.BEHIND, _CHORD)
    child = conversation.begin("x", output="x")
    conversation.succeed(f"{child}/x", value=value)
    assert conversation.restored("w").errors[0] == "the values of what its task has added are no list"


def test_no_list(conversation: Conversation) -> None:
    """Where the node's value is put into no list, nothing could be put behind it: it fails by name."""
    _held(conversation, Adds.BEHIND)
    assert conversation.restored("w").errors[0] == "the task adds to its chord, and is no member of any"
    assert conversation.states() == {"a": "failed", "b": "blocked"}


def test_values_that_are_not_there(conversation: Conversation) -> None:
    """If the list of values could not be kept, the node has failed."""
    _held(conversation, Adds.BEHIND, _CHORD)
    parent = parent_of(conversation.workflow(), 0)
    conversation.turn(ChildEnded(parent, WorkflowState.SUCCEEDED, None, "too long"))
    assert conversation.restored("w").errors[0] == "the values of what its task has added are not there: too long"


def test_retry_goes_on_in_what_was_added(conversation: Conversation) -> None:
    """The task has succeeded and does not run again; the same child is asked for, and its success is the node's."""
    (asked,) = _held(conversation).begin
    child = conversation.begin("x")
    conversation.turn(TaskFailed(f"{child}/x", "boom"))
    assert conversation.states() == {"a": "failed", "b": "blocked"}
    assert conversation.restored("w").errors[0].endswith("failed: 'x' failed: boom")
    conversation.ask("retry", "a")
    workflow = conversation.workflow()
    assert workflow.holds[0].reason is HoldReason.CHILD
    assert (workflow.attempts.task_id_of(0), workflow.attempts.of(0)) == ("w/a", 1)
    parent = parent_of(workflow, 0)
    assert parent.child_id == asked
    (message,) = conversation.turn(ChildEnded(parent, WorkflowState.SUCCEEDED, b"1", "")).publish
    assert message.input == b'"own"'


def test_refused_addition(conversation: Conversation) -> None:
    """What can never be begun fails the node by name; a retry asks again, with all that was added."""
    _held(conversation)
    conversation.turn(ChildRefused(parent_of(conversation.workflow(), 0), "no such pool"))
    assert conversation.restored("w").errors[0] == "no such pool"
    conversation.ask("retry", "a")
    conversation.crash()
    (begin,) = conversation.turn().begin.values()
    assert begin.child.document == b"packed"


@pytest.mark.parametrize("state", ["failed", "succeeded"])
def test_rerun_adds_anew(conversation: Conversation, state: str) -> None:
    """The task runs again; what an earlier run has added is another workflow."""
    _held(conversation)
    child = conversation.begin("x")
    conversation.turn(TaskFailed(f"{child}/x", "boom") if state == "failed" else TaskSucceeded(f"{child}/x", b"1"))
    if state == "succeeded":
        conversation.succeed("w/b")
    conversation.ask("rerun", "a")
    assert conversation.states()["a"] == "dispatching"
    workflow = conversation.workflow()
    batch = conversation.turn(_added(workflow.attempts.task_id_of(0)))
    assert batch.save_nodes["w", 0].generation > 1
    assert child not in batch.begin


@pytest.mark.parametrize("verb", ["cancel", "skip"])
def test_verbs_go_down(conversation: Conversation, verb: str) -> None:
    """What nobody waits for any more is cancelled with it."""
    _held(conversation)
    child = conversation.begin("x")
    conversation.ask(verb, *(["a"] if verb == "skip" else []))
    assert conversation.workflows[child].state is WorkflowState.CANCELLED
    assert conversation.states()["a"] == ("skipped" if verb == "skip" else "cancelled")


def test_expansion(conversation: Conversation) -> None:
    """What the task returns is begun, and its result is the node's value."""
    conversation.submit("a! expands=1; b < a")
    (begin,) = conversation.succeed("w/a", value=b'{"nodes": []}').begin.values()
    assert (begin.child.kind, begin.child.document) == ("expands", b'{"nodes": []}')
    child = conversation.begin("x", output="x")
    (message,) = conversation.succeed(f"{child}/x", value=b"42").publish
    assert message.input == b"42"


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (TaskSucceeded("w/a", None, "it has no JSON form"), "what its task has returned is no definition: it has no JSON form"),
        (_added("w/a"), "the task has added work, and what it returns is to be run (`expands`): it can do one of both"),
    ],
)
def test_no_expansion(conversation: Conversation, event: TaskSucceeded, error: str) -> None:
    """What can be no definition fails the node by name."""
    conversation.submit("a! expands=1; b < a")
    conversation.turn(event)
    assert conversation.restored("w").errors[0] == error


def test_no_room() -> None:
    """What is kept for it counts as values do, and is refused by name."""
    conversation = Conversation(Limits(workflow_values_bytes_max=10))
    conversation.submit(_CHAIN)
    conversation.turn(_added("w/a", value=b'"much longer than that"'))
    assert "the limit is 10" in conversation.restored("w").errors[0]


def test_hook_that_adds(conversation: Conversation) -> None:
    """The workflow ends when that has ended."""
    conversation.submit("a!; h! hook=always")
    conversation.succeed("w/a")
    conversation.turn(_added("w/h"))
    assert conversation.states()["h"] == "held"
    child = conversation.begin("x", 1)
    conversation.succeed(f"{child}/x")
    assert conversation.workflows["w"].state is WorkflowState.SUCCEEDED
