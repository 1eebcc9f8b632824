"""Workflows that finished and go on, beside a history that is trimmed."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.core.records import JournalEntry
from dyrygentd.core.states import WorkflowState
from dyrygentd.errors import InvariantBroken
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import finished, node, workflow

pytestmark = pytest.mark.anyio


def _count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        connection.close()


async def _end(store: SqliteStore, *names: str, at: float = 1.0) -> None:
    await store.save([workflow(name) for name in names], [])
    await store.save([finished(workflow(name), finished_at=at) for name in names], [])


async def _open(path: Path, history_max: int) -> SqliteStore:
    store = SqliteStore(path, history_max=history_max)
    await store.open()
    return store


async def test_count_of_the_finished_stays_right(path: Path) -> None:
    """However often workflows end, go on and end again, in one save or several, the history has the length it should."""
    store = await _open(path, history_max=4)
    await _end(store, "a", "b", "c")
    for _ in range(3):
        await store.save([workflow("a", document=None)], [])
        assert store._history.finished == 2
        await store.save([finished(workflow("a"))], [])
        assert store._history.finished == 3
        # Ended, went on and ended while the disk did not work: one record is left of it.
        await store.save([finished(workflow("b"))], [node("b", 0)])
        assert store._history.finished == 3
    await store.save([workflow("c", document=None), workflow("new")], [])
    await store.save([finished(workflow("c")), finished(workflow("new"))], [])
    assert (store._history.finished, _count(path, "workflows")) == (4, 4)
    await store.close()
    store = await _open(path, history_max=4)
    assert store._history.finished == 4
    await store.close()


async def test_failed_save_leaves_the_count_alone(path: Path) -> None:
    """A save that fails and is repeated counts once: what had finished is looked up anew."""
    store = await _open(path, history_max=10)
    await _end(store, "a", "b")
    bad: Any = node("a", 0, attempt=None)
    for record in (workflow("a", document=None), finished(workflow("a"))):
        for _ in range(2):
            with pytest.raises(InvariantBroken):
                await store.save([record], [bad])
        assert store._history.finished == 2
    await store.save([workflow("a", document=None)], [])
    assert store._history.finished == 1
    with pytest.raises(InvariantBroken):
        await store.save([finished(workflow("a"))], [bad])
    await store.save([finished(workflow("a"))], [])
    assert store._history.finished == 2
    assert store._row_writer.sequence_of == {}
    await store.close()


async def test_what_is_about_to_go_on_is_not_deleted(path: Path) -> None:
    """Between reading a finished workflow and saving it running others end; the history is trimmed without it."""
    store = await _open(path, history_max=2)
    await _end(store, "old", at=1.0)
    assert await store.load("old", to_reopen=True) is not None
    for number in range(5):
        await _end(store, f"w{number}", at=2.0 + number)
    assert await store.load("old") is not None
    await store.save([workflow("old", document=None)], [node("old", 0)])
    assert [stored.record.workflow_id async for stored in store.unfinished()] == ["old"]
    # From its next end on it is one of many.
    await store.save([finished(workflow("old"), finished_at=0.5)], [])
    await _end(store, "last", at=9.0)
    assert await store.load("old") is None
    await store.close()


async def test_one_goes_on_as_another_ends(path: Path) -> None:
    """A finished workflow that goes on makes room: the one that ends in the same transaction is not trimmed for it."""
    store = await _open(path, history_max=1)
    await _end(store, "old", at=1.0)
    await store.save([workflow("new")], [])
    assert await store.load("old", to_reopen=True) is not None
    ends = finished(workflow("new"), finished_at=2.0)
    await store.save([workflow("old", document=None), ends], [node("old", 0)])
    assert await store.load("new") is not None
    assert store._history.finished == 1
    await store.close()


async def test_what_is_kept_is_bounded(path: Path) -> None:
    """Reading to go on, without anything coming of it, does not keep the history from being trimmed for ever."""
    store = await _open(path, history_max=1)
    await _end(store, "a", at=1.0)
    await store.load("a", to_reopen=True)
    await _end(store, *(f"w{number}" for number in range(150)), at=2.0)
    for number in range(150):
        await store.load(f"w{number}", to_reopen=True)
    assert len(store._history.kept) <= 100
    await store.close()


async def test_workflow_that_was_deleted_is_not_missed(path: Path) -> None:
    """Whatever still comes of a workflow that is gone is dropped, its end included, and the count stays right."""
    store = await _open(path, history_max=1)
    await _end(store, "gone", at=1.0)
    await _end(store, "a", at=2.0)
    assert await store.load("gone") is None
    entry = JournalEntry("gone", 1.0, "retry", "ops")
    await store.save([workflow("gone", document=None)], [node("gone", 0)], [entry])
    await store.save([finished(workflow("gone"))], [node("gone", 0)], [entry])
    assert (store._history.finished, _count(path, "workflows"), _count(path, "nodes"), _count(path, "journal")) == (1, 1, 0, 0)
    await store.close()


async def test_journal_and_nodes_go_with_their_workflow(path: Path) -> None:
    """Deleting a workflow from the history takes its nodes and its journal along."""
    store = await _open(path, history_max=1)
    await store.save([workflow("a")], [node("a", 0)], [JournalEntry("a", 1.0, "pause", "ops")])
    await store.save([finished(workflow("a"), WorkflowState.CANCELLED, finished_at=1.0)], [])
    assert _count(path, "journal") == 1
    await _end(store, "b", at=2.0)
    assert (_count(path, "workflows"), _count(path, "nodes"), _count(path, "journal")) == (1, 0, 0)
    await store.close()


async def test_history_of_nothing(path: Path) -> None:
    """With no history at all an end deletes its own workflow, and that is no error."""
    store = await _open(path, history_max=0)
    await _end(store, "a")
    assert (_count(path, "workflows"), store._history.finished) == (0, 0)
    await store.close()
