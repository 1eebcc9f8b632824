"""Which tasks are in flight, for which node, with which places in pools, and which are watched on after that.

*In flight* is not a counter but a table, ``{task id: (workflow, node)}``, so a place can neither leak nor be given twice. It
is also the routing of results: a task id that is not in it is late, doubled or foreign; it is counted and changes nothing but the
note of what was late. What was cancelled while in flight is watched on for a while, and revoked again, since a worker that was
away does not know. What was taken for lost is watched on as well: nobody can be sure, and if it ends all the same before another
attempt was sent, that is the node's end.

Ids from outside are judged before a workflow is taken in (`dyrygentd.scheduler.door`). Should a node come all the same with an id
that another one holds, it fails by name, and the one in place is not touched: letting it go would mix up two results.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from dyrygentd.core import outcomes
from dyrygentd.core.counting import Counting
from dyrygentd.core.deliveries import Deliveries
from dyrygentd.core.effects import Batch, Revoke
from dyrygentd.core.ids import ALL_MADE, OF_OLD, Claims
from dyrygentd.core.late import LateTask, LateTasks
from dyrygentd.core.notes import Failure
from dyrygentd.core.policy import FailureKind
from dyrygentd.core.pools import Pools
from dyrygentd.core.timers import Timers
from dyrygentd.core.turn import Turn
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken


class Flights:
    """Tasks by id. Guards: each is in flight for one node, or late, never both; in flight it has its places in pools.

    Attributes:
        by_id: ``{task id: (workflow, node)}`` of what is in flight; not to be changed from outside.
        pools: Named pools and limits of queues.
        late: Tasks that are watched although their nodes have gone on without them.
        claims: Who holds the task ids that came from outside.
        deliveries: How often tasks in flight were given out.
    """

    def __init__(
        self, turn: Turn, workflows: Mapping[str, RunningWorkflow], *, pools: Pools, timers: Timers, counting: Counting
    ) -> None:
        self._turn = turn
        self._workflows = workflows
        self._timers = timers
        self._counting = counting
        self.by_id: dict[str, tuple[RunningWorkflow, int]] = {}
        self.late = LateTasks()
        self.claims = Claims()
        self.deliveries = Deliveries()
        self.pools = pools
        self.has_pools = bool(pools)
        self._taken: dict[str, tuple[str, ...]] = {}
        # In the order of what happened: a set's order of names is another one in each process.
        self._freed: dict[str, None] = {}
        self._open: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<Flights in_flight={len(self.by_id)} {self.late!r} {self.pools!r}>"

    def check(self) -> None:
        """Raise `InvariantBroken` if a task is in flight and late, or late ones are counted wrongly. For tests."""
        self.late.check(self.by_id)

    # --- who has a place --------------------------------------------------------------------------------------------

    @property
    def in_flight_count(self) -> int:
        """Number of tasks in the broker or at workers."""
        return len(self.by_id)

    def is_in_flight(self, task_id: str) -> bool:
        """Tell whether a result for this task id would still change something."""
        return task_id in self.by_id

    def in_flight(self) -> Iterator[tuple[str, RunningWorkflow, int]]:
        """Iterate over ``(task id, workflow, node)``."""
        for task_id, (workflow, node) in self.by_id.items():
            yield task_id, workflow, node

    def holder_of(self, task_id: str) -> str | None:
        """Return the workflow to which a task id belongs that came from outside, or whose task is in flight or watched on."""
        place, late = self.by_id.get(task_id), self.late.get(task_id)
        if place is not None:
            return place[0].workflow_id
        return self.claims.holder(task_id) or (None if late is None else late.workflow_id)

    def holders_of(self, pool: str) -> list[tuple[RunningWorkflow, int]]:
        """Return ``(workflow, node)`` of those that have the places of a pool, or of a queue with a limit."""
        return [self.by_id[task_id] for task_id, pools in self._taken.items() if pool in pools]

    def are_held(self, task_ids: Sequence[str]) -> bool:
        """Tell whether `holder_of` would name a workflow for any of these."""
        # Of thousands of ids nearly all are held by nobody: dicts are asked, and no methods.
        tables = (self.by_id, self.late.by_id, self.claims.by_id)
        return any(not table.keys().isdisjoint(task_ids) for table in tables if table)

    # --- places taken and given back --------------------------------------------------------------------------------

    def begin(self, workflow: RunningWorkflow, node: int, task_id: str, now: float) -> bool:
        """Give a node its place in flight, and tell whether it has one: a node whose id another one holds has failed."""
        if task_id in self.by_id or ((self.late.by_id or self.claims.by_id) and self._is_anothers(task_id, workflow)):
            error = f"task id '{task_id}' belongs to a node of workflow '{self.holder_of(task_id)}'"
            outcomes.failed(workflow, node, Failure(error, FailureKind.REFUSED), now)
            self._turn.touch(workflow)
            return False
        if self.late.by_id:
            self.late.drop(task_id)
        self.by_id[task_id] = (workflow, node)
        if self.has_pools:
            pools = self._taken[task_id] = self.pools_of(workflow, node, workflow.attempts.destination_of(node))
            self.pools.take(pools)
        self._turn.batch.watch.append(task_id)
        self._timers.set_timeout(workflow, node)
        return True

    def claim(self, workflow: RunningWorkflow) -> None:
        """Hold the ids of a workflow that came from outside. One taken in before, the older one, keeps what both have."""
        if workflow.attempts.ids == ALL_MADE or self.claims.has(workflow.workflow_id):
            return
        self.claims.claim(workflow.workflow_id, workflow.graph.task_ids)
        if workflow.attempts.ids == OF_OLD:
            for node in range(len(workflow.graph)):
                self.claims.claim(workflow.workflow_id, workflow.attempts.held_ids(node))

    def land(self, task_id: str, now: float) -> None:
        """Free the place of a task that has ended, if it has one."""
        place = self.by_id.pop(task_id, None)
        if place is not None:
            if place[1] in place[0].attempts.in_line:
                self._counting.task_left(*place, now)
            self._turn.batch.unwatch.append(task_id)
            self.deliveries.forget(task_id)
            if self.has_pools:
                self._free_pools(task_id)

    def give_up(self, workflow: RunningWorkflow, nodes: list[int], now: float, *, terminate: bool) -> None:
        """Give up tasks that are in flight: revoke them, and watch for what they do all the same."""
        for node in nodes:
            task_id, signature = workflow.attempts.task_id_of(node), workflow.graph.signatures[node]
            assert signature is not None
            if self.by_id.get(task_id, (workflow, node)) != (workflow, node):
                continue  # It belongs to another node, whose task this is.
            revoke = Revoke(task_id, workflow.attempts.of(node), signature, terminate, workflow.attempts.destination_of(node))
            self._turn.batch.revoke.append(revoke)
            if self.by_id.pop(task_id, None) is not None:
                self._counting.task_left(workflow, node, now)
                self.deliveries.forget(task_id)
                self._free_pools(task_id)
                self.watch_late(workflow, node, task_id, now, revoke)
        if nodes:
            self.late.begin_revoking(now)

    def set_aside(self, workflow: RunningWorkflow, error: Exception, now: float) -> None:
        """End a workflow that contradicts itself; a bug that it met must not end the others as well."""
        self._counting.counters.broken += 1
        workflow.set_aside(as_broken(error).message, now)
        for task_id in [task_id for task_id, (owner, _) in self.by_id.items() if owner is workflow]:
            self.land(task_id, now)
        self._turn.touch(workflow)

    def _is_anothers(self, task_id: str, workflow: RunningWorkflow) -> bool:
        """Tell whether another workflow, that has not finished in this turn, holds an id, or has its task watched on."""
        late = self.late.get(task_id)
        if late is not None and late.workflow_id != workflow.workflow_id:
            return True
        holder = self.claims.holder(task_id)
        if holder is None or holder == workflow.workflow_id:
            return False
        other = self._workflows.get(holder)
        return other is None or not other.state.is_finished

    # --- late tasks -------------------------------------------------------------------------------------------------

    def is_late(self, task_id: str) -> bool:
        """Tell whether a task is watched although its node has gone on without it."""
        return task_id in self.late

    def is_given_up(self, task_id: str) -> bool:
        """Tell whether a task was revoked while it was in flight, and its end has not been seen since."""
        return self.late.is_given_up(task_id)

    def given_up_count(self, workflow_id: str) -> int:
        """Return how many of a workflow's tasks are."""
        return self.late.given_up_count(workflow_id)

    def has_late(self, workflow_id: str) -> bool:
        """Tell whether any of a workflow's tasks is."""
        return self.late.has(workflow_id)

    def late_tasks(self) -> Iterator[tuple[RunningWorkflow, int]]:
        """Iterate over tasks that are watched although their nodes have gone on without them, the newest first."""
        for late in self.late.newest_first():
            workflow = self.known(late.workflow_id)
            if workflow is not None:
                yield workflow, late.node

    def known(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow that is unfinished, or has finished and still has tasks that are watched."""
        return self._workflows.get(workflow_id) or self.late.resting(workflow_id)

    def watch_late(self, workflow: RunningWorkflow, node: int, task_id: str, now: float, revoke: Revoke | None = None) -> None:
        """Watch a task on although its node goes on without it."""
        self.late.note(task_id, LateTask(workflow.workflow_id, node, now + self._turn.limits.late_watch_s, revoke))
        self._turn.batch.unwatch += self.late.drop_beyond(self._turn.limits.late_max)

    def drop_landed(self, batch: Batch) -> None:
        """Keep what a turn both began and ended out of its batch, and watched what is in flight anew."""
        batch.watch = [task_id for task_id in batch.watch if self._is_watched(task_id)]
        batch.publish = [message for message in batch.publish if message.task_id in self.by_id]
        batch.unwatch = [task_id for task_id in batch.unwatch if not self._is_watched(task_id)]

    def _is_watched(self, task_id: str) -> bool:
        return task_id in self.by_id or task_id in self.late.by_id

    # --- pools ------------------------------------------------------------------------------------------------------

    def pools_of(self, workflow: RunningWorkflow, node: int, destination: str) -> tuple[str, ...]:
        """Return the pools of which a node needs a place."""
        signature = workflow.graph.signatures[node]
        return () if signature is None else self.pools.needed_by(signature, workflow.graph.policy(node), destination)

    def call_freed(self, now: float) -> None:
        """Let those go on who stand in line for places that were freed."""
        if self._freed:
            self._open |= self._freed
            self._call_to(self._freed, now)
            self._freed.clear()

    def call_open(self, now: float) -> bool:
        """Let those go on who stand in line for pools that have places all the same; tell whether there was anybody."""
        return bool(self._open) and self._call_to(self._open, now)

    def wait_for(self, full: str, needed: tuple[str, ...], workflow: RunningWorkflow, now: float) -> None:
        """Have the node that is next in a workflow stand in line for a pool that is full."""
        self.pools.wait(full, workflow.workflow_id, workflow.park(full, now))
        self._open.update(dict.fromkeys(pool for pool in needed if pool != full and self.pools.is_callable(pool)))

    def _free_pools(self, task_id: str) -> None:
        pools = self._taken.pop(task_id, ())
        if pools:
            self.pools.give_back(pools)
            self._freed.update(dict.fromkeys(pools))
            self._turn.is_urgent |= any(self.pools.is_waited_for(pool) for pool in pools)

    def _call_to(self, pools: Iterable[str], now: float) -> bool:
        """Let those go on who stand in line for a pool that has places; tell whether there was anybody."""
        is_anybody = False
        for pool in pools:
            for workflow_id, node in self.pools.called(pool):
                is_anybody = True
                workflow = self._workflows[workflow_id]
                workflow.unpark(node, now)
                self._turn.touch(workflow)
        self._open = {pool: None for pool in self._open if self.pools.is_callable(pool)}
        return is_anybody


def as_broken(error: Exception) -> InvariantBroken:
    """Return an unexpected error as what it is: a bug of ours, and where it is."""
    if isinstance(error, InvariantBroken):
        return error
    place, step = "", error.__traceback__
    while step is not None:
        place, step = f"{step.tb_frame.f_code.co_name}:{step.tb_lineno}", step.tb_next
    return InvariantBroken(f"unexpected {type(error).__name__}: {error} (in {place})")
