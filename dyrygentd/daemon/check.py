"""What `dyrygentd check-config --online` tries: app, broker, result backend, workers, database, socket, address, users."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

from dyrygentd import versions
from dyrygentd.core.words import described
from dyrygentd.daemon import check_workers
from dyrygentd.daemon.check_values import check_values
from dyrygentd.daemon.config import Configuration
from dyrygentd.daemon.in_use import PortHolders, check_address, database_holder, has_members, named, peer_of
from dyrygentd.daemon.kinds import masked
from dyrygentd.daemon.own_broker import directory_beside
from dyrygentd.errors import ConfigurationError, DyrygentError
from dyrygentd.store import care
from dyrygentd.store.choice import require_psycopg
from dyrygentd.store.migrations import VERSION
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.tasks.fleet import Fleet
from dyrygentd.tasks.remarks import SHOWN_MAX, WITHOUT_APP, remarks_of_all
from dyrygentd.transport import watcher_of
from dyrygentd.transport.app import load_app
from dyrygentd.transport.broadcast import url_of
from dyrygentd.transport.results import is_pickled
from dyrygentd.transport.workers import ask_fleet

_TIMEOUT_S: Final = 5.0
#: Workers answer a broadcast within that, if they are idle.
_WORKERS_S: Final = 2.0


class Tried(NamedTuple):
    """What was tried, and what came of it."""

    what: str
    is_well: bool
    words: str


def check(configuration: Configuration, holders: PortHolders | None = None, *, may_import: bool = True) -> Iterator[Tried]:
    """Try one after the other; nothing is changed, and nothing is started.

    Args:
        holders: Who listens on TCP, if this process was another user before, and saw more.
        may_import: Whether the app may be imported: code that others can write is not run as root.
    """
    app: Any = None
    yield Tried("packages", True, versions.installed())
    if configuration.app is None and configuration.broker is None:
        # Where there is no file, there is no place for one.
        yield _tried("broker", lambda: _own_broker(configuration))
    elif configuration.app is not None and not may_import:
        yield Tried(
            "app", False, f"'{configuration.app}' is not imported: as root it would run what the service's user can write"
        )
    else:
        try:
            app = load_app(configuration.app, broker=configuration.broker, result_backend=configuration.result_backend)
        except DyrygentError as error:
            yield Tried("app", False, f"{error.message}; {error.next_step}")
        else:
            yield Tried("app", True, configuration.app or WITHOUT_APP)
            if configuration.app is not None:
                yield _tried("tasks", lambda: _tasks(app))
            yield (broker := _tried("broker", lambda: _broker(app)))
            yield _tried("result backend", lambda: _backend(app))
            if is_pickled(app.backend):
                yield _pickled(configuration)
            yield from _with_workers(app, is_reachable=broker.is_well, has_tasks=configuration.app is not None)
    daemon = _daemon_of(configuration)
    yield _tried("database", lambda: _database(configuration.database, daemon))
    yield _tried("large values", lambda: check_values(configuration.value_store, configuration.database))
    yield _tried("socket", lambda: _socket(configuration.socket))
    if configuration.listen is not None:
        place = configuration.database
        address, process = configuration.listen, database_holder(place) if isinstance(place, Path) else None
        yield _tried("listen", lambda: check_address(address, holders or PortHolders.look(), process))
    yield _tried("users and groups", lambda: _users(configuration))


def _tried(what: str, attempt: Callable[[], str]) -> Tried:
    try:
        return Tried(what, True, attempt())
    except DyrygentError as error:
        return Tried(what, False, f"{error.message}; {error.next_step}" if error.next_step else error.message)
    except Exception as error:
        # Each broker, backend and file system has errors of its own.
        return Tried(what, False, described(error))


def _own_broker(configuration: Configuration) -> str:
    directory_beside(configuration.database)
    return "none is configured: the daemon starts one of its own"


def _broker(app: Any) -> str:
    with app.connection_for_write(connect_timeout=_TIMEOUT_S) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=_TIMEOUT_S)
        return f"{url_of(connection)} answers"


def _tasks(app: Any) -> str:
    own = [name for name in app.tasks if not name.startswith("celery.")]
    remarks = [remark.words for remark in remarks_of_all(app)]
    return "; ".join([f"{len(own)} are known", *remarks[:SHOWN_MAX]])


def _with_workers(app: Any, *, is_reachable: bool, has_tasks: bool) -> Iterator[Tried]:
    """Ask the workers, and compare them with the app; without a broker that answers, look at the app alone."""
    fleet = Fleet()

    def ask() -> str:
        nonlocal fleet
        fleet = ask_fleet(app, timeout_s=_WORKERS_S)
        return check_workers.workers(fleet, app, has_tasks=has_tasks)

    if is_reachable:
        yield _tried("workers", ask)
    if has_tasks:
        yield _tried("accepted content", lambda: check_workers.accepted(app))
        yield _tried("routes", lambda: check_workers.routes(app, fleet))


def _backend(app: Any) -> str:
    watcher_of(app, value_bytes_max=1)  # Refuses one whose results nobody else can read.
    backend = app.backend
    client = getattr(backend, "client", None)
    if client is not None and hasattr(client, "ping"):
        client.ping()
    else:
        backend.get_task_meta("dyrygentd-check-config", cache=False)
    # Those that others bring along, such as `django-db`, have no URL.
    return f"{masked(backend.as_uri(include_password=False) or str(app.conf.result_backend))} answers"


def _pickled(configuration: Configuration) -> Tried:
    """Tell beforehand what becomes of results that the app's workers pickle."""
    if configuration.pickled_results == "unpickle":
        return Tried("pickled results", True, "whoever can write to the result backend can run code in the daemon")
    words = "the app pickles results: plain data, dates, decimals and UUIDs are passed on, other objects fail what needs them"
    return Tried("pickled results", True, f"{words}; set `result_serializer` to 'json', or `pickled_results` to 'unpickle'")


def _database(place: Path | PostgresUrl | None, daemon: int | None) -> str:
    assert place is not None
    return _file(place, daemon) if isinstance(place, Path) else _postgres(place)


def _postgres(url: PostgresUrl) -> str:
    require_psycopg(url)
    from dyrygentd.store.postgres.care import look

    found = anyio.run(look, url)
    if not found.version:
        return f"PostgreSQL {found.server} answers; the schema '{url.schema}' has no tables, which will be made"
    workflows = ", ".join(f"{number} {state}" for state, number in found.workflows.items()) or "no"
    holder = f"; {found.holder} has it" if found.holder else ""
    return f"PostgreSQL {found.server} answers; '{url}' has schema version {found.version}, and {workflows} workflows{holder}"


def _file(path: Path, daemon: int | None) -> str:
    if not path.exists():
        parent = next(parent for parent in path.parents if parent.exists())
        if not (os.access(parent, os.W_OK | os.X_OK) or _is_made_by_systemd(path)):
            raise PermissionError(f"'{path}' does not exist, and this user may not write '{parent}'")
        return f"'{path}' does not exist, and will be made"
    found = care.check(path, is_thorough=False)
    if found.complaints:
        raise OSError(found.complaints[0])
    if not os.access(path, os.W_OK):
        raise PermissionError(f"this user may not write '{path}'")
    older = "" if found.version == VERSION else f", which the next start brings to {VERSION}"
    workflows = ", ".join(f"{number} {state}" for state, number in found.workflows.items()) or "no"
    return f"'{path}' has schema version {found.version}{older}, and {workflows} workflows{_holder_words(path, daemon)}"


def _users(configuration: Configuration) -> str:
    unknown = anyio.run(configuration.access.unknown)
    if unknown:
        raise ConfigurationError(f"this system knows no {', '.join(unknown)}", next_step="a group has @ in front of its name")
    empty = [name for name in _groups_of(configuration) if not has_members(name.removeprefix("@"))]
    return "all that are named exist" + (f"; nobody seems to be in {', '.join(map(repr, empty))}" if empty else "")


def _groups_of(configuration: Configuration) -> list[str]:
    names = {*configuration.admins, *configuration.submitters, *configuration.readers}
    return sorted(name for name in names if name.startswith("@"))


def _socket(path: Path | None) -> str:
    assert path is not None
    if path.exists() and not path.is_socket():
        raise FileExistsError(f"'{path}' exists and is no socket")
    if peer_of(path, timeout_s=_TIMEOUT_S) is not None:
        return f"a daemon answers on '{path}'"
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not (os.access(parent, os.W_OK | os.X_OK) or _is_made_by_systemd(path)):
        raise PermissionError(f"nobody listens on '{path}', and this user may not write '{parent}'")
    return f"nobody listens on '{path}' yet"


def _is_made_by_systemd(path: Path) -> bool:
    """Tell whether a path is in a directory that is not there yet, and is made when the service starts."""
    variables = ("STATE_DIRECTORY", "RUNTIME_DIRECTORY")
    directories = [Path(each) for name in variables for each in os.environ.get(name, "").split(":") if each]
    return any(path.is_relative_to(directory) and not directory.exists() for directory in directories)


def _daemon_of(configuration: Configuration) -> int | None:
    """Return the process that listens on the socket; 1 is systemd, which may have passed it. None if nobody does."""
    assert configuration.socket is not None
    try:
        return peer_of(configuration.socket, timeout_s=_TIMEOUT_S)
    except OSError:
        return None


def _holder_words(path: Path, daemon: int | None) -> str:
    """Say who has the database. Raises `ConfigurationError` if it is not the daemon that listens on the socket."""
    holder = database_holder(path)
    if holder is None:
        return ""
    # A socket that systemd has passed shows systemd, and one in another container nobody.
    if daemon not in (None, 0, 1, holder) or daemon is None:
        who = "nobody listens on its socket" if daemon is None else f"{named(daemon)} listens on the socket"
        raise ConfigurationError(
            f"'{path}' is in use by {named(holder) if holder else 'another process'}, and {who}",
            next_step="stop that daemon, or give this one a database of its own",
        )
    return f"; {named(holder) if holder else 'the daemon'}, which runs, has it"
