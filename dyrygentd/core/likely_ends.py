"""When what is left of a workflow may end: it is run through some times, with run times by chance, as they were measured.

*Why by chance, and not by a formula.* The end of a group is that of its slowest member, a layer begins with the slowest of the
one before, and a pool holds up what others would let go: means say too little of such an end, and bounds too much. Running it
through, with places for as many tasks as run at a time, has all of this in it, and the spread of the ends is the range.
What is not known well (few measurements, how many tasks run at a time) differs from run to run, and widens the range.

*What it costs.* Two or three microseconds a node and run. There are as many runs as `_NODES_MAX` allows, forty at most: a
workflow of many nodes spreads less, so it needs fewer. It is meant for a thread, and no call of it holds the loop up.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import exp, log
from random import Random
from typing import Final

from dyrygentd.core.policy import Retry
from dyrygentd.core.remaining import Plan, Remaining
from dyrygentd.core.run_times import RunTime, likely_factor
from dyrygentd.core.states import NodeState

#: Nodes in all runs together: a quarter of a second.
_NODES_MAX: Final = 100_000
_RUNS_MAX: Final = 40
_RUNS_MIN: Final = 3
#: A task that has been running for longer than any before it goes on for this share of that, on an average.
_BEYOND: Final = 0.3
#: If most of them go on for longer than those that ended, these were the short ones: then it may be much more.
_CROWD, _CROWD_MAX = 3.0, 3.0
_ALIKE: Final = 0.8
_UNKNOWN: Final = 0.8
_NODE_BITS: Final = 32
_HEIGHT_MAX: Final = (1 << 31) - 1
_HELD, _READY, _RETRYING, _WAITING = NodeState.HELD, NodeState.READY, NodeState.RETRYING, NodeState.WAITING


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be run through.

    Attributes:
        nodes: Those that have not finished.
        times: How long each task of the plan takes, by its number.
        is_known: Whether that was measured of each, or of others.
        in_flight: Those that have a place, the ones first that have had it for longest.
        pool_of: ``{node: pool}`` of those that need a place in one.
        free: ``{pool: places}`` that are there for this workflow.
        slots_low, slots_high: How many of its tasks run at a time, at least and at most.
    """

    plan: Plan
    left: Remaining
    nodes: Sequence[int]
    times: Sequence[RunTime]
    is_known: Sequence[bool]
    in_flight: Sequence[int]
    pool_of: Mapping[int, str]
    free: Mapping[str, int]
    slots_low: float
    slots_high: float

    def retry_of(self, node: int) -> Retry | None:
        """Return by what a failure of a node is tried again."""
        return self.plan.retries.get(node, self.left.retry)

    def delay_s(self, node: int) -> float:
        """Return how long a node that waits is held once nothing else holds it, as far as that is known."""
        # A named time may have passed by then.
        return self.plan.sleeps.get(node, 0.0)

    def age_s(self, node: int) -> float:
        """Return for how long a node in flight has been running; 0 if it is in a queue."""
        begun_at = self.left.begun_at.get(node, 0.0)
        return max(0.0, self.left.now - begun_at) if begun_at else 0.0


def likely_ends(work: Work, chance: Random) -> list[float]:
    """Return in how many seconds it may end, rising, once for each run."""
    by_task: dict[int, list[int]] = {}
    task_of, unlikely = work.plan.task_of, work.plan.unlikely
    for node in work.nodes:
        if task_of[node] >= 0 and node not in unlikely:
            by_task.setdefault(task_of[node], []).append(node)
    runs = max(_RUNS_MIN, min(_RUNS_MAX, _NODES_MAX // max(1, len(work.nodes))))
    ends = []
    for _ in range(runs):
        slots = _slots(work, chance)
        children = {node: least + (most - least) * chance.random() for node, (least, most) in work.left.children.items()}
        ends.append(_run_through(work, _durations(work, by_task, slots, chance), slots, children))
    return sorted(ends)


def rest_s(time: RunTime, age_s: float, share: float) -> float:
    """Return how much longer a task goes on that has been running so long; ``share``, 0 to 1, is of those that took longer."""
    place = bisect_right(time.seconds, age_s)
    if place >= len(time.seconds) - 1:
        return 2.0 * share * _BEYOND * age_s
    before = time.cumulative[place - 1] if place else 0.0
    wanted = before + share * (time.cumulative[-1] - before)
    return time.seconds[max(place, min(bisect_left(time.cumulative, wanted), len(time.seconds) - 1))] - age_s


def _crowd(time: RunTime, ages: Sequence[float]) -> float:
    """Return by what the rest of the oldest is more than theirs, if more of a task run on than ever took so long: 0 if not so.

    Those that have ended were the short ones then, and say little of the others.
    """
    last_s = time.seconds[-2] * _ALIKE
    above = time.cumulative[-1] - time.cumulative[bisect_left(time.seconds, last_s)]
    crowd = sum(age >= last_s for age in ages)
    return min(crowd / time.number, _CROWD_MAX) if crowd > 2.0 * above + 2.0 else 0.0


def _slots(work: Work, chance: Random) -> int:
    """Return how many tasks run at a time in one run."""
    low, high = log(work.slots_low), log(work.slots_high)
    return max(1, round(exp(low + (high - low) * chance.random())))


def _durations(work: Work, by_task: Mapping[int, Sequence[int]], slots: int, chance: Random) -> dict[int, float]:
    """Return how long each node has its place in one run."""
    durations: dict[int, float] = {}
    for task, nodes in by_task.items():
        time = work.times[task]
        factor = likely_factor(time, chance.gauss(0.0, 1.0)) if work.is_known[task] else _unknown_factor(chance)
        drawn = chance.choices(time.seconds, cum_weights=time.cumulative, k=len(nodes))
        for node, value in zip(nodes, drawn, strict=True):
            # A bucket is so wide.
            durations[node] = value * factor * (0.9 + 0.2 * chance.random())
        if time.failing:
            for node in nodes:
                if chance.random() < time.failing:
                    durations[node] += _once_more_s(work, node, time, chance)
    running: dict[int, list[int]] = {}
    for node in work.in_flight[:slots]:
        if work.left.begun_at[node]:
            running.setdefault(work.plan.task_of[node], []).append(node)
    for task, nodes in running.items():
        time, ages = work.times[task], [work.age_s(node) for node in nodes]
        crowd = _crowd(time, ages)
        longer = (0.25 + 0.75 * chance.random()) * (1.0 + _CROWD * crowd)
        for node, age_s in zip(nodes, ages, strict=True):
            is_beyond = crowd and age_s >= time.seconds[-2] * _ALIKE
            durations[node] = longer * age_s * chance.random() if is_beyond else rest_s(time, age_s, chance.random())
            if chance.random() < time.failing:
                durations[node] += _once_more_s(work, node, time, chance)
    if work.plan.polls:
        for node in sorted(work.plan.polls.keys() & durations.keys()):
            durations[node] += _asking_s(work, node, chance)
    return durations


def _unknown_factor(chance: Random) -> float:
    """Return by what the mean of a task that was never measured may differ from that of others: from a fourth to three times."""
    return exp(_UNKNOWN * chance.gauss(0.0, 1.0) - _UNKNOWN * _UNKNOWN / 2.0)


def _once_more_s(work: Work, node: int, time: RunTime, chance: Random) -> float:
    """Return how much longer a node takes because its first attempts fail."""
    retry, more_s, failures = work.retry_of(node), 0.0, 1
    while retry is not None and failures < retry.attempts:
        more_s += retry.pause_s(failures, chance.random()) + time.mean_s
        failures += 1
        if chance.random() >= time.failing:
            break
    return more_s


def _asking_s(work: Work, node: int, chance: Random) -> float:
    """Return for how long a poll goes on asking: nobody knows, so about as long again as it has, or for a few times."""
    since = work.left.polling_since.get(node, 0.0)
    asked_s = work.left.now - since if since else 0.0
    return chance.random() * 2.0 * max(asked_s, work.plan.polls[node])


def _run_through(work: Work, durations: Mapping[int, float], slots: int, children: Mapping[int, float]) -> float:
    """Run what is left through once; return when its last node ends, in seconds from now.

    Args:
        children: ``{node: seconds}`` until its workflow ends.
    """
    run = _OneRun(work, durations, slots, children)
    run.begin()
    while run.events:
        run.step()
    return run.now


class _OneRun:
    """One run. Guards: no more tasks than there are slots, and places in pools, have a place at a time."""

    def __init__(self, work: Work, durations: Mapping[int, float], slots: int, children: Mapping[int, float]) -> None:
        self.now = 0.0
        # When a node ends, or, as ``-1 - node``, when it is free to go.
        self.events: list[tuple[float, int]] = []
        self._work = work
        self._durations = durations
        self._children = children
        self._unmet = work.left.unmet[:]
        self._sections = list(work.left.sections)
        self._ends = work.plan.graph.section_ends
        for node, scope in self._ends.ended_by.items() if self._ends is not None else ():
            self._unmet[node] += self._sections[scope] > 0
        self._heights = work.plan.graph.heights
        self._ready: list[int] = []
        self._slots = slots
        self._free = dict(work.free)
        self._waiting: dict[str, deque[int]] = {}
        self._has_slot = bytearray(len(self._unmet))

    def __repr__(self) -> str:
        return f"<_OneRun now={self.now:.0f} ready={len(self._ready)} events={len(self.events)}>"

    def begin(self) -> None:
        """Put everything where it stands."""
        states, work = self._work.left.states, self._work
        for place, node in enumerate(work.in_flight):
            # What is in flight and not running is next, whatever comes after it.
            if self._slots > 0:
                if node in work.pool_of:
                    self._free[work.pool_of[node]] -= 1
                self._start(node)
            else:
                heappush(self._ready, (place - _HEIGHT_MAX) << _NODE_BITS | node)
        for node in work.nodes:
            state = states[node]
            if state == _WAITING:
                if not self._unmet[node]:
                    self._let_go(node)
            elif state in (_HELD, _RETRYING, _READY):
                until = work.left.until.get(node, 0.0)
                if node in self._children:
                    self.events.append((self._children[node], -1 - node))
                elif until > work.left.now:
                    self.events.append((until - work.left.now, -1 - node))
                else:
                    self._be_ready(node)
        heapify(self.events)
        self._fill()

    def step(self) -> None:
        """Have the next thing happen."""
        self.now, node = heappop(self.events)
        if node < 0:
            self._be_ready(-1 - node)
        else:
            if self._has_slot[node]:
                self._slots += 1
                pool = self._work.pool_of.get(node)
                if pool is not None:
                    self._give_back(pool)
            self._end(node)
        if self._ready and self._slots > 0:
            self._fill()

    def _end(self, first: int) -> None:
        stack, unmet = [first], self._unmet
        durations = self._durations
        while stack:
            for dependent in self._let_wait_no_more(stack.pop()):
                # What has begun before its dependencies had all finished is counted elsewhere.
                if unmet[dependent] > 0:
                    unmet[dependent] -= 1
                    if not unmet[dependent]:
                        if dependent in durations or self._delay(dependent):
                            self._let_go(dependent)
                        else:
                            stack.append(dependent)

    def _let_wait_no_more(self, node: int) -> Sequence[int]:
        """Return who waited for a node: its dependents, and those who end a section of which it was the last."""
        dependents = self._work.plan.graph.dependents(node)
        if self._ends is None:
            return dependents
        return [
            *dependents,
            *(ender for scope in self._ends.closed_by(node, self._sections) for ender in self._ends.enders[scope]),
        ]

    def _delay(self, node: int) -> float:
        work = self._work
        named = work.plan.named_times.get(node, 0.0) - work.left.now - self.now if work.plan.named_times else 0.0
        return max(work.delay_s(node), named) if work.plan.sleeps or named > 0 else 0.0

    def _let_go(self, node: int) -> None:
        """Have a node go on for which nothing is waited any more."""
        delay_s = self._delay(node)
        if delay_s > 0:
            heappush(self.events, (self.now + delay_s, -1 - node))
        else:
            self._be_ready(node)

    def _be_ready(self, node: int) -> None:
        if node in self._durations:
            heappush(self._ready, (_HEIGHT_MAX - self._heights[node]) << _NODE_BITS | node)
        else:
            # It has no task, or does not run.
            heappush(self.events, (self.now, node))

    def _fill(self) -> None:
        while self._ready and self._slots > 0:
            node = heappop(self._ready) & ((1 << _NODE_BITS) - 1)
            pool = self._work.pool_of.get(node) if self._work.pool_of else None
            if pool is not None:
                if self._free[pool] <= 0:
                    self._waiting.setdefault(pool, deque()).append(node)
                    continue
                self._free[pool] -= 1
            self._start(node)

    def _give_back(self, pool: str) -> None:
        self._free[pool] += 1
        line = self._waiting.get(pool)
        if line:
            # It stood in line before what is ready now.
            heappush(self._ready, -1 << _NODE_BITS | line.popleft())

    def _start(self, node: int) -> None:
        self._slots -= 1
        self._has_slot[node] = 1
        heappush(self.events, (self.now + self._durations.get(node, 0.0), node))


def quantiles(ends: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Return what so large shares of the ends, 0 to 1, do not exceed."""
    last = len(ends) - 1
    return ends[round(low * last)], ends[round(high * last)]
