"""Timelines are made beside the turns, once for all who ask, and what is kept of them is bounded."""

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.states import NodeState
from dyrygentd.errors import BoxNotFound
from dyrygentd.scheduler.folds import Folds
from dyrygentd.scheduler.timelines import Timelines
from tests.scheduler.test_folds import workflow_of

pytestmark = pytest.mark.anyio


class SetClock:
    """A clock that stands."""

    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        """Return the time that was set."""
        return self.at


@pytest.mark.parametrize("nodes", [10, 5_000])
async def test_it_is_the_one_of_now(nodes: int) -> None:
    """Of a short workflow at once and of a longer one in a thread, until now."""
    workflow = workflow_of("w", nodes)
    for node in range(nodes):
        workflow.nodes.place(node, NodeState.READY)
    shown = await Timelines(Folds(), SetClock(11.0)).view(workflow, "", 10)
    assert (shown.since, shown.until, shown.bin_s) == (1.0, 11.0, 1.0)
    assert [sum(row.waiting[number] for row in shown.rows) for number in range(10)] == [nodes] * 10
    with pytest.raises(BoxNotFound):
        await Timelines(Folds(), SetClock(11.0)).view(workflow, "nothing", 10)


async def test_what_took_long_is_made_for_all() -> None:
    """Fifty pages on one workflow cost as much as one; another box, other bins and an end are made anew."""
    made, workflow = Timelines(Folds(), SetClock(5.0), short_s=0.0, shown_times=1e9), workflow_of("w", 500)
    shown: list[wire.TimelineView] = []

    async def look() -> None:
        shown.append(await made.view(workflow, "", 10))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(look)
    assert len(shown) == 50
    assert {id(view) for view in shown} == {id(shown[0])}
    for path, bins in (("", 11), (shown[0].rows[0].path, 10)):
        assert await made.view(workflow, path, bins) is not shown[0]
    workflow.finished_at = 4.0
    assert (await made.view(workflow, "", 10)).until == 4.0
    for bins in range(20, 50):
        await made.view(workflow, "", bins)
    assert repr(made) == "<Timelines kept=16>"
