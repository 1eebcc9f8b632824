"""Workflows and nodes as people are shown them, from memory and from the store."""

import json

import pytest

from dyrygentd import wire
from dyrygentd.core.checkpoint import workflow_record
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskReported
from dyrygentd.core.ids import task_id_of_attempt
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.policy import Rule
from tests.support.conversation import START, Conversation


@pytest.fixture
def conversation() -> Conversation:
    """A conversation with an engine, for workflows to be shown."""
    return Conversation()


def test_shows_a_running_workflow(conversation: Conversation) -> None:
    """A view has what a person asks first, and leaves out what is empty."""
    conversation.submit("a; b < a; c < b")
    view = wire.view_of_running(conversation.workflow())
    assert json.loads(wire.encode(view)) == {
        "id": "w",
        "name": "name of w",
        "state": "running",
        "created_at": START,
        "tasks": 3,
        "counts": {"dispatching": 1, "waiting": 2},
    }
    assert wire.decode(wire.encode(view), wire.WorkflowView) == view
    assert not view.is_finished
    assert view.result_text is None


def test_memory_and_store_show_the_same(conversation: Conversation) -> None:
    """A finished workflow looks the same before and after it left the memory, with its result when asked for."""
    conversation.submit("a")
    (workflow,) = conversation.succeed("w/a", value=b'{"x":null}').finished
    running = wire.view_of_running(workflow, with_result=True)
    stored = wire.view_of_record(workflow_record(workflow), with_result=True)
    assert wire.encode(running) == wire.encode(stored)
    assert running.is_finished
    assert wire.decode(wire.encode(stored), wire.WorkflowView).result_text == b'{"x":null}'
    assert wire.view_of_record(workflow_record(workflow)).result_text is None


def test_shows_the_task_that_started_it(conversation: Conversation) -> None:
    """From memory and from the store."""
    conversation.submit("a", parent_task=ParentTask("p", "r"))
    (workflow,) = conversation.succeed("w/a").finished
    for view in (wire.view_of_running(workflow), wire.view_of_record(workflow_record(workflow))):
        assert json.loads(wire.encode(view))["parent_task"] == {"task_id": "p", "root_id": "r"}
        assert wire.decode(wire.encode(view), wire.WorkflowView) == view


def test_shows_nodes(conversation: Conversation) -> None:
    """A node tells why it is where it is."""
    conversation.submit("a; b < a; &j < a; c countdown=9; d; e")
    conversation.turn(TaskFailed("w/a", "boom"), MessagePublished("w/d"), TaskReported("w/d", "STARTED"), after_s=2)
    a, b, j, c, d, _ = (wire.view_of_node(conversation.workflow(), node) for node in range(6))
    assert (a.task, a.task_id, a.state, a.error, a.attempt) == ("tasks.a", "w/a", "failed", "boom", 1)
    assert (a.dispatched_at, a.finished_at) == (START, START + 2)
    assert (b.state, b.blocked_by, b.after, b.attempt, b.dispatched_at) == ("blocked", "a", ["a"], 0, None)
    assert (j.task, j.task_id, j.state) == (None, None, "blocked")
    assert (c.state, c.held_until) == ("held", START + 9)
    assert (d.state, d.reported, d.finished_at) == ("dispatched", "STARTED", None)
    assert wire.decode(wire.encode(a), wire.NodeView) == a
    assert wire.NodeView("n", "ready").rule == Rule.ALL_SUCCEEDED.value


def test_shows_attempts(conversation: Conversation) -> None:
    """Of a node that was tried again each attempt, under its task id; of one that was not its only one, to who asks for that."""
    conversation.submit("a retry=3 backoff=4 jitter=0; b")
    conversation.turn(TaskReported("w/a", "STARTED", start="one@host/17"), after_s=1)
    conversation.turn(TaskFailed("w/a", "boom"), after_s=1)
    conversation.turn(after_s=5)
    workflow = conversation.workflow()
    a = wire.view_of_node(workflow, 0)
    assert (a.attempt, a.attempts_left_out) == (2, 0)
    assert a.attempts == [
        wire.AttemptView(
            number=1,
            state="failed",
            sent_at=START,
            task_id="w/a",
            started_at=START + 1,
            ended_at=START + 2,
            waited_s=0.0,
            worker="one@host",
            error="boom",
        ),
        wire.AttemptView(2, "dispatching", START + 7, task_id_of_attempt("w/a", 2), backoff_s=4.0, waited_s=1.0),
    ]
    assert wire.decode(wire.encode(a), wire.NodeView) == a
    assert not wire.view_of_node(workflow, 1).attempts
    [only] = wire.view_of_node(workflow, 1, with_attempts=True).attempts
    assert (only.number, only.task_id, only.sent_at, only.ended_at) == (1, "w/b", START, None)
