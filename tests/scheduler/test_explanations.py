"""What explanations add to the engine's own answer: who has a pool, what broke, what moved on while the workers were asked."""

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.ports.facts import Inspection, TaskPlace, WatcherStatistics
from dyrygentd.scheduler import Handle
from dyrygentd.scheduler.limits import Pace
from dyrygentd.scheduler.outages import Outages
from dyrygentd.testing import FakeBroker, FakeInspector, FakeWatcher
from tests.scheduler.support import DEADLINE_S, RetryingInspector, definition, limits, scheduler, settle, until

pytestmark = pytest.mark.anyio


async def test_who_has_the_places_of_a_pool() -> None:
    """Who waits is told which nodes of which workflow have all places, since when and where, at most six of them."""
    broker = FakeBroker(holds=True)
    bounds = limits(pools={"drain@*": 8})
    async with scheduler(broker, inspector=broker.inspector, limits=bounds) as running:
        holders = await running.submit(definition("; ".join(f"d{n}! pool=drain@gra1" for n in range(8)), name="replace osd-1"))
        await until(lambda: len(broker.published) == 8)
        waiting = await running.submit(definition("x! pool=drain@gra1; y! pool=drain@gra1"))
        await settle()
        [standing] = (await waiting.explain()).standings
        assert (standing.code, standing.count) == ("pool", 2)
        assert standing.text.startswith("'x' waits for a place in pool 'drain@gra1': all 8 places of the pool are held by 'd")
        assert standing.text.count("(running on fake@worker for 0 s)") == 6
        assert standing.text.endswith(f" of 'replace osd-1' ({holders.id[:8]}) and 2 more")
        assert f"`dyrygentctl explain {holders.id}`" in standing.next_step
        assert (await waiting.explain("y")).verdict.endswith(" and 2 more")


class _Slow(FakeInspector):
    """Lets tasks end while it asks."""

    ends = 0

    async def trace(self, tasks: Sequence[TaskPlace]) -> Inspection:
        found = await super().trace(tasks)
        if tasks and self.ends:
            held = list(self._broker._held)[: self.ends]
            for task_id in held:
                self._broker.let_go(task_id)
            await until(lambda: not any(self._broker._held.get(task_id) for task_id in held))
            await settle()
        return found


@pytest.mark.parametrize("ends", [5, 45, 100])
async def test_nodes_that_move_on_while_the_workers_are_asked(ends: int) -> None:
    """No group is called '', none counts what has gone on, and the example is among the names."""
    broker = FakeBroker(holds=True)
    inspector = _Slow(broker)
    async with scheduler(broker, inspector=inspector) as running:
        handle = await running.submit(definition("; ".join(f"n{number}!" for number in range(100))))
        await until(lambda: len(broker.published) == 100)
        await settle()
        inspector.ends = ends
        found = await handle.explain()
        assert not any("''" in standing.text or "" in standing.examples for standing in found.standings)
        in_flight = [standing for standing in found.standings if standing.code in ("dispatched", "running")]
        assert sum(standing.count for standing in in_flight) <= 100
        for standing in in_flight:
            assert f"'{standing.examples[0]}'" in standing.text
            assert standing.node in standing.examples


async def test_what_is_lost_before_it_is_held_names_the_broker_that_was_emptied() -> None:
    """The words of a lost task and its log line say what happened to the broker while it was in flight."""
    broker = FakeBroker(holds=True)
    bounds = limits(lost_after_s=0.05, lost_confirm_s=0.05)
    async with scheduler(broker, inspector=broker.inspector, limits=bounds) as running:
        handle = await running.submit(definition("a!; b!; c < a b", prefix="p"))
        await until(lambda: len(broker.published) == 2)
        assert running._parts.lost is not None
        running._parts.lost.doubt_all("the broker was emptied")
        for name in "ab":
            broker.lose(f"p/{name}")
        await until(lambda: running.statistics().engine["counters"]["lost"] == 2)
        [cause] = (await running.causes(handle.id)).causes
        assert (cause.cause, cause.lost) == ("lost: the broker was emptied", 2)
        assert " UTC, and its message was in it (found nowhere for" in cause.example
        standing, after = (await handle.explain()).standings
        assert standing.text.startswith("'a' is held, since its task was lost: not in queue 'celery'")
        assert after.text == "'c' waits for 2 of 2 dependencies, first 'a': 'a' is held, since its task was lost"
        assert after.next_step == ""


class _Away(FakeWatcher):
    """Receives nothing while it is told so."""

    problem = ""

    def statistics(self) -> WatcherStatistics:
        return replace(super().statistics(), problem=self.problem, connected=not self.problem)


async def test_lost_tasks_tell_that_the_backend_was_away_while_they_were_in_flight() -> None:
    """Explanation, cause and overview begin with it; one that was sent later, or was found since, has nothing to do with it."""
    broker = FakeBroker(holds=True)
    watcher = _Away(broker)
    bounds = limits(lost_after_s=3600.0, lost_confirm_s=0.05)
    pace = Pace(young_s=0.0)
    async with scheduler(broker, watcher=watcher, inspector=broker.inspector, limits=bounds, pace=pace) as running:
        handle = await running.submit(definition("a!; b!; c!", prefix="p"))
        await until(lambda: len(broker.published) == 3)
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 3)
        lost = running._parts.lost
        assert lost is not None
        watcher.problem = "gone"
        await until(lambda: lost._away._since is not None)
        assert not lost.doubt_of("p/a").results
        watcher.problem = ""
        await until(lambda: bool(lost.doubt_of("p/a").results))
        later = await running.submit(definition("later!", prefix="q"))
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 4)
        lost._away.note(1.0, is_away=True)
        lost._away.note(2.0, is_away=False)
        await lost.look()
        assert not lost.doubt_of("q/later").results
        for task_id in ("p/a", "p/b", "q/later"):
            broker.lose(task_id)
        words = "the result backend was away from "
        stuck = [item.text for item in (await running.overview()).items if item.kind == "stuck"]
        assert [words in text for text in stuck] == [True, False]
        verdict = (await running.explain(handle.id, "a")).verdict
        assert f"no result is stored; {words}" in verdict
        assert verdict.endswith("another, in about 1 h: `retry --lost` finds it from then on")
        assert "'a' seems to be lost" in (await handle.explain()).verdict
        assert stuck[0].endswith("`retry --lost` finds it from then on")
        assert words not in (await running.explain(handle.id, "c")).verdict
        for name in "abc":
            lost._cases[f"p/{name}"].due = 0.0
        await until(lambda: running.statistics().engine["counters"]["lost"] == 2)
        [cause] = (await running.causes(handle.id)).causes
        assert (cause.cause, cause.lost) == ("lost: the result backend was away", 2)
        assert f"; {words}" in cause.example
        assert not lost.doubt_of("p/c").results
        assert words not in (await running.explain(later.id, "later")).verdict


def test_what_is_broken_goes_first() -> None:
    """Of each place the first problem; the next step is about the first of them, and names no other command than the pause."""
    outages = Outages.of([("disk", "cannot write"), ("disk", "slow"), ("backend", "results cannot be received: gone.")])
    assert outages.headlines == ["cannot write", "results cannot be received: gone"]
    assert "the database can be reached" in outages.next_step("w")
    step = outages._replace(disk="").next_step("w")
    assert "may drop tasks" in step
    assert step.count("`") == 2
    assert Outages().next_step("w") == ""


async def test_error_of_a_retry_has_no_secrets() -> None:
    """What a task has stored is not shown as it is."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, inspector=RetryingInspector(broker)) as running:
        handle = await running.submit(definition("a!"))
        await until(lambda: len(broker.published) == 1)
        await settle()
        found = await handle.explain("a")
        assert "waits at w1 for its retry; it ended last with OSError: redis://" in found.verdict
        assert f"`dyrygentctl skip {handle.id} a`" in found.next_step
        assert "hunter2" not in str(found)


async def test_failed_for_what_was_cancelled() -> None:
    """Who retries a node, and not what it waits for and was cancelled with it, reads of no failures that are not there."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, inspector=broker.inspector) as running:
        handle = await running.submit(definition("a!; b < a"))
        await until(lambda: len(broker.published) == 1)
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        await running.perform(handle.id, VerbRequest(Verb.RETRY, nodes=("b",)))
        found = await handle.explain()
        assert found.state == "failed"
        assert found.verdict.startswith("it has failed: 1 node was cancelled before; ")


async def test_cancelled_while_its_task_runs() -> None:
    """What waits for a cancelled node is not retried alone, in the overview of the workflow or when it is asked for."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, inspector=broker.inspector) as running:
        handle = await running.submit(definition("a!; b! < a"))
        await until(lambda: len(broker.published) == 1)
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        still, behind = (await handle.explain()).standings
        assert (still.code, still.node, behind.code, behind.node) == ("runs-on", "a", "cancelled", "b")
        assert behind.text == "'b' was cancelled, and waits for 'a', which has not succeeded"
        assert behind.next_step == "retry or skip 'a', and it goes on after that; alone it would end as blocked"
        assert (await handle.explain("b")).next_step == behind.next_step


async def _standings_at_late_end(handle: Handle) -> list[wire.StandingView]:
    """Wait until it is known how the task of the first node ended."""
    with anyio.fail_after(DEADLINE_S):
        while "later" not in (found := (await handle.explain()).standings)[0].text:
            await settle()
    return found


@pytest.mark.parametrize(("text", "step"), [("a!; b! < a", "`skip a`"), ("a!; b < a", "`skip a --value null`")])
async def test_cancelled_and_done_late(text: str, step: str) -> None:
    """Work that was done is not done again: its node is skipped, with its value if somebody takes it, and the rest goes on."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, inspector=broker.inspector) as running:
        handle = await running.submit(definition(f"{text}; c! < b"))
        await until(lambda: len(broker.published) == 1)
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        broker.let_go(broker.published[0].task_id)
        done, behind = await _standings_at_late_end(handle)
        assert (done.examples, behind.examples) == (["a"], ["b", "c"])
        assert done.text.startswith("'a' was cancelled; its task ended as succeeded later")
        assert (f"the result of task {broker.published[0].task_id}" in done.text) == ("--value" in step)
        assert (f"`celery -A APP result {broker.published[0].task_id}` shows" in done.text) == ("--value" in step)
        assert done.next_step.startswith(step)
        assert "retry" not in done.next_step
        assert behind.next_step == "skip 'a', and it goes on after that; alone it would end as blocked"
        broker.holds = False
        await running.perform(handle.id, VerbRequest(Verb.SKIP, nodes=("a",), value=b"1"))
        assert (await handle.wait()).state == "succeeded"
        assert [message.task_id[-1] for message in broker.published] == ["a", "b", "c"]


async def test_cancelled_is_told_apart_by_how_it_ended() -> None:
    """What ended late as succeeded, what never ran, and what waits for either have commands, or words, of their own."""
    broker = FakeBroker(holds=True)
    async with scheduler(broker, inspector=broker.inspector) as running:
        handle = await running.submit(definition("a!; x! countdown=1000; b! < a x"))
        await until(lambda: len(broker.published) == 1)
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        broker.let_go(broker.published[0].task_id)
        found = {standing.node: standing.next_step for standing in await _standings_at_late_end(handle)}
        assert list(found) == ["a", "x", "b"]
        assert found["a"].startswith("`skip a`")
        assert found["x"] == "`retry x` runs it"
        assert "`" not in found["b"]
        await running.perform(handle.id, VerbRequest(Verb.SKIP, nodes=("a",)))
        await running.perform(handle.id, VerbRequest(Verb.RETRY, nodes=("x",)))
        assert {node.name: node.state for node in (await running.nodes(handle.id)).nodes} == {
            "a": "skipped",
            "x": "held",
            "b": "waiting",
        }
