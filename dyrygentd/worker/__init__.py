"""An optional addition to Celery workers: it lets the daemon see tasks that end without a result.

Put ``import dyrygentd.worker`` into the module of the Celery app that the workers load. A task that raises ``Ignore`` or
``Reject`` stores nothing (5.7 stores a failure for ``Reject``), so that whoever waits for it waits for ever. With this, the
state ``IGNORED`` or ``REJECTED`` is stored, for tasks that dyrygentd has sent and for no others. An ignored node is skipped, and
so is what waits for its success: the chain stops there, a chord's body does not run, and the workflow succeeds. A rejected one
has failed.

With it a task adds work behind itself: `spawn`, and Celery's ``self.add_to_chord``, see `dyrygentd.worker.spawning`.

With it a final state that a task stores about itself while it runs (``update_state(state="SUCCESS")``) is not taken for its end,
and ``self.request.chain = None`` is seen, see `dyrygentd.worker.running`.

``dyrygentd.worker.install(app)`` does more, where results or messages are kept in Redis. After each try of a task that dyrygentd
sent, what became of it is appended to a stream that the task's message names. The daemon reads on from where it stopped, so what
happened while it was away, or while a connection was cut, is known as well: Ignore and Reject, the value of a task that stores
none, a retry and its time, and that a task was replaced by another one (which is followed under the same id).

With it the workers also call error callbacks that take ``(request, exc, traceback)`` for a chord's body whose header failed, see
`dyrygentd.errbacks`.

A report costs one round trip after the result is stored. It changes nothing about the task: if Redis refuses it or does not
answer, that is logged once, the report is sent later, and the task's result goes its own way. What a failing Redis costs is
bounded: at most `_TIMEOUT_S` for one report, and a tenth of the time of a process.

What ends a task without a trace of its message in the process that notices is not reported: a worker killed with its main
process, a hard time limit, and on Celery 5.6 a killed child. Celery stores a failure for the last two.
"""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from threading import Lock, Timer
from typing import Any, Final

from celery import signals, states
from celery.app.trace import get_actual_ignore_result
from celery.exceptions import Reject, WorkerLostError
from kombu.exceptions import EncodeError
from kombu.utils.json import dumps

from dyrygentd.errbacks import register
from dyrygentd.worker import running, spawning
from dyrygentd.worker.additions import CannotSpawn as CannotSpawn
from dyrygentd.worker.requests import REPORTS_HEADER, WORKFLOW_STAMP, attribute, header_of, is_for, place_of
from dyrygentd.worker.spawning import spawn as spawn

logger = logging.getLogger("dyrygentd.worker")

#: `Task.replace` ends with an Ignore of this text. The task goes on under the same id, and its successor stores the result.
_REPLACED = "Replaced by new task"

#: Entries that a stream keeps, about 200 bytes each. The daemon removes what it has read; while it is away, no more can end than
#: was in flight (2000 by default), and what retries itself.
_STREAM_MAX: Final = 100_000
#: How long a stream outlives its last report: that of a database which is never opened again must not stay for ever.
_STREAM_TTL_S: Final = 7 * 24 * 3600
#: Longest value in a report, as JSON text. Values are in reports only if Celery does not store them.
_VALUE_BYTES_MAX: Final = 32 * 1024
_TEXT_CHARACTERS_MAX: Final = 500
#: That connecting, or one report, may take.
_TIMEOUT_S: Final = 1.0
#: After a failure so many times as long as that took nothing is tried: a Redis that refuses at once is asked again at once.
_PAUSE_FACTOR: Final = 10.0
#: Pauses between tries while no task ends.
_LATER_FIRST_S: Final = 1.0
_LATER_MAX_S: Final = 30.0
#: Reports that wait in one process for Redis to take them; the oldest go first.
_BACKLOG_MAX: Final = 200

_installed: dict[int, "_Reporter"] = {}


def install(app: Any) -> None:
    """Report what becomes of the tasks that dyrygentd sent, of this app only; once more does nothing.

    Call it in the module that the workers load with ``celery -A``.
    """
    # In `shared_task` modules an app is often a proxy of the real one.
    unwrap = getattr(app, "_get_current_object", None)
    app = app if unwrap is None else unwrap()
    register(app)
    if id(app) not in _installed:
        _installed[id(app)] = _Reporter(app)


def _begin(task_id: str, task: Any, **_: Any) -> None:
    if _is_ours(task.request):
        running.begin(task_id, task)


def _store_end(task_id: str, task: Any, retval: Any = None, state: str = "", **_: Any) -> None:
    request = task.request
    if not _is_ours(request):
        return
    request.dyrygentd_added = running.added_by(task_id)
    request.dyrygentd_said = running.end(task_id, task, retval, state)
    if request.dyrygentd_said:
        return
    if state == states.IGNORED and str(retval) != _REPLACED:
        task.backend.store_result(task_id, str(retval), state, request=request)
    # One that is requeued has not ended.
    elif state == states.REJECTED and isinstance(retval, Reject) and not retval.requeue:
        task.backend.store_result(task_id, str(retval.reason), state, request=request)


def _is_ours(request: Any) -> bool:
    return WORKFLOW_STAMP in (request.stamps or {})


spawning.listen()
signals.task_prerun.connect(_begin, weak=False, dispatch_uid=__name__)
# Before a reporter: what a report tells has been stored then.
signals.task_postrun.connect(_store_end, weak=False, dispatch_uid=__name__)


class _Reporter:
    """Listens to the signals of one app. Guards: nothing that goes wrong with a report reaches the task."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._streams: dict[str, _Stream] = {}
        for signal, receiver in (
            (signals.task_postrun, self._after_run),
            (signals.task_retry, self._retried_elsewhere),
            (signals.task_failure, self._lost),
            (signals.task_revoked, self._revoked),
            (signals.task_internal_error, self._internal_error),
            (signals.before_task_publish, self._pass_on),
        ):
            signal.connect(receiver, weak=False, dispatch_uid=(__name__, id(app)))

    def __repr__(self) -> str:
        return f"<Reporter streams={len(self._streams)}>"

    # --- in the process that executes -------------------------------------------------------------------------------

    def _after_run(self, task_id: str, task: Any, retval: Any = None, state: Any = None, **_: Any) -> None:
        place = self._place(task, task.request)
        # There is no state if the process is being ended; and with an error on its way, the result was not stored.
        if place is None or state is None or _is_failing():
            return
        is_stored = not get_actual_ignore_result(task, task.request)
        fields: dict[str, Any] = {}
        match state:
            case states.SUCCESS if added := getattr(task.request, "dyrygentd_added", None):
                state, fields = _with_addition(added, {} if is_stored else _value(task, retval), is_stored=is_stored)
            case states.SUCCESS:
                fields = {} if is_stored else _value(task, retval)
            case states.FAILURE:
                is_stored = is_stored or bool(task.store_errors_even_if_ignored)
                fields = _error(retval)
            case states.RETRY:
                fields = {**_error(getattr(retval, "exc", None)), "next": _time_of(getattr(retval, "when", None))}
            case states.IGNORED if said := getattr(task.request, "dyrygentd_said", ""):
                state = said
            case states.IGNORED if str(retval) == _REPLACED:
                state = "REPLACED"
            case states.IGNORED:
                is_stored = False
                fields = {"error": _text(retval)}
            case states.REJECTED:
                is_stored = False
                fields = {"error": _text(getattr(retval, "reason", retval))}
                if getattr(retval, "requeue", False):
                    state = "REQUEUED"
        self._report(place, task.request, state, is_stored=is_stored, **fields)

    def _internal_error(self, sender: Any = None, request: Any = None, exception: Any = None, **_: Any) -> None:
        """Something outside the task's body failed, such as storing the result; Celery tries to store a failure next."""
        place = self._place(sender, request)
        if place is not None:
            self._report(place, request, states.FAILURE, is_stored=True, **_error(exception))

    def _pass_on(self, headers: Any = None, body: Any = None, **_: Any) -> None:
        """Let what a task of ours is replaced by report in its name: Celery gives it the id and no header.

        A replacement may be a chain or a chord. Its parts are sent one by another, so all of them carry the header, and only the
        one that ends under the id reports.
        """
        if not isinstance(headers, dict) or REPORTS_HEADER in headers:
            return
        task = self._app.current_worker_task
        own = None if task is None else header_of(task.request)
        if own is None:
            return
        reported = own.get("of") or task.request.id
        nesting = task.request.get("replaced_task_nesting") or 0
        is_deeper = (headers.get("replaced_task_nesting") or 0) > nesting
        if "of" in own or is_deeper or headers.get("id") == reported or reported in _following(body):
            headers[REPORTS_HEADER] = {**own, "of": reported}

    # --- in the main process of a worker ----------------------------------------------------------------------------

    def _retried_elsewhere(self, sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
        """Report a retry that the worker makes for a task: the connection or the child process was lost."""
        if reason is not None and not isinstance(getattr(reason, "exc", None), WorkerLostError):
            return  # `task_postrun` follows.
        place = self._place(sender, request)
        if place is not None:
            fields = {**_error(getattr(reason, "exc", None)), "next": _time_of(getattr(reason, "when", None))}
            self._report(place, request, states.RETRY, is_stored=True, **fields)

    def _lost(self, sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
        """Report the loss of the process that executed; Celery 5.6 does not tell of which message."""
        if not isinstance(exception, WorkerLostError) or sender is None or sender.request.id != task_id:
            return
        place = self._place(sender, sender.request)
        if place is not None:
            is_stored = not get_actual_ignore_result(sender, sender.request) or bool(sender.store_errors_even_if_ignored)
            self._report(place, sender.request, states.FAILURE, is_stored=is_stored, **_error(exception))

    def _revoked(
        self, sender: Any = None, request: Any = None, terminated: bool = False, expired: bool = False, **_: Any
    ) -> None:
        place = self._place(sender, request)
        if place is not None:
            is_stored = not get_actual_ignore_result(sender, request) or bool(sender.store_errors_even_if_ignored)
            reason = "expired" if expired else "terminated" if terminated else "revoked"
            self._report(place, request, states.REVOKED, is_stored=is_stored, error=reason)

    # --- reporting --------------------------------------------------------------------------------------------------

    def _place(self, task: Any, request: Any) -> Mapping[str, Any] | None:
        """Return what the message says about reporting; None if it is not for us to report."""
        if task is None or getattr(task, "app", None) is not self._app:
            return None
        place = place_of(request)
        if place is None or not is_for(place, request):
            return None
        return None if attribute(request, "is_eager") else place

    def _report(self, place: Mapping[str, Any], request: Any, state: str, *, is_stored: bool, **fields: Any) -> None:
        entry = {
            "task": attribute(request, "id"),
            "state": state,
            "stored": int(is_stored),
            "worker": attribute(request, "hostname") or "",
            "pid": os.getpid(),
            "at": f"{time.time():.3f}",
            **{name: value for name, value in fields.items() if value not in (None, "")},
        }
        where = place["in"]
        stream = self._streams.get(where)
        if stream is None or stream.pid != os.getpid():
            # A connection must not be shared with the process that this one was forked from.
            stream = self._streams[where] = _Stream(self._app, where)
        stream.append(str(place["stream"]), entry)


class _Stream:
    """Appends reports. Guards: it raises nothing, and what it may cost a process is bounded."""

    def __init__(self, app: Any, where: str) -> None:
        self.pid = os.getpid()
        self._app = app
        self._where = where
        self._client: Any = None
        self._backlog: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_BACKLOG_MAX)
        self._not_before = 0.0
        self._is_failing = False
        # The pool `threads` ends tasks in several threads.
        self._lock = Lock()
        self._timer: Timer | None = None
        self._later_s = _LATER_FIRST_S

    def __repr__(self) -> str:
        return f"<Stream '{self._where}' backlog={len(self._backlog)}>"

    def append(self, stream: str, entry: dict[str, Any]) -> None:
        """Append a report, and those before it that Redis did not take."""
        with self._lock:
            self._backlog.append((stream, entry))
            if time.monotonic() >= self._not_before:
                self._try()

    def _try(self) -> None:
        begun = time.monotonic()
        try:
            self._send()
        except Exception as error:
            # Whatever redis-py, a credential provider or the user's TLS settings raise.
            ended = time.monotonic()
            self._not_before = ended + _PAUSE_FACTOR * (ended - begun)
            if not self._is_failing:
                logger.warning("cannot report to dyrygentd: %s; tasks and results are not affected", error)
            self._is_failing = True
            self._try_later()
        else:
            if self._is_failing:
                logger.warning("reports to dyrygentd are taken again")
            self._is_failing, self._later_s = False, _LATER_FIRST_S

    def _try_later(self) -> None:
        """Try again some time if no task ends meanwhile, in a thread that keeps nobody from ending."""
        if self._timer is None:
            self._timer = Timer(self._later_s, self._try_again)
            self._timer.daemon = True
            self._timer.start()
            self._later_s = min(2 * self._later_s, _LATER_MAX_S)

    def _try_again(self) -> None:
        with self._lock:
            self._timer = None
            if self._backlog:
                self._try()

    def _send(self) -> None:
        if self._client is None:
            self._client = _client(self._app, self._where)
        pipe = self._client.pipeline(transaction=False)
        for stream, entry in self._backlog:
            pipe.xadd(stream, entry, maxlen=_STREAM_MAX, approximate=True)
        for stream in {stream for stream, _ in self._backlog}:
            pipe.expire(stream, _STREAM_TTL_S)
        # If the answer is lost, what was taken nevertheless is reported once more, which is harmless.
        answers = pipe.execute(raise_on_error=False)
        refused = [(report, answer) for report, answer in zip(self._backlog, answers, strict=False) if _is_error(answer)]
        self._backlog = deque((report for report, _ in refused), maxlen=_BACKLOG_MAX)
        if refused:
            raise refused[0][1]


def _is_error(answer: Any) -> bool:
    return isinstance(answer, Exception)


def _client(app: Any, where: str) -> Any:
    """Connect as the app's result backend or broker does, but without patience."""
    # Workers whose stream is in Redis have it.
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    parameters = dict(app.backend.connparams) if where == "backend" else _broker_parameters(app)
    connection_class = parameters.pop("connection_class", redis.Connection)
    parameters |= {"socket_timeout": _TIMEOUT_S, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False}
    if not issubclass(connection_class, redis.UnixDomainSocketConnection):
        parameters["socket_connect_timeout"] = _TIMEOUT_S
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=connection_class, **parameters))


def _broker_parameters(app: Any) -> dict[str, Any]:
    connection = app.connection_for_write()
    timeouts = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    connection.transport_options = {**(connection.transport_options or {}), **timeouts}
    try:
        # Asking for a channel connects once, without trying again.
        parameters: dict[str, Any] = connection.channel()._connparams()
        return parameters
    finally:
        connection.release()


def _following(body: Any) -> list[Any]:
    """Return the ids of the tasks that a message asks to be sent after its own: the chord's body, the rest of the chain."""
    if not isinstance(body, tuple | list) or len(body) != 3 or not isinstance(body[2], dict):
        return []
    signatures = [body[2].get("chord"), *(body[2].get("chain") or ())]
    return [(signature.get("options") or {}).get("task_id") for signature in signatures if isinstance(signature, dict)]


def _is_failing() -> bool:
    """Tell whether an exception is on its way: `task_postrun` is sent also if the result could not be stored."""
    return sys.exc_info()[0] is not None


def _value(task: Any, value: Any) -> dict[str, Any]:
    """Write a value down that Celery does not store."""
    try:
        text = dumps(task.backend.prepare_value(value))
    except (TypeError, ValueError, RecursionError) as error:
        return {"error": f"it has no JSON form ({_text(error)})"}
    size = len(text.encode())
    if size > _VALUE_BYTES_MAX:
        return {"error": f"it has {size} bytes, and a report carries {_VALUE_BYTES_MAX}"}
    return {"value": text}


def _with_addition(added: Any, fields: dict[str, Any], *, is_stored: bool) -> tuple[str, dict[str, Any]]:
    """Return a success that brings along what the task has added, or the failure that it is if that is nowhere else."""
    try:
        packed = added.packed()
    except EncodeError as error:
        return states.FAILURE, _error(error)
    if is_stored and len(packed) > _VALUE_BYTES_MAX:
        # The stored result has it.
        packed = spawning.ELSEWHERE
    return states.SUCCESS, {**fields, "added": packed}


def _error(error: Any) -> dict[str, Any]:
    if error is None:
        return {}
    if isinstance(error, BaseException):
        return {"error": _text(f"{type(error).__name__}: {error}"), "exception": type(error).__name__}
    return {"error": _text(error)}


def _text(what: Any) -> str:
    try:
        text = " ".join(str(what).split())
    except Exception as error:
        # The user's `__str__`.
        text = f"<{type(what).__name__}, which has no text: {type(error).__name__}>"
    return text[:_TEXT_CHARACTERS_MAX]


def _time_of(when: Any) -> str:
    """Return the Unix time of a retry: `when` is a date or a number of seconds."""
    try:
        at = when.timestamp() if isinstance(when, datetime) else time.time() + float(when)
    except (TypeError, ValueError):
        return ""
    return f"{at:.3f}"
