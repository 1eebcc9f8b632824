"""A key of a user stands for one definition of theirs, and for nobody else's."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chord

from dyrygentd import wire
from dyrygentd.canvas import definition_of
from dyrygentd.core.graph import Definition
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.user import User
from dyrygentd.errors import KeyTaken
from dyrygentd.ports import Store
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, MemoryStore
from dyrygentd.wire.definitions import decode_definition
from dyrygentd.wire.digests import difference, digest_of
from tests.scheduler.support import definition, scheduler, until

pytestmark = pytest.mark.anyio

_NODE = {"name": "a", "task": "tasks.a", "args": [1], "kwargs": {"x": 1, "y": 2}, "options": {"queue": "q"}}


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Makes stores on the same data."""
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else (lambda: SqliteStore(tmp_path / "state.db"))


def _read(nodes: Any = (_NODE,), **more: Any) -> Definition:
    return wire.decode_definition(json.dumps({"nodes": nodes, "key": "ticket", **more}).encode(), nodes_max=100)


async def test_keys_of_two_users_never_meet(reopen: Callable[[], Store]) -> None:
    """Who guesses a key gets nothing of its owner, and takes nothing from them, after a restart neither."""
    broker = FakeBroker(holds=True)
    ids: dict[User | int | None, str] = {}
    async with scheduler(broker, reopen()) as running:
        for owner in (1000, 2000, None, 0, User(1000, "app1"), User(1000, "app2", "ann")):
            ids[owner] = (await running.submit_definition(_read(), owner=owner)).id
        assert len(set(ids.values())) == 6
    async with scheduler(broker, reopen()) as running:
        for owner, known in ids.items():
            submitted = await running.submit_definition(_read(), owner=owner)
            assert (submitted.id, submitted.created) == (known, False)
            assert (await running.view(known)).key == "ticket"
        views = [await running.view(known) for known in ids.values()]
        shown = [(1000, ""), (2000, ""), (None, ""), (0, ""), (None, "1000@app1"), (None, "ann@app2")]
        assert [(view.owner, view.owner_name) for view in views] == shown


async def test_another_definition_is_refused(reopen: Callable[[], Store]) -> None:
    """A key that was given to other work is told, with the workflow that has it and what differs."""
    broker = FakeBroker(holds=True)
    others = {
        "the arguments of node 'a' differ": _read([_NODE | {"args": [2]}]),
        "the tasks of node 'a' differ": _read([_NODE | {"task": "tasks.b"}]),
        "the options of node 'a' differ": _read([_NODE | {"options": {}}]),
        "it has no node 'b'": _read([_NODE, {"name": "b", "task": "tasks.b"}]),
        "it has no node 'c'": _read([_NODE | {"name": "c"}]),
        "the policies differ": _read(policy={"timeout_s": 5}),
        "the policies of node 'a' differ": _read([_NODE | {"retry": {"attempts": 2}}]),
    }
    async with scheduler(broker, reopen()) as running:
        first = await running.submit_definition(_read(), owner=1000)
        for words, other in others.items():
            with pytest.raises(KeyTaken) as caught:
                await running.submit_definition(other, owner=1000)
            assert caught.value.status == 409
            assert first.id in str(caught.value)
            assert words in str(caught.value)
        broker.holds = False
        broker.let_go()
        await running.wait(first.id, timeout_s=5)
        with pytest.raises(KeyTaken):
            await running.submit_definition(_read([_NODE | {"args": []}]), owner=1000)
        assert len(broker.published) == 1


async def test_what_is_made_anew_each_time_does_not_differ(reopen: Callable[[], Store]) -> None:
    """Names, ids, times counted from now, payloads, blanks, the order of members: who repeats a submission gets the first."""
    first = {"task_id": "x-1", "payload": 1, "options": {"queue": "q", "eta": "2030-01-01T00:00:00Z"}}
    options = {"eta": "2031-01-01T00:00:00Z", "queue": "q"}
    again = {"task_id": "x-2", "payload": 2, "kwargs": {"y": 2, "x": 1}, "options": options}
    async with scheduler(FakeBroker(holds=True), reopen()) as running:
        known = await running.submit_definition(_read([_NODE | first], policy={"deadline_s": 60}, payload=1))
        noted = _read([_NODE | again | {"adopted": "dispatched"}], name="other", labels={"host": "b"})
        assert (await running.submit_definition(noted)).id == known.id
        submitted = await running.submit_definition(_read([_NODE | again], policy={"deadline_s": 61}, payload=2))
        assert (submitted.id, submitted.created) == (known.id, False)


async def test_workflows_of_earlier_versions_have_no_digest(reopen: Callable[[], Store]) -> None:
    """Nobody knows what they were given, so a key of theirs is answered as it always was."""
    broker = FakeBroker(holds=True)
    store = reopen()
    async with scheduler(broker, store) as running:
        first = await running.submit_definition(_read())
        await until(lambda: running.in_flight_count == 1)
        record = await store.record(first.id)
        assert record is not None
        await store.save([replace(record, digest="")], [])
        assert (await running.submit_definition(_read([_NODE | {"args": []}]))).id == first.id


def test_canvases_have_the_same_digest_each_time() -> None:
    """Their ids are made anew for each submission, also the one that error callbacks of a chord's body are told."""
    app = Celery("t", broker="memory://", set_as_current=False)
    task = app.signature("tasks.a")

    def digest(value: int) -> str:
        body = task.clone((value,)).set(link_error=task.clone(("told",)))
        return digest_of(definition_of(chord([task.clone(), task.clone()], body)))

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)
    app.close()


def test_sections_with_an_end_are_a_part_of_what_runs() -> None:
    """Where a node is decides for what a clean-up waits; sections that only show what belongs together do not matter."""

    def of(section: str, end: str | None) -> Definition:
        nodes = [{"name": "a", "task": "t", "section": section}, {"name": "b", "task": "t", "section": "s"}]
        nodes.append({"name": "c", "task": "t", "section": "s", **({"section_end": end} if end else {})})
        return decode_definition(json.dumps({"nodes": nodes}).encode(), nodes_max=9)

    assert digest_of(of("s", None)) == digest_of(of("other", None))
    assert digest_of(of("s", "finally")) != digest_of(of("other", "finally"))
    assert difference(of("s", "finally"), of("other", "finally")) == "the sections of node 'a' differ"
    assert difference(of("s", "finally"), of("s", "always")) == "the policies of node 'c' differ"


def test_later_fields_change_no_digest() -> None:
    """What is as usual is not written, so that a digest is the same in a version that has more to say."""
    plain = definition("a")
    assert digest_of(plain) == digest_of(replace(plain, policy=WorkflowPolicy()))
    assert digest_of(plain).startswith("1:")
