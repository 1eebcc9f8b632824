"""What workers report is worked in before it is noted as read, whatever the disk does."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from dyrygentd.core.events import TaskIgnored, TaskReported, TaskSucceeded
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.facts import REPORTS_NOTE
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, FakeReports, MemoryStore
from tests.scheduler.support import definition, limits, scheduler, settle, until

pytestmark = pytest.mark.anyio


async def _task_id(running: Scheduler, workflow_id: str) -> str:
    await until(lambda: running.statistics().dispatcher["published"] > 0)
    (node,) = (await running.nodes(workflow_id)).nodes
    assert node.task_id is not None
    return node.task_id


def _hanging() -> FakeBroker:
    """A broker whose workers store nothing."""
    return FakeBroker(holds=True)


class _Dying(SqliteStore):
    """A store of a process that is killed before its next save ends."""

    is_dying = False

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        if self.is_dying:
            raise StoreUnavailable("the process is gone")
        await super().save(workflows, nodes, journal)


async def test_place_is_noted_and_read_on_from(tmp_path: Path) -> None:
    """The place is noted after what was reported up to it is on disk, and the next process is told it."""
    for number, before in enumerate((None, "0-1")):
        reports, broker = FakeReports(), _hanging()
        async with scheduler(broker, SqliteStore(tmp_path / "state.db"), reports=reports) as running:
            assert reports.begun[1] == before
            handle = await running.submit(definition("a"))
            task_id = await _task_id(running, handle.id)
            reports.report(TaskIgnored(task_id, "no need"), offset=f"0-{number + 1}")
            outcome = await handle.wait(timeout_s=5)
            assert (outcome.state, outcome.error) == ("succeeded", "no need")
            await until(lambda reports=reports: reports.kept_offsets != [])  # type: ignore[misc]
            assert reports.kept_offsets == [f"0-{number + 1}"]


async def test_nothing_is_noted_before_it_is_saved(tmp_path: Path) -> None:
    """A process that dies between a report and its saving reads the report again, so nothing of it is lost."""
    reports, store = FakeReports(), _Dying(tmp_path / "state.db")
    async with scheduler(_hanging(), store, reports=reports) as running:
        handle = await running.submit(definition("a"))
        task_id = await _task_id(running, handle.id)
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 1)
        store.is_dying = True
        reports.report(TaskSucceeded(task_id, b"1"), offset="0-1")
        await until(lambda: running.statistics().problems != [])
        await settle()
        assert (await store.recall("reports"), reports.kept_offsets) == (None, [])
    again = FakeReports()
    async with scheduler(_hanging(), SqliteStore(tmp_path / "state.db"), reports=again) as running:
        assert again.begun == (reports.begun[0], None)
        assert (await running.view(handle.id)).state == "running"
        again.report(TaskSucceeded(task_id, b"1"), offset="0-1")
        assert (await running.outcome(handle.id, timeout_s=5)).result == 1


async def test_reports_wait_for_the_disk() -> None:
    """While the disk refuses, reports are taken in and not noted; later the newest place is."""
    reports, store = FakeReports(), MemoryStore()
    async with scheduler(_hanging(), store, reports=reports) as running:
        handle = await running.submit(definition("a"))
        task_id = await _task_id(running, handle.id)
        store.broken = "the disk is full"
        reports.report(TaskReported(task_id, "RETRY", "w@h", 5.0), offset="0-1")
        reports.report(TaskSucceeded(task_id, b"1"), offset="0-2")
        await until(lambda: running.statistics().problems != [])
        await settle()
        assert reports.kept_offsets == []
        store.broken = ""
        await handle.wait(timeout_s=5)
        await until(lambda: reports.kept_offsets != [])
        assert reports.kept_offsets == ["0-2"]


async def test_note_that_cannot_be_written() -> None:
    """If only the note fails, the results stand, and the report is read again after a restart."""

    class Forgetful(MemoryStore):
        async def remember(self, name: str, value: str) -> None:
            if name == REPORTS_NOTE:
                raise StoreUnavailable("the disk is full")
            await super().remember(name, value)

    reports = FakeReports()
    async with scheduler(_hanging(), Forgetful(), reports=reports) as running:
        handle = await running.submit(definition("a"))
        reports.report(TaskSucceeded(await _task_id(running, handle.id), b"1"), offset="0-1")
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
        await settle()
        assert reports.kept_offsets == []
        assert running.health().status == "ok"


async def test_next_try_is_explained_and_forgotten() -> None:
    """The time of a task's own next try is told until the task says something else, or ends."""
    reports = FakeReports()
    async with scheduler(_hanging(), reports=reports) as running:
        handle = await running.submit(definition("a"))
        task_id = await _task_id(running, handle.id)
        reports.report(TaskReported(task_id, "RETRY", "w@h", 45_296.0), offset="0-1")
        # The stored state comes by another way, and knows less.
        reports.report(TaskReported(task_id, "RETRY"), offset="0-2")
        await until(lambda: reports.kept_offsets == ["0-1", "0-2"] or reports.kept_offsets == ["0-2"])
        assert "w@h reported RETRY, next try at 12:34:56 UTC" in (await running.explain(handle.id, "a")).verdict
        reports.report(TaskReported(task_id, "STARTED"), offset="0-3")
        await until(lambda: "0-3" in reports.kept_offsets)
        assert "next try" not in (await running.explain(handle.id, "a")).verdict


async def test_reported_end_is_not_lost() -> None:
    """A task that is found nowhere is not lost as long as a worker has reported its end; without the report it is."""
    reports, broker = FakeReports(), _hanging()
    quick = limits(lost_after_s=0.05, lost_confirm_s=0.05)
    async with scheduler(broker, reports=reports, inspector=broker.inspector, limits=quick) as running:
        handle = await running.submit(definition("a on_lost=fail", prefix="p"))
        await _task_id(running, handle.id)
        reports.ended.add("p/a")
        broker.lose("p/a")
        await until(lambda: running.statistics().lost["findings"]["finished"] >= 3)
        assert (await running.view(handle.id)).state == "running"
        assert "a worker has reported that it ended" in (await running.explain(handle.id, "a")).verdict
        reports.ended.clear()
        assert (await handle.wait(timeout_s=5)).state == "failed"
