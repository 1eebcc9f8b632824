"""An upgrade that failed or died changes nothing, is gone on with at the next start, and leaves one copy."""
# ruff: noqa: ASYNC240 - small files of a test may block

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dyrygentd.errors import StoreIncompatible, StoreUnavailable
from dyrygentd.store import care
from dyrygentd.store.migrations import VERSION
from dyrygentd.store.sqlite import SqliteStore
from tests.store.conftest import Spawn
from tests.store.test_versions import make
from tests.support.disk_faults import FaultyDisk

pytestmark = pytest.mark.anyio

_BEFORE = VERSION - 1
#: The last version whose upgrade makes tables, and the other views.
_BEFORE_NAMES = 5
_OPEN = """
async def main():
    await SqliteStore(path).open()
try:
    anyio.run(main)
except DyrygentError as error:
    print(error.message, '|', error.next_step)
"""
_DIE = """
from dyrygentd.store import migrations
async def die(*_):
    os.kill(os.getpid(), 9)
migrations._upgrade = die
"""


async def _fails(path: Path) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        await SqliteStore(path).open()
    return caught.value


async def _setback(path: Path) -> str:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    return store.setback


def _execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def _copies(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.glob("*.bak*"))


def _killed(path: Path, *, version: int = _BEFORE) -> Path:
    """Make a database as a killed daemon of a version left it: marked as in use, the last transaction in the log alone."""
    used = make(path.parent / "used.db", version)
    with closing(sqlite3.connect(used)) as connection:
        connection.executescript(
            "INSERT OR REPLACE INTO notes VALUES ('in use', '1'); PRAGMA wal_checkpoint(TRUNCATE);"
            "UPDATE workflows SET name = 'changed last' WHERE id = 'w-running'"
        )
        path.write_bytes(used.read_bytes())
        path.with_name(f"{path.name}-wal").write_bytes(used.with_name("used.db-wal").read_bytes())
    return path


def _names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM workflows WHERE id = 'w-running'")]


async def test_starts_that_fail_share_one_copy(path: Path) -> None:
    """systemd starts a daemon again and again: the upgrade that fails makes one copy, and ends once it can."""
    make(path, _BEFORE_NAMES)
    _execute(path, "CREATE TABLE node_names (of_somebody_else)")
    for _ in range(3):
        error = await _fails(path)
        assert "cannot upgrade the database" in str(error)
        assert "already exists" in str(error)
        assert error.next_step.endswith(f"nothing was changed, and the copy 'state.db.v{_BEFORE_NAMES}.bak' is taken again")
    assert _copies(path) == [f"state.db.v{_BEFORE_NAMES}.bak"]
    _execute(path, "DROP TABLE node_names")
    # What it was has changed: the copy is another one.
    await _setback(path)
    assert _copies(path) == [f"state.db.v{_BEFORE_NAMES}.bak", f"state.db.v{_BEFORE_NAMES}.bak.2"]


async def test_starts_that_are_killed_share_one_copy(path: Path, spawn: Spawn) -> None:
    """A daemon that is killed between copy and upgrade, over and over, does not fill the disk; nothing is lost."""
    _killed(path)
    for _ in range(3):
        assert spawn(_DIE + _OPEN).wait(timeout=60) == -9
    assert _copies(path) == [f"state.db.v{_BEFORE}.bak"]
    assert await _setback(path) == ""
    assert (_names(path), _copies(path)) == (["changed last"], [f"state.db.v{_BEFORE}.bak"])


async def test_changed_database_gets_a_copy_of_its_own(path: Path) -> None:
    """A copy of the same size is no copy of this database if a byte differs."""
    make(path, _BEFORE)
    copy = path.with_name(f"state.db.v{_BEFORE}.bak")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    _execute(copy, "UPDATE workflows SET name = substr('another one', 1, length(name)) WHERE id = 'w-running'")
    _execute(copy, "PRAGMA journal_mode = DELETE")
    assert copy.stat().st_size == path.stat().st_size
    await _setback(path)
    assert _copies(path) == [copy.name, f"{copy.name}.2"]


async def test_left_part_of_a_copy_takes_no_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed copy left goes before room is asked for, or there would never be any."""
    make(path, _BEFORE)
    part = path.with_name("state.db.copying")
    part.write_bytes(b"x" * 1000)
    real = os.statvfs

    def measured(place: Path) -> os.statvfs_result:
        assert not part.exists()
        return real(place)

    monkeypatch.setattr(os, "statvfs", measured)
    await _setback(path)


async def test_full_disk_amid_the_upgrade(path: Path, tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says that nothing was changed and what is missing; with room the upgrade is made, and nothing is lost."""
    disk = FaultyDisk(tmp_path, files="/state.db-wal")
    _killed(path)
    with monkeypatch.context() as patch, disk.failing("full"):
        for name, value in disk.environment.items():
            patch.setenv(name, value)
        said, _ = spawn(_OPEN).communicate(timeout=60)
    assert "disk is full" in said
    assert f"make room in '{path.parent}'" in said
    assert "nothing was changed" in said
    assert await _setback(path) == ""
    assert (_names(path), _copies(path)) == (["changed last"], [f"state.db.v{_BEFORE}.bak"])


async def test_failed_start_does_not_hide_that_a_daemon_was_killed(path: Path) -> None:
    """The write-ahead log stays with its time: else the next start would say that somebody deleted it, and read all anew."""
    _killed(path)
    log = path.with_name("state.db-wal")
    os.utime(log, (1_700_000_000, 1_700_000_000))
    _execute_through_the_log(path, f"PRAGMA user_version = {VERSION + 1}")
    os.utime(log, (1_700_000_000, 1_700_000_000))
    with pytest.raises(StoreIncompatible):
        await SqliteStore(path).open()
    assert log.stat().st_mtime == 1_700_000_000
    _execute_through_the_log(path, f"PRAGMA user_version = {_BEFORE}")
    assert await _setback(path) == ""
    assert _names(path) == ["changed last"]


def _execute_through_the_log(path: Path, script: str) -> None:
    """Change a database, and leave its log as it is."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as last, closing(sqlite3.connect(path)) as connection:
        last.execute("SELECT 1 FROM workflows").fetchall()
        connection.executescript(script)
        connection.close()


async def test_views_that_somebody_deleted_are_made_again(path: Path) -> None:
    """Views are for people, and people may delete them: that keeps no daemon from being upgraded."""
    make(path, _BEFORE_NAMES)
    _execute(path, "DROP VIEW v_workflows; DROP VIEW v_nodes; CREATE VIEW v_attempts AS SELECT 'of our own'")
    await _setback(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM v_nodes").fetchone()[0] > 0
        assert connection.execute("SELECT attempt FROM v_attempts").fetchall() == []


async def test_way_back_is_told(path: Path) -> None:
    """Whoever has gone back to an older program is told the command that puts the copy back, and it works."""
    make(path, _BEFORE)
    await _setback(path)
    copy = path.with_name(f"state.db.v{_BEFORE}.bak")
    _execute(path, f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StoreIncompatible) as caught:
        await SqliteStore(path).open()
    assert f"`dyrygentd restore --database {path} {copy}`" in caught.value.next_step
    care.restore(copy, path)
    assert "was restored" in await _setback(path)
