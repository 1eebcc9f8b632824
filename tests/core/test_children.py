"""Workflows that do the work of a node of another one: who waits for whom, and what goes down and up."""

from dataclasses import replace

from dyrygentd.core.causes import failures_by_cause
from dyrygentd.core.child_causes import failed_below
from dyrygentd.core.children import is_to_go_on, parent_of
from dyrygentd.core.events import ChildEnded, ChildRefused, TaskFailed, VerbRequested
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.parent import Parent
from dyrygentd.core.standing import standing_of_node
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import VerbRefused
from tests.support.conversation import Conversation

#: A task, a workflow of its own that gets its value, and a task that gets the value of that.
_OUTER = "a; k < a child=input; z < k"


def _begun(conversation: Conversation, outer: str = _OUTER, inner: str = "x") -> str:
    """Have the child of ``k`` run, with its tasks in flight."""
    conversation.submit(outer)
    batch = conversation.succeed("w/a", value=b"7")
    (begin,) = batch.begin.values()
    assert (begin.input, begin.name) == (b"7" if begin.child.takes_input else None, "name of w: k")
    return conversation.begin(inner, 1)


def test_its_result_is_the_value_of_the_node(conversation: Conversation) -> None:
    """Its end and the end of its node are one turn, and what follows is sent in the same."""
    child = _begun(conversation)
    assert conversation.workflow().holds[1].reason is HoldReason.CHILD
    batch = conversation.succeed(f"{child}/x", value=b'"made"')
    assert batch.save_workflows[child].state is WorkflowState.SUCCEEDED
    assert batch.save_nodes["w", 1].state == "succeeded"
    (message,) = batch.publish
    assert (message.input, message.root_id) == (b'"made"', "")
    conversation.succeed("w/z")
    assert conversation.workflows["w"].state is WorkflowState.SUCCEEDED


def test_messages_of_a_child_name_the_root(conversation: Conversation) -> None:
    """Whoever groups tasks by their root sees one workflow, whatever it is made of."""
    conversation.submit("k child=1")
    middle = conversation.begin("k child=1")
    inner = conversation.begin("x", workflow_id=middle)
    parent = conversation.workflow(inner).origin.parent
    assert parent is not None
    assert (parent.root_id, parent.depth) == ("w", 2)
    assert conversation.succeed(f"{inner}/x").finished[0].workflow_id in (inner, middle, "w")
    assert all(record.state is WorkflowState.SUCCEEDED for record in conversation.workflows.values())


def test_its_failure_is_that_of_the_node(conversation: Conversation) -> None:
    """Whoever looks at the parent learns which workflow failed, and why."""
    child = _begun(conversation)
    conversation.ask("cancel", workflow_id=child)
    assert conversation.states() == {"a": "succeeded", "k": "failed", "z": "blocked"}
    assert conversation.restored("w").errors[1] == f"its workflow '{child}' was cancelled"


def test_failures_below_are_told_apart(conversation: Conversation) -> None:
    """Nodes whose workflows failed for one reason are one cause, and others are not; the next step is where the failure is."""
    conversation.submit("a child=1; b child=1; c child=1; d child=1")
    first, second, third = (conversation.begin("x", node) for node in (0, 1, 2))
    middle = conversation.begin("k child=1", 3)
    deep = conversation.begin("x", workflow_id=middle)
    for child, cause in ((first, "Full in x (t.py:1)"), (second, "Gone"), (third, "Gone"), (deep, "Gone")):
        conversation.turn(TaskFailed(f"{child}/x", "no", fingerprint=cause))
    workflow = conversation.restored("w")
    assert failures_by_cause(workflow) == [
        ("its workflow failed: Full in x (t.py:1)", [0]),
        ("its workflow failed: Gone", [1, 2, 3]),
    ]
    below = [failed_below(workflow.fingerprints[node], workflow.errors[node]) for node in range(4)]
    assert below == [first, second, third, deep]
    assert failed_below("ValueError", workflow.errors[0]) == ""
    standing = standing_of_node(conversation.engine, workflow, 3, conversation.now)
    assert standing.next_step == f"dyrygentctl explain {deep}; then `retry d`, or `skip d` to go on without it"


def test_it_is_asked_for_again_after_a_crash(conversation: Conversation) -> None:
    """The row says that its node waits: whatever came of the first time, the next process asks once more, for the same id."""
    conversation.submit(_OUTER)
    (before,) = conversation.succeed("w/a", value=b"7").begin.items()
    conversation.crash()
    assert [*conversation.turn().begin.items()] == [before]
    child = conversation.begin("x", 1)
    conversation.crash()
    conversation.turn()
    assert conversation.engine.children.child_of(conversation.workflow(), 1) is conversation.workflow(child)
    conversation.succeed(f"{child}/x", value=b"8")
    assert conversation.states()["k"] == "succeeded"


def test_what_nobody_waits_for_is_not_taken_in(conversation: Conversation) -> None:
    """A node may be cancelled while its workflow is built: nothing of that is stored."""
    conversation.submit("k child=1; other")
    workflow = conversation.workflow()
    conversation.ask("skip", "k")
    parent = parent_of(workflow, 0)
    batch = conversation.submit("x", parent.child_id, parent=parent)
    assert not batch.save_workflows
    assert parent.child_id not in conversation.engine.workflows


def test_verbs_go_down(conversation: Conversation) -> None:
    """Pause, resume and priority are those of the whole tree; one that begins later has them too."""
    conversation.submit("k child=1; l child=1")
    first = conversation.begin("k child=1")
    inner = conversation.begin("x", workflow_id=first)
    conversation.ask("pause", by="ada")
    conversation.ask("set-priority", priority=5)
    second = conversation.begin("y", 1)
    for each in (first, inner, second):
        assert (conversation.workflow(each).state, conversation.workflow(each).priority) == (WorkflowState.PAUSED, 5)
    batch = conversation.ask("resume", by="ada")
    assert batch.is_changed
    assert conversation.workflow(second).nodes.in_flight_count == 1
    assert [entry.by for entry in conversation.journal if entry.workflow_id == inner and entry.verb == "resume"] == ["ada"]


def test_a_cancel_goes_down(conversation: Conversation) -> None:
    """Nothing of it is left running, also not two levels below."""
    conversation.submit("k child=1")
    middle = conversation.begin("k child=1")
    inner = conversation.begin("x", workflow_id=middle)
    conversation.ask("cancel")
    assert not conversation.engine.workflows
    assert {conversation.workflows[each].state for each in ("w", middle, inner)} == {WorkflowState.CANCELLED}
    assert f"node 'k' of workflow '{middle}' waits for it no more" in [entry.why for entry in conversation.journal]


def test_abandoned_ones_go_on(conversation: Conversation) -> None:
    """A node that says so leaves its workflow to itself, and hears no more of it."""
    conversation.submit("k child=abandon")
    child = conversation.begin("x")
    conversation.ask("cancel")
    assert [*conversation.engine.workflows] == [child]
    conversation.succeed(f"{child}/x")
    assert conversation.workflows["w"].state is WorkflowState.CANCELLED
    assert conversation.workflows[child].state is WorkflowState.SUCCEEDED


def test_a_retry_goes_on_in_the_same_one(conversation: Conversation) -> None:
    """What has succeeded in it is not done again; a rerun begins with another one."""
    child = _begun(conversation, "a; k < a child=1; z < k")
    conversation.ask("cancel", workflow_id=child)
    conversation.ask("retry", "k")
    assert conversation.states()["k"] == "held"
    assert conversation.workflow().attempts.generations == {}
    conversation.turn(ChildEnded(_parent(conversation), WorkflowState.SUCCEEDED, b"9", ""))
    assert conversation.states() == {"a": "succeeded", "k": "succeeded", "z": "dispatching"}
    conversation.succeed("w/z")
    conversation.ask("rerun", "k")
    assert conversation.workflow().attempts.generations == {1: 1}
    conversation.crash()
    assert conversation.workflow().attempts.generations == {1: 1}
    assert _parent(conversation).child_id != child


def test_a_rerun_amid_it_begins_with_another_one(conversation: Conversation) -> None:
    """As a rerun of what precedes it does: the one that runs is cancelled."""
    child = _begun(conversation, "a; k < a child=1; z < k")
    answer = conversation.ask("rerun", "k")
    assert (answer.error, answer.is_changed) == (None, True)
    assert conversation.states() == {"a": "succeeded", "k": "held", "z": "waiting"}
    assert conversation.workflow().attempts.generations == {1: 1}
    assert child not in conversation.engine.workflows
    assert _parent(conversation).child_id != child


def test_one_that_is_set_going_sets_its_node_going(conversation: Conversation) -> None:
    """Somebody retries it directly: its parent waits for it again, and the two never contradict each other."""
    child = _begun(conversation, "a; k < a child=1; z < k; other gate=1")
    conversation.ask("cancel", workflow_id=child)
    assert conversation.states()["k"] == "failed"
    conversation.ask("retry", workflow_id=child)
    assert conversation.states() == {"a": "succeeded", "k": "held", "z": "waiting", "other": "held"}


def test_its_parent_that_has_finished_is_asked_for(conversation: Conversation) -> None:
    """The engine does not have it in memory: the shell brings it."""
    child = _begun(conversation)
    conversation.ask("cancel", workflow_id=child)
    assert "w" not in conversation.engine.workflows
    request = VerbRequest(Verb.RETRY)
    batch = conversation.turn(VerbRequested(child, request, 1, conversation.restored(child)))
    assert [parent.workflow_id for parent in batch.set_going.values()] == ["w"]
    conversation.ask("retry", "k")
    assert conversation.states()["k"] == "held"


def test_it_is_neither_held_nor_released(conversation: Conversation) -> None:
    """Its own nodes are, or it is paused: a release would count it as done."""
    conversation.submit("k child=1")
    for verb in ("hold", "release"):
        error = conversation.ask(verb, "k").error
        assert isinstance(error, VerbRefused)
        assert "done by a workflow of its own" in error.message


def test_a_hold_before_it_begins(conversation: Conversation) -> None:
    """Nothing is begun until it is released."""
    conversation.submit("g gate=1; k < g child=1")
    conversation.ask("hold", "k")
    conversation.ask("release", "g")
    assert conversation.workflow().holds[1].reason is HoldReason.OPERATOR
    conversation.ask("release", "k")
    assert conversation.workflow().holds[1].reason is HoldReason.CHILD


def test_refused(conversation: Conversation) -> None:
    """The node fails with the reason, once."""
    conversation.submit("k child=1")
    parent = _parent(conversation, 0)
    conversation.turn(ChildRefused(parent, "its workflow cannot be begun: no"))
    conversation.turn(ChildRefused(parent, "again"))
    workflow = conversation.restored("w")
    assert workflow.errors[0] == "its workflow cannot be begun: no"
    assert failures_by_cause(workflow) == [("its workflow cannot be begun: no", [0])]
    conversation.submit("a; k < a child=input", workflow_id="v")
    conversation.succeed("v/a", value=b"7")
    conversation.turn(ChildRefused(parent_of(conversation.workflow("v"), 1), "its workflow cannot be begun: no list"))
    standing = standing_of_node(conversation.engine, conversation.restored("v"), 1, conversation.now)
    assert standing.next_step == "`rerun --from a` makes anew what it is given, `skip k` goes on without it"


def _parent(conversation: Conversation, node: int = 1) -> Parent:
    return parent_of(conversation.workflow(), node)


def test_one_that_nobody_waits_for_is_not_set_going(conversation: Conversation) -> None:
    """Its node has succeeded or begun with another one: what it made would be nobody's."""
    child = _begun(conversation, "a; k < a child=1; z < k; other gate=1")
    conversation.succeed(f"{child}/x")
    error = conversation.ask("rerun", "x", workflow_id=child).error
    assert isinstance(error, VerbRefused)
    assert "its node 'k' in workflow 'w' is succeeded and does not wait for it any more: " in error.message
    assert error.message.endswith("`dyrygentctl rerun w --from 'k'` begins another one")
    conversation.succeed("w/z")
    assert conversation.ask("rerun", "k").error is None
    assert conversation.states()["k"] == "held"
    assert isinstance(conversation.ask("rerun", "x", workflow_id=child).error, VerbRefused)


def test_what_is_abandoned_does_not_take_its_parent_along(conversation: Conversation) -> None:
    """It goes on over a crash, and its parent stays cancelled."""
    conversation.submit("k child=abandon; other gate=1")
    child = conversation.begin("x")
    conversation.ask("cancel")
    conversation.crash()
    batch = conversation.turn()
    assert [*batch.set_going] == [child]
    assert not is_to_go_on(conversation.restored("w"), batch.set_going[child], WorkflowState.RUNNING)


def test_labels_go_down(conversation: Conversation) -> None:
    """Who stops all of a cluster by its label stops what works for it; its own labels go first."""
    submission = conversation.submission("k child=1")
    conversation.turn(replace(submission, labels={"cluster": "gra1", "stage": "outer"}))
    parent = _parent(conversation, 0)
    inner = conversation.submission("x", parent.child_id, parent=parent)
    conversation.turn(replace(inner, labels={"stage": "inner"}))
    assert conversation.workflow(parent.child_id).origin.labels == {"stage": "inner", "cluster": "gra1"}
