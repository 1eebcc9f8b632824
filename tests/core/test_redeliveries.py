"""How often the broker may give a task out again: the node's policy, else the workflow's, else the configuration's."""

from typing import Any

import pytest

from dyrygentd.core.events import MessagePublished, TaskRedelivered
from dyrygentd.core.limits import Limits
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.standing import standing_of_node
from dyrygentd.core.states import NodeState
from tests.support.conversation import START, Conversation


@pytest.mark.parametrize(
    ("limit", "policy", "node", "times", "whose"),
    [
        (2, {}, "", 2, "the configuration"),
        (2, {"redeliveries_max": 1}, "", 1, "the workflow's policy"),
        (2, {"redeliveries_max": 1}, " redeliveries=3", 3, "the node's policy"),
        (0, {}, " redeliveries=1", 1, "the node's policy"),
        (1, {"redeliveries_max": 0}, "", None, ""),
        (1, {"redeliveries_max": 1}, " redeliveries=0", None, ""),
        (0, {}, "", None, ""),
    ],
)
def test_whose_bound_holds(limit: int, policy: dict[str, Any], node: str, times: int | None, whose: str) -> None:
    """It is failed by name when it was given out once more than that, and revoked; 0 is for ever."""
    conversation = Conversation(Limits(redeliveries_max=limit))
    conversation.submit(f"a{node}", policy=WorkflowPolicy(**policy))
    workflow = conversation.engine.workflows["w"]
    conversation.tell(MessagePublished("w/a"))
    for number in range(1, 6):
        conversation.tell(TaskRedelivered("w/a", "it has w1"))
        batch = conversation.turn()
        if workflow.state_of(0) is NodeState.FAILED:
            assert number - 1 == times
            assert f"again {number} times, more than the {times} that {whose} allows (`redeliveries_max`)" in workflow.errors[0]
            assert [(revoke.task_id, revoke.terminate) for revoke in batch.revoke] == [("w/a", True)]
            assert workflow.state.is_finished
            return
        said = standing_of_node(conversation.engine, workflow, 0, START).text
        assert (f", {times} allowed by {whose}" if times else "without a bound: `redeliveries_max` is not set") in said
    assert times is None


def test_each_attempt_is_counted_anew() -> None:
    """A retry is another message."""
    conversation = Conversation(Limits())
    conversation.submit("a redeliveries=1 retry=2 backoff=1 jitter=0")
    workflow = conversation.engine.workflows["w"]
    for _ in range(2):
        conversation.tell(TaskRedelivered("w/a", "it has w1"))
        conversation.turn()
    assert workflow.state_of(0) is NodeState.RETRYING
    conversation.turn(after_s=2)
    task_id = workflow.attempts.task_id_of(0)
    assert task_id != "w/a"
    conversation.tell(TaskRedelivered(task_id, "it has w1"))
    conversation.turn()
    assert workflow.attempts.redelivered == {0: 1}
    assert workflow.state_of(0) is not NodeState.FAILED
