"""What `dyrygentd check-config --online` tries: the app, the broker, the result backend, the database and the socket."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

from dyrygentd.daemon.config import Configuration, masked
from dyrygentd.errors import ConfigurationError, DyrygentError
from dyrygentd.store import care
from dyrygentd.store.migrations import VERSION
from dyrygentd.transport import watcher_of
from dyrygentd.transport.app import load_app

_TIMEOUT_S: Final = 5.0


class Tried(NamedTuple):
    """What was tried, and what came of it."""

    what: str
    is_well: bool
    words: str


def check(configuration: Configuration) -> Iterator[Tried]:
    """Try one after the other; nothing is changed, and nothing is started."""
    app: Any = None
    if configuration.app is None and configuration.broker is None:
        yield Tried("broker", True, "none is configured: the daemon starts one of its own")
    else:
        try:
            app = load_app(configuration.app, broker=configuration.broker, result_backend=configuration.result_backend)
        except DyrygentError as error:
            yield Tried("app", False, f"{error}; {error.next_step}")
        else:
            yield Tried("app", True, configuration.app or "none; broker and backend are named by themselves")
            yield _tried("broker", lambda: _broker(app))
            yield _tried("result backend", lambda: _backend(app))
    yield _tried("database", lambda: _database(configuration.database))
    yield _tried("socket", lambda: _socket(configuration.socket))
    yield _tried("users and groups", lambda: _users(configuration))


def _tried(what: str, attempt: Callable[[], str]) -> Tried:
    try:
        return Tried(what, True, attempt())
    except DyrygentError as error:
        return Tried(what, False, f"{error}; {error.next_step}" if error.next_step else str(error))
    except Exception as error:
        # Each broker, backend and file system has errors of its own.
        return Tried(what, False, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _broker(app: Any) -> str:
    with app.connection_for_write(connect_timeout=_TIMEOUT_S) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=_TIMEOUT_S)
        return f"{masked(connection.as_uri(include_password=False))} answers"


def _backend(app: Any) -> str:
    watcher_of(app, value_bytes_max=1)  # Refuses one whose results nobody else can read.
    backend = app.backend
    client = getattr(backend, "client", None)
    if client is not None and hasattr(client, "ping"):
        client.ping()
    else:
        backend.get_task_meta("dyrygentd-check-config", cache=False)
    return f"{masked(backend.as_uri(include_password=False))} answers"


def _database(path: Path | None) -> str:
    assert path is not None
    if not path.exists():
        parent = next(parent for parent in path.parents if parent.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(f"'{path}' does not exist, and this user may not write '{parent}'")
        return f"'{path}' does not exist, and will be made"
    found = care.check(path, is_thorough=False)
    if found.complaints:
        raise OSError(found.complaints[0])
    if not os.access(path, os.W_OK):
        raise PermissionError(f"this user may not write '{path}'")
    older = "" if found.version == VERSION else f", which the next start brings to {VERSION}"
    workflows = ", ".join(f"{number} {state}" for state, number in found.workflows.items()) or "no"
    return f"'{path}' has schema version {found.version}{older}, and {workflows} workflows"


def _users(configuration: Configuration) -> str:
    unknown = anyio.run(configuration.access.unknown)
    if unknown:
        raise ConfigurationError(f"this system knows no {', '.join(unknown)}", next_step="a group has @ in front of its name")
    return "all that are named exist"


def _socket(path: Path | None) -> str:
    assert path is not None
    if path.exists() and not path.is_socket():
        raise FileExistsError(f"'{path}' exists and is no socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT_S)
        try:
            client.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            parent = next(parent for parent in path.absolute().parents if parent.exists())
            if not os.access(parent, os.W_OK | os.X_OK):
                raise PermissionError(f"nobody listens on '{path}', and this user may not write '{parent}'") from None
            return f"nobody listens on '{path}' yet"
    return f"a daemon answers on '{path}'"
