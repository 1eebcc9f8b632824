"""Files of a database: locked against other processes, opened as what they are, never by a link, readable by their user alone.

Whoever may write the directory could put a link there, and have the daemon write into, or cut, any file of its user. A file that
was made elsewhere, by a copy or an older program, may be open to all who can reach it: arguments and values stand in it.
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dyrygentd.errors import StoreLocked, StoreUnavailable

logger = logging.getLogger("dyrygentd.store")

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
#: What SQLite puts beside a database.
_SUFFIXES: Final = ("-wal", "-shm", "-journal")


def opened(path: Path, flags: int) -> int:
    """Open a regular file, which is made with mode 0600 if ``flags`` say so; return its descriptor.

    Raises:
        StoreUnavailable: It is a link (also a further name of another file), or no regular file.
        OSError: As `os.open`.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refused(path, "is a symbolic link") from None
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise _refused(path, "has more names than this" if stat.S_ISREG(status.st_mode) else "is no regular file")


def tighten(descriptor: int, path: Path) -> None:
    """Take the rights of others from a file. Raises `StoreUnavailable` if this user cannot, and others may read it."""
    mode = os.fstat(descriptor).st_mode
    if not mode & _OTHERS:
        return
    try:
        os.fchmod(descriptor, stat.S_IMODE(mode) & ~_OTHERS)
    except OSError as error:
        refused = StoreUnavailable(
            f"'{path}' may be read by others (mode {stat.S_IMODE(mode):04o}), and this user cannot change that: {error.strerror}"
        )
        refused.next_step = f"`chmod 600 {path}` as its owner, or `chown` it to the daemon's user"
        raise refused from error
    logger.warning("'%s' could be read by others (mode %04o): it has mode 0600 now", path, stat.S_IMODE(mode))


def tighten_beside(path: Path) -> None:
    """Do the same with what SQLite has left beside a database that nobody in this process has open."""
    for beside in _beside(path):
        try:
            descriptor = opened(beside, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            tighten(descriptor, beside)
        finally:
            os.close(descriptor)


def lock_itself(path: Path) -> int:
    """Take the lock of the database's own file, creating it: it is the same by whatever name, and whatever lies beside it."""
    # By no link; a second name is no harm here, since the lock holds for both.
    database = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(database, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Not closed: should the holder be this very process, that would end SQLite's own locks on the file.
        raise StoreLocked(f"the database '{path}' is in use by another process, maybe under another name") from None
    return database


def lock_beside(path: Path) -> int:
    """Take the lock beside the database; the holder's process id stands in it for the operator."""
    lock_path = path.with_name(path.name + ".lock")
    lock = opened(lock_path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreLocked(f"the database '{path}' is in use by process {holder}") from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have a database for oneself, as a daemon has. Raises `StoreLocked` if a daemon has it."""
    locks = [lock_beside(path)]
    try:
        if path.exists():
            locks.append(lock_itself(path))
        yield
    finally:
        for lock in locks:
            os.close(lock)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of the same name, or None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def size_of(path: Path) -> int:
    """Return how long a file is, 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _beside(path: Path) -> Iterable[Path]:
    return (path.with_name(path.name + suffix) for suffix in _SUFFIXES)


def _refused(path: Path, what: str) -> StoreUnavailable:
    error = StoreUnavailable(f"'{path}' {what}, and is not opened")
    error.next_step = "see who put it there, remove it, and let only the daemon's user write that directory"
    return error
