"""Reading the entries of the stream of reports, see `dyrygentd.transport.reports`."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from celery import states

from dyrygentd.core.events import TaskEvent, TaskIgnored, TaskReported, TaskRevoked, TaskSucceeded
from dyrygentd.transport.meta import event_of_failure, event_of_meta, with_addition

#: Of a value that a report brings.
_VALUE_BYTES_MAX: Final = 1024 * 1024


def event_of_report(fields: Mapping[str, str]) -> TaskEvent | None:
    """Read the entry of a stream; None if it is no report."""
    task_id, error, exception = fields.get("task"), fields.get("error", ""), fields.get("exception", "")
    if not task_id:
        return None
    match fields.get("state"):
        case states.SUCCESS:
            succeeded = _success(task_id, fields.get("value"), error)
            added = fields.get("added")
            return succeeded if succeeded is None or added is None else with_addition(succeeded, added)
        case states.FAILURE:
            return event_of_failure(task_id, error or "it failed", exception, fields.get("worker", ""))
        case states.REVOKED:
            return TaskRevoked(task_id, error or "revoked", is_expired=error.endswith("expired"))
        case states.IGNORED:
            return TaskIgnored(task_id, error or "the task asked to be ignored")
        case states.REJECTED:
            return event_of_meta(task_id, {"status": states.REJECTED, "result": error})
        case states.RETRY | "REQUEUED" | "REPLACED" as state:
            worker, next_try_at = fields.get("worker", ""), _number(fields.get("next", ""))
            return TaskReported(task_id, str(state), worker, next_try_at, error=error)
        case _:
            return None


def _success(task_id: str, value: str | None, error: str) -> TaskSucceeded | None:
    if value is None:
        return TaskSucceeded(task_id, None, error or "its result is not stored any more")
    if len(value) > _VALUE_BYTES_MAX:
        return None
    with suppress(ValueError, RecursionError):
        # Whether it is JSON; what it means is for whoever gets it.
        json.loads(value)
        return TaskSucceeded(task_id, value.encode())
    return None


def entries_of(answer: Any) -> Sequence[tuple[Any, Mapping[Any, Any] | None]]:
    """Return the entries of the one stream that was asked for, in the forms of both versions of Redis' protocol."""
    if not answer:
        return []
    if isinstance(answer, dict):
        [found] = answer.values()
        # The newer form has one more list around.
        return found[0] if found and isinstance(found[0], list) else found
    [(_, entries)] = answer
    found_entries: Sequence[tuple[Any, Mapping[Any, Any] | None]] = entries
    return found_entries


def parsed(place: str) -> tuple[int, int]:
    """Return the time in milliseconds, and the number, that a place in the stream is made of."""
    milliseconds, _, number = place.partition("-")
    return int(milliseconds), int(number or 0)


def _number(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def text_of(value: Any) -> str:
    """Return what Redis has sent as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
