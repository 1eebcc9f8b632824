"""Copies of databases in use, putting them back, and finding damage: with real files, real locks and real kills."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dyrygentd.errors import StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import CLAIM_NOTE
from dyrygentd.store import care
from dyrygentd.store.migrations import VERSION
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import node, workflow
from tests.support.daemon import ROOT


async def _filled(path: Path, count: int, *, name: str = "w", close: bool = True) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    for number in range(count):
        await store.save([workflow(f"{name}{number}")], [node(f"{name}{number}", 0)])
    if close:
        await store.close()
    return store


def _ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return [name for (name,) in database.execute("SELECT id FROM workflows ORDER BY seq")]


@contextmanager
def _in_use(path: Path) -> Iterator[None]:
    """Have another thread write all the while, as a daemon does."""
    over = threading.Event()

    async def write() -> None:
        store = await _filled(path, 0, close=False)
        number = 0
        while not over.is_set():
            await store.save([workflow(f"later{number}")], [])
            number += 1
        await store.close()

    thread = threading.Thread(target=lambda: asyncio.run(write()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_copy_of_a_database_in_use(tmp_path: Path) -> None:
    """It is whole and consistent, readable by its owner alone, and what was written before the copy is in it."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_filled(path, 200))
    seen: list[tuple[int, int]] = []
    with _in_use(path):
        size = care.backup(path, copy, progress=lambda done, of: seen.append((done, of)))
    assert size == copy.stat().st_size
    assert seen[-1] == (size, size)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert _ids(copy)[:200] == [f"w{number}" for number in range(200)]
    assert care.check(copy).complaints == []
    assert care.check(copy).version == VERSION
    assert [entry.name for entry in tmp_path.iterdir() if "part" in entry.name] == []


def test_copy_replaces_nothing_unasked(tmp_path: Path) -> None:
    """A file of that name stays, unless it is said; the database itself is never written over."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_filled(path, 1))
    copy.write_text("precious")
    with pytest.raises(StoreUnavailable, match="exists"):
        care.backup(path, copy)
    assert copy.read_text() == "precious"
    care.backup(path, copy, force=True)
    assert _ids(copy) == ["w0"]
    with pytest.raises(StoreUnavailable, match="is the database itself"):
        care.backup(path, path, force=True)
    with pytest.raises(StoreUnavailable, match="there is no database"):
        care.backup(tmp_path / "none.db", tmp_path / "other.db")


def test_copy_replaces_regular_files_alone(tmp_path: Path) -> None:
    """Not a device, a pipe or a link, not even when it is told to replace what is there; nothing is left beside it."""
    path, pipe, link = tmp_path / "state.db", tmp_path / "pipe", tmp_path / "link"
    asyncio.run(_filled(path, 1))
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for target in (pipe, link, tmp_path):
        with pytest.raises(StoreUnavailable, match="is no regular file"):
            care.backup(path, target, force=True)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == before


def test_two_copies_to_one_place(tmp_path: Path) -> None:
    """Each writes a file of its own, so that what bears the name is always complete."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_filled(path, 300))
    second: list[int] = []

    def again(done: int, of: int) -> None:
        if not second:
            second.append(0)
            second[0] = care.backup(path, copy, force=True)
            assert len(_ids(copy)) == 300

    first = care.backup(path, copy, force=True, progress=again)
    assert first == second[0] == copy.stat().st_size
    assert len(_ids(copy)) == 300
    assert [name.name for name in tmp_path.iterdir() if ".part" in name.name] == []


def test_no_right_is_an_error_with_a_step(tmp_path: Path) -> None:
    """A place where nothing can be made is told as such, and not as a fault of ours."""
    copy = tmp_path / "copy.db"
    asyncio.run(_filled(copy, 1))
    for place in (Path("/proc/none.db"), Path("/proc/none/none.db")):
        with pytest.raises(StoreUnavailable, match="cannot put") as caught:
            care.restore(copy, place)
        assert "may this user write there" in caught.value.next_step


def test_copy_is_put_back(tmp_path: Path) -> None:
    """The workflows of the copy are there again, what was there is kept whole, its log included, and a store opens it."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_filled(path, 3))
    care.backup(path, copy)
    _kill_while_writing(path)
    assert path.with_name("state.db-wal").exists()
    kept = care.restore(copy, path)
    assert kept == tmp_path / "state.db.before-restore"
    assert not path.with_name("state.db-wal").exists()
    assert _ids(path) == ["w0", "w1", "w2"]
    assert _ids(kept) == ["w0", "w1", "w2", "late0"]
    asyncio.run(_filled(path, 1, name="new"))
    assert _ids(path) == ["w0", "w1", "w2", "new0"]
    # A second time the first one kept is not lost.
    assert care.restore(copy, path) == tmp_path / "state.db.before-restore.2"


def _kill_while_writing(path: Path) -> None:
    """Leave a log behind, as a daemon does that is killed."""
    script = f"""
import asyncio, os, signal
from pathlib import Path
from tests.store.test_care import _filled
asyncio.run(_filled(Path({str(path)!r}), 1, name="late", close=False))
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == -signal.SIGKILL


def test_nothing_is_put_under_a_daemon(tmp_path: Path) -> None:
    """While a store is open its database is not replaced, and the process that has it is named."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_filled(path, 1))
    care.backup(path, copy)

    async def main() -> None:
        store = await _filled(path, 0, close=False)
        try:
            with pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}"):
                care.restore(copy, path)
        finally:
            await store.close()

    asyncio.run(main())
    assert _ids(path) == ["w0"]


def _note(path: Path) -> str:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        row = database.execute("SELECT value FROM notes WHERE name = ?", (CLAIM_NOTE,)).fetchone()
    return str(row[0]) if row else ""


def test_what_is_to_go_on_says_so(tmp_path: Path) -> None:
    """A copy that is put back, and a database that is claimed, take over at the next start; a copy alone does not."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_filled(path, 3))
    care.backup(path, copy)
    assert _note(path) == _note(copy) == ""
    care.claim(path)
    assert _note(path).startswith("claimed at ")
    care.restore(copy, path)
    assert _note(path) == f"restored from '{copy}'"


def test_claim_keeps_the_log_of_a_killed_daemon(tmp_path: Path) -> None:
    """Opening a database folds the log into it, and the next daemon would take that for a log that somebody deleted."""
    path = tmp_path / "state.db"
    code = f"""
import asyncio, os, pathlib
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import workflow
async def main():
    store = SqliteStore(pathlib.Path({str(path)!r}))
    await store.open()
    await store.save([workflow("w")], [])
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    care.claim(path)
    assert path.with_name("state.db-wal").exists()

    async def look() -> tuple[str, str | None]:
        store = SqliteStore(path)
        await store.open()
        found = store.setback, await store.recall(CLAIM_NOTE)
        await store.close()
        return found

    setback, claim = asyncio.run(look())
    assert setback == ""
    assert claim is not None
    assert claim.startswith("claimed at ")
    assert _ids(path) == ["w"]


def test_nothing_is_claimed_under_a_daemon(tmp_path: Path) -> None:
    """Nor where there is no database, or one of another program; each says what to do."""
    path, other = tmp_path / "state.db", tmp_path / "other.db"
    with _in_use(path):
        while not path.exists():
            pass
        with pytest.raises(StoreLocked):
            care.claim(path)
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE t (x)")
    with pytest.raises(StoreIncompatible, match="another program"):
        care.claim(other)
    with pytest.raises(StoreUnavailable, match="there is no database"):
        care.claim(tmp_path / "nowhere.db")


def test_bad_copies_are_refused(tmp_path: Path) -> None:
    """A copy that is damaged, foreign, newer or no database at all changes nothing."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_filled(path, 1))
    for pragma, words in (("user_version = 999", "newer dyrygentd"), ("application_id = 7", "another program")):
        care.backup(path, copy, force=True)
        with closing(sqlite3.connect(copy)) as database:
            database.execute(f"PRAGMA {pragma}")
        with pytest.raises(StoreIncompatible, match=words):
            care.restore(copy, path)
        assert _ids(path) == ["w0"]
    copy.write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreIncompatible, match="no SQLite database"):
        care.restore(copy, path)
    with pytest.raises(StoreUnavailable, match="there is no database"):
        care.restore(tmp_path / "none", path)
    assert sorted(entry.name for entry in tmp_path.iterdir() if "before" in entry.name or "part" in entry.name) == []


def test_damage_is_found(tmp_path: Path) -> None:
    """A page that was overwritten is found, what can be told is told, and the steps name the file."""
    path, copy = tmp_path / "state.db", tmp_path / "copy.db"
    asyncio.run(_filled(path, 300))
    care.backup(path, copy)
    with closing(sqlite3.connect(copy)) as database:
        ((page,),) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'workflows_by_name'").fetchall()
    with copy.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    assert care.check(path).complaints == []
    assert care.check(copy).complaints
    assert str(copy) in care.next_step(copy)
    with pytest.raises(StoreIncompatible, match="is damaged"):
        care.restore(copy, path)
    assert len(_ids(path)) == 300


def test_no_room_leaves_nothing(tmp_path: Path) -> None:
    """A copy for which there is no room is told, and no half of it is left."""
    path = tmp_path / "state.db"
    asyncio.run(_filled(path, 300))
    target = tmp_path / "small"
    script = f"""
import resource, sys
from pathlib import Path
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.facts import CLAIM_NOTE
from dyrygentd.store import care
resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    care.backup(Path({str(path)!r}), Path({str(target)!r}))
except StoreUnavailable as error:
    print(error.message, error.next_step)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot copy" in done.stdout
    assert "is there room?" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(("small", ".small"))] == []
