"""The scheduler when the disk, the broker or the program around it lets it down, and at its bounds."""

import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dyrygentd.errors import (
    BrokerUnavailable,
    DaemonUnreachable,
    NotAccepting,
    NotOnDiskYet,
    NotStored,
    StoreLocked,
    StoreUnavailable,
)
from dyrygentd.ports import Emit, Store
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker, FakeDispatcher, FakeWatcher, MemoryStore
from tests.scheduler.support import (
    Ambiguous,
    GatedMemory,
    GatedSqlite,
    definition,
    limits,
    published,
    scheduler,
    settle,
    until,
)

pytestmark = pytest.mark.anyio

Gated = GatedMemory | GatedSqlite


@pytest.fixture(params=["memory", "sqlite"])
def gated(request: pytest.FixtureRequest, tmp_path: Path) -> Gated:
    """A store that can be made to wait."""
    return GatedMemory() if request.param == "memory" else GatedSqlite(tmp_path / "state.db")


class _Answers:
    """Calls that run beside the test, and what became of them."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.errors: list[Exception] = []

    async def keep(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            self.results.append(await call(*args))
        except Exception as error:
            self.errors.append(error)


# --- P1: accepted is durable ----------------------------------------------------------------------------------------


async def test_submission_is_answered_when_durable(gated: Gated) -> None:
    """Nothing is answered and nothing sent before the workflow is on disk."""
    broker = FakeBroker()
    answers = _Answers()
    async with scheduler(broker, gated) as running, anyio.create_task_group() as tasks:
        gated.shut()
        tasks.start_soon(answers.keep, running.submit, definition("a"))
        await until(lambda: gated.waiting == 1)
        await settle()
        assert (answers.results, published(broker)) == ([], [])
        gated.open_gate()
        await until(lambda: len(answers.results) == 1)
        assert await gated.load(answers.results[0].id) is not None
        await answers.results[0].wait(timeout_s=5)
    assert published(broker) == ["a"]


async def test_submission_without_an_answer_does_not_run(gated: Gated) -> None:
    """A submission that could not be stored in time is withdrawn, so that whoever tries again does not run it twice."""
    broker = FakeBroker()
    async with scheduler(broker, gated, limits=limits(durable_timeout_s=0.3)) as running:
        gated.shut()
        with pytest.raises(NotStored, match="the database is slow") as caught:
            await running.submit(definition("a"))
        assert "it was withdrawn and will not run" in str(caught.value)
        # It is in memory until the disk works, and nobody's work any more.
        assert len(running._parts.turns.engine.workflows) == 1
        assert (running.workflow_count, running.in_flight_count) == (0, 0)
        gated.open_gate()
        await until(lambda: running.statistics().engine["counters"]["workflows_cancelled"] == 1)
        await until(lambda: not running._parts.submissions._withdrawn)
    assert published(broker) == []


async def test_submission_with_a_key_is_taken_later(gated: Gated) -> None:
    """With a key the submission stands: that is a "not yet" with its id, and no failure."""
    broker = FakeBroker()
    async with scheduler(broker, gated, limits=limits(durable_timeout_s=0.3)) as running:
        gated.shut()
        with pytest.raises(NotOnDiskYet, match="will be done when it is: the database is slow") as caught:
            await running.submit(definition("a", key="ticket"))
        assert caught.value.status == 202
        assert "doing the same again takes nothing twice" in caught.value.next_step
        gated.open_gate()
        await until(lambda: published(broker) == ["a"])
        await until(lambda: running._parts.submissions._keys == {})
        assert (await running.submit(definition("a", key="ticket"))).id == caught.value.workflow_id


# --- P6: keys -------------------------------------------------------------------------------------------------------


async def test_known_key_creates_nothing(reopen: Callable[[], Store]) -> None:
    """A submission with a known key is answered with the first workflow: while it runs, after its end, after a restart."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, reopen()) as running:
        first = await running.submit(definition("a; b < a", name="first", key="ticket"))
        await until(lambda: published(broker) == ["a"])
        second = await running.submit(definition("a; b < a", name="first"), key="ticket")
        assert (first.created, second.created, second.id) == (True, False, first.id)
        submitted = await running.submit_definition(definition("a; b < a", name="first", key="ticket"))
        assert (submitted.id, submitted.name, submitted.tasks, submitted.created) == (first.id, "first", 2, False)
        broker.holds = False
        broker.let_go()
        await first.wait(timeout_s=5)
        assert (await running.submit(definition("a; b < a", name="first"), key="ticket")).id == first.id
    async with scheduler(broker, reopen()) as running:
        assert (await running.submit(definition("a; b < a", name="first"), key="ticket")).id == first.id
        assert (await running.submit(definition("x"), key="other")).id != first.id
        assert len((await running.list(Selection())).workflows) == 2


async def test_concurrent_submissions_with_one_key(gated: Gated) -> None:
    """Of many at once one creates, all get its id, and none is answered before it is durable."""
    broker = FakeBroker()
    answers = _Answers()
    async with scheduler(broker, gated) as running:
        gated.shut()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(answers.keep, running.submit, definition("a", key="ticket"))
            await until(lambda: gated.waiting == 1)
            await settle()
            assert answers.results == []
            gated.open_gate()
        assert answers.errors == []
        assert len({handle.id for handle in answers.results}) == 1
        assert [handle.created for handle in answers.results].count(True) == 1
        await answers.results[0].wait(timeout_s=5)
    assert published(broker) == ["a"]


async def test_repeating_a_key_that_is_not_durable_yet(gated: Gated) -> None:
    """A caller who gave up and repeats the submission, as the error says, gets the workflow that was taken meanwhile."""
    broker = FakeBroker()
    async with scheduler(broker, gated, limits=limits(durable_timeout_s=0.3)) as running:
        gated.shut()
        for _ in range(3):
            with pytest.raises(NotOnDiskYet):
                await running.submit(definition("a", key="ticket"))
        gated.open_gate()
        # A slow machine may need longer for the disk than this test lets a caller wait.
        await until(lambda: running._parts.submissions._keys == {})
        with anyio.fail_after(5):
            handle = await running.submit(definition("a", key="ticket"))
            assert not handle.created
            await handle.wait()
        assert running.health().status == "ok"
    assert published(broker) == ["a"]


@pytest.mark.parametrize("size", [1, 500])
async def test_caller_that_hangs_up(gated: Gated, size: int) -> None:
    """A client that goes away during its submission and comes back with the same key finds one workflow."""
    broker = FakeBroker()
    nodes = "; ".join(f"n{number}" for number in range(size))
    async with scheduler(broker, gated) as running:
        gated.shut()
        for waits in (0, 1, 2, 5, 50):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(running.submit, definition(nodes, key="ticket"))
                await settle(waits)
                tasks.cancel_scope.cancel()
        gated.open_gate()
        with anyio.fail_after(5):
            handle = await running.submit(definition(nodes, key="ticket"))
            await handle.wait()
        assert len((await running.list(Selection())).workflows) == 1
    assert len(broker.published) == size


# --- P2: the disk refuses -------------------------------------------------------------------------------------------


async def test_broken_disk(caplog: pytest.LogCaptureFixture) -> None:
    """While saving fails nothing is sent, results are read, the state is told and submissions refused; then all goes on."""
    caplog.set_level(logging.WARNING, "dyrygentd")
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a; c < b", prefix="p"))
        await until(lambda: published(broker) == ["a"])
        store.broken = "disk full"
        broker.let_go()
        await until(lambda: running.statistics().store["failures"] >= 2)
        assert published(broker) == ["a"]
        assert running.statistics().engine["counters"]["succeeded"] == 1
        assert running.health().status == "degraded"
        assert running.health().problems == ["disk full"]
        with pytest.raises(NotAccepting, match="disk full"):
            await running.submit(definition("x"))
        store.broken = ""
        await until(lambda: published(broker) == ["a", "b"])
        assert running.health().status == "ok"
        broker.holds = False
        broker.let_go()
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
    assert published(broker) == ["a", "b", "c"]
    assert [record.message for record in caplog.records] == [
        "nothing is dispatched until the database can be written: disk full",
        "the database can be written again",
    ]


async def test_results_are_read_while_the_disk_is_broken() -> None:
    """Results that come during the trouble are merged into what waits; whole branches may end before the disk works again."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store) as running:
        handles = [await running.submit(definition("a; b; c < a b")) for _ in range(3)]
        await until(lambda: len(broker.published) == 6)
        store.broken = "disk full"
        broker.let_go(*(message.task_id for message in broker.published[:3]))
        await until(lambda: bool(running.health().problems))
        broker.let_go()
        await until(lambda: running.statistics().engine["counters"]["succeeded"] == 6)
        assert len(broker.published) == 6
        broker.holds = False
        store.broken = ""
        for handle in handles:
            assert (await handle.wait(timeout_s=5)).state == "succeeded"
    assert len(broker.published) == 9


async def test_real_full_disk(tmp_path: Path) -> None:
    """The same with SQLite's own SQLITE_FULL: the daemon waits for room and then goes on by itself."""
    broker, store = FakeBroker({"tasks.a": lambda: "x" * 100_000}, holds=True), SqliteStore(tmp_path / "state.db")
    async with scheduler(broker, store) as running:
        handle = await running.submit(definition("a; b < a"))
        await until(lambda: published(broker) == ["a"])
        assert store._writer is not None
        await store._writer.execute("PRAGMA max_page_count = 1")
        broker.let_go()
        await until(lambda: bool(running.health().problems))
        assert "full" in running.health().problems[0]
        assert published(broker) == ["a"]
        # What is on disk can be read all the while.
        assert len((await running.list(Selection())).workflows) == 1
        await store._writer.execute("PRAGMA max_page_count = 1000000")
        broker.holds = False
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
    assert published(broker) == ["a", "b"]


async def test_cancel_while_the_disk_is_broken() -> None:
    """A cancel takes effect at once; its answer is that it will be on disk, and nothing is sent afterwards."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store, limits=limits(durable_timeout_s=1.0)) as running:
        handle = await running.submit(definition("a; b < a", prefix="p"))
        await until(lambda: published(broker) == ["a"])
        store.broken = "disk full"
        broker.let_go()
        await until(lambda: bool(running.health().problems))
        with pytest.raises(NotOnDiskYet, match=f"'cancel' of workflow '{handle.id}' is not on disk yet, .*: disk full"):
            await handle.cancel()
        store.broken = ""
        assert (await handle.wait(timeout_s=5)).state == "cancelled"
        await settle()
    assert published(broker) == ["a"]


async def test_leaving_while_the_disk_is_broken() -> None:
    """A scheduler whose disk does not work can be stopped; results that were not saved are found at the next start."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    with anyio.fail_after(5):
        async with scheduler(broker, store) as running:
            handle = await running.submit(definition("a; b < a"))
            await until(lambda: published(broker) == ["a"])
            store.broken = "disk full"
            broker.let_go()
            await until(lambda: bool(running.health().problems))
            assert await running.drain(timeout_s=0.01) is False
    store.broken, broker.holds = "", False
    broker.watcher = FakeWatcher(broker)
    async with scheduler(broker, store) as running:
        assert (await running.wait(handle.id, timeout_s=5)).state == "succeeded"
    assert published(broker) == ["a", "b"]


# --- the broker refuses ---------------------------------------------------------------------------------------------


async def test_broken_broker(caplog: pytest.LogCaptureFixture) -> None:
    """Publishing is repeated until the broker answers; what was cancelled meanwhile is left out; submissions go on."""
    caplog.set_level(logging.WARNING, "dyrygentd")
    broker = FakeBroker()
    async with scheduler(broker) as running:
        # Nothing is published before the broker was looked at.
        await until(lambda: any(ledger.holder for ledger in broker.ledgers.values()))
        broker.broken = "connection refused"
        kept = await running.submit(definition("a"))
        dropped = await running.submit(definition("b; b2"))
        later = await running.submit(definition("c"))
        await until(lambda: running.statistics().dispatcher["failures"] >= 1)
        assert running.health().status == "degraded"
        assert running.health().problems == ["connection refused"]
        assert (await dropped.cancel()).state == "cancelled"
        broker.broken = ""
        await kept.wait(timeout_s=5)
        await later.wait(timeout_s=5)
        await until(lambda: running.health().status == "ok")
    assert published(broker) == ["a", "c"]
    # What is said about the revoke of what was cancelled is another matter, and so is who looks after the broker beside.
    others = ("revoke", "the broker does not answer", "the broker can be reached")
    said = [record.message for record in caplog.records if not any(other in record.message for other in others)]
    assert said == [
        "nothing is dispatched until the broker answers: connection refused",
        "the broker answers again",
    ]


async def test_answer_of_the_broker_is_cut_off(store: Store) -> None:
    """If nobody knows whether messages were sent they are sent again, and the broker's marker keeps each to one execution."""
    broker = FakeBroker(holds=True)
    dispatcher = Ambiguous(broker)
    async with scheduler(broker, store, dispatcher=dispatcher) as running:
        handle = await running.submit(definition("a; b; c < a b"))
        await until(lambda: running.statistics().dispatcher["repeated"] == 2)
        broker.holds = False
        broker.let_go()
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
    assert sorted(published(broker)) == ["a", "b", "c"]


async def test_failing_errands_are_harmless(caplog: pytest.LogCaptureFixture) -> None:
    """Revoking and forgetting are attempts: if the broker is away they are reported, and everything else goes on."""

    class Deaf(FakeDispatcher):
        async def revoke(self, task_ids: Any, *, terminate: bool = False) -> None:
            raise BrokerUnavailable("nobody listens")

        async def forget(self, workflow_ids: Any) -> None:
            raise BrokerUnavailable("nobody listens")

    broker = FakeBroker(holds=True)
    async with scheduler(broker, dispatcher=Deaf(broker)) as running:
        first = await running.submit(definition("a"))
        await until(lambda: published(broker) == ["a"])
        assert (await first.cancel()).state == "cancelled"
        broker.holds = False
        assert (await (await running.submit(definition("b"))).wait(timeout_s=5)).state == "succeeded"
        await until(lambda: running.statistics().engine["errands"] >= 3)
    # Once, however often it is tried.
    assert [record.message for record in caplog.records] == [
        "could not revoke 1 tasks or forget 1 workflows, and goes on trying: nobody listens"
    ]


# --- P8: bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_keys", [False, True])
async def test_submissions_on_their_way_are_bounded(gated: Gated, with_keys: bool) -> None:
    """Beyond the bound submissions are refused at once instead of piling up before a slow disk."""
    answers = _Answers()
    async with scheduler(FakeBroker(), gated, limits=limits(submissions_max=3)) as running:
        gated.shut()
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                key = f"ticket-{number}" if with_keys else None
                tasks.start_soon(answers.keep, running.submit, definition("a", key=key))
            await until(lambda: len(answers.errors) == 7)
            assert answers.results == []
            gated.open_gate()
        assert len(answers.results) == 3
        assert all(isinstance(error, NotAccepting) for error in answers.errors)
        assert "3 submissions are being stored" in str(answers.errors[0])
        assert (await running.submit(definition("a"))).created


@pytest.mark.parametrize(
    ("bounds", "complaint"),
    [
        ({"workflows_max": 2}, "2 workflows are unfinished, the most that `workflows_max` allows"),
        ({"nodes_in_memory_max": 7}, "6 nodes are in memory, `nodes_in_memory_max` is 7"),
    ],
)
async def test_unfinished_work_is_bounded(bounds: dict[str, int], complaint: str) -> None:
    """What is kept in memory has a limit, and ends make room again."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, limits=limits(**bounds)) as running:
        handles = [await running.submit(definition("a; b; c")) for _ in range(2)]
        with pytest.raises(NotAccepting, match=complaint):
            await running.submit(definition("a; b; c"))
        await handles[0].cancel()
        await running.submit(definition("a; b; c"))


# --- the program around ---------------------------------------------------------------------------------------------


async def test_submitters_are_told_that_the_scheduler_ended(gated: Gated) -> None:
    """Whoever waits for the disk when the scheduler ends is told at once; later callers are refused."""
    answers = _Answers()

    class Stubborn(MemoryStore):
        async def save(self, workflows: Any, nodes: Any, journal: Any = ()) -> None:
            raise StoreUnavailable("disk full")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, scheduler(FakeBroker(), Stubborn()) as running:
            tasks.start_soon(answers.keep, running.submit, definition("a"))
            await until(lambda: bool(running.health().problems))
        assert [type(error) for error in answers.errors] == [DaemonUnreachable]
        with pytest.raises(NotAccepting, match="the scheduler has ended"):
            await running.submit(definition("a"))


async def test_part_that_breaks_ends_everything() -> None:
    """A bug in one part ends the scheduler and the block around it with that error, instead of standing still silently."""

    class Broken(FakeWatcher):
        async def run(self, emit: Emit) -> None:
            await anyio.lowlevel.checkpoint()
            raise ZeroDivisionError("a bug")

    broker = FakeBroker()
    with anyio.fail_after(5), pytest.raises(ExceptionGroup) as caught:
        async with scheduler(broker, watcher=Broken(broker)):
            await anyio.sleep_forever()
    assert caught.group_contains(ZeroDivisionError, match="a bug")


async def test_entering_fails_cleanly(tmp_path: Path) -> None:
    """If the database cannot be opened entering raises that error alone, and what was opened is closed."""
    closed: list[str] = []

    class Closing(FakeDispatcher):
        async def close(self) -> None:
            closed.append("dispatcher")

    broker = FakeBroker()
    path = tmp_path / "state.db"
    async with scheduler(broker, SqliteStore(path)):
        with pytest.raises(StoreLocked):
            async with scheduler(broker, SqliteStore(path), dispatcher=Closing(broker)):
                pass
        assert closed == ["dispatcher"]
    async with scheduler(broker, SqliteStore(path)):
        pass


async def test_two_side_by_side(tmp_path: Path) -> None:
    """Two schedulers in one program, each with its own database and broker, know nothing of each other."""
    brokers = [FakeBroker({"tasks.a": lambda number=number: number}) for number in range(2)]

    def make(number: int) -> Scheduler:
        return scheduler(brokers[number], SqliteStore(tmp_path / f"{number}.db"))

    async with make(0) as first, make(1) as second:
        handles = [await running.submit(definition("a; b < a", key="same")) for running in (first, second)]
        outcomes = [await handle.wait(timeout_s=5) for handle in handles]
        assert [outcome.state for outcome in outcomes] == ["succeeded"] * 2
        assert handles[0].id != handles[1].id
        assert len((await first.list(Selection())).workflows) == 1
        assert first.statistics().engine["counters"]["submitted"] == 1
    assert [published(broker) for broker in brokers] == [["a", "b"]] * 2


async def test_workflow_that_cannot_be_rebuilt_is_set_aside(tmp_path: Path) -> None:
    """A stored definition that this version cannot read ends its workflow with the reason, and the others go on."""
    broker, path = FakeBroker(holds=True), tmp_path / "state.db"

    async with scheduler(broker, SqliteStore(path)) as running:
        good, bad = await running.submit(definition("a; b < a")), await running.submit(definition("bad"))
        await until(lambda: len(broker.published) == 2)
    store = SqliteStore(path)
    await store.open()
    assert store._writer is not None
    document = zlib.compress(b'{"nodes": [], "version": 99}')
    await store._writer.execute("UPDATE workflows SET document = ? WHERE id = ?", (document, bad.id))
    await store._writer.commit()
    await store.close()
    broker.holds = False
    broker.let_go()
    async with scheduler(broker, SqliteStore(path)) as running:
        assert (await running.wait(good.id, timeout_s=5)).state == "succeeded"
        view = await running.view(bad.id)
        assert view.state == "failed"
        assert view.error.startswith("it cannot be rebuilt: definition version 99 is unknown")


async def test_names_cannot_write_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever names a workflow must not be able to make up what the log says."""
    caplog.set_level(logging.INFO, "dyrygentd")
    async with scheduler(FakeBroker(), MemoryStore()) as running:
        await (await running.submit(replace(definition("a"), name="x\n2026 ERROR forged"))).wait(timeout_s=5)
    (message,) = [record.message for record in caplog.records if "forged" in record.message]
    assert "'x\\n2026 ERROR forged' succeeded" in message
    assert "\n" not in message


async def test_bug_of_the_dispatcher_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error while publishing is logged with its traceback, shown, and tried again; nothing else stops."""

    class Buggy(FakeDispatcher):
        fails = 2

        async def publish(self, messages: Any) -> Any:
            if self.fails:
                self.fails -= 1
                raise ZeroDivisionError("a bug")
            return await super().publish(messages)

    broker = FakeBroker()
    async with scheduler(broker, dispatcher=Buggy(broker)) as running:
        handle = await running.submit(definition("a"))
        await until(lambda: any("ZeroDivisionError" in problem for problem in running.health().problems))
        assert caplog.records[0].exc_info is not None
        assert (await handle.wait(timeout_s=5)).state == "succeeded"
        assert running.health().problems == []
