"""A database of every released schema goes on under this one, with a copy of what it was beside it."""
# ruff: noqa: ASYNC240 - small files of a test may block

import logging
import os
import sqlite3
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

import dyrygentd.store
from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.facts import Selection
from dyrygentd.store.copies import COPIES_MAX
from dyrygentd.store.migrations import APPLICATION_ID, VERSION
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, scheduler
from tests.store.make_version import GRAPHS

pytestmark = pytest.mark.anyio

_HERE: Final = Path(__file__).parent
#: Version 1 has a fixture and tests of its own, in `test_upgrade`.
_VERSIONS: Final = range(2, VERSION + 1)


def make(path: Path, version: int) -> Path:
    """Make a database as ``version`` left it."""
    connection = sqlite3.connect(path)
    connection.executescript((_HERE / f"schema_{version}.sql").read_text())
    connection.executescript((_HERE / f"version_{version}.sql").read_text())
    connection.executescript(
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}; PRAGMA journal_mode = WAL"
    )
    connection.close()
    return path


def _dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [*connection.iterdump()]
    finally:
        connection.close()


def _query(path: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def _open_and_close(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()


def test_every_version_has_a_fixture() -> None:
    """Whoever raises the version leaves a database of it, and nobody changes a schema that was released."""
    for version in range(1, VERSION + 1):
        assert (_HERE / f"schema_{version}.sql").exists(), "see make_version.py"
        assert (_HERE / f"version_{version}.sql").exists(), "see make_version.py"
    present = Path(dyrygentd.store.__path__[0]) / "schema.sql"
    assert present.read_text() == (_HERE / f"schema_{VERSION}.sql").read_text()


@pytest.mark.parametrize("version", _VERSIONS)
async def test_every_workflow_goes_on(path: Path, version: int) -> None:
    """What ran, was held, paused, tried again, polled or in flight comes to its end, and nothing runs a second time."""
    make(path, version)
    broker = FakeBroker({"tasks.poll": lambda: True})
    async with scheduler(broker, SqliteStore(path)) as running:
        rows = (await running.list(Selection())).workflows
        assert {row.name: row.id for row in rows} == {name: f"w-{name}" for name in GRAPHS}
        for name in ("succeeded", "failed", "cancelled"):
            assert (await running.view(f"w-{name}")).state == name
        assert (await running.view("w-paused")).state == "paused"
        held = {node.name: node.hold for node in (await running.nodes("w-held")).nodes}
        assert (held["b"], held["g"]) == ("operator", "gate")
        entries = (await running.journal("w-held")).entries
        assert [(entry.verb, entry.by, entry.why, entry.nodes) for entry in entries] == [("hold", "ops", "a reason", ["b"])]
        # Results that came while no daemon ran.
        for task in ("running/b", "skipped/after", "lost/a"):
            broker.deliver(TaskSucceeded(task, b"2"))
        await running.perform("w-paused", VerbRequest(Verb.RESUME))
        await running.perform("w-held", VerbRequest(Verb.RELEASE, nodes=("b", "g")))
        for name in ("running", "paused", "held", "retrying", "polling", "skipped", "lost"):
            assert (await running.wait(f"w-{name}", timeout_s=10)).state == "succeeded", name
        sent = [message.task_id for message in broker.published]
        assert len(sent) == len(set(sent))
        # What was in flight is not sent again, and what had ended does not run again.
        assert not {"running/a", "running/b", "held/a", "paused/a", "lost/a", "skipped/after"} & set(sent)
        assert {"running/c", "running/late", "paused/b", "held/b", "held/c", "polling/after", "retrying/after"} <= set(sent)


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("name", ["failed", "cancelled"])
async def test_finished_workflows_are_retried(path: Path, version: int, name: str) -> None:
    """What had failed or was cancelled is tried again with what was kept of it."""
    make(path, version)
    async with scheduler(FakeBroker(), SqliteStore(path)) as running:
        assert (await running.nodes(f"w-{name}")).nodes
        assert (await running.causes(f"w-{name}")).failures == (1 if name == "failed" else 0)
        assert (await running.perform(f"w-{name}", VerbRequest(Verb.RETRY))).is_changed
        assert (await running.wait(f"w-{name}", timeout_s=5)).state == "succeeded"


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_copy_is_what_the_database_was(path: Path, version: int, caplog: pytest.LogCaptureFixture) -> None:
    """The copy opens as the old version, has every row, is private, and the log names it."""
    caplog.set_level(logging.INFO, "dyrygentd.store")
    before = _dump(make(path, version))
    await _open_and_close(path)
    copy = path.with_name(f"state.db.v{version}.bak")
    assert _dump(copy) == before
    assert _query(copy, "PRAGMA user_version") == [(version,)]
    assert _query(copy, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert _query(copy, "PRAGMA integrity_check") == [("ok",)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert _query(path, "PRAGMA user_version") == [(VERSION,)]
    assert any(copy.name in record.getMessage() for record in caplog.records)
    # The next start has nothing to do, and makes none.
    await _open_and_close(path)
    names = sorted(entry.name for entry in path.parent.iterdir())
    assert names == ["state.db", "state.db.lock", copy.name]


async def test_copy_holds_what_is_only_in_the_log(path: Path) -> None:
    """A daemon that was killed leaves its last transactions in the write-ahead log; the copy has them."""
    make(path, 1)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE workflows SET name = 'changed last' WHERE id = 'w-running'")
    connection.commit()
    killed = path.parent / "killed.db"
    killed.write_bytes(path.read_bytes())
    killed.with_name("killed.db-wal").write_bytes(path.with_name("state.db-wal").read_bytes())
    connection.close()
    await _open_and_close(killed)
    copy = killed.with_name("killed.db.v1.bak")
    assert _query(copy, "SELECT count(*) FROM workflows WHERE name = 'changed last'") == [(1,)]


async def test_older_copies_are_kept(path: Path) -> None:
    """Whoever goes back and upgrades again keeps the first copy; the number of copies is bounded, and nothing is changed then."""
    for number in range(COPIES_MAX):
        path.unlink(missing_ok=True)
        make(path, 1)
        _query(path, "SELECT 1")
        connection = sqlite3.connect(path)
        connection.execute("UPDATE workflows SET name = ? WHERE id = 'w-running'", (f"upgrade {number}",))
        connection.commit()
        connection.close()
        await _open_and_close(path)
    for number, suffix in enumerate(["", ".2", ".3", ".4", ".5"]):
        copy = path.with_name(f"state.db.v1.bak{suffix}")
        assert _query(copy, "SELECT name FROM workflows WHERE id = 'w-running'") == [(f"upgrade {number}",)]
    path.unlink()
    make(path, 1)
    with pytest.raises(StoreUnavailable, match="5 copies") as caught:
        await _open_and_close(path)
    assert "delete those" in caught.value.next_step
    assert _query(path, "PRAGMA user_version") == [(1,)]


async def test_no_upgrade_without_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the copy nothing is changed, and the message has the figures and what to do."""
    make(path, 1)
    full = SimpleNamespace(f_bavail=10, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(StoreUnavailable, match="no room for a copy") as caught:
        await _open_and_close(path)
    assert "nothing was changed" in caught.value.next_step
    assert _query(path, "PRAGMA user_version") == [(1,)]
    assert not [*path.parent.glob("*.bak*")]
    monkeypatch.undo()
    await _open_and_close(path)
    assert _query(path, "PRAGMA user_version") == [(VERSION,)]


async def test_failed_copy_is_no_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If copying fails, nothing that looks like a copy is left, and the database is as it was."""
    make(path, 1)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StoreUnavailable, match="cannot copy the database"):
        await _open_and_close(path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["state.db", "state.db.lock"]
    assert _query(path, "PRAGMA user_version") == [(1,)]


async def test_views_are_for_people(path: Path) -> None:
    """Whoever has `sqlite3` alone reads who submitted what, how long it took, why it failed, and who did what to it."""
    broker = FakeBroker({"tasks.bad": lambda _: 1 // 0})
    async with scheduler(broker, SqliteStore(path)) as running:
        submitted = await running.submit_definition(definition("a; bad < a"), owner=1000)
        await running.wait(submitted.id, timeout_s=5)
        await running.perform(submitted.id, VerbRequest(Verb.RETRY, by="ops", why="CHG-42"))
        await running.wait(submitted.id, timeout_s=5)
    columns = "id, state, owner_uid, tasks, created LIKE '20__-__-__ __:__:__', seconds >= 0, finished IS NOT NULL"
    query = f"SELECT {columns} FROM v_workflows"
    assert _query(path, query) == [(submitted.id, "failed", 1000, 2, 1, 1, 1)]
    nodes = _query(path, "SELECT workflow, node, state, error, cause IS NOT NULL, seconds >= 0 FROM v_nodes ORDER BY node")
    assert [row[1:3] for row in nodes] == [(0, "succeeded"), (1, "failed")]
    named = "SELECT node_name, node FROM v_nodes WHERE workflow = ? AND state = 'failed'"
    assert _query(path, named.replace("?", f"'{submitted.id}'")) == [("bad", 1)]
    assert "'bad'" in _query(path, "SELECT error FROM v_workflows")[0][0]
    assert nodes[1][3].startswith("ZeroDivisionError")
    assert nodes[1][4:] == (1, 1)
    attempts = "SELECT workflow, node_name, attempt, seconds >= 0, how, error FROM v_attempts"
    assert _query(path, attempts) == [(submitted.id, "bad", 1, 1, "failed", nodes[1][3])]
    assert _query(path, "SELECT workflow, verb, by, why FROM v_journal") == [(submitted.id, "retry", "ops", "CHG-42")]


@pytest.mark.parametrize("version", range(1, VERSION))
async def test_nodes_of_every_version_have_names(path: Path, version: int) -> None:
    """What ran before the upgrade is told by its names as well; nodes of a definition that is damaged are shown without."""
    make(path, version)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE workflows SET document = X'00' WHERE name = 'cancelled'")
    connection.commit()
    connection.close()
    await _open_and_close(path)
    query = "SELECT node_name, state FROM v_nodes WHERE workflow_name = '{}' ORDER BY node"
    assert _query(path, query.format("failed")) == [("a", "succeeded"), ("bad", "failed"), ("after", "blocked")]
    # From version 6 on they have a table of their own.
    names = ("a", "b") if version >= 6 else (None, None)
    assert _query(path, query.format("cancelled")) == [(name, "cancelled") for name in names]
    rows = _query(path, "SELECT count(*) FROM nodes") + _query(path, "SELECT count(*) FROM v_nodes")
    assert rows[0] == rows[1]


async def test_an_upgrade_tells_how_far_it_is(path: Path) -> None:
    """The copy is told page by page, and the upgrade that somebody is at work: systemd would end a start that seems to hang."""
    make(path, 2)
    connection = sqlite3.connect(path)
    # Enough for several parts of the copy.
    connection.execute("CREATE TABLE fill (text TEXT)")
    connection.executemany("INSERT INTO fill VALUES (?)", [("x" * 1000,)] * 20_000)
    connection.commit()
    connection.close()
    told: list[tuple[str, int, int]] = []
    store = SqliteStore(path, progress=lambda *step: told.append(step))
    await store.open()
    await store.close()
    copied = [(done, of) for what, done, of in told if what == "copying the database before it is upgraded"]
    assert len(copied) > 2
    assert copied[-1][0] == copied[-1][1]
