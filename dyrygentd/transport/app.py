"""The Celery app that the daemon works with: the user's, or a bare one with a broker and a result backend."""

import os
import sys
from typing import Any

from celery import Celery
from celery.app.utils import find_app

from dyrygentd.errors import ConfigurationError

_REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://")


def load_app(name: str | None, *, broker: str | None, result_backend: str | None) -> Celery:
    """Import the user's app, or make a bare one; URLs that are given take the place of the app's.

    Args:
        name: ``module:app`` or ``module``, as ``celery -A`` takes it; the current directory is searched too.

    Raises:
        ConfigurationError: It cannot be imported, is no app, or has no broker or result backend.
    """
    app = import_app(name) if name else Celery("dyrygentd")
    if broker:
        app.conf.broker_url = app.conf.broker_write_url = app.conf.broker_read_url = broker
    broker = app.conf.broker_write_url or app.conf.broker_url
    if result_backend is None and not app.conf.result_backend and broker and str(broker).startswith(_REDIS_SCHEMES):
        result_backend = str(broker)
    if result_backend:
        app.conf.result_backend = result_backend
    if not app.conf.result_backend:
        raise ConfigurationError(
            "no result backend is configured, so nobody would learn that a task is done",
            next_step="set `result_backend` in the Celery app, or pass --result-backend",
        )
    return app


def import_app(name: str) -> Celery:
    """Import the user's app, ``module:app`` or ``module``. Raises `ConfigurationError` if that fails."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        app: Any = find_app(name)
    except Exception as error:
        # Whatever the user's module raises on import ends here, and is the user's to read.
        raise ConfigurationError(
            f"cannot import the Celery app '{name}': {type(error).__name__}: {error}",
            next_step=f"try `celery -A {name} report` in the same directory and environment",
        ) from error
    if not isinstance(app, Celery):
        raise ConfigurationError(f"'{name}' is {type(app).__name__}, no Celery app", next_step="write module:app")
    return app
