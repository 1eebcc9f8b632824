"""What the overview says of tasks that the broker gives out again and again."""

import pytest

from dyrygentd.core.events import TaskRedelivered
from dyrygentd.ports import Store
from dyrygentd.scheduler.limits import Pace
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, scheduler, settle, until

pytestmark = pytest.mark.anyio


async def test_task_that_is_given_out_again_and_again(store: Store) -> None:
    """A loop of a broker and a worker that dies is told; one redelivery, as after a restart, is not."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, inspector=broker.inspector, pace=Pace(young_s=0.0)) as running:
        handle = await running.submit(definition("poison!; good!"))
        await until(lambda: len(broker.published) == 2)
        await settle()
        node = await running.node(handle.id, "poison")
        workflow = running._parts.turns.engine.workflows[handle.id]
        for times in (1, 2, 3):
            assert (await running.overview()).items == []
            running._parts.inbox.post(TaskRedelivered(str(node.task_id), "w1 has it"))
            await until(lambda times=times: workflow.attempts.redelivered.get(0) == times)  # type: ignore[misc]
        overview = await running.overview()
        [item] = overview.items
        assert (item.kind, item.code, item.nodes) == ("stuck", "redelivered", ["poison"])
        assert "ago: the broker has given it out again 3 times: " in item.text
        assert overview.verdict.startswith("the broker has given out 1 task more than once (1 workflow")
        assert overview.status == "attention"
