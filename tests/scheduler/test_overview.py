"""What is wrong, and what waits for a person, in all workflows: by kind, in their order, and bounded."""

from dataclasses import replace
from typing import Any

import pytest

from dyrygentd.core.events import TaskReported
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.overview import Survey, Waiting
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.ports import Store
from dyrygentd.scheduler.limits import Pace
from dyrygentd.scheduler.overview import _verdict, _waiting_item
from dyrygentd.testing import FakeBroker, MemoryStore
from dyrygentd.wire import OverviewItem
from tests.scheduler.support import RetryingInspector, definition, limits, scheduler, settle, until

pytestmark = pytest.mark.anyio

_BAD = {"tasks.bad": lambda *_: 1 // 0}


#: Looks for tasks that have just been sent, too.
AT_ONCE = Pace(young_s=0.0)


async def test_nothing_wrong_is_one_sentence(store: Store) -> None:
    """Who looks and finds nothing wants to know that somebody looked."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        overview = await running.overview()
        assert (overview.status, overview.items) == ("ok", [])
        assert overview.verdict == "nothing is wrong (0 workflows under way, 0 tasks in flight)"
        await running.submit(definition("a!; b!"))
        await until(lambda: len(broker.published) == 2)
        await settle()
        overview = await running.overview()
        assert (overview.status, overview.verdict) == ("ok", "nothing is wrong (1 workflow under way, 2 tasks in flight)")


async def test_what_waits_for_a_person_is_told_with_its_command(store: Store) -> None:
    """One gate in a hundred workflows is found without opening each; who paused, when and why is told."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        gated = await running.submit(definition("g gate=1; a < g", name="gated"))
        paused = await running.submit(definition("p!", name="resting"))
        await running.perform(paused.id, VerbRequest(Verb.PAUSE, by="ann (uid 5)", why="CHG-42"))
        await settle()
        overview = await running.overview()
        assert overview.status == "attention"
        assert overview.verdict.startswith("2 workflows wait for a person (2 workflows under way")
        gate, rest = overview.items
        assert (gate.code, gate.workflow, gate.nodes, gate.count) == ("gate", gated.id, ["g"], 1)
        assert gate.text.startswith("'g' is a gate and waits for ")
        assert gate.next_steps == [f"dyrygentctl release {gated.id} g"]
        assert (rest.code, rest.name) == ("paused", "resting")
        assert rest.text.startswith("is paused by ann (uid 5) ")
        assert rest.text.endswith(" ago: CHG-42")
        assert rest.next_steps == [f"dyrygentctl resume {paused.id}"]


async def test_held_nodes_tell_who_holds_them(store: Store) -> None:
    """A hold of a colleague is asked about with its reason in hand."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        handle = await running.submit(definition("g gate=1; a < g; b < g", name="w"))
        await running.perform(handle.id, VerbRequest(Verb.HOLD, nodes=("a", "b"), by="ann", why="disk is in use"))
        await running.perform(handle.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        await settle()
        [item] = (await running.overview()).items
        assert (item.kind, item.code, item.count) == ("person", "hold", 2)
        assert item.text.startswith("2 nodes are held by ann for ")
        assert item.text.endswith(": disk is in use")
        assert item.next_steps == [f"dyrygentctl release {handle.id} a b"]


async def test_failures_of_the_last_day_are_told(store: Store) -> None:
    """What failed this night, and what is going to; what was cancelled is nobody's concern."""
    broker = FakeBroker(_BAD, holds=False)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        failed = await running.submit(definition("bad!", name="over"))
        await failed.wait(timeout_s=5)
        going = await running.submit(definition("bad!; g gate=1", name="goes on"))
        await until(lambda: running.workflow_count == 1 and "failed=1" in repr([*running._parts.turns.engine.workflows.values()]))
        overview = await running.overview()
        found = {item.code: item for item in overview.items}
        assert set(found) == {"gate", "failing", "failed"}
        assert (found["failing"].workflow, found["failing"].count) == (going.id, 1)
        assert found["failed"].text.startswith("has failed ")
        assert found["failed"].next_steps == [f"dyrygentctl explain {failed.id}"]
        assert "1 workflow failed in the last 24 h" in overview.verdict


async def test_newest_failure_comes_first_however_old_its_workflow_is(store: Store) -> None:
    """A workflow of last week that has just failed is what somebody was called for, and is not cut off."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        old = await running.submit(definition("g gate=1; bad < g", name="old"))
        for number in range(3):
            await (await running.submit(definition("bad!", name=f"f{number}"))).wait(timeout_s=5)
        await running.perform(old.id, VerbRequest(Verb.RELEASE, nodes=("g",)))
        await old.wait(timeout_s=5)
        overview = await running.overview(most=2)
        assert [item.name for item in overview.items if item.code == "failed"] == ["old", "f2"]
        assert overview.left_out == {"failed failed": 1}


async def test_tasks_that_nobody_will_run_are_stuck(store: Store) -> None:
    """All that waits in one queue for a worker is one thing to do, whoever it belongs to."""
    broker = FakeBroker(has_worker=False)
    async with scheduler(broker, store, inspector=broker.inspector, pace=AT_ONCE) as running:
        for name in ("one", "two"):
            await running.submit(definition("a!; b!", name=name))
        await until(lambda: len(broker.queued) == 4)
        await settle()
        overview = await running.overview()
        [item] = overview.items
        assert (item.kind, item.code, item.count) == ("stuck", "no-consumer", 4)
        assert "(3 more like it) was sent " in item.text
        assert "which nobody consumes" in item.text
        assert "worker -Q celery" in item.next_steps[0]
        assert overview.verdict.startswith("4 tasks are stuck (2 workflows")


async def test_what_is_broken_comes_first_and_nobody_is_asked_then() -> None:
    """ "It is running: 196 tasks in flight" is no answer while the disk is full."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store, inspector=broker.inspector, pace=AT_ONCE) as running:
        await running.submit(definition("g gate=1; a!; b!", name="w"))
        await until(lambda: len(broker.published) == 2)
        await settle()
        store.broken = "database or disk is full"
        broker.let_go(broker.published[0].task_id)
        await until(lambda: bool(running.health().problems))
        overview = await running.overview()
        assert overview.status == "problem"
        assert overview.verdict.startswith("database or disk is full")
        assert (overview.items[0].kind, overview.items[0].code) == ("problem", "disk")
        assert overview.problems
        assert "stuck" not in [item.kind for item in overview.items]
        store.broken = ""


async def test_thousands_are_counted_and_few_are_named(store: Store) -> None:
    """A screen has room for a few of each kind; the number is that of all."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        for number in range(12):
            await running.submit(definition("g gate=1", name=f"w{number}"))
        for number in range(7):
            await (await running.submit(definition("bad!", name=f"f{number}"))).wait(timeout_s=5)
        await settle()
        overview = await running.overview(most=3)
        assert [item.code for item in overview.items] == ["gate"] * 3 + ["failed"] * 3
        assert overview.left_out == {"person gate": 9, "failed failed": 1}
        assert overview.verdict.startswith("12 workflows wait for a person; 3 workflows or more failed in the last 24 h")


async def test_full_pools_and_bounds_are_told(store: Store) -> None:
    """Nothing is wrong if all places are taken, but who waits wants to know."""
    broker = FakeBroker(holds=True)
    bounds = limits(in_flight_max=2, pools={"p": 1})
    async with scheduler(broker, store, inspector=broker.inspector, limits=bounds) as running:
        handle = await running.submit(definition("a! pool=p; b! pool=p; c!; d!", name="w"))
        await until(lambda: len(broker.published) == 2)
        await settle()
        overview = await running.overview()
        assert {item.code for item in overview.items} <= {"pool", "in-flight"}
        assert "1 node waits for a place" in next(item.text for item in overview.items if item.code == "in-flight")
        for item in overview.items:
            assert (item.workflow, item.name, item.next_steps) == (handle.id, "w", [f"dyrygentctl explain {handle.id}"])
        assert (overview.status, overview.verdict.split(" (")[0]) == ("ok", "nothing is wrong")


async def test_what_was_lost_is_retried_by_what_is_printed(store: Store) -> None:
    """One command for 300 tasks that a broker has forgotten, and another that says more."""
    broker = FakeBroker(holds=True)
    bounds = limits(lost_after_s=0.02, lost_confirm_s=0.02)
    async with scheduler(broker, store, inspector=broker.inspector, limits=bounds) as running:
        handle = await running.submit(definition("a!; b!", name="w", prefix="p"))
        await until(lambda: len(broker.published) == 2)
        broker.lose("p/a")
        broker.lose("p/b")
        await until(lambda: running.people_wanted() == {"lost": 2})
        [item] = [item for item in (await running.overview()).items if item.kind == "person"]
        assert (item.code, item.count, item.workflow) == ("lost", 2, handle.id)
        assert item.text.startswith("2 nodes were lost")
        assert item.next_steps == [f"dyrygentctl explain {handle.id}", f"dyrygentctl retry {handle.id} --lost"]


async def test_error_of_a_retry_has_no_secrets(store: Store) -> None:
    """All who may read see the overview, and a task that waits for hours for its retry is told with its error."""
    broker = FakeBroker(holds=True)
    async with scheduler(
        broker, store, inspector=RetryingInspector(broker), pace=Pace(young_s=0.0, queued_long_s=0.0)
    ) as running:
        await running.submit(definition("a!"))
        await until(lambda: len(broker.published) == 1)
        await settle()
        [item] = (await running.overview()).items
        assert "waits at w1 for its retry; it ended last with OSError: redis://" in item.text
        assert "hunter2" not in str(item)


async def test_tries_of_a_task_are_told(store: Store) -> None:
    """Who looks at everything reads as much of a task that waits for its retry as who asks for its workflow."""
    broker = FakeBroker(holds=True)
    async with scheduler(
        broker, store, inspector=RetryingInspector(broker), pace=Pace(young_s=0.0, queued_long_s=0.0)
    ) as running:
        handle = await running.submit(definition("a!"))
        await until(lambda: len(broker.published) == 1)
        await settle()
        [message] = broker.published
        begun = TaskReported(message.task_id, "STARTED", "w1", start="w1 1")
        running._parts.inbox.post(begun, TaskReported(message.task_id, "RETRY", "w1"))
        await running._parts.inbox.wait_saved()
        [item] = (await running.overview()).items
        assert "waits at w1 for its retry, after 1 try; it ended last" in item.text
        assert "for its retry, after 1 try; it ended last" in (await handle.explain()).standings[0].text


async def test_gates_that_are_called_like_options(store: Store) -> None:
    """The command that is printed releases them, and nothing else."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        handle = await running.submit(definition("g gate=1; --all gate=1"))
        await settle()
        [item] = (await running.overview()).items
        assert item.next_steps == [f"dyrygentctl release {handle.id} -- g --all"]


@pytest.mark.parametrize(("waiting", "words"), [(1, "taken: 1 node waits"), (2, "taken: 2 nodes wait")])
async def test_who_waits_for_a_pool_is_where_its_holders_are_told(store: Store, waiting: int, words: str) -> None:
    """That a pool is full is half an answer: who has the places is asked of the workflow that waits longest."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, inspector=broker.inspector, limits=limits(pools={"p": 1})) as running:
        await running.submit(definition("a! pool=p", name="has it", prefix="h"))
        await until(lambda: len(broker.published) == 1)
        handles = [await running.submit(definition("a! pool=p", name=f"w{number}")) for number in range(waiting)]
        await settle()
        [item] = (await running.overview()).items
        assert (item.kind, item.text) == ("busy", f"the one place of pool 'p' is {words}")
        assert (item.workflow, item.name) == (handles[0].id, "w0")
        assert item.next_steps == [f"dyrygentctl explain {handles[0].id}"]


async def test_an_emptied_broker_is_named_before_its_tasks_are_held(store: Store) -> None:
    """For half a minute they are only looked for, and no worker is to be blamed for them."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, store, inspector=broker.inspector, pace=AT_ONCE) as running:
        await running.submit(definition("a!; b!", prefix="p"))
        await until(lambda: len(broker.published) == 2)
        await settle()
        assert running._parts.lost is not None
        running._parts.lost.doubt_all("the broker was emptied")
        broker.lose("p/a")
        broker.lose("p/b")
        [item] = [item for item in (await running.overview()).items if item.kind == "stuck"]
        assert (item.code, item.count) == ("lost", 2)
        assert "the broker was emptied" in item.text
        assert "died" not in item.text


def test_another_attempt_is_not_offered_for_what_would_end_in_the_same_way() -> None:
    """Of a task that ended by Ignore the overview says no other than the longer answer."""
    waiting = Waiting(HoldReason.LOST, "w", "n", 1, ("a b",), 0.0, ends_again=True)
    assert _waiting_item(waiting, None, 1.0).next_steps == ["dyrygentctl explain w", "dyrygentctl skip w 'a b'"]
    assert _waiting_item(replace(waiting, count=9), None, 1.0).next_steps == ["dyrygentctl explain w"]


@pytest.mark.parametrize(("looked_for", "words"), [(39, "30 tasks are stuck ("), (40, "at least 30 tasks are stuck (")])
def test_number_of_stuck_tasks_is_a_lower_bound_where_not_all_were_looked_for(looked_for: int, words: str) -> None:
    """Thirty of forty that were looked for say nothing about the five hundred that were not."""
    nodes: Any = [(None, number) for number in range(looked_for)]
    item = OverviewItem("stuck", "lost", "nobody has it", "w", count=30)
    assert _verdict([item], Survey(oldest=nodes), {}, workflows=1, in_flight=500).startswith(words)


async def test_no_journal_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of workflows may be told, and the journal of each may have a thousand entries with a hundred names."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        handle = await running.submit(definition("a!", name="w"))
        await running.perform(handle.id, VerbRequest(Verb.PAUSE, by="ann"))
        await settle()
        monkeypatch.setattr(store, "journal", None)
        [item] = (await running.overview()).items
        assert item.text.startswith("is paused by ann ")


async def test_what_keeps_failing_is_told_worst_first(store: Store) -> None:
    """A node that is tried again every few seconds never fails for good, and is what somebody looks for."""
    broker = FakeBroker(_BAD)
    async with scheduler(broker, store, inspector=broker.inspector) as running:
        one = await running.submit(definition("bad! retry=999 backoff=0.001 backoff_max=0.001", name="one"))
        await until(lambda: running._parts.turns.engine.workflows[one.id].attempts.tried_again.often == 1)
        await running.perform(one.id, VerbRequest(Verb.PAUSE))
        two = await running.submit(definition("bad! retry=3 backoff=3600; x! < bad", name="two"))
        await until(lambda: (running._parts.turns.engine.workflows[two.id].nodes.counts_by_word())["retrying"] == 1)
        overview = await running.overview()
        [item] = [item for item in overview.items if item.kind == "failed"]
        assert (item.code, item.workflow, item.nodes, item.count) == ("keeps-failing", one.id, ["bad"], 1)
        assert item.text.startswith("'bad' has failed ")
        assert ": ZeroDivisionError" in item.text
        assert item.next_steps == [f"dyrygentctl explain {one.id} bad", f"dyrygentctl skip {one.id} bad"]
        assert (overview.status, "1 node keeps failing" in overview.verdict) == ("attention", True)
        assert running.statistics().engine["keeps_failing"] == 1
        causes = await running.causes(two.id)
        [tried] = causes.tried_again
        assert (tried.count, tried.failures, tried.most, causes.tried_again_count, causes.failures) == (1, 1, 1, 1, 0)
        assert tried.next_at is not None
        assert tried.text.startswith("'bad' has failed once, and is tried again in ")
