"""What Celery stores about a task, read as an event.

Observed on Celery 5.6 and 5.7 (result metas as JSON):

- PENDING is never stored; it is what Celery answers for an id that it does not know.
- STARTED, RETRY and the user's own states come before the end and may come several times, also under `Task.replace`, which
  keeps the task id.
- SUCCESS is never overwritten by a worker. FAILURE and REVOKED can be, by a retry or a redelivery: whoever reads takes the first
  final state and counts the rest (celery#3085).
- FAILURE is also what a lost child process (WorkerLostError), an unknown task (NotRegistered) and a time limit leave behind.
- A task that runs may store any state about itself (``update_state``), also a final one. A success cannot be told from the one
  that Celery stores; a failure can, mostly: Celery's has a traceback, or is an exception of Celery itself. `dyrygentd.worker`
  marks what was stored so, see `_SAID`.
- An exception is stored as a name and arguments. Celery makes an exception of that, and `Exception` where it cannot; here nothing
  is made of it. What cannot be pickled is stored as a base class of it, whose name is then all that is known, or as an
  `UnpickleableExceptionWrapper` that has its name.
- IGNORED and REJECTED are never stored by Celery itself; `dyrygentd.worker` does that for tasks of ours.
"""

import builtins
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Final, NamedTuple

import msgspec
from celery import states
from celery.backends.base import Backend
from kombu.utils.json import dumps
from msgspec import Raw, Struct

from dyrygentd.core.additions import Addition, Adds
from dyrygentd.core.events import DOUBTFUL, TaskEvent, TaskFailed, TaskIgnored, TaskReported, TaskRevoked, TaskSucceeded
from dyrygentd.core.policy import FailureKind
from dyrygentd.core.without_value import UNREAD
from dyrygentd.transport.inert import Called, PickledName

#: Longest error text handed on. What is kept is cut by `dyrygentd.scheduler.redaction`: half a secret does not look like one.
_ERROR_CHARACTERS_MAX: Final = 8 * 1024
#: Failures that are no fault of the task: another attempt may well succeed.
_INFRASTRUCTURE = frozenset({"WorkerLostError", "Terminated", "TimeLimitExceeded", "NotRegistered", "WorkerShutdown"})
#: A line of Python's traceback.
_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+), in (\S+)', re.MULTILINE)
#: What stands between the worker and the task in every traceback.
_OF_CELERY = re.compile(r"^(trace_task|__protected_call__|fast_trace_task) ")
_FRAMES_MAX = 2
_FINGERPRINT_CHARACTERS_MAX = 200
#: What Celery stores when it is done with a task.
FINAL_STATES = states.READY_STATES | {states.IGNORED, states.REJECTED}
_STATE = re.compile(rb'\s*\{\s*"status":\s*"(\w+)"')


#: How the traceback begins of what `dyrygentd.transport.outcomes` stores: no worker has seen the task, and it may run yet. In the
#: form of a traceback, since Celery may parse it.
NEVER_RAN: Final = 'Traceback (most recent call last):\n  File "dyrygentd", line 1, in dyrygentd_never_ran\n'
_NEVER_RAN_STATES: Final = frozenset({states.FAILURE, states.REVOKED})


def is_never_ran(meta: Mapping[str, Any]) -> bool:
    """Tell whether a decoded result is one that we have stored because the task never ran."""
    return meta.get("status") in _NEVER_RAN_STATES and str(meta.get("traceback") or "").startswith(NEVER_RAN)


def event_of_meta(task_id: str, meta: Mapping[str, Any]) -> TaskEvent | None:
    """Read what `dyrygentd.transport.results` has read; None if the backend knows nothing of the task, or only
    what we have stored ourselves.

    It may run the app's own encoders, over a value that was not stored as JSON.
    """
    status, result, traceback = meta["status"], meta.get("result"), meta.get("traceback")
    if status == states.PENDING:
        return None
    if not isinstance(status, str):
        return event_of_undecodable(task_id, TypeError(f"its state is {status!r}"))
    if is_said_while_running(meta):
        return TaskReported(task_id, f"{status}{_WHILE_RUNNING}")
    if status == states.SUCCESS:
        succeeded = _succeeded(task_id, result)
        said = str(traceback or "")
        if said.startswith(_ADDED):
            return with_addition(succeeded, said[len(_ADDED) :].strip())
        return replace(succeeded, ends_chain=True) if said.startswith(_CLOSED) else succeeded
    if is_never_ran(meta):
        return None
    if isinstance(result, Raw):
        result = json.loads(bytes(result))
    if status == states.FAILURE:
        return _failed(task_id, result, traceback, worker_of(meta))
    if status == states.REVOKED:
        reason = "revoked" if result is None else named_error(result, "").text
        return TaskRevoked(task_id, reason, is_expired=reason.endswith("expired"))
    if status == states.IGNORED:
        return TaskIgnored(task_id, _text(result) or "the task asked to be ignored")
    if status == states.REJECTED:
        return TaskFailed(task_id, f"rejected: {_text(result)}", exception="Reject", fingerprint="Reject")
    if status == states.STARTED and isinstance(result, dict):
        # With `task_track_started` a worker says who it is as the result.
        return TaskReported(task_id, status, start=f"{result.get('hostname', '')}/{result.get('pid', '')}")
    return TaskReported(task_id, status, error=error_of_retry(meta))


#: What `dyrygentd.worker.running` puts before the traceback of a final state that a task has stored about itself while it ran,
#: and in the place of one if a task has ended its chain.
_HEAD: Final = 'Traceback (most recent call last):\n  File "dyrygentd", line 1, in dyrygentd_'
_SAID: Final = f"{_HEAD}said_while_running"
_CLOSED: Final = f"{_HEAD}chain_ended"
#: Before what a task has added, as `dyrygentd.worker.additions` has packed it: a word, and the definition.
_ADDED: Final = f"{_HEAD}added"
_ADDITION: Final = re.compile(rf"({Adds.BESIDE}|{Adds.BEHIND}) ([A-Za-z0-9+/]+={{0,2}})")
#: Shown behind such a state.
_WHILE_RUNNING: Final = " (said while it runs)"


def with_addition(succeeded: TaskSucceeded, said: str) -> TaskEvent:
    """Return a success with what the task has added; what cannot be read must not get lost, so that is a failure."""
    addition = _ADDITION.fullmatch(said)
    if addition is None:
        error = f"the task has added work that cannot be read: {said:.100}"
        return TaskFailed(succeeded.task_id, error, kind=FailureKind.REFUSED, fingerprint="unreadable addition")
    return replace(succeeded, added=Addition(Adds(addition[1]), addition[2].encode()))


def is_said_while_running(meta: Mapping[str, Any]) -> bool:
    """Tell whether a state was stored by a task that runs with `dyrygentd.worker`: the end is stored later."""
    traceback = meta.get("traceback")
    return isinstance(traceback, str) and traceback.startswith(_SAID)


def as_seen(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a meta whose state is no end if it is none, for those who look at states alone."""
    if is_never_ran(meta):
        return {**meta, "status": states.PENDING}
    return {**meta, "status": f"{meta['status']}{_WHILE_RUNNING}"} if is_said_while_running(meta) else meta


def worker_of(meta: Mapping[str, Any]) -> str:
    """Return the worker that a result names; empty if it does not. With `task_track_started` it says so as the result."""
    result = meta.get("result")
    if meta.get("status") == states.STARTED and not meta.get("worker"):
        if isinstance(result, Raw):
            result = json.loads(bytes(result))
        return str(result.get("hostname") or "") if isinstance(result, Mapping) else ""
    return str(meta.get("worker") or "")


def is_doubtful(meta: Mapping[str, Any]) -> bool:
    """Tell whether a failure or revocation may have been stored by the task itself, which then goes on.

    Celery stores a failure with its traceback, or, if the task could not tell, an exception of its own; and of a revoked task
    always the same exception.
    """
    status, result = meta["status"], meta.get("result")
    if status not in (states.FAILURE, states.REVOKED) or meta.get("traceback") or is_said_while_running(meta):
        return False
    if isinstance(result, Raw):
        result = json.loads(bytes(result))
    if isinstance(result, BaseException):
        name, module = type(result).__name__, type(result).__module__
    elif isinstance(result, Called):
        name, module = result.name.name, result.name.module
    elif isinstance(result, Mapping):
        name, module = str(result.get("exc_type")), str(result.get("exc_module"))
    else:
        return True
    return name != "TaskRevokedError" if status == states.REVOKED else not module.startswith(("celery.", "billiard."))


def event_of_failure(task_id: str, error: str, exception: str, worker: str = "") -> TaskFailed:
    """Read a failure of which no more than these words is known."""
    kind = FailureKind.INFRASTRUCTURE if exception in _INFRASTRUCTURE else FailureKind.TASK
    return TaskFailed(task_id, _text(error), exception, kind, _fingerprint(exception, ""), worker)


def event_of_undecodable(task_id: str, error: BaseException) -> TaskEvent:
    """Read a result that the backend cannot decode: it is there, final or not, and nobody will ever be able to read it."""
    return TaskFailed(task_id, f"{UNREAD}: {_text(error)}")


def event_of_long_payload(task_id: str, size: int, beginning: bytes, *, value_bytes_max: int) -> TaskEvent:
    """Read a result that is too long to be decoded by its beginning; Celery writes the state first."""
    state = state_of_payload(beginning)
    problem = (
        f"its stored result has {size} bytes, too many to be read, the limit of a value is {value_bytes_max}: pass a"
        " reference to the data instead, or raise `value_bytes_max`"
    )
    if not state:
        return TaskFailed(task_id, f"the state of the task is unknown: {problem}")
    if state == states.SUCCESS:
        return TaskSucceeded(task_id, None, problem)
    return event_of_meta(task_id, {"status": state, "result": problem}) or TaskFailed(task_id, problem)


class StoredPayload(Struct):
    """Of a result that was stored as JSON, what is needed; its value as the worker has written it."""

    status: str
    result: Raw = Raw(b"null")
    traceback: str | None = None
    date_done: str | None = None
    worker: str | None = None

    def meta(self) -> Mapping[str, Any]:
        """Return it in the form in which other results are read."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


def is_usual_json(backend: Any) -> bool:
    """Tell whether this backend reads results as Celery does, and as JSON, so that `stored_of_payload` may be asked."""
    kind = type(backend)
    is_celerys = all(getattr(kind, name) is getattr(Backend, name) for name in ("decode_result", "decode", "meta_from_decoded"))
    accepted = getattr(backend, "accept", None)
    return is_celerys and backend.content_type == _JSON and (accepted is None or _JSON in accepted or "json" in accepted)


def stored_of_payload(payload: bytes) -> StoredPayload | None:
    """Read a stored result without decoding its value; None if that needs more than this.

    What Python's JSON alone knows (``NaN``), and what is compressed, is left to `dyrygentd.transport.results`. Types of kombu's
    JSON are handed on as they are, for whoever gets the value to decode.
    """
    if not payload.isascii():
        return None
    try:
        return _stored.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None


_JSON: Final = "application/json"
_stored: Final = msgspec.json.Decoder(StoredPayload)


def state_of_payload(beginning: bytes) -> str:
    """Read the state off the beginning of a stored result; empty if it is not JSON as Celery writes it."""
    state = _STATE.match(beginning)
    return "" if state is None else state[1].decode()


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
            return exception not in DOUBTFUL
        case _:
            return True


class NamedError(NamedTuple):
    """An exception that was stored: the name of its class, empty if it is none, and what it says."""

    name: str
    text: str


def named_error(stored: Any, traceback: Any) -> NamedError:
    """Read an exception by the name under which it was stored, or was raised under, without making it."""
    match stored:
        case BaseException():
            # Of backends that make exceptions themselves, or from a pickle that might be read as such.
            module, name, arguments = type(stored).__module__, type(stored).__name__, stored.args
            text = str(stored)
        case Called(name=PickledName(module, name)):
            arguments = stored.arguments
            text = _text_of(module, name, arguments)
        case {"exc_type": str(name)}:
            module, said = str(stored.get("exc_module")), stored.get("exc_message", ())
            arguments = tuple(said) if isinstance(said, list | tuple) else (said,)
            text = _text_of(module, name, arguments)
        case Mapping():
            return NamedError("", json.dumps(stored, default=str))
        case _:
            return NamedError("", str(stored))
    if name == _WRAPPER and len(arguments) == 4:
        # Its class, and its arguments as far as they can be pickled; of what is without any, the repr says more.
        _, name, inner, shown = arguments
        return NamedError(
            _last(str(name)), _text_of("", "", tuple(inner)) if isinstance(inner, list | tuple) and inner else str(shown)
        )
    name, raised = _last(str(name)), _raised(traceback)
    # An exception may be pickled as a call of anything.
    if raised is not None and (isinstance(stored, Called) or raised.name == name):
        return raised
    return NamedError(name, text)


#: What Celery stores in the place of an exception that cannot be pickled: its module, class, arguments and repr.
_WRAPPER: Final = "UnpickleableExceptionWrapper"
#: How a traceback ends: the class, and what it says. Whatever begins with spaces before that are frames.
_RAISED = re.compile(r"([A-Za-z_][\w.<>]*)(?::\s*(.*))?", re.DOTALL)


def _raised(traceback: Any) -> NamedError | None:
    """Return what a traceback says of the exception at its end, None if that cannot be found."""
    if not isinstance(traceback, str):
        return None
    _, _, last = traceback.rpartition('\n  File "')
    lines = last.splitlines()[1:]
    for number, line in enumerate(lines):
        if line and not line[0].isspace():
            found = _RAISED.fullmatch("\n".join(lines[number:]))
            return NamedError(_last(found[1]), (found[2] or "").strip()) if found else None
    return None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _text_of(module: str, name: str, arguments: tuple[Any, ...]) -> str:
    """Say what an exception says that has these arguments; Python's own are asked, some have a way of their own."""
    if module == "builtins":
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            with suppress(Exception):
                return str(kind(*arguments))
    return str(arguments[0]) if len(arguments) == 1 else str(arguments) if arguments else ""


def error_of_retry(meta: Mapping[str, Any]) -> str:
    """Return the error with which a task has asked for another try; empty if it has not."""
    if meta.get("status") != states.RETRY:
        return ""
    with suppress(Exception):
        # Whatever a task has raised, and however it was stored.
        result = meta.get("result")
        named = named_error(json.loads(bytes(result)) if isinstance(result, Raw) else result, meta.get("traceback"))
        # A retry that was not asked for because of an error is stored with none.
        return _text(f"{named.name}: {named.text}" if named.name else named.text.removesuffix("None"))
    return ""


def _failed(task_id: str, error: Any, traceback: Any, worker: str) -> TaskFailed:
    exception, text = named_error(error, traceback)
    kind = FailureKind.INFRASTRUCTURE if exception in _INFRASTRUCTURE else FailureKind.TASK
    told = f"{exception}: {text}" if exception else text
    return TaskFailed(task_id, _text(told), exception, kind, _fingerprint(exception, traceback), worker)


def _fingerprint(exception: str, traceback: Any) -> str:
    """Return what failures of one cause have in common: the exception and the last frames, without values and addresses."""
    frames = [f"{name} ({PurePath(path).name}:{line})" for path, line, name in _FRAME.findall(str(traceback or ""))]
    inner = [frame for frame in frames if not _OF_CELERY.search(frame)] or frames
    return " ".join([exception or "failure", *(f"in {frame}" for frame in reversed(inner[-_FRAMES_MAX:]))])[
        :_FINGERPRINT_CHARACTERS_MAX
    ]


def _succeeded(task_id: str, result: Any) -> TaskSucceeded:
    if isinstance(result, Raw):
        return TaskSucceeded(task_id, bytes(result))
    try:
        return TaskSucceeded(task_id, dumps(result).encode())
    except (TypeError, ValueError, RecursionError) as error:
        return TaskSucceeded(task_id, None, f"it has no JSON form ({_text(error)})")


def _text(error: object) -> str:
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    return text if len(text) <= _ERROR_CHARACTERS_MAX else text[:_ERROR_CHARACTERS_MAX]


def stored_at(moment: object) -> float | None:
    """Return when a result was stored by the worker's clock: Celery's `date_done`, text or a datetime, UTC if it does not say."""
    with suppress(ValueError, TypeError, OverflowError):
        moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        if isinstance(moment, datetime):
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None
