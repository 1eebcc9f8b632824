"""What an error of SQLite's says: whether the file is damaged, whose fault it is, and what people can do about it."""

import logging
import sqlite3
import time
from pathlib import Path

import aiosqlite

from dyrygentd.errors import StoreIncompatible
from dyrygentd.store.migrations import APPLICATION_ID, VERSION

logger = logging.getLogger("dyrygentd.store")


def damaged(path: Path, what: object) -> StoreIncompatible:
    """Return the error that says what is damaged, and what to do about it."""
    error = StoreIncompatible(f"the database '{path}' is damaged: {what}")
    error.next_step = (
        f"stop the daemon and move '{path}' and '{path.name}-wal' away together; then put a copy back, start with an empty"
        f" database, or recover what is left: `{recovery_command('moved.db', path)}`"
    )
    return error


def recovery_command(damaged: object, path: object) -> str:
    """Return what makes a new database at ``path`` of what can be read of a damaged one.

    Not with ``.recover``: Debian's sqlite3 is built without what it needs.
    """
    numbers = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION};"
    return f"(sqlite3 {damaged} .dump | sed 's/^ROLLBACK.*/COMMIT;/'; echo '{numbers}') | sqlite3 {path}"


def is_damage(error: BaseException | None) -> bool:
    """Tell whether an error means that the file is damaged."""
    # Errors that Python itself raises have no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def words_of(error: Exception) -> str:
    """Return an error with SQLite's name for it, which says more: an "I/O error" is a write, a sync or a lock that failed."""
    name = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else str(error)


def is_of_our_making(error: Exception) -> bool:
    """Tell whether a transaction failed because of what was to be written, so that repeating it would not help."""
    if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.InterfaceError):
        return True
    return isinstance(error, sqlite3.ProgrammingError) and "binding" in str(error)


async def roll_back(writer: aiosqlite.Connection) -> None:
    """Leave the transaction, unless SQLite has done so already."""
    try:
        if writer.in_transaction:
            await writer.rollback()
    except sqlite3.Error as error:
        logger.warning("could not roll back: %s", error)


async def look_through(connection: aiosqlite.Connection, path: Path, *, max_s: float) -> None:
    """Refuse a database with damaged pages, as far as that is found in bounded time. Raises `StoreIncompatible`."""
    is_over = False
    begun = time.monotonic()

    def is_too_long() -> int:
        nonlocal is_over
        is_over = time.monotonic() - begun > max_s
        return int(is_over)

    await connection.set_progress_handler(is_too_long, 10_000)
    try:
        rows = [*await connection.execute_fetchall("PRAGMA quick_check(3)")]
    except sqlite3.OperationalError:
        if not is_over:
            raise
        logger.warning("the database '%s' is large: its pages were looked through for %.0f s", path, max_s)
        return
    finally:
        await connection.set_progress_handler(None, 0)  # type: ignore[arg-type]
    words = "; ".join(str(row[0]) for row in rows)
    if words != "ok":
        raise damaged(path, words.replace("\n", " "))
