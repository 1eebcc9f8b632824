"""Reads what a result backend has stored, as data.

Celery's own way (`Backend.get_task_meta`) makes objects of what it reads: exceptions, of the class that is named, with the
arguments that are stored; whatever decoders the app has registered with kombu's JSON; whatever a pickle asks for. A daemon needs
none of it. JSON is read without anybody's decoders, and handed on as the worker has written it. An exception stays a name and
arguments. A pickle is read as data (`dyrygentd.transport.inert`), unless the operator has allowed unpickling. Serializers that
the app brings along decode as they please, in a thread.

*How.* A copy of the app's backend has three of its methods replaced, those that Celery calls for every kind of backend:
decoding, making exceptions of what was decoded, and which contents are accepted. Backends that have replaced one of them
themselves keep it. The table of Celery's database backend is read by itself: its model unpickles, always on Celery 5.6, and what
it cannot decode on 5.7.

*Databases.* They end connections: after a restart, when one was idle for long, when a pool in between says so. Workers let go of
theirs after each task; here that is done before each slice of questions, and after each error.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pickle import PickleError
from typing import Any, Final

from celery import states
from celery.backends.base import Backend
from kombu.exceptions import ContentDisallowed, SerializationError, SerializerNotInstalled
from kombu.serialization import register, registry
from kombu.utils.encoding import ensure_bytes

from dyrygentd.transport.inert import NotData, data_of_pickle
from dyrygentd.transport.meta import as_seen

try:
    from celery.backends.base import decompress_payload
except ImportError:
    # Celery 5.6 compresses no results.
    def decompress_payload(payload: Any) -> Any:
        return payload


#: Of kombu's serializers the one whose content is a program.
PICKLE: Final = "application/x-python-serialize"
_JSON: Final = "application/json"
_MAY_NOT: Final = "it is a pickle, which the daemon reads as data at most, unless `pickled_results` is 'unpickle'"


class Pickled(ValueError):
    """A result is a pickle that holds more than data."""


#: What a decoder raises. Everything else is taken for an outage of the backend.
DECODING_ERRORS: Final = (
    SerializationError,
    SerializerNotInstalled,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    EOFError,
    RecursionError,
    PickleError,
)
#: In the place of a state that is there and cannot be read.
UNREADABLE: Final = "of an unreadable result"


class StoredResults:
    """Reads the results of one backend; blocking, from one thread at a time.

    Guards: without permission, nothing is unpickled, and no exception is made.

    Args:
        may_unpickle: Whether results may be unpickled as the app does it.
    """

    def __init__(self, backend: Any, *, may_unpickle: bool = False) -> None:
        self._may_unpickle = may_unpickle
        self._is_json = getattr(backend, "content_type", None) == _JSON
        self.backend = reading = _copied(backend) if isinstance(backend, Backend) else backend
        if reading is not backend:
            kind = type(backend)
            if kind.meta_from_decoded is Backend.meta_from_decoded:
                reading.meta_from_decoded = _as_it_is
            if kind.decode is Backend.decode:
                reading.decode = self._decode
            # Who asks here asks again by himself, and tells that the backend is away.
            reading.always_retry = False
            if not may_unpickle:
                reading.accept = without_pickle(backend.accept)
        self._let_go = _letting_go(reading)
        self._ask: Callable[[str], Mapping[str, Any]] = partial(reading.get_task_meta, cache=False)
        table = None if may_unpickle else _table_of(reading)
        if table is not None:
            self._ask = lambda task_id: self._row(table, task_id)

    def begin(self) -> None:
        """Let go of connections that should not be used any more; before some questions."""
        self._let_go(None)

    def meta(self, task_id: str) -> Mapping[str, Any]:
        """Ask for what is stored of a task; PENDING if nothing is. Raises what backends and decoders raise, and `Pickled`."""
        try:
            return self._ask(task_id)
        except ContentDisallowed as error:
            if "pickle" in str(error) or PICKLE in str(error):
                raise Pickled(_MAY_NOT) from error
            raise

    def failed(self, error: BaseException) -> None:
        """Let go of a connection that may be dead, after an error."""
        self._let_go(error)

    def decode(self, payload: Any) -> Mapping[str, Any]:
        """Decode a stored result. Raises what decoders raise, and `Pickled`."""
        meta = self.backend.decode_result(payload)
        if not isinstance(meta, Mapping) or "status" not in meta:
            raise ValueError("it has no state")
        return meta

    def _decode(self, payload: Any) -> Any:
        """Decode in the place of `Backend.decode`."""
        if payload is None:
            return None
        payload = decompress_payload(payload or str(payload))
        if self._is_json:
            return json.loads(payload if isinstance(payload, str | bytes) else bytes(payload))
        if self.backend.content_type == PICKLE and not self._may_unpickle:
            return self._inert(ensure_bytes(payload))
        return Backend.decode(self.backend, payload)

    def _inert(self, payload: bytes) -> Any:
        try:
            return data_of_pickle(payload)
        except NotData as error:
            raise Pickled(f"{_MAY_NOT}: {error}") from error

    def _row(self, table: Any, task_id: str) -> Mapping[str, Any]:
        """Read a row of Celery's database backend, without its model."""
        from sqlalchemy import LargeBinary, select, type_coerce

        session = self.backend.ResultSession()
        try:
            columns = [table.c.status, table.c.traceback, table.c.date_done]
            raw = type_coerce(table.c.result, LargeBinary)
            row = session.execute(select(raw, *columns).where(table.c.task_id == task_id)).first()
        except Exception:
            session.rollback()
            raise
        finally:
            session.close()
        if row is None:
            return {"status": states.PENDING, "result": None}
        payload, status, traceback, date_done = row
        result = self._of_column(None if payload is None else bytes(payload))
        return {"status": status, "result": result, "traceback": traceback, "date_done": date_done}

    def _of_column(self, payload: bytes | None) -> Any:
        """Decode a result that stands alone: by the serializer, or, as Celery 5.6 and older ones write it, as a pickle."""
        if payload is None:
            return None
        if payload[:1] == b"\x80":
            return self._inert(payload)
        return self.backend.decode(payload)


def forbid_unpickling() -> None:
    """Have kombu refuse pickles in this whole process, whoever asks and whatever accepts them; pickling goes on."""

    def refuse(_: Any) -> Any:
        raise Pickled(_MAY_NOT)

    register("pickle", registry._encoders["pickle"].encoder, refuse, content_type=PICKLE, content_encoding="binary")


def is_pickled(backend: Any) -> bool:
    """Tell whether an app's results are written as pickles by its workers."""
    return getattr(backend, "content_type", None) == PICKLE


def _copied(backend: Any) -> Any:
    """Return a copy with the same app. Celery's own way of copying makes a backend of whatever app is the current one."""
    copied = object.__new__(type(backend))
    copied.__dict__.update(backend.__dict__)
    return copied


def _as_it_is(meta: Any) -> Any:
    return meta


def without_pickle(accept: Any) -> set[str]:
    """Return the accepted contents without pickle; all that are enabled if there is no list."""
    accepted = set(registry._decoders) - set(registry._disabled_content_types) if accept is None else set(accept)
    return {content for content in accepted if content not in (PICKLE, "pickle")}


def _table_of(backend: Any) -> Any:
    """Return the table of Celery's own database backend; None if it is another backend."""
    # Who has such a backend has imported it; importing SQLAlchemy to ask costs the others 24 MB and 0.15 s.
    module = sys.modules.get("celery.backends.database")
    if module is None:
        return None
    usual: type[Any] = module.DatabaseBackend
    if not isinstance(backend, usual) or type(backend)._get_task_meta_for is not usual._get_task_meta_for:
        return None
    return backend.task_cls.__table__


def _letting_go(backend: Any) -> Callable[[BaseException | None], None]:
    """Return what lets go of connections: after an error of this one, and before questions of those that are old."""
    steps: list[Callable[[BaseException | None], None]] = []
    after_error = getattr(backend, "on_backend_retryable_error", None)
    if after_error is not None:

        def forget(error: BaseException | None) -> None:
            if error is not None:
                after_error(error)

        steps.append(forget)
    if any(each.__module__.startswith("django_celery_results.") for each in type(backend).__mro__):
        steps.append(_close_old_of_django)

    def let_go(error: BaseException | None) -> None:
        for step in steps:
            # It is done over a connection that may be dead, and the next question tells whether it helped.
            with suppress(Exception):
                step(error)

    return let_go


def _close_old_of_django(_: BaseException | None) -> None:
    """Close this thread's connections of Django that are past their age, or had an error, as it does after each request."""
    from django.db import close_old_connections

    close_old_connections()


def states_of(stored: StoredResults, task_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Ask for several tasks; blocking. Of one that cannot be read the state is that. Raises what backends raise."""
    metas: dict[str, Mapping[str, Any]] = {}
    stored.begin()
    try:
        for task_id in task_ids:
            try:
                metas[task_id] = as_seen(stored.meta(task_id))
            except DECODING_ERRORS:
                metas[task_id] = {"status": UNREADABLE}
    except Exception as error:
        stored.failed(error)
        raise
    return metas
