"""Damaged pages, rows and logs, locks under other names, and readers that never end."""
# ruff: noqa: ASYNC240 - small files of a test may block

import os
import shutil
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import anyio
import pytest

from dyrygentd.errors import StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Retention, Selection
from dyrygentd.store.damage import recovery_command
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, published, scheduler, settle, until
from tests.store.conftest import Spawn
from tests.store.records import node, workflow

pytestmark = pytest.mark.anyio

_PAGE = 4096


def _query(path: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _execute(path: Path, script: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute(script, values)
        connection.commit()
    finally:
        connection.close()


def _root_page(path: Path, name: str) -> int:
    return int(_query(path, f"SELECT rootpage FROM sqlite_schema WHERE name = '{name}'")[0][0])


def _overwrite(path: Path, page: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * _PAGE)
        file.write(content)


async def _fill(path: Path, count: int = 300) -> None:
    """Make a database with more than one page in each table and index."""
    store = SqliteStore(path)
    await store.open()
    for start in range(0, count, 50):
        ids = [f"w{number}" for number in range(start, start + 50)]
        await store.save([workflow(name) for name in ids], [node(name, 0) for name in ids])
    await store.close()


# --- at the start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["workflows", "nodes", "sqlite_autoindex_workflows_1", "workflows_by_name", "journal"])
async def test_damaged_page_is_found_at_the_start(path: Path, name: str) -> None:
    """A page of a table or of an index that is damaged is found before anything runs; the file is left as it is."""
    await _fill(path)
    _overwrite(path, _root_page(path, name), os.urandom(_PAGE))
    before = path.read_bytes()
    with pytest.raises(StoreIncompatible, match="is damaged") as caught:
        await SqliteStore(path).open()
    assert str(path) in str(caught.value)
    for word in ("stop the daemon", ".dump", "copy", "empty"):
        assert word in caught.value.next_step
    assert path.read_bytes() == before


async def test_large_database_is_not_looked_through_for_ever(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Looking for damage has an end, so that a large database starts; the log tells."""
    await _fill(path)
    store = SqliteStore(path, check_max_s=0.0)
    await store.open()
    assert "its pages were looked through for" in caplog.text
    # The handler that ended it is gone.
    await store.save([workflow("after")], [])
    assert len(await store.list(Selection(limit=1000))) == 301
    await store.close()


@pytest.mark.parametrize("name", ["workflows_by_name", "nodes", "workflows"])
async def test_recovery_steps_work(path: Path, tmp_path: Path, name: str) -> None:
    """What the message says to do gives a database that this program opens, with all that was not in the damaged page."""
    if shutil.which("sqlite3") is None:
        pytest.skip("there is no sqlite3 program here")
    await _fill(path)
    # The root of an index, or one page of a table's rows.
    leaf = f"SELECT max(pageno) FROM dbstat WHERE name = '{name}' AND pagetype = 'leaf'"
    try:
        damaged_page = _root_page(path, name) if name == "workflows_by_name" else _query(path, leaf)[0][0]
    except sqlite3.OperationalError as error:
        pytest.skip(f"this SQLite does not tell which page is whose: {error}")
    _overwrite(path, damaged_page, os.urandom(_PAGE))
    with pytest.raises(StoreIncompatible) as caught:
        await SqliteStore(path).open()
    moved = path.rename(tmp_path / "moved.db")
    command = recovery_command(moved, path)
    assert recovery_command("moved.db", path) in caught.value.next_step
    await anyio.run_process(["sh", "-c", command], check=False)
    store = SqliteStore(path)
    await store.open()
    count = len(await store.list(Selection(limit=1000)))
    assert count == 300 if name != "workflows" else 200 < count < 300
    await store.save([workflow("after")], [])
    await store.close()


# --- one row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE workflows SET document = x'00' WHERE id = ?",
        "UPDATE workflows SET document = x'' WHERE id = ?",
        "UPDATE workflows SET labels = '{', document = x'00' WHERE id = ?",
        "UPDATE workflows SET control = '[1]', document = x'00' WHERE id = ?",
        "UPDATE nodes SET detail = '{' WHERE workflow = (SELECT seq FROM workflows WHERE id = ?)",
        "UPDATE nodes SET detail = '{\"odd\": 1}' WHERE workflow = (SELECT seq FROM workflows WHERE id = ?)",
        "UPDATE nodes SET state = 'odd' WHERE workflow = (SELECT seq FROM workflows WHERE id = ?)",
        "UPDATE nodes SET node = 77 WHERE workflow = (SELECT seq FROM workflows WHERE id = ?)",
    ],
)
async def test_one_damaged_workflow_keeps_no_other_back(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """A definition or a row that cannot be read sets its workflow aside with the reason; the others go on."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, SqliteStore(path)) as running:
        ids = [(await running.submit(definition("a; b < a", name=name, prefix=name))).id for name in ("x", "bad", "y")]
        await until(lambda: len(broker.published) == 3)
    _execute(path, damage, ids[1])
    broker.holds = False
    broker.let_go()
    async with scheduler(broker, SqliteStore(path)) as running:
        for workflow_id in (ids[0], ids[2]):
            assert (await running.wait(workflow_id, timeout_s=5)).state == "succeeded"
        view = await running.view(ids[1])
        assert view.state == "failed"
        assert "it cannot be rebuilt" in str(view.error)
        assert [row.name for row in (await running.list(Selection())).workflows] == ["y", "bad", "x"]
        assert running.health().status == "ok"
    assert "is set aside" in caplog.text
    assert sorted(published(broker)) == ["a", "a", "a", "b", "b"]


@pytest.mark.parametrize("text", [b"{", b"[]", b"null", b'{"nodes": 5}', b'{"nodes": [{"name": "a"}], "x": 1}', b"\xff"])
async def test_damaged_text_of_a_definition(path: Path, text: bytes) -> None:
    """The same for a definition that can be inflated, and is none."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, SqliteStore(path)) as running:
        bad = (await running.submit(definition("a; b < a", prefix="bad"))).id
        good = (await running.submit(definition("a; b < a", prefix="good"))).id
        await until(lambda: len(broker.published) == 2)
    _execute(path, "UPDATE workflows SET document = ? WHERE id = ?", zlib.compress(text), bad)
    broker.holds = False
    broker.let_go()
    async with scheduler(broker, SqliteStore(path)) as running:
        assert (await running.wait(good, timeout_s=5)).state == "succeeded"
        assert "it cannot be rebuilt" in str((await running.view(bad)).error)


# --- while it runs --------------------------------------------------------------------------------------------------


async def test_damage_that_is_met_while_running(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon stays up, sends and writes nothing more, and says what to do; not a byte of the file changes from then on."""
    await _fill(path)
    broker = FakeBroker(holds=True)
    store = SqliteStore(path)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a", prefix="p"))
        # That it was sent is written a moment later. What cannot be written is tried again before anything else is heard.
        await until(lambda: ("dispatched",) in _query(path, "SELECT state FROM nodes"))
        assert published(broker) == ["a"]
        # What is in the cache of our own connections is good still, so it is damaged where they have not been.
        assert store._writer is not None
        # There is no checkpoint within a transaction.
        async with store._one_transaction:
            await store._writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        for connection in (store._writer, store._reader._shower):
            assert connection is not None
            await connection.execute_fetchall("PRAGMA shrink_memory")
        for page in range(2, path.stat().st_size // _PAGE + 1):
            _overwrite(path, page, os.urandom(_PAGE))
        broker.let_go()
        await until(lambda: bool(running.health().problems))
        assert running.health().status == "degraded"
        assert "is damaged" in running.health().problems[0]
        assert ".dump" in running.health().problems[0]
        # What met it may be a reader, beside a transaction that had begun.
        async with store._one_transaction:
            before = path.read_bytes(), path.with_name("state.db-wal").read_bytes()
        failures = store.statistics().failures
        await until(lambda: store.statistics().failures > failures)
        with pytest.raises(StoreUnavailable, match="nothing more is written"):
            await store.remember("reports", "1")
        await settle()
        assert (path.read_bytes(), path.with_name("state.db-wal").read_bytes()) == before
        assert published(broker) == ["a"]
        assert running.statistics().engine["counters"]["succeeded"] == 1
        assert (await running.view(handle.id)).state == "running"
    assert "nothing more is written" in caplog.text


async def test_damage_that_a_reader_meets_ends_writing(store: SqliteStore, path: Path) -> None:
    """Whoever finds it, nothing is written afterwards."""
    await store.save([workflow("big", document=os.urandom(300_000))], [])
    assert store._writer is not None
    await store._writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    _overwrite(path, _root_page(path, "nodes"), os.urandom(_PAGE))
    assert store._reader._shower is not None
    await store._reader._shower.execute_fetchall("PRAGMA shrink_memory")
    with pytest.raises(StoreIncompatible, match="damaged"):
        await store.load("big")
    with pytest.raises(StoreUnavailable, match="nothing more is written"):
        await store.save([workflow("after")], [])
    assert "damaged" in store.statistics().problem


# --- the write-ahead log --------------------------------------------------------------------------------------------


async def test_bound_that_unfinished_workflows_fill_is_told_once(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left to delete and the database is larger than it may be: the log says so, and not at every look."""
    await store.save([workflow("w")], [node("w", 0)])
    for _ in range(3):
        assert await store.expire(Retention(bytes_max=4096), limit=5) == 0
    assert caplog.text.count("more than `history_bytes_max`") == 1


async def test_deleted_log_is_begun_anew(store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is in a log that was deleted is still known here: it is saved, and nothing of it is missing after kill -9."""
    await store.save([workflow("before")], [])
    path.with_name("state.db-wal").unlink()
    await store.save([workflow("after")], [])
    await store.remember("reports", "7")
    assert [row.record.workflow_id for row in await store.list(Selection())] == ["after", "before"]
    assert "write-ahead log" in caplog.text
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    assert _query(copy, "SELECT id FROM workflows ORDER BY seq") == [("before",), ("after",)]
    assert _query(copy, "PRAGMA integrity_check") == [("ok",)]


async def test_replaced_log_is_refused(store: SqliteStore, path: Path) -> None:
    """A log that somebody put in the place of ours is never mixed with it; it goes on when ours is back."""
    await store.save([workflow("before")], [])
    log = path.with_name("state.db-wal")
    away = log.rename(path.with_name("away"))
    log.write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="was replaced while in use"):
        await store.save([workflow("after")], [])
    away.replace(log)
    await store.save([workflow("after")], [])


@pytest.mark.parametrize("damage", ["cut", "garbage", "header"])
async def test_damaged_log_loses_its_end_alone(path: Path, tmp_path: Path, damage: str) -> None:
    """After a crash, a log whose end is damaged gives a consistent database without the last transactions."""
    store = SqliteStore(path)
    await store.open()
    for number in range(20):
        await store.save([workflow(f"w{number}")], [node(f"w{number}", 0)])
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    log = bytearray(path.with_name("state.db-wal").read_bytes())
    await store.close()
    if damage == "cut":
        del log[len(log) // 2 :]
    else:
        place = len(log) // 2 if damage == "garbage" else 0
        log[place : place + 5000] = os.urandom(5000)
    copy.with_name("copy.db-wal").write_bytes(log)
    store = SqliteStore(copy)
    await store.open()
    ids = {row.record.workflow_id for row in await store.list(Selection(limit=100))}
    assert ids == {f"w{number}" for number in range(len(ids))}
    assert len(ids) < 20
    await store.save([workflow("after")], [])
    await store.close()
    assert _query(copy, "PRAGMA integrity_check") == [("ok",)]


async def test_pinned_log_is_told_and_cut(path: Path, spawn: Spawn, caplog: pytest.LogCaptureFixture) -> None:
    """A log that a reader keeps from being taken over is a problem from some length on, and is cut as soon as that one goes."""
    store = SqliteStore(path, wal_problem_bytes=1_000_000)
    await store.open()
    await store.save([workflow("first")], [])
    reading = spawn("""
import sqlite3
connection = sqlite3.connect(path)
connection.execute("BEGIN")
print(connection.execute("SELECT count(*) FROM workflows").fetchone()[0], flush=True)
sys.stdin.read()
""")
    assert reading.stdout is not None
    assert reading.stdout.readline() == "1\n"
    for number in range(60):
        await store.save([workflow(f"w{number}", document=os.urandom(40_000))], [])
    statistics = store.statistics()
    assert statistics.wal_bytes > 2_000_000
    assert "a program reads the database without end" in statistics.problem
    assert "fuser" in statistics.problem
    reading.kill()
    reading.wait()
    store._log._cut_at = 0.0  # The pause between two tries is over.
    await store.save([workflow("after")], [])
    assert store.statistics().wal_bytes < 250_000
    assert store.statistics().problem == ""
    await store.close()
    assert len(_query(path, "SELECT 1 FROM workflows")) == 62


async def test_reader_holds_up_nobody(path: Path, spawn: Spawn) -> None:
    """While another program reads, trying to cut the log does not wait for it."""
    store = SqliteStore(path, wal_problem_bytes=4000)
    await store.open()
    await store.save([workflow("first")], [])
    reading = spawn("""
import sqlite3
connection = sqlite3.connect(path)
connection.execute("BEGIN")
print(connection.execute("SELECT count(*) FROM workflows").fetchone()[0], flush=True)
sys.stdin.read()
""")
    assert reading.stdout is not None
    reading.stdout.readline()
    for number in range(10):
        store._log._cut_at = 0.0
        await store.save([workflow(f"w{number}")], [])
    # SQLite would wait for 5 s each time.
    assert store.statistics().commit_seconds < 5
    assert await _busy_timeout(store) == 5000
    await store.close()


async def _busy_timeout(store: SqliteStore) -> int:
    assert store._writer is not None
    ((timeout,),) = await store._writer.execute_fetchall("PRAGMA busy_timeout")
    return int(timeout)


# --- locks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["same name", "lock file deleted", "symbolic link", "hard link", "linked directory"])
async def test_no_second_process_by_whatever_name(store: SqliteStore, path: Path, tmp_path: Path, spawn: Spawn, way: str) -> None:
    """One database has one daemon, whatever it is called and whatever happened to the lock file."""
    other = path
    if way == "lock file deleted":
        path.with_name("state.db.lock").unlink()
    elif way == "symbolic link":
        other = tmp_path / "link.db"
        other.symlink_to(path)
    elif way == "hard link":
        other = tmp_path / "hard.db"
        other.hardlink_to(path)
    elif way == "linked directory":
        (tmp_path / "elsewhere").symlink_to(tmp_path)
        other = tmp_path / "elsewhere" / "state.db"
    process = spawn(f"""
async def main():
    try:
        await SqliteStore(pathlib.Path({str(other)!r})).open()
        print("opened")
    except DyrygentError as error:
        print(error.code, error.message)
anyio.run(main)
""")
    output, _ = process.communicate()
    assert output.startswith("store-locked")
    assert "in use by" in output
    await store.save([workflow("goes on")], [])


async def test_refused_store_leaves_the_locks_of_the_other(store: SqliteStore, path: Path, tmp_path: Path, spawn: Spawn) -> None:
    """A second store of this very process is refused, and SQLite's own locks are still there: no other program cuts the log."""
    (tmp_path / "hard.db").hardlink_to(path)
    for other in (path, tmp_path / "hard.db"):
        with pytest.raises(StoreLocked):
            await SqliteStore(other).open()
    await store.save([workflow("before")], [])
    process = spawn("""
import sqlite3
connection = sqlite3.connect(path)
connection.execute("PRAGMA journal_mode").fetchone()
print(connection.execute("SELECT count(*) FROM workflows").fetchone()[0])
connection.close()
""")
    output, _ = process.communicate()
    assert output == "1\n"
    # The last one that closes a database deletes its log; this was not the last one.
    assert path.with_name("state.db-wal").exists()
    await store.save([workflow("after")], [])
