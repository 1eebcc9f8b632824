"""Submissions of a series: what is answered, and that it is on disk by then."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from dyrygentd.core.graph import Definition
from dyrygentd.core.series import series_of
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.ports.facts import Selection
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, MemoryStore
from dyrygentd.wire import Submitted
from tests.scheduler.support import definition, scheduler, until

pytestmark = pytest.mark.anyio


def _one(if_running: str, *, series: str = "nightly", **options: Any) -> Definition:
    return replace(definition("a; b < a", **options), series=series_of(series, if_running))


def _told(submitted: Submitted) -> tuple[bool, str, str]:
    return submitted.created, submitted.decided, submitted.reason


async def test_skipped_answers_with_the_run_that_goes_on() -> None:
    """Nothing is created and nothing kept; the same key may be submitted again when that one has ended."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store) as running:
        first = await running.submit_definition(_one("skip"))
        assert _told(first) == (True, "began", "")
        skipped = await running.submit_definition(_one("skip", key="slot-2"))
        assert _told(skipped) == (False, "skipped", f"skipped: run {first.id[:8]} of series 'nightly' goes on")
        assert (skipped.id, skipped.going) == (first.id, first.id)
        assert [view.id for view in (await running.list(Selection(series="nightly"))).workflows] == [first.id]
        assert (await running.journal(first.id)).entries[-1].verb == "skipped-run"
        await running.cancel(first.id)
        again = await running.submit_definition(_one("skip", key="slot-2"))
        assert _told(again) == (True, "began", "")
        assert (await running.submit_definition(_one("skip", key="slot-2"))).created is False


async def test_one_key_many_times_at_once() -> None:
    """A key that is skipped is skipped for all who wait with it; one that begins is found by the others."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, MemoryStore()) as running:
        answers: list[Submitted] = []

        async def submit(key: str) -> None:
            answers.append(await running.submit_definition(_one("skip", key=key, prefix=key)))

        async with anyio.create_task_group() as tasks:
            for key in ("k1", "k1", "k2", "k2", "k3"):
                tasks.start_soon(submit, key)
        assert len({answer.id for answer in answers}) == 1
        assert sum(answer.created for answer in answers) == 1
        assert sum(answer.decided == "skipped" for answer in answers) == 3


async def test_queue_one_and_cancel_old(tmp_path: Path) -> None:
    """The answers name the other runs; what waits is read back after a restart, and begins when the other one ends."""
    broker = FakeBroker(holds=True)
    path = tmp_path / "state.db"
    async with scheduler(broker, SqliteStore(path)) as running:
        first = await running.submit_definition(_one("queue_one", prefix="first"))
        second = await running.submit_definition(_one("queue_one", prefix="second"))
        third = await running.submit_definition(_one("queue_one", prefix="third"))
        assert (second.decided, second.going) == ("queued", first.id)
        assert (third.decided, third.going, third.ended) == ("queued", first.id, [second.id])
        view = await running.view(second.id)
        assert (view.state, view.error) == ("cancelled", f"run {third.id} of its series 'nightly' waits in its place")
        view = await running.view(third.id)
        assert (view.state, view.series, view.if_running, view.queued_behind) == ("scheduled", "nightly", "queue_one", first.id)
        told = await running.explain(third.id)
        assert f"it begins when run {first.id[:8]} of its series 'nightly' has ended" in told.verdict
    async with scheduler(broker, SqliteStore(path)) as running:
        assert (await running.view(third.id)).queued_behind == first.id
        broker.let_go("first/a")
        await until(lambda: any(message.task_id == "first/b" for message in broker.published))
        broker.let_go("first/b")
        await running.wait(first.id, timeout_s=5)
        await until(lambda: any(message.task_id == "third/a" for message in broker.published))
        assert (await running.view(third.id)).state == "running"
        last = await running.submit_definition(_one("cancel_old"))
        assert (last.decided, last.ended) == ("began", [third.id])
        assert (await running.view(third.id)).state == "cancelled"


async def test_skipped_holds_no_task_ids() -> None:
    """The ids of what was skipped are free for whoever comes with them."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, MemoryStore()) as running:
        await running.submit_definition(_one("skip"))
        for _ in range(2):
            given = replace(_one("skip", prefix="mine"), chosen=frozenset({0, 1}))
            assert (await running.submit_definition(given)).decided == "skipped"
        other = replace(definition("a; b < a", prefix="mine"), chosen=frozenset({0, 1}))
        assert (await running.submit_definition(other)).created


async def test_no_answer_before_the_disk_has_it() -> None:
    """While the disk refuses nobody is told that something was decided; then all of it holds."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store) as running:
        first = await running.submit_definition(_one("cancel_old"))
        store.broken = "no space left"
        answers: list[Submitted] = []

        async def submit() -> None:
            answers.append(await running.submit_definition(_one("cancel_old", key="k")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            await until(lambda: running.health().problems != [])
            assert not answers
            store.broken = ""
        (second,) = answers
        assert second.ended == [first.id]
        record = await store.record(first.id)
        assert record is not None
        assert record.state.value == "cancelled"


async def test_bulk_cancel_leaves_nothing_waiting() -> None:
    """Whoever cancels all runs of a series in one go has none begin after it."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, MemoryStore()) as running:
        for _ in range(2):
            await running.submit_definition(_one("queue_one"))
        await running.perform_in_bulk(Selection(series="nightly"), VerbRequest(Verb.CANCEL))
        views = (await running.list(Selection(series="nightly"))).workflows
        assert [view.state for view in views] == ["cancelled", "cancelled"]
