"""Runs by seed whose workflows are runs of one series, in the same world of faults.

What holds besides: of those that skip, wait or cancel others no two go on at one time; what waits begins, or says who took its
place; what was skipped leaves nothing, and is taken when nothing goes on any more.
"""

from dataclasses import dataclass, replace

import anyio

from dyrygentd.core.graph import Definition
from dyrygentd.core.series import IfRunning, Series
from dyrygentd.errors import DyrygentError
from dyrygentd.scheduler import Scheduler
from tests.simulation import runs
from tests.simulation.runs import Outcome, Simulation
from tests.simulation.workflows import Plan, random_plan
from tests.simulation.world import BrokenPromise, Disk

_ENDED_BY = ("waits in its place", "was to take its place")


def run(seed: int) -> Outcome:
    """Play a seed."""
    return runs.run(seed, _Simulation(seed))


@dataclass(frozen=True)
class _Plan(Plan):
    """A run of the series."""

    if_running: IfRunning = IfRunning.ALLOW

    def definition(self) -> Definition:
        """Return what is submitted."""
        return replace(super().definition(), series=Series("s", self.if_running))


class _Simulation(Simulation):
    """One seed; of half of them nobody asks for verbs, and none runs beside others."""

    _disk: Disk

    def _random_plans(self) -> list[Plan]:
        chance = self._chance
        self._is_strict = chance.random() < 0.5
        self._skipped = self._waited = 0
        words = [word for word in IfRunning if not (self._is_strict and word is IfRunning.ALLOW)]
        plans = list[Plan]()
        for number in range(chance.choice([2, 3, 5, 7])):
            plan = random_plan(chance, f"w{number}", within_s=self._chaos_s)
            plans.append(_Plan(plan.key, plan.text, plan.policy, plan.at, is_left_alone=False, if_running=chance.choice(words)))
        return plans

    async def _operate(self, running: Scheduler) -> None:
        if not self._is_strict:
            await super()._operate(running)

    async def _submit(self, running: Scheduler, plan: Plan) -> None:
        """Submit until it is accepted: one that is skipped comes again."""
        await anyio.sleep(max(0.0, plan.at - anyio.current_time()))
        while True:
            try:
                submitted = await running.submit_definition(plan.definition())
            except DyrygentError as error:
                self.story.tell(f"submit {plan.key}: {error}")
                await anyio.sleep(1.0)
                continue
            self._check_runs()
            if submitted.decided == "skipped":
                if submitted.id not in self._disk._workflows or submitted.created:
                    raise BrokenPromise(f"{plan.key} was skipped because of {submitted.id}, which is not there")
                self._skipped += 1
                self.story.tell(f"skipped {plan.key}")
                if self._is_mended and submitted.id in running._parts.turns.engine.workflows:
                    # What waits for a person is decided, as everywhere once everything was mended.
                    await self._decide(running, f"what keeps {plan.key}", submitted.id)
                await anyio.sleep(self._chance.choice([1.0, 5.0, 20.0]))
                continue
            self._waited += submitted.decided == "queued"
            before = self._accepted.setdefault(plan.key, submitted.id)
            if before != submitted.id:
                raise BrokenPromise(f"P6: {plan.key} was submitted twice: {before} and {submitted.id}")
            self.story.tell(f"accepted {plan.key} {submitted.decided}")
            return

    async def _check_all_the_time(self, running: Scheduler) -> None:
        async with anyio.create_task_group() as checks:
            checks.start_soon(super()._check_all_the_time, running)
            while True:
                self._check_runs()
                await anyio.sleep(0.3)

    def _check_runs(self) -> None:
        """Look at what is durable: one waits at most, and nobody waits for nobody."""
        unfinished = [record for record in self._disk._workflows.values() if not record.state.is_finished]
        waiting = [record.key for record in unfinished if record.queued_behind]
        going = [record.key for record in unfinished if not record.queued_behind]
        if len(waiting) > 1 or (waiting and not going):
            raise BrokenPromise(f"{waiting} wait while {going} go on")
        if self._is_strict and len(going) > 1:
            raise BrokenPromise(f"{going} go on at one time")

    def _check_end(self) -> None:
        super()._check_end()
        ended = 0
        for key, workflow_id in self._accepted.items():
            record = self._disk._workflows[workflow_id]
            is_ended = record.state == "cancelled" and any(words in record.error for words in _ENDED_BY)
            ended += is_ended
            if self._is_strict and record.state == "cancelled" and not is_ended:
                raise BrokenPromise(f"{key} is cancelled, and says '{record.error}'")
        self.facts |= {"skipped": self._skipped, "waited": self._waited, "ended for another": ended}
