"""All of a database goes from a file to PostgreSQL and back, and none of it is lost on the way, whenever it is interrupted."""

import os
import socket
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.user import User
from dyrygentd.errors import StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import CLOSED_NOTE, Holder, Selection
from dyrygentd.ports.mailbox import Letter, LetterKind
from dyrygentd.store.postgres.moving import TABLES, to_file, to_postgres
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import finished, node, workflow

pytestmark = [pytest.mark.anyio, pytest.mark.long]

_WORKFLOWS = 40


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A file with everything that a daemon may leave in one, closed in good order."""
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    await store.open()
    await store.raise_term(Holder("here", 7, 1700000000.5), above=41)
    for number in range(_WORKFLOWS):
        name = f"w{number}"
        record = workflow(
            name,
            labels={"n": str(number), "ż": '"'},
            owner=User(number) if number else None,
            names=("a", "b"),
            document=b"x" * 99 * number,
        )
        if number % 3 == 0:
            record = replace(record, parent_task=ParentTask("p", "r"), key=None)
        nodes = [node(name, each, error="\\'\"", value=None if each % 2 else bytes(range(256))) for each in range(5)]
        nodes.append(node(name, 9, state="held", reason="gate", blocked_by=3, failures=2))
        entry = JournalEntry(name, 1.5, "hold", "żaneta", "'why' \t \\N", ("a",), 1)
        await store.save([record], nodes, [entry] * 3)
        if number % 2:
            await store.save([finished(record, WorkflowState.FAILED, result=b"\x00[1]")], [])
    await store.remember("reports", "1-0")
    await store.close()
    return path


def _in_file(path: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return sorted(database.execute(f"SELECT {columns} FROM {table}"), key=repr)


def _in_schema(url: PostgresUrl, table: str, columns: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url.conninfo, options=f"-c search_path={url.schema}") as connection:
        return sorted(connection.execute(f"SELECT {columns} FROM {table}".encode(), binary=True).fetchall(), key=repr)


def _notes(rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    return {name: value for name, value in rows if name != "moved"}


async def test_there_and_back(path: Path, url: PostgresUrl, tmp_path: Path) -> None:
    """Every table has the same rows after each way, and each end can be worked with by its own name and nobody else's."""
    told: list[tuple[int, int]] = []
    rows = await to_postgres(path, url, host="app1", progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (rows, rows)
    assert rows == _WORKFLOWS * (1 + 6 + 1 + 3)
    for table, columns in TABLES.items():
        same = ", ".join(column for column in columns.split(", ") if column not in ("key", "control"))
        assert _in_schema(url, table, same) == _in_file(path, table, same)
    back = tmp_path / "back" / "state.db"
    assert await to_file(url, back, host="app1") == rows
    assert back.stat().st_mode & 0o777 == 0o600
    for table, columns in TABLES.items():
        assert _in_file(back, table, columns) == _in_file(path, table, columns)
    for view in ("v_workflows", "v_nodes", "v_journal"):
        assert _in_file(back, view, "*") == _in_file(path, view, "*")
    assert _notes(_in_file(back, "notes", "name, value")) == _notes(_in_file(path, "notes", "name, value"))
    for left in (SqliteStore(path), PostgresStore(url)):
        with pytest.raises(StoreIncompatible, match="was moved to") as refused:
            await left.open()
        assert "name that one" in refused.value.next_step
    store = SqliteStore(back)
    await store.open()
    assert store.setback == ""
    term = await store.term()
    assert term is not None
    assert term.number == 42
    await store.close()


async def test_users_get_a_host_and_lose_it_on_the_way_back(url: PostgresUrl, tmp_path: Path) -> None:
    """A number becomes a user of the host it was one of, with its keys and name; those of other hosts stay what they are."""
    path, back, host = tmp_path / "state.db", tmp_path / "back.db", socket.gethostname()
    owners = {"root": User(0), "unknown": User(4_000_000_000), "other": User(1000, "elsewhere", "ann"), "nobody": None}
    file = SqliteStore(path)
    await file.open()
    await file.save([workflow(name, owner=owner, key="ticket") for name, owner in owners.items()], [])
    await file.close()
    await to_postgres(path, url, host=host)
    store = PostgresStore(url)
    await store.open()
    there = owners | {"root": User(0, host), "unknown": User(4_000_000_000, host)}
    for name, owner in there.items():
        record = await store.record(name)
        assert record is not None
        assert record.owner == owner
        assert await store.find_key("ticket", owner) == name
        if owner is not None:
            assert record.owner is not None
            assert record.owner.name == {"root": "root", "other": "ann"}.get(name, "")
            assert [row.record.workflow_id for row in await store.list(Selection(owner=owner))] == [name]
    await store.close()
    await to_file(url, back, host=host)
    file = SqliteStore(back)
    await file.open()
    for name, owner in owners.items():
        record = await file.record(name)
        assert record is not None
        assert record.owner == owner
        assert await file.find_key("ticket", owner) == name
    await file.close()


async def test_work_goes_on_there(path: Path, url: PostgresUrl) -> None:
    """What was moved is found by all that listings ask for, and new rows get numbers of their own."""
    await to_postgres(path, url, host="app1")
    store = PostgresStore(url)
    await store.open()
    assert store.setback == ""
    assert await store.unfinished_count() == _WORKFLOWS // 2
    assert [row.record.workflow_id for row in await store.list(Selection(labels={"n": "5", "ż": '"'}))] == ["w5"]
    assert [row.record.workflow_id for row in await store.list(Selection(owner=User(7, "app1")))] == ["w7"]
    assert len(await store.list(Selection(parent_task="p"))) == 14
    term = await store.term()
    assert term is not None
    assert (term.number, term.holder.host) == (42, "here")
    newest = (await store.audit(None, limit=1))[0][0]
    await store.save([workflow("new")], [node("new", 0)], [JournalEntry("new", 2.0, "hold", "x")])
    assert (await store.audit(None, limit=1))[0][0] > newest
    assert (await store.list(Selection(limit=1)))[0].record.workflow_id == "new"
    await store.close()


async def test_after_a_kill(path: Path, url: PostgresUrl, tmp_path: Path) -> None:
    """What a killed daemon has left is moved with its log, and the next start knows that it was killed."""
    script = (
        "import os, sys, anyio, pathlib\n"
        "from dyrygentd.store.sqlite import SqliteStore\n"
        "from tests.store.records import workflow\n"
        "async def main():\n"
        "    store = SqliteStore(pathlib.Path(sys.argv[1])); await store.open()\n"
        "    await store.save([workflow('late')], []); os._exit(9)\n"
        "anyio.run(main)"
    )
    assert (await anyio.run_process([sys.executable, "-c", script, str(path)], check=False)).returncode == 9
    await to_postgres(path, url, host="app1")
    store = PostgresStore(url)
    await store.open()
    assert await store.record("late") is not None
    assert '"killed": true' in (await store.recall(CLOSED_NOTE) or "")
    await store.close()


class _StoppedError(Exception):
    pass


def _stop(done: int, of: int) -> None:
    if done * 2 > of:
        raise _StoppedError


async def test_interrupted(path: Path, url: PostgresUrl, tmp_path: Path) -> None:
    """Whenever it ends early the source is as it was and the target has nothing; then it is done again."""
    before = _in_file(path, "notes", "name, value")
    with pytest.raises(_StoppedError):
        await to_postgres(path, url, host="app1", progress=_stop)
    assert _in_file(path, "notes", "name, value") == before
    assert _in_schema(url, "workflows", "id") == []
    store = SqliteStore(path)
    await store.open()
    await store.close()
    await to_postgres(path, url, host="app1")
    back = tmp_path / "back.db"
    with pytest.raises(_StoppedError):
        await to_file(url, back, host="app1", progress=_stop)
    assert {name for name in os.listdir(tmp_path) if not name.startswith("state.db")} == {"back.db.lock"}
    assert ("moved",) not in _in_schema(url, "notes", "name")
    await to_file(url, back, host="app1")


async def test_what_is_refused(path: Path, url: PostgresUrl, tmp_path: Path) -> None:
    """A daemon has one of them, or there is something in the target: nothing is changed."""
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreLocked):
        await to_postgres(path, url, host="app1")
    await store.close()
    there = PostgresStore(url)
    await there.open()
    with pytest.raises(StoreLocked):
        await to_postgres(path, url, host="app1")
    with pytest.raises(StoreLocked):
        await to_file(url, tmp_path / "other.db", host="app1")
    await there.save([workflow("w")], [])
    letter = Letter("token", LetterKind.SUBMIT, b"{}", "v", User(7, "app2"), "app2")
    await there.mailbox.leave(letter)
    await there.close()
    with pytest.raises(StoreUnavailable, match="1 letters wait") as refused:
        await to_file(url, tmp_path / "other.db", host="app1")
    assert "start one on it" in refused.value.next_step
    with pytest.raises(StoreUnavailable, match="has 1 workflows already"):
        await to_postgres(path, url, host="app1")
    with pytest.raises(StoreUnavailable, match="exists"):
        await to_file(url, path, host="app1")
    with pytest.raises(StoreUnavailable, match="there is no database"):
        await to_postgres(tmp_path / "nowhere.db", url, host="app1")
