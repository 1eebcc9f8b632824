"""A task that a worker found expired long before its time: clocks differ, and that is remarked."""

import json

import pytest

from dyrygentd.core.events import TaskRevoked
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.standing import standing_of_node
from tests.support.conversation import START, Conversation


@pytest.mark.parametrize(
    ("expires_at", "options", "words"),
    [
        (START + 1200, {}, "that was 20 min too early"),
        (0.0, {"expires": 600}, "that was 10 min too early"),
        (START + 3, {}, ""),
        (0.0, {}, ""),
    ],
)
def test_expired_before_its_time(conversation: Conversation, expires_at: float, options: dict[str, float], words: str) -> None:
    """By the clock of this host it had time left; if it had not, or if that cannot be told, nothing is said."""
    signature = Signature("tasks.a", options=json.dumps(options).encode(), expires_at=expires_at)
    conversation.submit(Graph.build([NodeSpec("a", signature, "w/a")]))
    workflow = conversation.engine.workflows["w"]
    conversation.turn(TaskRevoked("w/a", "expired", is_expired=True))
    text = standing_of_node(conversation.engine, workflow, 0, conversation.now).text
    assert text.startswith("'a' failed in attempt 1: revoked: expired")
    assert words in text
    assert ("clock" in text) == bool(words)
