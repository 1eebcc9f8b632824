"""Builds Celery messages the way `apply_async` does, one layer below it.

Routing, serializers, compression, headers and the publish signals are Celery's and kombu's own. What is left out is what
`apply_async` does besides: subscribing to each result in this process (celery#3808, #5320), and looking for a current task.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from celery.app.defaults import SETTING_KEYS
from celery.utils.saferepr import saferepr
from kombu.utils.json import loads

from dyrygentd.core.effects import Publish
from dyrygentd.core.graph import Signature
from dyrygentd.ports import REPORTS_HEADER, WORKFLOW_STAMP

#: What a task class may set about its messages; the same attributes as `celery.app.task.extract_exec_options` reads.
_TASK_OPTIONS: Final = (
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
)
#: What a message says about itself. Celery lets the option ``headers`` replace it, and a result under another id is never seen.
_OWN_HEADERS: Final = frozenset({"id", "task", "root_id", "parent_id", "group", "retries", "eta", "lang", "ignore_result"}) | {
    REPORTS_HEADER
}

#: These run another task on each item of a list.
_MAPS: Final = frozenset({"celery.map", "celery.starmap"})

#: Celery 5.6 does not let its users choose how deep a repr goes.
_HAS_REPR_LEVELS: Final = "task_repr_maxlevels" in SETTING_KEYS
#: Signatures kept in their parsed form.
_READ_MAX: Final = 256


class _Parts(NamedTuple):
    """A signature as Celery takes it. Shared between messages, so nobody may change it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    argsrepr: str
    kwargsrepr: str
    route_name: str


class Destination(NamedTuple):
    """Where a message goes: straight into a queue if there is no exchange, else to the queues bound to it."""

    queue: str
    exchange: str
    exchange_type: str
    routing_key: str


class MessageSender:
    """Builds the message of a node and gives it to a kombu producer.

    Args:
        reports: Returns what the message says under `REPORTS_HEADER`, or None.
    """

    def __init__(self, app: Any, *, reports: Callable[[], Mapping[str, Any] | None] = lambda: None) -> None:
        self._app = app
        self._reports = reports
        self._task_options: dict[str, dict[str, Any]] = {}
        # Members of a group after a group share one long list as their input: it is parsed once.
        self._parse_input = lru_cache(maxsize=4)(loads)
        # Large workflows repeat few signatures, and the ones that are equal are one object.
        self._read = lru_cache(maxsize=_READ_MAX)(self._read_signature)
        self._declared: set[str] = set()
        self._declared_by: Any = None

    def send(self, producer: Any, publish: Publish) -> None:
        """Build, route, encode and publish. Raises what routing, the serializer or the transport raise."""
        app, signature = self._app, publish.signature
        parts = self._read(signature)
        args, kwargs, options = parts.args, dict(parts.kwargs), {**parts.options}
        if publish.input is not None:
            args = (self._parse_input(publish.input), *args)
        else:
            options.setdefault("argsrepr", parts.argsrepr)
        options.setdefault("kwargsrepr", parts.kwargsrepr)
        options = app.amqp.router.route(options, parts.route_name, args, kwargs, app.tasks.get(signature.task))
        stamps = [*(options.pop("stamped_headers", None) or ()), WORKFLOW_STAMP]
        options[WORKFLOW_STAMP] = publish.stamp
        expires = options.pop("expires", None)
        if expires is not None:
            options["expiration"] = self._seconds_until(expires)
        reports = self._reports()
        if reports is not None:
            # Celery sends headers that it does not know along with the retries of a task.
            options["headers"] = {**(options.get("headers") or {}), REPORTS_HEADER: reports}
        # Without a stored result nobody would ever learn that the task is done.
        options.pop("ignore_result", None)
        message = app.amqp.create_task_message(
            publish.task_id,
            signature.task,
            args,
            kwargs,
            expires=expires,
            callbacks=_listed(options.pop("link", None)),
            errbacks=_listed(options.pop("link_error", None)),
            time_limit=options.pop("time_limit", None),
            soft_time_limit=options.pop("soft_time_limit", None),
            create_sent_event=app.conf.task_send_sent_event,
            root_id=publish.workflow_id,
            parent_id=publish.parent_id or None,
            shadow=options.pop("shadow", None),
            argsrepr=options.pop("argsrepr", None),
            kwargsrepr=options.pop("kwargsrepr", None),
            ignore_result=False,
            stamped_headers=stamps,
            **{stamp: options.pop(stamp, None) for stamp in stamps},
        )
        queue = getattr(options.get("queue"), "name", None)
        if queue in self._declared_on(producer):
            # kombu knows that too, but binds a copy of the queue each time before it looks: 40 µs a message.
            options["declare"] = ()
        app.amqp.send_task_message(producer, signature.task, message, **{**options, "retry": False})
        if queue is not None:
            self._declared.add(queue)

    def destination(self, signature: Signature) -> Destination:
        """Tell where the messages of this signature go. Raises what routing raises."""
        parts = self._read(signature)
        kwargs = dict(parts.kwargs)
        task = self._app.tasks.get(signature.task)
        options = self._app.amqp.router.route({**parts.options}, signature.task, parts.args, kwargs, task)
        queue, exchange, key = options.get("queue"), options.get("exchange"), options.get("routing_key")
        if isinstance(queue, str):
            queue = self._app.amqp.queues[queue]
        # From here on as `celery.app.amqp.AMQP.send_task_message` decides.
        declared = getattr(queue, "exchange", None)
        kind = options.get("exchange_type") or getattr(declared, "type", None) or "direct"
        name = queue.name if queue is not None else ""
        if (not exchange or not key) and kind == "direct":
            return Destination(name, "", kind, name)
        if exchange is None:
            exchange = (declared.name if declared is not None else "") or self._app.amqp.default_exchange
            key = key or getattr(queue, "routing_key", "") or self._app.conf.task_default_routing_key
        return Destination(name, str(getattr(exchange, "name", exchange)), kind, key or "")

    def _read_signature(self, signature: Signature) -> "_Parts":
        # A tuple, as in a signature, so that monitors show `(1, 2)` for one task whoever sent it.
        args, kwargs = tuple(loads(signature.args)), loads(signature.kwargs)
        amqp = self._app.amqp
        depth = repr_levels_of(self._app)
        options = self._options_of(signature.task) | loads(signature.options)
        headers = options.get("headers")
        if isinstance(headers, dict):
            options["headers"] = {name: value for name, value in headers.items() if name not in _OWN_HEADERS}
        return _Parts(
            args,
            kwargs,
            options,
            # As Celery makes them when they are not given, for each message anew.
            saferepr(args, amqp.argsrepr_maxsize, **depth),
            saferepr(kwargs, amqp.kwargsrepr_maxsize, **depth),
            _route_name(signature.task, kwargs),
        )

    def _declared_on(self, producer: Any) -> set[str]:
        """Return the names of the queues that were declared over this producer's connection."""
        if self._declared_by is not producer:
            self._declared_by, self._declared = producer, set()
        return self._declared

    def _options_of(self, task: str) -> dict[str, Any]:
        """Return what the task's class says about its messages, if this process knows the task."""
        if task not in self._task_options:
            known = self._app.tasks.get(task)
            options = {name: getattr(known, name, None) for name in _TASK_OPTIONS}
            self._task_options[task] = {name: value for name, value in options.items() if value is not None}
        return self._task_options[task]

    def _seconds_until(self, expires: Any) -> float:
        if isinstance(expires, str):
            expires = datetime.fromisoformat(expires)
        if isinstance(expires, datetime):
            expires = (expires - self._app.now()).total_seconds()
        return max(0.0, float(expires))


def repr_levels_of(app: Any) -> dict[str, int]:
    """Return how deep `saferepr` goes for an app, as its arguments."""
    return {"maxlevels": app.conf.task_repr_maxlevels} if _HAS_REPR_LEVELS else {}


def _route_name(task: str, kwargs: dict[str, Any]) -> str:
    """Return the name that routes see: of ``map``, ``starmap`` and ``chunks`` it is the task that they call."""
    inner = kwargs.get("task") if task in _MAPS else None
    if isinstance(inner, dict):
        inner = inner.get("task")
    return inner if isinstance(inner, str) else task


def _listed(callbacks: Any) -> list[Any] | None:
    if not callbacks:
        return None
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
