"""What tasks return that are declared to: run as a workflow of its own, on the fakes; packed ones come from real workers."""

import base64
import json
import tracemalloc
import zlib
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.policy import Child
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import BadRequest
from dyrygentd.scheduler.added import definition_of_added
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import published, scheduler, until

pytestmark = pytest.mark.anyio

_PLAN: dict[str, Any] = {"nodes": [{"name": "x", "task": "tasks.x"}, {"name": "y", "task": "tasks.y", "after": ["x"]}]}
_TOP: dict[str, Any] = {
    "name": "top",
    "nodes": [{"name": "plan", "task": "tasks.plan", "expands": True}, {"name": "z", "task": "tasks.z", "after": ["plan"]}],
}
_TASKS: Any = {"tasks.plan": lambda: _PLAN, "tasks.x": lambda: 1, "tasks.y": lambda x: x + 1, "tasks.z": lambda value: value * 10}


def _read(document: dict[str, Any]) -> Any:
    return wire.decode_definition(json.dumps(document).encode(), nodes_max=100)


async def test_what_a_task_returns_is_run() -> None:
    """Its result is the value of the node, in the order of one workflow after the other."""
    broker = FakeBroker(_TASKS)
    async with scheduler(broker) as running:
        top = await running.submit_definition(_read(_TOP))
        assert (await running.wait(top.id, timeout_s=10)).state == "succeeded"
        assert broker.published[-1].input == b"2"
        assert published(broker) == ["plan", "x", "y", "z"]


async def test_it_goes_on_elsewhere() -> None:
    """An export has what was added: the task does not run again where it is imported."""
    here, there = FakeBroker(_TASKS, holds=True), FakeBroker(_TASKS)
    async with scheduler(here) as source:
        top = (await source.submit_definition(_read(_TOP))).id
        for count in (1, 2):
            await until(lambda count=count: len(here.published) == count)  # type: ignore[misc]
            if count == 1:
                here.let_go()
        await source.perform(top, VerbRequest(Verb.PAUSE))
        here.let_go()
        await until(lambda: source.in_flight_count == 0)
        await source._parts.inbox.wait_saved()
        export = await source.export(top)
    assert [node["added"] for node in json.loads(export)["nodes"]] == [{"kind": "expands"}]
    async with scheduler(there) as target:
        await target.take_over(wire.decode_export(export, nodes_max=100))
        await target.perform(top, VerbRequest(Verb.RESUME))
        assert (await target.wait(top, timeout_s=10)).state == "succeeded"
        assert there.published[-1].input == b"2"
        assert published(there) == ["y", "z"]


@pytest.mark.parametrize(
    ("kind", "document", "error"),
    [
        ("beside", b"", "what the task has added is no definition, or was cut"),
        ("beside", b"!", "what the task has added cannot be read"),
        ("beside", b"eJw=", "was cut"),
        ("expands", b"\xff", "what the task has returned cannot be read"),
        ("expands", b"{}", "the task has returned {}, which is no definition and no canvas"),
        ("expands", b'"' + 90 * b"x" + b'"', "xxx…, which is no definition"),
        ("expands", b'{"nodes": [], "key": "k"}', "`key` cannot be given to what a task adds"),
        ("expands", b'{"nodes": [], "series": "s", "if_running": "skip"}', "`series` cannot be given to what a task adds"),
        ("expands", b'{"nodes": [], "if_running": "skip"}', "`if_running` cannot be given to what a task adds"),
        ("expands", b'{"nodes": [], "name": "\\ud800"}', "which is no definition and no canvas"),
        ("expands", b'{"nodes": [ ]}', "what the task has returned has no nodes"),
    ],
)
def test_what_cannot_be_run(kind: str, document: bytes, error: str) -> None:
    """What somebody else than the companion has written, or a task has returned by mistake, is told by name."""
    with pytest.raises(BadRequest, match=error.replace("{", r"\{")):
        definition_of_added(Child(kind, document), name="n", depth=1, new_id=MadeIds(), nodes_max=9, node_bytes_max=99)


def test_nothing_is_built_before_it_is_counted() -> None:
    """Twenty kB of what a task has added may be sixteen MiB of empty objects."""
    many = b'{"nodes":[%b{}]}' % (b"{}," * 4_500_000)
    tracemalloc.start()
    with pytest.raises(BadRequest, match="more than 4000000 arrays and objects"):
        definition_of_added(
            Child("beside", base64.b64encode(zlib.compress(many))),
            name="n",
            depth=1,
            new_id=MadeIds(),
            nodes_max=9,
            node_bytes_max=99,
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * len(many)


def test_depth() -> None:
    """A task that adds itself without an end is stopped."""
    with pytest.raises(BadRequest, match="there are 9 workflows above it, the limit is 8"):
        definition_of_added(Child("expands", b"{}"), name="n", depth=9, new_id=MadeIds(), nodes_max=9, node_bytes_max=99)
