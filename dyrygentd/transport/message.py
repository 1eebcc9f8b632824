"""Builds Celery messages the way `apply_async` does, one layer below it.

Routing, serializers, compression, headers and the publish signals are Celery's and kombu's own. What is left out is what
`apply_async` does besides: subscribing to each result in this process (celery#3808, #5320), and looking for a current task.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from celery.app.defaults import SETTING_KEYS
from celery.utils.saferepr import saferepr

from dyrygentd.core.destination import Destination, destination_of
from dyrygentd.core.effects import Publish
from dyrygentd.core.headers import NEVER_SENT
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.options import FROM_APP, RESULT_SERIALIZER
from dyrygentd.errors import ConfigurationError
from dyrygentd.ports.facts import REPORTS_HEADER, WORKFLOW_STAMP
from dyrygentd.tasks.known import route_name
from dyrygentd.tasks.written import class_options_of, has_own_shadow
from dyrygentd.transport.values import has_types, read_value, read_value_as_the_app

#: What no definition has a say in: a result under another id is never seen, and a header of another form ends workers.
_NEVER_SENT: Final = NEVER_SENT | {REPORTS_HEADER}

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
        self._parse_input = lru_cache(maxsize=4)(read_value)
        # Large workflows repeat few signatures, and the ones that are equal are one object.
        self._read = lru_cache(maxsize=_READ_MAX)(self._read_signature)
        self._declared: set[str] = set()
        self._declared_by: Any = None

    def __repr__(self) -> str:
        return f"<MessageSender tasks={len(self._task_options)} declared={len(self._declared)}>"

    def send(self, producer: Any, publish: Publish, *, mandatory: bool = False) -> str:
        """Build, route, encode and publish; return where to, as text. Raises what routing, serializer and transport raise.

        Args:
            mandatory: Have the broker return what it would drop, since no queue is bound for it.
        """
        app, signature = self._app, publish.signature
        parts = self._read(signature)
        task = app.tasks.get(signature.task)
        args, kwargs, options = self._filled(publish, parts, task)
        options = app.amqp.router.route(options, parts.route_name, args, kwargs, task)
        going_to = self._destination_in(options).text
        if publish.destination and publish.destination != going_to:
            # Routers may have changed since, or answer as they like; the message is looked for where it was to go.
            going_to = publish.destination
            self._direct(options, publish.destination)
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
            root_id=publish.root_id or publish.workflow_id,
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
        if mandatory:
            options["mandatory"] = True
        app.amqp.send_task_message(producer, signature.task, message, **{**options, "retry": False})
        if queue is not None:
            self._declared.add(queue)
        return going_to

    def _filled(self, publish: Publish, parts: _Parts, task: Any) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Return the arguments with the value before them, and the options as they are routed."""
        signature = publish.signature
        args, kwargs, options = parts.args, dict(parts.kwargs), {**parts.options}
        read: Callable[[bytes], Any] = self._parse_input
        if options.get("serializer", self._app.conf.task_serializer) != "json":
            # What is an object of the app's own must be one, to be written by another serializer.
            read = read_value_as_the_app
            if has_types(signature.args) or has_types(signature.kwargs):
                args, kwargs = tuple(read(signature.args)), read(signature.kwargs)
        if publish.input is not None:
            args = (read(bytes(publish.input)), *args)
        else:
            options.setdefault("argsrepr", parts.argsrepr)
        options.setdefault("kwargsrepr", parts.kwargsrepr)
        if "shadow" not in options and has_own_shadow(task):
            options["shadow"] = task.shadow_name(args, kwargs, dict(options))
        return args, kwargs, options

    def destination(self, signature: Signature, given: bytes | None = None) -> Destination:
        """Tell where the messages of this signature go, with the value before its arguments. Raises what routing raises."""
        parts = self._read(signature)
        args = parts.args if given is None else (self._parse_input(given), *parts.args)
        task = self._app.tasks.get(signature.task)
        return self._destination_in(
            self._app.amqp.router.route({**parts.options}, parts.route_name, args, dict(parts.kwargs), task)
        )

    def bound_queues(self, destination: Destination) -> list[str]:
        """Return the queues that the app binds to an exchange for a routing key; the broker may have more."""
        _, exchange, kind, routing_key = destination
        return [
            name
            for name, queue in self._app.amqp.queues.items()
            if any(
                bound == exchange and _is_bound(kind, key or "", routing_key)
                for bound, key in (
                    (getattr(queue.exchange, "name", ""), queue.routing_key),
                    *((binding.exchange.name, binding.routing_key) for binding in queue.bindings or ()),
                )
            )
        ]

    def _direct(self, options: dict[str, Any], text: str) -> None:
        """Have a message go where it was meant to go, whatever the routers say now."""
        destination = destination_of(text)
        assert destination is not None
        for name in ("queue", "exchange", "routing_key", "exchange_type"):
            options.pop(name, None)
        if destination.queue:
            options["queue"] = self._app.amqp.queues[destination.queue]
        if destination.exchange:
            options["exchange"], options["routing_key"] = destination.exchange, destination.routing_key
            options["exchange_type"] = destination.exchange_type

    def _destination_in(self, options: dict[str, Any]) -> Destination:
        """Read where a message goes off its routed options."""
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
        args, kwargs = tuple(read_value(signature.args)), read_value(signature.kwargs)
        amqp = self._app.amqp
        depth = repr_levels_of(self._app)
        name = route_name(signature.task, kwargs)
        options = self._options_of(signature.task) | self._said_of(name, read_value(signature.options))
        headers = options.get("headers")
        if isinstance(headers, dict):
            options["headers"] = {name: value for name, value in headers.items() if name not in _NEVER_SENT}
        return _Parts(
            args,
            kwargs,
            options,
            # As Celery makes them when they are not given, for each message anew.
            saferepr(args, amqp.argsrepr_maxsize, **depth),
            saferepr(kwargs, amqp.kwargsrepr_maxsize, **depth),
            name,
        )

    def _declared_on(self, producer: Any) -> set[str]:
        """Return the names of the queues that were declared over this producer's connection."""
        if self._declared_by is not producer:
            self._declared_by, self._declared = producer, set()
        return self._declared

    def _options_of(self, task: str) -> dict[str, Any]:
        """Return what the task's class says about its messages, if this process knows the task."""
        if task not in self._task_options:
            self._task_options[task] = class_options_of(self._app.tasks.get(task))
        return self._task_options[task]

    def knows(self, task: str) -> bool:
        """Tell whether the app has the task; those of Celery's own are everywhere."""
        return task in self._app.tasks and not task.startswith("celery.")

    def refusal_of(self, signature: Signature) -> tuple[str, str]:
        """Return why a result could not be read here, and the next step; both empty if it can."""
        try:
            self._said_of(route_name(signature.task, read_value(signature.kwargs)), read_value(signature.options))
        except ConfigurationError as error:
            return error.message, error.next_step
        return "", ""

    def _said_of(self, task: str, options: dict[str, Any]) -> dict[str, Any]:
        """Leave out what the submitting program's app has said of a task, if this app knows the task itself.

        Raises:
            ConfigurationError: The workers write results in a way that this process does not read.
        """
        written, serializer = options.pop(FROM_APP, None) or (), options.pop(RESULT_SERIALIZER, None)
        if self.knows(task):
            return {name: value for name, value in options.items() if name not in written}
        if serializer is not None and serializer != self._app.conf.result_serializer:
            raise ConfigurationError(
                f"workers write results of '{task}' with serializer '{serializer}', and this daemon has no app with that task: "
                f"it would read them as '{self._app.conf.result_serializer}'",
                next_step="start the daemon with --app",
            )
        return options

    def _seconds_until(self, expires: Any) -> float:
        if isinstance(expires, str):
            expires = datetime.fromisoformat(expires)
        if isinstance(expires, datetime):
            expires = (expires - self._app.now()).total_seconds()
        return max(0.0, float(expires))


def repr_levels_of(app: Any) -> dict[str, int]:
    """Return how deep `saferepr` goes for an app, as its arguments."""
    return {"maxlevels": app.conf.task_repr_maxlevels} if _HAS_REPR_LEVELS else {}


def _is_bound(kind: str, pattern: str, routing_key: str) -> bool:
    """Tell whether a binding takes a routing key; ``#`` stands for any words of a topic, ``*`` for one."""
    if kind != "topic":
        return pattern == routing_key
    words = "".join(_TOPIC_WORDS.get(word, re.escape(word) + r"\.") for word in pattern.split("."))
    return re.fullmatch(words, f"{routing_key}.") is not None


_TOPIC_WORDS: Final = {"#": r"(?:[^.]*\.)*", "*": r"[^.]*\."}


def _listed(callbacks: Any) -> list[Any] | None:
    if not callbacks:
        return None
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
