"""What a failed node was given null for: told as its reason, with what runs it after all."""

import pytest

from dyrygentd.core.events import TaskFailed
from dyrygentd.core.given_null import given_null_for
from dyrygentd.core.standing import standing_of_node
from tests.support.conversation import Conversation


def _failed(conversation: Conversation, definition: str, *skipped: str, value: bytes = b"null") -> list[str]:
    """Skip nodes, let the rest of what comes first succeed and `p` fail; return the names for which it got null."""
    conversation.submit(definition)
    conversation.ask("skip", *skipped, value=value)
    conversation.turn(TaskFailed("w/p", "TypeError: None"))
    workflow = conversation.restored("w")
    node = workflow.graph.number("p")
    assert node is not None
    return [workflow.graph.names[each] for each in given_null_for(workflow, node)]


@pytest.mark.parametrize(
    ("definition", "skipped", "value", "found"),
    [
        ("f; p < f", ["f"], b"null", ["f"]),
        ("f; p < f", ["f"], b"7", []),
        ("f; g; &j < f g; p < j", ["f", "g"], b"null", ["f", "g"]),
        ("f; &j < f; &k < f j; p < k", ["f"], b"null", ["f"]),
        ("f; p! < f", ["f"], b"null", []),
    ],
)
def test_what_was_skipped(
    conversation: Conversation, definition: str, skipped: list[str], value: bytes, found: list[str]
) -> None:
    """Directly or through joins; not where a value was given, or none is taken."""
    assert _failed(conversation, definition, *skipped, value=value) == found


def test_its_reason_and_what_helps(conversation: Conversation) -> None:
    """It names what was skipped, and does not advise a retry that would end in the same way."""
    assert _failed(conversation, "f; g; &j < f g; p < j", "f", "g") == ["f", "g"]
    workflow = conversation.restored("w")
    found = standing_of_node(conversation.engine, workflow, workflow.graph.number("p") or 0, conversation.now)
    assert found.text == ("'p' failed in attempt 1: TypeError: None; it was given null for 'f' and 1 more, which were skipped")
    assert found.next_step.startswith("`rerun --from f` runs what was skipped, and then this, `skip p` goes on without it, ")
    assert "`retry" not in found.next_step


def test_a_task_that_was_given_a_value(conversation: Conversation) -> None:
    """What succeeded, and what its task did not want, is no reason."""
    conversation.submit("f; p < f")
    conversation.succeed("w/f")
    conversation.turn(TaskFailed("w/p", "boom"))
    workflow = conversation.restored("w")
    found = standing_of_node(conversation.engine, workflow, 1, conversation.now)
    assert (found.text, "`retry p`" in found.next_step) == ("'p' failed in attempt 1: boom", True)
