"""Values that are handed on by reference, and the bytes of them that may be kept."""

import json
from typing import Any

import pytest

from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.limits import Limits
from dyrygentd.core.states import NodeState
from dyrygentd.core.values import Joined, ValueBudget, in_order
from tests.support.conversation import Conversation

_JOINS = 200


def _many_joins(middle: str = "&j{0} < big", count: int = _JOINS) -> str:
    """One value, and joins after it on which tasks wait that wait for something else as well."""
    return "; ".join(["big; gate", *(f"{middle.format(n)}; &w{n} < j{n}; t{n} < w{n} gate" for n in range(count))])


def _stored_bytes(conversation: Conversation) -> int:
    return sum(len(record.value or b"") for record in conversation.nodes.values())


@pytest.mark.parametrize("middle", ["&j{0} < big", "&j{0} < big; &k{0} < j{0}"])
def test_joins_share_one_value(conversation: Conversation, middle: str) -> None:
    """Two hundred joins of joins after one value of a megabyte keep one megabyte, in memory and on disk, also after a crash."""
    big = json.dumps("x" * 1_000_000).encode()
    conversation.submit(_many_joins(middle))
    conversation.turn(TaskSucceeded("w/big", big))
    for _ in range(2):
        workflow = conversation.workflow()
        assert workflow.values.bytes == len(big) == conversation.engine.statistics().values_bytes
        assert _stored_bytes(conversation) == len(big)
        conversation.crash()
    batch = conversation.turn(TaskSucceeded("w/gate", b"1"))
    sent = [message for message in batch.publish if "t" in message.task_id.removeprefix("w/")]
    assert len(sent) == _JOINS
    assert all(isinstance(message.input, Joined) for message in sent)
    assert json.loads(bytes(sent[0].input or b""))[1] == 1
    conversation.turn(*(TaskSucceeded(f"w/t{number}", b"1") for number in range(_JOINS)))
    assert conversation.engine.statistics().values_bytes == 0


def test_long_way_of_joins(conversation: Conversation) -> None:
    """A thousand joins, one after the other, are no recursion, neither when made nor when read nor when let go."""
    joins = "; ".join(f"&j{n} < {f'j{n - 1}' if n else 'a'}" for n in range(1000))
    conversation.submit(f"a; {joins}; gate; &w < j999 gate; t < w")
    conversation.turn(TaskSucceeded("w/a", b"5"))
    conversation.crash()
    batch = conversation.turn(TaskSucceeded("w/gate", b"1"))
    text = bytes(batch.publish[-1].input or b"")
    assert text == b"[" * 1001 + b"5" + b"]" * 1000 + b",1]"
    conversation.turn(TaskSucceeded("w/t", b"1"))
    assert not conversation.engine.workflows


def test_doubling_is_bounded(conversation: Conversation) -> None:
    """Joins that double what they are given meet the bound of one value, and nothing of that size is ever made."""
    steps = "; ".join(
        f"&a{n} < {f'a{n - 1} b{n - 1}' if n else 'v'}; &b{n} < {f'a{n - 1} b{n - 1}' if n else 'v'}" for n in range(40)
    )
    conversation.submit(f"v; {steps}; t < a39")
    conversation.turn(TaskSucceeded("w/v", b'"' + b"x" * 100 + b'"'))
    workflow = conversation.engine.workflows.get("w")
    assert workflow is None
    assert "the limit is" in " ".join(record.error for record in conversation.nodes.values())
    assert _stored_bytes(conversation) < 1000


def test_workflow_has_a_bound(conversation: Conversation) -> None:
    """The node whose value would pass it fails by name, with the bound and what to do; the others go on."""
    conversation.restart(Limits(workflow_values_bytes_max=1000))
    conversation.submit("a; b; c; &j < a b c; gate; t < j gate")
    value = json.dumps("x" * 450).encode()
    conversation.turn(*(TaskSucceeded(f"w/{name}", value) for name in "abc"))
    workflow = conversation.workflow()
    assert [workflow.state_of(node) for node in range(3)] == [NodeState.SUCCEEDED, NodeState.SUCCEEDED, NodeState.FAILED]
    assert "keeps 904 for nodes to come; the limit is 1000" in workflow.errors[2]
    assert "`workflow_values_bytes_max`" in workflow.errors[2]
    assert conversation.engine.statistics().values_refused == 1


def test_bound_for_all_hits_who_keeps_most() -> None:
    """One user's values fill the room; another's small ones still have theirs."""
    budget = ValueBudget(workflow_bytes_max=10_000, bytes_max=1000)
    for _ in range(9):
        assert not budget.refusal("greedy", 0, 100)
        budget.add("greedy", 100)
    assert "900 of them this owner's; the limit is 1000" in budget.refusal("greedy", 900, 101)
    assert not budget.refusal("modest", 0, 101)
    budget.add("modest", 101)
    assert "raise `values_bytes_max`" in budget.refusal("greedy", 900, 10)
    budget.add("greedy", -900)
    assert not budget.refusal("greedy", 0, 800)


@pytest.mark.parametrize(
    ("parts", "is_list", "text"),
    [([], True, b"[]"), ([b"1"], True, b"[1]"), ([b"1", b"2"], True, b"[1,2]"), ([b"1"], False, b"1")],
)
def test_text_of_parts(parts: list[bytes], is_list: bool, text: bytes) -> None:
    """A text that is made of others has their length and theirs between commas."""
    joined = Joined(parts, is_list=is_list)
    assert (bytes(joined), len(joined)) == (text, len(text))
    twice = Joined([joined, joined], is_list=True)
    assert (bytes(twice), len(twice)) == (b"[" + text + b"," + text + b"]", 2 * len(text) + 3)


def test_order() -> None:
    """Each comes after those on which it depends, whatever their numbers."""
    dependencies: dict[int, Any] = {1: [5], 5: [9], 9: [], 7: [1, 9]}
    order = in_order(dependencies, dependencies.__getitem__)
    assert sorted(order) == [1, 5, 7, 9]
    assert all(order.index(other) < order.index(node) for node, others in dependencies.items() for other in others)
