"""One host of the simulation, with its ways to the servers, and the processes that live on it one after the other."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.abc import TaskStatus

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.invariants import check_engine
from dyrygentd.core.verbs import VerbRequest
from dyrygentd.daemon.succession import Succession
from dyrygentd.deputy.sending import Sending
from dyrygentd.errors import BrokerUnavailable, Fenced, StoreUnavailable
from dyrygentd.ports import Lease, Store
from dyrygentd.ports.facts import Holder, Term
from dyrygentd.scheduler import Scheduler
from tests.simulation.box import ServedMailbox
from tests.simulation.processes import PROCESS, Process, Way
from tests.simulation.server import TTL_S, ServedStore, Server
from tests.simulation.world import BrokenPromise, Dispatcher, Inspector, Watcher

if TYPE_CHECKING:
    from tests.simulation.standby import JudgedBroker, Standby


T = TypeVar("T")

#: After so long a process is started again that could not begin, as systemd does.
_RESTART_S = 1.0


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


class _ByLetter:
    """What is asked of a process that does not lead, under the names that a scheduler has for it."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

    async def submit_definition(self, definition: Definition) -> wire.Submitted:
        """Leave a submission."""
        return await self._sending.submit(definition, None)

    async def perform(self, workflow_id: str, request: VerbRequest) -> wire.Changed:
        """Leave a verb."""
        return await self._sending.perform(workflow_id, request)


class _Desk:
    """Where a process is asked for something, as long as it has one role."""

    def __init__(self, subject: Any, tasks: anyio.abc.TaskGroup) -> None:
        self.subject = subject
        self._tasks = tasks
        self._unanswered: dict[anyio.Event, None] = {}

    async def ask(self, process: Process, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Ask for something, and return what is answered."""
        answered = anyio.Event()
        found: list[tuple[Any, Exception | None]] = []

        async def work_at() -> None:
            PROCESS.set(process)
            await anyio.lowlevel.checkpoint()
            try:
                found.append((await work(self.subject), None))
            except Exception as error:
                found.append((None, error))
            answered.set()

        try:
            self._tasks.start_soon(work_at)
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

    def close(self) -> None:
        """Close all connections, in the order in which they came: that of tasks which are cancelled together is not told."""
        unanswered, self._unanswered = self._unanswered, {}
        for answered in unanswered:
            answered.set()


class Member:
    """One host. How its process does what its role is, as `succession.Part` tells; in which order is the product's own.

    Attributes:
        life: Name of the process that lives now.
        may_lead: Whether it wants the lease; a gateway does not.
        is_serving: Whether the process has been asked for something, or might have been.
        is_fenced: A process of it has ended because of a copy.
        is_shunned: Nobody asks it for what changes something, at present.
        deceived_until: Until then it may trust its lease for too long: clocks were set on which that rests.
        ended: Set when the last process has ended that was told to.
    """

    def __init__(
        self,
        name: str,
        server: Server,
        world: "Standby",
        tasks: anyio.abc.TaskGroup,
        chance: Random,
        *,
        may_lead: bool = True,
    ) -> None:
        self.name = name
        self.server = server
        self.may_lead = may_lead
        self.is_serving = self.is_fenced = self.is_shunned = False
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
        self._desk: _Desk | None = None
        self._beside: _Desk | None = None
        self._succession = Succession(self)

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
        self._succession = Succession(self)
        self.ended = anyio.Event()
        self._world.story.tell(f"{self.life} starts")
        self._tasks.start_soon(self._live, self.process)

    def end(self) -> None:
        """Tell the process to end, as by SIGTERM."""
        self._world.story.tell(f"{self.life} is told to end")
        self._succession.end()

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
            await process.run(self._go_through_roles)
        finally:
            PROCESS.set(None)
            self._leave_desks()
            self.ended.set()

    def _leave_desks(self) -> None:
        desks, self._desk, self._beside = (self._beside, self._desk), None, None
        for desk in desks:
            if desk is not None:
                desk.close()

    async def _go_through_roles(self) -> None:
        """Go through the roles, and be started again if the first one cannot begin."""
        ending = self._succession.ending
        while not ending.is_set():
            self.is_serving = False
            try:
                await self._succession.run()
            except Fenced as error:
                self._end_for_a_copy(error)
                return
            except (StoreUnavailable, BaseExceptionGroup) as error:
                if isinstance(error, BaseExceptionGroup) and error.split(StoreUnavailable)[1] is not None:
                    raise
                self._world.story.tell(f"{self.life} cannot begin: {error}")
                await anyio.sleep(_RESTART_S)

    def _end_for_a_copy(self, error: Fenced) -> None:
        self._world.story.tell(f"{self.life} ends: {error.message}")
        self.is_fenced = True
        if not self._world.broker.is_copied:
            raise BrokenPromise(f"{self.life} has ended by itself: {error.message}")

    # --- roles ------------------------------------------------------------------------------------------------------

    def holder(self) -> Holder:
        """Return what tells this process from others."""
        return Holder.here(self.process.clock.now())

    def make_store(self) -> Store:
        """Make a store to lead with."""
        return ServedStore(self.server, self.store_way, self.life, has_mailbox=self._world.has_letters)

    async def prepare(self, lease: Lease) -> None:
        """Take part, whoever else has the name of this host."""

    async def keep_up(self, lease: Lease) -> None:
        """Do nothing else."""

    async def answer_beside(self, lease: Lease, over: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        """Take letters, where there are any."""
        self.is_serving = True
        task_status.started()
        if not self._world.has_letters:
            await over.wait()
            return
        mailbox = ServedMailbox(self.server.box, self.store_way)
        store = ServedStore(self.server, self.store_way, self.life)
        chance = Random(self._chance.random())
        sending = Sending(store, mailbox, self.process.clock, host=self.name, make_id=lambda: UUID(int=chance.getrandbits(128)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mailbox.run)
            self._beside = beside = _Desk(_ByLetter(sending), tasks)
            await over.wait()
            if self._beside is beside:
                self._beside = None
            beside.close()
            tasks.cancel_scope.cancel()

    async def lead(self, store: Store, standby_over: Callable[[], None]) -> None:
        """Lead until the end."""
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
            async with scheduler as running, anyio.create_task_group() as tasks:
                world.check_takeover(self.server)
                self._desk, self.is_serving = _Desk(running, tasks), True
                standby_over()
                await self._succession.ending.wait()
                await running.drain(timeout_s=self._chance.choice([0.0, 5.0]))
                self._leave_desks()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            fenced, rest = group.split(Fenced)
            if rest is not None or fenced is None:
                raise
            raise Fenced(0, 0, "another") from None
        except Fenced as error:
            world.story.tell(f"{self.life} is overtaken: {error.message}")
            raise
        finally:
            self._leave_desks()

    # --- what is asked of it ----------------------------------------------------------------------------------------

    @property
    def _running(self) -> Scheduler | None:
        return None if self._desk is None else self._desk.subject

    @property
    def leads(self) -> bool:
        """Whether it leads, as far as it knows."""
        return self._desk is not None and not self.process.is_dead

    @property
    def takes_letters(self) -> bool:
        """Whether what it is asked for is left for whoever leads."""
        return self._desk is None and self._beside is not None and not self.process.is_dead

    @property
    def term(self) -> int:
        """Number of its term."""
        return 0 if self._running is None else self._running._parts.tenure.number

    def asks_broker_well(self, since: float) -> bool:
        """Tell whether it could ask the broker all the time since then."""
        broker = self._world.broker
        return self.broker_way.has_been_well_since(since) and not broker.problem and broker.troubled_at < since

    async def ask(self, work: Callable[[Any], Awaitable[Any]], *, may_be_left: bool = False) -> Any:
        """Ask the process for something, and return what it answers.

        Args:
            may_be_left: It may be left in a letter for whoever leads.
        """
        desk = self._desk or (self._beside if may_be_left else None)
        if desk is None or self.process.is_dead:
            await anyio.sleep(0.01)
            raise NotLeading
        return await desk.ask(self.process, work)

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
