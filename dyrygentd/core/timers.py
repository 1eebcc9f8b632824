"""When to look at a node or a workflow again: holds, timeouts, starts and deadlines, in one heap.

A timer is never taken out before its time. Whoever it wakes looks whether its time has come, so one too many does no harm, and
one that is missing is a node that waits for ever: `check` finds it.
"""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from dyrygentd.core.states import IN_FLIGHT
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken

#: In a timer, in the place of a node: it is the workflow's start or deadline.
WORKFLOW_TIMER: Final = -1
#: Timers are sorted out when there are more than this and more than twice as many as after the last time.
_TIMERS_MIN: Final = 10_000


class Timers:
    """Times at which something is due. Guards: whatever a time is to end has a timer of that time.

    Args:
        workflows: Those in progress, as the engine has them.
        least: As long as there are no more, none is sorted out.
    """

    __slots__ = ("_heap", "_least", "_most", "_workflows")

    def __init__(self, workflows: Mapping[str, RunningWorkflow], *, least: int = _TIMERS_MIN) -> None:
        self._workflows = workflows
        self._least = least
        self._heap: list[tuple[float, str, int]] = []
        self._most = least

    def __repr__(self) -> str:
        return f"<Timers timers={len(self._heap)}>"

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float | None:
        """When the first is due; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def set(self, at: float, workflow: RunningWorkflow, node: int) -> None:
        """Have a node looked at, or its workflow if it is `WORKFLOW_TIMER`."""
        heappush(self._heap, (at, workflow.workflow_id, node))
        if len(self._heap) > self._most:
            # Most timers of timeouts outlive their task, and verbs set some again that are set already.
            self._heap = [timer for timer in set(self._heap) if self._is_meant(timer)]
            heapify(self._heap)
            self._most = max(self._least, 2 * len(self._heap))

    def set_timeout(self, workflow: RunningWorkflow, node: int) -> None:
        """Have a node in flight looked at when its time is over, if it has one."""
        timeout_s = workflow.timeout_s(node)
        if timeout_s:
            self.set(workflow.attempts.dispatched_at[node] + timeout_s, workflow, node)

    def set_of_workflow(self, workflow: RunningWorkflow) -> None:
        """Have a workflow looked at when it begins, and at its deadline; one that waits for another run has neither."""
        if workflow.start.behind:
            return
        if not workflow.has_begun:
            self.set(workflow.policy.start_at, workflow, WORKFLOW_TIMER)
        if workflow.deadline_at:
            self.set(workflow.deadline_at, workflow, WORKFLOW_TIMER)

    def take_due(self, now: float) -> tuple[RunningWorkflow, int] | None:
        """Take one timer whose time has come, of a workflow that goes on; None if there is no more."""
        while self._heap and self._heap[0][0] <= now:
            _, workflow_id, node = heappop(self._heap)
            workflow = self._workflows.get(workflow_id)
            # One that has finished in this turn stays until the batch is taken, and keeps its end.
            if workflow is not None and not workflow.state.is_finished:
                return workflow, node
        return None

    def clear(self) -> None:
        """Forget all: the clock was set."""
        self._heap.clear()

    def check(self, workflow: RunningWorkflow) -> None:
        """Raise `InvariantBroken` if a workflow waits for a time that nobody looks at. For tests: it reads all timers."""
        due = [(hold.until, node) for node, hold in workflow.holds.items() if hold.until]
        due += [] if workflow.has_begun or workflow.start.behind else [(workflow.policy.start_at, WORKFLOW_TIMER)]
        if not due:
            return
        timers = {(at, node) for at, workflow_id, node in self._heap if workflow_id == workflow.workflow_id}
        missing = [node for at, node in due if (at, node) not in timers]
        if missing:
            raise InvariantBroken(f"{workflow!r} waits for times that nobody looks at, of nodes {missing}")

    def _is_meant(self, timer: tuple[float, str, int]) -> bool:
        at, workflow_id, node = timer
        workflow = self._workflows.get(workflow_id)
        if workflow is None:
            return False
        if node == WORKFLOW_TIMER:
            return at in (workflow.policy.start_at, workflow.deadline_at)
        hold = workflow.holds.get(node)
        if hold is not None:
            return hold.until == at
        return workflow.state_of(node) in IN_FLIGHT and workflow.attempts.dispatched_at[node] + workflow.timeout_s(node) == at
