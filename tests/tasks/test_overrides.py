"""`apply_async` and `send_task` that somebody has overridden are called where a workflow is submitted, or it is refused."""

import json
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from celery import Celery, Task, _state, chain, group

from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.client.bodies import submission_body
from dyrygentd.errors import BadNode, BadRequest

TENANT: ContextVar[str] = ContextVar("tenant", default="public")


class TenantTask(Task):
    """Sends a header along, as tenant-schemas-celery does."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Add the header."""
        options["headers"] = {**(options.get("headers") or {}), "tenant": TENANT.get()}
        return super().apply_async(*args, **options)


class Singleton(Task):
    """Takes a lock for its arguments, and sends nothing while it is taken, as celery-singleton does."""

    abstract = True
    locks: dict[str, str] = {}  # noqa: RUF012 - shared on purpose

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: Any = None, **options: Any) -> Any:
        """Take the lock, or answer with the task that has it."""
        lock = json.dumps([self.name, list(args or ()), kwargs])
        if lock in self.locks:
            return self.AsyncResult(self.locks[lock])
        self.locks[lock] = task_id
        return super().apply_async(args, kwargs, task_id=task_id, **options)


class Chooser(Task):
    """Chooses a queue, a priority, a time and an argument."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Choose."""
        options |= {"queue": f"{self.name}-queue", "priority": 8, "countdown": 30, "time_limit": 9}
        return super().apply_async((*args, "more"), kwargs, **options)


class OtherApp(Celery):
    """An app that sends its own way."""

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        """Add a header."""
        return super().send_task(name, *args, **options, headers={"via": name})


def anything(*args: Any) -> None:
    """Take anything."""


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app that would fail to send anything."""
    with Celery("o", broker="redis://192.0.2.1:1/0", backend="redis://192.0.2.1:1/0", set_as_current=False) as app:
        Singleton.locks.clear()
        for name, base in (("plain", Task), ("tenant", TenantTask), ("single", Singleton), ("chooser", Chooser)):
            app.task(anything, shared=False, name=name, base=base)
        yield app


def _nodes(what: Any, **given: Any) -> list[dict[str, Any]]:
    document = json.loads(submission_body(what, on_override="call", **given))
    return [node for node in document["nodes"] if "task" in node]


def test_header_of_an_override_is_in_every_node(app: Celery) -> None:
    """A task that natively runs for its tenant runs for it here too: alone, behind a value, in groups, from the builder."""
    tenant = app.tasks["tenant"]
    workflow = Workflow("w")
    workflow.add(tenant.s(), after=workflow.add(app.tasks["plain"].s()))
    before = TENANT.set("acme")
    for what in (tenant.s(1), chain(app.tasks["plain"].s(), tenant.s()), group(tenant.s(), tenant.si()), workflow):
        nodes = [node for node in _nodes(what) if node["task"] == "tenant"]
        assert nodes
        assert all(node["options"] == {"headers": {"tenant": "acme"}} for node in nodes)
    (kept,) = _nodes(tenant.s().set(headers={"x": 1}, queue="q"))
    assert kept["options"] == {"headers": {"x": 1, "tenant": "acme"}, "queue": "q"}
    TENANT.reset(before)


def test_override_is_called_for_submissions_only(app: Celery) -> None:
    """A lock is taken when a workflow is submitted, not when its definition is looked at, and not if it is to be passed over."""
    single = app.tasks["single"]
    assert definition_of(single.s(1)).graph.task_count == 1
    assert submission_body(single.s(1))
    assert submission_body(single.s(1), on_override="ignore")
    assert not Singleton.locks
    (node,) = _nodes(single.s(1))
    assert list(Singleton.locks.values()) == [node["task_id"]]
    with pytest.raises(BadRequest, match="`on_override` is 'refuse'"):
        submission_body(single.s(1), on_override="refuse")  # type: ignore[arg-type]


def test_duplicate_is_refused(app: Celery) -> None:
    """Where an override sends nothing natively, nothing is submitted: three equal ones must not run three times."""
    single = app.tasks["single"]
    _nodes(single.s(1))
    with pytest.raises(
        BadNode, match=r"node 'single-1': `tests.tasks.test_overrides.Singleton.apply_async` sends nothing"
    ) as refused:
        _nodes(single.s(1))
    assert "on_override='ignore'" in str(refused.value.next_step)
    with pytest.raises(BadNode, match="node 'single-2'"):
        _nodes(group(single.s(2), single.s(2)))


def test_override_that_looks_at_a_missing_value_is_refused(app: Celery) -> None:
    """Whoever computes a lock of arguments cannot be called before they are there, and the user is told which class it is."""
    with pytest.raises(BadNode, match=r"node 'single-2': .* looks at what precedes") as refused:
        _nodes(chain(app.tasks["plain"].s(), app.tasks["single"].s()))
    assert ".si()" in str(refused.value.next_step)
    assert _nodes(chain(app.tasks["plain"].s(), app.tasks["single"].si(5)))


def test_what_an_override_chooses_holds(app: Celery) -> None:
    """Queue, priority, limits, delay and arguments are the override's to change; the daemon's own timers wait."""
    _, node = _nodes(chain(app.tasks["plain"].s(), app.tasks["chooser"].s(1)))
    assert node["args"] == [1, "more"]
    assert node["options"] == {"queue": "chooser-queue", "priority": 8, "time_limit": 9, "countdown": 30.0}


def test_overridden_send_task_is_called() -> None:
    """An app that adds something to each message adds it here too."""
    with OtherApp("x", broker="redis://192.0.2.1:1/0", set_as_current=False) as app:
        task = app.task(anything, shared=False, name="any")
        (node,) = _nodes(task.s(1))
    assert node["options"] == {"headers": {"via": "any"}}


def test_error_of_an_override_is_the_callers(app: Celery) -> None:
    """An override that refuses a call refuses the submission, with its own words."""

    class Refusing(Task):
        abstract = True

        def apply_async(self, *args: Any, **options: Any) -> Any:
            raise PermissionError("not today")

    task = app.task(anything, shared=False, name="refusing", base=Refusing)
    with pytest.raises(BadNode, match="refuses it: PermissionError: not today"):
        _nodes(task.s())


def test_what_nobody_calls_is_said(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Documents and finished definitions have nobody to call an override for them, and the log of the program tells which one."""
    app.set_current()
    try:
        for what in ({"nodes": [{"name": "a", "task": "tenant"}]}, definition_of(app.tasks["tenant"].s())):
            caplog.clear()
            submission_body(what, on_override="call")
            assert "TenantTask.apply_async` is passed over" in caplog.text
            caplog.clear()
            submission_body(what, on_override="ignore")
            assert not caplog.text
    finally:
        _state._tls.current_app = None
