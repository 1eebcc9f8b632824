"""Estimates for whoever looks: made in a thread if the workflow is long, kept for a moment, from run times that a restart knows.

An estimate is made anew if the workflow has changed and the one before is older than ten times as long as it took: whoever asks
all the time has a tenth of a thread. Run times are written down now and then, and at a clean stop; losing the last of them harms
nothing.
"""

import json
import logging
import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import anyio

from dyrygentd import wire
from dyrygentd.beside import in_thread
from dyrygentd.core.engine import Engine
from dyrygentd.core.estimate import Bound, Estimate, aged, estimate, weights_of
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.remaining import Plan, Remaining, remaining_of
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import OutsideError
from dyrygentd.ports import Clock, Store

logger = logging.getLogger("dyrygentd")

RUN_TIMES_NOTE: Final = "run times"
#: Nodes for which an estimate takes some milliseconds, and the hop into a thread would cost as much.
_INLINE_MAX: Final = 20
#: How long an estimate is good for although the workflow goes on; times pass by meanwhile.
_FRESH_S: Final = 1.0
#: The share of the time in which one is made at most.
_SHARE: Final = 0.1
#: Nodes of one workflow whose workflows are estimated with it.
_CHILDREN_MAX: Final = 50
#: Nodes of all workflows whose plans are kept, at some 20 bytes each.
_KEPT_NODES_MAX: Final = 2_000_000
#: How long it is kept how much of the work each node is: run times change slowly.
_WEIGHTS_S: Final = 30.0
_WRITE_EVERY_S: Final = 300.0
#: Tasks of which run times are written down, and bytes of that.
_WRITTEN_MAX: Final = 500
_WRITTEN_BYTES_MAX: Final = 512 * 1024
#: Tasks that are shown.
SHOWN_MAX: Final = 1000
_SEED: Final = 1

T = TypeVar("T")


@dataclass(slots=True)
class _Kept:
    plan: Plan | None = None
    last: Estimate | None = None
    stood: object = None
    at: float = 0.0
    took_s: float = 0.0
    weights: "array[float]" = field(default_factory=lambda: array("f"))
    weighed_at: float = -math.inf


class Estimates:
    """Makes estimates. Guards: one long workflow is estimated at a time, and what is kept is bounded.

    Args:
        engine: Returns the engine that has the workflows.
    """

    def __init__(self, engine: Callable[[], Engine], store: Store, clock: Clock) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        # In the order in which they were asked for last.
        self._kept: WeakKeyDictionary[RunningWorkflow, _Kept] = WeakKeyDictionary()
        self._lock: anyio.Lock | None = None
        self._written_count = 0

    def __repr__(self) -> str:
        return f"<Estimates kept={len(self._kept)} {self._engine().counting.run_times!r}>"

    # --- estimates --------------------------------------------------------------------------------------------------

    async def view(self, workflow: RunningWorkflow) -> wire.EstimateView:
        """Return how long a workflow goes on."""
        kept = self._kept_of(workflow)
        self._lock = self._lock or anyio.Lock()
        if not self._is_good(kept, workflow):
            async with self._lock:
                # Somebody else may have asked meanwhile.
                if not self._is_good(kept, workflow):
                    await self._make(kept, workflow)
        assert kept.last is not None
        # It counts from when the workflow was looked at, and may be told for as long as it took ten times over.
        since_s = time.monotonic() - kept.at
        age_s = kept.took_s + (since_s if since_s > _FRESH_S else 0.0)
        return wire.view_of_estimate(workflow, aged(kept.last, age_s))

    def pass_on(self, before: RunningWorkflow, after: RunningWorkflow) -> None:
        """Keep of a workflow that was read anew what is kept of it as it was; it has the same graph."""
        if (kept := self._kept.pop(before, None)) is not None:
            self._kept[after] = kept

    async def weights(self, workflow: RunningWorkflow) -> "array[float]":
        """Return how much of the work each node of a workflow is, in seconds; nothing if no run time is known."""
        kept = self._kept_of(workflow)
        if time.monotonic() - kept.weighed_at > _WEIGHTS_S:
            plan = kept.plan = kept.plan or await self._plan(workflow)
            times = self._engine().counting.run_times.view(plan.tasks)
            kept.weights = await _in_thread_if_long(len(workflow.graph), weights_of, plan, times)
            kept.weighed_at = time.monotonic()
        return kept.weights

    def run_times(self) -> wire.RunTimesView:
        """Return how long tasks take."""
        known = self._engine().counting.run_times
        names = known.names()
        return wire.view_of_run_times(known.view(names[:SHOWN_MAX]).items(), max(0, len(names) - SHOWN_MAX))

    async def _plan(self, workflow: RunningWorkflow) -> Plan:
        return await _in_thread_if_long(len(workflow.graph), Plan, workflow.graph, self._engine().pools.places_of)

    async def _make(self, kept: _Kept, workflow: RunningWorkflow) -> None:
        plan = kept.plan = kept.plan or await self._plan(workflow)
        begun, kept.stood, count = time.monotonic(), _stand(workflow), len(workflow.graph)
        left = await self._with_children(workflow, self._taken(workflow))
        times = self._engine().counting.run_times.view(plan.tasks)
        kept.last = await _in_thread_if_long(count, estimate, plan, left, times, Random(_SEED))
        kept.at = time.monotonic()
        kept.took_s = kept.at - begun

    async def _with_children(self, workflow: RunningWorkflow, left: Remaining) -> Remaining:
        """Add when the workflows end that do the work of its nodes, of the first few of them."""
        ends: dict[int, tuple[float, float]] = {}
        vague, persons = list[int](), list[int]()
        for node in [*islice((node for node, hold in workflow.holds.items() if hold.reason is HoldReason.CHILD), _CHILDREN_MAX)]:
            child = self._engine().children.child_of(workflow, node)
            if child is None:
                vague.append(node)
                continue
            kept = self._kept_of(child)
            if not self._is_good(kept, child):
                await self._make(kept, child)
            assert kept.last is not None
            it = aged(kept.last, time.monotonic() - kept.at)
            if it.bound is Bound.PERSON or it.person_count:
                persons.append(node)
            elif it.low_s is None or it.high_s is None:
                vague.append(node)
            else:
                ends[node] = it.low_s, it.high_s
        count = left.person_count + len(persons)
        return replace(left, children=ends, vague=vague, persons=[*left.persons, *persons], person_count=count)

    def _taken(self, workflow: RunningWorkflow) -> Remaining:
        engine = self._engine()
        return remaining_of(
            workflow,
            counting=engine.counting,
            pools=engine.pools,
            in_flight=engine.flights.in_flight_count,
            in_flight_max=engine.limits.in_flight_max,
            now=self._clock.now(),
        )

    def _is_good(self, kept: _Kept, workflow: RunningWorkflow) -> bool:
        if kept.last is None:
            return False
        if workflow.state.is_finished:
            return kept.stood == _stand(workflow)
        return time.monotonic() - kept.at < max(_FRESH_S, kept.took_s / _SHARE)

    def _kept_of(self, workflow: RunningWorkflow) -> _Kept:
        """Return what is kept of a workflow from now on; let go of what was asked for longest ago."""
        self._kept[workflow] = kept = self._kept.pop(workflow, None) or _Kept()
        total = 0
        for other in reversed([*self._kept]):
            total += len(other.graph)
            if total > _KEPT_NODES_MAX and other is not workflow:
                del self._kept[other]
        return kept

    # --- over restarts ----------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Read what the last process knew. Raises `StoreUnavailable`."""
        note = await self._store.recall(RUN_TIMES_NOTE)
        if not note:
            return
        try:
            data = json.loads(note)
            self._engine().counting.run_times.read(data)
            self._engine().counting.lines.read({str(queue): float(slots) for queue, slots in data["slots"].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("the run times that were written down cannot be read, and are measured anew: %s", error)
        self._written_count = self._engine().counting.run_times.count

    async def run(self) -> None:
        """Write them down now and then, until cancelled."""
        while True:
            await anyio.sleep(_WRITE_EVERY_S)
            await self.end()

    async def end(self) -> None:
        """Write them down, if anything was measured since."""
        counting = self._engine().counting
        if counting.run_times.count == self._written_count:
            return
        self._written_count = counting.run_times.count
        data = counting.run_times.written(_WRITTEN_MAX) | {"slots": counting.lines.slots()}
        note = await _in_thread_if_long(len(counting.run_times), _bounded, data)
        try:
            await self._store.remember(RUN_TIMES_NOTE, note)
        except OutsideError as error:
            # Whether the database can be written is told by the turns.
            logger.info("run times are not noted: %s", error)


async def _in_thread_if_long(nodes: int, work: Callable[..., T], *arguments: object) -> T:
    return work(*arguments) if nodes <= _INLINE_MAX else await in_thread(work, *arguments)


def _stand(workflow: RunningWorkflow) -> object:
    return workflow.state, tuple(workflow.nodes.counts)


def _bounded(data: dict[str, object]) -> str:
    """Return them as a text that is not too long: those measured last."""
    tasks = data["tasks"]
    assert isinstance(tasks, dict)
    while len(note := json.dumps(data, separators=(",", ":"))) > _WRITTEN_BYTES_MAX:
        for name in [*tasks][len(tasks) // 2 :]:
            del tasks[name]
    return note
