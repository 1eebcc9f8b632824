"""Rows that the store refuses whatever the disk does: their workflow is set aside, and no other notices."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from dyrygentd.core import outcomes
from dyrygentd.core.events import VerbRequested
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken, WorkflowNotFound
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import definition, published, scheduler, settle, until

pytestmark = pytest.mark.anyio


async def _refuse(path: Path, *triggers: str) -> None:
    """Let the database refuse rows, as one does that contradicts the schema."""
    # In a thread: a transaction that it has to wait for goes on by the loop.
    await anyio.to_thread.run_sync(_make_triggers, path, triggers)


def _make_triggers(path: Path, triggers: Sequence[str]) -> None:
    connection = sqlite3.connect(path)
    for number, condition in enumerate(triggers):
        connection.execute(f"CREATE TRIGGER refuse_{number} {condition} BEGIN SELECT RAISE(ABORT, 'odd row'); END")
    connection.commit()
    connection.close()


_NODES_OF_BAD = "WHEN NEW.workflow IN (SELECT seq FROM workflows WHERE name = 'bad')"


async def _submit_all(running: Scheduler) -> dict[str, str]:
    """Submit three workflows, the one in the middle called bad."""
    return {name: (await running.submit(definition("a; b < a", name=name, prefix=name))).id for name in ("first", "bad", "last")}


async def test_refused_node_sets_its_workflow_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One workflow's row that is refused ends that one with the reason; others of the same transaction go on."""
    path = tmp_path / "state.db"
    broker = FakeBroker(holds=True)
    async with scheduler(broker, SqliteStore(path)) as running:
        ids = await _submit_all(running)
        await until(lambda: len(broker.published) == 3)
        await _refuse(path, f"BEFORE UPDATE ON nodes {_NODES_OF_BAD}")
        broker.holds = False
        broker.let_go()
        for name in ("first", "last"):
            assert (await running.wait(ids[name], timeout_s=5)).state == "succeeded"
        view = await running.wait(ids["bad"], timeout_s=5)
        assert view.state == "failed"
        assert "the database refuses what it has become" in str(view.error)
        assert "odd row" in str(view.error)
        assert sorted(published(broker)) == ["a", "a", "a", "b", "b"]
        assert running.health().status == "ok"
        statistics = running.statistics()
        assert statistics.engine["counters"]["broken"] == 1
        assert (statistics.engine["workflows"], statistics.engine["in_flight"]) == (0, 0)
        assert statistics.store["failures"] == 2
    assert any("is set aside" in record.message for record in caplog.records)
    # It stays so after a restart, and may be tried again when the cause is mended.
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER refuse_0")
    connection.commit()
    connection.close()
    async with scheduler(broker, SqliteStore(path)) as running:
        assert running.statistics().engine["counters"]["recovered"] == 0
        assert (await running.view(ids["bad"])).state == "failed"


async def test_submission_that_is_refused_is_answered(tmp_path: Path) -> None:
    """A new workflow of which nothing can be stored is answered with the reason, and leaves nothing in memory."""
    path = tmp_path / "state.db"
    broker = FakeBroker()
    async with scheduler(broker, SqliteStore(path)) as running:
        await _refuse(path, "BEFORE INSERT ON workflows WHEN NEW.name = 'bad'")
        with pytest.raises(InvariantBroken, match="odd row"):
            await running.submit(definition("a", name="bad", key="k"))
        good = await running.submit(definition("a", name="good"))
        assert (await good.wait(timeout_s=5)).state == "succeeded"
        assert [view.name for view in (await running.list(Selection())).workflows] == ["good"]
        submissions = running._parts.submissions
        assert (submissions._keys, submissions._submitting, submissions._refused) == ({}, {}, {})
        assert running._parts.turns.engine.workflows == {}
    assert published(broker) == ["a"]


async def test_end_that_is_refused(tmp_path: Path) -> None:
    """A workflow whose end cannot be written in any form leaves memory, and goes on from the disk at the next start."""
    path = tmp_path / "state.db"
    broker = FakeBroker(holds=True)
    async with scheduler(broker, SqliteStore(path)) as running:
        ids = await _submit_all(running)
        await until(lambda: len(broker.published) == 3)
        await _refuse(path, f"BEFORE UPDATE ON nodes {_NODES_OF_BAD}", "BEFORE UPDATE ON workflows WHEN NEW.name = 'bad'")
        broker.holds = False
        broker.let_go()
        assert (await running.wait(ids["first"], timeout_s=5)).state == "succeeded"
        assert (await running.wait(ids["last"], timeout_s=5)).state == "succeeded"
        await until(lambda: ids["bad"] not in running._parts.turns.engine.workflows)
        assert running.health().status == "ok"
    connection = sqlite3.connect(path)
    connection.executescript("DROP TRIGGER refuse_0; DROP TRIGGER refuse_1")
    connection.close()
    async with scheduler(broker, SqliteStore(path)) as running:
        assert (await running.wait(ids["bad"], timeout_s=5)).state == "succeeded"
    assert published(broker).count("a") == 3


async def test_bug_of_the_store(caplog: pytest.LogCaptureFixture) -> None:
    """An error in our own code while one workflow is saved ends that one, not the daemon."""

    class Buggy(MemoryStore):
        async def save(self, workflows: Any, nodes: Any, journal: Any = ()) -> None:
            nodes = list(nodes)
            if any(node.workflow_id in self.bad and node.state == "succeeded" for node in nodes):
                raise ZeroDivisionError("a bug")
            await super().save(workflows, nodes, journal)

        bad: frozenset[str] = frozenset()

    broker, store = FakeBroker(holds=True), Buggy()
    async with scheduler(broker, store) as running:
        ids = await _submit_all(running)
        await until(lambda: len(broker.published) == 3)
        store.bad = frozenset({ids["bad"]})
        broker.holds = False
        broker.let_go()
        assert (await running.wait(ids["first"], timeout_s=5)).state == "succeeded"
        assert (await running.wait(ids["last"], timeout_s=5)).state == "succeeded"
        assert "ZeroDivisionError" in str((await running.wait(ids["bad"], timeout_s=5)).error) or "a bug" in str(
            (await running.view(ids["bad"])).error
        )
    assert any(record.exc_info for record in caplog.records)


async def test_disk_that_breaks_amid_saving_apart(tmp_path: Path) -> None:
    """If the disk fails while workflows are saved one by one, each is still saved once, journal included, and goes on."""

    class Breaking(SqliteStore):
        fails_after = -1

        async def save(self, workflows: Any, nodes: Any, journal: Any = ()) -> None:
            workflows, nodes, journal = list(workflows), list(nodes), list(journal)
            if len({node.workflow_id for node in nodes}) > 1:
                return await super().save(workflows, nodes, journal)
            if self.fails_after == 0:
                self.fails_after = -1
                limit = "PRAGMA max_page_count = 1"
                assert self._writer is not None
                await self._writer.execute(limit)
                try:
                    # Long enough that it takes a new page.
                    nodes = [node._replace(value=b'"' + b"x" * 100_000 + b'"') for node in nodes]
                    return await super().save(workflows, nodes, journal)
                finally:
                    await self._writer.execute("PRAGMA max_page_count = 1000000")
            self.fails_after -= 1
            return await super().save(workflows, nodes, journal)

    path = tmp_path / "state.db"
    broker, store = FakeBroker(holds=True), Breaking(path)
    async with scheduler(broker, store) as running:
        ids = await _submit_all(running)
        await until(lambda: len(broker.published) == 3)
        await _refuse(path, f"BEFORE UPDATE ON nodes {_NODES_OF_BAD}")
        store.fails_after = 1
        broker.holds = False
        # In one turn with the results, so that the journal is part of what is taken apart.
        running._parts.inbox.post(VerbRequested(ids["first"], VerbRequest(Verb.HOLD, nodes=("b",), by="ops")))
        broker.let_go()
        assert (await running.wait(ids["last"], timeout_s=5)).state == "succeeded"
        assert (await running.wait(ids["bad"], timeout_s=5)).state == "failed"
        assert store.fails_after < 0
        await running.perform(ids["first"], VerbRequest(Verb.RELEASE, nodes=("b",), by="ops"))
        assert (await running.wait(ids["first"], timeout_s=5)).state == "succeeded"
        assert [entry.verb for entry in (await running.journal(ids["first"])).entries] == ["hold", "release"]


async def test_bug_in_handling_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error inside the core ends the workflow that met it, with the place as its story; the others go on."""
    succeeded = outcomes.succeeded

    def buggy(workflow: RunningWorkflow, node: int, *args: Any, **more: Any) -> None:
        if workflow.name == "bad":
            raise KeyError("a bug")
        succeeded(workflow, node, *args, **more)

    monkeypatch.setattr(outcomes, "succeeded", buggy)
    broker = FakeBroker()
    async with scheduler(broker) as running:
        ids = await _submit_all(running)
        assert (await running.wait(ids["first"], timeout_s=5)).state == "succeeded"
        assert (await running.wait(ids["last"], timeout_s=5)).state == "succeeded"
        view = await running.wait(ids["bad"], timeout_s=5)
        assert view.state == "failed"
        assert "unexpected KeyError" in str(view.error)
        assert "buggy:" in str(view.error)
        with pytest.raises(WorkflowNotFound):
            await running.perform("nobody", VerbRequest(Verb.CANCEL))
        await settle()
