"""Care of a database: a copy while it is in use, putting a copy back, and looking for damage.

*A copy* is made by ``VACUUM INTO``, inside one read transaction: it is consistent, small, and does not begin again when a daemon
writes meanwhile, as SQLite's backup of pages does. It gets its name when it is complete and on disk.

*Putting a copy back* takes the lock that a daemon has, so that no daemon runs on the database; what was there is kept beside it.
Whoever does it, the new file is the user's whose the old one was, or whose the directory is: that user's daemon has to open it.
Root does it with the rights of the user whose the directory is.
"""

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dyrygentd.errors import StoreIncompatible, StoreUnavailable
from dyrygentd.store.continuity import NOTES_SINCE, mark_claimed, mark_restored
from dyrygentd.store.damage import recovery_command
from dyrygentd.store.files import locked
from dyrygentd.store.migrations import APPLICATION_ID, VERSION
from dyrygentd.store.owners import SYSTEM_DATABASE, acting_in, owner_of, refuse_others_link

#: SQLite's instructions between two looks at how far a copy is.
_LOOK_EVERY: Final = 200_000
_TIMEOUT_S: Final = 30.0
_COMPLAINTS_MAX: Final = 20

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Findings:
    """What was found in a database.

    Attributes:
        complaints: What is damaged; empty if nothing is.
        workflows: ``{state: number}``.
        free_bytes: What is in the file and not used.
    """

    path: str
    version: int
    complaints: list[str] = field(default_factory=list)
    workflows: dict[str, int] = field(default_factory=dict)
    database_bytes: int = 0
    wal_bytes: int = 0
    free_bytes: int = 0


def backup(path: Path, target: Path, *, force: bool = False, progress: Progress = lambda done, of: None) -> int:
    """Copy a database that may be in use; return the copy's bytes.

    Args:
        progress: Told ``(bytes done, bytes expected)`` now and then.

    Raises:
        StoreUnavailable: There is no such database, ``target`` exists, or there is no room; nothing was changed.
        StoreIncompatible: It is not ours, or damaged.
    """
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise _unavailable(f"'{target}' is no regular file", "name a file; nothing else is replaced")
    if target.exists() and path.exists() and target.samefile(path):
        raise _unavailable(f"'{target}' is the database itself", "choose another name")
    if target.exists() and not force:
        raise _unavailable(f"'{target}' exists", "choose another name, or pass --force")
    with reading(path) as source:
        version_of(source, path)
        (size,) = source.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
        try:
            with part_of(target) as part:
                source.set_progress_handler(lambda: progress(part.stat().st_size, size), _LOOK_EVERY)
                source.execute("VACUUM INTO ?", (str(part),))
                source.set_progress_handler(None, 0)
                synced(part)
                copied = part.stat().st_size
                part.replace(target)
                synced(target.parent)
        except (OSError, sqlite3.Error) as error:
            step = f"{_question(error)} nothing was changed".strip()
            raise _unavailable(f"cannot copy '{path}' to '{target}': {error}", step) from error
    progress(copied, copied)
    return copied


@contextlib.contextmanager
def part_of(target: Path) -> Iterator[Path]:
    """Make an empty file beside ``target``, of a name that nobody else has; what is left of it in the end goes."""
    # VACUUM takes an empty file; nobody else may read it from the beginning.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        for left in (name, f"{name}-journal"):
            with contextlib.suppress(OSError):
                os.unlink(left)


def restore(copy: Path, path: Path) -> Path | None:
    """Put a copy in the place of a database that no daemon uses; return where the present one is kept, if there was one.

    Raises:
        StoreLocked: A daemon runs on it.
        StoreUnavailable: The copy cannot be read, or there is no room; nothing was changed.
        StoreIncompatible: The copy is not ours, is damaged, or was written by a newer version; nothing was changed.
    """
    # By its own name: a link in its place leads to the database, which is where the new one belongs.
    refuse_others_link(path)
    path = path.resolve()
    try:
        found = check(copy)
    except (StoreIncompatible, StoreUnavailable) as error:
        error.next_step = f"name a copy that `dyrygentd backup` made; '{path}' is as it was"
        raise
    if found.complaints:
        raise _incompatible(f"the copy '{copy}' is damaged: {found.complaints[0]}", "choose another copy; nothing was changed")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner, lock = owner_of(path), path.with_name(f"{path.name}.lock")
        with reading(copy) as source:
            # Which opens it: the user that acts from here on need not be allowed to.
            version_of(source, copy)
            with acting_in(path.parent, [path, *_beside(path), lock]), locked(path):
                kept = _put_in_place(source, copy, path)
        for made in (path, lock):
            owner.give(made)
    except (OSError, sqlite3.Error) as error:
        step = f"{_question(error)} `dyrygentd check-db` tells what is there now".strip()
        raise _unavailable(f"cannot put '{copy}' in the place of '{path}': {error}", step) from error
    return kept


def claim(path: Path) -> None:
    """Have the next start take a database over although another process has gone on with a copy of it.

    Raises:
        StoreLocked: A daemon runs on it.
        StoreUnavailable: It does not exist, or cannot be written; nothing was changed.
        StoreIncompatible: It is not ours, or was written by another version; nothing was changed.
    """
    refuse_others_link(path)
    path = path.resolve()
    lock = path.with_name(f"{path.name}.lock")
    try:
        owner = owner_of(path)
        # Whoever reads beside keeps SQLite from deleting the log in the end, which the next daemon would miss.
        with acting_in(path.parent, [path, *_beside(path), lock]), locked(path), reading(path) as beside:
            if version_of(beside, path) < NOTES_SINCE:
                raise _incompatible(f"'{path}' is of a version that knows no terms", "start the daemon; it needs no claim")
            beside.execute("SELECT count(*) FROM notes").fetchall()
            mark_claimed(path, at=time.time())
        owner.give(lock)
    except (OSError, sqlite3.Error) as error:
        raise _unavailable(f"cannot write '{path}': {error}", f"{_question(error)} nothing was changed".strip()) from error


def _put_in_place(source: sqlite3.Connection, copy: Path, path: Path) -> Path | None:
    with part_of(path) as part:
        kept = _free_name(path) if path.exists() else None
        source.execute("VACUUM INTO ?", (str(part),))
        mark_restored(part, copy, at=time.time())
        synced(part)
        if kept is not None:
            # Without a writer the last one to close folds the log into the file, so that there is one file to keep.
            with contextlib.closing(sqlite3.connect(path, timeout=_TIMEOUT_S)) as present:
                present.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            os.link(path, kept, follow_symlinks=False)
        # A log that was left belongs to the old file: together with the new one it would be damage.
        for name in _beside(path):
            name.unlink(missing_ok=True)
        part.replace(path)
        synced(path.parent)
    return kept


def _beside(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]


def _question(error: Exception) -> str:
    if isinstance(error, sqlite3.OperationalError) and str(error) == "interrupted":
        return ""
    is_closed = isinstance(error, PermissionError | FileNotFoundError)
    return "does the directory exist, and may this user write there?" if is_closed else "is there room?"


def check(path: Path, *, is_thorough: bool = True, system: Path = SYSTEM_DATABASE) -> Findings:
    """Look through a database, which may be in use; without ``is_thorough`` only at what it is.

    Raises:
        StoreUnavailable: It does not exist, or cannot be read.
        StoreIncompatible: It is not ours, or was written by a newer version.
    """
    with reading(path, system) as database:
        try:
            found = Findings(str(path), version_of(database, path))
            if is_thorough:
                lines = database.execute(f"PRAGMA integrity_check({_COMPLAINTS_MAX})").fetchall()
                found.complaints = [line for (line,) in lines if line != "ok"]
                strangers = database.execute("PRAGMA foreign_key_check").fetchmany(_COMPLAINTS_MAX)
                found.complaints += [f"row {row} of '{table}' belongs to nothing" for table, row, *_ in strangers]
            found.workflows = dict(database.execute("SELECT state, count(*) FROM workflows GROUP BY state ORDER BY state"))
            query = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size"
            (found.free_bytes,) = database.execute(query).fetchone()
        except sqlite3.DatabaseError as error:
            found.complaints.append(str(error))
    found.database_bytes = path.stat().st_size
    with contextlib.suppress(OSError):
        found.wal_bytes = path.with_name(f"{path.name}-wal").stat().st_size
    return found


def next_step(path: Path) -> str:
    """Return what to do about a damaged database."""
    moved = path.with_name("moved.db")
    return (
        f"stop the daemon, move '{path}' with its -wal and -shm files aside, then put a copy back (`dyrygentd restore FILE`), or"
        f" recover what is left: `{recovery_command(moved, path)}`"
    )


@contextlib.contextmanager
def reading(path: Path, system: Path = SYSTEM_DATABASE) -> Iterator[sqlite3.Connection]:
    """Have a database open that may be in use. Raises `StoreUnavailable`."""
    if not _is_there(path):
        raise _unavailable(f"there is no database '{path}'", _other_database(path, system))
    # A log that a killed daemon has left can only be read by somebody who may write beside it. `mode=ro` leaves it there: whoever
    # may write folds it into the file in the end, and the next daemon would miss it.
    has_log = path.with_name(f"{path.name}-wal").exists()
    mode = "rw" if not has_log and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_TIMEOUT_S, isolation_level=None)
    except sqlite3.Error as error:
        raise _unavailable(f"cannot open the database '{path}': {error}", "may this user read it?") from error
    with contextlib.closing(database):
        yield database


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError as error:
        step = f"as root (`sudo`), or as the owner of '{path.parent}'"
        raise _unavailable(f"cannot look for the database '{path}': {error.strerror}", step) from error


def _other_database(path: Path, system: Path) -> str:
    """Return where the database may be that somebody looks for."""
    if path == system or os.geteuid() == 0 or not system.parent.exists():
        return "name it with --database"
    return f"`sudo` for the system's ('{system}'), or name another one with --database"


def version_of(database: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema. Raises `StoreIncompatible` if it is not ours, and `StoreUnavailable`."""
    try:
        ((application_id,),) = database.execute("PRAGMA application_id").fetchall()
        ((version,),) = database.execute("PRAGMA user_version").fetchall()
    except sqlite3.OperationalError as error:
        raise _unavailable(f"cannot read the database '{path}': {error}", "does its disk work, and is there room?") from error
    except sqlite3.DatabaseError as error:
        step = f"is that the file? If so: {next_step(path)}"
        raise _incompatible(f"'{path}' is no SQLite database or is damaged: {error}", step) from error
    if application_id != APPLICATION_ID or version < 1:
        raise _incompatible(f"'{path}' is a database of another program", "name one of dyrygentd")
    if version > VERSION:
        raise _incompatible(
            f"'{path}' was written by a newer dyrygentd (schema {version}, this one reads up to {VERSION})",
            "install that version again",
        )
    return int(version)


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.before-restore" + (f".{number}" if number > 1 else ""))).exists():
        number += 1
    return name


def synced(place: Path) -> None:
    """Have a file or a directory on disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(message: str, step: str) -> StoreUnavailable:
    error = StoreUnavailable(message)
    error.next_step = step
    return error


def _incompatible(message: str, step: str) -> StoreIncompatible:
    error = StoreIncompatible(message)
    error.next_step = step
    return error


def view_of(found: Findings) -> dict[str, Any]:
    """Return findings as plain data."""
    return {name: getattr(found, name) for name in Findings.__dataclass_fields__} | {"is_well": not found.complaints}
