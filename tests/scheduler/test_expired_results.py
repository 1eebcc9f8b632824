"""What is told of results that expired while no daemon ran."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dyrygentd.ports.facts import Inspection, QueueFacts, TaskFacts, TaskPlace
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, FakeInspector
from tests.scheduler.support import definition, limits, scheduler, settle, until

pytestmark = pytest.mark.anyio


async def test_result_that_expired_while_no_daemon_ran(tmp_path: Path) -> None:
    """Who asks after a restart is told when no daemon ran, if results are kept for less than that."""
    broker = FakeBroker(holds=True)
    bounds = limits(lost_after_s=3600.0)
    async with scheduler(broker, SqliteStore(tmp_path / "state.db"), inspector=broker.inspector, limits=bounds) as running:
        workflow_id = (await running.submit(definition("a!; b!"))).id
        await until(lambda: len(broker.published) == 2)
        await settle()
    asked = _Forgetful(broker)
    async with scheduler(broker, SqliteStore(tmp_path / "state.db"), inspector=asked, limits=bounds) as running:
        absence = running._parts.roster.absence
        assert absence is not None
        asked.kept_s = absence.until - absence.since
        found = await running.explain(workflow_id)
        assert found.standings[0].code == "lost"
        assert "no daemon ran from" in found.standings[0].text
        asked.kept_s += 1.0
        found = await running.explain(workflow_id)
        assert "no daemon ran from" not in found.standings[0].text


class _Forgetful(FakeInspector):
    """Finds no task anywhere, and says how long a backend keeps results."""

    kept_s = 0.0

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        found = await super().trace(tasks)
        facts = {task.task_id: TaskFacts(task.task_id, "celery", is_reserved=False, stored_state="") for task in tasks}
        queue = QueueFacts("celery", length=0, is_searched=True, workers=found.workers or ())
        return replace(found, tasks=facts, queues={"celery": queue}, results_kept_s=self.kept_s)
