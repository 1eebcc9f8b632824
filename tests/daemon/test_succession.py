"""Who leads, stands by, and ends; on the simulation's database and clock, with what leads told by each test."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from dyrygentd.daemon.succession import Succession
from dyrygentd.errors import Fenced, StoreUnavailable
from dyrygentd.ports import Lease, Store
from dyrygentd.ports.facts import Holder
from dyrygentd.scheduler.leadership import Leadership
from dyrygentd.store.continuity import WentBack
from tests.simulation.processes import JudgedStory, Process, ProcessLoop, Way
from tests.simulation.server import TTL_S, ServedStore, Server
from tests.simulation.virtual import VirtualClock

Lead = Callable[["_Part"], Awaitable[None]]


class _Part:
    """A process that notes its roles, and leads as a test says: one way after the other, and the last one from then on."""

    def __init__(self, name: str, server: Server, *ways_to_lead: Lead, may_lead: bool = True) -> None:
        self.may_lead = may_lead
        self.is_serving = False
        self.roles: list[str] = []
        self.succession = Succession(self)
        self._name = name
        self._server = server
        self._ways_to_lead = [*ways_to_lead] or [_until_the_end]
        self.way = Way(Process(name, server.story), Random(1), StoreUnavailable, timeout_s=4.0, name="database")

    def holder(self) -> Holder:
        """Return what a scheduler in this process tells of itself."""
        return Holder.here(0.0)

    def make_store(self) -> Store:
        """Make a store on the server."""
        return ServedStore(self._server, self.way, self._name)

    async def prepare(self, lease: Lease) -> None:
        """Do nothing."""

    async def keep_up(self, lease: Lease) -> None:
        """Do nothing."""

    async def answer_beside(self, lease: Lease, over: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        """Note it."""
        self.roles.append("beside")
        self.is_serving = True
        task_status.started()
        await over.wait()

    async def lead(self, store: Store, standby_over: Callable[[], None]) -> None:
        """Take the lease as a scheduler does, and keep it."""
        self.roles.append("leads")
        way = self._ways_to_lead.pop(0) if len(self._ways_to_lead) > 1 else self._ways_to_lead[0]
        if way is _too_late:
            await anyio.sleep(TTL_S + 1)
        leadership = Leadership(store.lease, VirtualClock())
        await leadership.begin()
        await store.open()
        self.is_serving = True
        standby_over()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leadership.run)
            try:
                await way(self)
            except Exception as error:
                tasks.cancel_scope.cancel()
                raised: Exception | None = error
            else:
                tasks.cancel_scope.cancel()
                raised = None
        if raised is not None:
            raise raised


async def _until_the_end(part: _Part) -> None:
    await part.succession.ending.wait()


async def _too_late(part: _Part) -> None:
    """Lead, having been asleep between getting the lease and that."""
    await part.succession.ending.wait()


def _raising(error: Exception) -> Lead:
    async def lead(_: _Part) -> None:
        raise error

    return lead


def _play(story: Callable[[Server], Awaitable[None]]) -> None:
    async def play() -> None:
        with anyio.fail_after(200.0):
            await story(Server("succession", JudgedStory()))

    anyio.run(play, backend="asyncio", backend_options={"loop_factory": ProcessLoop})


async def _run(tasks: Any, *parts: _Part) -> None:
    """Start these, one after the other."""
    for part in parts:
        tasks.start_soon(part.succession.run)
        await anyio.sleep(0.5)


def test_second_follows_the_first() -> None:
    """One leads, the other one stands by and leads as soon as the first has ended; a gateway never does."""

    async def story(server: Server) -> None:
        first, second = _Part("a", server), _Part("b", server)
        gateway = _Part("g", server, may_lead=False)
        async with anyio.create_task_group() as tasks:
            await _run(tasks, first, second, gateway)
            assert (first.roles, second.roles) == (["leads"], ["beside"])
            first.succession.end()
            await anyio.sleep(2.0)
            assert second.roles == ["beside", "leads"]
            second.succession.end()
            await anyio.sleep(2 * TTL_S)
            assert gateway.roles == ["beside"]
            gateway.succession.end()

    _play(story)


def test_lease_that_is_over_before_it_is_used() -> None:
    """Who got the lease, and was asleep until another one had it, stands by again, and does not end."""

    async def story(server: Server) -> None:
        first, second, third = _Part("a", server), _Part("b", server, _too_late, _until_the_end), _Part("c", server)
        async with anyio.create_task_group() as tasks:
            await _run(tasks, first, second)
            first.succession.end()
            await anyio.sleep(2.0)
            assert second.roles == ["beside", "leads"]
            await _run(tasks, third)
            await anyio.sleep(3 * TTL_S)
            assert third.roles == ["beside", "leads"]
            assert second.roles == ["beside", "leads", "beside"]
            for part in (third, second):
                part.succession.end()

    _play(story)


@pytest.mark.parametrize(
    ("error", "losses"),
    [(Fenced(1, 2, "another"), 1), (StoreUnavailable("away"), 0), (WentBack("db", 3, 5), 0)],
    ids=["overtaken", "no database", "it went back"],
)
def test_what_ends_a_leader_does_not_end_the_process(error: Exception, losses: int) -> None:
    """Whoever was overtaken, or lost the database, or has turns in mind that it lost, serves clients on, and leads later."""

    async def story(server: Server) -> None:
        part = _Part("a", server, _raising(error), _until_the_end)
        if losses:
            # Another one has it, if only for a moment.
            part = _Part("a", server, _overtaken_by(server, error), _until_the_end)
        async with anyio.create_task_group() as tasks:
            await _run(tasks, part)
            await anyio.sleep(3 * TTL_S)
            assert part.roles == ["leads", "beside", "leads"]
            assert part.succession.losses == losses
            part.succession.end()

    _play(story)


def _overtaken_by(server: Server, error: Exception) -> Lead:
    async def lead(_: _Part) -> None:
        server.process, server.holder = "z", Holder("z", 1, 0.0)
        raise error

    return lead


def test_who_is_overtaken_by_a_copy_ends() -> None:
    """A process that has the lease still was overtaken by one with another database: they would take turns."""

    async def story(server: Server) -> None:
        part = _Part("a", server, _raising(Fenced(1, 2, "another")))
        with pytest.raises(Fenced):
            await part.succession.run()
        assert part.roles == ["leads"]

    _play(story)


def test_first_role_that_cannot_begin_is_told() -> None:
    """A process that has served nobody yet ends if there is no database, and says why; whoever started it starts it again."""

    async def story(server: Server) -> None:
        server.problem = "away"
        part = _Part("a", server)
        with pytest.raises(BaseExceptionGroup) as raised:
            await part.succession.run()
        assert raised.group_contains(StoreUnavailable, match="away")
        assert part.roles == []

    _play(story)
