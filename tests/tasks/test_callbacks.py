"""Error callbacks by what they take: as Celery tells them apart, called inside a worker, or refused with the way out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord

from dyrygentd import errbacks
from dyrygentd.canvas import definition_of
from dyrygentd.core.graph import Definition
from dyrygentd.errors import BadNode
from dyrygentd.lint import lint
from tests.support.apps import closing


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with callbacks of both kinds."""
    with closing(Celery("callbacks", broker="memory://", backend="cache+memory://", set_as_current=False)) as app:
        app.conf.task_routes = {"alarms.*": {"queue": "alarms"}}

        @app.task(name="add", shared=False)
        def add(*args: int) -> int:
            return sum(args)

        @app.task(name="alarms.old", shared=False)
        def old(task_id: str) -> None:
            """Take an id."""

        @app.task(name="alarms.new", shared=False)
        def new(request: Any, exc: Exception, traceback: Any) -> None:
            """Take what Celery's manual shows."""

        @app.task(name="alarms.bound", shared=False, bind=True)
        def bound(self: Any, request: Any, exc: Exception, traceback: Any) -> None:
            """Take an id, whatever it says: Celery calls bound tasks so."""

        @app.task(name="alarms.left", shared=False)
        def left(own: int, task_id: str) -> None:
            """Take one more argument than it has."""

        yield app


def _canvas(app: Celery, *callbacks: Any) -> Any:
    body = app.tasks["add"].s()
    for callback in callbacks:
        body = body.on_error(callback)
    return chord([app.tasks["add"].si(1)], body)


def _errbacks(definition: Definition) -> dict[str, Any]:
    graph = definition.graph
    return {name: graph.signatures[node] for node, name in enumerate(graph.names) if ".errback" in name}


def test_the_newer_kind_is_refused_where_no_worker_can_call_it(app: Celery) -> None:
    """It would be sent with one argument, fail, and raise no alarm; the message names body, callback and the way out."""
    with pytest.raises(BadNode) as caught:
        definition_of(_canvas(app, app.tasks["alarms.new"].s()))
    assert "its error callback 'alarms.new' takes (request, exc, traceback)" in str(caught.value)
    assert "'add-3'" in str(caught.value)
    assert "dyrygentd.worker.install(app)" in (caught.value.next_step or "")
    followed = _canvas(app, app.tasks["alarms.new"].s()) | app.tasks["add"].s()
    for canvas in (_canvas(app, app.tasks["alarms.new"].s()), followed):
        with pytest.raises(BadNode):
            definition_of(canvas)
        assert "chord-errback-as-task" in {finding.code for finding in lint(canvas, app=app)}


def test_the_newer_kind_is_called_inside_a_worker(app: Celery) -> None:
    """The task that does it carries the callback as Celery's messages do, and goes where there is a worker that has it."""
    errbacks.register(app)
    canvas = _canvas(app, app.tasks["alarms.new"].s(), app.tasks["alarms.old"].s())
    definition = definition_of(canvas)
    called, sent = _errbacks(definition).values()
    body = definition.graph.task_ids[definition.graph.number("add-3") or 0]
    assert (called.task, json.loads(called.args)) == ("dyrygentd.call_errbacks", [body])
    assert json.loads(called.kwargs) == {"task": "add"}
    assert json.loads(called.options)["queue"] == "alarms"
    assert [each["task"] for each in json.loads(called.options)["link_error"]] == ["alarms.new"]
    assert (sent.task, json.loads(sent.args)) == ("alarms.old", [body])
    assert "chord-errback-as-task" not in {finding.code for finding in lint(canvas, app=app)}


def test_others_are_sent_as_tasks(app: Celery) -> None:
    """What takes one argument, or still takes one, bound tasks, and tasks of other apps get the id, as natively."""
    callbacks = [app.tasks["alarms.bound"].s(), app.tasks["alarms.left"].s(1), app.signature("elsewhere.alarm")]
    assert [each.task for each in _errbacks(definition_of(_canvas(app, *callbacks))).values()] == [
        "alarms.bound",
        "alarms.left",
        "elsewhere.alarm",
    ]
    as_json = json.loads(json.dumps(_canvas(app, app.tasks["alarms.new"].s())))
    assert [each.task for each in _errbacks(definition_of(as_json)).values()] == ["alarms.new"]


def test_a_body_that_something_follows_keeps_its_callbacks(app: Celery) -> None:
    """Celery makes a chain of both, and its first task is the body whose id the callback is told; each is called once."""
    add, alarm = app.tasks["add"], app.tasks["alarms.old"].s()
    body = chain(add.s().on_error(alarm), chain(add.s(), add.s()))
    for canvas in (chord([add.si(1)], body), chord([add.si(1)], chain(chain(body, add.s()), add.s()).on_error(alarm))):
        definition = definition_of(canvas)
        assert [each.task for each in _errbacks(definition).values()] == ["alarms.old"]
    (told,) = _errbacks(definition_of(chord([add.si(1)], body))).values()
    graph = definition_of(chord([add.si(1)], body)).graph
    assert graph.names[2] == "add-3"
    assert len(json.loads(told.args)) == 1
