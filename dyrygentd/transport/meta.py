"""What Celery stores about a task, read as an event.

Observed on Celery 5.6 and 5.7 (result metas as JSON):

- PENDING is never stored; it is what Celery answers for an id that it does not know.
- STARTED, RETRY and the user's own states come before the end and may come several times, also under `Task.replace`, which
  keeps the task id.
- SUCCESS is never overwritten by a worker. FAILURE and REVOKED can be, by a retry or a redelivery: whoever reads takes the first
  final state and counts the rest (celery#3085).
- IGNORED and REJECTED are stored by our addition to workers alone (`dyrygentd.worker`), and come at the end.
- FAILURE is also what a lost child process (WorkerLostError), an unknown task (NotRegistered) and a time limit leave behind.
"""

import re
from typing import Any

from celery import states
from kombu.utils.json import dumps

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskReported, TaskRevoked, TaskSucceeded

#: Longest error text kept: enough to tell the cause in a list, the traceback stays in Celery's result.
_ERROR_CHARACTERS_MAX = 500
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
        return TaskFailed(task_id, _one_line(result))
    if status == states.REJECTED:
        return TaskFailed(task_id, f"rejected: {_one_line(result)}")
    if status == states.REVOKED:
        return TaskRevoked(task_id, str(result) if result is not None else "revoked")
    # IGNORED will be an event of its own once the core has a policy for it; until then it is shown, and nothing follows from it.
    return TaskReported(task_id, status)


def event_of_undecodable(task_id: str, error: BaseException) -> TaskEvent:
    """Read a result that the backend cannot decode: it is there, final or not, and nobody will ever be able to read it."""
    return TaskFailed(task_id, f"the stored result cannot be decoded: {_one_line(error)}")


def event_of_long_payload(task_id: str, size: int, beginning: bytes) -> TaskEvent:
    """Read a result that is too long to be decoded by its beginning; Celery writes the state first."""
    state = _STATE.match(beginning)
    problem = f"its stored result has {size} bytes, too many to be read"
    if state is None:
        return TaskFailed(task_id, f"the state of the task is unknown: {problem}")
    if state[1] == states.SUCCESS.encode():
        return TaskSucceeded(task_id, None, problem)
    return event_of_meta(task_id, {"status": state[1].decode(), "result": problem}) or TaskFailed(task_id, problem)


def is_final(event: TaskEvent) -> bool:
    """Tell whether Celery is done with the task."""
    return not isinstance(event, TaskReported)


def _succeeded(task_id: str, result: Any) -> TaskSucceeded:
    try:
        return TaskSucceeded(task_id, dumps(result).encode())
    except (TypeError, ValueError, RecursionError) as error:
        return TaskSucceeded(task_id, None, f"it has no JSON form ({_one_line(error)})")


def _one_line(error: object) -> str:
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    text = " ".join(text.split())
    return text if len(text) <= _ERROR_CHARACTERS_MAX else text[: _ERROR_CHARACTERS_MAX - 1] + "…"
