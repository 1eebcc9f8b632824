"""The write-ahead log beside a database: how long it is, whether it is still the one that we have open, and when it is cut."""

import time
from pathlib import Path
from typing import Final

import aiosqlite

from dyrygentd.store.files import identity_of, size_of

#: A longer write-ahead log is a problem that people are told. SQLite itself needs 4 MB and the longest transaction.
WAL_PROBLEM_BYTES: Final = 256 * 1024 * 1024
#: Seconds between two tries to cut it.
_CUT_EVERY_S: Final = 5.0


class WriteAheadLog:
    """Guards: one that was deleted or replaced is noticed; one that has grown long is cut as soon as nobody reads it.

    Attributes:
        limit_bytes: Longer ones are cut.
    """

    def __init__(self, database: Path, *, problem_bytes: int) -> None:
        self.path = database.with_name(database.name + "-wal")
        self.limit_bytes = problem_bytes // 4
        self._database = database
        self._problem_bytes = problem_bytes
        self._file: tuple[int, int] | None = None
        self._cut_at = 0.0

    def __repr__(self) -> str:
        return f"<WriteAheadLog '{self.path}' limit={self.limit_bytes}>"

    @property
    def bytes(self) -> int:
        """How long it is."""
        return size_of(self.path)

    @property
    def has_been(self) -> bool:
        """Whether there was one when it was remembered."""
        return self._file is not None

    def begin(self) -> float | None:
        """Begin to look after it; return when it was written last, None if there is none."""
        self._cut_at = 0.0
        return self.path.stat().st_mtime if self.path.exists() else None

    def remember(self) -> None:
        """Take note of which file it is."""
        self._file = identity_of(self.path)

    def change(self) -> str:
        """Return what has happened to it since it was remembered: ``deleted``, ``replaced``, or nothing."""
        now = identity_of(self.path)
        if now == self._file:
            return ""
        return "deleted" if now is None or self._file is None else "replaced"

    async def cut(self, writer: aiosqlite.Connection) -> None:
        """Make it short again if it has grown long and nobody reads it. Raises ``sqlite3.Error``."""
        if self.bytes <= self.limit_bytes or time.monotonic() < self._cut_at:
            return
        self._cut_at = time.monotonic() + _CUT_EVERY_S
        # Whoever reads is not waited for.
        await writer.execute("PRAGMA busy_timeout = 0")
        try:
            await writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await writer.execute("PRAGMA busy_timeout = 5000")

    def problem(self) -> str:
        """Return what is wrong with its length, empty if nothing is."""
        size = self.bytes
        if size <= self._problem_bytes:
            return ""
        return (
            f"the write-ahead log '{self.path}' has {size / 1e6:.0f} MB, since a program reads the database without"
            f" end; `fuser {self._database}` shows which"
        )
