"""Two or three processes with one database on a server, one broker and one virtual clock, by seed: one leads, others stand by.

*The weather.* Processes are stopped for longer than the lease, suspended with their machine, killed, ended and started again; the
ways to database and broker are cut in either direction or stall; both servers go away and come back; all clocks are set; workers
are killed; and a process may be started on a copy of the database. At each request to a server a process may end before, amid and
after it.

*What is checked*, from outside:

- no attempt is pushed twice; no push comes from a process that the broker knows to be overtaken, and each term is one process's;
- whoever trusts its lease has it, as long as no clock deceives it;
- nothing is pushed after an answered cancel; nobody answers a submission or verb with success that it was asked for after another
  one had taken the lease. Who only reads is told what the process knows, which may be old: no lease is asked for that;
- whoever has waited for an end is told of one that the database has, or had before a retry, whoever is asked;
- what was accepted, and each answered verb, is there for each leader that follows, and is not taken twice;
- once all is mended somebody leads in time, everything ends, and each workflow that nobody
  interfered with has ended as the results of its tasks say;
- where there is no copy no process ends by itself;
- what is left in letters, at those that stand by and at a gateway, is carried out once and in order: see `letters`.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any
from unittest.mock import patch

import anyio
import anyio.abc
import anyio.lowlevel

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskEvent
from dyrygentd.core.limits import Limits
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import BrokerUnavailable, DyrygentError
from dyrygentd.ports.facts import Holder
from dyrygentd.scheduler import Scheduler, SchedulerLimits
from tests.simulation.letters import LetterWriters
from tests.simulation.members import ConnectionLost, Member, NotLeading
from tests.simulation.processes import PROCESS, JudgedStory, ProcessLoop, holder_here
from tests.simulation.runs import Outcome, told
from tests.simulation.server import TTL_S, Server
from tests.simulation.weather import WEATHER
from tests.simulation.workflows import Ends, Plan, random_plan, word_of
from tests.simulation.world import Behaviour, BrokenPromise, Broker, Watcher, Worker

#: Once all is mended, what has not ended within so many virtual seconds hangs.
_PATIENCE_S = 3000.0
#: How long a client waits for an answer.
_CLIENT_S = 60.0


#: What is there all the time: it ends when somebody lets it, which nobody does before all is mended.
_STANDING = Plan("standing", "gate gate=1\nlast < gate", WorkflowPolicy(), 0.0, is_left_alone=False)


@dataclass
class _Cancel:
    """An answered cancel.

    Attributes:
        is_confirmed: The broker could be asked by whoever has answered.
    """

    at: float
    is_confirmed: bool


class JudgedBroker(Broker):
    """A broker that knows from whom a message is, and whether that one may send it.

    Attributes:
        told_term: The highest that anybody has told it of.
    """

    told_term = 0

    #: Who asks for what is done just now, in which term, and when it was sent.
    asking: tuple[str, int] = ("", 0)
    sent_at: float = 0.0
    was_leading: bool = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cancelled: dict[str, _Cancel] = {}
        self.term_of: dict[int, str] = {}
        self.watchers: list[Watcher] = []
        self.troubled_at = float("-inf")
        self.is_copied = False

    def push(self, publish: Publish) -> None:
        """Take a message."""
        life, own = self.asking
        if self.knows_later_than(own) or not own:
            raise BrokenPromise(f"P9: {publish.task_id} was pushed by {life} in term {own}, the broker knows of a later one")
        if self.term_of.setdefault(own, life) != life:
            raise BrokenPromise(f"P9: {life} and {self.term_of[own]} push in term {own}")
        if self.is_copied and (publish.workflow_id, publish.node) not in self.markers:
            # See `takeover`: a copy may repeat what ended after it was made.
            self.pushes.pop(publish.task_id, None)
        super().push(publish)

    def knows_later_than(self, term: int) -> bool:
        """Tell whether somebody has told of a later term."""
        return self.told_term > term

    def check_cancel(self, publish: Publish) -> None:
        """Check that nobody was told that this is cancelled."""
        cancel = self.cancelled.get(publish.workflow_id)
        if cancel is None or self.is_copied:
            return
        is_late = self.sent_at > cancel.at
        if cancel.is_confirmed or (is_late and self.was_leading):
            raise BrokenPromise(f"{publish.task_id} is pushed by {self.asking}, its workflow was cancelled at {cancel.at:.3f}")

    def published(self, event: TaskEvent) -> None:
        """Tell all who watch."""
        for watcher in self.watchers:
            watcher.published(event)

    def raise_if_away(self) -> None:
        """Raise if it cannot be reached."""
        if self.problem:
            raise BrokerUnavailable(self.problem)


class Standby:
    """One seed.

    Args:
        has_letters: Whether those that do not lead take letters; by default the seed decides.
    """

    def __init__(self, seed: int, *, has_letters: bool | None = None) -> None:
        self.seed = seed
        self.story = JudgedStory()
        self.facts: Counter[str] = Counter()
        self._chance = chance = Random(seed)
        self._is_copied = chance.random() < 0.15
        self.has_letters = not self._is_copied and (chance.random() < 0.4 if has_letters is None else has_letters)
        self._chaos_s = chance.choice([10.0, 30.0, 60.0])
        self._pause_s = chance.choice([1.0, 3.0, 10.0])
        self._server = Server(f"{chance.getrandbits(64):x}", self.story)
        self.broker = JudgedBroker(Random(chance.random()), self.story, self._pass, self._server, self._behave)
        self.broker.check_sending = self.broker.check_cancel
        self.broker.watcher = self.broker  # type: ignore[assignment]
        count = chance.choice([2, 3, 5])
        self._plans = [_STANDING, *(random_plan(chance, f"w{number}", within_s=self._chaos_s) for number in range(count))]
        self.members: list[Member] = []
        self._accepted: dict[str, str] = {}
        self._answered: list[tuple[str, str]] = []
        self._asked = 0
        self._said: dict[str, dict[str, str]] = {}
        self.is_mended = False
        self._copy: Server | None = None
        self.letters: LetterWriters | None = None
        self._worker_number = 0
        self.limits = SchedulerLimits(
            engine=Limits(in_flight_max=chance.choice([1, 3, 100])), pools={"one": 1, "many@*": 2}, lost_after_s=30.0
        )

    @staticmethod
    def _pass(point: str) -> None:
        process = PROCESS.get()
        if process is not None:
            process.passes(point)

    def _behave(self, publish: Publish) -> Behaviour:
        chance = Random(f"{self.seed}:{publish.task_id}")
        return Behaviour(chance.choice([0.0, 0.3, 2.0, 15.0]), chance.choice(["succeeded"] * 5 + ["failed"]), b"true")

    # --- the world --------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Play it; raises what went wrong."""
        async with anyio.create_task_group() as world:
            self._world = world
            for _ in range(2):
                self.start_worker()
            for number in range(self._chance.choice([2, 2, 3])):
                self.members.append(Member(f"host{number}", self._server, self, world, Random(self._chance.random())))
            if self.has_letters:
                self.members.append(Member("gate", self._server, self, world, Random(self._chance.random()), may_lead=False))
                self.letters = LetterWriters(self, self._server, self._chance.random())
                world.start_soon(self.letters.write)
            for member in self.members:
                member.start()
            world.start_soon(self._judge)
            world.start_soon(self._redeliver)
            for plan in self._plans:
                world.start_soon(self._submit, plan)
            for plan in self._plans[1:]:
                world.start_soon(self._await_ends, plan)
            world.start_soon(self._operate)
            world.start_soon(self._insist)
            try:
                await self._break_things()
                await self._mend()
                await self._wait_for_the_end()
                await self._end_processes()
            finally:
                self._kill_all()
            world.cancel_scope.cancel()
        self._check_end()

    def _kill_all(self) -> None:
        """Have nothing be left that is stopped: it does not end either, and no time passes while somebody waits for that."""
        for member in self.members:
            if not member.process.is_dead:
                member.process.kill()

    def start_worker(self) -> None:
        self._worker_number += 1
        self._world.start_soon(Worker(f"worker{self._worker_number}", self.broker).run)

    async def _judge(self) -> None:
        while True:
            await anyio.sleep(2.0 if self.is_mended else 0.2)
            if self.story.broken is not None:
                raise self.story.broken
            for member in self.members:
                member.judge()

    async def _redeliver(self) -> None:
        while True:
            await anyio.sleep(5.0)
            if not self.broker.problem:
                self.broker.redeliver(anyio.current_time())

    async def _break_things(self) -> None:
        chance, end = self._chance, anyio.current_time() + self._chaos_s
        copied_at = chance.uniform(0.0, self._chaos_s) if self._is_copied else float("inf")
        if chance.random() < 0.5:
            # It takes a while, and is to happen in short stories too.
            await anyio.sleep(chance.uniform(0.5, 3.0))
            self._world.start_soon(self.happen, "overtake", chance.choice(self.members))
        while anyio.current_time() < end:
            await anyio.sleep(chance.expovariate(1 / self._pause_s))
            if self._copy is None and anyio.current_time() > copied_at:
                await self._start_copy()
            what = chance.choice(list(WEATHER))
            self.facts[what] += 1
            self._world.start_soon(self.happen, what, chance.choice(self.members))

    async def happen(self, what: str, member: Member) -> None:
        """Have something happen, unless all is mended."""
        chance = Random(self._chance.random())
        pause_s = chance.choice([0.3, 3.0, 8.0, 30.0])
        if not self.is_mended:
            await WEATHER[what](self, member, pause_s, chance)

    async def _start_copy(self) -> None:
        self.story.tell("the database is copied")
        self._copy = self._server.copied()
        self.broker.is_copied = True
        await anyio.sleep(self._chance.choice([0.0, 5.0]))
        copy = Member("copy", self._copy, self, self._world, Random(self._chance.random()))
        self.members.append(copy)
        copy.start()

    async def _mend(self) -> None:
        self.story.tell("everything is mended")
        self.is_mended = True
        self._server.problem = self.broker.problem = ""
        self.broker.drops_notifications, self.broker.cuts = 0.0, 0
        for worker in self.broker.workers.values():
            worker.is_silent = False
        for _ in range(2 - len(self.broker.workers)):
            self.start_worker()
        self.broker.wake()
        for member in self.members:
            member.mend()
        if self._copy is not None:
            return
        # What was asked before, and is lost, is waited for: of the database for four seconds, of the broker for five.
        patience_s = TTL_S + 2.0 + 9.0
        with anyio.move_on_after(patience_s):
            while not any(member.leads for member in self.members):  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.1)
            return
        raise BrokenPromise(f"nobody leads {patience_s} s after everything was mended: {self._server.left_s=:.1f}")

    async def _wait_for_the_end(self) -> None:
        patience = anyio.current_time() + _PATIENCE_S
        while anyio.current_time() < patience:
            await anyio.sleep(5.0)
            if self._has_copy_taken_over():
                return
            self._follow_letters()
            left = [key for key, workflow_id in self._accepted.items() if not self._has_ended(workflow_id)]
            left += [f"letter {letter.number}" for letter in self._server.box.waiting]
            if self._copy is not None:
                # What was accepted by a copy while the broker was away, and the copy was refused by it then, is in no other one.
                left = [key for key in left if self._server.has(self._accepted.get(key, ""))]
            if len(self._accepted) == len(self._plans) and not left:
                if self._copy is None:
                    await self._take_down()
                return
            for key in left:
                if key in self._accepted:
                    await self._decide(self._accepted[key])
        raise BrokenPromise(f"P5: {left} do not end; {len(self._accepted)} of {len(self._plans)} were accepted")

    def _has_copy_taken_over(self) -> bool:
        """Tell whether the copy goes on; what was accepted after it was made is not in it."""
        if self._copy is None or not any(member.is_fenced for member in self.members):
            return False
        if self.members[-1].is_fenced:
            self.facts["copies refused"] = 1
            return False
        self.facts["copies that took over"] = 1
        return True

    def _has_ended(self, workflow_id: str) -> bool:
        record = self._server._workflows.get(workflow_id)
        return record is not None and record.state.is_finished

    async def _end_processes(self) -> None:
        for member in self.members:
            member.end()
        for member in self.members:
            with anyio.fail_after(60.0):
                await member.ended.wait()

    # --- those who submit and control -------------------------------------------------------------------------------

    async def request(self, member: Member, what: str, work: Callable[[Scheduler], Awaitable[Any]]) -> Any:
        """Ask a process to change something; raises if the answer is no success or does not come. Judge a success."""
        if member.takes_letters:
            return await self.read(member, f"{what}, by letter", work, may_be_left=True)
        server = member.server
        begun, taken = anyio.current_time(), len(server.leaders)
        is_known = self.broker.knows_later_than(member.term)
        overtaken = bool(server.leaders) and server.leaders[-1][1] != member.life
        answer = await self.read(member, what, work)
        if overtaken and (begun > member.deceived_until or (is_known and member.asks_broker_well(begun))):
            raise BrokenPromise(f"{member.name} has answered '{what}', asked when {server.leaders[taken - 1]} had the lease")
        return answer

    async def read(
        self, member: Member, what: str, work: Callable[[Scheduler], Awaitable[Any]], *, may_be_left: bool = False
    ) -> Any:
        """Ask a process for something that is not judged; raises if the answer is no success or does not come."""
        with anyio.move_on_after(_CLIENT_S):
            answer = await member.ask(work, may_be_left=may_be_left)
            self.story.tell(f"{member.name} answers {what}")
            return answer
        raise ConnectionLost("no answer")

    def submit_one(self, member: Member) -> None:
        """Submit one task more, at this one first."""
        plan = Plan(f"late{len(self._plans)}", "only", WorkflowPolicy(), 0.0, is_left_alone=True)
        self._plans.append(plan)
        self._world.start_soon(self._submit, plan, member)

    async def _submit(self, plan: Plan, first: Member | None = None) -> None:
        await anyio.sleep(plan.at)
        times = 1 + (self._chance.random() < 0.3)
        while times:
            members = self._asked_of
            member = self._stale(members) or self.leader() if self._chance.random() < 0.5 else None
            member, first = first or member or self._chance.choice(members), None
            try:
                submitted = await self.request(
                    member, f"submission of {plan.key}", lambda running: running.submit_definition(plan.definition())
                )
            except (DyrygentError, ConnectionLost, NotLeading) as error:
                if not isinstance(error, NotLeading):
                    self.story.tell(f"submit {plan.key} at {member.name}: {error}")
                await anyio.sleep(self._chance.choice([0.1, 1.0, 3.0]))
                continue
            before = self._accepted.setdefault(plan.key, submitted.id)
            if not self.broker.is_copied and before != submitted.id and not self._is_one(before, submitted.id):
                raise BrokenPromise(f"P6: {plan.key} is {before} and {submitted.id}")
            times -= 1
            await anyio.sleep(self._chance.choice([0.0, 3.0, 10.0]))

    async def _operate(self) -> None:
        chance = self._chance
        meant = [plan for plan in self._plans[1:] if not plan.is_left_alone]
        while meant and not self.is_mended:
            await anyio.sleep(chance.expovariate(2.0))
            plan = chance.choice(meant)
            if plan.key not in self._accepted:
                continue
            # Of what is cancelled nothing is ever to run again, which others would make possible.
            own = Verb.CANCEL if int(plan.key[1:]) % 2 else Verb.RETRY
            members = self._asked_of
            member = self._stale(members) or (self.leader() if chance.random() < 0.7 else None) or chance.choice(members)
            verb = chance.choice([own, own, Verb.PAUSE, Verb.PAUSE, Verb.RESUME])
            await self.ask(self._accepted[plan.key], verb, at=member)
            # What is so already needs no transaction, which would be refused.
            while chance.random() < 0.5:
                await anyio.sleep(chance.choice([0.1, 1.0, 3.0]))
                await self.ask(self._accepted[plan.key], verb, at=member)

    async def _insist(self) -> None:
        while not self.is_mended:
            await anyio.sleep(1.0)
            member = self._stale(self.members)
            if member is not None:
                self.insist(member)

    def insist(self, member: Member) -> None:
        """Ask one that may be overtaken, and not know it, for what is so already as far as it knows: that takes no turn."""
        workflow_id = self._accepted.get(_STANDING.key)
        if workflow_id is not None and member.leads:
            self.facts["asked for what is so"] += 1
            self._world.start_soon(partial(self.ask, workflow_id, Verb.RESUME, at=member))

    async def ask(self, workflow_id: str, verb: Verb, nodes: Sequence[str] = (), *, at: Member | None = None) -> None:
        member = at or self._chance.choice(self.members)
        self._asked += 1
        why = f"request {self._asked}"
        request = VerbRequest(verb, by="operator", why=why, nodes=tuple(nodes))
        begun = anyio.current_time()
        try:
            changed = await self.request(member, f"{verb} {workflow_id}", lambda running: running.perform(workflow_id, request))
        except (DyrygentError, ConnectionLost, NotLeading) as error:
            if not isinstance(error, NotLeading):
                self.story.tell(f"{verb} {workflow_id} at {member.name}: {error}")
            return
        if changed.is_changed:
            self._answered.append((workflow_id, why))
            self.facts["verbs"] += 1
        if verb is Verb.CANCEL and changed.workflow.state == "cancelled" and workflow_id not in self.broker.cancelled:
            self.facts["cancels"] += 1
            self.broker.cancelled[workflow_id] = _Cancel(anyio.current_time(), member.asks_broker_well(begun))

    async def _await_ends(self, plan: Plan) -> None:
        """Wait for the end of a workflow, at anybody, also at one that is overtaken, again and again."""
        chance = Random(f"{self.seed}:waits:{plan.key}")
        while True:
            await anyio.sleep(chance.choice([1.0, 5.0, 20.0]))
            workflow_id, member = self._accepted.get(plan.key), chance.choice(self.members)
            if workflow_id is None:
                continue
            try:
                view = await self.read(member, f"a wait for {plan.key}", lambda running, of=workflow_id: running.wait(of))  # type: ignore[misc]
            except (DyrygentError, ConnectionLost, NotLeading):
                continue
            if view.finished_at is not None and (workflow_id, view.state) not in member.server.ends:
                raise BrokenPromise(f"P1: {member.name} says that {plan.key} is {view.state}, which the database never heard of")
            self.facts["waits"] += 1

    @property
    def _asked_of(self) -> list[Member]:
        """Who is asked for what changes something."""
        return [member for member in self.members if not member.is_shunned]

    @staticmethod
    def _stale(members: Sequence[Member]) -> Member | None:
        """Return one that takes itself for the leader, and is not."""
        return next((member for member in members if member.leads and member.server.process != member.life), None)

    def _is_one(self, *workflow_ids: str) -> bool:
        """Tell whether one of these is what a letter was to make, whose key another one had before, or has perhaps."""
        letters = [letter for each in workflow_ids if (letter := self._server.box.find(each)) is not None]
        return any(not letter.answer or letter.known_as in workflow_ids for letter in letters)

    def is_there(self, workflow_id: str, server: Server) -> bool:
        """Tell whether a workflow is durable, in itself or as a letter."""
        letter = server.box.find(workflow_id)
        return server.has(workflow_id) or (letter is not None and (not letter.answer or server.has(letter.known_as)))

    def _follow_letters(self) -> None:
        """Go on with the workflows that had the keys of others."""
        for key, workflow_id in self._accepted.items():
            letter = self._server.box.find(workflow_id)
            if letter is not None and letter.known_as:
                self._accepted[key] = letter.known_as

    def leader(self) -> Member | None:
        """Return one that leads, as far as it knows."""
        return next((member for member in self._asked_of if member.leads and not member.process.is_stopped), None)

    async def _decide(self, workflow_id: str) -> None:
        leader = self.leader()
        if leader is None:
            return
        try:
            view = await self.read(leader, "a view", lambda running: running.view(workflow_id))
            page = await self.read(leader, "nodes", lambda running: running.nodes(workflow_id))
        except (DyrygentError, ConnectionLost, NotLeading):
            return
        if view.state == "paused":
            await self.ask(workflow_id, Verb.RESUME, at=leader)
        for node in page.nodes:
            if node.hold in ("gate", "operator", "lost") or node.is_on_hold:
                verb = Verb.RETRY if node.hold == "lost" else Verb.RELEASE
                await self.ask(workflow_id, verb, [node.name], at=leader)

    # --- the oracle -------------------------------------------------------------------------------------------------

    def check_takeover(self, server: Server) -> None:
        """Check that a new leader finds what was answered before."""
        self.facts["leaders"] += 1
        if self.broker.is_copied:
            return
        if self.letters is not None:
            self.letters.check_takeover()
        for key, workflow_id in self._accepted.items():
            if not self.is_there(workflow_id, server):
                raise BrokenPromise(f"P1: {key} was accepted and is not there")
        for workflow_id, why in self._answered:
            if why not in [entry.why for entry in server.journal_of(workflow_id)]:
                raise BrokenPromise(f"an answered verb is not in the journal: {why}")

    def _check_end(self) -> None:
        if self.story.broken is not None:
            raise self.story.broken
        self.facts["pushes"] += self.broker.pushes.total()
        if self._copy is not None:
            return
        self.check_takeover(self._server)
        if self.letters is not None:
            self.letters.check()
        for key, said in self._said.items():
            [plan] = [plan for plan in self._plans if plan.key == key]
            Ends(plan, self.broker.sent, self.broker.results).check(said)

    async def _take_down(self) -> None:
        """Note what is said of workflows that nobody interfered with."""
        for plan in self._plans:
            while plan.is_left_alone and plan.key not in self._said:
                leader = self.leader()
                if leader is None or leader.server.process != leader.life:
                    # One that is overtaken shows what it knows, until it hears of that.
                    await anyio.sleep(1.0)
                    continue
                page = await self.read(leader, "nodes", lambda running, plan=plan: running.nodes(self._accepted[plan.key]))  # type: ignore[misc]
                self._said[plan.key] = {node.name: word_of(node.state, node.is_unneeded) for node in page.nodes}


def run(seed: int, *, has_letters: bool | None = None) -> Outcome:
    """Play a seed."""
    standby = Standby(seed, has_letters=has_letters)
    problem = ""
    try:
        with patch.object(Holder, "here", holder_here):
            anyio.run(standby.play, backend="asyncio", backend_options={"loop_factory": ProcessLoop})
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        problem = told(error)
    return Outcome(seed, problem, str(standby.story), dict(standby.facts))
