"""Watches what tasks that dyrygentd sent do to their own end while they run.

*A final state.* A task may store ``SUCCESS``, ``FAILURE`` or ``REVOKED`` about itself (``update_state``, ``store_result``,
``mark_as_done``) and go on. Who waits for the result takes that for the end. Celery itself never overwrites a stored success,
not even with the task's return value. Here such a state is stored as the task wants it, with a line as its traceback that says
what it is, and when the task has ended, its real end is stored. A task that says it has failed and ends by ``Ignore`` has failed.

*The chain.* ``self.request.chain = None`` keeps what follows from being sent, but what follows is not in our messages. So the
request gets an empty chain of ours, and if it has another one when its success is stored, a line says so in the same way. Nothing
can be added to it: an error says what can be done instead.

Who stores is seen by the calling frame: the body, or Celery's tracer when the body has ended.
"""

import logging
import sys
import traceback as tracebacks
from contextlib import suppress
from types import FrameType
from typing import Any, Final, NoReturn

from celery import states
from kombu.exceptions import EncodeError

from dyrygentd.worker.additions import Adding, check_value

logger = logging.getLogger("dyrygentd.worker")

#: Before the traceback of what a task says about itself, and of a success that ends its chain, for `dyrygentd.transport.meta`. In
#: the form of a traceback, since Celery may parse it.
_HEAD: Final = 'Traceback (most recent call last):\n  File "dyrygentd", line 1, in dyrygentd_'
SAID: Final = f"{_HEAD}said_while_running"
CLOSED: Final = f"{_HEAD}chain_ended"
#: Before what a task has added, with its success.
ADDED: Final = f"{_HEAD}added"
#: As the traceback of what a task said that then asked to be ignored: it is the end.
_SAID_AND_IGNORED: Final = "said by the task itself, which then ended by Ignore"
_FINAL: Final = states.READY_STATES | {states.IGNORED, states.REJECTED}
#: Serializers that write a list of our own kind as a list, if the task retries itself.
_SERIALIZERS: Final = ("json", "msgpack", "pickle")


class _Chain(list[Any]):
    """The empty chain of a task that runs; nothing can be added."""

    def __reduce__(self) -> Any:
        return list, ()

    def append(self, *_: Any) -> NoReturn:
        raise NotImplementedError(
            "what follows a task that dyrygentd has sent is not in its message, so nothing can be added to `self.request.chain`;"
            " use `self.replace(chain(...))`"
        )

    extend = insert = __iadd__ = __setitem__ = append


class _Running:
    """A task that runs: its chain, the last final state that it stored about itself, and what it has added."""

    __slots__ = ("added", "chain", "said")

    def __init__(self, chain: _Chain | None) -> None:
        self.chain = chain
        self.said: tuple[str, Any] | None = None
        self.added: Adding | None = None

    def mark_of_success(self, request: Any, value: Any, backend: Any) -> str | None:
        """Return what is stored in the place of a success's traceback. Raises `EncodeError` if it cannot be stored."""
        is_closed = self.chain is not None and getattr(request, "chain", None) is not self.chain
        if not self.added:
            return CLOSED if is_closed else None
        if is_closed:
            raise EncodeError("the task has ended its chain and added work: nothing could follow, and that follows")
        check_value(value, backend)
        return f"{ADDED}\n{self.added.packed()}"


#: By task id. As many as this process executes at a time.
_running: dict[str, _Running] = {}


def begin(task_id: str, task: Any) -> None:
    """Watch a task from now on."""
    request, chain = task.request, None
    if not request.chain and task.serializer in (None, *_SERIALIZERS):
        chain = request.chain = _Chain()
    _running[task_id] = _Running(chain)
    _listen(task.backend)


def additions_of(task: Any, bytes_max: int) -> Adding:
    """Return what a task that runs has added so far, to be added to."""
    if task.request.id not in _running:
        # The companion was imported by the task itself.
        begin(task.request.id, task)
    running = _running[task.request.id]
    if running.added is None:
        running.added = Adding(bytes_max)
    return running.added


def added_by(task_id: str) -> Adding | None:
    """Return what a task that runs has added, None if it has added nothing."""
    running = _running.get(task_id)
    return running.added or None if running is not None else None


def end(task_id: str, task: Any, retval: Any, state: str | None) -> str:
    """Let go of a task and store its real end if it has said another one; return the state that it said and that counts."""
    running = _running.pop(task_id, None)
    if running is None:
        return ""
    if task.request.chain is running.chain:
        task.request.chain = None
    # Without a state the process is being ended; with an error on its way, the result was not stored.
    if running.said is None or not state or sys.exc_info()[0] is not None:
        return ""
    said, result = running.said
    backend, request = task.backend, task.request
    if said == states.SUCCESS:
        # Nothing would be stored over it.
        with suppress(NotImplementedError):
            backend.forget(task_id)
        match state:
            case states.SUCCESS:
                # What cannot be stored was found out before, and is a failure.
                traceback = f"{ADDED}\n{running.added.packed()}" if running.added else None
                backend.store_result(task_id, retval, state, traceback=traceback, request=request)
            case states.FAILURE if isinstance(retval, BaseException):
                text = "".join(tracebacks.format_exception(retval))
                backend.store_result(task_id, retval, state, traceback=text, request=request)
            case states.RETRY:
                backend.store_result(task_id, getattr(retval, "exc", None), state, request=request)
    elif state == states.IGNORED and said in (states.FAILURE, states.REVOKED):
        backend.store_result(task_id, result, said, traceback=_SAID_AND_IGNORED, request=request)
        return said
    return ""


def _listen(backend: Any) -> None:
    """See what is stored through this backend; each thread that executes may have its own."""
    if isinstance(vars(backend).get("store_result"), _Listening):
        return
    backend.store_result = _Listening(backend)


class _Listening:
    """`store_result` of a backend, which also sees who calls it."""

    def __init__(self, backend: Any) -> None:
        self._store = backend.store_result
        self._backend = backend
        #: Where the frames between who stores and this are.
        self._own = {each.__module__ for each in type(backend).__mro__}

    def __call__(self, task_id: Any, result: Any, state: Any, traceback: Any = None, request: Any = None, **options: Any) -> Any:
        running = _running.get(task_id)
        if running is not None and state in _FINAL:
            if self._is_body(sys._getframe(1)):
                running.said = state, result
                traceback = f"{SAID}\n{traceback}" if traceback else SAID
            elif state == states.SUCCESS:
                traceback = running.mark_of_success(request, result, self._backend)
        return self._store(task_id, result, state, traceback=traceback, request=request, **options)

    def _is_body(self, frame: FrameType | None) -> bool:
        while frame is not None and frame.f_globals.get("__name__") in self._own:
            frame = frame.f_back
        module = "" if frame is None else str(frame.f_globals.get("__name__"))
        # `update_state` is there.
        return module == "celery.app.task" or not (module == __name__ or module.startswith("celery."))
