"""What Celery stores about a task, read as an event.

Observed on Celery 5.6 and 5.7 (result metas as JSON):

- PENDING is never stored; it is what Celery answers for an id that it does not know.
- STARTED, RETRY and the user's own states come before the end and may come several times, also under `Task.replace`, which
  keeps the task id.
- SUCCESS is never overwritten by a worker. FAILURE and REVOKED can be, by a retry or a redelivery: whoever reads takes the first
  final state and counts the rest (celery#3085).
- FAILURE is also what a lost child process (WorkerLostError), an unknown task (NotRegistered) and a time limit leave behind.
- IGNORED and REJECTED are never stored by Celery itself; `dyrygentd.worker` does that for tasks of ours.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Final, Literal

import msgspec
from celery import states
from celery.backends.base import Backend
from kombu.utils.json import dumps
from msgspec import Raw, Struct

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskIgnored, TaskReported, TaskRevoked, TaskSucceeded
from dyrygentd.core.policy import FailureKind

#: Longest error text kept: enough to tell the cause in a list, the traceback stays in Celery's result.
_ERROR_CHARACTERS_MAX = 500
#: Failures that are no fault of the task: another attempt may well succeed.
_INFRASTRUCTURE = frozenset({"WorkerLostError", "Terminated", "TimeLimitExceeded", "NotRegistered", "WorkerShutdown"})
#: A line of Python's traceback.
_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+), in (\S+)', re.MULTILINE)
#: What stands between the worker and the task in every traceback.
_OF_CELERY = re.compile(r"^(trace_task|__protected_call__|fast_trace_task) ")
_FRAMES_MAX = 2
_CAUSE_CHARACTERS_MAX = 200
_STATE = re.compile(rb'\s*\{\s*"status":\s*"(\w+)"')


def event_of_meta(task_id: str, meta: dict[str, Any]) -> TaskEvent | None:
    """Read a decoded result; None if the backend knows nothing of the task."""
    status, result = meta["status"], meta.get("result")
    if status == states.PENDING:
        return None
    if not isinstance(status, str):
        return event_of_undecodable(task_id, TypeError(f"its state is {status!r}"))
    if status == states.SUCCESS:
        return _succeeded(task_id, result)
    if status == states.FAILURE:
        return _failed(task_id, result, meta.get("traceback"))
    if status == states.REVOKED:
        reason = str(result) if result is not None else "revoked"
        return TaskRevoked(task_id, reason, is_expired=reason.endswith("expired"))
    if status == states.IGNORED:
        return TaskIgnored(task_id, _one_line(result) or "the task asked to be ignored")
    if status == states.REJECTED:
        return TaskFailed(task_id, f"rejected: {_one_line(result)}", exception="Reject", cause="Reject")
    return TaskReported(task_id, status)


def event_of_failure(task_id: str, error: str, exception: str) -> TaskFailed:
    """Read a failure of which no more than these words is known."""
    kind = FailureKind.INFRASTRUCTURE if exception in _INFRASTRUCTURE else FailureKind.TASK
    return TaskFailed(task_id, _one_line(error), exception, kind, _cause(exception, ""))


def event_of_undecodable(task_id: str, error: BaseException) -> TaskEvent:
    """Read a result that the backend cannot decode: it is there, final or not, and nobody will ever be able to read it."""
    return TaskFailed(task_id, f"the stored result cannot be decoded: {_one_line(error)}")


def event_of_long_payload(task_id: str, size: int, beginning: bytes) -> TaskEvent:
    """Read a result that is too long to be decoded by its beginning; Celery writes the state first."""
    state = state_of_payload(beginning)
    problem = f"its stored result has {size} bytes, too many to be read"
    if not state:
        return TaskFailed(task_id, f"the state of the task is unknown: {problem}")
    if state == states.SUCCESS:
        return TaskSucceeded(task_id, None, problem)
    return event_of_meta(task_id, {"status": state, "result": problem}) or TaskFailed(task_id, problem)


class Success(Struct):
    """Of a stored result what a success is made of."""

    status: Literal["SUCCESS"]
    result: Raw
    date_done: str | None = None


def is_usual_json(backend: Any) -> bool:
    """Tell whether this backend reads results as Celery does, and as JSON, so that `success_of_payload` may be asked."""
    kind = type(backend)
    is_celerys = all(getattr(kind, name) is getattr(Backend, name) for name in ("decode_result", "decode", "meta_from_decoded"))
    accepted = getattr(backend, "accept", None)
    return is_celerys and backend.content_type == _JSON and (accepted is None or _JSON in accepted or "json" in accepted)


def success_of_payload(payload: bytes) -> Success | None:
    """Read a stored success, its value as the worker has written it; None if it is anything else.

    What Python's JSON alone knows (``NaN``), what is compressed, and types of kombu's JSON are left to Celery's own decoder.
    """
    if not payload.isascii() or _TYPED in payload:
        return None
    try:
        return _success.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None


_JSON: Final = "application/json"
_TYPED: Final = b"__type__"
_success: Final = msgspec.json.Decoder(Success)


def state_of_payload(beginning: bytes) -> str:
    """Read the state off the beginning of a stored result; empty if it is not JSON as Celery writes it."""
    state = _STATE.match(beginning)
    return "" if state is None else state[1].decode()


#: As `dyrygentd.core.engine` doubts them.
_DOUBTFUL = frozenset({"WorkerLostError"})


def is_final(event: TaskEvent) -> bool:
    """Tell whether Celery is done with the task."""
    return not isinstance(event, TaskReported)


def is_conclusive(event: TaskEvent) -> bool:
    """Tell whether nothing else will be stored for the task.

    Workers that do not execute a task may store REVOKED or WorkerLostError for one that another worker executes and ends well
    (``celery/worker/control.py`` `revoke`, celery#3085, #1703).
    """
    match event:
        case TaskReported():
            return False
        case TaskRevoked(is_expired=is_expired):
            return is_expired
        case TaskFailed(exception=exception):
            return exception not in _DOUBTFUL
        case _:
            return True


def _failed(task_id: str, error: Any, traceback: Any) -> TaskFailed:
    exception = type(error).__name__ if isinstance(error, BaseException) else ""
    kind = FailureKind.INFRASTRUCTURE if exception in _INFRASTRUCTURE else FailureKind.TASK
    return TaskFailed(task_id, _one_line(error), exception, kind, _cause(exception, traceback))


def _cause(exception: str, traceback: Any) -> str:
    """Return what failures of one cause have in common: the exception and the last frames, without values and addresses."""
    frames = [f"{name} ({PurePath(path).name}:{line})" for path, line, name in _FRAME.findall(str(traceback or ""))]
    inner = [frame for frame in frames if not _OF_CELERY.search(frame)] or frames
    return " ".join([exception or "failure", *(f"in {frame}" for frame in reversed(inner[-_FRAMES_MAX:]))])[
        :_CAUSE_CHARACTERS_MAX
    ]


def _succeeded(task_id: str, result: Any) -> TaskSucceeded:
    try:
        return TaskSucceeded(task_id, dumps(result).encode())
    except (TypeError, ValueError, RecursionError) as error:
        return TaskSucceeded(task_id, None, f"it has no JSON form ({_one_line(error)})")


def _one_line(error: object) -> str:
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    text = " ".join(text.split())
    return text if len(text) <= _ERROR_CHARACTERS_MAX else text[: _ERROR_CHARACTERS_MAX - 1] + "…"


def stored_at(moment: object) -> float | None:
    """Return when a result was stored by the worker's clock: Celery's `date_done`, text or a datetime, UTC if it does not say."""
    with suppress(ValueError, TypeError, OverflowError):
        moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        if isinstance(moment, datetime):
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None
