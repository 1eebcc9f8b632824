"""A deputy beside a leader on one database: what it answers is compared with what the leader answers, field by field."""

import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import anyio
import pytest

from dyrygentd import metrics, wire
from dyrygentd.core.parent import Parent
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.deputy.deputy import Deputy
from dyrygentd.errors import DaemonUnreachable, NotImportable, StoreUnavailable, WorkflowNotFound
from dyrygentd.http.access import Access, Forbidden, Peer
from dyrygentd.ports.facts import Selection
from dyrygentd.ports.mailbox import NotLeader
from dyrygentd.scheduler import Pace, Scheduler
from dyrygentd.scheduler.service import Service
from dyrygentd.store.postgres.onlooker import PostgresOnlooker
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.testing import FakeBroker, FakeClock, MemoryStore
from tests.deputy.support import LEADER, FixedLease
from tests.scheduler.support import definition, limits, scheduler, until
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio

LIMITS: Final = limits(pools={"one": 1}, in_flight_max=500)
#: Far ahead of the clock of these tests.
LATER: Final = 1e9
_ANN: Final = User(1000, "app1", "ann")


class Pair(NamedTuple):
    """A leader and its deputy."""

    leader: Scheduler
    deputy: Deputy
    broker: FakeBroker
    clock: FakeClock
    lease: FixedLease


def _fail(*_: object) -> None:
    raise ValueError("no such host")


@asynccontextmanager
async def pair(server: PostgresServer, **options: Any) -> AsyncIterator[Pair]:
    """A leader that runs what it is given on the fakes, and a deputy on its database."""
    url, clock = server.url(), FakeClock(LATER)
    broker = FakeBroker({"tasks.bad": _fail, "tasks.worse": _fail}, holds=True)
    # It outlasts the test, however long the machine takes.
    onlooker, lease = PostgresOnlooker(url), FixedLease(599.0, ttl_s=600.0)
    alike: dict[str, Any] = {"limits": LIMITS, "clock": clock, "inspector": broker.inspector}
    async with scheduler(broker, PostgresStore(url), pace=Pace(look_at_clock_s=0.01), **alike) as leader:
        await onlooker.open()
        try:
            async with Deputy(store=onlooker, lease=lease, **alike, **options) as deputy:
                yield Pair(leader, deputy, broker, clock, lease)
        finally:
            await onlooker.close()


#: ``{name: (graph, tasks whose results come)}``
SHAPES: Final = {
    "succeeded": ("a; b < a; &j < a b", ["a", "b"]),
    "failed": ("bad; worse; c < bad; d < c", ["bad", "worse"]),
    "under way": ("e; f < e; g < f", ["e"]),
    "gate": ("go gate=1; h < go", []),
    "retried": ("bad retry=5 backoff=100; after < bad", ["bad"]),
    "pools": ("m pool=one; n pool=one; o pool=one", []),
    "timer": ("t countdown=500; s sleep=100; u < t s", []),
    "sections": ("x section=one/two; y section=one; z < x y", ["x"]),
    "wide": (
        "; ".join([*(f"w{number}" for number in range(40)), "&all < " + " ".join(f"w{number}" for number in range(40))]),
        ["w1"],
    ),
    "hooks": ("k; l hook=failure", ["k"]),
    "rule": ("bad; v rule=any_failed < bad", ["bad"]),
}


async def fill(running: Pair) -> dict[str, str]:
    """Have the leader run workflows until each has come as far as it can; return ``{name: id}``."""
    ids: dict[str, str] = {}
    for number, (name, (text, _)) in enumerate(SHAPES.items()):
        found = definition(text, name=name, labels={"kind": name}, key=f"key-{number}", prefix=name.replace(" ", "-"))
        ids[name] = (await running.leader.submit_definition(found)).id
    scheduled = replace(definition("aa; bb < aa", name="scheduled"), policy=WorkflowPolicy(start_at=LATER + 9000))
    ids["scheduled"] = (await running.leader.submit_definition(scheduled)).id
    for name in ("paused", "held", "cancelled", "skipped"):
        ids[name] = (await running.leader.submit_definition(definition("p; q < p; r < q", name=name, prefix=name))).id
    for name, verb, nodes in (
        ("paused", Verb.PAUSE, ()),
        ("held", Verb.HOLD, ("r",)),
        ("skipped", Verb.SKIP, ("r",)),
        ("cancelled", Verb.CANCEL, ()),
    ):
        await running.leader.perform(ids[name], VerbRequest(verb, by="ann", why="to see", nodes=nodes))
    for name, (_, ends) in SHAPES.items():
        for task in ends:
            task_id = f"{name.replace(' ', '-')}/{task}"
            await until(partial(is_sent, running, task_id))
            running.broker.let_go(task_id)
    for name in ("succeeded", "failed"):
        with anyio.fail_after(10):
            await running.leader.wait(ids[name])
    for task_id in ("under-way/f", "rule/v", "sections/y"):
        await until(partial(is_sent, running, task_id))
    await on_disk(running)
    # Both are noted now and then.
    await running.leader._parts.estimates.end()
    await running.deputy._learn()
    return ids


def is_sent(running: Pair, task_id: str) -> bool:
    """Tell whether a task was published."""
    return any(message.task_id == task_id for message in running.broker.published)


async def on_disk(running: Pair) -> None:
    """Wait until all that the leader knows is saved; what changes nothing for others is a moment later, by the clock."""
    inbox = running.leader._parts.inbox

    def is_saved() -> bool:
        running.clock.pass_time(0.01)
        return not inbox and inbox.is_saved

    await until(is_saved)


async def test_answers_of_both_are_the_same(shared_postgres: PostgresServer) -> None:
    """Whoever asks a standby or a gateway is told what the leader would tell."""
    async with pair(shared_postgres) as running:
        ids = await fill(running)
        differing: dict[tuple[str, str], list[str]] = {}
        for name, workflow_id in ids.items():
            for what, ask in QUESTIONS.items():
                differing[name, what] = await difference(running, partial(_of, ask, workflow_id))
        for what, ask_all in QUESTIONS_OF_ALL.items():
            differing["all", what] = await difference(running, ask_all)
        assert {what: lines for what, lines in differing.items() if lines} == {}


async def _of(ask: Callable[[Service, str], Awaitable[Any]], workflow_id: str, service: Service) -> Any:
    return await ask(service, workflow_id)


#: Tasks that were revoked, and whose end nobody has told, are in the leader's memory alone.
ONLY_THE_LEADER_KNOWS: Final = ".may_run_on"


async def difference(running: Pair, ask: Callable[[Service], Awaitable[Any]]) -> list[str]:
    """Ask both, and say where their answers differ."""
    told = [plain(await ask(service)) for service in (running.leader, running.deputy)]
    return [line for line in lines_of(*told) if ONLY_THE_LEADER_KNOWS not in line]


def plain(answer: Any) -> Any:
    """Return what a client gets."""
    return json.loads(answer if isinstance(answer, bytes) else wire.encode(answer))


def lines_of(one: Any, other: Any, path: str = "") -> list[str]:
    """Say field by field where two answers differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [line for key in sorted({*one, *other}) for line in lines_of(one.get(key), other.get(key), f"{path}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for at, pair in enumerate(zip(one, other, strict=True)) for line in lines_of(*pair, f"{path}[{at}]")]
    return [] if one == other else [f"{path}: {one!r} / {other!r}"]


async def _every_node(service: Service, workflow_id: str) -> list[wire.NodeView]:
    names = [node.name for node in (await service.nodes(workflow_id)).nodes]
    return [await service.node(workflow_id, name) for name in names]


async def _every_explanation(service: Service, workflow_id: str) -> list[wire.Explanation]:
    names = [node.name for node in (await service.nodes(workflow_id)).nodes]
    return [await service.explain(workflow_id, name) for name in names]


async def _first_of_fold(service: Service, workflow_id: str) -> Any:
    stream = service.faces.follow_fold(workflow_id)
    try:
        return json.loads((await anext(stream)).data)
    finally:
        await stream.aclose()


async def _first_view(service: Service, workflow_id: str) -> wire.WorkflowView:
    async for view in service.follow(workflow_id):
        return view
    raise AssertionError


QUESTIONS: Final[dict[str, Callable[[Service, str], Awaitable[Any]]]] = {
    "view": lambda service, workflow_id: service.view(workflow_id, with_result=True),
    "owner": lambda service, workflow_id: service.owner(workflow_id),
    "definition": lambda service, workflow_id: service.definition(workflow_id),
    "export": lambda service, workflow_id: service.export(workflow_id),
    "nodes": lambda service, workflow_id: service.nodes(workflow_id),
    "failed nodes": lambda service, workflow_id: service.nodes(workflow_id, states=frozenset({"failed"})),
    "named nodes": lambda service, workflow_id: service.nodes(workflow_id, name="a"),
    "page of nodes": lambda service, workflow_id: service.nodes(workflow_id, after=1, limit=1),
    "each node": _every_node,
    "summary": lambda service, workflow_id: service.summary(workflow_id),
    "causes": lambda service, workflow_id: service.causes(workflow_id),
    "journal": lambda service, workflow_id: service.journal(workflow_id),
    "explain": lambda service, workflow_id: service.explain(workflow_id),
    "explain each node": _every_explanation,
    "fold": lambda service, workflow_id: service.faces.fold(workflow_id),
    "fold events": _first_of_fold,
    "timeline": lambda service, workflow_id: service.faces.timeline(workflow_id),
    "estimate": lambda service, workflow_id: service.faces.estimate(workflow_id),
    "events": _first_view,
}
QUESTIONS_OF_ALL: Final[dict[str, Callable[[Service], Awaitable[Any]]]] = {
    "list": lambda service: service.list(Selection(limit=100)),
    "second page": lambda service: service.list(Selection(limit=2, before=4)),
    "by label": lambda service: service.list(Selection(labels={"kind": "gate"}, limit=10)),
    "audit": lambda service: service.audit(),
    "overview": lambda service: service.overview(most=20),
    "name": lambda service: service.resolve("under way"),
    "latest": lambda service: service.resolve("@latest"),
    "key": lambda service: service.resolve("key:key-3"),
}


async def test_who_has_a_place_is_told_of_workflows_that_nobody_looked_at(shared_postgres: PostgresServer) -> None:
    """A node may wait for one of another workflow: whoever asks why is told of it, whatever was asked before."""
    async with pair(shared_postgres) as running:
        first = (await running.leader.submit_definition(definition("m pool=one", name="first", prefix="first"))).id
        second = (await running.leader.submit_definition(definition("m pool=one", name="second", prefix="second"))).id
        await until(partial(is_sent, running, "first/m"))
        await on_disk(running)
        assert first[:8] in (await running.deputy.explain(second, "m")).verdict
        assert await difference(running, lambda service: service.explain(second, "m")) == []


async def test_children_are_shown_as_the_leader_shows_them(shared_postgres: PostgresServer) -> None:
    """Two workflows below another one, at a gate: all that is asked of each of the three has the same answer here."""
    bottom = {"name": "bottom", "nodes": [{"name": "x", "task": "tasks.x"}, {"name": "gate", "gate": True}]}
    middle = {"name": "middle", "nodes": [{"name": "k", "workflow": {"definition": bottom}}]}
    nodes = [{"name": "a", "task": "tasks.a"}, {"name": "k", "workflow": {"definition": middle}}]
    document = json.dumps({"name": "top", "nodes": nodes}).encode()
    async with pair(shared_postgres) as running:
        top = (await running.leader.submit_definition(wire.decode_definition(document, nodes_max=100))).id
        below = Parent(top, 1).child_id
        bottommost = Parent(below, 0).child_id
        await until(lambda: len(running.broker.published) == 2)
        await on_disk(running)
        assert (await running.deputy.view(top)).waits_for_person == {"gate": 1}
        assert f"workflow {bottommost}" in (await running.deputy.explain(top)).standings[0].text
        for workflow_id in (top, below, bottommost):
            for name, question in QUESTIONS.items():

                def ask(service: Service, question: Any = question, workflow_id: str = workflow_id) -> Awaitable[Any]:
                    found: Awaitable[Any] = question(service, workflow_id)
                    return found

                assert await difference(running, ask) == [], (name, workflow_id)
        for selection in (Selection(), Selection(with_children=True), Selection(parent=top)):
            assert await difference(running, lambda service, selection=selection: service.list(selection)) == []  # type: ignore[misc]


async def test_metrics_of_a_daemon_can_be_read(shared_postgres: PostgresServer) -> None:
    """A daemon has one collector for all of its roles."""
    registry = metrics.Registry()
    async with pair(shared_postgres) as running:
        collector = metrics.register(registry, running.deputy.statistics)
        assert b"dyrygentd_workflows" in metrics.render(registry)[0]
        metrics.unregister(registry, collector)


async def test_it_says_what_it_is(shared_postgres: PostgresServer) -> None:
    """Whoever is answered by one that does not lead learns who does, and how old the answer may be."""
    registry = metrics.Registry()
    async with pair(shared_postgres, role="gateway", registry=registry) as running:
        told = metrics.render(registry)[0].decode()
        assert re.search(r"^dyrygentd_leader_lag_seconds \d", told, re.MULTILINE)
        assert "dyrygentd_mirror_readings_total 0.0" in told
        health, statistics = running.deputy.health(), running.deputy.statistics()
        assert (health.status, health.role, health.leader, health.term) == ("ok", "gateway", LEADER.words, 7)
        assert health.lag_s is not None
        assert 1.0 <= health.lag_s < 60
        assert running.deputy.vantage.startswith(f"answered by a gateway, from what is stored: {LEADER.words} leads, heard of ")
        assert (statistics.role, statistics.engine["workflows"], statistics.engine["term"]) == ("gateway", 0, 7)
        running.lease.left_s = -3.0
        await running.deputy._lookout.look()
        health = running.deputy.health()
        assert (health.status, health.leader) == ("degraded", "")
        assert health.problems == ["no daemon leads at present: nothing is dispatched until one does"]
        assert "nobody leads at present" in running.deputy.vantage
        assert (await running.deputy.overview()).status == "problem"
        running.lease.left_s = float("-inf")
        await running.deputy._lookout.look()
        assert "dyrygentd_leader_lag_seconds NaN" in metrics.render(registry)[0].decode()
    assert b"dyrygentd_mirror" not in metrics.render(registry)[0]


async def test_what_changes_is_done_by_the_leader(shared_postgres: PostgresServer) -> None:
    """Whoever submits or steers here is answered by the leader, as it would answer them itself."""
    async with pair(shared_postgres) as running:
        submitted = await running.deputy.submit_definition(definition("a", name="held", key="k", prefix="w"), owner=_ANN)
        assert (await running.leader.view(submitted.id)).name == "held"
        assert await running.leader.owner(submitted.id) == _ANN
        paused = await running.deputy.perform(submitted.id, VerbRequest(Verb.PAUSE, by="ann", why="to see"))
        assert (paused.is_changed, paused.state) == (True, "paused")
        (entry,) = (await running.leader.journal(submitted.id)).entries
        assert (entry.verb, entry.by, entry.why) == ("pause", "ann", "to see")
        bulk = await running.deputy.perform_in_bulk(Selection(name="held", owner=_ANN), VerbRequest(Verb.RESUME))
        assert bulk.changed == [submitted.id]
        await until(lambda: bool(running.broker.published))
        running.broker.let_go()
        await running.leader.wait(submitted.id)
        imported = wire.decode_export(await running.leader.export(submitted.id), nodes_max=10)
        with pytest.raises(NotImportable):
            await running.deputy.take_over(imported)
        with pytest.raises(WorkflowNotFound):
            await running.deputy.view("nobody")


async def test_a_user_is_known_at_their_host_alone(shared_postgres: PostgresServer) -> None:
    """User 1 of the deputy's host has submitted: user 1 of the leader's host is somebody else, whichever of the two is asked."""
    there, here, peer = Access(host="app2"), Access(host="app1"), Peer(1, 1, 7)
    async with pair(shared_postgres) as running:
        owner, stranger = there.user_of(peer), here.user_of(peer)
        submitted = await running.deputy.submit_definition(definition("a", name="held", key="k", prefix="w"), owner=owner)
        for service in (running.leader, running.deputy):
            known = await service.owner(submitted.id)
            assert known == owner
            await there.check_owner(peer, known, submitted.id)
            with pytest.raises(Forbidden, match=r"belongs to \S+@app2, and \S+@app1 \(uid 1, pid 7\)"):
                await here.check_owner(peer, known, submitted.id)
            assert (await service.view(submitted.id)).owner_name.endswith("@app2")
            assert await service.resolve("key:k", owner=owner) == submitted.id
            with pytest.raises(WorkflowNotFound):
                await service.resolve("key:k", owner=stranger)
            request = VerbRequest(Verb.PAUSE, by=here.words_of(peer))
            assert (await service.perform_in_bulk(Selection(name="held", owner=stranger), request)).matched == 0
        own = VerbRequest(Verb.PAUSE, by=there.words_of(peer))
        assert (await running.deputy.perform_in_bulk(Selection(name="held", owner=owner), own)).changed == [submitted.id]
        (entry,) = (await running.leader.journal(submitted.id)).entries
        assert entry.by.endswith("@app2 (uid 1, pid 7)")
        # The same key is another workflow there.
        other = await running.leader.submit_definition(definition("a", name="held", key="k", prefix="v"), owner=stranger)
        assert (other.created, other.id != submitted.id) == (True, True)


async def test_without_a_mailbox_nothing_is_changed() -> None:
    """A process without a way to the leader names it, and does nothing."""
    async with Deputy(store=MemoryStore(), lease=FixedLease(4.2)) as deputy:
        with pytest.raises(NotLeader, match="process 17 on 'ops1'"):
            await deputy.submit_definition(definition("a"))
        with pytest.raises(NotLeader):
            await deputy.perform("x", VerbRequest(Verb.PAUSE))


async def test_waiting_and_following_end_with_the_workflow(shared_postgres: PostgresServer) -> None:
    """Who waits or follows here hears of the end that the leader has stored, and of what comes before it."""
    async with pair(shared_postgres) as running:
        workflow_id = (await running.leader.submit_definition(definition("a; b < a", prefix="w"))).id
        seen: list[dict[str, int]] = []
        folds: list[str] = []
        ends: list[str] = []

        async def follow() -> None:
            async for view in running.deputy.follow(workflow_id):
                seen.append(view.counts)

        async def follow_fold() -> None:
            folds.extend([event.kind async for event in running.deputy.faces.follow_fold(workflow_id)])

        async def wait() -> None:
            ends.append((await running.deputy.outcome(workflow_id, timeout_s=30)).state)

        async with anyio.create_task_group() as tasks:
            for work in (follow, follow_fold, wait):
                tasks.start_soon(work)
            await until(lambda: bool(seen))
            await until(partial(is_sent, running, "w/a"))
            running.broker.let_go("w/a")
            await until(partial(is_sent, running, "w/b"))
            await until(lambda: seen[-1].get("succeeded") == 1)
            running.broker.let_go("w/b")
        assert ends == ["succeeded"]
        assert seen[-1] == {"succeeded": 2}
        assert folds[0] == "fold"
        assert not running.deputy._listeners


async def test_who_waits_is_let_go_when_it_ends(shared_postgres: PostgresServer) -> None:
    """One that takes over lets those go who wait here, and tells them to ask again."""
    raised: list[BaseException] = []
    async with anyio.create_task_group() as tasks, pair(shared_postgres) as running:
        workflow_id = (await running.leader.submit_definition(definition("a"))).id

        async def wait() -> None:
            try:
                await running.deputy.wait(workflow_id)
            except DaemonUnreachable as error:
                raised.append(error)

        tasks.start_soon(wait)
        await until(lambda: bool(running.deputy._listeners))
    assert "looks no more" in str(raised[0])


async def test_server_that_is_away_is_told_and_comes_back(postgres_server: PostgresServer) -> None:
    """While nobody can read, whoever asks is told so, and who follows is kept; then all goes on."""
    async with pair(postgres_server) as running:
        workflow_id = (await running.leader.submit_definition(definition("a", prefix="w"))).id
        await on_disk(running)
        await running.deputy.view(workflow_id)
        ends: list[str] = []

        async def wait() -> None:
            ends.append((await running.deputy.wait(workflow_id)).state)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until(lambda: bool(running.deputy._listeners))
            await anyio.to_thread.run_sync(postgres_server.stop)
            running.deputy._mirror._good_until = 0.0
            with pytest.raises(StoreUnavailable) as error:
                await running.deputy.view(workflow_id)
            assert error.value.next_step
            await until(lambda: running.deputy.health().status == "degraded")
            assert "cannot read the database" in running.deputy.health().problems[0]
            await anyio.to_thread.run_sync(postgres_server.start)
            await until(lambda: running.deputy.health().status == "ok")
            running.broker.let_go()
        assert ends == ["succeeded"]


async def test_the_lease_of_the_database_tells_who_leads(shared_postgres: PostgresServer) -> None:
    """The real lease, seen by a process that has not taken it."""
    url = shared_postgres.url()
    ours, theirs, onlooker = PostgresStore(url), PostgresStore(url), PostgresOnlooker(url)
    assert theirs.lease is not None
    async with scheduler(FakeBroker(), ours) as leader:
        await onlooker.open()
        async with Deputy(store=onlooker, lease=theirs.lease) as deputy:
            health = deputy.health()
            assert f"process {os.getpid()} on" in health.leader
            assert health.term == leader.health().term
            assert health.lag_s is not None
            assert health.lag_s < theirs.lease.ttl_s
        await onlooker.close()
        await theirs.close()
