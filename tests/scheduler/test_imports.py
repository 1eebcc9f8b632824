"""A workflow moves to another daemon: everything of it comes along, nothing runs twice, and nonsense is refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import BadRequest, NotImportable, UnknownPool, WorkflowNotFound
from dyrygentd.ports.facts import JOURNAL_MAX
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import definition, limits, published, scheduler, settle, until

pytestmark = pytest.mark.anyio

_TASKS: Mapping[str, Callable[..., object]] = {
    "tasks.a": lambda: [1, 2],
    "tasks.b": lambda value: [*value, 3],
    "tasks.bad": lambda *_: 1 // 0,
}


async def _paused(running: Scheduler, broker: FakeBroker, text: str = "a!; b < a; c! < b", **options: Any) -> str:
    """Submit, let what goes at once end, and pause before the rest."""
    submitted = await running.submit_definition(definition(text, **options), owner=7)
    await until(lambda: len(broker._held) > 0)
    await running.perform(submitted.id, VerbRequest(Verb.PAUSE, by="anna", why="host goes"))
    broker.let_go()
    await until(lambda: running.in_flight_count == 0)
    await running._parts.inbox.wait_saved()
    return submitted.id


def _read(export: bytes) -> wire.Imported:
    return wire.decode_export(export, nodes_max=1000)


async def test_a_paused_workflow_goes_on_elsewhere(tmp_path: Path) -> None:
    """Id, states, values, journal, key and labels come along; the rest runs there, with the values of what ran here."""
    here, there = FakeBroker(_TASKS, holds=True), FakeBroker(_TASKS)
    async with scheduler(here) as source:
        moved = await _paused(source, here, key="k", labels={"site": "x"}, name="replace disk")
        export = await source.export(moved)
    store = SqliteStore(tmp_path / "there.db")
    async with scheduler(there, store) as target:
        submitted = await target.take_over(_read(export), by="bert", owner=9)
        assert (submitted.id, submitted.name, submitted.tasks) == (moved, "replace disk", 3)
        view = await target.view(moved)
        assert (view.state, view.key, view.labels, view.owner) == ("paused", "k", {"site": "x"}, 9)
        assert view.counts == {"succeeded": 1, "ready": 1, "waiting": 1}
        verbs = [(entry.verb, entry.by, entry.why) for entry in (await target.journal(moved)).entries]
        assert verbs == [("pause", "elsewhere: anna", "host goes"), ("import", "bert", "")]
        assert published(there) == []
    # It is on disk: the next process has it as well.
    async with scheduler(there, SqliteStore(tmp_path / "there.db")) as target:
        await target.perform(moved, VerbRequest(Verb.RESUME))
        assert (await target.wait(moved)).state == "succeeded"
        assert published(there) == ["b", "c"]
        assert there.published[0].input == b"[1, 2]"


async def test_owner_of_another_host_comes_along() -> None:
    """From a store of several hosts it is somebody of one of them, in the next export, too; a number alone stays one."""
    here = FakeBroker(_TASKS)
    async with scheduler(here) as source, scheduler(FakeBroker(_TASKS)) as target:
        for owner in (User(1000, "app1", "ann"), User(0, "app2"), User(1000)):
            submitted = await source.submit_definition(definition("a!"), owner=owner)
            await source.wait(submitted.id)
            record = _read(await source.export(submitted.id)).record
            assert record.owner == owner
            assert record.owner is not None
            assert record.owner.name == owner.name
            await target.take_over(_read(await source.export(submitted.id)), owner=record.owner)
            assert await target.owner(submitted.id) == owner


async def test_a_finished_workflow_becomes_history_there() -> None:
    """One that has ended is shown as it ended, and can be retried there."""
    here, there = FakeBroker(_TASKS), FakeBroker(_TASKS)
    async with scheduler(here) as source, scheduler(there) as target:
        handle = await source.submit(definition("a!; bad < a; c! < bad"))
        ended = await handle.wait()
        assert ended.state == "failed"
        await target.take_over(_read(await source.export(handle.id)))
        view = await target.view(handle.id)
        assert (view.state, view.counts, view.finished_at) == (
            "failed",
            {"succeeded": 1, "failed": 1, "blocked": 1},
            (await source.view(handle.id)).finished_at,
        )
        node = await target.node(handle.id, "bad")
        assert node.error == "ZeroDivisionError: integer division or modulo by zero"
        assert target.workflow_count == 0
        await target.perform(handle.id, VerbRequest(Verb.RETRY))
        await target.wait(handle.id)
        assert published(there) == ["bad"]
        # What it tried here is kept there, and goes with it to a third one.
        node = await target.node(handle.id, "bad")
        assert [(each.number, each.state, each.error == node.error) for each in node.attempts] == [
            (1, "failed", True),
            (2, "failed", True),
        ]
        imported = {row.node: row for row in _read(await target.export(handle.id)).nodes}
        assert [(each.number, each.is_over) for each in imported[1].earlier] == [(1, True)]
        assert there.published[0].input == b"[1, 2]"


async def test_what_goes_on_where_it_came_from_is_refused() -> None:
    """A workflow that runs, or has something in flight, would run in two places."""
    here = FakeBroker(_TASKS, holds=True)
    async with scheduler(here) as source:
        handle = await source.submit(definition("a!; b < a"))
        await until(lambda: source.in_flight_count == 1)
        with pytest.raises(NotImportable, match="it was running") as running:
            _read(await source.export(handle.id))
        assert f"dyrygentctl pause {handle.id}" in running.value.next_step
        await source.perform(handle.id, VerbRequest(Verb.PAUSE))
        with pytest.raises(NotImportable, match="node 'a' was in flight"):
            _read(await source.export(handle.id))
        with pytest.raises(WorkflowNotFound):
            await source.export("nonsense")


async def test_the_same_workflow_comes_once() -> None:
    """Neither its id nor its key may be here already, so an import that was answered too late is found by repeating it."""
    here, there = FakeBroker(_TASKS, holds=True), FakeBroker(_TASKS, holds=True)
    async with scheduler(here) as source, scheduler(there) as target:
        first = _read(await source.export(await _paused(source, here)))
        await target.take_over(first)
        with pytest.raises(NotImportable, match="it is here already"):
            await target.take_over(first)
        keyed = _read(await source.export(await _paused(source, here, key="k")))
        other = await target.submit(definition("a!", key="k"))
        with pytest.raises(NotImportable, match=f"workflow '{other.id}' was submitted with the same key 'k'"):
            await target.take_over(keyed)
        pooled = definition("a!; b! < a pool=p")
        async with scheduler(FakeBroker(_TASKS, holds=True), limits=limits(pools={"p": 1})) as third:
            handle = await third.submit(pooled)
            await handle.cancel()
            with pytest.raises(UnknownPool):
                await target.take_over(_read(await third.export(handle.id)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: it.update(export=2), "export version 2 is unknown"),
        (lambda it: it.update(what=1), "unknown field"),
        (lambda it: it["nodes"][0].update(name="zz"), "no node 'zz'"),
        (lambda it: it["nodes"][0].update(state="happy"), "'happy', which is no state"),
        (lambda it: it["nodes"][0].update(value="{"), "no JSON text"),
        (lambda it: it["workflow"].update(state="succeeded"), "does not fit its end"),
        (lambda it: it["workflow"].update(state="succeeded", finished_at=5.0), "contradicts itself"),
        (lambda it: it["workflow"].update(id="nightly"), "'nightly' is no id of a workflow"),
        (lambda it: it["workflow"].update(id=""), "is no id of a workflow"),
        (lambda it: it["workflow"].update(created_at=1e300), "created_at"),
        (lambda it: it["workflow"].update(owner=-1), "owner"),
        (lambda it: it["workflow"].update(owner=1, owner_host="a@b"), "owner_host"),
        (lambda it: it["workflow"].update(owner=1, owner_host="a:b"), "owner_host"),
        (lambda it: it["workflow"].update(priority=2**63), "priority"),
        (lambda it: it["workflow"].update(name="x" * 100_000), "name"),
        (lambda it: it["nodes"][0].update(attempt=2**63), "attempt"),
        (lambda it: it["nodes"][0].update(error="x" * 100_000), "error"),
        (lambda it: it["journal"][0].update(count=2**63), "a time or a number that cannot be"),
        (lambda it: it["journal"][0].update(at=-1.0), "a time or a number that cannot be"),
        (lambda it: it["nodes"].append(it["nodes"][0]), "contradicts itself"),
        (lambda it: it["nodes"][0].update(reason="nonsense", state="held"), "contradicts itself"),
    ],
)
async def test_an_export_that_somebody_has_changed_is_refused(change: Any, words: str) -> None:
    """What contradicts itself must not get into the database, where it would end others' work."""
    here = FakeBroker(_TASKS, holds=True)
    async with scheduler(here) as source, scheduler(FakeBroker()) as target:
        document = json.loads(await source.export(await _paused(source, here)))
        change(document)
        with pytest.raises(BadRequest, match=words):
            await target.take_over(_read(json.dumps(document).encode()))
        assert target.workflow_count == 0


async def test_an_import_revokes_nothing_and_tells_what_is_so() -> None:
    """Its task ids may be somebody else's: nothing is revoked for it, and its counts are those of its nodes."""
    here, there = FakeBroker(_TASKS, holds=True), FakeBroker(_TASKS, holds=True)
    store = MemoryStore()
    async with scheduler(here) as source:
        handle = await source.submit(definition("a!; b!", prefix="victim"))
        await until(lambda: source.in_flight_count == 2)
        await handle.cancel()
        document = json.loads(await source.export(handle.id))
    document["workflow"]["counts"] = {"succeeded": -5, "bogus": 3}
    async with scheduler(there, store) as target:
        await target.take_over(_read(json.dumps(document).encode()))
        assert (await target.view(handle.id)).counts == {"cancelled": 2}
    async with scheduler(there, store):
        await settle(200)
    assert there.revoked == []


async def test_a_long_journal_is_cut() -> None:
    """Thousands of entries would hold the disk for everybody; the newest are kept, as of every workflow."""
    here = FakeBroker(_TASKS, holds=True)
    async with scheduler(here) as source, scheduler(FakeBroker()) as target:
        document = json.loads(await source.export(await _paused(source, here)))
        document["journal"] = [document["journal"][0] | {"why": str(number)} for number in range(JOURNAL_MAX + 500)]
        imported = _read(json.dumps(document).encode())
        await target.take_over(imported, by="bert")
        entries = (await target.journal(imported.record.workflow_id)).entries
        assert len(entries) == JOURNAL_MAX
        assert [entry.why for entry in entries[-2:]] == [str(JOURNAL_MAX + 499), ""]
        assert target._adapters.store.statistics().journal_entries == JOURNAL_MAX


async def test_secrets_in_reasons_are_hidden() -> None:
    """Whoever gives a reason may have pasted a URL into it."""
    async with scheduler(FakeBroker(holds=True)) as running:
        handle = await running.submit(definition("a!"))
        await running.perform(handle.id, VerbRequest(Verb.PAUSE, why="redis://u:hunter2@h is down"))
        assert (await running.journal(handle.id)).entries[0].why == "redis://u:****@h is down"
