"""Whether a database is as the last daemon left it, or older than what was done with it.

While a daemon has the database open, a note in the file itself says so, and the write-ahead log lies beside it, also after kill
-9; in good order the note goes, and the log is folded into the file. So a file with that note and without a log lacks what was
in the log: somebody deleted it, or copied the file alone, or put a copy in its place. A copy that `dyrygentd restore` put there
says so.

What this cannot see (a copy of both files, a copy that was made while no daemon ran) the broker may know, see
`dyrygentd.scheduler.sentinel`.
"""

import json
import sqlite3
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiosqlite

from dyrygentd.core.absence import note_of
from dyrygentd.errors import Fenced, StoreIncompatible
from dyrygentd.ports.facts import CLAIM_NOTE, CLOSED_NOTE, SETBACK_NOTE, Holder, Term

IN_USE: Final = "in use"
RESTORED: Final = "restored"
#: Where all of it was moved to, and when: nobody goes on with it here.
MOVED_NOTE: Final = "moved"
#: Who has taken the database over last: the text of a `Term`.
TERM_NOTE: Final = "term"
#: The version whose schema has notes.
NOTES_SINCE: Final = 3

_RECALL: Final = "SELECT value FROM notes WHERE name = ?"
_REMEMBER: Final = "INSERT INTO notes (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_FORGET: Final = "DELETE FROM notes WHERE name = ?"


class WentBack(Fenced):
    """The database lacks turns that were answered for: who has them in mind writes nothing more, and who begins anew does."""

    code = "went-back"
    next_step = (
        "restart the daemon, unless it begins anew by itself: it looks for results of what is lost before it sends anything"
    )

    def __init__(self, database: str, turns: int, answered_for: int) -> None:
        super(Fenced, self).__init__(
            f"the database '{database}' has {turns} turns and has answered for {answered_for}: it went back, as after a failover"
            " or when a copy was put in its place; nothing more is written"
        )
        self.term, self.later, self.by = 0, 0, ""
        self.database, self.turns, self.answered_for = database, turns, answered_for


async def setback_of(connection: aiosqlite.Connection, *, had_log: bool) -> str:
    """Return why a database is older than what was done with it; empty if it is not, as far as it can tell.

    Args:
        had_log: Whether a write-ahead log was beside it before it was opened.
    """
    restored, in_use = await _recalled(connection, RESTORED), await _recalled(connection, IN_USE)
    if restored:
        with suppress(ValueError, KeyError, TypeError):
            known = json.loads(restored)
            return f"the database was restored from '{known['from']}' at {known['at']} UTC"
        return "the database was restored from a copy"
    if in_use and not had_log:
        return (
            "the write-ahead log of the database is gone although no daemon has closed it: it was deleted, or the file was copied"
            " without it, or another program has opened the database since, which then lacks nothing"
        )
    return ""


async def _recalled(connection: aiosqlite.Connection, name: str) -> str:
    async with connection.execute(_RECALL, (name,)) as cursor:
        row = await cursor.fetchone()
    return "" if row is None else str(row[0])


async def begin_use(connection: aiosqlite.Connection, setback: str, *, written_at: float | None = None) -> None:
    """Write into the file itself that a daemon has it open, and that it had a setback. Raises ``sqlite3.Error``.

    Args:
        written_at: When the write-ahead log that was found beside it was written last, as Unix time: its daemon was killed.
    """
    if await _recalled(connection, IN_USE):
        # What is noted is of an earlier close.
        await connection.execute(_FORGET, (CLOSED_NOTE,))
        if written_at is not None:
            await connection.execute(_REMEMBER, (CLOSED_NOTE, note_of(written_at, was_killed=True)))
    if setback:
        # Together with what tells so.
        await connection.execute(_REMEMBER, (SETBACK_NOTE, json.dumps({"at": time.time(), "why": setback})))
    await connection.execute(_FORGET, (RESTORED,))
    await connection.execute(_REMEMBER, (IN_USE, "1"))
    await connection.commit()
    # Not only into the log, with which it could be lost.
    await connection.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")


async def end_use(connection: aiosqlite.Connection) -> None:
    """Take that back; closing folds the log into the file. Raises ``sqlite3.Error``."""
    await connection.execute(_FORGET, (IN_USE,))
    await connection.execute(_REMEMBER, (CLOSED_NOTE, note_of(time.time(), was_killed=False)))
    await connection.commit()


async def raised_term(connection: aiosqlite.Connection, holder: Holder, *, above: int) -> Term:
    """Write into the file itself that a process takes the database over, and return its term. Raises ``sqlite3.Error``."""
    known = Term.of(await _recalled(connection, TERM_NOTE))
    term = Term(max(known.number if known else 0, above) + 1, holder)
    await connection.execute(_REMEMBER, (TERM_NOTE, term.text))
    await connection.commit()
    # A term that got lost with the log would look like another process's.
    await connection.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")
    return term


def mark_restored(copy: Path, source: Path, *, at: float) -> None:
    """Note in a copy that is about to be put in the place of a database that it is older, and meant to go on.

    Raises ``sqlite3.Error``.
    """
    database = sqlite3.connect(copy, isolation_level=None)
    try:
        ((version,),) = database.execute("PRAGMA user_version").fetchall()
        if version < NOTES_SINCE:
            return
        words = json.dumps({"from": str(source), "at": f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"})
        database.execute("BEGIN")
        database.execute(_FORGET, (IN_USE,))
        database.execute(_REMEMBER, (RESTORED, words))
        database.execute(_REMEMBER, (CLAIM_NOTE, f"restored from '{source}'"))
        database.execute("COMMIT")
    finally:
        database.close()


def moved_note(to: str, at: float) -> str:
    """Write where a database was moved to, for `refuse_moved`."""
    return json.dumps({"to": to, "at": f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"})


def refuse_moved(note: str | None, place: object) -> None:
    """Raise `StoreIncompatible` if a database has a note that it was moved."""
    if note is None:
        return
    known = json.loads(note)
    error = StoreIncompatible(f"the database '{place}' was moved to '{known['to']}' at {known['at']} UTC")
    error.next_step = "name that one as `database`; this one has only what was then, and may be deleted"
    raise error


def mark_claimed(path: Path, *, at: float) -> None:
    """Note in a database that it is meant to go on, whatever later term the broker knows. Raises ``sqlite3.Error``."""
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute(_REMEMBER, (CLAIM_NOTE, f"claimed at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"))
    finally:
        database.close()
