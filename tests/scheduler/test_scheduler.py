"""The scheduler on the shipped fakes: what its callers see. All of it on both loops and both stores."""

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.events import TaskFailed, TaskReported, TaskRevoked, TaskSucceeded
from dyrygentd.errors import (
    AmbiguousReference,
    ConfigurationError,
    NodeNotFound,
    WaitTimeout,
    WorkflowNotFound,
)
from dyrygentd.ports import Store
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler import Handle, Scheduler
from dyrygentd.scheduler.limits import Pace
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import DEADLINE_S, Refusing, definition, limits, published, scheduler, settle, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The standard library's loop, and the one the daemon runs on."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


def _fail(*_: object) -> None:
    raise ValueError("no")


# --- submitting and waiting -----------------------------------------------------------------------------------------


async def test_submit_and_wait(store: Store) -> None:
    """A diamond runs in the order of its dependencies and hands on values; the outcome has the result."""
    broker = FakeBroker({"tasks.a": lambda: 1, "tasks.b": lambda n: n + 1, "tasks.c": lambda n: n + 2, "tasks.d": sum})
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a; c < a; d < b c", name="diamond"))
        outcome = await handle.wait(timeout_s=5)
    assert handle.created
    assert (outcome.id, outcome.name, outcome.state, outcome.result) == (handle.id, "diamond", "succeeded", 5)
    assert outcome.is_success
    assert outcome.failed_nodes == []
    outcome.raise_for_state()
    order = published(broker)
    assert order[0] == "a"
    assert order[-1] == "d"
    assert sorted(order) == ["a", "b", "c", "d"]
    assert broker.forgotten == [handle.id]


async def test_message_says_where_it_belongs(store: Store) -> None:
    """A message carries workflow, node, attempt, fixed task id, input and parent: Celery's headers are made of them."""
    broker = FakeBroker({"tasks.a": lambda: {"n": 1}})
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a", prefix="p"))
        await handle.wait(timeout_s=5)
    first, second = broker.published
    assert (first.workflow_id, first.node, first.attempt, first.task_id) == (handle.id, 0, 1, "p/a")
    assert (first.input, first.parent_id) == (None, "")
    assert (second.task_id, second.parent_id) == ("p/b", "p/a")
    assert second.input == b'{"n": 1}'


async def test_failure_is_told(store: Store) -> None:
    """A failed node fails the workflow after its independent branches ended; who failed and who was blocked by it can be seen."""
    broker = FakeBroker({"tasks.b": _fail})
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a; c < b; d < a"))
        outcome = await handle.wait(timeout_s=5)
        view = await handle.status()
        page = await running.nodes(handle.id)
    assert outcome.state == "failed"
    assert outcome.error == view.error == "'b' failed: ValueError: no"
    assert [(node.name, node.error) for node in outcome.failed_nodes] == [("b", "ValueError: no")]
    assert view.counts == {"succeeded": 2, "failed": 1, "blocked": 1}
    assert view.is_finished
    assert [(node.name, node.state, node.blocked_by) for node in page.nodes][2] == ("c", "blocked", "b")
    with pytest.raises(Exception, match="failed nodes: 'b'"):
        outcome.raise_for_state()


async def test_refused_message_fails_its_node(store: Store) -> None:
    """A message that can never be sent fails its node with the reason, and the branch beside it goes on."""
    broker = FakeBroker()
    async with scheduler(broker, store, dispatcher=Refusing(broker)) as running:
        outcome = await (await running.submit(definition("bad; c < bad; good; d < good"))).wait(timeout_s=5)
    assert [(node.name, node.error) for node in outcome.failed_nodes] == [("bad", "not dispatched: too large")]
    assert outcome.state == "failed"
    assert published(broker) == ["good", "d"]


async def test_wait_timeout_leaves_the_workflow_alone(store: Store) -> None:
    """A caller who stops waiting changes nothing; the workflow can be waited for again."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a"))
        with pytest.raises(WaitTimeout, match=r"has not finished within 0\.01 s; it goes on"):
            await handle.wait(timeout_s=0.01)
        await until(lambda: published(broker) == ["a"])
        broker.let_go()
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
        # What has finished is answered from the disk, at once and again.
        assert (await handle.wait(timeout_s=0.5)).state == "succeeded"


async def test_unknown_workflow(store: Store) -> None:
    """Every question about a workflow that does not exist has the same answer."""
    async with scheduler(FakeBroker(), store) as running:
        for ask in (running.view, running.wait, running.outcome, running.cancel, running.nodes, running.resolve):
            with pytest.raises(WorkflowNotFound, match="'nobody'"):
                await ask("nobody")
        with pytest.raises(WorkflowNotFound):
            await running.node("nobody", "a")
        with pytest.raises(WorkflowNotFound):
            [view async for view in running.follow("nobody")]


async def test_held_nodes_go_when_their_time_comes(store: Store) -> None:
    """A countdown is waited for here, not in the broker, and can be seen."""
    broker = FakeBroker()
    async with scheduler(broker, store) as running:
        seen = await running.submit(definition("c countdown=3600"))
        await _has_counts(seen, {"held": 1})
        handle = await running.submit(definition("a; b < a countdown=0.05"))
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
    assert published(broker) == ["a", "b"]


# --- cancelling and draining ----------------------------------------------------------------------------------------


async def test_cancel(store: Store) -> None:
    """Cancelling revokes what is in flight, sends nothing more, is on disk when answered, and may be repeated."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b; c < a b", prefix="p"))
        await until(lambda: len(broker.published) == 2)
        view = (await handle.cancel()).workflow
        assert view.state == "cancelled"
        assert view.counts == {"cancelled": 3}
        loaded = await store.load(handle.id)
        assert loaded is not None
        assert loaded.record.state == "cancelled"
        await until(lambda: set(broker.revoked) == {"p/a", "p/b"})
        assert (await handle.cancel()).state == "cancelled"
        broker.let_go()
        await settle()
        outcome = await handle.wait(timeout_s=5)
        assert outcome.state == "cancelled"
        assert outcome.failed_nodes == []
    assert sorted(published(broker)) == ["a", "b"]


async def test_cancel_after_the_end_changes_nothing(store: Store) -> None:
    """A workflow that has finished keeps its end."""
    async with scheduler(FakeBroker(), store) as running:
        handle = await running.submit(definition("a"))
        await handle.wait(timeout_s=5)
        assert (await handle.cancel()).state == "succeeded"


#: Forty chains of two.
_CHAINS = "; ".join(f"a{number}; b{number} < a{number}" for number in range(40))


async def _has_counts(handle: Handle, counts: dict[str, int]) -> None:
    with anyio.fail_after(DEADLINE_S):
        while (await handle.status()).counts != counts:  # noqa: ASYNC110 - as `until`
            await anyio.sleep(0.001)


async def test_few_results_wait_for_company(store: Store) -> None:
    """If much waits in the queues a few results share a turn; what somebody asks for does not wait, and takes them along."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, store, pace=Pace(company_s=3600.0)) as running:
        handle = await running.submit(definition(_CHAINS, prefix="p"))
        # That they are sent is an event as well, and forty of those are company enough.
        await _has_counts(handle, {"dispatched": 40, "waiting": 40})
        # Nothing else is due that would take them along.
        await running._parts.inbox.wait_saved()
        broker.deliver(*(TaskSucceeded(f"p/a{number}", b"1") for number in range(3)))
        await settle()
        assert len(broker.published) == 40
        broker.deliver(TaskSucceeded("p/a3", b"1"))
        await _has_counts(handle, {"succeeded": 4, "dispatched": 40, "waiting": 36})
        await running._parts.inbox.wait_saved()
        broker.deliver(TaskSucceeded("p/a4", b"1"))
        await settle()
        assert len(broker.published) == 44
        await handle.pause()
        assert (await handle.status()).counts == {"succeeded": 5, "dispatched": 39, "ready": 1, "waiting": 35}


async def test_lone_result_does_not_wait_long(store: Store) -> None:
    """If nobody comes it goes alone."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition(_CHAINS, prefix="p"))
        await _has_counts(handle, {"dispatched": 40, "waiting": 40})
        # Nothing else is due that would take it along.
        await running._parts.inbox.wait_saved()
        broker.deliver(TaskSucceeded("p/a7", b"1"))
        await until(lambda: published(broker)[40:] == ["b7"])


async def test_drain_waits_for_what_is_in_flight(store: Store) -> None:
    """Draining sends nothing more, waits for results, refuses submissions, and tells when all has landed."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a"))
        await until(lambda: published(broker) == ["a"])
        answers: list[bool] = []

        async def drain() -> None:
            answers.append(await running.drain(timeout_s=5))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            # A second signal must not make the first one wait in vain.
            tasks.start_soon(drain)
            await until(lambda: running.health().status == "draining")
            with pytest.raises(Exception, match="the daemon is stopping"):
                await running.submit(definition("c"))
            assert not answers
            with anyio.fail_after(2):
                broker.let_go()
                await until(lambda: answers == [True, True])
        assert published(broker) == ["a"]
        assert (await handle.status()).state == "running"
        loaded = await store.load(handle.id)
        assert loaded is not None
        assert [row.state for row in loaded.nodes] == ["succeeded"]


async def test_drain_gives_up_in_time(store: Store) -> None:
    """A task that does not end keeps nobody from stopping."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        await running.submit(definition("a"))
        await until(lambda: published(broker) == ["a"])
        assert await running.drain(timeout_s=0.01) is False


async def test_drain_of_an_idle_scheduler(store: Store) -> None:
    """Without anything in flight draining takes no time."""
    async with scheduler(FakeBroker(), store) as running:
        with anyio.fail_after(2):
            assert await running.drain(timeout_s=60)


async def test_drained_workflow_goes_on_after_a_restart(reopen: Callable[[], Store]) -> None:
    """What was left at a stop goes on at the next start, nothing is sent twice."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, reopen()) as running:
        handle = await running.submit(definition("a; b < a; c < b"))
        await until(lambda: published(broker) == ["a"])
        broker.let_go()
        await running.drain(timeout_s=5)
    broker.holds = False
    broker.let_go()
    async with scheduler(broker, reopen()) as running:
        assert (await running.wait(handle.id, timeout_s=5)).state == "succeeded"
        assert running.statistics().engine["counters"]["recovered"] == 1
    assert published(broker) == ["a", "b", "c"]


# --- asking ---------------------------------------------------------------------------------------------------------


async def test_follow_shows_the_way(store: Store) -> None:
    """A follower sees the present view at once, changes as they come, and the end exactly at the end."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a"))
        seen: list[wire.WorkflowView] = []
        with anyio.fail_after(5):
            async for view in handle.follow():
                seen.append(view)
                broker.let_go()
    assert not seen[0].is_finished
    assert seen[-1].state == "succeeded"
    assert seen[-1].counts == {"succeeded": 2}
    progress = [view.counts.get("succeeded", 0) for view in seen]
    assert progress == sorted(progress)
    assert 1 in progress


async def test_follow_of_the_finished(store: Store) -> None:
    """Following what has finished gives one view."""
    async with scheduler(FakeBroker(), store) as running:
        handle = await running.submit(definition("a"))
        await handle.wait(timeout_s=5)
        assert [view.state async for view in handle.follow()] == ["succeeded"]


async def test_follower_that_leaves_is_forgotten(store: Store) -> None:
    """A follower that stops leaves nothing behind, else watching costs memory for ever."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a"))
        for _ in range(3):
            following = handle.follow()
            await anext(following)
            await following.aclose()  # type: ignore[attr-defined]
        with anyio.move_on_after(0.01):
            await handle.wait()
        assert len(running._parts.listeners) == 0


async def test_resolve(store: Store) -> None:
    """People name workflows by id, unique prefix, name, or as the latest one."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        with pytest.raises(WorkflowNotFound):
            await running.resolve("@latest")
        first = await running.submit(definition("a", name="drain"))
        second = await running.submit(definition("a", name="drain"))
        third = await running.submit(definition("a", name="fill"))
        assert await running.resolve(first.id) == first.id
        assert await running.resolve(second.id[:13]) == second.id
        assert await running.resolve("fill") == third.id
        assert await running.resolve("@latest") == third.id
        with pytest.raises(AmbiguousReference, match="'drain' fits 2") as caught:
            await running.resolve("drain")
        assert caught.value.matches == [second.id, first.id]
        for unknown in ("", "fil", "@newest", first.id + "0"):
            with pytest.raises(WorkflowNotFound):
                await running.resolve(unknown)


async def test_list_shows_the_present(store: Store) -> None:
    """A listing is newest first, in pages, and shows what is in memory where the disk knows only the beginning."""
    broker = FakeBroker({"tasks.bad": _fail})
    async with scheduler(broker, store) as running:
        ended = await running.submit(definition("bad", name="ended", labels={"site": "gra1"}))
        await ended.wait(timeout_s=5)
        broker.holds = True
        for number in range(4):
            await running.submit(definition("a; b < a", name=f"live{number}", labels={"site": "gra1"}))
        await until(lambda: len(broker.published) == 5)
        broker.let_go(broker.published[1].task_id)
        await until(lambda: len(broker.published) == 6)
        page = await running.list(Selection(limit=3))
        assert [view.name for view in page.workflows] == ["live3", "live2", "live1"]
        assert page.next is not None
        rest = await running.list(Selection(limit=3, before=int(page.next)))
        assert [(view.name, view.state) for view in rest.workflows] == [("live0", "running"), ("ended", "failed")]
        assert rest.workflows[0].counts["succeeded"] == 1
        assert rest.workflows[1].counts == {"failed": 1}
        assert rest.next is None
        selected = await running.list(Selection(states=frozenset({"failed"}), labels={"site": "gra1"}))
        assert [view.id for view in selected.workflows] == [ended.id]


@pytest.mark.parametrize("ended", [False, True])
async def test_nodes_page_by_page(store: Store, ended: bool) -> None:
    """Nodes come in the order of the definition, joins included, in pages, by state; after the end as well as before."""
    broker = FakeBroker({"tasks.n3": _fail}, holds=not ended)
    async with scheduler(broker, store) as running:
        names = [f"n{number}" for number in range(7)]
        handle = await running.submit(definition("; ".join(names) + f"; &join < {' '.join(names)}; last < join"))
        if ended:
            await handle.wait(timeout_s=5)
        else:
            await until(lambda: len(broker.published) == 7)
        seen: list[str] = []
        after, pages = 0, 0
        while True:
            page = await running.nodes(handle.id, after=after, limit=4)
            seen += [node.name for node in page.nodes]
            pages += 1
            if page.next is None:
                break
            after = int(page.next)
        assert seen == [*names, "join", "last"]
        assert pages == 3
        states = {node.name: node.state for node in (await running.nodes(handle.id)).nodes}
        if ended:
            assert states == dict.fromkeys(names, "succeeded") | {"n3": "failed", "join": "blocked", "last": "blocked"}
            failed = await running.nodes(handle.id, states=frozenset({"failed"}), limit=1)
            assert [node.name for node in failed.nodes] == ["n3"]
        else:
            assert states["join"] == "waiting"
            assert (await running.nodes(handle.id, states=frozenset({"failed"}))).nodes == []


async def test_one_node(store: Store) -> None:
    """A node tells what it is, what it waits for, and the worker's last word; an unknown one is an error that names it."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; &j < a; b < j", prefix="p"))
        await until(lambda: published(broker) == ["a"])
        broker.deliver(TaskReported("p/a", "STARTED"))
        await until(lambda: running._parts.turns.engine.workflows[handle.id].attempts.reported == {0: "STARTED"})
        node = await running.node(handle.id, "a")
        assert (node.state, node.task, node.task_id, node.attempt, node.reported) == (
            "dispatched",
            "tasks.a",
            "p/a",
            1,
            "STARTED",
        )
        assert (await running.node(handle.id, "b")).after == ["j"]
        assert (await running.node(handle.id, "j")).task_id is None
        with pytest.raises(NodeNotFound, match="has no node 'z'"):
            await running.node(handle.id, "z")
        broker.holds = False
        broker.let_go()
        await handle.wait(timeout_s=5)
        node = await running.node(handle.id, "a")
        assert (node.state, node.reported) == ("succeeded", None)
        with pytest.raises(NodeNotFound):
            await running.node(handle.id, "z")


async def test_few_finished_workflows_are_kept_unpacked(store: Store) -> None:
    """Paging through finished workflows keeps the last two in memory, whatever is looked at."""
    async with scheduler(FakeBroker(), store) as running:
        handles = [await running.submit(definition("a; b < a")) for _ in range(5)]
        for handle in handles:
            await handle.wait(timeout_s=5)
            assert [node.name for node in (await running.nodes(handle.id)).nodes] == ["a", "b"]
        assert len(running._parts.archive) == 2


async def test_statistics_are_plain_values(store: Store) -> None:
    """A snapshot is data: it survives a trip through JSON and does not change afterwards."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        before = running.statistics()
        text = wire.encode(before)
        handle = await running.submit(definition("a; b < a"))
        await until(lambda: published(broker) == ["a"])
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 1)
        now = running.statistics()
        assert now.engine["workflows"] == 1
        assert now.engine["in_flight"] == 1
        assert now.engine["counters"]["submitted"] == 1
        assert now.store["commits"] >= 1
        assert now.dispatcher["published"] == 1
        assert now.watcher["watched"] == 1
        assert now.uptime_s >= 0
        assert now.problems == []
        broker.holds = False
        broker.let_go()
        await handle.wait(timeout_s=5)
        assert wire.encode(before) == text
        assert wire.decode(text, wire.Statistics) == before
        end = running.statistics()
        assert end.engine["workflows"] == end.engine["in_flight"] == end.watcher["watched"] == 0
        assert end.engine["inbox"] == end.engine["publish_queue"] == 0
        assert end.engine["counters"]["workflows_succeeded"] == 1
        assert sum(end.engine["nodes"].values()) == 0


async def test_healthy(store: Store) -> None:
    """A scheduler with nothing to complain about says so, and its repr tells its state in one line."""
    async with scheduler(FakeBroker(), store) as running:
        health = running.health()
        assert (health.status, health.problems) == ("ok", [])
        assert repr(running) == "<Scheduler <Engine workflows=0 in_flight=0> inbox=0 to_publish=0>"
        handle = await running.submit(definition("a"))
        assert repr(handle) == f"<Handle {handle.id}>"


async def test_problem_of_the_watcher_is_shown(store: Store) -> None:
    """A backend that does not deliver degrades the whole: nothing would ever finish."""
    broker = FakeBroker()
    statistics = broker.watcher.statistics
    broker.watcher.statistics = lambda: type(statistics())(problem="no results: connection refused")  # type: ignore[method-assign]
    async with scheduler(broker, store) as running:
        assert running.health().status == "degraded"
        assert running.statistics().problems == ["no results: connection refused"]


# --- results that should not count ----------------------------------------------------------------------------------


async def test_doubled_late_and_foreign_results(store: Store) -> None:
    """Results that are doubled, late, foreign or contradict the first one change nothing and are counted (P6)."""
    broker = FakeBroker({"tasks.a": lambda: 1, "tasks.b": lambda n: n + 1}, holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a", prefix="p"))
        await until(lambda: published(broker) == ["a"])
        broker.deliver(TaskSucceeded("p/a", b"1"), TaskSucceeded("p/a", b"7"), TaskFailed("p/a", "no"))
        broker.deliver(TaskFailed("foreign", "no"), TaskRevoked("p/a", "late"))
        await until(lambda: published(broker) == ["a", "b"])
        broker.let_go()
        outcome = await handle.wait(timeout_s=5)
        broker.deliver(TaskFailed("p/b", "late"), TaskSucceeded("p/b", b"99"))
        await until(lambda: running.statistics().engine["counters"]["unrouted"] >= 6)
        again = await handle.wait(timeout_s=5)
    assert (outcome.state, outcome.result) == (again.state, again.result) == ("succeeded", 2)


async def test_result_before_the_brokers_answer(store: Store) -> None:
    """A worker may be faster than the broker's answer; the fake always is."""
    broker = FakeBroker()
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("; ".join(f"n{number}" for number in range(300))))
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
    assert len(broker.published) == 300


async def test_reports_are_dropped_under_overload_and_results_never(store: Store) -> None:
    """With a full inbox what decides nothing is dropped, what decides is taken."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, limits=limits(inbox_max=3)) as running:
        handle = await running.submit(definition("a", prefix="p"))
        await until(lambda: published(broker) == ["a"])
        await until(lambda: not running._parts.inbox)
        broker.deliver(*(TaskReported("p/a", "PROGRESS") for _ in range(4)))
        broker.deliver(*(TaskReported("p/a", "PROGRESS") for _ in range(100)), TaskSucceeded("p/a", b"1"))
        assert len(running._parts.inbox) == 5
        assert (await handle.wait(timeout_s=5)).state == "succeeded"


async def test_in_flight_limit_is_kept(store: Store) -> None:
    """Never more tasks are out than allowed; the rest waits here."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, limits=limits(in_flight_max=3)) as running:
        handle = await running.submit(definition("; ".join(f"n{number}" for number in range(8))))
        for expected in (3, 6, 8):
            await until(lambda expected=expected: len(broker.published) == expected)  # type: ignore[misc]
            await settle()
            assert len(broker.published) == expected
            assert running.statistics().engine["in_flight"] == min(3, 8 - expected + 3) or expected == 8
            broker.let_go()
        assert (await handle.wait(timeout_s=5)).state == "succeeded"


# --- being embedded -------------------------------------------------------------------------------------------------


async def test_without_parts_it_says_what_is_missing() -> None:
    """A scheduler that was given nothing to work with says what to pass."""
    broker = FakeBroker()
    with pytest.raises(ConfigurationError, match="no database was named"):
        Scheduler(dispatcher=broker.dispatcher, watcher=broker.watcher)
    with pytest.raises(ConfigurationError, match="no Celery app was given"):
        Scheduler(database="unused.db")


async def test_nothing_stays_behind(tmp_path: Any) -> None:
    """Leaving with work in flight ends every task and thread at once; an embedding program could not end otherwise."""
    import asyncio

    tasks_before, threads_before = asyncio.all_tasks(), set(threading.enumerate())
    broker = FakeBroker(holds=True)
    async with scheduler(broker, SqliteStore(tmp_path / "state.db")) as running:
        await running.submit(definition("a; b; c < a b; d countdown=3600"))
        await until(lambda: len(broker.published) == 2)
        assert len(asyncio.all_tasks()) > len(tasks_before)
    await until(lambda: not _surplus_threads(threads_before))
    assert asyncio.all_tasks() == tasks_before
    assert broker.watcher.statistics().connected is False


def _surplus_threads(before: set[threading.Thread]) -> set[str]:
    """Return what runs besides; anyio keeps idle workers until its loop ends."""
    return {thread.name for thread in set(threading.enumerate()) - before if "AnyIO" not in thread.name}


async def test_cancelled_program_leaves_nothing_behind(tmp_path: Any) -> None:
    """A program that is cancelled around the scheduler ends it properly: threads stop, the database is free."""
    threads_before = set(threading.enumerate())
    with anyio.CancelScope() as scope:
        async with scheduler(FakeBroker(holds=True), SqliteStore(tmp_path / "state.db")) as running:
            await running.submit(definition("a"))
            scope.cancel()
            await anyio.sleep_forever()
    await until(lambda: not _surplus_threads(threads_before))
    async with scheduler(FakeBroker(), SqliteStore(tmp_path / "state.db")) as running:
        assert running.statistics().engine["counters"]["recovered"] == 1


async def test_error_of_the_program_is_passed_on(store: Store) -> None:
    """An exception in the body comes out as it was, not wrapped and not swallowed."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it is about leaving the block
        async with scheduler(FakeBroker(holds=True), store) as running:
            await running.submit(definition("a"))
            raise ZeroDivisionError


async def test_waiters_are_told_that_the_scheduler_ended(store: Store) -> None:
    """Whoever waits in another task when the scheduler is left gets an error instead of waiting for ever (P5)."""
    errors: list[Exception] = []

    async def wait(handle: Handle) -> None:
        try:
            await handle.wait()
        except Exception as error:
            errors.append(error)

    async def follow(handle: Handle) -> None:
        try:
            async for _ in handle.follow():
                pass
        except Exception as error:
            errors.append(error)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, scheduler(FakeBroker(holds=True), store) as running:
            handle = await running.submit(definition("a"))
            tasks.start_soon(wait, handle)
            tasks.start_soon(follow, handle)
            await until(lambda: running._parts.listeners.count(handle.id) == 2)
    assert [type(error).__name__ for error in errors] == ["DaemonUnreachable"] * 2


async def test_old_workflows_expire_while_it_runs(store: Store) -> None:
    """With a bound on their age finished workflows are deleted without anybody's asking, and what runs is not."""
    broker = FakeBroker(holds=True)
    async with scheduler(FakeBroker(), store) as running:
        for _ in range(25):
            await (await running.submit(definition("a"))).wait(timeout_s=5)
    async with scheduler(broker, store, limits=limits(history_s=0.001)) as running:
        kept = await running.submit(definition("a"))
        await until(lambda: running.statistics().store["finished_workflows"] == 0)
        assert [view.id for view in (await running.list(Selection())).workflows] == [kept.id]
        assert (await kept.status()).state == "running"
