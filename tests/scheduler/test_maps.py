"""Maps: what users of other systems reported of theirs, tried on ours with a scheduler in this process."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.events import TaskIgnored
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.parent import Parent
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import UnknownPool
from dyrygentd.scheduler import Scheduler
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import limits, published, scheduler, settle, until

pytestmark = pytest.mark.anyio

GRAPH = {"nodes": [{"name": "x", "task": "tasks.x"}, {"name": "y", "task": "tasks.y", "after": ["x"]}]}


def mapped(do: Any = None, *, over: Any = "list", **fields: Any) -> Definition:
    """A task that returns a list, a map, and a task that takes what comes of it."""
    nodes = [
        {"name": "list", "task": "tasks.list"},
        {"name": "m", "map": {"over": over, "do": do or {"task": "tasks.x"}, **fields}, "after": ["list"]},
        {"name": "z", "task": "tasks.z", "after": ["m"]},
    ]
    return wire.decode_definition(json.dumps({"name": "outer", "nodes": nodes}).encode(), nodes_max=NODES_MAX)


def workers(items: Any, **tasks: Callable[..., object]) -> FakeBroker:
    """Workers whose list is this one, and which return what they are given."""

    def same(*args: Any) -> Any:
        return args[0] if args else None

    return FakeBroker(
        {"tasks.list": lambda: items, "tasks.x": same, "tasks.y": same, "tasks.z": same}
        | {f"tasks.{name}": task for name, task in tasks.items()}
    )


async def ends(running: Scheduler, workflow_id: str, state: str) -> wire.WorkflowView:
    """Wait until a workflow is in a state, through ends that are none."""
    with anyio.fail_after(30):
        while (view := await running.view(workflow_id, with_result=True)).state != state:  # noqa: ASYNC110
            await anyio.sleep(0.005)
    return view


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 500, 3700, 5000])
async def test_no_size_hangs(count: int) -> None:
    """Others hang at 500 or 3,700 members, or freeze from 4,000 on (prefect#7299, #8579, airflow#29959, conductor#1767)."""
    broker = workers([*range(count)])
    async with scheduler(broker) as running:
        outcome = await (await running.submit(mapped())).wait(timeout_s=60)
    assert (outcome.state, outcome.result) == ("succeeded", [*range(count)])
    assert len(published(broker)) == count + 2


@pytest.mark.parametrize(("count", "state"), [(9, "succeeded"), (10, "succeeded"), (11, "failed")])
async def test_the_most_and_one_more(count: int, state: str) -> None:
    """A list that is too long fails by name, with its length, and nothing of it is sent (conductor#118, superplane#5527)."""
    broker = workers([*range(count)])
    async with scheduler(broker) as running:
        handle = await running.submit(mapped(max_items=10))
        assert (await handle.wait()).state == state
        if state == "failed":
            node = await running.node(handle.id, "m")
            assert "its list has 11 items, `max_items` is 10" in (node.error or "")
            assert published(broker) == ["list"]


async def test_too_many_nodes_are_refused_before_anything_is_sent() -> None:
    """The daemon's bound of a workflow counts what is made of a list, too."""
    broker = workers([*range(100)])
    async with scheduler(broker, limits=limits(nodes_max=50)) as running:
        handle = await running.submit(mapped())
        assert (await handle.wait()).state == "failed"
        assert "101 nodes with the join behind them, `nodes_max` is 50" in ((await running.node(handle.id, "m")).error or "")
    assert published(broker) == ["list"]


async def test_items_are_as_long_as_arguments_may_be() -> None:
    """No bound but that of arguments: others pass items by the command line of a process (argo#7527, #12190, #15471)."""
    broker = workers(["x" * 200_000, "y" * 200_000])
    async with scheduler(broker) as running:
        assert (await (await running.submit(mapped())).wait()).result == ["x" * 200_000, "y" * 200_000]


async def test_room_in_memory_is_waited_for() -> None:
    """A list for which there is no room now is not lost."""
    broker = workers([*range(10)])
    async with scheduler(broker, limits=limits(nodes_in_memory_max=20)) as running:
        other = await running.submit_definition(
            wire.decode_definition(
                json.dumps({"nodes": [{"name": f"g{n}", "gate": True} for n in range(10)]}).encode(), nodes_max=99
            )
        )
        handle = await running.submit(mapped())
        await until(lambda: bool(running._parts.beginnings.waits))
        await running.perform(other.id, VerbRequest(Verb.CANCEL))
        assert (await handle.wait()).state == "succeeded"


# --- order ------------------------------------------------------------------------------------------------------------


async def test_values_are_in_the_order_of_the_items() -> None:
    """Whatever ends first (airflow#40321, celery#4368, nextflow#4104)."""
    broker = workers([*range(200)])
    broker.holds = True
    async with scheduler(broker) as running:
        handle = await running.submit(mapped())
        await until(lambda: len(broker.published) >= 1)
        broker.let_go(broker.published[0].task_id)
        await until(lambda: len(broker.published) == 201)
        members = [message.task_id for message in broker.published[1:]]
        Random(1).shuffle(members)
        for task_id in members:
            broker.let_go(task_id)
        broker.holds = False
        assert (await handle.wait(timeout_s=30)).result == [*range(200)]


async def test_items_go_depth_first() -> None:
    """The first item is done before the last one has begun (prefect#2041, #4556, airflow#25032)."""
    broker = workers([*range(50)])
    async with scheduler(broker, limits=limits(in_flight_max=1)) as running:
        await (await running.submit(mapped(GRAPH))).wait(timeout_s=30)
    assert published(broker) == ["list", *["x", "y"] * 50, "z"]


# --- verbs ------------------------------------------------------------------------------------------------------------


async def test_one_index_is_one_index() -> None:
    """To clear one must not clear all (airflow#40543), at each index; no member is lost by it (dagster#19490, #30077)."""
    bad = {0, 3, 5}

    def x(item: int) -> int:
        if item in bad:
            raise ValueError("bad")
        return item

    broker = workers([*range(6)], x=x)
    async with scheduler(broker) as running:
        handle = await running.submit(mapped())
        await handle.wait()
        for index in sorted(bad):
            bad.discard(index)
            before = len(broker.published)
            await running.perform(handle.id, VerbRequest(Verb.RETRY, nodes=(f"m[{index}]",)))
            with anyio.fail_after(10):
                while (await running.node(handle.id, f"m[{index}]")).state != "succeeded":  # noqa: ASYNC110
                    await anyio.sleep(0.005)
            assert [name for name in published(broker)[before:] if name != "z"] == ["x"]
        assert (await ends(running, handle.id, "succeeded")).result == [*range(6)]
        assert published(broker)[-1] == "z"


async def test_the_answer_finds_all_of_it_going() -> None:
    """Whoever retries a member and then waits for the workflow does not find the end that it had before, however deep that is."""
    fails = [True]

    def y(item: int) -> int:
        if fails[0]:
            raise ValueError("bad")
        return item

    broker = workers([[1], [2]], y=y)
    async with scheduler(broker) as running:
        handle = await running.submit(mapped({"map": {"do": {"task": "tasks.y"}}}))
        assert (await handle.wait()).state == "failed"
        fails[0] = False
        assert (await handle.retry("m[0][0]")).nodes == ["m[0][0]", "m[0]"]
        await handle.wait()
        await handle.retry("m[1][0]")
        assert (await handle.wait()).result == [[1], [2]]


async def test_an_empty_map_is_tried_again() -> None:
    """A retry of a map without members finds nothing to do, and does not hang (airflow#43214)."""
    items: list[int] = []
    broker = workers(items)
    async with scheduler(broker) as running:
        handle = await running.submit(mapped(if_empty="fail"))
        assert (await handle.wait()).state == "failed"
        await running.perform(handle.id, VerbRequest(Verb.RETRY))
        assert (await handle.wait()).state == "failed"
        items.append(1)
        await running.perform(handle.id, VerbRequest(Verb.RERUN, nodes=("list",)))
        assert (await ends(running, handle.id, "succeeded")).result == [1]


async def test_a_rerun_begins_with_other_members() -> None:
    """A shorter list leaves nothing of the longer one behind, and what was there is still to be seen."""
    items = [1, 2, 3]
    broker = workers(items)
    async with scheduler(broker) as running:
        handle = await running.submit(mapped())
        await handle.wait()
        items.pop()
        await running.perform(handle.id, VerbRequest(Verb.RERUN, nodes=("list",)))
        assert (await ends(running, handle.id, "succeeded")).result == [1, 2]
        first, second = (Parent(handle.id, 1, generation).child_id for generation in (0, 1))
        assert ((await running.view(first)).tasks, (await running.view(second)).tasks) == (3, 2)


@pytest.mark.parametrize("is_held", [False, True], ids=["amid its members", "at once"])
async def test_cancel_amid(is_held: bool) -> None:
    """A cancel ends the members as well, however far the expansion is; nothing is sent afterwards."""
    broker = workers([*range(50)])
    broker.holds = True
    async with scheduler(broker, limits=limits(in_flight_max=5)) as running:
        handle = await running.submit(mapped())
        await until(lambda: len(broker.published) == 1)
        broker.let_go(broker.published[0].task_id)
        if not is_held:
            await until(lambda: len(broker.published) == 6)
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        count = len(broker.published)
        await settle(500)
        assert len(broker.published) == count
        assert (await handle.wait()).state == "cancelled"
        assert not running._parts.turns.engine.workflows


async def test_pause_holds_what_a_list_becomes() -> None:
    """A list that comes while all is paused becomes members that wait."""
    broker = workers([1, 2])
    broker.holds = True
    async with scheduler(broker) as running:
        handle = await running.submit(mapped())
        await until(lambda: len(broker.published) == 1)
        await running.perform(handle.id, VerbRequest(Verb.PAUSE))
        broker.let_go(broker.published[0].task_id)
        broker.holds = False
        await until(lambda: len(running._parts.turns.engine.workflows) == 2)
        await settle()
        assert published(broker) == ["list"]
        await running.perform(handle.id, VerbRequest(Verb.RESUME))
        assert (await handle.wait()).result == [1, 2]


# --- starting again ---------------------------------------------------------------------------------------------------


async def test_goes_on_after_a_restart() -> None:
    """Members go on in what there is, and are not begun anew (kestra#6571, argo#16938); nothing is sent twice."""
    broker, store = workers([*range(20)]), MemoryStore()
    broker.holds = True
    async with scheduler(broker, store, limits=limits(in_flight_max=5)) as running:
        handle = await running.submit(mapped())
        await until(lambda: len(broker.published) == 1)
        broker.let_go(broker.published[0].task_id)
        await until(lambda: len(broker.published) == 6)
    broker.holds = False
    for message in broker.published[1:]:
        broker.let_go(message.task_id)
    async with scheduler(broker, store) as running:
        view = await ends(running, handle.id, "succeeded")
    assert view.result == [*range(20)]
    assert len(broker.published) == 22


# --- what is submitted ------------------------------------------------------------------------------------------------


async def test_unknown_pools_are_refused_at_the_submission() -> None:
    """Whoever submits hears of them at once, and not when the list is there."""
    async with scheduler(workers([])) as running:
        for do in ({"task": "tasks.x", "pool": "none"}, {"map": {"do": {"task": "tasks.x", "pool": "none"}}}):
            with pytest.raises(UnknownPool):
                await running.submit_definition(mapped(do))
        with pytest.raises(UnknownPool):
            await running.submit_definition(mapped(pool="none"))


# --- maps, workflows and graphs in each other -------------------------------------------------------------------------


async def test_a_workflow_for_each_item() -> None:
    """What is done with an item may be a workflow of its own, with the item as a parameter (kestra's `ForEachItem`)."""
    inner = {
        "parameters": {"item": {"type": "integer"}},
        "nodes": [{"name": "x", "task": "tasks.x", "args": ["${item}"]}, {"name": "y", "task": "tasks.y", "after": ["x"]}],
    }
    broker = workers([1, 2, 3])
    async with scheduler(broker) as running:
        handle = await running.submit(mapped({"workflow": {"definition": inner, "input": "item"}}))
        assert (await handle.wait(timeout_s=30)).result == [1, 2, 3]
        assert {message.root_id or message.workflow_id for message in broker.published} == {handle.id}


async def test_maps_in_maps_in_graphs() -> None:
    """An item that is a list is mapped over once more, behind a task that makes it."""
    do = {
        "nodes": [
            {"name": "x", "task": "tasks.x"},
            {"name": "each", "map": {"over": "x", "do": {"task": "tasks.y"}}},
            {"name": "end", "task": "tasks.y", "after": ["each"]},
        ]
    }
    broker = workers([[1, 2], [], [3]])
    async with scheduler(broker) as running:
        handle = await running.submit(mapped(do))
        assert (await handle.wait(timeout_s=30)).result == [[1, 2], [], [3]]
        assert (await running.node(handle.id, "m[2].each[0]")).state == "succeeded"


async def test_a_member_that_is_ignored() -> None:
    """One that asked to be ignored has null in the list, and the others are handed on."""
    broker = workers([1, 2, 3])
    broker.holds = True
    async with scheduler(broker) as running:
        handle = await running.submit(mapped())
        await until(lambda: len(broker.published) == 1)
        broker.let_go(broker.published[0].task_id)
        await until(lambda: len(broker.published) == 4)
        ignored = broker.published[2].task_id
        running._parts.inbox.post(TaskIgnored(ignored, "not today"))
        for message in (broker.published[1], broker.published[3]):
            broker.let_go(message.task_id)
        broker.holds = False
        assert (await handle.wait(timeout_s=30)).result == [1, None, 3]


@pytest.mark.parametrize("on_failure", ["continue", "stop"])
async def test_on_failure(on_failure: str) -> None:
    """With `continue` the others go on; with `stop` what has not been sent is cancelled."""

    def x(item: int) -> int:
        if not item:
            raise ValueError("bad")
        return item

    broker = workers([*range(10)], x=x)
    async with scheduler(broker, limits=limits(in_flight_max=1)) as running:
        handle = await running.submit(mapped(on_failure=on_failure))
        assert (await handle.wait(timeout_s=30)).state == "failed"
    assert published(broker).count("x") == (10 if on_failure == "continue" else 1)
