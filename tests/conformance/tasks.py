"""Tasks that tell what they were called with, for comparing two runs of one canvas.

A task's value is text that shows the call: ``c([a(),b()],1)`` came from c, which got the list of a and b and its own 1. So a
value that took a wrong path is seen at the end, in readable form. Each call is also pushed to a list in Redis, whose order
is the order of the calls over all workers.

The argument ``at`` says whose call it is: ``"<run>/<label>"``. It is no part of what is compared. Items of ``map``, ``starmap``
and ``chunks`` have no keyword arguments; there the first argument is ``"@<run>/<label>"``.
"""

import json
import os
from inspect import ismethod
from typing import Any

from celery import Celery
from celery._state import get_current_worker_task

from dyrygentd import errbacks
from dyrygentd.ports.facts import WORKFLOW_STAMP
from tests.support.tasks import records_of

CALLS = "conformance:calls"
QUEUES = ("celery", "other", "third")
_AT = "@"


def create_app(broker: str, backend: str) -> Celery:
    """Make the app of one side that publishes."""
    created = _configured(broker, backend)
    for name, task in app.tasks.items():
        # A bound one is another callable for each app, and comes with the shared tasks.
        if name.startswith("conformance.") and not ismethod(task.run):
            created.task(task.run, name=name)
    errbacks.register(created)
    created.finalize()
    return created


def _configured(broker: str | None, backend: str | None) -> Celery:
    configured = Celery("tests.conformance.tasks", broker=broker, backend=backend, set_as_current=False)
    configured.conf.update(
        broker_connection_retry_on_startup=True,
        # A message stays in `unacked` until everything that follows from it has been sent, so that a quiet broker is seen.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_routes={"conformance.routed": {"queue": "third"}},
        # Links are checked with both values of the setting; a worker calls them as the canvas was built.
        broker_transport_options={"queue_order_strategy": "sorted"},
    )
    return configured


app = _configured(os.environ.get("DYRYGENTD_TEST_BROKER"), os.environ.get("DYRYGENTD_TEST_BACKEND"))
errbacks.register(app)


@app.task(name="conformance.call")
def call(*args: Any, **kwargs: Any) -> str:
    """Return what was called."""
    return _record(args, kwargs)


@app.task(name="conformance.routed")
def routed(*args: Any, **kwargs: Any) -> str:
    """Do the same, on a queue that the routes choose."""
    return _record(args, kwargs)


@app.task(name="conformance.quiet", ignore_result=True)
def quiet(*args: Any, **kwargs: Any) -> str:
    """Do the same, with a class that wants no result stored."""
    return _record(args, kwargs)


@app.task(name="conformance.fail")
def fail(*args: Any, **kwargs: Any) -> None:
    """Fail with the label as the message."""
    raise ValueError(_label(_record(args, kwargs)))


@app.task(name="conformance.give")
def give(*args: Any, value: Any, **kwargs: Any) -> Any:
    """Return the value that was given, of whatever type."""
    _record((*args, value), kwargs)
    return value


@app.task(name="conformance.says", bind=True)
def says(self: Any, *args: Any, **kwargs: Any) -> str:
    """Store a success about itself before it ends."""
    self.update_state(state="SUCCESS", meta="early")
    return _record(args, kwargs)


@app.task(name="conformance.closes", bind=True)
def closes(self: Any, *args: Any, **kwargs: Any) -> str:
    """End its chain."""
    self.request.chain = None
    return _record(args, kwargs)


@app.task(name="conformance.failed")
def failed(task_id: Any, *, at: str) -> str:
    """Take a failed task's id, as a task of its own: the older kind of error callback."""
    return _record((task_id,), {"at": at})


@app.task(name="conformance.adds", bind=True)
def adds(self: Any, *, at: str) -> str:
    """Add a task to the chord."""
    self.add_to_chord(app.signature("conformance.call", kwargs={"at": f"{at}x"}))
    return _record((), {"at": at})


@app.task(name="conformance.asks")
def asks(*, at: str) -> str:
    """Tell whether the request names a group."""
    return _record((bool(get_current_worker_task().request.group),), {"at": at})


@app.task(name="conformance.looked")
def looked(task_id: str, *, at: str) -> str:
    """Look up what is stored of a failed task."""
    meta = app.backend.get_task_meta(task_id, cache=False)
    return _record((meta["status"], type(meta["result"]).__name__), {"at": at})


@app.task(name="conformance.failed_here")
def failed_here(request: Any, error: Any, traceback: Any, *, at: str) -> str:
    """Take a failed task's request, inside its worker: the newer kind of error callback."""
    return _record((request.id, f"{type(error).__name__}"), {"at": at})


@app.task(name="conformance.failed_there")
def failed_there(request: Any, error: Any, traceback: Any, own: str, *, at: str) -> str:
    """Do the same, with an argument of the canvas's own."""
    return _record((request.id, f"{type(error).__name__}", own), {"at": at})


def _record(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    kwargs = dict(kwargs)
    at = kwargs.pop("at", None)
    if at is None:
        position = next(number for number, value in enumerate(args) if isinstance(value, str) and value.startswith(_AT))
        at, args = args[position][len(_AT) :], (*args[:position], *args[position + 1 :])
    run, _, label = at.partition("/")
    # Not the current task: inside `celery.map` that is one without a message.
    request = get_current_worker_task().request
    rendered = [_text(value) for value in args] + [f"{name}={_text(value)}" for name, value in sorted(kwargs.items())]
    text = f"{label}({','.join(rendered)})"
    record = {"run": run, "label": label, "text": text, "id": request.id, "options": _options(request)}
    records_of(os.getpid()).rpush(CALLS, json.dumps(record))
    return text


def _options(request: Any) -> dict[str, Any]:
    """Return what the message said besides arguments, without what every message says."""
    delivery = request.delivery_info or {}
    stamps = {name: value for name, value in (request.stamps or {}).items() if name != WORKFLOW_STAMP}
    custom = {name: value for name, value in (request.headers or {}).items() if name.startswith("x-")}
    found = {
        "queue": None if delivery.get("routing_key") == "celery" else delivery.get("routing_key"),
        "priority": delivery.get("priority") or None,
        "shadow": request.shadow,
        "time_limit": request.timelimit if any(request.timelimit or ()) else None,
        "stamps": stamps or None,
        "headers": custom or None,
        "expires": True if request.expires else None,
        "eta": True if request.eta else None,
        "ignore_result": True if request.ignore_result else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_text(item)}" for name, item in sorted(value.items())) + "}"
    return value if isinstance(value, str) else repr(value)


def _label(text: str) -> str:
    return text.partition("(")[0]
