"""Letters are carried out exactly once, in order, whatever crashes at which moment; the real store, leaders that come and go."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.deputy.sending import Sending
from dyrygentd.errors import KeyTaken, StoreUnavailable, UnknownPool, VerbRefused, WorkflowNotFound
from dyrygentd.ports.facts import Selection
from dyrygentd.ports.mailbox import MailboxFull, NotCarriedOutYet
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.postgres.onlooker import PostgresOnlooker
from dyrygentd.store.postgres.reader import PostgresReader
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.turns import Statement
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.testing import FakeBroker, FakeClock, FakeWatcher
from tests.scheduler.support import definition, limits, scheduler, until
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]

_TASKS: dict[str, Callable[..., object]] = {
    "tasks.a": lambda: 1,
    "tasks.b": lambda n: n + 1,
    "tasks.bad": lambda: 1 / 0,
    "tasks.c": lambda: 3,
}
_FOR_EVER = 1_000_000
_ANN = User(1000, "app0", "ann")


class _Crash(BaseException):
    """The process is gone."""


class _Fuse:
    """Crashes when it is passed for the ``at``-th time, and from then on always."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed: list[str] = []

    def __call__(self, point: str) -> None:
        self.passed.append(point)
        if len(self.passed) > self.at:
            raise _Crash(f"{len(self.passed)}: {point}")


class _FusedStore(PostgresStore):
    """A store that crashes before or after a save, and before or after answers are written."""

    fuse = _Fuse(_FOR_EVER)

    async def save(self, workflows: Any, nodes: Any, journal: Any = ()) -> None:
        records: Sequence[WorkflowRecord | NodeRecord | JournalEntry] = [*workflows]
        self.fuse("before save")
        await super().save(records, nodes, journal)  # type: ignore[arg-type]
        self.fuse("after save")

    async def _carry_out(self, statement: Statement) -> tuple[Any, ...] | None:
        is_answer = "UPDATE letters" in statement[0]
        if is_answer:
            self.fuse("before answer")
        answer = await super()._carry_out(statement)
        if is_answer:
            self.fuse("after answer")
        return answer


class _CutStore(PostgresStore):
    """A store that does not get its lease renewed while it ``is_cut``, as if the network lost that alone."""

    is_cut = False

    async def _renew(self) -> None:
        if self.is_cut:
            raise StoreUnavailable("the lease was not renewed")
        await super()._renew()


class _World:
    """What outlives a leader: the database, the broker with its workers, and the hosts where letters are left."""

    def __init__(self, url: PostgresUrl) -> None:
        self.url = url
        self.broker = FakeBroker(_TASKS)
        self.reader = PostgresReader(url, listing_max_s=5)
        self.hosts: list[Sending] = []
        self.boots = 0
        self.done = anyio.Event()

    def boot(self, fuse: _Fuse, **bounds: Any) -> Scheduler:
        """Return a leader that has forgotten everything."""
        store = _FusedStore(self.url)
        store.fuse = fuse
        self.broker.watcher = FakeWatcher(self.broker)
        self.boots += 1
        return scheduler(self.broker, store, limits=limits(**bounds))

    def boot_cut(self) -> tuple[_CutStore, Scheduler]:
        """Return a leader whose lease is over soon, and its store."""
        store = _CutStore(self.url, lease_ttl_s=1.0)
        self.broker.watcher = FakeWatcher(self.broker)
        leader = scheduler(self.broker, store)
        # Not only is the answer late: it is given up, and tried again.
        leader._parts.tenure.leadership._confirm_max_s = 0.05
        return store, leader

    async def lead(self, fuse: _Fuse) -> None:
        """Lead until all is done, or the fuse blows."""
        with suppress(BaseExceptionGroup, _Crash):
            async with self.boot(fuse):
                await self.done.wait()

    async def ended(self, workflow_id: str) -> WorkflowRecord:
        """Wait until the end of a workflow is on disk."""
        while True:
            record = await self.reader.record(workflow_id)
            if record is not None and record.state.is_finished:
                return record
            await anyio.sleep(0.01)

    def published(self) -> Counter[tuple[str, str]]:
        """Return how often each task of each workflow reached the broker."""
        return Counter((each.workflow_id, each.signature.task.removeprefix("tasks.")) for each in self.broker.published)


@asynccontextmanager
async def _world(url: PostgresUrl, *, hosts: int = 1, moment_s: float = 20.0) -> AsyncIterator[_World]:
    world = _World(url)
    async with world.boot(_Fuse(_FOR_EVER)):
        pass  # It has made the schema.
    await world.reader.open()
    stores = [PostgresOnlooker(url) for _ in range(hosts)]
    world.hosts = [
        Sending(store, store.mailbox, FakeClock(), host=f"app{number}", moment_s=moment_s, verb_max_s=60.0)
        for number, store in enumerate(stores)
    ]
    async with anyio.create_task_group() as tasks:
        for store in stores:
            await store.open()
            tasks.start_soon(store.mailbox.run)
        yield world
        tasks.cancel_scope.cancel()
    for store in stores:
        await store.close()
    world.reader.close()


async def _lives(world: _World, work: Callable[[], Awaitable[None]], fuses: Sequence[_Fuse]) -> None:
    """Have one leader after the other, the last of which does not crash, while somebody works."""

    async def at_work() -> None:
        await work()
        world.done.set()

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(at_work)
            for fuse in [*fuses, _Fuse(_FOR_EVER)]:
                if not world.done.is_set():
                    await world.lead(fuse)


@pytest.fixture
def url(shared_postgres: PostgresServer) -> PostgresUrl:
    """A schema that is not there yet."""
    return shared_postgres.url()


async def test_answers_are_the_leaders(url: PostgresUrl) -> None:
    """Who asks by letters is told what the leader would say: what was done, and refusals by their own classes and facts."""
    async with _world(url) as world:
        (host,) = world.hosts

        async def work() -> None:
            submitted = await host.submit(definition("a; b < a", key="k", prefix="p"), _ANN)
            assert (submitted.tasks, submitted.created) == (2, True)
            await world.ended(submitted.id)
            again = await host.submit(definition("a; b < a", key="k", prefix="p"), _ANN)
            assert (again.id, again.created) == (submitted.id, False)
            with pytest.raises(KeyTaken) as taken:
                await host.submit(definition("a", key="k", prefix="p"), _ANN)
            assert taken.value.workflow_id == submitted.id
            with pytest.raises(UnknownPool) as unknown:
                await host.submit(definition("a pool=nowhere"), _ANN)
            assert (unknown.value.pool, unknown.value.status) == ("nowhere", 422)
            with pytest.raises(VerbRefused):
                await host.perform(submitted.id, VerbRequest(Verb.PAUSE))
            with pytest.raises(WorkflowNotFound):
                await host.perform("nobody", VerbRequest(Verb.CANCEL))
            bulk = await host.perform_in_bulk(Selection(name="test"), VerbRequest(Verb.CANCEL))
            assert (bulk.matched, bulk.unchanged) == (1, [submitted.id])

        await _lives(world, work, [])


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ("kind = 'of the next version'", "unreadable-letter"),
        ("owner = 'ann'", "unreadable-letter"),
        (r"body = '\\x00ff'", "internal-error"),
        ("body = convert_to(repeat('[', 1000000), 'UTF8')", "internal-error"),
    ],
)
async def test_one_that_cannot_be_read_holds_up_nobody(shared_postgres: PostgresServer, broken: str, code: str) -> None:
    """What a gateway of another version, or a broken one, has left is refused with the reason; all behind it is carried out."""
    url = shared_postgres.url()
    async with _world(url, moment_s=0.01) as world:
        (host,) = world.hosts
        first = await host.submit(definition("a", prefix="p"), _ANN)
        shared_postgres.execute(f"UPDATE {url.schema}.letters SET {broken}")
        second = await host.submit(definition("a", prefix="q"), User(2, "app0"))

        async def work() -> None:
            await world.ended(second.id)
            while await world.reader.number("SELECT count(*) FROM letters WHERE answered_at IS NULL"):  # noqa: ASYNC110
                await anyio.sleep(0.01)

        await _lives(world, work, [])
        assert world.boots == 2
        ((answer, is_refused),) = shared_postgres.execute(
            f"SELECT convert_from(answer, 'UTF8')::json ->> 'code', is_refused FROM {url.schema}.letters WHERE workflow = %s",
            first.id,
        )
        assert (answer, is_refused) == (code, True)
        assert {workflow_id for workflow_id, _ in world.published()} == {second.id}


async def test_what_is_not_taken_now_keeps_nobody_from_ending_that(shared_postgres: PostgresServer) -> None:
    """One with more submissions than are taken at one time, at a leader that takes none: a cancel gets through."""
    url = shared_postgres.url()
    async with _world(url, moment_s=0.01) as world:
        (host,) = world.hosts
        with anyio.fail_after(120):
            held = await host.submit(definition("x! countdown=1000000", prefix="h"), _ANN)
            async with world.boot(_Fuse(_FOR_EVER)):
                while await world.reader.record(held.id) is None:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            async with anyio.create_task_group() as tasks:
                for number in range(150):
                    tasks.start_soon(host.submit, definition("a", prefix=f"a{number}"), _ANN)
            # As after half a minute.
            shared_postgres.execute(f"UPDATE {url.schema}.letters SET left_at = left_at - 100 WHERE answered_at IS NULL")
            async with world.boot(_Fuse(_FOR_EVER), workflows_max=1) as leader:
                while leader.statistics().engine["letters_in_hand"] < 128:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                cancelled = await host.perform(held.id, VerbRequest(Verb.CANCEL, asker=User(2, "app0")))
                assert cancelled.workflow.state == "cancelled"
                while not world.published():  # noqa: ASYNC110
                    await anyio.sleep(0.01)


async def _script(world: _World, told: dict[str, Any]) -> None:
    """Submit, retry what failed, which is not harmless when it is repeated, and cancel what was just submitted."""
    (host,) = world.hosts
    failing = await host.submit(definition("bad; c", key="failing", prefix="f"), _ANN)
    told["failing"] = failing.id
    await world.ended(failing.id)
    told["retried"] = await host.perform(failing.id, VerbRequest(Verb.RETRY, by="ann"))
    await world.ended(failing.id)
    told["bulk"] = await host.perform_in_bulk(Selection(states=frozenset({"failed"})), VerbRequest(Verb.RETRY, by="ann"))
    await world.ended(failing.id)
    held = await host.submit(definition("a; x! < a countdown=1000", prefix="h"), _ANN)
    told["held"] = held.id
    told["cancelled"] = await host.perform(held.id, VerbRequest(Verb.CANCEL, by="ann"))


def _check(world: _World, told: dict[str, Any], story: object) -> None:
    failing, published = told["failing"], world.published()
    assert published[failing, "bad"] == 3, story
    assert published[failing, "c"] == 1, story
    assert published[told["held"], "a"] <= 1, story
    retried, bulk, cancelled = told["retried"], told["bulk"], told["cancelled"]
    assert isinstance(retried, wire.Changed)
    assert (retried.is_changed, retried.nodes) == (True, ["bad"]), story
    assert bulk.changed == [failing], story
    assert cancelled.workflow.state == "cancelled", story


async def test_crash_at_every_point(shared_postgres: PostgresServer) -> None:
    """After a crash at any one point the next leader does what was left, and nothing twice."""
    undisturbed = _Fuse(_FOR_EVER)
    async with _world(shared_postgres.url()) as world:
        told: dict[str, Any] = {}
        await _lives(world, lambda: _script(world, told), [undisturbed])
        _check(world, told, "undisturbed")
    assert {"before save", "after save", "before answer", "after answer"} == set(undisturbed.passed)
    crashes = 0
    for at in range(len(undisturbed.passed)):
        fuse = _Fuse(at)
        async with _world(shared_postgres.url()) as world:
            told = {}
            await _lives(world, lambda world=world, told=told: _script(world, told), [fuse])  # type: ignore[misc]
            _check(world, told, fuse.passed)
            crashes += world.boots > 2
    assert crashes > len(undisturbed.passed) / 2


async def _untrusted(world: _World, store: _CutStore, leader: Scheduler) -> None:
    """Cut the lease off, and wait until the leader does not trust it any more."""
    store.is_cut = True
    await until(lambda: not leader._parts.tenure.leadership.is_trusted)


async def _row(world: _World, query: str) -> int:
    return await world.reader.number(query)


async def test_nothing_is_answered_that_is_not_confirmed(url: PostgresUrl) -> None:
    """A leader that cannot know that it leads carries out, and answers only when it knows: with what was done, and once."""
    async with _world(url, moment_s=0.1) as world:
        (host,) = world.hosts
        told: list[object] = []
        store, leader = world.boot_cut()
        async with leader:
            failing = (await host.submit(definition("bad; c", prefix="f"), _ANN)).id
            await world.ended(failing)
            await _untrusted(world, store, leader)

            async def ask() -> None:
                told.append(await host.submit(definition("nobody pool=nowhere", prefix="n"), _ANN))
                told.append(await host.perform(failing, VerbRequest(Verb.RETRY, by="ann")))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                with anyio.fail_after(20):
                    # It is done, and on disk.
                    while not await _row(world, "SELECT count(*) FROM footprints"):  # noqa: ASYNC110 - the database tells nobody
                        await anyio.sleep(0.01)
                # The submission was answered as one that is durable; a refusal, and what a verb did, are not told.
                assert len(told) == 1
                assert await _row(world, "SELECT count(*) FROM letters WHERE answered_at IS NULL") == 2
                store.is_cut = False
            assert isinstance(told[1], wire.Changed)
            assert (told[1].is_changed, told[1].nodes) == (True, ["bad"])
            await until(lambda: world.published()[failing, "bad"] == 2)
            assert await _row(world, "SELECT count(*) FROM letters WHERE answered_at IS NULL OR NOT is_refused") == 2
            assert await _row(world, "SELECT count(*) FROM footprints") == 0


async def test_successor_answers_what_was_not_confirmed(url: PostgresUrl) -> None:
    """What a leader did and could not confirm is found by the next one: answered by it as done, and not done again."""
    async with _world(url, moment_s=0.1) as world:
        (host,) = world.hosts
        store, leader = world.boot_cut()
        told: list[object] = []
        async with anyio.create_task_group() as tasks:
            async with leader:
                failing = (await host.submit(definition("bad; c", prefix="f"), _ANN)).id
                await world.ended(failing)
                await _untrusted(world, store, leader)

                async def ask() -> None:
                    told.append(await host.perform(failing, VerbRequest(Verb.RETRY, by="ann")))

                tasks.start_soon(ask)
                with anyio.fail_after(20):
                    while not await _row(world, "SELECT count(*) FROM footprints"):  # noqa: ASYNC110 - the database tells nobody
                        await anyio.sleep(0.01)
            assert not told
            async with world.boot(_Fuse(_FOR_EVER)):
                await until(lambda: bool(told))
                await until(lambda: world.published()[failing, "bad"] == 2)
        assert isinstance(told[0], wire.Changed)
        assert (told[0].is_changed, told[0].nodes) == (True, ["bad"])
        assert [entry.verb for entry in await world.reader.journal(failing)] == ["retry"]


async def _cancel(host: Sending, workflow_id: str, *, by: str) -> None:
    """Cancel, as often as it is refused: nothing is left while the oldest letter waits for long, as on a slow machine it may."""
    while True:
        try:
            with suppress(NotCarriedOutYet):
                await host.perform(workflow_id, VerbRequest(Verb.CANCEL, by=by))
            return
        except MailboxFull:
            await anyio.sleep(0.1)


async def _client(world: _World, chance: random.Random, name: str, told: dict[str, list[str]]) -> None:
    """Submit at one host, again with the key at another one, and cancel at either what was just submitted."""
    owner = User(chance.randrange(3), "app0")
    for number in range(3):
        one, other = chance.choice(world.hosts), chance.choice(world.hosts)
        key = f"{name}-{number}"
        if chance.random() < 0.3:
            held = await one.submit(definition("c; x countdown=1000 < c", key=key, prefix=key), owner)
            await _cancel(other, held.id, by=name)
            told[held.id] = ["cancel"]
            continue
        submitted = await one.submit(definition("a; b < a", key=key, prefix=key), owner)
        if chance.random() < 0.5:
            again = await other.submit(definition("a; b < a", key=key, prefix=key), owner)
            assert again.id == submitted.id
        told[submitted.id] = []


async def _all_ended(world: _World, told: dict[str, list[str]]) -> None:
    for workflow_id in told:
        await world.ended(workflow_id)


async def _check_all(world: _World, told: dict[str, list[str]]) -> None:
    """Every workflow that was answered ran once, each verb was done once, and nobody's is there who was told nothing."""
    published = world.published()
    assert max(published.values()) == 1
    for workflow_id, verbs in told.items():
        assert [entry.verb for entry in await world.reader.journal(workflow_id)] == verbs
        if not verbs:
            assert (published[workflow_id, "a"], published[workflow_id, "b"]) == (1, 1)
    assert {workflow_id for workflow_id, _ in published} <= told.keys()
    assert await world.reader.number("SELECT count(*) FROM workflows") == len(told)
    assert await world.reader.number("SELECT count(*) FROM letters WHERE answered_at IS NULL") == 0
    assert await world.reader.number("SELECT count(*) FROM footprints") == 0


@pytest.mark.parametrize("seed", range(5))
async def test_leaders_that_crash_by_chance(shared_postgres: PostgresServer, seed: int) -> None:
    """Clients at three hosts, leaders that die at random points: each answered submission runs once, each cancel is done once."""
    chance, told = random.Random(seed), dict[str, list[str]]()
    fuses = [_Fuse(chance.randrange(12)) for _ in range(6)]
    async with _world(shared_postgres.url(), hosts=3, moment_s=chance.choice([0.02, 5.0])) as world:

        async def work() -> None:
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(_client, world, random.Random(f"{seed} {number}"), f"client{number}", told)
            await _all_ended(world, told)

        await _lives(world, work, fuses)
        await _check_all(world, told)


async def test_two_hundred_clients(shared_postgres: PostgresServer) -> None:
    """As many as a site may have, at three hosts, while the leader is killed and started again."""
    told = dict[str, list[str]]()
    async with _world(shared_postgres.url(), hosts=3) as world:

        async def work() -> None:
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(_client, world, random.Random(number), f"client{number}", told)
            await _all_ended(world, told)

        await _lives(world, work, [_Fuse(at) for at in (40, 80, 120, 160)])
        assert world.boots >= 5
        await _check_all(world, told)
