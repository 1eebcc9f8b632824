"""Error callbacks of a chord's body, by what they take: Celery tells the two kinds apart by their parameters.

One that takes the id of the task that failed is a task like any other. One that takes ``(request, exc, traceback)`` is called
inside a worker; for a body, which is not sent if its header fails, a task of `dyrygentd.errbacks` does that.
"""

import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from dyrygentd.core.nested import CALL_ERRBACKS
from dyrygentd.errors import BadNode
from dyrygentd.tasks.known import KnownTasks

#: Where a callback goes, and how: what calls it goes the same way.
_WAYS: Final = ("queue", "exchange", "routing_key", "priority")
_WAY_OUT: Final = (
    "let it take one argument, the task id, or call `dyrygentd.worker.install(app)` in the app of workers and of this program"
)


def called_for_body(known: KnownTasks, callback: Any, body: str, task: str) -> Any:
    """Return what is sent for an error callback of a body whose header failed.

    Args:
        body: Name of the body's node.
        task: Name of its task.

    Raises:
        BadNode: Celery would call it inside a worker, and no worker can be asked for that.
    """
    arity = _arity(known, callback)
    if arity <= 1:
        return callback
    app = known.app_of(callback["task"])
    if app is None or CALL_ERRBACKS not in app.tasks:
        # One that takes any number of arguments may be content with an id.
        if not known.is_strict or arity == math.inf:
            return callback
        reason = f"its error callback '{callback['task']}' takes (request, exc, traceback), and no worker can call it so"
        raise BadNode(body, reason, next_step=_WAY_OUT)
    options = {name: value for name, value in _route_of(app, callback).items() if name in _WAYS and value is not None}
    return {"task": CALL_ERRBACKS, "kwargs": {"task": task}, "options": {**options, "link_error": [callback]}}


def needs_request(known: KnownTasks, callback: Any) -> bool:
    """Tell whether an error callback is of the newer kind, and would fail if it were sent with a task id."""
    return 1 < _arity(known, callback) < math.inf


def _arity(known: KnownTasks, callback: Any) -> float:
    """Return how many arguments an error callback still takes, as `Backend._call_task_errbacks` counts.

    With more than one it is called inside. What is no task of the submitting program, a bound one and a canvas count as
    taking the id alone.
    """
    if not isinstance(callback, Mapping) or callback.get("subtask_type"):
        return 1
    known.note(callback)
    header = getattr(known.task(callback.get("task") or ""), "__header__", None)
    # Those of bound tasks are partials, and take the id.
    if header is None or isinstance(header, partial):
        return 1
    args, kwargs = callback.get("args") or (), callback.get("kwargs") or {}
    if not callback.get("immutable") and (args or kwargs):
        try:
            return _positional(partial(header, *args, **kwargs))
        except (TypeError, ValueError):
            return _positional(header)
    return _positional(header)


def _positional(function: Any) -> float:
    parameters = inspect.getfullargspec(function)
    return math.inf if parameters.varargs else len(parameters.args)


def _route_of(app: Any, callback: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return where a callback would go as a task: there is a worker that has it."""
    own = callback.get("options") or {}
    if any(own.get(name) for name in _WAYS):
        return dict(own)
    try:
        route = app.amqp.router.route({}, callback["task"], (), {})
    except Exception:
        # A router that is code may want the arguments, which are a request and an error.
        return {}
    queue = getattr(route.get("queue"), "name", route.get("queue"))
    return {} if queue == app.conf.task_default_queue else {"queue": queue, "exchange": route.get("exchange")}
