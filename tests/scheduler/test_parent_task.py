"""The task in which a workflow was submitted goes with it: into the messages, over a restart, to another daemon."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from celery import Celery

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import BadRequest
from dyrygentd.ports import Store
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, MemoryStore
from dyrygentd.wire.digests import digest_of
from tests.scheduler.support import scheduler, until
from tests.support.apps import running_task

pytestmark = pytest.mark.anyio

_NODES = [{"name": "g", "gate": True}, {"name": "a", "task": "tasks.a", "after": ["g"]}]


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Makes stores on the same data."""
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else (lambda: SqliteStore(tmp_path / "state.db"))


def _read(parent: dict[str, Any] | None, **more: Any) -> Definition:
    document = {"nodes": _NODES, "parent_task": parent, **more}
    return wire.decode_definition(json.dumps(document).encode(), nodes_max=100)


async def test_restart_keeps_it(reopen: Callable[[], Store]) -> None:
    """What is published by a later process has the same parent as before; what is shown has it while it runs and at the end."""
    broker = FakeBroker({"tasks.a": lambda: 1})
    async with scheduler(broker, reopen()) as running:
        submitted = await running.submit_definition(_read({"task_id": "p", "root_id": "r"}))
        alone = await running.submit_definition(_read(None))
    async with scheduler(broker, reopen()) as running:
        view = await running.view(submitted.id)
        assert view.parent_task == wire.ParentTaskView("p", "r")
        for workflow_id in (submitted.id, alone.id):
            await running.perform(workflow_id, VerbRequest(Verb.RELEASE, nodes=("g",)))
            await running.wait(workflow_id, timeout_s=5)
    assert [(message.workflow_id, message.parent_id) for message in broker.published] == [(submitted.id, "p"), (alone.id, "")]
    async with scheduler(broker, reopen()) as running:
        assert (await running.view(submitted.id)).parent_task == wire.ParentTaskView("p", "r")
        assert (await running.view(alone.id)).parent_task is None
        await running.perform(submitted.id, VerbRequest(Verb.RERUN, nodes=("a",)))
        await until(lambda: len(broker.published) == 3)
    assert broker.published[2].parent_id == "p"


async def test_another_parent_is_no_other_workflow(reopen: Callable[[], Store]) -> None:
    """A second attempt of what submits gets the workflow of the first one, which stays where it began."""
    assert len({digest_of(_read(parent)) for parent in (None, {"task_id": "p"}, {"task_id": "q", "root_id": "r"})}) == 1
    async with scheduler(FakeBroker(), reopen()) as running:
        first = await running.submit_definition(_read({"task_id": "p"}, key="k"))
    async with scheduler(FakeBroker(), reopen()) as running:
        for parent in ({"task_id": "q"}, None):
            again = await running.submit_definition(_read(parent, key="k"))
            assert (again.id, again.created) == (first.id, False)
        assert (await running.view(first.id)).parent_task == wire.ParentTaskView("p", "p")


async def test_it_moves_along(tmp_path: Path) -> None:
    """Another daemon goes on with the same parent, and refuses one that cannot be."""
    there = FakeBroker({"tasks.a": lambda: 1})
    async with scheduler(FakeBroker()) as source:
        moved = (await source.submit_definition(_read({"task_id": "p", "root_id": "r"}))).id
        await source.perform(moved, VerbRequest(Verb.PAUSE))
        export = await source.export(moved)
    with pytest.raises(BadRequest, match=r"`parent_task.root_id` has characters that cannot be printed"):
        wire.decode_export(export.replace(b'"root_id":"r"', rb'"root_id":"\u001b"'), nodes_max=10)
    async with scheduler(there, SqliteStore(tmp_path / "there.db")) as target:
        await target.take_over(wire.decode_export(export, nodes_max=10))
        assert (await target.view(moved)).parent_task == wire.ParentTaskView("p", "r")
        await target.perform(moved, VerbRequest(Verb.RESUME))
        await target.perform(moved, VerbRequest(Verb.RELEASE, nodes=("g",)))
        await target.wait(moved, timeout_s=5)
    assert [message.parent_id for message in there.published] == ["p"]


def test_embedded_scheduler_knows_the_task() -> None:
    """A program that runs its scheduler inside a task submits there as well."""
    app = Celery("here", broker="memory://", set_as_current=False)
    broker = FakeBroker({"tasks.a": lambda: 1})

    async def submit() -> None:
        async with scheduler(broker) as running:
            handle = await running.submit(app.signature("tasks.a"))
            assert (await running.view(handle.id)).parent_task == wire.ParentTaskView("p", "r")
            await handle.wait(timeout_s=5)

    with running_task(app, "p", "r"):
        anyio.run(submit)
    app.close()
    assert [message.parent_id for message in broker.published] == ["p"]
