"""Which store a database has: SQLite for a file, PostgreSQL for a URL. Each is imported when it is chosen."""

import functools
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from dyrygentd.core.user import HOST_NAME
from dyrygentd.errors import ConfigurationError
from dyrygentd.ports import Store
from dyrygentd.store.copies import Progress
from dyrygentd.store.history import HISTORY_MAX
from dyrygentd.store.postgres.url import PostgresUrl, is_postgres

Place = Path | PostgresUrl

_OTHER_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def place_of(given: str | Path) -> Place:
    """Return where a database is. Raises `ValueError` if it is a URL that cannot be read, or of something else."""
    if isinstance(given, str) and is_postgres(given):
        return PostgresUrl.read(given)
    if scheme := _OTHER_SCHEME.match(str(given)):
        # As a path it would be a file of its own, beside the database that all others have, with a password in its name.
        raise ValueError(f"it begins with {scheme[0]}, and a database on PostgreSQL with postgresql://, a file with neither")
    return Path(given).expanduser()


def store_of(
    place: Place, *, history_max: int = HISTORY_MAX, progress: Progress = lambda what, done, of: None, host: str = ""
) -> Store:
    """Return the store in this place, not yet open.

    Args:
        history_max: Finished workflows to keep.
        progress: Told how far the upgrade of an older database is, of a file in another thread.
        host: What this host is called among those that share the database; by default its own name.

    Raises:
        ConfigurationError: It is on PostgreSQL, and what is needed for that is not installed.
    """
    if isinstance(place, Path):
        from dyrygentd.store.sqlite import SqliteStore

        return SqliteStore(place, history_max=history_max, progress=progress)
    require_psycopg(place)
    from dyrygentd.store.postgres.store import PostgresStore

    return PostgresStore(place, history_max=history_max, host=host, progress=progress)


def onlooker_of(place: PostgresUrl) -> Store:
    """Return the database for a process that does not lead, not yet open: nothing can be written by it.

    Raises:
        ConfigurationError: What is needed for PostgreSQL is not installed.
    """
    require_psycopg(place)
    from dyrygentd.store.postgres.onlooker import PostgresOnlooker

    return PostgresOnlooker(place)


def require_file(place: Place | None, instead: str) -> Path:
    """Return where a file is. Raises `ConfigurationError` if the database is on PostgreSQL, with what does the same there."""
    if isinstance(place, Path):
        return place
    raise ConfigurationError(f"the database '{place}' is on PostgreSQL, whose own tools do that", next_step=instead)


def claim(place: Place) -> None:
    """Have the next start take a database over although another process has gone on with a copy of it.

    Raises:
        ConfigurationError: It is on PostgreSQL, and what is needed for that is not installed.
        StoreLocked: A daemon runs on it.
        StoreUnavailable, StoreIncompatible: It cannot be claimed; nothing was changed.
    """
    if isinstance(place, Path):
        from dyrygentd.store import care

        care.claim(place)
        return
    require_psycopg(place)
    from dyrygentd.store.postgres import care as postgres_care

    anyio.run(functools.partial(postgres_care.claim, place, at=time.time()))


class MovedStore(NamedTuple):
    """What was moved, with places as people may see them."""

    source: str
    target: str
    rows: int


def move(source: str, target: str, *, host_name: str | None, progress: Callable[[int, int], None]) -> MovedStore:
    """Move all of a database from a file to PostgreSQL or back, see `dyrygentd.store.postgres.moving`.

    Args:
        host_name: Whose users are numbers in the file; None for this host.

    Raises:
        ConfigurationError: Not just one of the two is on PostgreSQL, or the host's name does not fit.
        StoreLocked, StoreUnavailable, StoreIncompatible: One of them cannot be used so.
    """
    try:
        places = place_of(source), place_of(target)
    except ValueError as error:
        raise ConfigurationError(f"a URL cannot be read: {error}") from None
    host = host_of(host_name)
    match places:
        case (Path() as path, PostgresUrl() as url):
            require_psycopg(url)
            from dyrygentd.store.postgres import moving

            rows = anyio.run(functools.partial(moving.to_postgres, path, url, host=host, progress=progress))
        case (PostgresUrl() as url, Path() as path):
            require_psycopg(url)
            from dyrygentd.store.postgres import moving

            rows = anyio.run(functools.partial(moving.to_file, url, path, host=host, progress=progress))
        case (Path(), Path()):
            raise ConfigurationError("both are files", next_step="`dyrygentd backup` and `restore` copy a file")
        case _:
            raise ConfigurationError("both are on PostgreSQL", next_step="its own `pg_dump` and `pg_restore` do that")
    return MovedStore(str(places[0]), str(places[1]), rows)


def host_of(name: str | None) -> str:
    """Return what this host is called among those that share a database. Raises `ConfigurationError`."""
    host = socket.gethostname() if name is None else name
    if not re.fullmatch(HOST_NAME, host):
        whose = "'host_name'" if name is not None else "the name of this host"
        raise ConfigurationError(
            f"{whose} is '{host}', it must be letters, digits, dots and dashes",
            next_step="give `host_name`, one of its own for each host that shares the database",
        )
    return host


def require_psycopg(place: PostgresUrl) -> None:
    """Raise `ConfigurationError` if psycopg is not here, or not usable."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"the database '{place}' needs psycopg: {error}", next_step="`pip install 'dyrygentd[postgres]'`"
        ) from error
