"""A workflow that a Celery task submits has that task as its parent, as what the task sends itself has."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from celery import Celery, chain

from dyrygentd import AsyncClient, Client
from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.client.bodies import submission_body
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.tasks.current import current_parent_task
from tests.http.support import Daemon
from tests.support.apps import closing, running_task
from tests.support.daemon import Daemon as RealDaemon
from tests.support.servers import CeleryWorker, wait_until
from tests.support.starting import SHAPES
from tests.support.tasks import PREFIX, create_app, records

_WAIT_S: Final = 30.0


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app of this process."""
    made = Celery("here", broker="memory://", set_as_current=False)
    yield made
    made.close()


# --- with a real worker ---------------------------------------------------------------------------------------------


class _Site:
    """A server with an app that knows the tasks by their names."""

    def __init__(self, url: str, app: Any) -> None:
        self.url = url
        self.app = app

    def started(self, shape: str, how: str) -> tuple[dict[str, dict[str, Any]], Any]:
        """Run ``chain(tell, start)``; return what all tasks tell, ``{name: told}``, and the result of ``start``."""
        run = f"{shape}-{how}"
        module = "tests.support.starting"
        first = self.app.signature(f"{module}.tell", args=(run, "first"), immutable=True)
        start = self.app.signature(f"{module}.start", args=(run, shape, how), immutable=True)
        result = chain(first, start).apply_async()
        count = SHAPES[shape][1] + 2
        with records(self.url) as client:
            wait_until(lambda: client.llen(f"{PREFIX}started:{run}") == count, timeout_s=_WAIT_S)
            told: Any = client.lrange(f"{PREFIX}started:{run}", 0, -1)
        found = {each["name"]: each for each in map(json.loads, told)}
        assert len(found) == count
        return found, result.get(timeout=_WAIT_S)


@pytest.fixture
def site(redis_server: EmbeddedServer, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Site]:
    """A worker and a daemon, both on one server."""
    url = redis_server.url
    environment = {
        "DYRYGENTD_SOCKET": str(short_tmp / "dyrygentd.sock"),
        "DYRYGENTD_TEST_BROKER": url,
        "DYRYGENTD_TEST_BACKEND": url,
    }
    monkeypatch.setenv("DYRYGENTD_SOCKET", environment["DYRYGENTD_SOCKET"])
    worker = CeleryWorker(url, log_directory=short_tmp, app="tests.support.starting", environment=environment)
    daemon = RealDaemon(["--app", "tests.support.starting:app"], directory=short_tmp, environment=environment)
    with daemon, worker, closing(create_app(url, url)) as app:
        yield _Site(url, app)


def _parents(found: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    names = {each["id"]: name for name, each in found.items()}
    return {name: names.get(each["parent"]) for name, each in found.items()}


def test_first_tasks_have_the_task_as_their_parent(site: _Site) -> None:
    """Whatever is submitted, the same tasks as natively have that parent, and no others; their root is the workflow."""
    for shape in SHAPES:
        natively, _ = site.started(shape, "natively")
        first = natively["first"]["id"]
        assert {each["root"] for each in natively.values()} == {first}
        for how in ("sync", "async") if shape == "chord" else ("sync",):
            found, workflow_id = site.started(shape, how)
            ours, theirs = _parents(found), _parents(natively)
            assert [name for name in ours if ours[name] == "start"] != []
            assert {name for name in ours if ours[name] == "start"} == {name for name in theirs if theirs[name] == "start"}
            roots = {name: each["root"] for name, each in found.items() if name not in ("first", "start")}
            assert set(roots.values()) == {workflow_id}
            with Client() as client:
                view = client.get(workflow_id)
                assert view.to_dict()["parent_task"] == {"task_id": found["start"]["id"], "root_id": found["first"]["id"]}
                listed = client.list(parent_task=found["start"]["id"])
                assert [each.id for each in listed] == [workflow_id]
                assert listed[0].parent_task == view.parent_task


# --- in this process ------------------------------------------------------------------------------------------------


def test_no_task_no_parent(app: Celery) -> None:
    """A program that is no worker, and a task that is called as a function, start workflows of their own."""
    task = app.task(name="here.look")(current_parent_task)
    assert current_parent_task() is None
    assert task() is None
    assert task.apply(task_id="eager").get() == ParentTask("eager", "eager")
    with running_task(app, "outer", "root"):
        assert task() == ParentTask("outer", "root")
    assert "parent_task" not in json.loads(submission_body(app.signature("here.look")))


@pytest.mark.parametrize("odd", ["x" * 201, "a\nb"], ids=["long", "unprintable"])
def test_id_that_no_definition_may_hold_is_left_out(daemon: Daemon, app: Celery, odd: str) -> None:
    """The submission matters more than what it is tied to."""
    for task_id, root_id in ((odd, "root"), ("task", odd), (odd, None)):
        with running_task(app, task_id, root_id):
            assert Client(daemon.path).submit(app.signature("add")).status().parent_task is None


def test_every_form_is_tied(daemon: Daemon, app: Celery) -> None:
    """Documents and builders as well as canvases, in both clients; what names a parent itself, or none, is left as it is."""
    client = Client(daemon.path)
    document: dict[str, Any] = {"nodes": [{"name": "a", "task": "add"}]}
    builder = Workflow("built")
    builder.add(app.signature("add", args=(1, 2)))
    forms = {"canvas": app.signature("add"), "document": document, "text": json.dumps(document).encode(), "builder": builder}
    forms["definition"] = definition_of(app.signature("add"))

    async def submitted() -> Any:
        async with AsyncClient(daemon.path) as client:
            return (await (await client.submit(document)).status()).parent_task

    for label, what in forms.items():
        with running_task(app, label, "root"):
            handle = client.submit(what)
        assert handle.wait(10).is_success
        parent = handle.status().parent_task
        assert (parent and (parent.task_id, parent.root_id)) == (label, "root")
    with running_task(app, "async"):
        parent = asyncio.run(submitted())
        assert (parent.task_id, parent.root_id) == ("async", "async")
        named = client.submit(document | {"parent_task": {"task_id": "another"}}).status().parent_task
        assert named is not None
        assert named.task_id == "another"
        assert client.submit(document | {"parent_task": None}).status().parent_task is None
    assert [message.parent_id for message in daemon.broker.published][: len(forms)] == [*forms]
