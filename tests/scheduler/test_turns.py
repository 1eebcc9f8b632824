"""The turns: one owner of the engine, and one door to it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from dyrygentd.core.events import DrainRequested, TaskSucceeded
from dyrygentd.errors import DaemonUnreachable
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import definition, published, scheduler, until
from tests.support.daemon import ROOT

pytestmark = pytest.mark.anyio

#: What changes an engine, and who may call it. `Recovery` does before the first turn is taken.
_CHANGES = {
    "handle": {"turns.py", "recovery.py"},
    "verb_in_steps": {"turns.py"},
    "batch_in_steps": {"turns.py"},
    "take_batch": {"turns.py"},
}


@pytest.mark.parametrize("method", _CHANGES)
def test_engine_has_one_owner(method: str) -> None:
    """Everybody else posts events: whatever else wrote into it would come between a change and its being saved."""
    assert {file for file, name in _calls_of_engines() if name == method} == _CHANGES[method]


def test_nobody_writes_into_the_engine() -> None:
    """Nor into what it is made of, by way of `turns.engine`; reading it is everybody's right."""
    written = [
        f"{path.name}:{target.lineno}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and "engine" in ast.unparse(target.value).split(".")
    ]
    assert written == []


async def test_stalled_is_what_no_turn_takes_up() -> None:
    """A watchdog ends the process for it, so nothing else may look like it: not idleness, and not a disk that does not answer."""
    running = scheduler(FakeBroker())
    assert running.stalled_s == 0
    running._parts.inbox.post(DrainRequested())
    await until(lambda: running.stalled_s > 0)
    running._parts.turns.is_at_disk = True
    assert running.stalled_s == 0


async def test_a_turn_is_over_when_it_is_carried_out() -> None:
    """What is settled is on disk and with the publisher; until then an end is known here, and nowhere else."""
    broker, store = FakeBroker(has_worker=False), MemoryStore()
    async with scheduler(broker, store) as running:
        turns = running._parts.turns
        handle = await running.submit(definition("a; b < a", prefix="p"))
        await until(lambda: published(broker) == ["a"])
        broker.deliver(TaskSucceeded("p/a", b"1"))
        await turns.inbox.wait_saved()
        await until(lambda: published(broker) == ["a", "b"])
        broker.deliver(TaskSucceeded("p/b", b"1"))
        await handle.wait(timeout_s=5)
        assert turns.live(handle.id) is None
        assert not turns.is_at_disk
        assert turns.count >= 3
    with pytest.raises(DaemonUnreachable):
        turns.refuse_if_ended(handle.id)


def _calls_of_engines() -> Iterator[tuple[str, str]]:
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value).split(".")[-1]
                if owner in ("engine", "_engine"):
                    yield path.name, node.func.attr


def _trees() -> Iterator[tuple[Path, ast.AST]]:
    for path in sorted((ROOT / "dyrygentd" / "scheduler").glob("*.py")):
        yield path, ast.parse(path.read_text())
