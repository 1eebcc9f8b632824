"""Two processes with one database, or with copies of it, and one broker, by seed: the second takes over from the first.

The database is one that both can reach (as on a server: who was overtaken cannot save), or each has its own file, the second's
a copy of the first's. The way of the first to the broker stalls at times, as that of a process that is stopped, so that its
messages arrive long after they were sent.

What is checked:

- no push of a process arrives after the broker has heard of a later term, or after a later one has read what is unfinished, also
  if it was sent long before and arrives just then; no attempt is pushed twice;
- the first process ends by `Fenced`; and answers nothing with success that was asked for when the broker already knew better,
  unless the broker did not answer its question;
- where the database is one: what was accepted, and each answered verb, is there for the second process, and everything ends.
"""

import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from copy import copy, deepcopy
from random import Random

import anyio
import anyio.abc

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.core.invariants import check_engine
from dyrygentd.core.limits import Limits
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import DyrygentError, Fenced
from dyrygentd.ports.facts import Holder, Stored, Term
from dyrygentd.scheduler import Scheduler, SchedulerLimits
from tests.simulation.runs import Outcome, told
from tests.simulation.virtual import VirtualClock, VirtualLoop
from tests.simulation.workflows import random_plan
from tests.simulation.world import Behaviour, BrokenPromise, Broker, Disk, Dispatcher, Fuse, Inspector, Story, Watcher, Worker

#: After so many virtual seconds what has not ended hangs.
_PATIENCE_S = 3600.0
#: A broker that is no slower than this answers two questions before an answer is given without it.
_ASKED_IN_TIME_S = 0.8


class _Read(Disk):
    """A disk that tells when a process has read from it what is unfinished."""

    def __init__(self, chance: Random, story: Story, fuse: Fuse) -> None:
        super().__init__(chance, story, fuse)
        self.on_read: Callable[[Term], None] = lambda _: None

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over what has not finished."""
        async for stored in super().unfinished():
            yield stored
        self.on_read(self.held)

    @property
    def held(self) -> Term:
        """Return the term of the process that works with it."""
        assert self._term is not None
        return self._term


class _Shared(_Read):
    """One database that two processes reach: who was overtaken cannot save."""

    own: Term | None = None

    @property
    def held(self) -> Term:
        """Return the term of the process that works with it."""
        assert self.own is not None
        return self.own

    def of_another(self) -> "_Shared":
        """Return what another process sees of it: the same rows."""
        return copy(self)

    async def raise_term(self, holder: Holder, *, above: int = 0) -> Term:
        """Take it over."""
        known = _Shared.last.get(self._identity)
        self._term = known
        self.own = _Shared.last[self._identity] = await super().raise_term(holder, above=above)
        return self.own

    #: ``{identity: the last term of all processes}``.
    last: dict[str, Term] = {}  # noqa: RUF012 - it is what the server knows

    async def term(self) -> Term | None:
        """Return who has taken it over last."""
        return _Shared.last.get(self._identity)

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Save, unless overtaken."""
        self._refuse_if_overtaken()
        await super().save(workflows, nodes, journal)

    async def remember(self, name: str, value: str) -> None:
        """Note something, unless overtaken."""
        self._refuse_if_overtaken()
        await super().remember(name, value)

    def _refuse_if_overtaken(self) -> None:
        last = _Shared.last.get(self._identity)
        if last is not None and self.own is not None and last != self.own:
            raise Fenced(self.own.number, last.number, last.holder.words)


class _Way(Dispatcher):
    """The way of one process to the broker, which may stall; what is sent may be held until an event."""

    stall_s = 0.0
    held: anyio.Event | None = None

    def __init__(self, broker: Broker, disk: Disk) -> None:
        super().__init__(broker)
        self._disk = disk
        self.fenced_pushes = 0

    async def _way(self) -> None:
        if self.stall_s:
            await anyio.sleep(self._broker.chance.uniform(0.0, self.stall_s))
        if self.held is not None:
            await self.held.wait()
        await super()._way()

    async def _publish(
        self, messages: Sequence[Publish], guard: tuple[str, str] | None
    ) -> Sequence[MessagePublished | MessageRefused]:
        try:
            return await super()._publish(messages, guard)
        except Fenced:
            self.fenced_pushes += len(messages)
            raise

    def _refuse_if_fenced(self) -> None:
        super()._refuse_if_fenced()
        # What follows is done by this process, with what it has on its disk.
        self._broker.disk = self._disk


class _PushesSeen(Broker):
    """A broker that knows by whom a message is, and whether that one may.

    Attributes:
        reader: The last term of which a process has read what is unfinished.
    """

    reader = 0

    def push(self, publish: Publish) -> None:
        """Take a message."""
        owner = self.disk
        assert isinstance(owner, Disk)
        known = max((each.term.number for each in self.ledgers.values() if each.term is not None), default=0)
        own = owner.own if isinstance(owner, _Shared) else owner._term
        if own is None or own.number < known:
            raise BrokenPromise(f"P9: {publish.task_id} was pushed by term {own}, the broker knows of {known}")
        if own.number < self.reader:
            raise BrokenPromise(f"P9: {publish.task_id} was pushed by {own} after term {self.reader} had read what is unfinished")
        is_copy = not isinstance(owner, _Shared) and own.number > 1
        if is_copy and (publish.workflow_id, publish.node) not in self.markers:
            # The first one has ended this workflow since the copy was made, and let go of its marks. What is stored nowhere yet
            # is sent again then, see "What a restore may repeat" in the guide of the store.
            self.pushes.pop(publish.task_id, None)
        super().push(publish)


class Takeover:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.story = Story()
        self.fenced_pushes = 0
        self._chance = chance = Random(seed)
        self._seed = seed
        self.is_shared = chance.random() < 0.5
        fuse = Fuse(self.story)
        kind = _Shared if self.is_shared else _Read
        self._disk = kind(Random(chance.random()), self.story, fuse)
        self._broker = _PushesSeen(Random(chance.random()), self.story, fuse, self._disk, self._behave)
        self._plans = [random_plan(chance, f"w{number}", within_s=20.0) for number in range(chance.choice([2, 3, 5]))]
        self._clock = VirtualClock()
        self._answered: list[tuple[str, str]] = []
        self._accepted: dict[str, str] = {}
        self._stall_s = 0.0
        self._limits = SchedulerLimits(
            engine=Limits(in_flight_max=chance.choice([1, 3, 100])), pools={"one": 1, "many@*": 2}, lost_after_s=30.0
        )

    def _behave(self, publish: Publish) -> Behaviour:
        chance = Random(f"{self._seed}:{publish.task_id}")
        return Behaviour(chance.choice([0.0, 0.3, 2.0, 15.0]), chance.choice(["succeeded"] * 5 + ["failed"]), b"true")

    def run(self) -> None:
        """Play it; raises what went wrong."""
        anyio.run(self._play, backend="asyncio", backend_options={"loop_factory": VirtualLoop})

    async def _play(self) -> None:
        async with anyio.create_task_group() as world:
            for number in range(2):
                world.start_soon(Worker(f"worker{number}", self._broker).run)
            first_way = _Way(self._broker, self._disk)
            ended = anyio.Event()
            world.start_soon(self._live_first, self._scheduler(self._disk, first_way, world), ended)
            await anyio.sleep(self._chance.uniform(0.0, 30.0))
            self._stall_s = first_way.stall_s = self._chance.choice([0.0, _ASKED_IN_TIME_S, 40.0])
            is_held = self._chance.random() < 0.5
            if is_held:
                first_way.held, self._stall_s = anyio.Event(), math.inf
            await anyio.sleep(self._chance.uniform(0.0, 10.0))
            disk = self._disk.of_another() if isinstance(self._disk, _Shared) else self._copied(self._disk)
            await anyio.sleep(0.0 if self.is_shared else self._chance.choice([0.0, 5.0]))
            disk.on_read = lambda term: self._read_by(term, first_way)
            self.story.tell("the second process starts")
            await self._live_second(self._scheduler(disk, _Way(self._broker, disk), world))
            with anyio.fail_after(200.0):
                await ended.wait()
            self.fenced_pushes = first_way.fenced_pushes
            world.cancel_scope.cancel()

    def _read_by(self, term: Term, first_way: _Way) -> None:
        """Note who has read what is unfinished, and let pass what the first process has sent before that."""
        self.story.tell(f"term {term.number} has read what is unfinished")
        self._broker.reader = term.number
        if first_way.held is not None:
            first_way.held.set()
            first_way.held = None

    @staticmethod
    def _copied(disk: _Read) -> _Read:
        other = copy(disk)
        for name in ("_workflows", "_nodes", "_journal", "_audit", "_notes"):
            setattr(other, name, deepcopy(getattr(disk, name)))
        return other

    def _scheduler(self, disk: Disk, way: _Way, world: anyio.abc.TaskGroup) -> Scheduler:
        return Scheduler(
            store=disk,
            dispatcher=way,
            watcher=Watcher(self._broker, world),
            inspector=Inspector(self._broker),
            clock=self._clock,
            limits=self._limits,
            chance=Random(self._chance.random()),
        )

    async def _live_first(self, scheduler: Scheduler, ended: anyio.Event) -> None:
        try:
            async with scheduler as running, anyio.create_task_group() as users:
                users.start_soon(self._check, running)
                for plan in self._plans:
                    users.start_soon(self._submit, running, plan.key)
                users.start_soon(self._operate, running)
        except Fenced as error:
            self.story.tell(f"the first process ends: {error.message}")
        else:
            raise BrokenPromise("the first process was not fenced")
        ended.set()

    async def _check(self, running: Scheduler) -> None:
        while True:
            check_engine(running._parts.turns.engine)
            await anyio.sleep(1.0)

    async def _submit(self, running: Scheduler, key: str) -> None:
        [plan] = [plan for plan in self._plans if plan.key == key]
        await anyio.sleep(plan.at)
        begun = self._knows_better()
        try:
            submitted = await running.submit_definition(plan.definition())
        except DyrygentError as error:
            self.story.tell(f"submit {key}: {error.message}")
            return
        self._judge(begun, f"submission of {key}")
        self._accepted[key] = submitted.id

    async def _operate(self, running: Scheduler) -> None:
        while True:
            await anyio.sleep(self._chance.expovariate(0.5))
            if not self._accepted:
                continue
            key = self._chance.choice(sorted(self._accepted))
            verb = self._chance.choice([Verb.CANCEL, Verb.PAUSE, Verb.RESUME, Verb.RETRY])
            why = f"request {len(self._answered)}"
            begun = self._knows_better()
            try:
                changed = await running.perform(self._accepted[key], VerbRequest(verb, by="operator", why=why))
            except DyrygentError as error:
                self.story.tell(f"{verb} {key}: {error.message}")
                continue
            self._judge(begun, f"{verb} {key}")
            if changed.is_changed:
                self._answered.append((self._accepted[key], why))

    def _knows_better(self) -> bool:
        ledgers = self._broker.ledgers.values()
        return max((each.term.number for each in ledgers if each.term is not None), default=1) > 1

    def _judge(self, was_overtaken: bool, what: str) -> None:
        """Judge a success of the first process."""
        self.story.tell(f"{what}: done")
        if was_overtaken and self._stall_s <= _ASKED_IN_TIME_S:
            raise BrokenPromise(f"P9: the first process has answered '{what}', which was asked when the broker knew better")

    async def _live_second(self, scheduler: Scheduler) -> None:
        async with scheduler as running:
            accepted, answered = dict(self._accepted), list(self._answered)
            if self.is_shared:
                for key, workflow_id in accepted.items():
                    if not self._disk.has(workflow_id):
                        raise BrokenPromise(f"P1: {key} was accepted and is not there")
                for workflow_id, why in answered:
                    if why not in [entry.why for entry in self._disk.journal_of(workflow_id)]:
                        raise BrokenPromise(f"an answered verb is not in the journal: {why}")
            patience = anyio.current_time() + _PATIENCE_S
            while anyio.current_time() < patience:
                await anyio.sleep(5.0)
                engine = running._parts.turns.engine
                if not engine.workflows:
                    return
                for workflow_id in list(engine.workflows):
                    await self._decide(running, workflow_id)
            raise BrokenPromise(f"P5: {sorted(running._parts.turns.engine.workflows)} do not end")

    async def _decide(self, running: Scheduler, workflow_id: str) -> None:
        view = await running.view(workflow_id)
        if view.state == "paused":
            await running.perform(workflow_id, VerbRequest(Verb.RESUME))
        for node in (await running.nodes(workflow_id)).nodes:
            if node.hold in ("gate", "operator", "lost") or node.is_on_hold:
                verb = Verb.RETRY if node.hold == "lost" else Verb.RELEASE
                await running.perform(workflow_id, VerbRequest(verb, nodes=(node.name,)))


def run(seed: int) -> Outcome:
    """Play a seed."""
    takeover, problem = Takeover(seed), ""
    try:
        takeover.run()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        problem = told(error)
    facts = {"shared": int(takeover.is_shared), "fenced pushes": takeover.fenced_pushes}
    return Outcome(seed, problem, str(takeover.story), facts)
