"""What is counted of nodes that failed and are tried again: by cause, a node under one of them, and none that has ended."""

import pytest

from dyrygentd.core.events import TaskFailed, TaskLost, TaskReported
from dyrygentd.core.invariants import check_workflow
from dyrygentd.core.policy import FailureKind
from dyrygentd.core.tried_again import BY_ITSELF, KEEPS_FAILING, TriedAgain
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import Conversation


def _task_id(conversation: Conversation, name: str) -> str:
    workflow = conversation.workflow()
    node = workflow.graph.number(name)
    assert node is not None
    return workflow.attempts.task_id_of(node)


def _fails(conversation: Conversation, name: str, times: int = 1, fingerprint: str = "Boom") -> None:
    """Have a node fail so often, and be in flight again."""
    for _ in range(times):
        conversation.turn(TaskFailed(_task_id(conversation, name), "boom", "Boom", FailureKind.TASK, fingerprint))
        conversation.turn(after_s=1000.0)


def _tried(conversation: Conversation) -> TriedAgain:
    return conversation.workflow().attempts.tried_again


def test_a_node_stands_under_one_cause() -> None:
    """What failed for another reason has that one, and the sums follow."""
    tried = TriedAgain()
    tried.failed(0, "A", "a 1", 1)
    tried.failed(1, "A", "a 2", 4)
    tried.failed(1, "A", "", 5)
    a = tried.causes["A"]
    assert (a.sum, a.sum_often, [*a.often], a.error, tried.often) == (6, 5, [1], "a 2", 1)
    tried.failed(1, "B", "b", 6)
    assert (a.sum, a.sum_often, [*a.often], [*tried.loops], tried.often) == (1, 0, [], ["B"], 1)
    assert repr(tried) == "<TriedAgain nodes=2 causes=2 often=1>"
    tried.forget(0)
    tried.forget(0)
    assert [*tried.causes] == ["B"]
    tried.failed(1, "B", "b", 1)
    assert (tried.often, tried.causes["B"].sum) == (0, 1)
    tried.failed(2, "B", "b", 3)
    tried.failed(3, "B", "b", 3)
    tried.forget(2)
    assert [*tried.loops] == ["B"]
    tried.clear()
    assert repr(tried) == "<TriedAgain nodes=0 causes=0 often=0>"


def test_it_keeps_failing_from_the_third_time_on(conversation: Conversation) -> None:
    """Neither a first failure nor a second is a loop; a good end is the end of it."""
    conversation.submit("a retry=9 backoff=1; g gate=1")
    _fails(conversation, "a", KEEPS_FAILING - 1)
    assert (len(_tried(conversation).cause_of), _tried(conversation).often) == (1, 0)
    _fails(conversation, "a")
    assert (_tried(conversation).often, _tried(conversation).loops["Boom"].sum_often) == (1, 3)
    conversation.succeed(_task_id(conversation, "a"))
    assert (_tried(conversation).often, _tried(conversation).cause_of) == (0, {})


def test_it_is_known_after_a_crash(conversation: Conversation) -> None:
    """A daemon that is restarted at night finds its loops again."""
    conversation.submit("a retry=9 backoff=1; b retry=9 backoff=1")
    _fails(conversation, "a", 4)
    conversation.turn(TaskFailed("w/b", "boom", "Boom", FailureKind.TASK, "Boom"))
    conversation.crash()
    assert {node: cause.failures[node] for node, cause in _tried(conversation).cause_of.items()} == {0: 4, 1: 1}
    assert _tried(conversation).causes["Boom"].error == "boom"


@pytest.mark.parametrize("verb", ["skip", "cancel", "retry --force"])
def test_an_operator_ends_it(conversation: Conversation, verb: str) -> None:
    """What was skipped, cancelled or tried from the beginning is no loop."""
    conversation.submit("a retry=9 backoff=1; g gate=1")
    _fails(conversation, "a", 3)
    workflow = conversation.workflow()
    word, _, force = verb.partition(" ")
    conversation.ask(word, *([] if word == "cancel" else ["a"]), force=bool(force))
    assert workflow.attempts.tried_again.often == 0


def test_a_poll_that_answered_has_not_kept_failing(conversation: Conversation) -> None:
    """To ask again is what a poll is for."""
    conversation.submit("a poll=1 retry=9 backoff=1")
    _fails(conversation, "a", 3)
    conversation.succeed(_task_id(conversation, "a"), value=b"false")
    assert _tried(conversation).often == 0


def test_the_last_failure_is_a_failure(conversation: Conversation) -> None:
    """Once its attempts are used up it has failed for good, and stands among the failures."""
    conversation.submit("a retry=3 backoff=1; g gate=1")
    _fails(conversation, "a", 3)
    assert conversation.states()["a"] == "failed"
    assert not _tried(conversation).cause_of


def test_what_turned_up_was_not_lost(conversation: Conversation) -> None:
    """An attempt that was taken for lost and came to its end has not failed."""
    conversation.submit("a on_lost=retry retry=9 backoff=5")
    conversation.turn(TaskLost("w/a", "nowhere"))
    assert len(_tried(conversation).cause_of) == 1
    conversation.succeed("w/a")
    assert conversation.states()["a"] == "succeeded"


def test_a_task_that_tries_by_itself(conversation: Conversation) -> None:
    """Celery's own retries are no attempts of ours, and a loop all the same; with the next attempt they are over."""
    conversation.submit("a retry=9 backoff=1")
    for _ in range(3):
        conversation.turn(
            TaskReported("w/a", "STARTED", start="w 1"), TaskReported("w/a", "RETRY", error="OSError: busy"), after_s=1
        )
    loop = _tried(conversation).loops[BY_ITSELF]
    assert (loop.sum_often, loop.error, [*loop.often]) == (3, "OSError: busy", [0])
    conversation.turn(TaskLost("w/a", "nowhere"))
    assert not _tried(conversation).cause_of
    conversation.ask("retry", "a")
    _fails(conversation, "a")
    assert _tried(conversation).causes["Boom"].failures == {0: 1}
    conversation.turn(TaskReported(_task_id(conversation, "a"), "RETRY"))
    assert [*_tried(conversation).causes] == ["Boom"]


def test_its_own_tries_come_after_the_attempts_that_failed(conversation: Conversation) -> None:
    """Whoever counts, it is one loop; the failure that ends the attempt begins a cause of its own."""
    conversation.submit("a retry=9 backoff=1")
    _fails(conversation, "a", 2)
    task_id = _task_id(conversation, "a")
    conversation.turn(TaskReported(task_id, "RETRY", next_try_at=5.0))
    assert _tried(conversation).loops[BY_ITSELF].sum_often == 3
    _fails(conversation, "a")
    assert [*_tried(conversation).causes] == ["Boom"]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda tried: tried.causes["Boom"].failures.clear(), "does not count it"),
        (lambda tried: setattr(tried.causes["Boom"], "sum", 7), "counts wrongly"),
        (lambda tried: setattr(tried, "often", 7), "1 nodes keep failing"),
        (lambda tried: tried.failed(1, "Boom", "", 1), "has finished"),
    ],
)
def test_what_disagrees_is_found(spoil: object, complaint: str) -> None:
    """The check is there to find what a change has forgotten."""
    conversation = Conversation()
    conversation.submit("a retry=9 backoff=1; b")
    _fails(conversation, "a", 3)
    conversation.succeed("w/b")
    workflow = conversation.workflow()
    assert callable(spoil)
    spoil(workflow.attempts.tried_again)
    with pytest.raises(InvariantBroken, match=complaint):
        check_workflow(workflow)
