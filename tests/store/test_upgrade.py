"""A database of version 1, as that version wrote it, goes on under this one."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Final

import anyio
import pytest

from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import ValueGone
from dyrygentd.ports.facts import Selection
from dyrygentd.store.migrations import APPLICATION_ID, VERSION
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import published, scheduler, until
from tests.support.servers import REPOSITORY

pytestmark = pytest.mark.anyio

_HERE: Final = Path(__file__).parent


@pytest.fixture
def old(path: Path) -> Path:
    """A database as version 1 left it."""
    connection = sqlite3.connect(path)
    connection.executescript((_HERE / "schema_1.sql").read_text())
    connection.executescript((_HERE / "version_1.sql").read_text())
    connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; PRAGMA journal_mode = WAL")
    connection.close()
    return path


def _schema(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the columns of each table, and the indexes."""
    connection = sqlite3.connect(path)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema ORDER BY name")]
        return {name: connection.execute(f"PRAGMA table_xinfo('{name}')").fetchall() for name in tables}
    finally:
        connection.close()


def _version(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


async def test_upgraded_schema_is_the_new_one(old: Path, tmp_path: Path) -> None:
    """A database that was upgraded has the tables and indexes that a new one has, so that no query can tell them apart."""
    for path in (old, tmp_path / "new.db"):
        store = SqliteStore(path)
        await store.open()
        await store.close()
    assert _schema(old) == _schema(tmp_path / "new.db")
    assert _version(old) == VERSION


async def test_running_workflow_goes_on(old: Path) -> None:
    """What was in flight and what was held are found again, nothing runs a second time, and it comes to its end."""
    broker = FakeBroker({"tasks.b": lambda n: n + 1})
    async with scheduler(broker, SqliteStore(old)) as running:
        assert running.statistics().engine["counters"]["recovered"] == 1
        # The result of what was in flight came while no daemon ran.
        await until(lambda: published(broker) == ["late"])
        broker.deliver(TaskSucceeded("b4", b"2"))
        view = await running.wait("w-running", timeout_s=5)
        assert (view.state, published(broker)) == ("succeeded", ["late", "c"])
        assert broker.published[-1].input == b"2"


async def test_finished_workflows_are_shown(old: Path) -> None:
    """Listings, nodes, keys, causes and the empty journal of the old ones are there."""
    broker = FakeBroker()
    async with scheduler(broker, SqliteStore(old)) as running:
        ids = [view.id for view in (await running.list(Selection())).workflows]
        assert ids == ["w-running", "w-cancelled", "w-failed", "w-succeeded"]
        assert (await running.journal("w-failed")).entries == []
        nodes = (await running.nodes("w-failed")).nodes
        assert [(node.name, node.state) for node in nodes] == [("a", "succeeded"), ("bad", "failed"), ("after", "blocked")]
        causes = await running.causes("w-failed")
        assert (causes.failures, [cause.nodes for cause in causes.causes]) == (1, [["bad"]])
        assert "retry" in (await running.explain("w-failed", "bad")).next_step
        assert (await running.view("w-succeeded")).counts["succeeded"] == 1


@pytest.mark.parametrize(("workflow_id", "sent"), [("w-failed", ["bad", "after"]), ("w-cancelled", ["a", "b"])])
async def test_finished_workflow_is_retried(old: Path, workflow_id: str, sent: list[str]) -> None:
    """What failed or was cancelled under the old version is tried again under this one, with new task ids."""
    broker = FakeBroker()
    async with scheduler(broker, SqliteStore(old)) as running:
        changed = await running.perform(workflow_id, VerbRequest(Verb.RETRY, by="ops", why="fixed"))
        assert changed.is_changed
        assert (await running.wait(workflow_id, timeout_s=5)).state == "succeeded"
        mine = [message for message in broker.published if message.workflow_id == workflow_id]
        assert [message.signature.task.removeprefix("tasks.") for message in mine] == sent
        assert [entry.verb for entry in (await running.journal(workflow_id)).entries] == ["retry"]


async def test_value_that_is_gone_is_told(old: Path) -> None:
    """A value of a workflow that had succeeded was let go then: running it again says so and changes nothing."""
    store = SqliteStore(old)
    connection = sqlite3.connect(old)
    connection.execute("UPDATE nodes SET value = NULL")
    connection.commit()
    connection.close()
    async with scheduler(FakeBroker(), store) as running:
        with pytest.raises(ValueGone):
            await running.perform("w-failed", VerbRequest(Verb.RETRY))
        assert (await running.view("w-failed")).state == "failed"


@pytest.mark.parametrize("statement", range(1, 10))
async def test_crash_amid_the_upgrade(old: Path, statement: int) -> None:
    """Whenever the process dies amid the upgrade, the file is of version 1, and the next start goes on."""
    script = f"""
import os, pathlib, sqlite3, sys
import aiosqlite, anyio
from dyrygentd.store import migrations
from dyrygentd.store.sqlite import SqliteStore

seen = []
def trace(statement):
    if any(word in statement for word in ("BEGIN", "ALTER", "CREATE", "PRAGMA user_version =", "COMMIT")):
        seen.append(statement)
        if len(seen) == {statement}:
            os.kill(os.getpid(), 9)

upgrade = migrations._upgrade
async def traced(connection, *args):
    await connection.set_trace_callback(trace)
    await upgrade(connection, *args)
migrations._upgrade = traced
async def main():
    await SqliteStore(pathlib.Path(sys.argv[1])).open()
anyio.run(main)
"""
    command = [sys.executable, "-c", script, str(old)]
    with anyio.fail_after(60):
        process = await anyio.run_process(command, check=False, cwd=REPOSITORY, stderr=subprocess.STDOUT)
    assert process.returncode == -9, process.stdout
    # A reader that is no SQLite of ours rolls back what is not complete.
    assert _version(old) == 1
    assert "detail" not in str(_schema(old)["nodes"])
    store = SqliteStore(old)
    await store.open()
    assert [row.record.workflow_id for row in await store.list(Selection(states=frozenset({"running"})))] == ["w-running"]
    await store.close()
    assert _version(old) == VERSION
