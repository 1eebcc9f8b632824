"""No task id from outside takes anything away: not a result, not a message, not a place in flight, now or later."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.ids import MadeIds, as_compared, is_made, looks_made, task_id_of_attempt, task_id_of_old
from dyrygentd.core.states import NodeState
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import BackendUnavailable, BadNode, DuplicateTaskId, NotAccepting, TaskIdTaken
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, FakeWatcher, MemoryStore
from tests.scheduler.support import definition, published, scheduler, until

pytestmark = pytest.mark.anyio

#: Nodes with ids that somebody has chosen.
_THEIRS = (
    {"name": "a", "task": "tasks.a", "task_id": "order-1"},
    {"task": "tasks.b", "task_id": "order-2", "after": ["a"]},
)


def _bad(*_: object) -> None:
    raise ZeroDivisionError("division by zero")


def _read(*nodes: Mapping[str, Any], **more: Any) -> Definition:
    """A definition as it comes in by HTTP."""
    return wire.decode_definition(json.dumps({"nodes": nodes, **more}).encode(), nodes_max=100)


def _mine(task_id: str, **more: Any) -> Definition:
    return _read({"name": "mine", "task": "tasks.mine", "task_id": task_id, **more})


async def _refused(running: Scheduler, given: Definition, words: str) -> TaskIdTaken:
    with pytest.raises(TaskIdTaken, match=words) as caught:
        await running.submit_definition(given, owner=2000)
    assert (caught.value.status, caught.value.node) == (409, "mine")
    assert caught.value.next_step
    return caught.value


async def _ids(running: Scheduler, workflow_id: str) -> list[str]:
    return [node.task_id or "" for node in (await running.nodes(workflow_id)).nodes]


async def test_ids_of_others_are_refused_at_any_time() -> None:
    """Ids in flight, waiting, of the attempt after the next one, adopted or not: who brings one is told whose it is."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker) as running:
        theirs = await running.submit_definition(_read({"name": "a", "task": "tasks.a"}, {"task": "tasks.b", "after": ["a"]}))
        await until(lambda: published(broker) == ["a"])
        in_flight, waiting = await _ids(running, theirs.id)
        for task_id in (in_flight, waiting, task_id_of_attempt(waiting, 2), task_id_of_attempt(in_flight, 7)):
            for more in ({}, {"adopted": "dispatched"}, {"adopted": "succeeded"}):
                await _refused(running, _mine(task_id, **more), f"was made by a dyrygentd|workflow '{theirs.id}'")
        assert (running.workflow_count, running.in_flight_count) == (1, 1)
        broker.let_go()
        await until(lambda: published(broker) == ["a", "b"])
        assert (broker.revoked, broker.withdrawn) == ([], [])


@pytest.mark.parametrize(
    "stealing",
    [
        lambda inner: {"options": {"link": inner}},
        lambda inner: {"options": {"link": [{"task": "tasks.x"}, inner]}},
        lambda inner: {"options": {"link_error": inner}},
        lambda inner: {"options": {"link": {"task": "tasks.x", "options": {"link": inner}}}},
        lambda inner: {"task": "celery.starmap", "kwargs": {"task": inner, "it": []}},
        lambda inner: {"task": "celery.group", "args": [[inner]], "options": {"queue": "q"}},
    ],
)
async def test_ids_inside_callbacks_are_judged(stealing: Any) -> None:
    """A worker stores what a callback returns under the id that it names, which must not be another task's either."""
    broker = FakeBroker({"tasks.ended": lambda: 1}, holds=True)
    async with scheduler(broker) as running:
        theirs = await running.submit_definition(_read(*_THEIRS), owner=1000)
        await until(lambda: published(broker) == ["a"])
        broker._store("order-0", wire_result("order-0"))

        def mine(task_id: str) -> dict[str, Any]:
            return {"name": "mine", "task": "tasks.mine", **stealing({"task": "tasks.y", "options": {"task_id": task_id}})}

        for task_id, words in (("order-1", theirs.id), ("order-2", theirs.id), ("order-0", "has SUCCESS")):
            await _refused(running, _read(mine(task_id)), words)
        # JSON has other letters for the same option.
        hidden = json.dumps({"nodes": [mine("order-1")]}).replace('"task_id"', '"task\\u005fid"').encode()
        await _refused(running, wire.decode_definition(hidden, nodes_max=9), theirs.id)
        with pytest.raises(BadNode, match="was made by a dyrygentd"):
            _read(mine(MadeIds()()))
        await running.submit_definition(_read(mine("new")))
        await _refused(running, _mine("new"), "belongs to a task")


async def test_other_spellings_of_ids_are_refused() -> None:
    """MySQL and MariaDB take them for the same, so a result stored under one takes the place of another's."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker) as running:
        theirs = await running.submit_definition(_read({"name": "a", "task": "tasks.a"}))
        (task_id,) = await _ids(running, theirs.id)
        wide = task_id.translate({digit: digit + 0xFEE0 for digit in b"0123456789abcdef"})
        for spelt in (task_id.upper(), f"{task_id} ", f"{task_id}\u0301", wide, f"a{task_id}"[1:].title()):
            await _refused(running, _mine(spelt), "was made by a dyrygentd")
        assert looks_made(task_id_of_attempt(task_id, 3).upper())
        assert not any(map(looks_made, (str(uuid4()), str(uuid4()).upper(), "order-1", "")))
        assert as_compared(f"Ordér-{wide} ") == as_compared(f"order-{task_id.upper()}")


async def test_chosen_ids_are_as_safe() -> None:
    """An id that a user has chosen is theirs while their workflow runs, whether the task is in flight or waits."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker) as running:
        theirs = await running.submit_definition(_read(*_THEIRS), owner=1000)
        await until(lambda: published(broker) == ["a"])
        assert await _ids(running, theirs.id) == ["order-1", "order-2"]
        for task_id in ("order-1", "order-2"):
            error = await _refused(running, _mine(task_id, adopted="dispatched"), f"belongs to a task of workflow '{theirs.id}'")
            assert error.task_id == task_id
            await _refused(running, _mine(task_id), theirs.id)
        broker.let_go()
        await until(lambda: len(published(broker)) == 2)
        broker.let_go()
        await running.wait(theirs.id, timeout_s=5)


async def test_the_same_definition_again_is_refused() -> None:
    """A second submission would "succeed" by the first one's results, and its tasks run unobserved."""
    broker = FakeBroker({"tasks.mine": lambda: 1})
    async with scheduler(broker) as running:
        first = await running.submit_definition(_mine("order-1"))
        await running.wait(first.id, timeout_s=5)
        await _refused(running, _mine("order-1"), "the result backend has SUCCESS")
        assert len(broker.published) == 1
        # What was refused is free again where it was free before.
        broker.results.clear()
        await running.submit_definition(_mine("order-1"))


async def test_one_of_many_at_once_gets_an_id() -> None:
    """Between looking and taking nobody else gets in, although the backend is asked meanwhile."""
    broker = FakeBroker(holds=True)
    outcomes: list[object] = []
    async with scheduler(broker) as running:

        async def submit() -> None:
            try:
                outcomes.append((await running.submit_definition(_mine("order-1"))).id)
            except TaskIdTaken as error:
                outcomes.append(error.status)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(submit)
        assert outcomes.count(409) == 4
        assert len(broker.published) == 1


async def test_cancelling_another_workflow_takes_nothing_back() -> None:
    """Two workflows of one id can only come from a database of an earlier version: the older one keeps it, whatever happens."""
    store, broker = MemoryStore(), FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        older = await running.submit_definition(definition("a id=same; b < a"))
        await until(lambda: published(broker) == ["a"])
    record, document = store._workflows[older.id], wire.encode_definition(definition("x id=same; y < x"))
    await store.save([replace(record, workflow_id="younger", document=document, ids=0)], [])
    await store.save([], [replace_row(store._nodes[older.id][0])])
    async with scheduler(broker, store) as running:
        younger = await running.node("younger", "x")
        assert (younger.state, older.id in (younger.error or "")) == ("failed", True)
        await running.cancel("younger", terminate=True)
        await running._parts.inbox.wait_saved()
        assert (broker.revoked, broker.withdrawn, broker.terminated) == ([], [], [])
        broker.let_go()
        await until(lambda: published(broker) == ["a", "b"])
        broker.let_go()
        assert (await running.wait(older.id, timeout_s=5)).state == "succeeded"


def replace_row(row: Any) -> Any:
    """The same row of the younger workflow."""
    return row._replace(workflow_id="younger")


async def test_what_was_cancelled_is_not_revoked_for_another() -> None:
    """After a restart, what was given up is revoked again; not if another task has that id by now."""
    store, broker = MemoryStore(), FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        first = await running.submit_definition(definition("a id=same"))
        await until(lambda: published(broker) == ["a"])
        await running.cancel(first.id)
        await _refused(running, _mine("same"), first.id)
    broker.revoked.clear()
    broker.withdrawn.clear()
    record = store._workflows[first.id]
    other = wire.encode_definition(definition("x id=same"))
    changed: dict[str, Any] = {
        "workflow_id": "other",
        "state": record.state.RUNNING,
        "finished_at": None,
        "document": other,
        "counts": None,
    }
    await store.save([replace(record, **changed)], [])
    async with scheduler(broker, store) as running:
        await until(lambda: running.in_flight_count == 1)
        await running._parts.courier._revoke([], [])
        await running._parts.inbox.wait_saved()
        assert (broker.revoked, broker.withdrawn) == ([], [])


async def test_a_workflow_that_goes_on_leaves_what_was_taken() -> None:
    """A node that never ran may find its chosen id used when its workflow is tried again: it gets another, not the result."""
    broker = FakeBroker({"tasks.bad": _bad, "tasks.mine": lambda: "not yours"})
    async with scheduler(broker) as running:
        nodes = ({"name": "bad", "task": "tasks.bad"}, {"name": "b", "task": "tasks.b", "task_id": "order-2", "after": ["bad"]})
        failed = await running.submit_definition(_read(*nodes), owner=1000)
        await running.wait(failed.id, timeout_s=5)
        other = await running.submit_definition(_mine("order-2"), owner=2000)
        await running.wait(other.id, timeout_s=5)
        broker.tasks |= {"tasks.bad": lambda: None, "tasks.b": lambda value: "mine"}
        await running.perform(failed.id, VerbRequest(Verb.RETRY))
        outcome = await running.outcome(failed.id, timeout_s=5)
        assert outcome.result == "mine"
        assert (await running.node(failed.id, "b")).task_id == task_id_of_attempt("order-2", 2)


async def test_so_does_one_whose_tasks_are_still_watched() -> None:
    """A workflow that was cancelled while a task ran is kept at hand for that task's end; its ids are judged as well."""
    broker = FakeBroker({"tasks.mine": lambda: "not yours", "tasks.b": lambda value: value}, holds=True)
    async with scheduler(broker) as running:
        nodes = ({"name": "a", "task": "tasks.a"}, {"name": "b", "task": "tasks.b", "task_id": "order-2", "after": ["a"]})
        cancelled = await running.submit_definition(_read(*nodes), owner=1000)
        await until(lambda: published(broker) == ["a"])
        await running.cancel(cancelled.id)
        other = await running.submit_definition(_mine("order-2"), owner=2000)
        await until(lambda: published(broker) == ["a", "mine"])
        broker.let_go("order-2")
        await running.wait(other.id, timeout_s=5)
        broker.holds = False
        await running.perform(cancelled.id, VerbRequest(Verb.RETRY))
        outcome = await running.outcome(cancelled.id, timeout_s=5)
        assert outcome.result is None
        assert (await running.node(cancelled.id, "b")).task_id == task_id_of_attempt("order-2", 2)


async def test_a_backend_that_does_not_answer_refuses_only_ids_from_outside() -> None:
    """Whether an id is free cannot be told then; ids that are made here need nobody's answer."""
    broker = FakeBroker()
    watcher = _Deaf(broker)
    async with scheduler(broker, watcher=watcher) as running:
        with pytest.raises(NotAccepting, match="cannot look") as caught:
            await running.submit_definition(_mine("order-1"))
        assert "leave out `task_id`" in caught.value.next_step
        await running.submit_definition(_read({"task": "tasks.a"}))
        assert not running._parts.turns.engine.flights.claims


class _Deaf(FakeWatcher):
    """A watcher whose backend answers no questions."""

    async def find_stored(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Refuse."""
        raise BackendUnavailable("cannot look whether task ids have results: no answer")


async def test_adopting_what_has_run_meanwhile() -> None:
    """What was sent before is awaited under its id, though its result is there; what was noted as not sent, and was, as well."""
    broker = FakeBroker({"tasks.a": lambda: 1})
    async with scheduler(broker) as running:
        for task_id in ("sent", "unnoted"):
            broker._store(task_id, wire_result(task_id))
        given = _read(
            {"name": "a", "task": "tasks.a", "task_id": "sent", "adopted": "dispatched"},
            {"name": "b", "task": "tasks.a", "task_id": "unnoted"},
            {"name": "c", "task": "tasks.a", "task_id": "new", "after": ["a", "b"], "immutable": True},
        )
        adopted = await running.submit_definition(given)
        await running.wait(adopted.id, timeout_s=5)
        assert [message.task_id for message in broker.published] == ["new"]


def wire_result(task_id: str) -> Any:
    """A stored success."""
    from dyrygentd.core.events import TaskSucceeded

    return TaskSucceeded(task_id, b"1")


async def test_imports_go_through_the_door() -> None:
    """Admins bring workflows with ids that are what they are; one that a workflow here has is refused all the same."""
    here, there = FakeBroker(holds=True), FakeBroker(holds=True)
    async with scheduler(here) as source:
        submitted = await source.submit_definition(_read({"name": "a", "task": "tasks.a"}, {"task": "tasks.b", "after": ["a"]}))
        await until(lambda: source.in_flight_count == 1)
        await source.perform(submitted.id, VerbRequest(Verb.PAUSE))
        here.let_go()
        await until(lambda: source.in_flight_count == 0)
        await source._parts.inbox.wait_saved()
        export = json.loads(await source.export(submitted.id))
    async with scheduler(there) as target:
        await target.submit_definition(_mine("order-1"))
        stolen = json.loads(json.dumps(export))
        stolen["definition"]["nodes"][1]["task_id"] = "order-1"
        with pytest.raises(TaskIdTaken, match="belongs to a task"):
            await target.take_over(wire.decode_export(json.dumps(stolen).encode(), nodes_max=10))
        await target.take_over(wire.decode_export(json.dumps(export).encode(), nodes_max=10))
        # Once more under another name: these ids stand in no table, and are found nevertheless.
        export["workflow"]["id"] = export["workflow"]["id"][:-4] + "ffff"
        with pytest.raises(TaskIdTaken, match=submitted.id):
            await target.take_over(wire.decode_export(json.dumps(export).encode(), nodes_max=10))
        assert target.workflow_count == 2


@pytest.mark.parametrize("task_id", ["a\nb", "\x1b[31m", "\u202e", "\ud800"])
async def test_ids_are_printable(task_id: str) -> None:
    """They stand in logs and on terminals."""
    async with scheduler(FakeBroker()) as running:
        given = replace(definition("a"), is_fresh=True, chosen=frozenset({0}))
        given.graph.task_ids[0] = task_id  # type: ignore[index]
        with pytest.raises(BadNode, match="`task_id`"):
            await running.submit_definition(given)


def test_two_nodes_of_one_definition_with_one_id() -> None:
    """That is seen in the definition itself."""
    with pytest.raises(DuplicateTaskId):
        _read({"task": "tasks.a", "task_id": "x"}, {"task": "tasks.b", "task_id": "x"})


async def test_the_own_definition_is_submitted_again() -> None:
    """What a daemon answers as a definition can be submitted: its ids are made anew, and those of error callbacks with them."""
    broker = FakeBroker()
    async with scheduler(broker) as running:
        nodes = (
            {"name": "a", "task": "tasks.a"},
            {"name": "body", "task": "tasks.b", "task_id": "body-id", "after": ["a"], "immutable": True},
            {"name": "body.errback", "task": "tasks.c", "args": ["body-id"], "immutable": True},
            {"name": "d", "task": "tasks.c", "task_id": "chosen", "args": ["body-id"], "immutable": True},
        )
        first = await running.submit_definition(_read(*nodes))
        await running.wait(first.id, timeout_s=5)
        again = json.loads(await running.definition(first.id))["nodes"]
        assert "task_id" not in again[0]
        assert again[1]["task_id"] == again[2]["args"][0] != "body-id"
        assert (again[3]["task_id"], again[3]["args"]) == ("chosen", ["body-id"])
        again[3].pop("task_id")
        second = await running.submit_definition(_read(*again))
        await running.wait(second.id, timeout_s=5)
        assert not set(await _ids(running, first.id)) & set(await _ids(running, second.id))


@pytest.fixture(params=["memory", "sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    """Makes stores on the same data."""
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else (lambda: SqliteStore(tmp_path / "s.db"))


async def test_ids_of_old_attempts_are_found_after_an_upgrade(stores: Any) -> None:
    """A node in its second attempt, sent by an earlier version, is awaited under that id; the next is held as well."""
    broker, store = FakeBroker({"tasks.bad": _bad}, holds=True), stores()
    async with scheduler(broker, store) as running:
        submitted = await running.submit_definition(definition("a id=first retry=5 backoff=0; b < a"))
        await until(lambda: len(broker.published) == 1)
    store = stores()
    await store.open()
    (stored,) = [each async for each in store.unfinished()]
    assert stored.record.ids == 2
    await store.save([replace(stored.record, ids=0)], [replace_attempt(stored.nodes[0])])
    await store.close()
    second, third = (task_id_of_old("first", attempt) for attempt in (2, 3))
    async with scheduler(broker, stores()) as running:
        assert (await running.node(submitted.id, "a")).task_id == second
        for task_id in (second, third, "first"):
            await _refused(running, _mine(task_id), submitted.id)
        broker._held.pop("first")
        broker._store(second, wire_result(second))
        await until(lambda: published(broker)[-1] == "b")
    async with scheduler(broker, stores()) as running:
        assert (await running.node(submitted.id, "a")).task_id == second


def replace_attempt(row: Any) -> Any:
    """The same row in its second attempt."""
    return row._replace(attempt=2, state=NodeState.DISPATCHED.word, failures=1)


def test_made_ids_are_known() -> None:
    """Those that were made are told from all others, of whatever kind."""
    made = [new_id() for new_id in (MadeIds(), MadeIds()) for _ in range(100)]
    assert len(set(made)) == 200
    assert all(map(is_made, made))
    assert [str(UUID(task_id)) for task_id in made] == made
    assert {UUID(task_id).version for task_id in made} == {4}
    assert not [task_id for task_id in (str(uuid4()) for _ in range(20_000)) if is_made(task_id)]
    assert is_made(task_id_of_attempt("anything", 2))
    assert task_id_of_attempt("anything", 2) != task_id_of_attempt("anything", 3)
    for other in ("", "order-1", made[0].upper(), made[0][:-1], made[0].replace("-", ""), task_id_of_old("x", 2), made[0] + " "):
        assert not is_made(other)
