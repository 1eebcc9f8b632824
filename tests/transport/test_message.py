"""Our messages equal those that Celery publishes, field by field, but for what is meant to differ."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from celery import Celery
from celery.canvas import Signature
from celery.signals import after_task_publish, before_task_publish
from kombu.entity import Exchange, Queue

from dyrygentd.core.events import MessagePublished
from dyrygentd.ports.facts import REPORTS_HEADER, WITHOUT_REPORTS, WORKFLOW_STAMP
from dyrygentd.transport.dispatcher import CeleryDispatcher
from tests.support import tasks
from tests.transport.conftest import publish_of

pytestmark = pytest.mark.anyio

_TASK_ID = "d0d0d0d0-0000-4000-8000-000000000001"
_ECHO = tasks.echo.name
_FAR = "2100-01-01T00:00:00+00:00"

Look = Callable[[], dict[str, list[Any]]]

#: ``{what: (args, kwargs, options)}`` of a task that the app knows.
_CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]] = {
    "plain": ((), {}, {}),
    "arguments": ((1, "ä", [2.5, None]), {"key": {"nested": [True]}}, {}),
    "one argument": ((1,), {}, {}),
    "queue": ((1,), {}, {"queue": "other"}),
    "routing key": ((1,), {}, {"exchange": "celery", "routing_key": "celery"}),
    "priority": ((1,), {}, {"priority": 6}),
    "lowest priority": ((1,), {}, {"priority": 9}),
    "json": ((1,), {}, {"serializer": "json"}),
    "yaml": ((1, [2, 3]), {"a": "ü"}, {"serializer": "yaml"}),
    "msgpack": ((1,), {"a": "ü"}, {"serializer": "msgpack"}),
    "zlib": (("x" * 2000,), {}, {"compression": "zlib"}),
    "bzip2": (("x" * 2000,), {}, {"compression": "bzip2"}),
    "headers": ((1,), {}, {"headers": {"x-trace": "abc", "n": 5}}),
    "expires at": ((1,), {}, {"expires": _FAR}),
    "expired": ((1,), {}, {"expires": "2001-01-01T00:00:00+00:00"}),
    "time limits": ((1,), {}, {"time_limit": 60, "soft_time_limit": 50}),
    "shadow": ((1,), {}, {"shadow": "seen as"}),
    "reprs": ((1,), {}, {"argsrepr": "(secret)", "kwargsrepr": "{secret}"}),
    "transient": ((1,), {}, {"delivery_mode": 1}),
    "stamps": ((1,), {}, {"stamped_headers": ["ticket"], "ticket": "T-1"}),
    "retry policy": ((1,), {}, {"retry": True, "retry_policy": {"max_retries": 2}}),
    "correlation": ((1,), {}, {"app_id": "mine"}),
}


@pytest.fixture
def dispatcher(app: Celery) -> CeleryDispatcher:
    """A dispatcher for the app."""
    return CeleryDispatcher(app)


async def _ours(dispatcher: CeleryDispatcher, signature: Signature, queued: Look, client: redis.Redis) -> dict[str, Any]:
    _declare(signature.app)
    answers = await dispatcher.publish([publish_of(signature, task_id=_TASK_ID)])
    assert answers == [MessagePublished(_TASK_ID)]
    await dispatcher.close()
    return _only(queued, client)


def _celerys(signature: Signature, queued: Look, client: redis.Redis) -> dict[str, Any]:
    _declare(signature.app)
    signature.clone().apply_async(task_id=_TASK_ID)
    return _only(queued, client)


def _declare(app: Celery) -> None:
    """Declare the queues, as a worker does when it starts."""
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            queue.bind(connection.default_channel).declare()


def _only(queued: Look, client: redis.Redis) -> dict[str, Any]:
    """Return the one message in the broker and where it lies, and take it out."""
    [(key, [message])] = queued().items()
    client.delete(key)
    return {"key": key, **_opened(message)}


def _opened(message: dict[str, Any]) -> dict[str, Any]:
    """Unpack a body that is JSON; others are compared as bytes."""
    body = base64.b64decode(message["body"])
    if message["content-type"] == "application/json" and not message["headers"].get("compression"):
        return {**message, "body": json.loads(body)}
    return message


def _assert_equal(ours: dict[str, Any], celerys: dict[str, Any]) -> None:
    """Compare, after checking and removing what differs on purpose."""
    headers, properties = ours["headers"], ours["properties"]
    assert headers.pop("root_id") == "wf", "tools group by root"
    assert headers.pop("parent_id") is None
    assert headers.pop("ignore_result") is False, "without a stored result nobody learns of the end"
    assert headers.pop(REPORTS_HEADER) == WITHOUT_REPORTS, "tasks may add work"
    assert headers["stamped_headers"].pop() == WORKFLOW_STAMP
    assert headers["stamps"].pop(WORKFLOW_STAMP) == "wf"
    assert properties.pop("delivery_tag") == f"dyrygentd:{_TASK_ID}:1"
    assert properties.pop("reply_to") == "", "nobody here reads replies"
    for name in ("root_id", "parent_id", "ignore_result"):
        del celerys["headers"][name]
    # Celery also leaves the reprs among the properties, where nobody reads them.
    for name in ("delivery_tag", "reply_to", "argsrepr", "kwargsrepr"):
        celerys["properties"].pop(name, None)
    for message in (ours, celerys):
        # Milliseconds from now: the two were not sent in the same one.
        if "expiration" in message["properties"]:
            message["properties"]["expiration"] = int(message["properties"]["expiration"]) // 60_000
    # Celery writes None where we have an empty list left.
    celerys["headers"]["stamped_headers"] = celerys["headers"]["stamped_headers"] or []
    assert ours == celerys


@pytest.mark.parametrize("what", _CALLS)
async def test_known_task(what: str, app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis) -> None:
    """Where a message goes and what is in it does not depend on who sends it, so workers and tools see what they know."""
    args, kwargs, options = _CALLS[what]
    signature = app.tasks[_ECHO].signature(args, kwargs, **options)
    _assert_equal(await _ours(dispatcher, signature, queued, client), _celerys(signature, queued, client))


@pytest.mark.parametrize("what", ["arguments", "queue", "priority", "headers", "expires at", "time limits", "shadow"])
async def test_unknown_task(what: str, app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis) -> None:
    """A task that only the workers know is sent as `send_task` does: a daemon without the users' code is the usual case."""
    args, kwargs, options = _CALLS[what]
    signature = Signature("elsewhere.work", args, kwargs, options, app=app)
    _assert_equal(await _ours(dispatcher, signature, queued, client), _celerys(signature, queued, client))


async def test_headers_do_not_replace_the_messages_own(
    app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis
) -> None:
    """Celery lets them, and then the result is stored where nobody looks, or nowhere, or another task runs."""
    theirs = {"id": "other", "task": "other", "root_id": "other", "ignore_result": True, "x-trace": "abc"}
    headers = (await _ours(dispatcher, app.signature(_ECHO, headers=theirs), queued, client))["headers"]
    assert (headers["id"], headers["task"], headers["ignore_result"], headers["x-trace"]) == (_TASK_ID, _ECHO, False, "abc")
    assert headers["root_id"] != "other"


async def test_headers_of_older_definitions_end_no_worker(
    app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis
) -> None:
    """What is refused now may be in a database: a worker that takes such a message ends, and so does the next one."""
    _declare(app)
    theirs = {"timelimit": "x", "expires": {}, "stamped_headers": 5, "shadow": [], "x-trace": "abc"}
    publish = publish_of(app.signature(_ECHO), task_id=_TASK_ID)
    publish = publish._replace(signature=replace(publish.signature, options=json.dumps({"headers": theirs}).encode()))
    assert await dispatcher.publish([publish]) == [MessagePublished(_TASK_ID)]
    await dispatcher.close()
    headers = _only(queued, client)["headers"]
    assert (headers["timelimit"], headers["expires"], headers["shadow"]) == ([None, None], None, None)
    assert isinstance(headers["stamped_headers"], list)
    assert headers["x-trace"] == "abc"


async def test_callbacks(app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis) -> None:
    """Callbacks of a task go along inside its message, because it is the worker that starts them."""
    signature = app.tasks[_ECHO].s(1)
    signature.link(app.tasks[_ECHO].s("linked"))
    signature.link(app.tasks[_ECHO].si("too"))
    signature.link_error(app.tasks[_ECHO].s("failed"))
    _assert_equal(await _ours(dispatcher, signature, queued, client), _celerys(signature, queued, client))


async def test_seconds_until_expiry(app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis) -> None:
    """An expiry in seconds becomes a time and a property of the message, as with Celery."""
    signature = app.tasks[_ECHO].signature((1,), expires=3600)
    ours, celerys = await _ours(dispatcher, signature, queued, client), _celerys(signature, queued, client)
    # Seconds may pass between the two, hours do not.
    for message in (ours, celerys):
        message["headers"]["expires"] = message["headers"]["expires"][:13]
    _assert_equal(ours, celerys)


class _Configured(tasks.RecordingTask):
    """Says everything about its messages in the class."""

    abstract = True
    queue = "classy"
    priority = 3
    serializer = "yaml"
    compression = "zlib"
    time_limit = 30
    soft_time_limit = 20
    expires = _FAR
    delivery_mode = 1


@pytest.mark.parametrize("options", [{}, {"queue": "other", "priority": 9, "time_limit": 99}, {"priority": 0}])
async def test_options_of_the_class(
    options: dict[str, Any], app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis
) -> None:
    """What a task's class says holds unless the call says otherwise."""
    task = app.task(tasks.echo.run, name="configured", base=_Configured)
    signature = task.signature((1,), **options)
    _assert_equal(await _ours(dispatcher, signature, queued, client), _celerys(signature, queued, client))


_ROUTES: dict[str, Any] = {
    "by name": {_ECHO: {"queue": "routed", "priority": 6}},
    "by pattern": {"tests.*": "patterned"},
    "by function": [lambda name, args, kwargs, options, task=None, **_: {"queue": f"for-{args[0]}"}],
    "with a serializer": {_ECHO: {"serializer": "yaml", "compression": "zlib"}},
}


@pytest.mark.parametrize("how", _ROUTES)
@pytest.mark.parametrize("options", [{}, {"queue": "other"}])
async def test_routes(how: str, options: dict[str, Any], app: Celery, queued: Look, client: redis.Redis) -> None:
    """The app's routes are asked as Celery asks them, the message's arguments included."""
    app.conf.task_routes = _ROUTES[how]
    signature = app.tasks[_ECHO].signature((7,), **options)
    _assert_equal(await _ours(CeleryDispatcher(app), signature, queued, client), _celerys(signature, queued, client))


_SETTINGS: dict[str, dict[str, Any]] = {
    "default queue": {"task_default_queue": "mine"},
    "default priority": {"task_default_priority": 5, "task_queue_max_priority": 9},
    "compression": {"task_compression": "zlib"},
    "serializer": {"task_serializer": "yaml"},
    "direct queue": {"task_queues": [Queue("celery", Exchange("direct"), routing_key="rk")]},
    "transient": {"task_default_delivery_mode": "transient"},
    "short reprs": {"task_repr_maxlevels": 1},
}


@pytest.mark.parametrize("what", _SETTINGS)
async def test_settings(what: str, app: Celery, queued: Look, client: redis.Redis) -> None:
    """Settings of the app that shape messages shape ours."""
    app.conf.update(_SETTINGS[what])
    signature = app.tasks[_ECHO].signature(([[1]], 2))
    _assert_equal(await _ours(CeleryDispatcher(app), signature, queued, client), _celerys(signature, queued, client))


@pytest.fixture
def signals() -> Iterator[list[str]]:
    """What publish signals told, in order: ``before`` and ``after`` with the task's id."""
    told: list[str] = []

    def before(headers: dict[str, Any], **_: Any) -> None:
        headers["from-signal"] = "yes"
        told.append(f"before {headers['id']}")

    def after(headers: dict[str, Any], **_: Any) -> None:
        told.append(f"after {headers['id']}")

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    yield told
    before_task_publish.disconnect(before)
    after_task_publish.disconnect(after)


async def test_signals(app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis, signals: list[str]) -> None:
    """Publish signals fire around each message, and may change it: tracing libraries live on that."""
    ours = await _ours(dispatcher, app.tasks[_ECHO].s(1), queued, client)
    assert ours["headers"]["from-signal"] == "yes"
    assert signals == [f"before {_TASK_ID}", f"after {_TASK_ID}"]


async def test_sent_event(app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis) -> None:
    """With `task_send_sent_event`, monitors are told of each message as by Celery."""
    app.conf.task_send_sent_event = True
    with client.pubsub() as events:
        events.psubscribe("*celeryev*")
        assert events.get_message(timeout=5)["type"] == "psubscribe"
        await _ours(dispatcher, app.tasks[_ECHO].s(1), queued, client)
        told = events.get_message(timeout=5)
    assert told is not None
    event = json.loads(base64.b64decode(json.loads(told["data"])["body"]))
    assert (event["type"], event["uuid"], event["queue"]) == ("task-sent", _TASK_ID, "celery")


async def test_place_for_reports(app: Celery, queued: Look, client: redis.Redis) -> None:
    """Messages say where a worker reports, beside the user's headers, and nobody else's word for it counts."""
    forged = {"stream": "forged", "in": "broker"}
    signature = app.tasks[tasks.echo.name].s(1).set(headers={"x-trace": "abc", REPORTS_HEADER: forged})
    place = {"stream": "dyrygentd:reports:db", "in": "backend"}
    for expected in (place, None):
        dispatcher = CeleryDispatcher(app, reports=lambda expected=expected: expected)  # type: ignore[misc]
        client.flushall()
        headers = (await _ours(dispatcher, signature, queued, client))["headers"]
        assert (headers["x-trace"], headers.get(REPORTS_HEADER)) == ("abc", expected)
