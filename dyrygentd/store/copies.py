"""The copy that is made of a database before it is upgraded: the way back, which the old version of the program can open.

A copy is never overwritten, and there is no upgrade without one. If an upgrade dies or fails, the copy of the first try is taken
again, as long as it is what the database is, page by page: a daemon that is started over and over fills no disk with copies.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import aiosqlite
import anyio.to_thread

from dyrygentd.errors import StoreUnavailable

logger = logging.getLogger("dyrygentd.store")

#: Copies of one version that may lie beside the database; more come of going back and upgrading again and again.
COPIES_MAX: Final = 5
#: Room that must be left on the disk beside the copy.
_SPARE_BYTES: Final = 1024 * 1024
#: Pages copied at a time, and bytes compared.
_PAGES: Final = 2000
_COMPARED_BYTES: Final = 4 * 1024 * 1024
#: Where a database and its copy differ: change counter, schema cookie, and what they are valid for (sqlite.org/fileformat2.html).
_COUNTERS: Final = (slice(24, 28), slice(40, 44), slice(92, 100))

#: Told what is done, how much of it, and of how much; of 0 if that is not known.
Progress = Callable[[str, int, int], None]


async def copy_of(connection: aiosqlite.Connection, path: Path, version: int, progress: Progress, *, file: int) -> Path:
    """Copy a database as it is to ``state.db.v1.bak``, durably, unless the last copy is the same; return where it is.

    Args:
        file: The database, opened for reading. To open and close it anew would end SQLite's locks.

    Raises:
        StoreUnavailable: It cannot be copied; nothing was changed.
    """
    # What a copy that died has left: in the way, and maybe all the room there is.
    part = path.with_name(f"{path.name}.copying")
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)
    present = [*copies_of(path, version)]
    if present and await _is_copy(connection, file, present[-1]):
        logger.info("'%s' is a copy of the database '%s' as it is, and is taken again", present[-1].name, path)
        return present[-1]
    size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ((needed,),) = await connection.execute_fetchall(size)
    copy = _free_name(path, version)
    _refuse_without_room(path, needed)
    logger.info("copying the database '%s' (%.0f MB) to '%s' before it is upgraded", path, needed / 1e6, copy.name)

    def tell(status: int, remaining: int, total: int) -> None:
        progress("copying the database before it is upgraded", total - remaining, total)

    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        target = sqlite3.connect(part, check_same_thread=False)
        try:
            await connection.backup(target, pages=_PAGES, progress=tell)
        finally:
            target.close()
        await anyio.to_thread.run_sync(_keep, part, copy)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        unavailable = StoreUnavailable(f"cannot copy the database '{path}' before it is upgraded: {error}")
        unavailable.next_step = "nothing was changed; start again when that is mended"
        raise unavailable from error
    return copy


def copies_of(path: Path, version: int) -> Iterator[Path]:
    """Yield the copies of one version that lie beside a database, the oldest first."""
    return (copy for copy in _names(path, version) if copy.exists())


def _names(path: Path, version: int) -> Iterator[Path]:
    for number in range(1, COPIES_MAX + 1):
        yield path.with_name(f"{path.name}.v{version}.bak" + (f".{number}" if number > 1 else ""))


def _free_name(path: Path, version: int) -> Path:
    for copy in _names(path, version):
        if not os.path.lexists(copy):
            return copy
    error = StoreUnavailable(
        f"there are {COPIES_MAX} copies '{path.name}.v{version}.bak' of other states of the database beside it already"
    )
    error.next_step = f"delete those in '{path.parent}' that nobody needs, and start again; nothing was changed"
    raise error


def _refuse_without_room(path: Path, needed: int) -> None:
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < needed + _SPARE_BYTES:
        error = StoreUnavailable(
            f"no room for a copy of the database '{path}', which is made before it is upgraded:"
            f" it takes {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        )
        error.next_step = f"make room in '{path.parent}', and start again; nothing was changed"
        raise error


async def _is_copy(connection: aiosqlite.Connection, file: int, copy: Path) -> bool:
    try:
        # So that all of it is in the file. It stays there, empty: a daemon was killed.
        ((is_busy, _, _),) = await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        return not is_busy and await anyio.to_thread.run_sync(_is_same, file, copy)
    except (OSError, sqlite3.Error):
        return False


def _is_same(file: int, copy: Path) -> bool:
    """Compare a database, of which nothing is in a log, with a copy."""
    descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        size = os.fstat(file).st_size
        if os.fstat(descriptor).st_size != size:
            return False
        for at in range(0, size, _COMPARED_BYTES):
            ours, theirs = (bytearray(os.pread(each, _COMPARED_BYTES, at)) for each in (file, descriptor))
            if not at:
                for counter in _COUNTERS:
                    ours[counter] = theirs[counter]
            if ours != theirs:
                return False
        # Durable, should the process that made it have died before.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _keep(part: Path, copy: Path) -> None:
    """Give a complete copy its name, when it is on disk."""
    for place in (part, part.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if place == part:
            # Fails if somebody made a file of that name meanwhile.
            os.link(part, copy)
            part.unlink()
