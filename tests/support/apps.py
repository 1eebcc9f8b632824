"""Celery apps that leave nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery._state import _task_stack
from kombu import pools


@contextmanager
def closing(app: Celery) -> Iterator[Celery]:
    """Close an app, its result consumer and kombu's pools at the end.

    An AsyncResult unsubscribes when it is collected, and would try for 20 s to reach a server that has gone by then.
    """
    try:
        yield app
    finally:
        consumer = getattr(app.backend, "result_consumer", None)
        if consumer is not None:
            consumer.stop()
            consumer._pubsub = None
        app.close()
        pools.reset()


@contextmanager
def running_task(app: Celery, task_id: str, root_id: str | None = None) -> Iterator[None]:
    """Be inside a task, as its worker sets that up."""
    task: Any = app.tasks["celery.accumulate"]
    _task_stack.push(task)
    task.push_request(id=task_id, root_id=root_id, called_directly=False)
    try:
        yield
    finally:
        task.pop_request()
        _task_stack.pop()
