"""What is asked of the workers before tasks are started again: about all that may still run, in few questions."""

import json
from collections.abc import Sequence

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import VerbRefused
from dyrygentd.ports.facts import Inspection, Selection, TaskPlace
from dyrygentd.testing import FakeBroker, FakeInspector
from tests.scheduler.support import definition, scheduler, until

pytestmark = pytest.mark.anyio


class _Counting(FakeInspector):
    """Counts the questions, and those who ask at one time."""

    def __init__(self, broker: FakeBroker) -> None:
        super().__init__(broker)
        self.traces: list[int] = []

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        self.traces.append(len(tasks))
        return await super().trace(tasks)


async def test_bulk_asks_about_every_workflow_in_few_questions() -> None:
    """Fifty workflows whose tasks run: all are refused, by one question, and none is forgotten after the first few."""
    broker = FakeBroker(holds=True)
    inspector = _Counting(broker)
    async with scheduler(broker, inspector=inspector) as running:
        for number in range(50):
            await running.submit(definition("a", prefix=f"w{number}"))
        await until(lambda: len(broker.published) == 50)
        await running.perform_in_bulk(Selection(), VerbRequest(Verb.CANCEL))
        inspector.traces.clear()
        done = await running.perform_in_bulk(Selection(), VerbRequest(Verb.RETRY))
        assert (len(done.refused), done.changed, inspector.traces) == (50, [], [50])
        assert len(broker.published) == 50


async def test_a_retry_is_refused_for_what_is_below() -> None:
    """A workflow whose child cleans up beside a task that still runs is left as it is: half of a retry is none."""
    broker = FakeBroker(holds=True)
    nodes = [{"name": "work", "task": "tasks.a"}, {"name": "clean", "task": "tasks.b", "section_end": "finally"}]
    inner = {"nodes": [{**node, "section": "s"} for node in nodes]}
    document = json.dumps({"nodes": [{"name": "k", "workflow": {"definition": inner}}]}).encode()
    async with scheduler(broker, inspector=FakeInspector(broker)) as running:
        top = (await running.submit(wire.decode_definition(document, nodes_max=10))).id
        await until(lambda: len(broker.published) == 1)
        await running.perform(top, VerbRequest(Verb.CANCEL))
        await until(lambda: len(broker.published) == 2)
        told = await running.explain(top, "k")
        assert told.verdict == "'k' was cancelled; its workflow ends when its sections have cleaned up"
        assert told.next_step.startswith("dyrygentctl explain ")
        with pytest.raises(VerbRefused, match="'work' is cancelled; its task still runs"):
            await running.perform(top, VerbRequest(Verb.RETRY))
        assert (await running.view(top)).state == "cancelled"
        assert [entry.verb for entry in (await running.journal(top)).entries] == ["cancel"]
        await running.perform(top, VerbRequest(Verb.RETRY, force=True))
        assert (await running.view(top)).state == "running"


async def test_every_node_of_a_workflow_is_asked_about() -> None:
    """The only task that runs is the last of many: it is found."""
    broker = FakeBroker(holds=True)
    inspector = _Counting(broker)
    names = [f"n{number}" for number in range(600)]
    async with scheduler(broker, inspector=inspector) as running:
        handle = await running.submit(definition("; ".join(names)))
        await until(lambda: len(broker.published) == 600)
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        for message in broker.published[:-1]:
            broker.lose(message.task_id)
        inspector.traces.clear()
        with pytest.raises(VerbRefused, match="still runs"):
            await running.perform(handle.id, VerbRequest(Verb.RETRY))
        assert sum(inspector.traces) == 600


async def test_many_who_ask_at_once_share_the_answer() -> None:
    """Clients that retry the same at one time: one question, one refusal each, no error."""
    broker = FakeBroker(holds=True)
    inspector = _Counting(broker)
    refused = 0
    async with scheduler(broker, inspector=inspector) as running:
        handle = await running.submit(definition("a"))
        await until(lambda: len(broker.published) == 1)
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        inspector.traces.clear()

        async def ask() -> None:
            nonlocal refused
            with pytest.raises(VerbRefused):
                await running.perform(handle.id, VerbRequest(Verb.RETRY))
            refused += 1

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(ask)
        assert (refused, inspector.traces) == (20, [1])
