"""What can be done about a cancelled node: nothing is done twice, and no node goes alone."""

import pytest

from dyrygentd.core.cancelled import (
    cancelled_by_cause,
    fingerprint_of_cancelled,
    group_of_cancelled,
    waited_for,
    words_of_cancelled,
)
from dyrygentd.core.events import TaskFailed, TaskRevoked, TaskSucceeded
from dyrygentd.core.workflow import RunningWorkflow
from tests.support.conversation import Conversation


def _cancelled(conversation: Conversation, graph: str, *events: TaskSucceeded | TaskFailed | TaskRevoked) -> RunningWorkflow:
    conversation.submit(graph)
    conversation.ask("cancel")
    conversation.turn(*events)
    return conversation.restored("w")


def test_stopped_at_its_turn(conversation: Conversation) -> None:
    """The first of a row has a command; those behind it are set going with it."""
    workflow = _cancelled(conversation, "a; b < a; c < b")
    assert words_of_cancelled(workflow, 0) == ("was cancelled", "`retry NODE` runs it")
    words = "retry or skip 'a', and it goes on after that; alone it would end as blocked"
    for node in (1, 2):
        assert words_of_cancelled(workflow, node) == ("was cancelled, and waits for 'a', which has not succeeded", words)


def test_rule_that_does_not_need_all(conversation: Conversation) -> None:
    """What runs whatever became of the others would not be blocked alone."""
    workflow = _cancelled(conversation, "a; b < a rule=all_finished")
    assert words_of_cancelled(workflow, 1)[1] == "retry or skip 'a', and it goes on after that"


def test_its_task_went_on(conversation: Conversation) -> None:
    """A worker finished it all the same: its work is done, so it is skipped, with its value where others take that."""
    workflow = _cancelled(
        conversation, "a; b; c; x < b", TaskSucceeded("w/a", b"1"), TaskSucceeded("w/b", b"2"), TaskFailed("w/c", "boom")
    )
    assert words_of_cancelled(workflow, 0) == (
        "was cancelled; its task ended as succeeded later",
        "`skip NODE` goes on without running it again",
    )
    text, step = words_of_cancelled(workflow, 1)
    assert "others take what it has returned, the result of task w/b" in text
    assert step == "`skip NODE --value null` goes on without running it again"
    assert words_of_cancelled(workflow, 2) == ("was cancelled; its task ended as failed later", "`retry NODE` runs it")
    assert words_of_cancelled(workflow, 3)[1].startswith("skip 'b', and it goes on after that")


def test_causes(conversation: Conversation) -> None:
    """One command is for all that have the same in common; those with values of their own are one cause."""
    ends: list[TaskSucceeded | TaskRevoked] = [
        TaskSucceeded("w/a", b"1"),
        TaskSucceeded("w/b", b"2"),
        TaskSucceeded("w/c", b"3"),
        TaskRevoked("w/d", "revoked"),
    ]
    workflow = _cancelled(conversation, "a; b; c; d; e countdown=9; x < a b", *ends)
    assert cancelled_by_cause(workflow) == {
        "cancelled: value": [0, 1],
        "cancelled: succeeded": [2],
        "cancelled: revoked": [3],
        "cancelled: ": [4],
        "cancelled behind others: ": [5],
    }
    assert fingerprint_of_cancelled(workflow, 1) == "cancelled: value"


def test_hooks_wait_for_everything_else(conversation: Conversation) -> None:
    """They have no dependencies in the graph, and wait for all but each other."""
    conversation.submit("a; b < a; h hook=always; i hook=failure")
    workflow = conversation.workflow()
    assert [list(waited_for(workflow, node)) for node in range(4)] == [[], [0], [0, 1], [0, 1]]


@pytest.mark.parametrize("count", [5, 6])
def test_values_of_very_many_are_one_group(conversation: Conversation, count: int) -> None:
    """Each has a command of its own as long as they are few."""
    names = [f"n{number}" for number in range(count)]
    graph = "; ".join([*names, *(f"x{name} < {name}" for name in names)])
    workflow = _cancelled(conversation, graph, *(TaskSucceeded(f"w/{name}", b"1") for name in names))
    groups = {group_of_cancelled(workflow, node) for node in range(count)}
    assert len(groups) == (count if count <= 5 else 1)
