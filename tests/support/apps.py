"""Celery apps that leave nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
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
