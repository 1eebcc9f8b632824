"""The page on which a batch is carried out: nothing of it is forgotten, and its words and its lines have one order."""

import ast
import inspect
import textwrap
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from dyrygentd.core.effects import Batch, BeginChild, Revoke, RevokeStamped
from dyrygentd.core.parent import Parent
from dyrygentd.core.policy import Child
from dyrygentd.core.series import Admission, SeriesWord
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import InvariantBroken
from dyrygentd.ports.facts import REPORTS_NOTE
from dyrygentd.scheduler.carrying import Carrying
from dyrygentd.scheduler.saving import Saving
from dyrygentd.store.values import DirectoryValues
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import DEADLINE_S, definition, scheduler, settle, until

#: What each step of the docstring calls, in its order.
_CALLS = {
    "Save": ["save"],
    "Accept": ["saved"],
    "Watch": ["watch"],
    "Publish": ["divert", "hand_in"],
    "Unwatch": ["unwatch"],
    "Revoke": ["revoke", "forget", "delete"],
    "Begin": ["answered"],
    "Tell": ["notify", "kept"],
}


@pytest.mark.parametrize("name", [field.name for field in fields(Batch)])
def test_each_field_is_carried_out(name: str) -> None:
    """A kind of effect that the engine can ask for is on the page, or in the transaction that is its first step."""
    named = {
        node.attr
        for function in (Carrying.carry_out, Saving._write)
        for node in ast.walk(_tree(function))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "batch"
    }
    assert name in named


def test_steps_are_told_in_the_order_in_which_they_are_done() -> None:
    """Whoever moves a line sees that it is a promise, and has to change its words as well."""
    told = inspect.getdoc(Carrying.carry_out)
    assert told is not None
    assert [f"{number}. *{word}*" in told for number, word in enumerate(_CALLS, 1)] == [True] * len(_CALLS)
    calls = [call for calls in _CALLS.values() for call in calls]
    lines = dict[str, int]()
    for node in ast.walk(_tree(Carrying.carry_out)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            # Of two that have one name the first one is meant.
            lines[node.func.attr] = min(node.lineno, lines.get(node.func.attr, node.lineno))
    assert sorted(calls, key=lambda call: lines[call]) == calls


def test_nothing_waits_between_saving_and_the_note_of_the_reports() -> None:
    """A cancel could come where something waits, and leave a batch half carried out."""
    awaited = [
        node.value.func.attr
        for node in ast.walk(_tree(Carrying.carry_out))
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    ]
    assert awaited == ["save", "remember"]


def _tree(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


# --- each kind of effect alone, in a scheduler whose turns are taken by hand -------------------------------------------

#: ``{field: what is to be seen of it}``, and of nothing else.
_SEEN = {
    "save_workflows": {"rows", "submitted"},
    "save_nodes": {"rows"},
    "journal": {"rows"},
    "watch": {"watched"},
    "publish": {"to publish"},
    "unwatch": {"watched"},
    "revoke": {"errands"},
    "revoke_stamped": {"errands"},
    "answers": {"answered"},
    "changed": {"told"},
    "finished": {"errands"},
    "refused": {"refused"},
    "admissions": {"submitted"},
    "unrun": {"unrun"},
    "begin": {"begun"},
    "set_going": {"set going"},
    "released": {"deleted"},
    "reports_read": {"noted"},
}


class _ByHand:
    """A scheduler that was not entered, with somebody who submits, somebody who pauses and somebody who listens."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.store, self.broker = MemoryStore(), FakeBroker(has_worker=False)
        self.parts = scheduler(self.broker, self.store, keeper=self.broker.keeper, values=DirectoryValues(Path("nowhere")))._parts
        self._tasks = tasks
        self._told: set[str] = set()
        self.workflow_id = ""

    async def begin(self) -> Batch:
        """Submit a workflow and return what a first turn decides about it, with an answer to a verb that was asked for next."""
        self._tasks.start_soon(self._submit)
        turns = self.parts.turns
        await until(lambda: len(turns.inbox) == 1)
        batch = self._turn()
        (self.workflow_id,) = turns.engine.workflows
        self._tasks.start_soon(self._pause)
        self._tasks.start_soon(self._listen)
        await until(lambda: len(turns.inbox) == 1 and bool(self.parts.listeners.count(self.workflow_id)))
        batch.merge(self._turn())
        return batch

    def _turn(self) -> Batch:
        turns = self.parts.turns
        for event in turns.inbox.take():
            turns.engine.handle(event, time.time())
        return turns.engine.take_batch(time.time())

    async def seen(self) -> dict[str, Any]:
        """Return what can be seen of all that a batch may ask for."""
        await settle()
        parts = self.parts
        assert parts.unrun is not None
        return {
            "rows": self.store.statistics().rows,
            "watched": self.broker.watcher.statistics().watched,
            "to publish": parts.courier.queue_size,
            "errands": parts.courier.errand_count,
            "unrun": parts.unrun.waiting_count,
            "begun": len(parts.beginnings),
            "set going": len(parts.beginnings._set_going),
            "deleted": len(parts.carrying.spilling),
            "noted": await self.store.recall(REPORTS_NOTE),
        } | dict.fromkeys(self._told, True)

    async def _submit(self) -> None:
        try:
            await self.parts.submissions.submit(definition("a; b"), owner=None)
            self._told.add("submitted")
        except InvariantBroken:
            self._told.add("refused")

    async def _pause(self) -> None:
        await self.parts.verbs.ask(self.workflow_id, VerbRequest(Verb.PAUSE))
        self._told.add("answered")

    async def _listen(self) -> None:
        with self.parts.listeners.to(self.workflow_id) as listener:
            await listener.wait()
            self._told.add("told")


@pytest.mark.anyio
@pytest.mark.parametrize("name", [field.name for field in fields(Batch)])
async def test_each_field_alone_is_seen_where_it_belongs(name: str) -> None:
    """Whatever a turn asks for happens, in the world or for whoever waits, and it takes nothing else with it."""
    async with anyio.create_task_group() as tasks:
        world = _ByHand(tasks)
        decided = await world.begin()
        workflow = world.parts.turns.engine.workflows[world.workflow_id]
        world.broker.watcher.watch(["elsewhere"])
        task = decided.publish[0]
        others: dict[str, Any] = {
            "unwatch": ["elsewhere"],
            "revoke": [Revoke(task.task_id, 1, task.signature)],
            "revoke_stamped": [RevokeStamped(workflow.stamp)],
            "finished": [workflow],
            "refused": {world.workflow_id: "odd row"},
            "unrun": [(workflow, 0)],
            "begin": {"child": BeginChild(Parent(world.workflow_id, 0), "child", Child("workflow", b"{}"))},
            "set_going": {"child": Parent(world.workflow_id, 0)},
            "released": [f"{world.workflow_id}/0-1-a"],
            "admissions": {world.workflow_id: Admission(SeriesWord.SKIPPED, "another")},
            "reports_read": "0-1",
        }
        before = await world.seen()
        content = getattr(decided, name) or others[name]
        with anyio.fail_after(DEADLINE_S):
            await world.parts.carrying.carry_out(Batch(**{name: content}))
        after = await world.seen()
        assert {what for what in after if after[what] != before.get(what)} == _SEEN[name]
        tasks.cancel_scope.cancel()
