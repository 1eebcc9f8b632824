"""Messages that are filled in are equal to those that kombu builds, whatever is in them; what cannot be is not filled in."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import kombu
import pytest
from celery import Celery
from celery.signals import after_task_publish, before_task_publish
from celery.utils.saferepr import saferepr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu.entity import Exchange, Queue
from kombu.utils.json import dumps

from dyrygentd.core.effects import Publish
from dyrygentd.core.node_spec import Signature
from dyrygentd.transport import template
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.marked_publishing import MarkedPublishing
from dyrygentd.transport.redis_push import Collected
from dyrygentd.transport.template import Templates
from tests.support import tasks

_ECHO = tasks.echo.name
_PUBLISH = Publish("wf", 3, 1, "d0d0d0d0-0000-4000-8000-000000000001", Signature(_ECHO), None, "", "wf")

#: Options with which messages can be filled in.
_SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "queue": {"queue": "other"},
    "priority": {"priority": 6},
    "json": {"serializer": "json"},
    "headers": {"headers": {"x-trace": "abc", "n": 5}},
    "time limits": {"time_limit": 60, "soft_time_limit": 50},
    "shadow": {"shadow": "seen as"},
    "reprs": {"argsrepr": "(secret)", "kwargsrepr": "{secret}"},
    "half a repr": {"kwargsrepr": "ü{secret}"},
    "transient": {"delivery_mode": 1},
    "stamps": {"stamped_headers": ["ticket"], "ticket": "T-1"},
    "retry policy": {"retry": True, "retry_policy": {"max_retries": 2}},
    "correlation": {"app_id": "mine"},
    "callbacks": {"link": [{"task": "t", "args": [1], "kwargs": {}, "options": {}}], "link_error": [{"task": "e"}]},
}
#: Options with which they cannot.
_OTHERS: dict[str, dict[str, Any]] = {
    "routing key": {"exchange": "celery", "routing_key": "celery"},
    "yaml": {"serializer": "yaml"},
    "msgpack": {"serializer": "msgpack"},
    "zlib": {"compression": "zlib"},
    "expires": {"expires": 60},
    "expires at": {"expires": "2100-01-01T00:00:00+00:00"},
}

_texts = st.text(max_size=20) | st.sampled_from(
    ["'", '"', "\\", "a'b", "\x00", "\ud800", "ż", "x" * 2000, '"__type__"', "%s {0}"]
)
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | _texts
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4), max_leaves=12
)
_ids = st.uuids().map(str) | st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable())


@pytest.fixture
def dispatcher(app: Celery) -> Iterator[CeleryDispatcher]:
    """A dispatcher that is connected."""
    yield from _connected(app)


def _connected(app: Celery) -> Iterator[CeleryDispatcher]:
    dispatcher = CeleryDispatcher(app, reports=lambda: _REPORTS)
    dispatcher._broker.connect()
    yield dispatcher
    dispatcher._broker.disconnect()


def _way(dispatcher: CeleryDispatcher) -> MarkedPublishing:
    assert isinstance(dispatcher._way, MarkedPublishing)
    return dispatcher._way


_REPORTS = {"stream": "dyrygentd:reports:1", "server": "abc"}


def _opened(collected: Collected) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(collected.payload)
    body = json.loads(base64.b64decode(message.pop("body")))
    # Not a number is not equal to itself.
    return {"body": json.dumps(body), "queues": list(collected.queues), "expires": dict(collected.expires_ms), **message}


def _signature(args: Any = (), kwargs: Any = None, **options: Any) -> Signature:
    return Signature(_ECHO, dumps(list(args)).encode(), dumps(kwargs or {}).encode(), dumps(options).encode())


@pytest.mark.parametrize("what", _SHAPES)
def test_filled_is_built(what: str, dispatcher: CeleryDispatcher) -> None:
    """Of each shape: the first message and later ones, with and without arguments, an input and a parent."""
    for number, (args, kwargs, given_text, parent) in enumerate(
        (
            ((), {}, None, ""),
            ((1, "ä", [2.5, None]), {"key": {"nested": [True]}}, None, "p-1"),
            ((1,), {"a'b": 'c"d'}, b'[1, {"a": "\\u017c"}]', "p-2"),
            ((), {}, b'"x"', ""),
            ((), {}, b" 5 ", "p-3"),
        )
    ):
        signature = _signature(args, kwargs, **_SHAPES[what])
        publish = _PUBLISH._replace(
            task_id=f"id-{number}", signature=signature, input=given_text, parent_id=parent, attempt=number
        )
        filled = _way(dispatcher).templates.fill(publish)
        assert filled is not None, "it goes the slow way"
        assert filled.message is publish
        assert _opened(filled) == _opened(_way(dispatcher).built(publish))
    assert len(_way(dispatcher).templates) == 1


def test_messages_of_one_signature(dispatcher: CeleryDispatcher) -> None:
    """What a message has in common with the one before is kept, and is not told of one that differs in it."""
    signature, other = _signature((1, "ä"), {"key": 2}), _signature((2,), {})
    stories: list[dict[str, Any]] = [
        *[{}] * 3,
        {"parent_id": "p-1"},
        {"parent_id": "p-1", "attempt": 3},
        {"workflow_id": "another", "stamp": "another"},
        {"workflow_id": "another", "stamp": "another.1"},
        {"input": b"5"},
        {"input": b"6"},
        *[{"signature": other}] * 3,
        *[{}] * 3,
    ]
    for number, changes in enumerate(stories):
        publish = _PUBLISH._replace(task_id=f"id-{number}-ä", **{"signature": signature, **changes})
        filled = _way(dispatcher).templates.fill(publish)
        assert filled is not None
        assert _opened(filled) == _opened(_way(dispatcher).built(publish))


@pytest.mark.parametrize("what", _OTHERS)
def test_other_shapes_go_the_ordinary_way(what: str, dispatcher: CeleryDispatcher) -> None:
    """What is not known to be equal is not tried."""
    assert _way(dispatcher).templates.fill(_PUBLISH._replace(signature=_signature((1,), **_OTHERS[what]))) is None


@pytest.mark.long
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    args=st.lists(_values, max_size=4),
    kwargs=st.dictionaries(_texts, _values, max_size=3),
    value=st.none() | st.tuples(_values),
    task_id=_ids,
    workflow_id=_ids,
    parent_id=st.just("") | _ids,
    attempt=st.integers(1, 10**9),
    is_raw=st.booleans(),
)
@example([float("nan")], {}, (float("inf"),), '"', "\\", "'", 1, True)
@example(["x" * 1020], {"y" * 1030: 1}, None, "i", "w", "", 1, False)
@example([1] * 300, {}, ([[[[[[1]]]]]],), "i", "w", "", 1, False)
def test_any_content(
    dispatcher: CeleryDispatcher,
    args: list[Any],
    kwargs: dict[str, Any],
    value: tuple[Any] | None,
    task_id: str,
    workflow_id: str,
    parent_id: str,
    attempt: int,
    is_raw: bool,
) -> None:
    """Whatever JSON the arguments are and however it is written, and whatever the ids are."""

    def write(content: Any) -> bytes:
        # As clients may write it: without spaces, and letters as they are.
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) if is_raw else json.dumps(content)
        return text.encode(errors="surrogatepass")

    given_text = None if value is None else write(value[0])
    signature = Signature(_ECHO, write(args), write(kwargs))
    publish = Publish(workflow_id, 0, attempt, task_id, signature, given_text, parent_id, f"{workflow_id}:1")
    filled = _way(dispatcher).templates.fill(publish)
    try:
        built = _way(dispatcher).built(publish)
    except ValueError:
        # What the ordinary way refuses is handed to it.
        assert filled is None
        return
    if filled is None:
        typed = b"__type__" in signature.args + signature.kwargs + (given_text or b"")
        assert typed, "it goes the slow way"
    else:
        assert _opened(filled) == _opened(built)


@settings(deadline=None, max_examples=300)
@given(args=st.lists(_scalars, max_size=5), kwargs=st.dictionaries(_texts, _scalars, max_size=4), maximum=st.integers(20, 1200))
def test_reprs_are_celerys(args: list[Any], kwargs: dict[str, Any], maximum: int) -> None:
    """What monitors show is what Celery would have told them, short or cut."""
    shown = template._repr_of_args(json.dumps(args).encode(), None, maximum, {})
    assert shown == saferepr(tuple(args), maximum)
    assert template._repr_of_kwargs(json.dumps(kwargs).encode(), maximum, {}) == saferepr(kwargs, maximum)


@pytest.mark.parametrize("content", [{"__type__": "datetime", "__value__": "2030-01-31T00:00:00"}, "a __type__ b"])
def test_types_of_kombu_go_the_ordinary_way(content: Any, dispatcher: CeleryDispatcher) -> None:
    """A date is a date to the worker, and only kombu knows how it is written."""
    text = json.dumps([content]).encode()
    for publish in (
        _PUBLISH._replace(signature=Signature(_ECHO, text)),
        _PUBLISH._replace(signature=Signature(_ECHO, b"[]", b'{"a": %s}' % text)),
        _PUBLISH._replace(input=text),
    ):
        assert _way(dispatcher).templates.fill(publish) is None
    assert _way(dispatcher).templates.fill(_PUBLISH) is not None


def test_maps_are_routed_by_what_they_call(dispatcher: CeleryDispatcher) -> None:
    """Their arguments decide about their queue."""
    kwargs = dumps({"task": {"task": "t"}, "it": [[1]]}).encode()
    assert _way(dispatcher).templates.fill(_PUBLISH._replace(signature=Signature("celery.starmap", b"[]", kwargs))) is None


@pytest.mark.parametrize("signal", [before_task_publish, after_task_publish])
def test_receivers_of_signals_see_every_message(signal: Any, dispatcher: CeleryDispatcher) -> None:
    """They may change each message, so each is built while there are any."""
    assert _way(dispatcher).templates.fill(_PUBLISH) is not None

    def receiver(**_: Any) -> None:
        pass

    signal.connect(receiver)
    try:
        assert _way(dispatcher).templates.fill(_PUBLISH) is None
    finally:
        signal.disconnect(receiver)
    assert _way(dispatcher).templates.fill(_PUBLISH) is not None


@pytest.mark.parametrize(
    "setting",
    [
        {"task_routes": [lambda name, args, kwargs, options, **_: {"queue": f"q{args[0]}"}]},
        {"task_send_sent_event": True},
        {"task_protocol": 1},
        {"task_serializer": "yaml"},
        {"task_compression": "zlib"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_that_need_the_ordinary_way(setting: dict[str, Any], app: Celery) -> None:
    """Where each message may be different in ways that only the user's code or the time knows."""
    app.conf.update(setting)
    for dispatcher in _connected(app):
        # Not one whose class has settings of its own.
        signature = replace(_signature((1,)), task="somebody.elses")
        assert _way(dispatcher).templates.fill(_PUBLISH._replace(signature=signature)) is None


@pytest.mark.parametrize("option", [{"expires": 60}, {"shadow_name": lambda self, args, kwargs, options: f"seen as {args}"}])
def test_classes_that_need_the_ordinary_way(option: dict[str, Any], app: Celery) -> None:
    """A class whose tasks expire, or have names by their arguments, says something else for each message."""
    app.task(name="moved", shared=False, **option)(tasks.noop.run)
    for dispatcher in _connected(app):
        publish = _PUBLISH._replace(signature=replace(_signature((1,)), task="moved"))
        assert _way(dispatcher).templates.fill(publish) is None
        assert _way(dispatcher).built(publish)


def test_routes_by_name_and_queues(app: Celery) -> None:
    """Routes that are tables decide once; queues that expire, and prefixes, come along."""
    app.conf.update(
        task_routes={"tests.*": {"queue": "routed", "priority": 3}},
        task_queues=[Queue("routed", Exchange("routed"), routing_key="routed", expires=60.0), Queue("celery")],
    )
    for dispatcher in _connected(app):
        publish = _PUBLISH._replace(signature=_signature((1,)))
        filled = _way(dispatcher).templates.fill(publish)
        assert filled is not None
        assert bool(filled.expires_ms) == (kombu.VERSION >= (5, 7))
        assert _opened(filled) == _opened(_way(dispatcher).built(publish))


def test_a_new_connection_begins_anew(dispatcher: CeleryDispatcher) -> None:
    """Queues are declared by the ordinary way, so the first message of each shape takes it on every connection."""
    assert _way(dispatcher).templates.fill(_PUBLISH) is not None
    dispatcher._broker.disconnect()
    assert len(_way(dispatcher).templates) == 0
    dispatcher._broker.connect()
    assert _way(dispatcher).templates.fill(_PUBLISH) is not None


def test_another_place_for_reports(app: Celery) -> None:
    """What messages say about reporting is as new as what they would say if they were built."""
    places = [{"stream": "one"}, {"stream": "two"}]
    dispatcher = CeleryDispatcher(app, reports=lambda: places[0])
    dispatcher._broker.connect()
    for place in ("one", "two"):
        filled = _way(dispatcher).templates.fill(_PUBLISH)
        assert filled is not None
        assert f'"stream": "{place}"' in filled.payload
        places.pop(0) if len(places) > 1 else None
    dispatcher._broker.disconnect()


def test_shapes_are_bounded(app: Celery, dispatcher: CeleryDispatcher) -> None:
    """However many different options come, few templates are kept."""
    templates = Templates(app, _way(dispatcher).built, reports=lambda: None, shapes_max=5)
    for number in range(20):
        assert templates.fill(_PUBLISH._replace(signature=_signature((), priority=number % 10, shadow=str(number))))
    assert len(templates) == 5
