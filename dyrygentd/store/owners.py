"""Whose a database is: what root puts in its place is given to the user who has to open it."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from dyrygentd.errors import StoreUnavailable
from dyrygentd.store import files

#: Where a system's daemon has its database.
SYSTEM_DATABASE: Final = Path("/var/lib/dyrygentd/state.db")


class FileOwner(NamedTuple):
    """User, group and permissions of a file."""

    uid: int
    gid: int
    mode: int

    def give(self, path: Path) -> None:
        """Make a file that user's.

        Raises:
            PermissionError: This user cannot give files away.
            StoreUnavailable: It is a link, or has further names: whoever owns the directory would be given another file.
        """
        descriptor = files.opened(path, os.O_RDONLY)
        try:
            status = os.fstat(descriptor)
            # A user other than root may not choose any group, and needs none: only the owner reads a database.
            if status.st_uid != self.uid or (os.geteuid() == 0 and status.st_gid != self.gid):
                os.fchown(descriptor, self.uid, self.gid)
            os.fchmod(descriptor, self.mode)
        finally:
            os.close(descriptor)


def refuse_others_link(path: Path) -> None:
    """Raise `StoreUnavailable` if root would write where another user's link leads, and that user may not write there."""
    if os.geteuid() != 0 or not path.is_symlink():
        return
    uid, place = path.lstat().st_uid, path.resolve()
    if uid not in (0, _owner_above(place.parent)):
        error = StoreUnavailable(f"'{path}' is a link that root has not made, to '{place}'")
        error.next_step = "name the database itself if that is meant"
        raise error


def _owner_above(directory: Path) -> int:
    """Return whose a directory is, or would be if it were made."""
    while not directory.exists():
        directory = directory.parent
    return directory.stat().st_uid


@contextmanager
def acting_in(directory: Path, present: Iterable[Path]) -> Iterator[None]:
    """Let root be the user whose a directory is, within this.

    That user may put links there at any moment, and SQLite, which opens files by name, would write where they lead as root. So
    the work is done with the rights of whoever could do it alone.

    Args:
        present: Files there that this user has to open, whosever they are; they become that user's.

    Raises:
        StoreUnavailable: One of them is a link, or has further names.
    """
    status = directory.stat()
    if os.geteuid() != 0 or status.st_uid == 0:
        yield
        return
    for path in present:
        if os.path.lexists(path):
            FileOwner(status.st_uid, status.st_gid, 0o600).give(path)
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def owner_of(path: Path) -> FileOwner:
    """Return whose a database is, or, if there is none, who would have made it: whose the directory is.

    The rights of others are left out: the daemon takes them away when it opens the file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        status = path.parent.stat()
        return FileOwner(status.st_uid, status.st_gid, 0o600)
    return FileOwner(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode) & stat.S_IRWXU)


def next_step_to_open(path: Path) -> str:
    """Say what to do if this user may not write the directory, or what lies in it is not this user's; empty if neither is so."""
    try:
        if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            return f"let this user (uid {os.geteuid()}) write in '{path.parent}', or name another database; nothing was changed"
        status = path.parent.stat()
        closed = [each for each in (path, path.with_name(f"{path.name}.lock")) if _is_anothers(each)]
    except OSError:
        return ""
    if not closed or status.st_uid != os.geteuid():
        return ""
    return f"`sudo chown --reference={path.parent} {' '.join(map(str, closed))}`: the directory is this user's, the file is not"


def _is_anothers(place: Path) -> bool:
    return place.exists() and place.stat().st_uid != os.geteuid()
