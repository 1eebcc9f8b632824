"""Celery tasks that leave a record of each execution in Redis, so that tests can count and order them.

Workers run ``celery -A tests.support.tasks worker``; the environment says where the broker, the results and the records
are. A task costs one round trip for its record if it is instantaneous, else two (start and end).

Records, all under ``test:``: ``executions`` {task id: count}, ``started`` {task id: number at the first start},
``finished`` {task id: number at the last end}, ``ended`` {task id: number at the first end}. Numbers come from one clock, so they
order events across workers.
"""

import json
import os
import signal
import time
from functools import cache
from typing import Any

import redis
from celery import Celery, Task
from celery.exceptions import Ignore
from celery.signals import worker_ready

PREFIX = "test:"
GATE_WAIT_MAX_S = int(os.environ.get("DYRYGENTD_TEST_GATE_WAIT_S", "180"))
"""A test that forgets to open a gate must not hold a worker for ever."""

_START = """
redis.call('HINCRBY', KEYS[1] .. 'executions', ARGV[1], 1)
redis.call('HSETNX', KEYS[1] .. 'started', ARGV[1], redis.call('INCR', KEYS[1] .. 'clock'))
"""
_FINISH = """
local now = redis.call('INCR', KEYS[1] .. 'clock')
redis.call('HSET', KEYS[1] .. 'finished', ARGV[1], now)
redis.call('HSETNX', KEYS[1] .. 'ended', ARGV[1], now)
"""


class RecordingTask(Task):
    """Record the start and the end of each execution.

    An ``instant`` task records both before its body runs, in one round trip: nobody can tell the difference.
    """

    abstract = True
    instant = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        task_id = self.request.id
        if task_id is None:
            return self.run(*args, **kwargs)  # Called as a plain function.
        start, finish, both = _scripts(os.getpid())
        if self.instant:
            both(keys=[PREFIX], args=[task_id])
            return self.run(*args, **kwargs)
        start(keys=[PREFIX], args=[task_id])
        try:
            return self.run(*args, **kwargs)
        finally:
            finish(keys=[PREFIX], args=[task_id])


def create_app(broker: str, backend: str, *, keyprefix: str = "") -> Celery:
    """Make an app of its own for a broker, with all tasks of this module under their names."""
    created = _configured(broker, backend, keyprefix)
    for name, task in app.tasks.items():
        if isinstance(task, RecordingTask):
            created.task(task.run, name=name, base=RecordingTask, instant=task.instant)
    created.finalize()
    return created


def records(url: str | None = None) -> redis.Redis:
    """Connect to the Redis that holds the records: the URL's, else the one the environment names."""
    if url is None:
        url = os.environ.get("DYRYGENTD_TEST_RECORDS") or os.environ["DYRYGENTD_TEST_BACKEND"]
    return redis.Redis.from_url(url.replace("redis+socket://", "unix://"), decode_responses=True, socket_timeout=None)


def _configured(broker: str | None, backend: str | None, keyprefix: str) -> Celery:
    configured = Celery("tests.support.tasks", broker=broker, backend=backend, set_as_current=False)
    configured.conf.update(
        broker_connection_retry_on_startup=True,
        task_track_started=False,
        result_backend_transport_options={"global_keyprefix": keyprefix} if keyprefix else {},
        broker_transport_options=json.loads(os.environ.get("DYRYGENTD_TEST_BROKER_OPTIONS", "{}")),
        # Killing a worker should cost a test no more than this.
        worker_prefetch_multiplier=4,
    )
    configured.conf.update(json.loads(os.environ.get("DYRYGENTD_TEST_SETTINGS", "{}")))
    return configured


app = _configured(
    os.environ.get("DYRYGENTD_TEST_BROKER"),
    os.environ.get("DYRYGENTD_TEST_BACKEND"),
    os.environ.get("DYRYGENTD_TEST_KEYPREFIX", ""),
)


@app.task(base=RecordingTask)
def noop(*args: Any, **kwargs: Any) -> bool:
    """Take anything and do nothing."""
    return True


@app.task(base=RecordingTask)
def echo(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what was passed."""
    return {"args": list(args), "kwargs": kwargs}


@app.task(base=RecordingTask)
def add(x: float, y: float) -> float:
    """Add two numbers."""
    return x + y


@app.task(base=RecordingTask)
def total(numbers: list[float]) -> float:
    """Add a list of numbers, such as a group's results."""
    return sum(numbers)


@app.task(base=RecordingTask)
def identity(x: Any) -> Any:
    """Return the argument."""
    return x


@app.task(base=RecordingTask)
def fail(message: str = "boom") -> None:
    """Fail with a ValueError."""
    raise ValueError(message)


@app.task(base=RecordingTask)
def flaky(key: str, failures: int) -> int:
    """Fail so many times, counted under this key, then return the number of this call."""
    calls = int(records_of(os.getpid()).incr(f"{PREFIX}calls:{key}"))
    if calls <= failures:
        raise ValueError(f"call {calls} of '{key}' fails")
    return calls


@app.task(base=RecordingTask)
def flaky_item(item: dict[str, Any]) -> int:
    """Do as `flaky`, by what is said in one item of a list."""
    return int(flaky.run(item["key"], item["failures"]))


@app.task(base=RecordingTask)
def is_ready(key: str, calls_before: int) -> bool:
    """Tell whether it was asked more often than this, counted under this key."""
    return int(records_of(os.getpid()).incr(f"{PREFIX}calls:{key}")) > calls_before


@app.task(base=RecordingTask)
def ignore() -> None:
    """End without a result, as a task that raises Ignore does."""
    raise Ignore


@app.task(base=RecordingTask)
def big(n_bytes: int) -> str:
    """Return a long string."""
    return "x" * n_bytes


@app.task(base=RecordingTask)
def lengths(values: list[str]) -> list[int]:
    """Return how long each of these is."""
    return [len(value) for value in values]


@app.task(base=RecordingTask, rate_limit="20/m")
def limited(*args: Any) -> bool:
    """Take anything and do nothing, every three seconds at a worker."""
    return True


@app.task(base=RecordingTask, instant=False)
def sleep(seconds: float, value: Any = None) -> Any:
    """Take time, then return the value."""
    time.sleep(seconds)
    return value


@app.task(base=RecordingTask, instant=False)
def wait_for(key: str) -> str:
    """Wait until the test opens the gate of this name (``Executions.release``), and return what it passed."""
    popped = records_of(os.getpid()).blpop([f"{PREFIX}gate:{key}"], timeout=GATE_WAIT_MAX_S)
    if popped is None:
        raise TimeoutError(f"gate '{key}' was not opened within {GATE_WAIT_MAX_S} s")
    return str(popped[1])


@app.task(base=RecordingTask, instant=False, acks_late=True)
def wait_for_late(key: str) -> str:
    """Wait as `wait_for` does, and acknowledge the message when it is done."""
    return str(wait_for.run(key))


@app.task(base=RecordingTask, instant=False, acks_late=True)
def poison(seconds: float) -> None:
    """Kill the process that executes it, after so long."""
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=RecordingTask)
def retry_later(seconds: float) -> None:
    """Ask the worker to try again after so long."""
    raise retry_later.retry(countdown=seconds)


@cache
def records_of(pid: int) -> redis.Redis:
    """Return this process's connection; a pool's child must not use the one it was forked with."""
    return records()


@cache
def _scripts(pid: int) -> tuple[Any, Any, Any]:
    client = records_of(pid)
    return client.register_script(_START), client.register_script(_FINISH), client.register_script(_START + _FINISH)


@worker_ready.connect
def _announce(**_: Any) -> None:
    key = os.environ.get("DYRYGENTD_TEST_READY")
    if key:
        records_of(os.getpid()).rpush(key, os.getpid())
