"""A value stays exactly as long as somebody needs it, in memory and on disk."""

import pytest

from dyrygentd.core.events import TaskFailed
from dyrygentd.core.kept_values import KeptValues
from dyrygentd.core.steps import STEP
from dyrygentd.core.values import Joined
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import Conversation
from tests.support.stepping import stepped


def _kept(conversation: Conversation, workflow_id: str = "w") -> dict[str, bytes]:
    workflow = conversation.workflow(workflow_id)
    return {workflow.graph.names[node]: value.content for node, value in workflow.values.by_node.items()}


def test_let_go_with_the_last_who_takes_it(conversation: Conversation) -> None:
    """Two take it, so it stays for the second; what nobody takes is never kept."""
    conversation.submit("a; x; b < a; c < b a; d! < a")
    conversation.succeed("w/a", value=b"5")
    conversation.succeed("w/x", value=b"9")
    assert _kept(conversation) == {"a": b"5"}
    assert repr(conversation.workflow().values) == "<KeptValues 1 values, 1 bytes>"
    conversation.succeed("w/b", value=b"6")
    assert _kept(conversation) == {"a": b"5", "b": b"6"}
    conversation.succeed("w/c")
    assert _kept(conversation) == {}
    assert conversation.engine.statistics().values_bytes == 0


def test_kept_for_a_retry(conversation: Conversation) -> None:
    """A failed node may run once more, and takes the same again."""
    conversation.submit("a; b < a; g gate=1")
    conversation.succeed("w/a", value=b"5")
    conversation.turn(TaskFailed("w/b", "boom"))
    assert _kept(conversation) == {"a": b"5"}
    conversation.crash()
    conversation.ask("retry", "b")
    assert _kept(conversation) == {"a": b"5"}


def test_made_again_from_what_is_stored(conversation: Conversation) -> None:
    """What a join hands on is made of the others' values, so only those are on disk; joins of joins need none of their own."""
    conversation.submit("a; b; &j < a b; &k < j; &e; x; t < k x; u < e x")
    conversation.succeed("w/a", value=b"1")
    conversation.succeed("w/b", value=b"2")
    before = _kept(conversation)
    conversation.crash()
    assert _kept(conversation) == before
    assert {row.node: row.value for row in conversation.nodes.values() if row.value} == {0: b"1", 1: b"2", 4: b"[]"}
    batch = conversation.succeed("w/x", value=b"3")
    assert {message.task_id: bytes(message.input or b"") for message in batch.publish} == {
        "w/t": b"[[[1,2]],3]",
        "w/u": b"[[],3]",
    }


def test_a_value_that_was_lost_is_a_bug(conversation: Conversation) -> None:
    """Nothing is sent with a hole in it: the workflow is set aside, and says which value is gone."""
    conversation = Conversation()
    conversation.submit("a; x; b < a x")
    conversation.succeed("w/a")
    values: KeptValues = conversation.workflow().values
    values.by_node.clear()
    with pytest.raises(InvariantBroken, match="has lost the value of 'a'"):
        values.input_text(2)


def test_what_is_not_counted_in_is_not_counted_out(conversation: Conversation) -> None:
    """A workflow that is only read has no part in the bound of all."""
    conversation.submit("a; b < a")
    conversation.succeed("w/a", value=b"5")
    aside = conversation.restored("w")
    aside.values.count_out()
    assert (aside.values.bytes, conversation.engine.statistics().values_bytes) == (1, 1)


def test_texts_say_how_long_they_are() -> None:
    """What is made of others says so when it is shown, and not what is in it."""
    joined = Joined([b"1", Joined([b"2"], is_list=False)], is_list=True)
    assert (repr(joined), bytes(joined)) == ("<Joined 2 parts, 5 bytes>", b"[1,2]")


def test_very_many_are_counted_anew_in_steps() -> None:
    """Others have their turn between some thousand nodes, and every value is kept for whoever takes it."""
    count = STEP + 1
    names = range(count)
    conversation = Conversation()
    graph = "; ".join([*(f"n{number}" for number in names), *(f"x{number} < n{number}" for number in names)])
    conversation.engine.handle(conversation.submission(graph), conversation.now)
    values = conversation.workflow().values
    for node in names:
        values.keep(node, b"1")
    passes, _ = stepped(values.count_users_anew(set(range(count, 2 * count))))
    assert (passes, len(values.by_node)) == (2, count)


def test_what_was_let_go_is_not_made_up(conversation: Conversation) -> None:
    """A join whose parts are not all stored has no value: nothing is handed on with a hole in it."""
    conversation.submit("a; b; &j < a b; x; t < j x")
    conversation.succeed("w/a", "w/b")
    aside = conversation.restored("w")
    aside.values.by_node.clear()
    aside.values.restore({0: b"1"})
    assert 2 not in aside.values.by_node
