"""A workflow on the real engine, with simulated workers and a clock of its own: what estimates are compared with.

Workers take messages in the order in which they were published, each one at a time.
"""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from random import Random

from dyrygentd.core.effects import Batch
from dyrygentd.core.engine import Engine
from dyrygentd.core.estimate import Estimate, estimate
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskReported, TaskSucceeded, WorkflowSubmitted
from dyrygentd.core.graph import Graph
from dyrygentd.core.limits import Limits
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.policy import PLAIN_WORKFLOW, WorkflowPolicy
from dyrygentd.core.pools import Pools
from dyrygentd.core.remaining import Plan, remaining_of
from dyrygentd.core.run_times import RunTimes
from dyrygentd.core.states import NodeState
from dyrygentd.core.workflow import RunningWorkflow

#: Returns how long a task takes, in seconds; a negative number if it fails after so long.
Seconds = Callable[[Signature], float]


class _OneQueue:
    """Everything goes to one queue."""

    looks_at_input = False

    def destination_of(self, signature: Signature, given: bytes | None) -> str:
        """Return its name."""
        return "q"


class SimulatedRun:
    """One engine, and workers that take time.

    Args:
        workers: How many tasks run at a time.
        tells: Whether workers tell when they begin a task.
    """

    def __init__(
        self,
        seconds: Seconds,
        *,
        workers: int,
        tells: bool = False,
        limits: Limits | None = None,
        pools: dict[str, int] | None = None,
        queue_limits: dict[str, int] | None = None,
    ) -> None:
        self.now = 1_000_000.0
        self.engine = Engine(
            limits or Limits(),
            pools=Pools(pools or {}, queue_limits=queue_limits, queue_of=lambda _: "q"),
            queue_of=lambda _: "q",
            routing=_OneQueue(),
        )
        self.workflow: RunningWorkflow | None = None
        self._seconds = seconds
        self._free = workers
        self._tells = tells
        self._queue: deque[tuple[str, Signature]] = deque()
        self._running: list[tuple[float, int, str, bool]] = []
        self._order = count()

    @property
    def run_times(self) -> RunTimes:
        """What was measured."""
        return self.engine.counting.run_times

    def run(self, graph: Graph, workflow_id: str = "w", policy: WorkflowPolicy = PLAIN_WORKFLOW) -> Iterator[RunningWorkflow]:
        """Submit a workflow, and yield it whenever a task has ended, until it has finished or nothing goes on by itself."""
        workflow = self.submit(graph, workflow_id, policy)
        while not workflow.state.is_finished and self._wait():
            yield workflow

    def run_until(self, graph: Graph, ended: int, policy: WorkflowPolicy = PLAIN_WORKFLOW) -> RunningWorkflow:
        """Submit a workflow, and run it until so many of its tasks have succeeded."""
        for workflow in self.run(graph, policy=policy):
            if workflow.nodes.counts[NodeState.SUCCEEDED] >= ended:
                return workflow
        raise AssertionError(f"fewer than {ended} tasks have succeeded")

    def submit(self, graph: Graph, workflow_id: str = "w", policy: WorkflowPolicy = PLAIN_WORKFLOW) -> RunningWorkflow:
        """Submit a workflow, and let no time pass."""
        self.engine.handle(WorkflowSubmitted(workflow_id, workflow_id, graph, b"{}", policy=policy), self.now)
        self.workflow = self.engine.workflows[workflow_id]
        self._take_turn()
        return self.workflow

    def _wait(self) -> bool:
        """Let time pass until something happens; tell whether anything did."""
        deadline = self.engine.next_deadline()
        ends_at = self._running[0][0] if self._running else None
        if deadline is None and ends_at is None:
            return False
        if ends_at is None or (deadline is not None and deadline < ends_at):
            self.now = max(self.now, deadline or 0.0)
        else:
            self.now, _, task_id, is_good = heappop(self._running)
            self._free += 1
            event = TaskSucceeded(task_id, b"null") if is_good else TaskFailed(task_id, "OSError: no", exception="OSError")
            self.engine.handle(event, self.now)
        self._take_turn()
        return True

    def _take_turn(self) -> None:
        batch: Batch = self.engine.take_batch(self.now)
        for message in batch.publish:
            self._queue.append((message.task_id, message.signature))
            self.engine.handle(MessagePublished(message.task_id), self.now)
        while self._queue and self._free:
            task_id, signature = self._queue.popleft()
            self._free -= 1
            if self._tells:
                self.engine.handle(TaskReported(task_id, "STARTED"), self.now)
            seconds = self._seconds(signature)
            heappush(self._running, (self.now + abs(seconds), next(self._order), task_id, seconds >= 0))

    def estimate(self, seed: int = 1) -> Estimate:
        """Return how long the workflow goes on, as it is estimated now."""
        workflow = self.workflow
        assert workflow is not None
        plan = Plan(workflow.graph, self.engine.pools.places_of)
        left = remaining_of(
            workflow,
            counting=self.engine.counting,
            pools=self.engine.pools,
            in_flight=self.engine.flights.in_flight_count,
            in_flight_max=self.engine.limits.in_flight_max,
            now=self.now,
        )
        return estimate(plan, left, self.run_times.view(plan.tasks), Random(seed))
