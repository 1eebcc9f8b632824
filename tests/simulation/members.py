"""One host of the simulation, with its ways to the servers, and the processes that live on it one after the other."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from dyrygentd.core.invariants import check_engine
from dyrygentd.errors import BrokerUnavailable, Fenced, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import Term
from dyrygentd.scheduler import Scheduler
from tests.simulation.processes import PROCESS, Process, Way
from tests.simulation.server import TTL_S, ServedStore, Server
from tests.simulation.world import BrokenPromise, Crash, Dispatcher, Inspector, Watcher

if TYPE_CHECKING:
    from tests.simulation.standby import JudgedBroker, Standby


T = TypeVar("T")


class NotLeading(Exception):
    """Whoever was asked does not lead."""


class ConnectionLost(Exception):
    """Whoever was asked is gone, or does not answer."""


class _Seen:
    """The broker as one process sees it; its way may be cut."""

    def __init__(self, broker: "JudgedBroker", way: Way) -> None:
        self.__dict__.update(_broker=broker, _way=way)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "watcher":
            self._broker.watchers.append(value)

    @property
    def problem(self) -> str:
        """Why it cannot be reached."""
        return str(self._broker.problem or self._way.cut)


class _FarWatcher(Watcher):
    """Hears nothing while the way to the broker is cut."""

    def published(self, event: Any) -> None:
        """Pass a notification on, or not."""
        if not self._broker.problem:
            super().published(event)


class _FarDispatcher(Dispatcher):
    """Sends over the way of a process, and says from whom it is."""

    def __init__(self, broker: "JudgedBroker", member: "Member") -> None:
        super().__init__(broker)
        self._member = member
        self._judged = broker
        self._life = member.life

    async def _ask(self, what: str, work: Callable[[], T]) -> T:
        member, broker, sent_at = self._member, self._judged, anyio.current_time()
        was_leading = member.server.process == self._life
        term = 0 if self._term is None else self._term[1].number

        def at_broker() -> T:
            broker.raise_if_away()
            broker.asking, broker.sent_at, broker.was_leading = (self._life, term), sent_at, was_leading
            broker.disk = member.server
            return work()

        return await member.broker_way.ask(what, at_broker)

    def _write(self, name: str, **changes: Any) -> None:
        super()._write(name, **changes)
        if isinstance(term := changes.get("term"), Term):
            self._judged.told_term = max(self._judged.told_term, term.number)


class Member:
    """One host.

    Attributes:
        life: Name of the process that lives now.
        is_fenced: A process of it has ended because of a copy.
        is_shunned: Nobody asks it for what changes something, at present.
        deceived_until: Until then it may trust its lease for too long: clocks were set on which that rests.
        ended: Set when the last process has ended that was told to.
    """

    def __init__(self, name: str, server: Server, world: "Standby", tasks: anyio.abc.TaskGroup, chance: Random) -> None:
        self.name = name
        self.server = server
        self.is_fenced = self.is_shunned = False
        self.deceived_until = float("-inf")
        self.ended = anyio.Event()
        self._world = world
        self._tasks = tasks
        self._chance = chance
        self._lives = self._looks = 0
        self.life = ""
        self.process = Process(name, world.story)
        self.store_way = Way(self.process, chance, StoreUnavailable, timeout_s=4.0, name="database")
        self.broker_way = Way(self.process, chance, BrokerUnavailable, timeout_s=5.0, name="broker")
        self._running: Scheduler | None = None
        self._desk: anyio.abc.TaskGroup | None = None
        self._is_told_to_end = anyio.Event()
        self._unanswered: dict[anyio.Event, None] = {}

    def __repr__(self) -> str:
        return self.life

    # --- lives ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process."""
        self._lives += 1
        self.life = f"{self.name}.{self._lives}"
        before, self.process = self.process, Process(self.life, self._world.story)
        self.process.clock = before.clock
        self.store_way.process = self.broker_way.process = self.process
        self._is_told_to_end = anyio.Event()
        self.ended = anyio.Event()
        self._world.story.tell(f"{self.life} starts")
        self._tasks.start_soon(self._live, self.process)

    def end(self) -> None:
        """Tell the process to end, as by SIGTERM."""
        self._world.story.tell(f"{self.life} is told to end")
        self._is_told_to_end.set()

    def mend(self) -> None:
        """Let everything go on."""
        self.is_shunned = False
        self.store_way.mend()
        self.broker_way.mend()
        self.process.left = None
        self.process.go_on()
        self.wake(for_good=True)
        if self.ended.is_set() and not self.is_fenced:
            self.start()

    def suspend(self) -> None:
        """Have the machine stand still, with its steady clock."""
        self._world.story.tell(f"{self.name} is suspended")
        self.process.clock.suspend()

    def wake(self, *, for_good: bool = False) -> None:
        """Have the machine go on. The steady clock, by which trust is counted, knows nothing of the time that has passed."""
        if self.process.clock.wake(for_good=for_good):
            self._world.story.tell(f"{self.name} wakes")
            self.deceived_until = anyio.current_time() + TTL_S
            self.process.catch_up()

    async def _live(self, process: Process) -> None:
        try:
            await process.run(self._roles)
        finally:
            PROCESS.set(None)
            self._close()
            self.ended.set()

    def _close(self) -> None:
        """Close all connections, in the order in which they came: that of tasks which are cancelled together is not told."""
        self._running = self._desk = None
        unanswered, self._unanswered = self._unanswered, {}
        for answered in unanswered:
            answered.set()

    async def _roles(self) -> None:
        """Stand by and lead in turn."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait_for_the_end_of_roles, tasks)
            while True:
                store = ServedStore(self.server, self.store_way, self.life)
                try:
                    await self._lead(store)
                except StoreLocked:
                    await self._stand_by(store)
                except Fenced as error:
                    self._world.story.tell(f"{self.life} steps down: {error.message}")
                    if not await self._is_another_ones(store):
                        self._world.story.tell(f"{self.life} ends: a copy goes on")
                        self.is_fenced = True
                        if not self._world.broker.is_copied:
                            raise BrokenPromise(f"{self.life} has ended by itself: {error.message}") from None
                        tasks.cancel_scope.cancel()
                        return
                except StoreUnavailable as error:
                    self._world.story.tell(f"{self.life} cannot lead: {error.message}")

    async def _wait_for_the_end_of_roles(self, tasks: anyio.abc.TaskGroup) -> None:
        await self._is_told_to_end.wait()
        if self._running is None:
            tasks.cancel_scope.cancel()

    async def _is_another_ones(self, store: ServedStore) -> bool:
        try:
            await store.lease.renew()
        except Fenced:
            return True
        except StoreUnavailable:
            return True
        return False

    async def _stand_by(self, store: ServedStore) -> None:
        """Wait until nobody leads any more."""
        while True:
            try:
                await store.lease.wait(1.0)
                if not (await store.lease.view()).is_held:
                    return
            except StoreUnavailable as error:
                self._world.story.tell(f"{self.life} cannot stand by: {error.message}")
                await anyio.sleep(1.0)

    async def _lead(self, store: ServedStore) -> None:
        world, process = self._world, self.process
        seen: Any = _Seen(world.broker, self.broker_way)
        scheduler = Scheduler(
            store=store,
            dispatcher=_FarDispatcher(world.broker, self),
            watcher=_FarWatcher(seen, self._tasks),
            inspector=Inspector(seen),
            clock=process.clock,
            limits=world.limits,
            chance=Random(self._chance.random()),
        )
        try:
            async with scheduler as running, anyio.create_task_group() as desk:
                world.check_takeover(self.server)
                self._running, self._desk = running, desk
                await self._is_told_to_end.wait()
                await running.drain(timeout_s=self._chance.choice([0.0, 5.0]))
                self._running = None
                desk.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            fenced, rest = group.split(Fenced)
            if rest is not None or fenced is None:
                raise
            raise Fenced(0, 0, "another") from None
        finally:
            self._close()
        raise Crash("ended")

    # --- what is asked of it ----------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether it leads, as far as it knows."""
        return self._running is not None and not self.process.is_dead

    @property
    def term(self) -> int:
        """Number of its term."""
        return 0 if self._running is None else self._running._parts.tenure.number

    def asks_broker_well(self, since: float) -> bool:
        """Tell whether it could ask the broker all the time since then."""
        broker = self._world.broker
        return self.broker_way.has_been_well_since(since) and not broker.problem and broker.troubled_at < since

    async def ask(self, work: Callable[[Scheduler], Awaitable[Any]]) -> Any:
        """Ask the process for something, and return what it answers."""
        if self._running is None or self._desk is None or self.process.is_dead:
            await anyio.sleep(0.01)
            raise NotLeading
        answered = anyio.Event()
        found: list[tuple[Any, Exception | None]] = []
        running = self._running

        async def work_at(process: Process) -> None:
            PROCESS.set(process)
            await anyio.lowlevel.checkpoint()
            try:
                found.append((await work(running), None))
            except Exception as error:
                found.append((None, error))
            answered.set()

        try:
            self._desk.start_soon(work_at, self.process)
        except RuntimeError:
            raise ConnectionLost("nobody listens any more") from None
        self._unanswered[answered] = None
        await answered.wait()
        self._unanswered.pop(answered, None)
        if not found:
            raise ConnectionLost("the connection was closed")
        value, error = found[0]
        if error is not None:
            raise error
        return value

    def judge(self) -> None:
        """Check what must hold at every moment."""
        self._looks += 1
        running = self._running
        if running is None or not self.leads or self.process.is_stopped or running._parts.turns.has_ended:
            return
        trusts = running._parts.tenure.leadership.is_trusted and anyio.current_time() > self.deceived_until
        if trusts and (self.server.process != self.life or self.server.left_s <= 0):
            raise BrokenPromise(f"{self.life} trusts its lease, which {self.server.process} has for {self.server.left_s:.2f} s")
        if self._looks % 10 == 0:
            check_engine(running._parts.turns.engine)
