"""What a script is told at the end."""

import pytest

from dyrygentd import wire
from dyrygentd.core.events import TaskFailed, TaskSucceeded
from dyrygentd.errors import (
    WorkflowNotSucceeded,
)
from tests.support.conversation import Conversation


@pytest.fixture
def conversation() -> Conversation:
    """A conversation with an engine, for workflows to be shown."""
    return Conversation()


def test_outcome_raises_unless_all_succeeded(conversation: Conversation) -> None:
    """A script that demands success gets the names of the nodes that failed."""
    conversation.submit("a")
    conversation.submit("a", "v")
    bad, good = conversation.turn(TaskFailed("w/a", "boom"), TaskSucceeded("v/a", b"[1]")).finished
    failed = wire.outcome_of(wire.view_of_running(bad, with_result=True), [wire.view_of_node(bad, 0)])
    assert not failed.is_success
    with pytest.raises(WorkflowNotSucceeded, match=r"workflow 'name of w' \(w\) ended as failed, failed nodes: 'a'"):
        failed.raise_for_state()
    succeeded = wire.outcome_of(wire.view_of_running(good, with_result=True), [])
    succeeded.raise_for_state()
    assert succeeded.result == [1]
