"""What is left of a workflow, as estimates need it: copied in one go from what changes, so that a thread may go over it.

What depends on the graph alone is a `Plan`, made once. The rest is a `Remaining`, taken anew for each estimate; that copies flat
arrays, which takes a fraction of a millisecond for 100,000 nodes.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from typing import Final

from dyrygentd.core.counting import Counting
from dyrygentd.core.destination import queue_of
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.node_states import FIRST_FINISHED
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.policy import PLAIN, Hook, Retry, Rule, SectionEnd
from dyrygentd.core.pools import Pools
from dyrygentd.core.states import IN_FLIGHT, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow

#: Why a node waits for a person.
FOR_PERSONS: Final = frozenset({HoldReason.GATE, HoldReason.OPERATOR, HoldReason.LOST})
_IS_OPEN: Final = bytes(state < FIRST_FINISHED for state in range(256))
#: Persons that are named; more are a number.
_PERSONS_MAX: Final = 5
#: So many failures in a row are no bad luck: what fails half the time does so once in a thousand times.
_HOPELESS: Final = 10
#: Causes, and nodes of each, that are looked at for that.
_LOOKED_AT_MAX: Final = 20


class Plan:
    """What estimates need of a graph, made once.

    Args:
        places_of: Returns the size of a pool, None if it has none.

    Attributes:
        order: The nodes, each after what it depends on.
        tasks: Names of the tasks.
        task_of: The number of each node's task among these; -1 of what has none.
        sleeps: ``{node: seconds}`` that go by before it ends, or before it is dispatched.
        named_times: ``{node: Unix time}`` before which it is not dispatched.
        gates: Nodes that wait for a release.
        unlikely: Nodes that do not run if all goes well: hooks of a failure, and what cleans up.
        pools: ``{node: name}`` of the pools that have a size.
        places: ``{name of a pool: its size}``.
        retries: ``{node: policy}`` of nodes that have one of their own.
        polls: ``{node: seconds}`` between two looks.
        children: Nodes that are done by workflows of their own.
    """

    def __init__(self, graph: Graph, places_of: Callable[[str], int | None] = lambda name: None) -> None:
        self.graph = graph
        self.order = graph.topological_order()
        numbers: dict[str, int] = {}
        self.task_of = array("i", [-1]) * len(graph)
        self.sleeps: dict[int, float] = {}
        self.named_times: dict[int, float] = {}
        for node, signature in enumerate(graph.signatures):
            if signature is not None:
                self.task_of[node] = numbers.setdefault(signature.task, len(numbers))
                if signature.countdown_s > 0:
                    self.sleeps[node] = signature.countdown_s
                if signature.eta_at:
                    self.named_times[node] = signature.eta_at
        self.tasks = [*numbers]
        self.gates: set[int] = set()
        self.unlikely: set[int] = set()
        self.pools: dict[int, str] = {}
        self.places: dict[str, int] = {}
        self.retries: dict[int, Retry] = {}
        self.polls: dict[int, float] = {}
        self.children: set[int] = set()
        self._read_policies()
        sizes = {name: places_of(name) for name in dict.fromkeys(self.pools.values())}
        self.places = {name: size for name, size in sizes.items() if size is not None}
        self.pools = {node: name for node, name in self.pools.items() if name in self.places}

    def __repr__(self) -> str:
        return f"<Plan nodes={len(self.graph)} tasks={len(self.tasks)}>"

    def _read_policies(self) -> None:
        for node, policy in self.graph.policies.items():
            if policy.sleep_s:
                self.sleeps[node] = policy.sleep_s
            if policy.is_gate:
                self.gates.add(node)
            if policy.child is not None:
                self.children.add(node)
            if policy.pool:
                self.pools[node] = policy.pool
            if policy.retry is not None:
                self.retries[node] = policy.retry
            if policy.poll_every_s:
                self.polls[node] = policy.poll_every_s
            fails_first = policy.hook is Hook.FAILURE or policy.section_end is SectionEnd.FAILURE
            if fails_first or policy.rule is Rule.ANY_FAILED:
                self.unlikely.add(node)


@dataclass(frozen=True, slots=True)
class Remaining:
    """How a workflow stood at one time; nothing in it changes.

    Attributes:
        sections: How much is open in each scope of sections for whose ends somebody waits.
        begun_at: ``{node: Unix time}`` when the nodes in flight began, as workers or lines tell; 0 of those that are in a queue.
        slots: How many tasks run at a time in the queues of its tasks, where that is known; 0 if it is not.
        until: ``{node: Unix time}`` when nodes that are held, or wait for another attempt, go on by themselves.
        persons: Nodes that wait for a person, in their order: the first few.
        person_count: How many there are.
        polling_since: ``{node: Unix time}``.
        failing: Nodes that have failed so often in a row that nobody can tell when they are good, the first few.
        retry: Of nodes that have no policy of their own.
        in_flight_max: How many of its tasks may be in flight, of all that may be those that others leave.
        limit: What sets that bound.
        used: ``{pool: places taken}``, by all workflows.
        queues: ``{task: (pool, size)}`` of tasks whose queue has a limit.
        children: ``{node: (least, most)}``: in so many seconds the workflows end that do the work of nodes.
        vague: Nodes of whose workflows nobody can tell when they end, the first few.
    """

    state: WorkflowState
    now: float
    start_at: float
    states: bytes
    unmet: "array[int]"
    sections: Sequence[int]
    dispatched_at: "array[float]"
    finished_at: "array[float]"
    begun_at: Mapping[int, float]
    slots: float
    until: Mapping[int, float]
    persons: Sequence[int]
    person_count: int
    polling_since: Mapping[int, float]
    failing: Sequence[int]
    retry: Retry | None
    in_flight_max: int
    limit: str
    used: Mapping[str, int]
    queues: Mapping[str, tuple[str, int]]
    children: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    vague: Sequence[int] = ()

    def open_nodes(self) -> list[int]:
        """Return the nodes that have not finished."""
        return [*compress(range(len(self.states)), self.states.translate(_IS_OPEN))]


def remaining_of(
    workflow: RunningWorkflow, *, counting: Counting, pools: Pools, in_flight: int, in_flight_max: int, now: float
) -> Remaining:
    """Copy what is left of a workflow.

    Args:
        counting: Has the lines of the queues.
        in_flight: Tasks of all workflows that are in flight.
        in_flight_max: How many may be.
    """
    nodes, attempts = workflow.nodes, workflow.attempts
    until = {node: hold.until for node, hold in workflow.holds.items() if hold.until}
    persons = [node for node, hold in workflow.holds.items() if hold.reason in FOR_PERSONS]
    persons += [node for node in workflow.on_hold if node not in workflow.holds]
    own = workflow.policy.in_flight_max
    left = max(1, in_flight_max - (in_flight - nodes.in_flight_count))
    return Remaining(
        state=workflow.state,
        now=now,
        start_at=0.0 if workflow.has_begun else workflow.policy.start_at,
        states=bytes(nodes.states),
        unmet=nodes.unmet[:],
        sections=() if nodes.sections is None else tuple(nodes.sections.open),
        dispatched_at=attempts.dispatched_at[:],
        finished_at=nodes.finished_at[:],
        begun_at={node: _begun_at(workflow, node, counting) for node in nodes.all_in(*IN_FLIGHT)},
        slots=_slots(workflow, counting),
        until=until,
        persons=sorted(persons)[:_PERSONS_MAX],
        person_count=len(persons),
        polling_since=dict(attempts.polling_since),
        failing=_failing(workflow),
        retry=workflow.policy.retry,
        in_flight_max=min(own, left) if own else left,
        limit="the workflow's `in_flight_max`" if own and own <= left else "`in_flight_max`",
        used=dict(pools.used()) if pools else {},
        queues=_limited_queues(workflow, pools),
    )


def _failing(workflow: RunningWorkflow) -> list[int]:
    """Return nodes that no run of chance would say anything of."""
    loops = islice(workflow.attempts.tried_again.loops.values(), _LOOKED_AT_MAX)
    often = ((node, cause) for cause in loops for node in islice(cause.often, _LOOKED_AT_MAX))
    return [*islice((node for node, cause in often if cause.failures[node] >= _HOPELESS), _PERSONS_MAX)]


def _limited_queues(workflow: RunningWorkflow, pools: Pools) -> dict[str, tuple[str, int]]:
    """Return the pools that queues with a limit are, by the tasks that go there, as far as one was sent already."""
    found: dict[str, tuple[str, int]] = {}
    for task, destination in workflow.attempts.routes.items() if pools else ():
        for name in pools.needed_by(Signature(task), PLAIN, destination):
            found[task] = name, pools.places_of(name) or 1
    return found


def _begun_at(workflow: RunningWorkflow, node: int, counting: Counting) -> float:
    """Return when a node in flight began: as a worker tells, else as its line does, else when it was sent."""
    attempts = workflow.attempts
    since, told_at, number = attempts.dispatched_at[node], attempts.begun_at.get(node, 0.0), attempts.in_line.get(node)
    if told_at >= since or number is None:
        return max(told_at, since)
    return counting.line_of(workflow, node).begun_at(number, since)


def _slots(workflow: RunningWorkflow, counting: Counting) -> float:
    """Return how many run at a time where this workflow's tasks go, if all of these queues are known."""
    known = counting.lines.slots()
    queues = {queue_of(destination) for destination in workflow.attempts.routes.values()}
    return sum(known[queue] for queue in queues) if queues and queues <= known.keys() else 0.0
