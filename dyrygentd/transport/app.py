"""The Celery app that the daemon works with: the user's, loaded as a worker loads it, or a bare one with URLs alone."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

from celery import Celery
from celery.app.utils import find_app
from celery.backends.redis import RedisBackend, SentinelBackend

from dyrygentd.errors import ConfigurationError, NotThereYet
from dyrygentd.transport.internals import refuse_unusable_for

_REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://")
#: Code of others that only carries an error along; where it came from is further up.
_CARRIERS: Final = ("importlib", "celery", "kombu", "django", "vine")


def load_app(name: str | None, *, broker: str | None, result_backend: str | None) -> Celery:
    """Import the user's app, or make a bare one; URLs that are given take the place of the app's.

    Args:
        name: ``module:app`` or ``module``, as ``celery -A`` takes it; the current directory is searched too.

    Raises:
        ConfigurationError: It or its tasks cannot be imported, it is no app, has no result backend, or a broker or backend
            that cannot be set up; or kombu cannot work with what else is installed.
    """
    app = load_user_app(name) if name else Celery("dyrygentd")
    if broker:
        app.conf.broker_url = app.conf.broker_write_url = app.conf.broker_read_url = broker
    broker = app.conf.broker_write_url or app.conf.broker_url
    if result_backend is None and name is None and broker and str(broker).startswith(_REDIS_SCHEMES):
        result_backend = str(broker)
    if result_backend:
        app.conf.result_backend = result_backend
    if not app.conf.result_backend:
        # Of a user's app that is so for its workers as well: they store nothing, wherever we would look.
        whose = (
            f"the Celery app '{name}' has no result backend, so its workers store nothing" if name else "no result backend is set"
        )
        raise ConfigurationError(
            f"{whose}, and nobody would learn that a task is done",
            next_step="set `result_backend` in the Celery app, or pass --result-backend if the workers have one all the same",
        )
    _check_set_up("the result backend", "result_backend", lambda: _made_backend(app))
    _check_set_up("the broker", "broker", lambda: app.connection_for_write().transport)
    refuse_unusable_for(app.connection_for_write().transport)
    return app


def _made_backend(app: Celery) -> None:
    backend = app.backend
    if isinstance(backend, RedisBackend) and not isinstance(backend, SentinelBackend):
        backend.client.connection_pool.make_connection()


def _check_set_up(what: str, setting: str, make: Callable[[], object]) -> None:
    """Make it without connecting: a wrong scheme, option or missing package is told here and not by a traceback later."""
    try:
        make()
    # Each broker and backend has errors of its own; those of the network cannot come here.
    except Exception as error:
        raise ConfigurationError(
            f"{what} of the Celery app cannot be set up: {type(error).__name__}: {' '.join(str(error).split())}",
            next_step=f"look at `{setting}`, its URL and `{setting}_transport_options`; `celery report` shows what is set",
        ) from error


def load_user_app(name: str) -> Celery:
    """Import the user's app and its tasks, and make it the current one, as a worker does. Raises `ConfigurationError`."""
    app = import_app(name)
    app.set_current()
    # Other threads have no current app of their own; routers and receivers of signals may ask for it.
    app.set_default()
    load_tasks(app, name)
    return app


def import_app(name: str) -> Celery:
    """Import the user's app, ``module:app`` or ``module``. Raises `ConfigurationError`, and `NotThereYet` if it is not found."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        app: Any = find_app(name)
    except (Exception, SystemExit) as error:
        # Whatever the user's module raises on import ends here, and is the user's to read. Celery takes a name that a module
        # has not for a module ('shop:nmae'), and would tell of that.
        cause = error.__context__ if getattr(error, "name", None) == name else None
        raise _not_there(f"cannot import the Celery app '{name}'", name, cause or error) from error
    if not isinstance(app, Celery):
        raise ConfigurationError(f"'{name}' is {type(app).__name__}, no Celery app", next_step="write module:app")
    return app


def load_tasks(app: Celery, name: str) -> None:
    """Import the modules that the app names (``include``, ``imports``, ``autodiscover_tasks``), as a worker does.

    That sends the signal at which Celery's fixup sets Django up. Only then tasks have their queues, priorities, limits and
    annotations, and receivers of signals and serializers of the user's are there.

    Raises:
        NotThereYet: One of them cannot be imported; it is named.
    """
    try:
        app.loader.import_default_modules()
        app.finalize(auto=True)
    # As above.
    except (Exception, SystemExit) as error:
        raise _not_there(f"the tasks of '{name}' cannot be imported", name, error) from error


def _not_there(what: str, name: str, error: BaseException) -> NotThereYet:
    next_step = f"try `celery -A {name} report` in the same directory and environment"
    return NotThereYet(f"{what}: {_words(error)}", next_step=next_step, setting="app")


def _words(error: BaseException) -> str:
    """Return what is wrong, and the last place in the user's own code where it came from."""
    words = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_carrier(frame.filename)]
    return f"{words} ({own[-1].filename}:{own[-1].lineno})" if own else words


def _is_carrier(file: str) -> bool:
    parts = file.replace("<frozen ", "").replace(".", "/").split("/")
    return file == __file__ or any(carrier in parts for carrier in _CARRIERS)
