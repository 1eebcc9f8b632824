"""Large values are written elsewhere before the engine hears of them, and are there as long as a row names them."""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.core.additions import Addition, Adds
from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.references import Reference
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports import Store
from dyrygentd.ports.values import ValueStore
from dyrygentd.scheduler import Scheduler, SchedulerLimits
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.store.values import DirectoryValues
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, limits, scheduler, settle, until

pytestmark = pytest.mark.anyio

_BIG = "x" * 200_000
_SIZE = len(_BIG) + 2
_SPILL = {"value_spill_bytes": 100_000}


class _Breaking:
    """A store of values that does not work when somebody says so."""

    def __init__(self, values: ValueStore) -> None:
        self.values = values
        self.is_broken = False
        self.where = values.where

    def _check(self) -> None:
        if self.is_broken:
            raise StoreUnavailable("values cannot be reached")

    def write(self, name: str, text: bytes) -> None:
        self._check()
        self.values.write(name, text)

    def read(self, name: str) -> bytes:
        self._check()
        return self.values.read(name)

    def delete(self, names: Any) -> None:
        self._check()
        self.values.delete(names)

    def find(self, database: str) -> Any:
        self._check()
        return self.values.find(database)


@pytest.fixture
def values(tmp_path: Path) -> _Breaking:
    """A directory that may break."""
    return _Breaking(DirectoryValues(tmp_path / "values"))


@pytest.fixture
def files(tmp_path: Path) -> Callable[[], list[Path]]:
    """What there is in the directory."""
    return lambda: [path for path in (tmp_path / "values").rglob("*") if path.is_file()]


def _on(tmp_path: Path) -> Store:
    return SqliteStore(tmp_path / "state.db")


def _engine(running: Scheduler) -> dict[str, Any]:
    return running.statistics().engine


async def _saved(running: Scheduler) -> None:
    """Wait until a value is kept, and a row names it."""
    await until(lambda: _engine(running)["stored_values"] == 1 and not _engine(running)["in_flight"])
    await running._parts.inbox.wait_saved()


async def test_handed_to_the_task_as_itself(tmp_path: Path, values: _Breaking, files: Callable[[], list[Path]]) -> None:
    """The next task gets the value; memory and database had a few bytes of it, and when nobody needs it the file is gone."""
    seen, broker = list[str](), FakeBroker({"tasks.a": lambda: _BIG})
    broker.tasks["tasks.b"] = lambda value: seen.append(value)
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit(definition("a; g gate=1; b < a"))
        await until(lambda: bool(seen))
        assert seen == [_BIG]
        await until(lambda: not files())
        await running.perform(handle.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        assert (await handle.wait()).state == "succeeded"
        assert _engine(running)["stored_values"] == _engine(running)["stored_value_bytes"] == 0
        assert _engine(running)["stored_values_written"] == 1
    assert b"x" * 1000 not in (tmp_path / "state.db").read_bytes()


async def test_a_result_is_read_back(tmp_path: Path, values: _Breaking, files: Callable[[], list[Path]]) -> None:
    """Who asks for the result gets it, also from another process; it is kept with the workflow, and exported with it."""
    broker = FakeBroker({"tasks.a": lambda: _BIG})
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit(definition("a", output="a"))
        assert (await handle.wait()).result == _BIG
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        assert (await running.view(handle.id, with_result=True)).result == _BIG
        assert _engine(running)["stored_value_bytes"] == _SIZE
        assert _BIG.encode() in await running.export(handle.id)
        for file in files():
            file.unlink()
        view = await running.view(handle.id, with_result=True)
        assert view.result_text is None
        assert view.error.startswith(f"a value of {_SIZE} bytes of workflow {handle.id} is gone: '")


async def test_needed_over_a_restart(tmp_path: Path, values: _Breaking) -> None:
    """A value that waits for a node to come is there for it after a restart; what no row names is deleted."""
    seen, broker = list[str](), FakeBroker({"tasks.a": lambda: _BIG})
    broker.tasks["tasks.b"] = lambda value: seen.append(value[0])
    store = _on(tmp_path)
    async with scheduler(broker, store, values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit(definition("a; g gate=1; b < a g"))
        await _saved(running)
        values.write(f"{store.identity}/{handle.id}/0-1-left", b"1")
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        await until(lambda: len(list(values.find(store.identity))) == 1)
        await running.perform(handle.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        assert (await running.outcome(handle.id)).state == "succeeded"
    assert seen == [_BIG]


async def test_a_file_that_is_gone_fails_its_node(tmp_path: Path, values: _Breaking, files: Callable[[], list[Path]]) -> None:
    """Whoever was to be given the value fails by name, with the way out; a rerun of what made it mends that."""
    broker = FakeBroker({"tasks.a": lambda: _BIG})
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit(definition("a; g gate=1; b < a g"))
        await _saved(running)
        files()[0].unlink()
        await running.perform(handle.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        outcome = await handle.wait()
        assert outcome.state == "failed"
        assert f"a value of {_SIZE} bytes" in outcome.error
        assert " is gone: " in outcome.error
        await running.perform(handle.id, VerbRequest(Verb.RERUN, nodes=("a",)))
        assert (await handle.wait()).state == "succeeded"


async def test_at_start_it_is_told_what_is_missing(tmp_path: Path, values: _Breaking, files: Callable[[], list[Path]]) -> None:
    """A database whose directory was not copied with it, or is not shared by its hosts, says so before any node fails."""
    broker = FakeBroker({"tasks.a": lambda: _BIG})
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        await running.submit(definition("a; g gate=1; b < a g"))
        await _saved(running)
    elsewhere = DirectoryValues(tmp_path / "other")
    async with scheduler(broker, _on(tmp_path), values=elsewhere, limits=limits(**_SPILL)) as running:
        (notice,) = running.health().notices
        assert notice.startswith(f"1 values that workflows need are not in the directory '{tmp_path}/other', such as '")
    async with scheduler(broker, _on(tmp_path)) as running:
        (notice,) = running.health().notices
        assert notice == "1 values that workflows need were kept elsewhere, and `value_store` names no place now"
    assert len(files()) == 1


async def test_a_store_that_does_not_work_holds_nothing_up(tmp_path: Path, values: _Breaking) -> None:
    """What cannot be written is kept as small values are, and told; once it works again, values go there again."""
    seen, broker = list[str](), FakeBroker({"tasks.a": lambda: _BIG})
    broker.tasks["tasks.b"] = lambda value: seen.append(value)
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        values.is_broken = True
        handle = await running.submit(definition("a; b < a"))
        assert (await handle.wait()).state == "succeeded"
        assert seen == [_BIG]
        assert running.health().notices == ["large values are kept in memory and in the database: values cannot be reached"]
        assert running.health().status == "ok"
        assert _engine(running)["stored_values_failed"] == 1
        values.is_broken = False
        await (await running.submit(definition("a; b < a"))).wait()
        assert running.health().notices == []
        assert _engine(running)["stored_values_written"] == 1


async def test_a_value_that_cannot_be_read_just_now_waits(tmp_path: Path, values: _Breaking) -> None:
    """Its message is sent as soon as it can be read; the messages of others go on meanwhile."""
    broker = FakeBroker({"tasks.a": lambda: _BIG})
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit(definition("a; g gate=1; b < a g"))
        await _saved(running)
        values.is_broken = True
        await running.perform(handle.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        await until(lambda: running.health().notices == ["values cannot be reached"])
        assert (await (await running.submit(definition("c; d < c"))).wait()).state == "succeeded"
        assert (await running.view(handle.id)).state == "running"
        values.is_broken = False
        assert (await handle.wait()).state == "succeeded"
        assert running.health().notices == []


async def test_bounded(tmp_path: Path, values: _Breaking) -> None:
    """What does not fit into the store any more is kept in memory, with its bound, which names both."""
    broker = FakeBroker({"tasks.a": lambda: _BIG, "tasks.b": lambda: _BIG, "tasks.c": lambda: _BIG})
    bounds = limits(**_SPILL, value_store_bytes_max=_SIZE + 10, workflow_values_bytes_max=_SIZE + 100)
    async with scheduler(broker, _on(tmp_path), values=values, limits=bounds) as running:
        handle = await running.submit(definition("a; b! < a; c! < b; g gate=1; t < a b c g"))
        await until(lambda: _engine(running)["values_refused"] == 1)
        node = await running.node(handle.id, "c")
        assert node.state == "failed"
        assert "or raise `workflow_values_bytes_max`; it would be kept elsewhere, but" in str(node.error)
        assert f"and `value_store_bytes_max` is {_SIZE + 10}" in str(node.error)


async def test_what_waits_is_bounded(tmp_path: Path, values: _Breaking) -> None:
    """More than may wait is dropped and read again from the backend: nothing is lost, and memory does not grow."""
    names = [f"a{number}" for number in range(20)]
    broker = FakeBroker({f"tasks.{name}": lambda: _BIG for name in names}, holds=True)
    async with scheduler(
        broker, _on(tmp_path), values=values, limits=limits(**_SPILL, values_waiting_bytes_max=2 * _SIZE)
    ) as running:
        handle = await running.submit(definition("; ".join([*names, f"g gate=1; &j < {' '.join(names)}; t < j g"])))
        await until(lambda: len(broker.published) == 20)
        broker.let_go()
        await until(lambda: _engine(running)["stored_values"] == 20)
        assert _engine(running)["stored_values_waiting"] == 0
        broker.holds = False
        await running.perform(handle.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        assert (await handle.wait()).state == "succeeded"


async def test_nobody_makes_a_reference_up(tmp_path: Path, values: _Breaking) -> None:
    """A worker that stores what looks like a reference is not given the value of somebody else."""
    broker = FakeBroker({"tasks.a": lambda: _BIG}, holds=True)
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit(definition("a; b < a", prefix="v"))
        await until(lambda: len(broker.published) == 1)
        broker.deliver(TaskSucceeded("v/a", Reference("other/0-1-x", 5).text))
        outcome = await handle.wait()
        assert outcome.state == "failed"
        assert "it is no JSON: a control character is in it" in outcome.error


async def test_exported_while_what_was_added_runs(tmp_path: Path, values: _Breaking) -> None:
    """The value of a task that has added work, and what goes behind it, are in the export as themselves."""
    broker, there = FakeBroker({}, holds=True), FakeBroker({"tasks.b": len, "tasks.c": len})
    gate = {"nodes": [{"name": "g", "gate": True}]}
    added = Addition(Adds.BESIDE, base64.b64encode(zlib.compress(json.dumps(gate).encode())))
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit(definition("a; b < a", prefix="v"))
        await until(lambda: len(broker.published) == 1)
        broker.deliver(TaskSucceeded("v/a", json.dumps(_BIG).encode(), added=added))
        await _saved(running)
        await until(lambda: len(running._parts.turns.engine.workflows) == 2)
        await running.perform(handle.id, VerbRequest(Verb.PAUSE))
        export = await running.export(handle.id)
    assert _BIG.encode() in export
    async with scheduler(there) as target:
        imported = wire.decode_export(export, nodes_max=10)
        await target.take_over(imported)
        await target.perform(handle.id, VerbRequest(Verb.RESUME))
        await target.perform(imported.children[0].record.workflow_id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        assert (await target.wait(handle.id, timeout_s=10)).state == "succeeded"
        assert there.published[0].input == json.dumps(_BIG).encode()


async def test_deleted_with_its_workflow(tmp_path: Path, values: _Breaking, files: Callable[[], list[Path]]) -> None:
    """When the history lets a workflow go, a look finds its values."""
    broker = FakeBroker({"tasks.a": lambda: _BIG})
    store = SqliteStore(tmp_path / "state.db", history_max=1)
    async with scheduler(broker, store, values=values, limits=limits(**_SPILL)) as running:
        first = await running.submit(definition("a", output="a"))
        await first.wait()
        await running._parts.carrying.spilling.look()
        assert len(files()) == 1
        await (await running.submit(definition("c"))).wait()
        await until_gone(running, first.id)
        await running._parts.carrying.spilling.look()
        await until(lambda: not files())
        await settle()


async def until_gone(running: Scheduler, workflow_id: str) -> None:
    """Wait until the store has deleted a workflow."""
    store = running._parts.adapters.store
    for _ in range(1000):
        if await store.record(workflow_id) is None:
            return
        await settle(1)
    raise AssertionError("it is still there")


def test_limits_have_a_place_for_them() -> None:
    """A megabyte is neither in memory by the thousand nor a file for each small value."""
    assert SchedulerLimits().value_spill_bytes == 1024 * 1024


async def test_values_of_children(tmp_path: Path, values: _Breaking, files: Callable[[], list[Path]]) -> None:
    """What the members of a map return is named by the list of the map, handed on, and stays with their workflow."""
    seen, broker = list[list[int]](), FakeBroker({"list": lambda: [1, 2, 3], "big": lambda item: str(item) * 200_000})
    broker.tasks["lengths"] = lambda given: seen.append([len(each) for each in given])
    body = b"""{"output": "each", "nodes": [{"name": "list", "task": "list"},
        {"name": "each", "map": {"over": "list", "do": {"task": "big"}}},
        {"name": "lengths", "task": "lengths", "after": ["each"]}]}"""
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit_definition(wire.decode_definition(body, nodes_max=10))
        assert [each[0] for each in (await running.outcome(handle.id)).result] == ["1", "2", "3"]
        assert seen == [3 * [200_000]]
        await running._parts.carrying.spilling.look()
        await settle()
        assert len(files()) == 3
    assert b"1" * 1000 not in (tmp_path / "state.db").read_bytes()


async def test_a_large_list_of_a_map(tmp_path: Path, values: _Breaking) -> None:
    """The list that a map is over may be a large value itself."""
    broker = FakeBroker({"list": lambda: ["x" * 50_000] * 5, "length": len})
    body = b"""{"output": "each", "nodes": [{"name": "list", "task": "list"},
        {"name": "each", "map": {"over": "list", "do": {"task": "length"}}}]}"""
    async with scheduler(broker, _on(tmp_path), values=values, limits=limits(**_SPILL)) as running:
        handle = await running.submit_definition(wire.decode_definition(body, nodes_max=10))
        assert (await running.outcome(handle.id)).result == 5 * [50_000]
        assert _engine(running)["stored_values_written"] == 1
