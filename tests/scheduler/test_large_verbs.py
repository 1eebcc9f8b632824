"""Verbs on very many nodes go in parts: nobody else waits for all of it, there is one answer, and a refusal changes nothing."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dyrygentd.core import steps
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import StoreUnavailable, VerbRefused
from dyrygentd.scheduler import Scheduler
from dyrygentd.scheduler.large_verbs import PART
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import definition, limits, scheduler, until

pytestmark = pytest.mark.anyio

_COUNT = 5 * PART + 7
_NAMES = tuple(f"n{number}" for number in range(_COUNT))


def _request(verb: str, *nodes: str, **fields: Any) -> VerbRequest:
    return VerbRequest(Verb(verb), by="ops (uid 7)", why="ticket 1", nodes=nodes, **fields)


async def _gated(running: Scheduler) -> str:
    """Submit many nodes that wait for a gate."""
    handle = await running.submit(definition("; ".join(["first gate=1", *(f"{name} < first" for name in _NAMES)])))
    return handle.id


async def test_others_have_their_turn_in_between() -> None:
    """While ten thousand nodes are held another workflow is submitted and ends, and all of them are held in the end."""
    async with scheduler(FakeBroker(), MemoryStore()) as running:
        workflow_id = await _gated(running)
        turns = running.statistics().engine["turns"]
        answers = []

        async def hold() -> None:
            answers.append(await running.perform(workflow_id, _request("hold", *_NAMES)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await until(lambda: running.statistics().engine["turns"] > turns)
            outcome = await (await running.submit(definition("a"))).wait(timeout_s=5)
            assert (outcome.state, answers) == ("succeeded", [])
        assert answers[0].is_changed
        assert len(answers[0].nodes) == 100
        entries = [entry for entry in (await running.journal(workflow_id)).entries if entry.verb == "hold"]
        assert [entry.count for entry in entries] == [PART] * 5 + [7]
        assert {entry.why for entry in entries} == {"ticket 1"}
        live = running._parts.turns.engine.workflows[workflow_id]
        assert len(live.on_hold) == _COUNT
        assert not (await running.perform(workflow_id, _request("hold", *_NAMES))).is_changed


async def test_refused_with_nothing_changed() -> None:
    """The last of many nodes cannot be held: none is."""
    async with scheduler(FakeBroker(holds=True), MemoryStore()) as running:
        workflow_id = await _gated(running)
        await running.perform(workflow_id, _request("skip", _NAMES[-1]))
        with pytest.raises(VerbRefused):
            await running.perform(workflow_id, _request("hold", *_NAMES))
        assert not running._parts.turns.engine.workflows[workflow_id].on_hold


async def test_goes_on_where_it_ended() -> None:
    """The disk fails in the middle: what was done is told, and asking again does the rest."""

    class Failing(MemoryStore):
        left = 10**9

        async def save(self, *records: Any) -> None:
            if self.left <= 0:
                self.broken = "the disk is full"
            self.left -= 1
            await super().save(*records)

    store = Failing()
    # It is waited for once; on a busy machine the parts that are saved must not take longer.
    async with scheduler(FakeBroker(), store, limits=limits(durable_timeout_s=3.0)) as running:
        workflow_id = await _gated(running)
        store.left = 2
        with pytest.raises(Exception, match="hold") as caught:
            await running.perform(workflow_id, _request("hold", *_NAMES))
        assert f"of the first {2 * PART} of {_COUNT} nodes is done" in str(getattr(caught.value, "next_step", ""))
        assert not isinstance(caught.value, StoreUnavailable) or caught.value.next_step
        store.left, store.broken = 10**9, ""
        await until(lambda: running.health().status == "ok")
        assert (await running.perform(workflow_id, _request("hold", *_NAMES))).is_changed
        assert len(running._parts.turns.engine.workflows[workflow_id].on_hold) == _COUNT


@pytest.mark.long
async def test_retry_of_all_that_was_cancelled() -> None:
    """A whole workflow of many nodes is retried in one turn of many steps, also one that is read back from the store for it."""
    store = MemoryStore()
    async with scheduler(FakeBroker(), store) as running:
        workflow_id = await _gated(running)
        await running.cancel(workflow_id)
        await running.wait(workflow_id, timeout_s=5)
    async with scheduler(FakeBroker(), store) as running:
        assert (await running.perform(workflow_id, _request("retry"))).is_changed
        view = await running.view(workflow_id)
        assert (view.state, view.counts.get("cancelled", 0)) == ("running", 0)
        await running.perform(workflow_id, _request("release", "first"))
        assert (await running.wait(workflow_id, timeout_s=60)).state == "succeeded"


@pytest.mark.parametrize("asked", [("retry",), pytest.param(("rerun", "first"), marks=pytest.mark.long)])
async def test_set_back_in_steps(asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """While many nodes are set back others have their turn very often; it is one entry, on disk when it is answered."""
    monkeypatch.setattr(steps, "STEP", 10)
    store = MemoryStore()
    passes = 0

    async def count() -> None:
        nonlocal passes
        while True:
            passes += 1
            await anyio.lowlevel.checkpoint()

    async with scheduler(FakeBroker(), store) as running:
        workflow_id = await _gated(running)
        await running.cancel(workflow_id)
        await running.wait(workflow_id, timeout_s=5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            assert (await running.perform(workflow_id, _request(*asked))).is_changed
            tasks.cancel_scope.cancel()
        assert passes > 2 * _COUNT // 10
        entries = [entry for entry in (await running.journal(workflow_id)).entries if entry.verb == asked[0]]
        assert [entry.count for entry in entries] == [_COUNT + 1]
    async with scheduler(FakeBroker(), store) as running:
        view = await running.view(workflow_id)
        assert (view.state, view.counts.get("cancelled", 0)) == ("running", 0)
        assert not (await running.perform(workflow_id, _request(*asked))).is_changed


@pytest.mark.long
@pytest.mark.parametrize("asked", [("retry",), ("rerun", "first")])
async def test_ended_between_two_steps(asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends while nodes are set back: on disk nothing of it has happened, and asking again does all of it."""
    monkeypatch.setattr(steps, "STEP", 10)
    store = MemoryStore()
    async with scheduler(FakeBroker(), store) as running:
        workflow_id = await _gated(running)
        await running.cancel(workflow_id)
        await running.wait(workflow_id, timeout_s=5)
    with anyio.CancelScope() as process:
        async with scheduler(FakeBroker(), store) as running:
            steps_of = running._parts.turns.engine.verb_in_steps

            def killed(*arguments: Any) -> Any:
                for number, _ in enumerate(steps_of(*arguments)):
                    if number == 1500:
                        process.cancel()
                    yield

            monkeypatch.setattr(running._parts.turns.engine, "verb_in_steps", killed)
            await running.perform(workflow_id, _request(*asked))
    assert process.cancelled_caught
    async with scheduler(FakeBroker(), store) as running:
        view = await running.view(workflow_id)
        assert (view.state, view.counts["cancelled"]) == ("cancelled", _COUNT + 1)
        assert (await running.perform(workflow_id, _request(*asked))).is_changed
        await running.perform(workflow_id, _request("release", "first"))
        assert (await running.wait(workflow_id, timeout_s=60)).state == "succeeded"
