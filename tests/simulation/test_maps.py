"""Maps by seed: of random shapes, with failures, retries, a crash here and there, and all that was done is there at the end.

Smaller than the other simulations, whose worlds know no values: here a scheduler runs on the shipped fakes, is left without a
word at some moment, and another one takes over what is stored.
"""

import json
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dyrygentd import wire
from dyrygentd.core.graph import NODES_MAX
from dyrygentd.core.invariants import check_engine
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import limits, scheduler
from tests.support.size import of_size

pytestmark = pytest.mark.anyio

_TASK = {"task": "tasks.x"}
_GRAPH = {"nodes": [{"name": "a", **_TASK}, {"name": "b", **_TASK, "after": ["a"]}, {"name": "c", **_TASK, "after": ["b"]}]}
_NESTED = {"map": {"do": _TASK}}
_MIXED = {"nodes": [{"name": "a", **_TASK}, {"name": "e", "map": {"over": "a", "do": _GRAPH}}]}


class _World:
    """What a seed has chosen, and workers that fail some tasks once."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.do: Any = self.chance.choice([_TASK, _GRAPH, _NESTED, _MIXED])
        is_deep = self.do in (_NESTED, _MIXED)
        count = self.chance.choice([0, 1, 2, 5, 12])
        self.items: list[Any] = [[*range(self.chance.randrange(4))] if is_deep else number for number in range(count)]
        self.fails = self.chance.random() < 0.5
        self.broker = FakeBroker({"tasks.list": lambda: self.items, "tasks.x": self._x, "tasks.z": lambda values: values})
        self.store = MemoryStore()

    def _x(self, item: Any) -> Any:
        if self.fails and self.chance.random() < 0.2:
            raise ValueError("no luck")
        return item

    def body(self) -> bytes:
        nodes = [
            {"name": "list", "task": "tasks.list"},
            {"name": "m", "map": {"over": "list", "do": self.do}},
            {"name": "z", "task": "tasks.z", "after": ["m"]},
        ]
        return json.dumps({"name": "w", "nodes": nodes, "key": "w"}).encode()


@pytest.mark.parametrize("seed", range(of_size(40, 300)))
async def test_seed(seed: int) -> None:
    """Whatever fails, and whenever the scheduler goes away, the list is complete, in order, and nothing succeeded twice."""
    world = _World(seed)
    chance, broker = world.chance, world.broker
    workflow_id, lives = "", chance.choice([1, 2, 3, 5])
    for life in range(lives):
        is_last = life == lives - 1
        async with scheduler(broker, world.store, limits=limits(in_flight_max=chance.choice([1, 3, 100]))) as running:
            if not workflow_id:
                workflow_id = (await running.submit_definition(wire.decode_definition(world.body(), nodes_max=NODES_MAX))).id
            if not is_last:
                # So many messages later it is left, amid whatever it does then.
                most = len(broker.published) + chance.randrange(8)
                with anyio.move_on_after(0.05):
                    while len(broker.published) < most:
                        await anyio.lowlevel.checkpoint()
                check_engine(running._parts.turns.engine)
                continue
            with anyio.fail_after(30):
                while (view := await running.view(workflow_id, with_result=True)).state != "succeeded":
                    if view.is_finished:
                        world.fails = world.fails and chance.random() < 0.5
                        names = [chance.choice([("m",), ()])] if view.state == "failed" else [()]
                        await running.perform(workflow_id, VerbRequest(Verb.RETRY, nodes=names[0]))
                    await anyio.sleep(0.002)
            check_engine(running._parts.turns.engine)
            assert view.result == world.items
            assert not running._parts.turns.engine.workflows
    sent = [message.task_id for message in broker.published]
    assert len(sent) == len({*sent})
