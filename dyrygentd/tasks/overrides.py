"""`apply_async` and `send_task` that somebody has overridden: they are called, and what they pass down is kept.

Theory of operation
===================
*The idea.* People override `Task.apply_async` to add headers (tenants, correlation ids), to choose queues, to take a lock or to
drop duplicates. The daemon publishes below it, so it is called where the workflow is submitted: once for each node, with the
node's own arguments, options and task id, on a copy of the task whose app sends nothing. What arrives where Celery would have
made the message is compared with what it would have been without, and the difference is written into the node.

*The rules.* The value of what precedes is not there yet: whoever looks at it (`dyrygentd.tasks.unread`) cannot be called, and
the submission is refused, by name. So it is if nothing arrives, or more than once: the override has found a duplicate, or works
in a way that cannot be kept. The way out is ``on_override="ignore"``, which passes it over.

*What could go wrong.* An override that takes a lock has taken it when the submission fails afterwards, as it has when
publishing fails in Celery. One that sends by other ways than its own `app` sends at once. Later attempts of a node are what the
first one was.

*Rejected.* Calling it when a node is dispatched: daemons have no request, no user and often not the code. And calling what was
put over Celery's own methods from outside: tracing (Sentry does that) would make every message another one, and changes no
task.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from kombu.utils import json

from dyrygentd.core.node_spec import RESERVED_OPTIONS, Signature
from dyrygentd.core.options import FROM_APP
from dyrygentd.errors import BadNode
from dyrygentd.tasks.known import KnownTasks
from dyrygentd.tasks.unread import UNREAD, LookedAt
from dyrygentd.tasks.written import class_options_of

_PASS_OVER: Final = "submit with `on_override='ignore'` (`dyrygentctl submit --on-override ignore`), which passes it over"
#: What Celery itself adds on the way, and what the daemon says itself.
_OF_CELERY: Final = RESERVED_OPTIONS | {"ignore_result", "create_sent_event", "shadow", "add_to_parent", "countdown", "eta"}
#: Arguments of `create_task_message` that are options of a signature under another name.
_RENAMED: Final = {"callbacks": "link", "errbacks": "link_error"}
#: Those that are options under their own.
_KEPT: Final = ("expires", "time_limit", "soft_time_limit", "shadow", "argsrepr", "kwargsrepr", "stamped_headers")


def override_of(task: Any, app: Any) -> str:
    """Say what of a task or its app stands between `apply_async` and Celery, as ``class.method``; empty if nothing does."""
    return _own_method(task, "apply_async") or _own_method(app, "send_task")


class Overrides:
    """Calls overrides for the nodes of a workflow. Guards: nothing is sent.

    Args:
        known: The tasks of the submitting program.
    """

    def __init__(self, known: KnownTasks) -> None:
        self._known = known
        self._found: dict[str, str] = {}
        self._captures: dict[str, _Capture] = {}
        self._interned: dict[Signature, Signature] = {}

    def called(self, node: str, signature: Signature | None, task_id: str, *, takes_input: bool) -> tuple[Signature | None, str]:
        """Return what a node's override makes of its signature and its task id. Raises `BadNode` if it cannot be called."""
        if signature is None or not self.override_of(signature.task):
            return signature, task_id
        if signature.task not in self._captures:
            self._captures[signature.task] = _Capture(self._known.task(signature.task), self._known.app_of(signature.task))
        capture = self._captures[signature.task]
        options = json.loads(signature.options)
        given = {name: value for name, value in options.items() if name not in (*options.get(FROM_APP, ()), FROM_APP)}
        args, kwargs = tuple(json.loads(signature.args)), json.loads(signature.kwargs)
        args = (UNREAD, *args) if takes_input else args
        said = self._said(node, signature.task, capture, (args, kwargs), {**given, "task_id": task_id})
        changed = _changes(said, {**class_options_of(capture.task), **given})
        new = _rewritten(node, signature, options, changed)
        if said["args"] != args or said["kwargs"] != kwargs:
            new = self._with_arguments(node, new, said, takes_input=takes_input)
        new = _with_start(new, said)
        return self._interned.setdefault(new, new), str(said["task_id"])

    def override_of(self, name: str) -> str:
        """Say what stands between a task and Celery; empty if nothing does."""
        if name not in self._found:
            task, app = self._known.task(name), self._known.app_of(name)
            is_here = task is not None and app is not None and not app.conf.task_always_eager
            self._found[name] = override_of(task, app) if is_here else ""
        return self._found[name]

    def _said(
        self, node: str, name: str, capture: "_Capture", arguments: tuple[Any, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Call the override, and return what it passes down."""
        override = self._found[name]
        try:
            sent = capture.call(*arguments, options)
        except LookedAt as error:
            words = f"{override} looks at what precedes, and {error}"
            raise BadNode(node, words, next_step=f"write `.si()` if it waits only, or {_PASS_OVER}") from None
        # It is the user's code.
        except Exception as error:
            raise BadNode(node, f"{override} refuses it: {type(error).__name__}: {error}", next_step=_PASS_OVER) from error
        if len(sent) != 1:
            words = (
                "sends nothing: a lock is taken, or it takes this for a duplicate" if not sent else f"sends {len(sent)} messages"
            )
            raise BadNode(node, f"{override} {words}", next_step=f"submit it later, or {_PASS_OVER}")
        return sent[0]

    def _with_arguments(self, node: str, signature: Signature, said: Mapping[str, Any], *, takes_input: bool) -> Signature:
        args = tuple(said["args"] or ())
        if takes_input:
            if not args or args[0] is not UNREAD:
                raise BadNode(node, f"{self._found[signature.task]} drops the value of what precedes", next_step=_PASS_OVER)
            args = args[1:]
        try:
            return replace(signature, args=_text(args), kwargs=_text(said["kwargs"] or {}))
        # Kombu asks the values themselves.
        except Exception as error:
            words = f"{self._found[signature.task]} passes arguments that JSON cannot carry: {error}"
            raise BadNode(node, words, next_step=_PASS_OVER) from error


def _changes(said: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that came out of an override otherwise than they went in."""
    options: dict[str, Any] = said["options"]
    # A queue or an exchange goes by its name.
    found = {name: getattr(value, "name", value) for name, value in options.items() if name not in _OF_CELERY}
    return {name: value for name, value in found.items() if value is not None and value != expected.get(name)}


def _rewritten(node: str, signature: Signature, options: dict[str, Any], changed: Mapping[str, Any]) -> Signature:
    if not changed:
        return signature
    options = {**options, **changed}
    if FROM_APP in options:
        options[FROM_APP] = [name for name in options[FROM_APP] if name not in changed]
    try:
        return replace(signature, options=_text(options))
    except Exception as error:
        raise BadNode(node, f"its `apply_async` passes options that JSON cannot carry: {error}", next_step=_PASS_OVER) from error


def _with_start(signature: Signature, said: Mapping[str, Any]) -> Signature:
    """Let the daemon's timers do what the override asks for."""
    if said.get("countdown"):
        return replace(signature, countdown_s=float(said["countdown"]))
    eta = said.get("eta")
    if not isinstance(eta, datetime):
        return signature
    return replace(signature, eta_at=(eta if eta.tzinfo else eta.replace(tzinfo=UTC)).timestamp())


def _text(value: object) -> bytes:
    text: str = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _own_method(what: Any, name: str) -> str:
    owner = next((kind for kind in type(what).__mro__ if name in vars(kind)), None)
    if name in getattr(what, "__dict__", {}):
        return f"`{name}` of {what!r}"
    if owner is None or owner.__module__.split(".")[0] == "celery":
        return ""
    return f"`{owner.__module__}.{owner.__qualname__}.{name}`"


# --- the copy that sends nothing ------------------------------------------------------------------------------------


class _Capture:
    """A copy of a task with a copy of its app, of which everything is real but the sending."""

    def __init__(self, task: Any, app: Any) -> None:
        self._sent: list[dict[str, Any]] = []
        amqp = _Amqp(app, self._sent)
        quiet = {"amqp": amqp, "backend": _Backend(app), "producer_or_acquire": _no_producer, "current_worker_task": None}
        copied: Any = object.__new__(type(type(app).__name__, (type(app),), quiet))
        copied.__dict__.update(app.__dict__)
        # What was put on the app itself would go before these.
        for name in quiet:
            copied.__dict__.pop(name, None)
        kind = type(type(task).__name__, (type(task),), {"_app": copied, "__module__": type(task).__module__})
        self.task: Any = object.__new__(kind)
        self.task.__dict__.update(task.__dict__)

    def call(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what would have been sent. Raises what the override raises."""
        self._sent.clear()
        self.task.apply_async(args, kwargs, **options)
        return list(self._sent)


class _Amqp:
    """Celery's `AMQP`, without routes and without sending."""

    def __init__(self, app: Any, sent: list[dict[str, Any]]) -> None:
        self._app = app
        self._sent = sent
        self._parameters = inspect.signature(app.amqp.as_task_v2)
        self.router = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app.amqp, name)

    def route(self, options: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        """Decide nothing: where it goes is asked for elsewhere."""
        return options

    def create_task_message(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what the message would have been made of."""
        said = dict(self._parameters.bind(*args, **kwargs).arguments)
        options = said.pop("options", {})
        said["args"], said["kwargs"] = tuple(said.get("args") or ()), said.get("kwargs") or {}
        options |= {name: said[name] for name in _KEPT if said.get(name) is not None}
        options |= {option: said[name] for name, option in _RENAMED.items() if said.get(name) is not None}
        return {**said, "options": options}

    def send_task_message(self, producer: Any, name: str, message: dict[str, Any], **_: Any) -> None:
        """Keep it."""
        self._sent.append(message)


class _Backend:
    """The app's result backend, which is told of no task."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app.backend, name)

    def on_task_call(self, *_: Any, **__: Any) -> None:
        """Do not wait for a result here."""

    def remove_pending_result(self, *_: Any, **__: Any) -> None:
        """There is none to forget."""


class _Producer:
    """Stands for a producer and for its connection."""

    @property
    def connection(self) -> "_Producer":
        """Return itself."""
        return self

    def _reraise_as_library_errors(self) -> Any:
        return contextlib.nullcontext()


@contextlib.contextmanager
def _no_producer(*_: Any, **__: Any) -> Iterator[_Producer]:
    yield _Producer()
