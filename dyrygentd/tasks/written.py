"""Signatures as they are submitted: with what the app of the submitting program says about their messages.

*Precedence.* What a signature says itself goes first. Where the daemon's own app has the task, what that app says is next: the
option `FROM_APP` names what was written here, so that the daemon can tell, and leaves that out. Otherwise what is written here
holds. So a daemon with URLs alone puts each message where the submitting program would, and one with an app is not told what it
knows better. Written twice is the same as once.

*What is written.* What differs from what a bare app does, and nothing else: a task without options of its own, in an app without
routes, is submitted as it is. Routers that are code are asked as `apply_async` asks them; one that looks at a value that is not
there yet has no answer, and then only the class counts.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from json import loads
from typing import Any, Final, NamedTuple

from kombu.utils import json

from dyrygentd.core.node_spec import SERIALIZERS, Signature
from dyrygentd.core.options import EXEC_OPTIONS, FROM_APP, RESULT_SERIALIZER, flaw_of
from dyrygentd.errors import BadNode
from dyrygentd.tasks.known import MAPS, KnownTasks, route_name
from dyrygentd.tasks.unread import UNREAD, LookedAt

#: What a bare app does anyway.
_PLAIN: Final[Mapping[str, Any]] = {"serializer": "json", "queue": "celery", "delivery_mode": 2}
#: What routes may say besides; the rest of it is Celery's and kombu's own.
_ROUTED: Final = frozenset({*EXEC_OPTIONS, "exchange_type"})


class _Shape(NamedTuple):
    """A task with the options of a signature: what is known of all signatures that have both.

    Attributes:
        options: As they are written, None if arguments decide.
        expires_at: Unix time after which it is not dispatched any more, 0 for none.
        is_counted: Arguments have to fit.
    """

    task: Any
    app: Any
    options: bytes | None
    expires_at: float
    is_counted: bool


class WrittenSignatures:
    """Writes what is known of tasks into their signatures. What depends on the task and its options alone is found out once.

    Args:
        known: The tasks of the submitting program.
    """

    def __init__(self, known: KnownTasks) -> None:
        self._known = known
        self._shapes: dict[tuple[str, bytes], _Shape | None] = {}
        self._fitting: set[tuple[str, int, tuple[str, ...]]] = set()
        self._interned: dict[Signature, Signature] = {}

    def signature(
        self, node: str, signature: Signature | None, *, takes_input: bool, is_checked: bool = True
    ) -> Signature | None:
        """Return a signature as it is submitted. Raises `BadNode` for what `apply_async` would refuse.

        Args:
            takes_input: It gets the value of what precedes as first argument.
            is_checked: Its arguments are meant to fit.
        """
        if signature is None or not self._known:
            return signature
        key = (signature.task, signature.options)
        if key not in self._shapes:
            self._shapes[key] = self._shape_of(node, signature)
        shape = self._shapes[key]
        if shape is None:
            return signature
        if shape.is_counted and is_checked:
            self._refuse_misfit(node, shape.task, signature, takes_input=takes_input)
        text, expires_at = shape.options, shape.expires_at
        if text is None:
            args = json.loads(signature.args)
            args = (UNREAD, *args) if takes_input else tuple(args)
            text, expires_at = _text_of(shape.task, shape.app, signature, args, takes_input=takes_input)
        if text == signature.options:
            return signature
        written = replace(signature, options=text, expires_at=signature.expires_at or expires_at)
        return self._interned.setdefault(written, written)

    def _shape_of(self, node: str, signature: Signature) -> _Shape | None:
        task, app = self._known.task(signature.task), self._known.app_of(signature.task)
        if app is None:
            return None
        is_counted = task is not None and self._known.is_strict
        if is_counted:
            refuse_unfit(node, task, app)
            is_counted = bool(getattr(task, "typing", False)) and hasattr(task, "__header__")
        if _asks_arguments(app, signature.task) or has_own_shadow(task):
            return _Shape(task, app, None, 0.0, is_counted)
        return _Shape(task, app, *_text_of(task, app, signature, UNREAD, takes_input=True), is_counted)

    def _refuse_misfit(self, node: str, task: Any, signature: Signature, *, takes_input: bool) -> None:
        """Raise `BadNode` if there are too few or too many arguments, or some of other names."""
        # Only counted, so the standard library's reader will do.
        count = takes_input + (len(loads(signature.args)) if signature.args != b"[]" else 0)
        names = tuple(loads(signature.kwargs)) if signature.kwargs != b"{}" else ()
        key = (signature.task, count, names)
        if key in self._fitting:
            return
        try:
            task.__header__(*[UNREAD] * count, **dict.fromkeys(names, UNREAD))
        except TypeError as error:
            words = f"the arguments do not fit to task '{task.name}': {error}"
            raise BadNode(node, words, next_step="give what it takes; `typing=False` keeps Celery from checking") from None
        self._fitting.add(key)


def _asks_arguments(app: Any, name: str) -> bool:
    """Tell whether arguments decide where a task goes: routers that are code see them, and maps are routed by what they call."""
    routes = app.amqp.router.routes
    return any(type(route).__qualname__ != "MapRoute" for route in routes) or (bool(routes) and name in MAPS)


def _text_of(task: Any, app: Any, signature: Signature, args: Any, *, takes_input: bool) -> tuple[bytes, float]:
    """Return options as they are written, and the time at which they let the task expire."""
    options, kwargs = json.loads(signature.options), json.loads(signature.kwargs)
    given = options_of(task, app, signature.task, args, kwargs, options)
    if task is not None and not takes_input:
        given |= _shadow_of(task, args, kwargs, options)
    given = {name: value for name, value in given.items() if options.get(name) is None}
    if not given:
        return signature.options, 0.0
    text: str = json.dumps({**options, **given, FROM_APP: sorted(given)}, allow_nan=False, separators=(",", ":"))
    return text.encode(), _expiry(given)


def options_of(task: Any, app: Any, name: str, args: Any, kwargs: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task's class and its app say about its messages, as far as a bare app would do something else.

    Args:
        given: What the signature says itself.
    """
    said = class_options_of(task)
    said |= {option: value for option, value in given.items() if value is not None}
    said = _routed(app, task, name, args, kwargs, said)
    # What `send_task_message` takes of the app's settings.
    said.setdefault("compression", app.conf.task_compression)
    said.setdefault("delivery_mode", app.conf.task_default_delivery_mode)
    said[RESULT_SERIALIZER] = app.conf.result_serializer if app.conf.result_serializer != "json" else None
    options = {option: _plain(value) for option, value in said.items() if option in _ROUTED or option == RESULT_SERIALIZER}
    return {option: value for option, value in options.items() if _is_worth_writing(option, value)}


def class_options_of(task: Any) -> dict[str, Any]:
    """Return what a task's class says about its messages; the same attributes as `celery.app.task.extract_exec_options` reads."""
    options = {name: getattr(task, name, None) for name in EXEC_OPTIONS}
    return {name: value for name, value in options.items() if value is not None}


def refuse_unfit(node: str, task: Any, app: Any) -> None:
    """Raise `BadNode` for a task that `apply_async` refuses, or of which the daemon could never see the end."""
    soft, hard = getattr(task, "soft_time_limit", None), getattr(task, "time_limit", None)
    if soft and hard and soft > hard:
        reason = f"`soft_time_limit` of task '{task.name}' is {soft:g} s, and its `time_limit` {hard:g} s"
        raise BadNode(node, reason, next_step="let the soft limit be the lower one")
    backend = own_backend_of(task, app)
    if backend:
        raise BadNode(
            node,
            f"task '{task.name}' stores its results in a backend of its own ({backend}), where the daemon does not look",
            next_step="leave `backend` out of its class or decorator, so that it uses the app's",
        )


def own_backend_of(task: Any, app: Any) -> str:
    """Say where a task stores its results, if that is not where its app does; empty otherwise."""
    owned = [vars(kind)["backend"] for kind in type(task).__mro__ if "backend" in vars(kind)][:1]
    backend = owned[0] if owned and not isinstance(owned[0], property) else getattr(task, "_backend", None)
    if backend is None or backend is app.backend:
        return ""
    where = backend if isinstance(backend, str) else backend.as_uri() if hasattr(backend, "as_uri") else type(backend).__name__
    return "" if where == app.backend.as_uri() else str(where)


def is_moved(task: Any) -> bool:
    """Tell whether a task's messages depend on more than its signature: on the time, or on what its class makes of arguments."""
    return getattr(task, "expires", None) is not None or has_own_shadow(task)


def has_own_shadow(task: Any) -> bool:
    """Tell whether a task's class gives it names for logs and monitors."""
    own = getattr(type(task), "shadow_name", None)
    return own is not None and own.__module__ != "celery.app.task"


def _shadow_of(task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    if not has_own_shadow(task):
        return {}
    shadow = task.shadow_name(args, kwargs, dict(options))
    return {"shadow": shadow} if isinstance(shadow, str) else {}


def _routed(app: Any, task: Any, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Ask the app's routes. What cannot be routed here is left to the daemon, which says so."""
    try:
        routed: dict[str, Any] = app.amqp.router.route(dict(options), route_name(name, kwargs), args, kwargs, task)
    except LookedAt:
        return options
    # Routers are the user's own code.
    except Exception:
        return options
    return routed


def _plain(value: Any) -> Any:
    """Return what JSON can carry: a queue or an exchange goes by its name."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return getattr(value, "name", value)


def _is_worth_writing(option: str, value: Any) -> bool:
    if value is None or value == "" or value == _PLAIN.get(option) or flaw_of(option, value) is not None:
        return False
    if option == "serializer":
        return value in SERIALIZERS
    if option == "expires":
        return isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
    return isinstance(value, str | int | float)


def _expiry(given: Mapping[str, Any]) -> float:
    expires = given.get("expires")
    return datetime.fromisoformat(expires).timestamp() if isinstance(expires, str) else 0.0
