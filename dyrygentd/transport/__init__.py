"""Between the scheduler and Celery's workers: messages out, results in. Every oddity of Celery is handled in ``meta``."""

from typing import Any

from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.backends.rpc import RPCBackend

from dyrygentd.errors import BackendUnsupported
from dyrygentd.ports import ResultWatcher
from dyrygentd.transport.polling import PollingResultWatcher
from dyrygentd.transport.redis_results import RedisResultWatcher


def watcher_of(app: Any, *, value_bytes_max: int, may_unpickle: bool = False) -> ResultWatcher:
    """Return the watcher for the app's result backend: pushed results on Redis, polling elsewhere.

    Args:
        value_bytes_max: Longest value that anybody could use.
        may_unpickle: Whether results that are pickles may be unpickled as the app does it.

    Raises:
        BackendUnsupported: Results go nowhere, or only to the process that published the task.
    """
    backend = app.backend
    if isinstance(backend, DisabledBackend):
        raise _unsupported("the Celery app has no result backend", "set `result_backend`, or pass --result-backend")
    if isinstance(backend, RPCBackend):
        raise _unsupported(
            "results of `rpc://` die with the process that published the task, so a restart would lose them",
            "use redis://, a database or another backend that stores results",
        )
    if isinstance(backend, RedisBackend) and not isinstance(backend, SentinelBackend):
        return RedisResultWatcher(backend, value_bytes_max=value_bytes_max, may_unpickle=may_unpickle)
    return PollingResultWatcher(backend, may_unpickle=may_unpickle)


def _unsupported(message: str, next_step: str) -> BackendUnsupported:
    error = BackendUnsupported(message)
    error.next_step = next_step
    return error
