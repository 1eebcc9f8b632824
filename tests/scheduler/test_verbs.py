"""Verbs through the scheduler: on whatever state a workflow and the scheduler are in, answered when they are on disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import (
    BadRequest,
    BrokerUnavailable,
    CauseNotFound,
    DaemonUnreachable,
    DyrygentError,
    NodeNotFound,
    NotAccepting,
    NotOnDiskYet,
    StoreUnavailable,
    UnknownPool,
    VerbRefused,
    WorkflowNotFound,
)
from dyrygentd.ports import Store
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler import Handle, Scheduler
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, FakeWatcher, MemoryStore
from tests.scheduler.support import GatedMemory, GatedSqlite, definition, limits, published, scheduler, settle, until

pytestmark = pytest.mark.anyio

_BAD = {"tasks.bad": lambda *_: 1 // 0}


def _request(verb: str, *nodes: str, **fields: Any) -> VerbRequest:
    return VerbRequest(Verb(verb), by="ops (uid 7)", why="ticket 1", nodes=nodes, **fields)


async def _states(running: Scheduler, workflow_id: str) -> dict[str, str]:
    return {node.name: node.state for node in (await running.nodes(workflow_id)).nodes}


async def _failed(running: Scheduler) -> Handle:
    handle = await running.submit(definition("a; bad < a; after < bad"))
    await handle.wait(timeout_s=5)
    return handle


#: ``{verb: (graph, nodes it is for, node states when it was done)}``; of the graph's tasks the first is in flight.
_ON_LIVE: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "cancel": ("a; b < a", (), {"a": "cancelled", "b": "cancelled"}),
    "pause": ("a; b < a", (), {"a": "dispatched", "b": "waiting"}),
    "set-priority": ("a; b < a", (), {"a": "dispatched", "b": "waiting"}),
    "hold": ("a; b < a", ("b",), {"a": "dispatched", "b": "waiting"}),
    "release": ("a; g < a gate=1; h! countdown=1000", ("h",), {"a": "dispatched", "g": "waiting", "h": "dispatched"}),
    "skip": ("a; b < a gate=1", ("a",), {"a": "skipped", "b": "held"}),
    "retry": ("a; bad; c < bad a", ("bad",), {"a": "dispatched", "bad": "dispatched", "c": "waiting"}),
    "rerun": ("a; x; y < x; c < y a", ("x",), {"a": "dispatched", "x": "dispatched", "y": "waiting", "c": "waiting"}),
}


async def _live(running: Scheduler, broker: FakeBroker, text: str) -> str:
    """Submit a workflow, and let all its tasks end but ``a``."""
    handle = await running.submit(definition(text, prefix="p"))
    await until(lambda: "p/a" in broker._held)
    engine = running._parts.turns.engine

    def is_rest_over() -> bool:
        for task_id in [task_id for task_id in broker._held if task_id != "p/a"]:
            broker.let_go(task_id)
        workflow = engine.workflows[handle.id]
        return not running._parts.inbox and workflow.nodes.in_flight_count == 1 and not workflow.ready_count

    await until(is_rest_over)
    return handle.id


@pytest.mark.parametrize("verb", _ON_LIVE)
async def test_verb_on_a_live_workflow_survives_the_process(verb: str, reopen: Callable[[], Store]) -> None:
    """Each verb does what it is for, is in the journal with who and why, may be repeated, and is there after a restart."""
    text, nodes, states = _ON_LIVE[verb]
    broker = FakeBroker(_BAD, holds=True)
    request = _request(verb, *nodes, priority=5)
    async with scheduler(broker, reopen()) as running:
        workflow_id = await _live(running, broker, text)
        changed = await running.perform(workflow_id, request)
        assert (changed.is_changed, changed.verb, changed.id) == (True, verb, workflow_id)
        assert set(nodes) <= set(changed.nodes)
        await until(lambda: not running._parts.inbox and not running._parts.courier.queue_size)
        await settle()
        found = await _states(running, workflow_id)
        assert found == states
        if verb not in ("retry", "rerun"):
            again = await running.perform(workflow_id, request)
            assert not again.is_changed
        (entry,) = (await running.journal(workflow_id)).entries
        assert (entry.verb, entry.by, entry.why, entry.nodes) == (verb, "ops (uid 7)", "ticket 1", changed.nodes)
    async with scheduler(broker, reopen()) as running:
        view = await running.view(workflow_id)
        assert view.state == {"cancel": "cancelled", "pause": "paused"}.get(verb, "running")
        assert len((await running.journal(workflow_id)).entries) == 1
        with anyio.fail_after(5):
            # What was not sent is sent once the broker has been looked at.
            while "dispatching" in (await _states(running, workflow_id)).values():
                await anyio.lowlevel.checkpoint()
        await settle()
        recovered = await _states(running, workflow_id)
        assert recovered == states
        if verb in ("cancel",):
            return
        if verb == "pause":
            await running.perform(workflow_id, _request("resume"))
        broker.holds = False
        broker.tasks.clear()
        held = [node for node in ("b", "g") if f"{node}" in states]
        broker.let_go()
        for node in held:
            await until(lambda: not running._parts.inbox)
            await _release_when_held(running, workflow_id, node)
        assert (await running.wait(workflow_id, timeout_s=5)).state in ("succeeded", "failed")


async def _release_when_held(running: Scheduler, workflow_id: str, node: str) -> None:
    with anyio.fail_after(5):
        while (await running.node(workflow_id, node)).state in ("waiting", "held"):
            if (await running.node(workflow_id, node)).state == "held":
                await running.perform(workflow_id, _request("release", node))
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("verb", "nodes", "states"),
    [
        ("retry", (), ["succeeded", "succeeded", "succeeded"]),
        ("retry", ("bad",), ["succeeded", "succeeded", "succeeded"]),
        ("skip", ("bad",), ["succeeded", "skipped", "succeeded"]),
        ("rerun", ("a",), ["succeeded", "succeeded", "succeeded"]),
    ],
)
async def test_verb_on_a_finished_workflow(verb: str, nodes: tuple[str, ...], states: list[str], store: Store) -> None:
    """A workflow that failed goes on, with new task ids for what is tried again, to another end."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store) as running:
        handle = await _failed(running)
        broker.tasks.clear()
        changed = await handle.perform(_request(verb, *nodes, value=b"3"))
        assert changed.is_changed
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
        assert list((await _states(running, handle.id)).values()) == states
        ids = [message.task_id for message in broker.published]
        assert len(set(ids)) == len(ids)
        await until(lambda: broker.forgotten.count(handle.id) >= 1)
        assert [entry.verb for entry in (await running.journal(handle.id)).entries] == [verb]


@pytest.mark.parametrize("verb", ["pause", "resume", "set-priority", "hold", "release", "rerun", "skip"])
async def test_refusal_tells_what_is_possible(verb: str, store: Store) -> None:
    """What cannot be done in a state changes nothing, is not in the journal, and the answer names what can be done."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("bad; blocked < bad"))
        await handle.wait(timeout_s=5)
        node = "nobody" if verb in ("rerun", "skip") else "bad"
        with pytest.raises((VerbRefused, NodeNotFound)) as caught:
            await handle.perform(_request(verb, *([node] if verb not in ("pause", "resume", "set-priority") else [])))
        if isinstance(caught.value, VerbRefused):
            assert "retry" in caught.value.next_step
        assert (await running.journal(handle.id)).entries == []
        assert running.statistics().engine["workflows"] == 0
        assert (await handle.status()).state == "failed"


async def test_requests_that_mean_nothing(store: Store) -> None:
    """Unknown workflows, nodes and causes, missing names and numbers out of range are named."""
    broker = FakeBroker(_BAD, holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b"))
        cases: list[tuple[str, VerbRequest, type[DyrygentError]]] = [
            ("nobody", _request("cancel"), WorkflowNotFound),
            (handle.id, _request("hold", "nobody"), NodeNotFound),
            (handle.id, _request("hold"), BadRequest),
            (handle.id, _request("retry", cause="7"), CauseNotFound),
            (handle.id, _request("set-priority", priority=10**9), BadRequest),
            (handle.id, _request("hold", "b", "nobody"), NodeNotFound),
        ]
        for workflow_id, request, error in cases:
            with pytest.raises(error):
                await running.perform(workflow_id, request)
        assert (await running.journal(handle.id)).entries == []
        assert len(running._parts.verbs) == 0
        with pytest.raises(WorkflowNotFound):
            await running.journal("nobody")
        with pytest.raises(WorkflowNotFound):
            await running.causes("nobody")
        with pytest.raises(NodeNotFound):
            await running.explain(handle.id, "nobody")


async def test_unknown_pool_is_refused_with_what_there_is(store: Store) -> None:
    """A pool that has no size would hold its nodes for ever or not at all: the submission is refused, and the pools named."""
    broker = FakeBroker()
    async with scheduler(broker, store, limits=limits(pools={"drain@*": 1, "io": 4})) as running:
        with pytest.raises(UnknownPool, match="pool 'disk'") as caught:
            await running.submit(definition("a pool=disk"))
        assert "drain@*" in f"{caught.value} {caught.value.next_step}"
        await (await running.submit(definition("a pool=drain@gra1; b pool=io"))).wait(timeout_s=5)


async def test_pools_and_queue_limits_are_kept(store: Store) -> None:
    """Never more in flight than a pool or a queue allows, over all workflows; who waits is shown."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, limits=limits(pools={"drain@*": 2}, queue_limits={"celery": 3})) as running:
        handles = [await running.submit(definition("a! pool=drain@x; b! pool=drain@x; c!; d!")) for _ in range(3)]
        done = 0
        while done < 12:
            await until(lambda: bool(broker._held))
            await settle()
            views = {view["name"]: view for view in running.statistics().engine["pools"]}
            assert 0 < views["queue:celery"]["used"] <= 3
            assert views.get("drain@x", {"used": 0})["used"] <= 2
            assert len(broker._held) <= 3
            done += 1
            broker.let_go(next(iter(broker._held)))
        for handle in handles:
            assert (await handle.wait(timeout_s=5)).state == "succeeded"
        await until(lambda: running.statistics().engine["pools"] == [])


# --- answered when durable ------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def gated(request: pytest.FixtureRequest, tmp_path: Path) -> GatedMemory | GatedSqlite:
    """A store that can be made to wait."""
    return GatedMemory() if request.param == "memory" else GatedSqlite(tmp_path / "state.db")


@pytest.mark.parametrize("is_finished", [False, True])
async def test_verb_is_answered_when_durable(gated: GatedMemory | GatedSqlite, is_finished: bool) -> None:
    """While the disk keeps a verb waiting nobody is told that it was done, and nothing that follows from it is sent."""
    broker = FakeBroker(_BAD, holds=not is_finished)
    async with scheduler(broker, gated) as running, anyio.create_task_group() as tasks:
        handle = await running.submit(definition("bad; after < bad"))
        if is_finished:
            await handle.wait(timeout_s=5)
        else:
            await until(lambda: published(broker) == ["bad"])
        before = len(broker.published)
        gated.shut()
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await handle.skip("bad", value=1))

        tasks.start_soon(ask)
        await until(lambda: gated.waiting == 1)
        await settle()
        assert (answers, len(broker.published), broker.revoked) == ([], before, [])
        assert (await gated.journal(handle.id)) == []
        gated.open_gate()
        await until(lambda: bool(answers))
        assert len(await gated.journal(handle.id)) == 1
        await until(lambda: len(broker.published) == before + 1)
        broker.let_go()
        await handle.wait(timeout_s=5)


async def test_caller_that_leaves_changes_nothing(gated: GatedMemory | GatedSqlite) -> None:
    """A verb whose caller was cancelled is done all the same, and no ticket stays behind."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, gated) as running:
        handle = await running.submit(definition("a"))
        gated.shut()
        with anyio.move_on_after(0.01):
            await handle.cancel()
        assert len(running._parts.verbs) == 0
        gated.open_gate()
        assert (await handle.wait(timeout_s=5)).state == "cancelled"


async def test_caller_that_leaves_amid_a_reopening(gated: GatedMemory | GatedSqlite) -> None:
    """The next one gets the state that the first one's verb made, not the older one from the disk."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, gated) as running:
        handle = await running.submit(definition("bad; bad2 < bad"))
        await handle.wait(timeout_s=5)
        broker.tasks.clear()
        gated.shut()
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(handle.skip, "bad", "bad2")
            await until(lambda: bool(running._parts.verbs._reopening))
            leaving.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await handle.retry())

            tasks.start_soon(ask)
            await settle()
            gated.open_gate()
        assert (await handle.status()).state == "succeeded"
        assert [answer.is_changed for answer in answers] == [False]
        assert set((await _states(running, handle.id)).values()) == {"skipped"}
        assert [entry.verb for entry in (await running.journal(handle.id)).entries] == ["skip"]
        assert len(running._parts.verbs) == 0


async def test_two_verbs_on_one_finished_workflow(store: Store) -> None:
    """Two who retry at once set it running once; the second finds what the first has done."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store) as running:
        handle = await _failed(running)
        broker.holds = True
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await handle.retry())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert sorted(answer.is_changed for answer in answers) == [False] * 4 + [True]
        assert len((await running.journal(handle.id)).entries) == 1
        assert running.statistics().engine["workflows"] == 1


async def test_verb_on_a_workflow_whose_end_is_not_on_disk(gated: GatedMemory | GatedSqlite) -> None:
    """It waits for that end, but not for ever, and keeps nobody else from asking."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, gated, limits=limits(durable_timeout_s=1.0)) as running:
        other = await _failed(running)
        broker.holds = True
        handle = await running.submit(definition("bad; blocked < bad"))
        await until(lambda: bool(broker._held))
        gated.shut()
        broker.let_go()
        await until(lambda: gated.waiting == 1)
        with pytest.raises(StoreUnavailable, match="'retry' was not done, nothing was changed"):
            await handle.retry()
        with pytest.raises(NotOnDiskYet, match="'retry' of workflow"):
            await other.retry()
        gated.open_gate()
        await until(lambda: running._parts.turns.live(handle.id) is None)
        assert (await handle.retry()).is_changed
        assert [entry.verb for entry in (await running.journal(other.id)).entries] == ["retry"]


# --- schedulers in trouble ------------------------------------------------------------------------------------------


async def test_verbs_on_a_broken_disk() -> None:
    """Nothing is answered that is not on disk: the answer is "not yet", and after the disk is back what was asked for is done."""
    store = MemoryStore()
    broker = FakeBroker(_BAD, holds=True)
    async with scheduler(broker, store, limits=limits(durable_timeout_s=0.5)) as running:
        handle = await running.submit(definition("a"))
        await until(lambda: bool(broker._held))
        store.broken = "disk full"
        for _ in range(2):
            with pytest.raises(NotOnDiskYet, match=r"'pause' of workflow .* is not on disk yet, and will be done") as caught:
                await handle.pause()
            assert "nothing has to be repeated" in caught.value.next_step
            assert "if the daemon is killed before, it never happened" in caught.value.next_step
        result = await running.perform_in_bulk(Selection(states=frozenset({"running"})), _request("pause"))
        assert (result.matched, result.is_complete, result.refused, result.not_on_disk_yet) == (1, False, [], [handle.id])
        assert len(running._parts.verbs) == 0
        store.broken = ""
        await until(lambda: not running.health().problems)
        assert (await handle.status()).state == "paused"
        assert [entry.verb for entry in (await running.journal(handle.id)).entries] == ["pause"]


async def test_refused_verb_on_a_broken_disk() -> None:
    """A refusal changes nothing, so it is told as one, and never as something that will be done."""
    store = MemoryStore()
    broker = FakeBroker(_BAD, holds=True)
    async with scheduler(broker, store, limits=limits(durable_timeout_s=1.0)) as running:
        handle = await running.submit(definition("a"))
        await until(lambda: bool(broker._held))
        store.broken = "disk full"
        with pytest.raises(NotOnDiskYet):
            await handle.pause()
        with pytest.raises(NodeNotFound):
            await handle.hold("nowhere")
        store.broken = ""
        await until(lambda: not running.health().problems)
        assert [entry.verb for entry in (await running.journal(handle.id)).entries] == ["pause"]


async def test_verb_behind_a_transaction_that_hangs(gated: GatedMemory | GatedSqlite) -> None:
    """The engine has not seen it yet, and will: it is done when the disk answers, unless the workflow refuses it then."""
    broker = FakeBroker(_BAD, holds=True)
    async with scheduler(broker, gated, limits=limits(durable_timeout_s=1.0)) as running:
        handle = await running.submit(definition("a; b < a"))
        await until(lambda: bool(broker._held))
        gated.shut()
        for verb in (handle.pause, handle.cancel):
            with pytest.raises(NotOnDiskYet, match="the database is slow"):
                await verb()
        gated.open_gate()
        assert (await handle.wait(timeout_s=5)).state == "cancelled"
        assert [entry.verb for entry in (await running.journal(handle.id)).entries] == ["pause", "cancel"]


async def test_verb_that_is_killed_before_it_is_on_disk() -> None:
    """As the answer says: then it never happened."""
    store, broker = MemoryStore(), FakeBroker(_BAD, holds=True)
    async with scheduler(broker, store, limits=limits(durable_timeout_s=0.5)) as running:
        handle = await running.submit(definition("a"))
        await until(lambda: bool(broker._held))
        store.broken = "disk full"
        with pytest.raises(NotOnDiskYet):
            await handle.cancel()
    store.broken = ""
    broker.watcher = FakeWatcher(broker)
    async with scheduler(broker, store) as running:
        assert (await running.view(handle.id)).state == "running"
        assert (await running.journal(handle.id)).entries == []


async def test_verbs_while_draining(store: Store) -> None:
    """A daemon that stops does what needs no new work, and sets nothing running again."""
    broker = FakeBroker(_BAD, holds=False)
    async with scheduler(broker, store) as running:
        failed = await _failed(running)
        broker.holds = True
        live = await running.submit(definition("a; b < a"))
        await until(lambda: bool(broker._held))
        await running.drain(timeout_s=0)
        assert (await live.hold("b")).is_changed
        assert (await live.pause()).is_changed
        assert not (await failed.cancel()).is_changed
        with pytest.raises(VerbRefused):
            await failed.pause()
        with pytest.raises(NotAccepting, match="stopping"):
            await failed.retry()
        assert (await live.cancel()).state == "cancelled"


async def test_verbs_on_a_full_scheduler(store: Store) -> None:
    """A workflow that has finished takes a place when it goes on: without one it is refused, and the rest works."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store, limits=limits(workflows_max=1)) as running:
        failed = await _failed(running)
        broker.holds = True
        live = await running.submit(definition("a"))
        with pytest.raises(NotAccepting, match="`workflows_max`"):
            await failed.retry()
        assert not (await failed.cancel()).is_changed
        await live.cancel()
        assert (await failed.retry()).is_changed


async def test_verbs_after_the_end(store: Store) -> None:
    """Who asks a scheduler that has ended is told so."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a"))
    with pytest.raises(DaemonUnreachable, match="has ended"):
        await handle.cancel()
    with pytest.raises(DaemonUnreachable):
        await running.perform("nobody", _request("cancel"))


async def test_bulk(store: Store) -> None:
    """Each workflow that fits is changed on its own; what has nothing to change and what refuses is told apart."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store) as running:
        failed = [await _failed(running) for _ in range(3)]
        succeeded = await running.submit(definition("a"))
        await succeeded.wait(timeout_s=5)
        broker.holds = True
        result = await running.perform_in_bulk(Selection(), _request("retry"))
        assert (result.matched, result.is_complete) == (4, True)
        assert result.changed == [handle.id for handle in reversed(failed)]
        assert result.unchanged == [succeeded.id]
        result = await running.perform_in_bulk(Selection(name="test"), _request("pause"))
        assert [refusal.id for refusal in result.refused] == [succeeded.id]
        assert "succeeded" in result.refused[0].detail
        assert len(result.changed) == 3


# --- the broker's side ----------------------------------------------------------------------------------------------


async def test_cancel_withdraws_what_no_worker_has(store: Store) -> None:
    """What waits in the queue is taken back and never runs, which is shown as its late end; a new worker finds nothing."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b; c < a b", prefix="p"))
        await until(lambda: len(broker.queued) == 2)
        await handle.cancel()
        await until(lambda: set(broker.withdrawn) == {"p/a", "p/b"})
        broker.start_worker()
        assert broker.results == {}

        async def late() -> set[str | None]:
            return {node.late for node in (await running.nodes(handle.id)).nodes[:2]}

        with anyio.fail_after(5):
            while await late() != {"revoked"}:
                await anyio.lowlevel.checkpoint()


async def test_revoking_waits_for_the_broker(store: Store) -> None:
    """A cancel while the broker is away is told to it as soon as it is back, the order of terminating included."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a", prefix="p"))
        await until(lambda: bool(broker._held))
        broker.broken = "away"
        await handle.cancel(terminate=True)
        await settle()
        assert broker.terminated == []
        broker.broken = ""
        await until(lambda: "p/a" in broker.terminated)


async def test_cancel_is_told_to_the_broker_after_a_crash(reopen: Callable[[], Store]) -> None:
    """The process may die between the answer and the broker: the next one revokes what was in flight."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, reopen()) as running:
        handle = await running.submit(definition("a; b < a", prefix="p"))
        await until(lambda: len(broker.queued) == 1)
        broker.broken = "away"
        await handle.cancel()
    broker.broken = ""
    async with scheduler(broker, reopen()) as running:
        await until(lambda: broker.withdrawn == ["p/a"])
        await handle_is(running, handle.id, "cancelled")
    broker.start_worker()
    assert broker.results == {}


async def handle_is(running: Scheduler, workflow_id: str, state: str) -> None:
    """Check a workflow's state."""
    assert (await running.view(workflow_id)).state == state


async def test_late_result_is_shown_and_changes_nothing(reopen: Callable[[], Store]) -> None:
    """A task that goes on after the cancel and succeeds is shown so, from the disk too, and wakes nobody."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, reopen()) as running:
        handle = await running.submit(definition("a; b < a", prefix="p"))
        await until(lambda: bool(broker._held))
        await handle.cancel()
        # Somebody has looked at its nodes, so they are kept unpacked.
        assert (await running.node(handle.id, "a")).late is None
        broker.deliver(TaskSucceeded("p/a", b"1"))

        with anyio.fail_after(5):
            while (await running.node(handle.id, "a")).late != "succeeded":
                await anyio.lowlevel.checkpoint()
        assert published(broker) == ["a"]
        assert (await handle.status()).state == "cancelled"
        assert running.statistics().engine["counters"]["late"] == 1
    async with scheduler(broker, reopen()) as running:
        assert (await running.node(handle.id, "a")).late == "succeeded"


async def test_views_of_a_finished_workflow_are_present(store: Store) -> None:
    """Nodes, causes and explanations of a finished workflow follow its changes, whatever was kept unpacked before."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store) as running:
        handle = await _failed(running)
        assert (await running.causes(handle.id)).failures == 1
        await handle.skip("bad", value=1)
        await handle.wait(timeout_s=5)
        assert (await running.causes(handle.id)).failures == 0
        assert set((await _states(running, handle.id)).values()) == {"succeeded", "skipped"}


async def test_what_is_read_amid_a_change_is_not_kept(tmp_path: Path) -> None:
    """A read that began before a change and ends after it is answered, and not kept for others."""

    class Slow(SqliteStore):
        """Holds reads back."""

        read = anyio.Event()
        go = anyio.Event()
        go.set()

        async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Any:
            stored = await super().load(workflow_id, to_reopen=to_reopen)
            if not to_reopen:
                self.read.set()
                await self.go.wait()
            return stored

    store = Slow(tmp_path / "state.db")
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store) as running, anyio.create_task_group() as tasks:
        handle = await _failed(running)
        running._parts.archive.drop(handle.id)
        store.read, store.go, answered = anyio.Event(), anyio.Event(), anyio.Event()

        async def read() -> None:
            await running.nodes(handle.id)
            answered.set()

        tasks.start_soon(read)
        await store.read.wait()
        await handle.skip("bad", value=1)
        await handle.wait(timeout_s=5)
        store.go.set()
        await answered.wait()
        assert (await running.node(handle.id, "bad")).state == "skipped"


async def test_markers_are_kept_while_a_workflow_goes_on(store: Store) -> None:
    """An end that is forgotten late, because the broker was away, must not take the markers of what runs again."""
    broker = FakeBroker(_BAD)

    class Busy(type(broker.dispatcher)):  # type: ignore[misc]
        """Cannot forget for a while."""

        is_busy = True

        async def forget(self, workflow_ids: Any) -> None:
            if self.is_busy:
                raise BrokerUnavailable("away")
            await super().forget(workflow_ids)

    dispatcher = Busy(broker)
    async with scheduler(broker, store, dispatcher=dispatcher) as running:
        handle = await _failed(running)
        broker.holds = True
        broker.tasks.clear()
        await handle.retry()
        dispatcher.is_busy = False
        await until(lambda: running._parts.courier.errand_count == 0)
        assert broker.forgotten == []
        broker.holds = False
        broker.let_go()
        await handle.wait(timeout_s=5)
        await until(lambda: broker.forgotten == [handle.id])


async def test_scheduled_and_adopted_workflows_take_verbs(store: Store) -> None:
    """One that has not begun can be paused, resumed and cancelled."""
    broker = FakeBroker()
    async with scheduler(broker, store) as running:
        plain = definition("a")
        handle = await running.submit(replace(plain, policy=WorkflowPolicy(start_at=4_000_000_000.0)))
        assert (await handle.status()).state == "scheduled"
        assert (await handle.pause()).workflow.state == "paused"
        assert (await handle.resume()).workflow.state == "scheduled"
        assert (await handle.explain()).verdict.startswith("it starts in")
        assert (await handle.cancel()).state == "cancelled"
        assert broker.published == []
