"""`SqliteStore` on a real disk: what it promises beyond the contract of all stores."""
# ruff: noqa: ASYNC240 - small files of a test may block

import contextlib
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from dyrygentd.core.records import WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.errors import InvariantBroken, StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Selection
from dyrygentd.store import rows
from dyrygentd.store.sqlite import SqliteStore
from tests.store.conftest import Spawn
from tests.store.records import finished, node, workflow

pytestmark = pytest.mark.anyio


def _writer(store: SqliteStore) -> aiosqlite.Connection:
    assert store._writer is not None
    return store._writer


async def _pragma(store: SqliteStore, name: str) -> Any:
    async with _writer(store).execute(f"PRAGMA {name}") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return row[0]


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Read with a connection of our own, as an operator would."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def _ids(store: SqliteStore, **conditions: Any) -> list[str]:
    return [row.record.workflow_id for row in await store.list(Selection(limit=1000, **conditions))]


# --- durability -----------------------------------------------------------------------------------------------------


async def test_durability_is_in_force(store: SqliteStore) -> None:
    """The connection that writes has WAL, FULL and foreign keys on: promise P1 rests on these, and they are per connection."""
    assert await _pragma(store, "journal_mode") == "wal"
    assert await _pragma(store, "synchronous") == 2
    assert await _pragma(store, "foreign_keys") == 1
    assert await _pragma(store, "busy_timeout") == 5000


@pytest.mark.parametrize("count", [1, 32, 33])
async def test_nodes_alone_are_durable_when_saved(store: SqliteStore, path: Path, count: int) -> None:
    """A few nodes go by one statement, which is no transaction that somebody has to end; the next ones overwrite them."""
    await store.save([workflow("w")], [node("w", 0)])
    for state in ("dispatching", "succeeded"):
        await store.save([], [node("w", number, state=state, value=b"\x00\xff") for number in range(count)])
        assert not _writer(store).in_transaction
        rows = _rows(path, "SELECT node, state, value FROM nodes ORDER BY node")
        assert rows == [(number, state, b"\x00\xff") for number in range(count)]


async def test_one_transaction_a_save(store: SqliteStore) -> None:
    """All records of a save, ends and clean-up included, go to disk with one commit: a turn is atomic."""
    statements: list[str] = []
    await _writer(store).set_trace_callback(statements.append)
    await store.save([workflow("a"), finished(workflow("b"), document=b"{}")], [node("a", 0), node("b", 0)])
    await _writer(store).set_trace_callback(None)  # type: ignore[arg-type]
    transactions = [statement.strip() for statement in statements if re.match(r"BEGIN|COMMIT|ROLLBACK", statement.strip())]
    assert transactions == ["BEGIN", "COMMIT"]
    assert statements[-1].strip() == "COMMIT"


async def test_row_that_fails_takes_the_save_with_it(store: SqliteStore, path: Path) -> None:
    """A save whose last row is refused leaves nothing behind, and the next one starts clean."""
    await store.save([workflow("before")], [])
    bad: Any = node("new", 2, state=None)
    with pytest.raises(InvariantBroken, match=r"the database '.*state\.db' refuses what is to be saved: NOT NULL"):
        await store.save([workflow("new"), finished(workflow("before"))], [node("new", 0), node("new", 1), bad])
    assert not _writer(store).in_transaction
    assert _rows(path, "SELECT id, state FROM workflows") == [("before", "running")]
    assert _rows(path, "SELECT * FROM nodes") == []
    assert store.statistics().failures == 1
    await store.save([workflow("new"), finished(workflow("before"))], [node("new", 0), node("new", 1)])
    assert _rows(path, "SELECT id, state FROM workflows ORDER BY seq") == [("before", "succeeded"), ("new", "running")]
    assert _rows(path, "SELECT node FROM nodes") == [(0,), (1,)]


async def test_failed_end_can_be_repeated(store: SqliteStore) -> None:
    """A save that ended workflows and failed may be repeated, merged with what came later."""
    await store.save([workflow("a")], [])
    bad: Any = node("a", 0, attempt=None)
    for _ in range(2):
        with pytest.raises(InvariantBroken):
            await store.save([finished(workflow("a"))], [bad])
    await store.save([finished(workflow("a"))], [node("a", 0)])
    loaded = await store.load("a")
    assert loaded is not None
    assert loaded.record.state is WorkflowState.SUCCEEDED


async def test_unexpected_error_leaves_no_transaction_open(store: SqliteStore) -> None:
    """Whatever stops a save, the transaction is over: an open one would swallow the next save's commit."""
    with pytest.raises(TypeError):
        await store.save([workflow("a", labels=5)], [])
    assert not _writer(store).in_transaction
    assert await _ids(store) == []


async def test_nothing_acknowledged_is_lost_by_kill_9(spawn: Spawn, path: Path) -> None:
    """Each save that returned before kill -9 is complete after reopening: workflow, nodes and ends."""
    process = spawn("""
async def main():
    store = SqliteStore(path)
    await store.open()
    for number in range(100_000):
        saved = [workflow(f"w{number}")] + ([finished(workflow(f"w{number - 1}"))] if number else [])
        await store.save(saved, [node(f"w{number}", n) for n in range(5)])
        print(number, flush=True)
anyio.run(main)
""")
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 150:
            process.send_signal(signal.SIGKILL)
            break
    last = max([150, *(int(line) for line in process.stdout if line.endswith("\n"))])
    assert process.wait() == -signal.SIGKILL
    store = SqliteStore(path)
    await store.open()
    ids = await _ids(store)
    assert set(ids) >= {f"w{number}" for number in range(last + 1)}
    running = [stored async for stored in store.unfinished()]
    assert [stored.record.workflow_id for stored in running] == ids[:1]
    assert len(running[0].nodes) == 5
    await store.close()
    assert _rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert _rows(path, "SELECT count(*) FROM workflows WHERE (SELECT count(*) FROM nodes WHERE workflow = seq) != 5") == [(0,)]


# --- the lock -------------------------------------------------------------------------------------------------------

_OPEN_AND_TELL = """
async def main():
    store = SqliteStore(path)
    try:
        await store.open()
    except DyrygentError as error:
        print(error.code, error.message, flush=True)
    else:
        print("open", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        await store.close()
import anyio.to_thread
anyio.run(main)
"""


async def test_second_process_is_refused(store: SqliteStore, spawn: Spawn) -> None:
    """Another process cannot open the database and is told which process has it: two daemons would send everything twice."""
    process = spawn(_OPEN_AND_TELL)
    output, _ = await anyio.to_thread.run_sync(process.communicate)
    assert output.startswith("store-locked ")
    assert f"in use by process {os.getpid()}" in output
    await store.save([workflow("a")], [])


async def test_second_store_is_refused_by_any_path(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """The same file is refused under another name too, and the refusal does not hurt the one who has it."""
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    for other in (path, link):
        refused = SqliteStore(other)
        with pytest.raises(StoreLocked):
            await refused.open()
        await refused.close()
    await store.save([workflow("a")], [])
    assert await _ids(store) == ["a"]


async def test_lock_dies_with_its_holder(spawn: Spawn, path: Path) -> None:
    """After kill -9 of the holder the database opens at once; nobody has to remove a lock file."""
    holder = spawn(_OPEN_AND_TELL)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    store = SqliteStore(path)
    with pytest.raises(StoreLocked, match=f"process {holder.pid}"):
        await store.open()
    holder.kill()
    holder.wait()
    await store.open()
    await store.close()


async def test_failed_open_lets_the_lock_go(tmp_path: Path) -> None:
    """A store that could not be opened holds nothing back, so correcting the cause is enough."""
    (tmp_path / "state.db").mkdir()
    refused = SqliteStore(tmp_path / "state.db")
    with pytest.raises(StoreUnavailable, match="Is a directory"):
        await refused.open()
    (tmp_path / "state.db").rmdir()
    store = SqliteStore(tmp_path / "state.db")
    await store.open()
    await store.close()


# --- trouble with the disk ------------------------------------------------------------------------------------------


async def test_full_database_is_survived(store: SqliteStore, path: Path) -> None:
    """SQLITE_FULL becomes `StoreUnavailable`, reading goes on, and the same save works when there is room."""
    await store.save([workflow("before")], [])
    limit = await _pragma(store, "max_page_count")
    await _pragma(store, f"max_page_count = {await _pragma(store, 'page_count')}")
    more = [workflow("new", document=os.urandom(200_000))], [node("new", 0)]
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full") as caught:
            await store.save(*more)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert caught.value.__cause__.sqlite_errorname == "SQLITE_FULL"
    assert await _ids(store) == ["before"]
    assert store.statistics().failures == 2
    await _pragma(store, f"max_page_count = {limit}")
    await store.save(*more)
    assert await _ids(store) == ["new", "before"]
    assert await _pragma(store, "integrity_check") == "ok"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


async def test_full_disk_is_survived(tiny_disk: Path) -> None:
    """On a disk without room each save fails whole; when an operator makes room, everything goes on."""
    filler = tiny_disk / "filler"
    filler.write_bytes(bytes(400_000))
    store = SqliteStore(tiny_disk / "state.db")
    await store.open()
    saved: list[str] = []
    with pytest.raises(StoreUnavailable):  # noqa: PT012 - which of them fails depends on the file system
        for number in range(100):
            await store.save([workflow(f"w{number}", document=os.urandom(20_000))], [node(f"w{number}", 0)])
            saved.insert(0, f"w{number}")
    assert 2 <= len(saved) < 60
    assert await _ids(store) == saved
    filler.unlink()
    await store.save([workflow("after", document=os.urandom(20_000))], [])
    assert await _ids(store) == ["after", *saved]
    await store.close()
    store = SqliteStore(tiny_disk / "state.db")
    await store.open()
    assert await _ids(store) == ["after", *saved]
    await store.close()


async def test_no_room_to_create(tiny_disk: Path) -> None:
    """A database that cannot even be created says so, and leaves nothing half made."""
    filler = tiny_disk / "filler"
    (tiny_disk / "state.db.lock").write_text("1\n")
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
        file.write(bytes(2_000_000))
    store = SqliteStore(tiny_disk / "state.db")
    with pytest.raises(StoreUnavailable):
        await store.open()
    filler.unlink()
    await store.open()
    assert await _ids(store) == []
    await store.close()


async def test_read_only_directory(spawn: Spawn, path: Path, tmp_path: Path) -> None:
    """Without the right to write, opening says which file and why."""
    tmp_path.chmod(0o755)
    process = spawn("""
import anyio.to_thread
async def main():
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    else:
        path.parent.chmod(0o555)
    try:
        await SqliteStore(path).open()
    except DyrygentError as error:
        print(error.code, error.message)
anyio.run(main)
""")
    output, _ = await anyio.to_thread.run_sync(process.communicate)
    tmp_path.chmod(0o755)
    assert output == f"store-unavailable cannot open the database '{path}': Permission denied\n"


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_database_that_was_taken_away(store: SqliteStore, path: Path, is_replaced: bool) -> None:
    """SQLite goes on writing to a deleted file; nothing of that may be called durable. It goes on when the file is back."""
    await store.save([workflow("before")], [])
    away = path.rename(path.with_name("away.db"))
    if is_replaced:
        path.touch()
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        await store.save([workflow("after")], [])
    away.replace(path)
    await store.save([workflow("after")], [])
    assert sorted(await _ids(store)) == ["after", "before"]


async def test_directory_that_cannot_exist() -> None:
    """A path on a file system that takes no files is refused as unavailable."""
    with pytest.raises(StoreUnavailable, match=r"cannot open the database '/proc/1/nowhere/state\.db'"):
        await SqliteStore(Path("/proc/1/nowhere/state.db")).open()


async def test_damaged_page_is_named(path: Path) -> None:
    """A damaged file is refused as damaged; "unavailable" would have an operator wait for it to get better."""
    store = SqliteStore(path)
    await store.open()
    await store.save([workflow(f"w{number}", document=os.urandom(9_000)) for number in range(30)], [])
    await store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 9 :] = os.urandom(len(content) - 4096 * 9)
    path.write_bytes(content)
    store = SqliteStore(path)
    with pytest.raises(StoreIncompatible, match="damaged"):  # noqa: PT012 - opening may find it already
        await store.open()
        async for _ in store.unfinished():
            pass
    await store.close()


async def test_damaged_definition_is_named(store: SqliteStore) -> None:
    """A definition that cannot be inflated is reported as damage of this file."""
    await store.save([workflow("w")], [])
    await _writer(store).execute("UPDATE workflows SET document = x'00'")
    await _writer(store).commit()
    with pytest.raises(StoreIncompatible, match="damaged: the definition of workflow 'w'"):
        await store.load("w")


async def test_writing_after_close_is_refused(store: SqliteStore) -> None:
    """A closed store refuses work instead of losing it."""
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.save([workflow("a")], [])
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.load("a")


# --- what is kept, and how much -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kept"), [(WorkflowState.SUCCEEDED, False), (WorkflowState.CANCELLED, True), (WorkflowState.FAILED, True)]
)
async def test_values_at_the_end(store: SqliteStore, path: Path, state: WorkflowState, kept: bool) -> None:
    """Values go when nobody needs them any more; those of one that failed or was cancelled stay: trying again needs them."""
    await store.save([workflow("other"), workflow("w")], [node("other", 0), node("w", 0), node("w", 1)])
    await store.save([finished(workflow("w"), state)], [node("w", 2)])
    assert _rows(path, "SELECT count(value) FROM nodes WHERE workflow = 2") == [(3 * kept,)]
    assert _rows(path, "SELECT count(value) FROM nodes WHERE workflow = 1") == [(1,)]


@pytest.mark.parametrize("length", [0, 1, 16_384, 16_385, 3_000_000])
async def test_definitions_are_deflated(store: SqliteStore, path: Path, length: int) -> None:
    """A definition of any length comes back byte by byte and is stored deflated."""
    document = (b'{"task": "tasks.resize"}' * (length // 20 + 1))[:length]
    await store.save([workflow("w", document=document)], [])
    loaded = await store.load("w")
    assert loaded is not None
    assert loaded.record.document == document
    assert _rows(path, "SELECT length(document) FROM workflows")[0][0] < max(20, length / 50)


async def _end(store: SqliteStore, *names: str, at: float) -> None:
    records: list[WorkflowRecord] = [finished(workflow(name), document=b"{}", finished_at=at) for name in names]
    await store.save(records, [node(name, 0) for name in names])


async def test_history_is_bounded(path: Path) -> None:
    """Beyond the bound the oldest ends go first, with their nodes; what has not finished is never touched."""
    store = SqliteStore(path, history_max=5)
    await store.open()
    await store.save([workflow("running")], [node("running", 0)])
    for number in range(12):
        await _end(store, f"w{number}", at=1000.0 - number if number < 2 else 1000.0 + number)
    assert await _ids(store) == ["w11", "w10", "w9", "w8", "w7", "running"]
    assert _rows(path, "SELECT count(*) FROM nodes") == [(6,)]
    await store.close()
    # A lower bound after a restart is reached bit by bit.
    store = SqliteStore(path, history_max=2)
    await store.open()
    await _end(store, "w12", at=2000.0)
    assert await _ids(store) == ["w12", "w11", "running"]
    await store.close()


async def test_history_is_bounded_under_load(path: Path) -> None:
    """When many workflows end in each turn the bound holds as well, else the disk fills while the daemon is busy."""
    store = SqliteStore(path, history_max=10)
    await store.open()
    for turn in range(5):
        await _end(store, *(f"w{turn}-{number}" for number in range(30)), at=1000.0 + turn)
    assert len(await _ids(store)) == 10
    await store.close()


async def test_write_ahead_log_is_bounded(store: SqliteStore) -> None:
    """The log is taken over into the database as it grows, although readers come and go."""
    for number in range(100):
        await store.save([workflow(f"w{number}", document=os.urandom(100_000))], [])
        await store.load(f"w{number}")
    statistics = store.statistics()
    assert statistics.database_bytes > 5_000_000
    assert 0 < statistics.wal_bytes < 8_000_000
    assert statistics.commit_seconds > 0


async def test_workflow_that_is_pruned_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow that goes between two queries of one reader is not found, and is no internal error."""
    store = SqliteStore(path, history_max=1)
    fetch = store._reader.fetch

    async def pruning(query: str, *values: Any) -> Any:
        rows = await fetch(query, *values)
        if store.statistics().commits == 1:
            await _end(store, "new", at=2000.0)
        return rows

    await store.open()
    await _end(store, "old", at=1000.0)
    monkeypatch.setattr(store._reader, "fetch", pruning)
    loaded = await store.load("old")
    assert loaded is None or loaded.record.workflow_id == "old"
    assert await store.load("old") is None
    await store.close()


# --- files and threads ----------------------------------------------------------------------------------------------


async def test_files_are_private(tmp_path: Path) -> None:
    """Arguments and results may hold secrets: only the owner can read any of the files, whatever the umask."""
    before = os.umask(0)
    try:
        store = SqliteStore(tmp_path / "new" / "state.db")
        await store.open()
        await store.save([workflow("w")], [])
        files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "new").iterdir()}
    finally:
        os.umask(before)
    await store.close()
    assert files == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm", "state.db.lock"), 0o600)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def _sqlite_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name}


async def _wait_until_gone(before: set[threading.Thread]) -> None:
    """Wait for threads on their last lines: a future is set just before its thread ends."""
    with anyio.fail_after(5):
        while _sqlite_threads() - before:
            await anyio.lowlevel.checkpoint()


async def test_close_is_finished_even_if_cancelled(path: Path) -> None:
    """A cancelled caller still closes all connections and the lock: their threads would keep the process from ending."""
    before = _sqlite_threads()
    store = SqliteStore(path)
    await store.open()
    assert len(_sqlite_threads() - before) == 4
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.close()
    await _wait_until_gone(before)
    store = SqliteStore(path)
    await store.open()
    await store.close()


async def test_open_may_be_cancelled_anywhere(path: Path) -> None:
    """Wherever opening is cancelled, no thread and no lock stay behind."""
    before = _sqlite_threads()
    for waits in range(0, 2000, 40):
        store = SqliteStore(path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.open)
            for _ in range(waits):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        await store.close()
        await _wait_until_gone(before)
    store = SqliteStore(path)
    await store.open()
    await store.close()


async def test_many_unfinished_workflows_are_read_in_parts(path: Path) -> None:
    """All come back, oldest first, with their own nodes, whatever their number and size; one that is damaged is told alone."""
    store = SqliteStore(path)
    await store.open()
    count = 2 * rows._PART_WORKFLOWS + 10
    for number in range(count):
        document = random.Random(number).randbytes(rows._PART_BYTES if number == 4 else 20).hex().encode()
        nodes = [node(f"w{number}", each) for each in range(min(number, 9))]
        await store.save([workflow(f"w{number}", document=document)], nodes)
    await store.save([finished(workflow("w5"))], [])
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE workflows SET document = x'00' WHERE id = 'w7'")
        database.commit()
    store = SqliteStore(path)
    await store.open()
    read = [stored async for stored in store.unfinished()]
    assert [stored.record.workflow_id for stored in read] == [f"w{number}" for number in range(count) if number != 5]
    for stored in read:
        number = int(stored.record.workflow_id[1:])
        assert bool(stored.damage) == (number == 7)
        if number != 7:
            assert sorted(row.node for row in stored.nodes) == list(range(min(number, 9)))
            assert {row.workflow_id for row in stored.nodes} <= {f"w{number}"}
    # They can be saved again.
    await store.save([finished(workflow("w9"), state=WorkflowState.FAILED)], [node("w9", 50)])
    assert await store.unfinished_count() == count - 2
    await store.close()
