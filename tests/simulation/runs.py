"""One run by seed: workflows, faults, an operator, crashes and recoveries; then everything is mended and must come to its end.

What is checked, and when:

- at each push: its intent and attempt are durable (P2), no attempt twice (P3);
- all the time: every invariant of the engine (`check_engine`);
- at each start: what was accepted is there (P1); a repeated submission finds it (P6);
- at the end: everything has finished, or is finished by what an operator can do (P5); every answered verb that changed something
  is in the journal; of workflows that nobody interfered with, each node ended as the results of its tasks, its rule and its
  policy say, and was given the values of its dependencies. Not where the broker was emptied: results were lost with it, and only
  the rest holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import anyio
import anyio.abc

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskEvent, TaskFailed, TaskSucceeded
from dyrygentd.core.invariants import check_engine
from dyrygentd.core.limits import Limits
from dyrygentd.core.records import JournalEntry, NodeRecord
from dyrygentd.core.verbs import NODE_VERBS, WORKFLOW_VERBS, Verb, VerbRequest
from dyrygentd.errors import DyrygentError, StoreUnavailable
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler import Scheduler, SchedulerLimits
from tests.simulation.keeper import Keeper
from tests.simulation.virtual import EverybodyWaits, VirtualClock, VirtualLoop
from tests.simulation.workflows import Ends, Plan, random_plan, word_of
from tests.simulation.world import (
    Behaviour,
    BrokenPromise,
    Broker,
    Crash,
    Disk,
    Dispatcher,
    Fuse,
    Inspector,
    Story,
    Watcher,
    Worker,
)

#: After everything was mended, what has not ended within so many virtual seconds hangs.
_PATIENCE_S = 6 * 3600.0
_WORKERS = 2


@dataclass
class Outcome:
    """How a run went; ``problem`` is empty if well."""

    seed: int
    problem: str
    story: str
    facts: dict[str, int] = field(default_factory=dict)


def run(seed: int, simulation: "Simulation | None" = None) -> Outcome:
    """Play a seed, in another world if one is given."""
    simulation = simulation or Simulation(seed)
    problem = ""
    try:
        anyio.run(simulation.play, backend="asyncio", backend_options={"loop_factory": VirtualLoop})
    except EverybodyWaits:
        problem = "everybody waits for ever"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        problem = told(error)
    return Outcome(seed, problem, str(simulation.story), simulation.facts)


def told(error: BaseException) -> str:
    """Return what went wrong, and where."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    trace = error.__traceback__
    where = ""
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} ({where})"


class Simulation:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.story = Story()
        self.facts: dict[str, int] = {}
        self._chance = Random(seed)
        chance = self._chance
        self._chaos_s = chance.choice([5.0, 30.0, 90.0])
        self._may_be_emptied = chance.random() < 0.15
        self._may_jump = chance.random() < 0.15
        self._crashes = chance.choice([0, 0, 1, 2, 4])
        self._plans: list[Plan] = self._random_plans()
        self._fuse = Fuse(self.story)
        self._disk = Disk(Random(chance.random()), self.story, self._fuse)
        self._broker = Broker(Random(chance.random()), self.story, self._fuse, self._disk, self._behave)
        self._broker.is_left_alone = self._is_left_alone
        self._keeper = Keeper(self._broker, self._row_of)
        self._broker.check_sending = self._keeper.check_sending
        self._clock = VirtualClock()
        self._accepted: dict[str, str] = {}
        self._stored: dict[str, TaskEvent] = {}
        self._changed: list[tuple[str, str]] = []
        self._asked = 0
        self._is_mended = False
        self._is_over = False
        self._worker_number = 0
        self._lives = 0
        self._limits = SchedulerLimits(
            engine=Limits(
                in_flight_max=chance.choice([1, 3, 100]),
                dispatch_max=chance.choice([1, 3, 100]),
                value_bytes_max=1000,
                late_watch_s=chance.choice([60.0, 3600.0]),
            ),
            turn_events_max=chance.choice([1, 5, 2000]),
            lost_after_s=chance.choice([5.0, 60.0]),
            lost_confirm_s=chance.choice([3.0, 30.0]),
            durable_timeout_s=30.0,
            pools={"one": 1, "many@*": 2},
        )

    def _random_plans(self) -> list[Plan]:
        chance = self._chance
        return [random_plan(chance, f"w{number}", within_s=self._chaos_s) for number in range(chance.choice([1, 2, 3, 5]))]

    def _behave(self, publish: Publish) -> Behaviour:
        chance = Random(f"{self.seed}:{publish.task_id}")
        duration_s = chance.choice([0.0, 0.0, 0.01, 0.3, 2.0, 15.0, 80.0])
        if publish.workflow_id and "poll" in publish.signature.task:
            duration_s = 0.0
        event = chance.choice(["succeeded"] * 16 + ["failed"] * 4 + ["ignored", "vanishes"])
        value = chance.choice([b"1", b'"two"', b"[3]", b"true", b"input", b"false", b"null"])
        return Behaviour(duration_s, event, value, acks_late=chance.random() < 0.3)

    def _is_left_alone(self, workflow_id: str) -> bool:
        record = self._disk._workflows.get(workflow_id)
        return record is not None and any(plan.key == record.key and plan.is_left_alone for plan in self._plans)

    def _row_of(self, task_id: str) -> NodeRecord | None:
        """Return what is durable of the node whose first attempt has this id, or a later one had."""
        key, _, name = task_id.partition("/")
        workflow_id = next((workflow_id for workflow_id, row in self._disk._workflows.items() if row.key == key), "")
        plan = next((plan for plan in self._plans if plan.key == key), None)
        node = None if plan is None else plan.definition().graph.number(name)
        if node is not None:
            return self._disk.node_of(workflow_id, node)
        sent = self._broker.sent.get(task_id)
        return None if sent is None else self._disk.node_of(sent.workflow_id, sent.node)

    # --- the world --------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Play from the beginning to the end; raises what went wrong."""
        async with anyio.create_task_group() as world:
            for _ in range(_WORKERS):
                self._start_worker(world)
            world.start_soon(self._redeliver)
            world.start_soon(self._break_things, world)
            while not self._is_over:
                await self._live_once(world)
            world.cancel_scope.cancel()
        self._check_end()

    def _start_worker(self, world: anyio.abc.TaskGroup) -> None:
        self._worker_number += 1
        world.start_soon(Worker(f"worker{self._worker_number}", self._broker).run)

    async def _redeliver(self) -> None:
        while True:
            await anyio.sleep(5.0)
            if not self._broker.problem:
                self._broker.redeliver(anyio.current_time())

    async def _break_things(self, world: anyio.abc.TaskGroup) -> None:
        chance, broker, disk = self._chance, self._broker, self._disk
        end = anyio.current_time() + self._chaos_s
        while anyio.current_time() < end:
            await anyio.sleep(chance.expovariate(0.5))
            match chance.choice(
                ["broker", "disk", "slow", "cut", "drop", "kill", "silent", "forge", "emptied", "clock", "nothing"]
            ):
                case "broker":
                    self.story.tell("the broker is away")
                    broker.problem = "away"
                    await anyio.sleep(chance.choice([0.1, 3.0, 20.0]))
                    broker.problem = ""
                    broker.wake()
                    self.story.tell("the broker is back")
                case "disk":
                    self.story.tell("the disk is full")
                    disk.broken = "full"
                    await anyio.sleep(chance.choice([0.1, 3.0, 20.0]))
                    disk.broken = ""
                    self.story.tell("the disk has space")
                case "slow":
                    disk.slow_s = chance.choice([0.0, 0.1, 2.0])
                case "cut":
                    broker.cuts = chance.choice([1, 3])
                case "drop":
                    broker.drops_notifications = chance.choice([0.0, 0.3, 1.0])
                case "kill" if broker.workers:
                    broker.workers[chance.choice(sorted(broker.workers))].kill()
                    await anyio.sleep(chance.choice([0.1, 5.0, 40.0]))
                    self._start_worker(world)
                case "silent" if broker.workers:
                    worker = broker.workers[chance.choice(sorted(broker.workers))]
                    worker.is_silent = not worker.is_silent
                case "forge":
                    self._forge()
                case "emptied" if self._may_be_emptied:
                    broker.forget_everything()
                case "clock" if self._may_jump:
                    self._clock.offset += chance.choice([-3600.0, -5.0, 5.0, 3600.0])
                    self.story.tell(f"the clock is set to {self._clock.offset:+g} s")
        self._mend(world)

    def _forge(self) -> None:
        """Deliver once more, or the opposite of, what has ended already."""
        watcher, results = self._broker.watcher, self._broker.results
        if watcher is None or watcher._emit is None or not results:
            return
        task_id = self._chance.choice(sorted(results))
        known = results[task_id]
        if not isinstance(known, TaskSucceeded):
            return
        others: list[TaskEvent] = [known, TaskFailed(task_id, "forged"), TaskSucceeded(task_id, b'"forged"')]
        running = self._running
        if running is None or running._parts.turns.engine.flights.is_in_flight(task_id) or len(running._parts.inbox):
            return  # Nobody could tell it from the truth.
        watcher._emit([self._chance.choice(others)])

    def _mend(self, world: anyio.abc.TaskGroup) -> None:
        self.story.tell("everything is mended")
        broker, disk = self._broker, self._disk
        broker.problem, disk.broken, disk.slow_s, broker.cuts, broker.drops_notifications = "", "", 0.0, 0, 0.0
        for worker in broker.workers.values():
            worker.is_silent = False
        for _ in range(_WORKERS - len(broker.workers)):
            self._start_worker(world)
        broker.wake()
        self._is_mended = True

    # --- the process ------------------------------------------------------------------------------------------------

    _running: Scheduler | None = None

    async def _live_once(self, world: anyio.abc.TaskGroup) -> None:
        """Run the scheduler until it crashes, is stopped, or everything is over."""
        chance = self._chance
        self._lives += 1
        self.story.tell(f"process {self._lives} starts")
        self._fuse.left = None
        if self._crashes and not self._is_mended and chance.random() < 0.7:
            self._fuse.left = chance.choice([0, 1, 2, 3, 5, 8, 13, 30, 60])
        scheduler = Scheduler(
            store=self._disk,
            dispatcher=Dispatcher(self._broker),
            watcher=Watcher(self._broker, world),
            inspector=Inspector(self._broker),
            keeper=self._keeper,
            clock=self._clock,
            limits=self._limits,
            chance=Random(chance.random()),
        )
        try:
            async with scheduler as running:
                self._running = running
                await self._use(running)
        except BaseExceptionGroup as group:
            if group.subgroup(Crash) is None:
                raise
        except Crash:
            pass
        except StoreUnavailable as error:
            self.story.tell(f"it cannot start: {error}")
            await anyio.sleep(1.0)
        finally:
            self._running = None
        # What the process had in memory is gone; what is said of it from now on is another one's.
        if not self._is_over:
            self._crashes = max(0, self._crashes - 1)
            await anyio.sleep(chance.choice([0.0, 0.5, 10.0]))

    async def _use(self, running: Scheduler) -> None:
        for key, workflow_id in self._accepted.items():
            if not self._disk.has(workflow_id):
                raise BrokenPromise(f"P1: {key} was accepted and is not there")
        async with anyio.create_task_group() as users:
            users.start_soon(self._check_all_the_time, running)
            for plan in self._plans:
                users.start_soon(self._submit, running, plan)
            users.start_soon(self._operate, running)
            if self._crashes and not self._is_mended:
                users.start_soon(self._end_process, running, users)
            await self._wait_for_the_end(running)
            users.cancel_scope.cancel()

    async def _end_process(self, running: Scheduler, users: anyio.abc.TaskGroup) -> None:
        chance = self._chance
        await anyio.sleep(chance.uniform(0.0, self._chaos_s))
        if chance.random() < 0.5:
            self.story.tell("CRASH at any moment")
            raise Crash("at any moment")
        self.story.tell("SIGTERM")
        await running.drain(timeout_s=chance.choice([0.0, 5.0]))
        users.cancel_scope.cancel()

    async def _check_all_the_time(self, running: Scheduler) -> None:
        while True:
            check_engine(running._parts.turns.engine)
            await anyio.sleep(0.5 if not self._is_mended else 20.0)

    async def _submit(self, running: Scheduler, plan: Plan) -> None:
        """Submit until it is accepted, and sometimes once more."""
        await anyio.sleep(max(0.0, plan.at - anyio.current_time()))
        for attempt in range(1000):
            if plan.key in self._accepted and attempt:
                return
            try:
                submitted = await running.submit_definition(plan.definition())
            except DyrygentError as error:
                self.story.tell(f"submit {plan.key}: {error}")
                await anyio.sleep(1.0)
                continue
            before = self._accepted.setdefault(plan.key, submitted.id)
            if before != submitted.id:
                raise BrokenPromise(f"P6: {plan.key} was submitted twice: {before} and {submitted.id}")
            self.story.tell(f"accepted {plan.key}")

    # --- the operator -----------------------------------------------------------------------------------------------

    async def _operate(self, running: Scheduler) -> None:
        chance = self._chance
        meant = [plan for plan in self._plans if not plan.is_left_alone]
        while not self._is_mended and meant:
            await anyio.sleep(chance.expovariate(0.4))
            plan = chance.choice(meant)
            workflow_id, names = self._meant(plan)
            if workflow_id is None:
                continue
            verb = chance.choice(list(Verb))
            nodes = tuple(chance.sample(list(names), chance.choice([1, 1, min(2, len(names))])))
            request = VerbRequest(
                verb,
                nodes=nodes if verb in NODE_VERBS and (verb not in WORKFLOW_VERBS or chance.random() < 0.5) else (),
                priority=chance.choice([0, 3]) if verb is Verb.SET_PRIORITY else 0,
                force=verb is Verb.RETRY and chance.random() < 0.3,
                terminate=verb in (Verb.CANCEL, Verb.SKIP) and chance.random() < 0.3,
            )
            await self._ask(running, plan.key, workflow_id, request)

    def _meant(self, plan: Plan) -> tuple[str | None, Sequence[str]]:
        """Return which workflow of a plan the operator means next, None if there is none yet, and the names of its nodes."""
        return self._accepted.get(plan.key), plan.definition().graph.names

    async def _ask(self, running: Scheduler, key: str, workflow_id: str, request: VerbRequest) -> None:
        self._asked += 1
        why = f"request {self._asked}"
        try:
            changed = await running.perform(workflow_id, _with_reason(request, why))
        except DyrygentError as error:
            self.story.tell(f"{request.verb} {key} {request.nodes}: {error}")
            return
        self.story.tell(f"{request.verb} {key} {request.nodes}: {'done' if changed.is_changed else 'nothing'}")
        if changed.is_changed:
            self._changed.append((workflow_id, why))

    async def _wait_for_the_end(self, running: Scheduler) -> None:
        """Wait until everything has ended; decide what waits for a person once everything was mended."""
        patience = None
        while True:
            await anyio.sleep(5.0)
            if not self._is_mended or len(self._accepted) < len(self._plans):
                continue
            patience = patience or anyio.current_time() + _PATIENCE_S
            unfinished = self._unfinished(running)
            unrun = running._parts.unrun
            # An end that is not durable yet is told a moment later.
            is_quiet = running._parts.inbox.is_saved and not running._parts.turns.is_at_disk
            if not unfinished and is_quiet and unrun is not None and not unrun.is_behind:
                break
            for key, workflow_id in unfinished.items():
                await self._decide(running, key, workflow_id)
            if anyio.current_time() > patience:
                raise BrokenPromise(f"P5: {await self._why(running, unfinished)}")
        await self._take_down(running)
        self._is_over = True

    def _unfinished(self, running: Scheduler) -> dict[str, str]:
        """Return ``{key: id}`` of what has to come to its end."""
        return {key: each for key, each in self._accepted.items() if each in running._parts.turns.engine.workflows}

    async def _decide(self, running: Scheduler, key: str, workflow_id: str) -> None:
        view = await running.view(workflow_id)
        if view.state == "paused":
            await self._ask(running, key, workflow_id, VerbRequest(Verb.RESUME))
        for node in (await running.nodes(workflow_id)).nodes:
            if node.hold == "lost":
                await self._ask(running, key, workflow_id, VerbRequest(Verb.RETRY, nodes=(node.name,)))
            elif node.hold in ("gate", "operator") or node.is_on_hold:
                await self._ask(running, key, workflow_id, VerbRequest(Verb.RELEASE, nodes=(node.name,)))

    async def _why(self, running: Scheduler, unfinished: dict[str, str]) -> str:
        lines = []
        for key, workflow_id in unfinished.items():
            explanation = await running.explain(workflow_id)
            lines.append(f"{key} hangs: {explanation.verdict} {[standing.text for standing in explanation.standings][:5]}")
        return "\n".join(lines)

    # --- the oracle -------------------------------------------------------------------------------------------------

    async def _take_down(self, running: Scheduler) -> None:
        """Note how the scheduler says that everything has ended."""
        self._said: dict[str, dict[str, str]] = {}
        self._workflow_states: dict[str, str] = {}
        for key, workflow_id in self._accepted.items():
            nodes = (await running.nodes(workflow_id)).nodes
            self._said[key] = {node.name: word_of(node.state, node.is_unneeded) for node in nodes}
            self._workflow_states[key] = (await running.view(workflow_id)).state
        listed = (await running.list(Selection(limit=100))).workflows
        if {view.id for view in listed} != set(self._accepted.values()):
            raise BrokenPromise(f"P6: {len(listed)} workflows are listed, {len(self._accepted)} were accepted")
        counters = running.statistics().engine["counters"]
        self.facts = {name: counters[name] for name in ("lost", "turned_up", "late", "retried", "broken", "unrouted")}
        self.facts |= {"pushes": sum(self._broker.pushes.values()), "lives": self._lives, "verbs": len(self._changed)}
        if counters["broken"]:
            raise BrokenPromise("a workflow was set aside as broken")

    def _check_end(self) -> None:
        for workflow_id, why in self._changed:
            if why not in [entry.why for entry in self._journal_of(workflow_id)]:
                raise BrokenPromise(f"an answered verb is not in the journal: {why}")
        if self._broker.memory:
            return
        for plan in self._plans:
            said = self._said[plan.key]
            self._keeper.check_end(plan, self._disk._nodes.get(self._accepted[plan.key], {}))
            bad = {"failed", "cancelled", "blocked"} & set(said.values())
            expected = "failed" if bad else "succeeded"
            if plan.is_left_alone:
                ends = self._ends_of(plan)
                ends.check(said)
                ends.check_inputs(said)
                if self._workflow_states[plan.key] != expected:
                    raise BrokenPromise(f"{plan.key} is {self._workflow_states[plan.key]}, its nodes are {said}")

    def _journal_of(self, workflow_id: str) -> Sequence[JournalEntry]:
        return self._disk.journal_of(workflow_id)

    def _ends_of(self, plan: Plan) -> Ends:
        return Ends(plan, self._broker.sent, self._broker.results)


def _with_reason(request: VerbRequest, why: str) -> VerbRequest:
    return replace(request, why=why, by="operator")
