"""What every inspector promises, see `dyrygentd.ports.Inspector`. No worker runs; those are in ``tests/transport``."""

import time
from dataclasses import replace
from typing import Any

import pytest

from dyrygentd.core.events import TaskFailed, TaskSucceeded
from dyrygentd.scheduler.whereabouts import whereabouts_of
from tests.contracts.adapters import InspectorSetup, message, place

pytestmark = pytest.mark.anyio


async def test_nothing_to_look_for(inspecting: InspectorSetup) -> None:
    """Without tasks nobody is asked."""
    inspection = await inspecting.inspector.trace([])
    assert (dict(inspection.tasks), list(inspection.problems)) == ({}, [])


async def test_messages_that_wait(inspecting: InspectorSetup) -> None:
    """Each task is found in its queue, with what is ahead of it where the broker shows messages; nobody consumes the queue."""
    messages = [message(task_id) for task_id in "abc"]
    await inspecting.dispatcher.publish(messages)
    inspection = await inspecting.inspector.trace([place(each) for each in messages])
    assert not inspection.problems
    # Others may be on a broker that is shared.
    assert inspection.workers is not None
    [queue] = inspection.queues.values()
    assert (queue.length, queue.consumers, list(queue.workers)) == (3, 0, [])
    assert {task.queue for task in inspection.tasks.values()} == {queue.name}
    assert {task.stored_state for task in inspection.tasks.values()} == {""}
    if inspecting.shows_messages:
        assert {task_id: task.position for task_id, task in inspection.tasks.items()} == {"a": 0, "b": 1, "c": 2}
    assert {whereabouts_of(inspection, task_id, now=time.time()).code for task_id in "abc"} == {"no-consumer"}


async def test_stranger(inspecting: InspectorSetup) -> None:
    """A task of which nothing is anywhere is lost, and only where everybody could be asked."""
    published = message("published")
    await inspecting.dispatcher.publish([published])
    if not inspecting.shows_messages:
        # Any message may be the one that is looked for, so the queue has to be empty.
        await inspecting.store(TaskSucceeded("published", b"1"))
        return
    inspection = await inspecting.inspector.trace([place(message("stranger")), place(published)])
    assert inspection.tasks["stranger"].position is None
    assert whereabouts_of(inspection, "stranger", now=time.time()).code == "lost"
    assert whereabouts_of(inspection, "published", now=time.time()).code == "no-consumer"


async def test_results(inspecting: InspectorSetup) -> None:
    """A stored result is found, whatever it is."""
    await inspecting.dispatcher.publish([message(task_id) for task_id in "abc"])
    await inspecting.store(TaskSucceeded("a", b"1"))
    await inspecting.store(TaskFailed("b", "ValueError: no"))
    inspection = await inspecting.inspector.trace([place(message(task_id)) for task_id in "abc"])
    assert {task_id: task.stored_state for task_id, task in inspection.tasks.items()} == {"a": "SUCCESS", "b": "FAILURE", "c": ""}
    assert whereabouts_of(inspection, "a", now=time.time()).code == "finished"
    assert whereabouts_of(inspection, "b", now=time.time()).code == "finished"


async def test_broker_is_away(inspecting: InspectorSetup) -> None:
    """While the broker is away what the backend knows is told all the same, and nothing that was not seen is made up."""
    await inspecting.dispatcher.publish([message("a"), message("b")])
    await inspecting.store(TaskSucceeded("a", b"1"))
    await inspecting.cut()
    begun = time.monotonic()
    inspection = await inspecting.inspector.trace([place(message("a")), place(message("b"))])
    assert time.monotonic() - begun < 15
    assert any("broker" in problem for problem in inspection.problems)
    assert inspection.workers is None
    assert whereabouts_of(inspection, "a", now=time.time()).code == "finished"
    whereabouts = whereabouts_of(inspection, "b", now=time.time())
    assert whereabouts.code == "unknown"
    assert "the broker cannot be asked" in whereabouts.text
    await inspecting.mend()
    inspection = await inspecting.inspector.trace([place(message("b"))])
    assert not inspection.problems


async def test_looking_changes_nothing(inspecting: InspectorSetup) -> None:
    """Whoever only looks finds the same again."""
    await inspecting.dispatcher.publish([message("a"), message("b")])
    places = [place(message("a")), place(message("b"))]
    first, second = [await inspecting.inspector.trace(places) for _ in range(2)]
    # Workers of other tests come, go and grow older on a broker that is shared.
    of_workers: dict[str, Any] = {
        "workers": None,
        "listening": None,
        "connected": None,
        "connected_before": 0,
        "alive": {},
        "consumed": {},
    }
    assert replace(first, **of_workers) == replace(second, **of_workers)


async def test_closing_twice_is_harmless(inspecting: InspectorSetup) -> None:
    """An inspector may be closed twice, also before it looked for anything."""
    await inspecting.inspector.close()
    await inspecting.inspector.close()


async def test_census(inspecting: InspectorSetup) -> None:
    """The workers are asked without a task to look for, and it never raises."""
    inspection = await inspecting.inspector.census()
    assert (list(inspection.problems), dict(inspection.tasks)) == ([], {})
    assert inspection.workers is not None
