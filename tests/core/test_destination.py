"""The text by which a destination is remembered, and what of it a workflow keeps."""

import pytest

from dyrygentd.core.checkpoint import node_record, restore, workflow_record
from dyrygentd.core.destination import Destination, destination_of, queue_of
from dyrygentd.core.effects import Batch
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import MessagePublished, WorkflowSubmitted
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.pools import Pools


@pytest.mark.parametrize(
    ("destination", "text"),
    [
        (Destination("celery", "", "direct", "celery"), "celery"),
        (Destination("q", "tx", "topic", "media.#"), '["q", "tx", "topic", "media.#"]'),
        (Destination("", "tx", "direct", "key"), '["", "tx", "direct", "key"]'),
        (Destination("[odd]", "", "direct", "[odd]"), '["[odd]", "", "direct", "[odd]"]'),
    ],
)
def test_text_is_read_back(destination: Destination, text: str) -> None:
    """A queue is its own text; anything more is told in full."""
    assert destination.text == text
    assert destination_of(text) == destination
    assert queue_of(text) == destination.queue
    assert (destination_of(""), queue_of("")) == (None, "")


class _Routes:
    """Sends by the input, or to one queue."""

    def __init__(self, looks_at_input: bool) -> None:
        self.looks_at_input = looks_at_input
        self.queue = "old"

    def destination_of(self, signature: Signature, given: bytes | None) -> str:
        return f"shard-{given!r}" if self.looks_at_input and given else self.queue


def _started(routes: _Routes, *, names: str = "ab", pools: Pools | None = None) -> tuple[Engine, Graph, Batch]:
    graph = Graph.build([NodeSpec(name, Signature("t", args=f"[{number}]".encode()), name) for number, name in enumerate(names)])
    engine = Engine(routing=routes, pools=pools)
    engine.handle(WorkflowSubmitted("w", "w", graph, b"{}"), 1.0)
    return engine, graph, engine.take_batch(1.0)


def test_usual_destination_is_kept_with_the_workflow() -> None:
    """Nodes that go where the first of their task went have nothing of their own to store, and are found after a restart."""
    routes = _Routes(looks_at_input=False)
    engine, graph, batch = _started(routes)
    workflow = engine.workflows["w"]
    assert [message.destination for message in batch.publish] == ["old", "old"]
    assert {record.sent_to for record in batch.save_nodes.values()} == {""}
    record = batch.save_workflows["w"]
    assert record.routes == {"t": "old"}
    restored = restore(record, batch.save_nodes.values(), graph, now=2.0, value_bytes_max=100)
    routes.queue = "new"
    assert [restored.attempts.destination_of(node) for node in (0, 1)] == ["old", "old"]
    restored.attempts.note_destination(1, "new")
    again = restore(
        workflow_record(restored), [node_record(restored, node) for node in (0, 1)], graph, now=2.0, value_bytes_max=100
    )
    assert [again.attempts.destination_of(node) for node in (0, 1)] == ["old", "new"]
    assert workflow.attempts.destination_of(0) == "old"


def test_destination_that_is_told_later() -> None:
    """What only the dispatcher could find out is remembered with the node."""
    routes = _Routes(looks_at_input=False)
    routes.queue = ""
    engine, _, batch = _started(routes)
    assert [message.destination for message in batch.publish] == ["", ""]
    engine.handle(MessagePublished("a", "celery"), 2.0)
    engine.handle(MessagePublished("b", "other"), 2.0)
    batch = engine.take_batch(3.0)
    assert [engine.workflows["w"].attempts.destination_of(node) for node in (0, 1)] == ["celery", "other"]


def test_limit_of_a_queue_that_a_value_names() -> None:
    """Places are taken in the queue where the message really goes, and given back there."""
    routes = _Routes(looks_at_input=False)
    pools = Pools(queue_limits={"old": 1}, queue_of=lambda _: "elsewhere")
    engine, _, batch = _started(routes, pools=pools)
    assert [message.task_id for message in batch.publish] == ["a"]
    assert pools.used() == {"queue:old": 1}
    engine.check_tables()
