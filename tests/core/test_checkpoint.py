"""Records hold what must survive, and a workflow rebuilt from them is the same one."""

from dataclasses import replace

import pytest

from dyrygentd.core.checkpoint import node_record, restore, workflow_record
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskSucceeded
from dyrygentd.core.ids import OF_OLD, SOME_FROM_OUTSIDE, task_id_of_old
from dyrygentd.core.invariants import check_workflow
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from dyrygentd.core.states import NodeState, WorkflowState
from tests.support.conversation import START, Conversation, cancel, states_of


def test_a_submission_costs_one_row_and_its_first_nodes(conversation: Conversation) -> None:
    """Waiting nodes are not written, so a large workflow is as cheap to accept as a small one."""
    batch = conversation.submit("a; b < a; c < b; d < c")
    assert batch.row_count == 2
    assert list(batch.save_nodes) == [("w", 0)]


def test_workflow_record_tells_the_end_only_at_the_end(conversation: Conversation) -> None:
    """Counts and result belong to a finished workflow; before, they would change with every node."""
    conversation.submit("a")
    running = workflow_record(conversation.workflow(), document=b"d")
    assert (running.state, running.counts, running.result, running.document) == (WorkflowState.RUNNING, None, None, b"d")
    ended = conversation.succeed("w/a", value=b"5").save_workflows["w"]
    assert (ended.state, ended.result, ended.finished_at, ended.document) == (WorkflowState.SUCCEEDED, b"5", START, None)
    assert ended.counts is not None
    assert {word: count for word, count in ended.counts.items() if count} == {"succeeded": 1}


def test_a_later_record_keeps_the_definition(conversation: Conversation) -> None:
    """A record that has not reached the disk hands its definition on to the one that takes its place."""
    first = conversation.submit("a").save_workflows["w"]
    second = conversation.succeed("w/a").save_workflows["w"]
    assert second.following(first).document == b"document"
    assert second.following(None) is second
    assert first.following(second) is first


def test_node_record_holds_the_whole_story(conversation: Conversation) -> None:
    """What a person asks about a node after a restart is in its row."""
    conversation.submit("a; b < a; c countdown=9; d")
    conversation.turn(TaskFailed("w/a", "boom"), MessagePublished("w/d"), after_s=1)
    failed, blocked, held, dispatched = (node_record(conversation.workflow(), node) for node in range(4))
    assert (failed.state, failed.attempt, failed.error, failed.finished_at) == ("failed", 1, "boom", START + 1)
    assert (blocked.state, blocked.attempt, blocked.blocked_by) == ("blocked", 0, 0)
    assert (held.state, held.held_until) == ("held", START + 9)
    assert (dispatched.state, dispatched.dispatched_at) == ("dispatched", START)


def test_restores_what_was_saved(conversation: Conversation) -> None:
    """A workflow in the middle of everything is the same after a restart, and what was ready is ready again."""
    conversation.submit("a; b; &j < a b; c < j; d < a; e countdown=50; f < c")
    conversation.turn(TaskSucceeded("w/a", b"1"), TaskSucceeded("w/b", b"2"), MessagePublished("w/a"), after_s=1)
    conversation.turn(MessagePublished("w/c"), TaskFailed("w/d", "boom"))
    before = conversation.workflow()
    states, values = states_of(before), {node: value.content for node, value in before.values.by_node.items()}
    conversation.crash()
    after = conversation.workflow()
    assert after is not before
    assert states_of(after) == states
    assert {node: value.content for node, value in after.values.by_node.items()} == values
    assert (after.errors, after.holds) == (before.errors, before.holds)
    assert list(after.attempts.dispatched_at) == list(before.attempts.dispatched_at)
    check_workflow(after)


def test_restores_a_finished_workflow_to_look_at(conversation: Conversation) -> None:
    """A finished workflow is shown as it ended and does not start again."""
    conversation.submit("a; b < a; c")
    conversation.succeed("w/a", value=b"1")
    conversation.turn(cancel("w"))
    restored = conversation.restored("w")
    assert states_of(restored) == {"a": "succeeded", "b": "cancelled", "c": "cancelled"}
    assert (restored.state, restored.finished_at, restored.ready_count) == (WorkflowState.CANCELLED, START, 0)
    check_workflow(restored)


def test_ignores_rows_of_waiting_nodes(conversation: Conversation) -> None:
    """A waiting row says nothing that the graph does not say."""
    conversation.submit("a; b < a")
    row = node_record(conversation.workflow(), 1)
    assert row.state == "waiting"
    restored = restore(conversation.workflows["w"], [row], conversation.graphs["w"], now=START, value_bytes_max=100)
    assert states_of(restored) == {"a": "ready", "b": "waiting"}


@pytest.mark.parametrize("crashes", [0, 1, 2])
def test_values_are_let_go_after_a_restart_as_before(conversation: Conversation, crashes: int) -> None:
    """Users of a value are counted anew from the states, so nothing is kept for ever nor lost too early."""
    conversation.submit("a; b < a; c < a; d! < b c")
    conversation.succeed("w/a", value=b"7")
    for _ in range(crashes):
        conversation.crash()
    kept = []
    for task_id in ("w/b", "w/c"):
        conversation.succeed(task_id)
        kept.append(conversation.nodes["w", 0].value)
        if crashes:
            conversation.crash()
    assert kept == [b"7", None]
    assert conversation.states()["d"] == "dispatching"


def test_adopts_no_values(conversation: Conversation) -> None:
    """What succeeded elsewhere has left no value here; who takes it must not get null, nor break the workflow."""
    adopted = {0: NodeState.SUCCEEDED, 2: NodeState.SUCCEEDED, 3: NodeState.DISPATCHED}
    conversation.submit("a; b < a; c; d < c; e! < c; &j < c", adopted=adopted)
    assert conversation.states() == {
        "a": "failed",
        "b": "blocked",
        "c": "succeeded",
        "d": "dispatched",
        "e": "dispatching",
        "j": "succeeded",
    }
    assert conversation.ask("skip", "a", value=b"5").is_changed
    assert conversation.engine.flights.in_flight_count == 3


def test_an_adopted_failure_stops_what_it_would_have_stopped(conversation: Conversation) -> None:
    """A workflow that stops at a failure does not begin because the failure was before its time."""
    policy = WorkflowPolicy(on_failure=OnFailure.STOP)
    conversation.submit("a!; b!; c! < a rule=any_failed", policy=policy, adopted={0: NodeState.FAILED})
    assert conversation.states() == {"a": "failed", "b": "cancelled", "c": "dispatching"}


def test_a_stop_and_its_end_survive_a_crash(conversation: Conversation) -> None:
    """Whether a failure in flight is tried again depends on the stop, so that is stored and not guessed from the nodes."""
    policy = WorkflowPolicy(on_failure=OnFailure.STOP)
    for is_retried in (False, True):
        workflow_id = f"w{is_retried}"
        conversation.submit("a; b retry=3; c < a; d < c", workflow_id, policy=policy)
        conversation.turn(TaskFailed(f"{workflow_id}/a", "boom"))
        if is_retried:
            conversation.ask("retry", "a", workflow_id=workflow_id)
        conversation.crash()
        conversation.turn(TaskFailed(f"{workflow_id}/b", "boom"))
        assert conversation.states(workflow_id)["b"] == ("retrying" if is_retried else "failed")


@pytest.mark.parametrize(("attempts", "ids"), [(1, SOME_FROM_OUTSIDE), (2, OF_OLD)])
def test_workflows_of_earlier_versions(conversation: Conversation, attempts: int, ids: int) -> None:
    """Attempts keep the names that they were given; where there was only one, the next are named in the new way."""
    conversation.submit("a retry=3 backoff=1 jitter=0")
    conversation.workflow().attempts.ids = OF_OLD
    if attempts > 1:
        conversation.turn(TaskFailed("w/a", "boom"))
        conversation.turn(after_s=2)
    conversation.workflows["w"] = replace(conversation.workflows["w"], ids=OF_OLD)
    conversation.crash()
    assert conversation.workflow().attempts.ids == ids
    assert all(map(conversation.engine.flights.claims.holder, conversation.workflow().attempts.held_ids(0)))
    conversation.turn()
    ((task_id, _, _),) = conversation.engine.flights.in_flight()
    assert task_id == task_id_of_old("w/a", attempts)
