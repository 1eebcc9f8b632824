"""When a workflow will be done, as a range, and what bounds it. Pure: what is left goes in, and a generator of chance.

*The range* is that of `dyrygentd.core.likely_ends`. *What bounds it* is whatever would take longest on its own: the longest path
through what is left, with as many tasks at a time as one likes; all of the work, with as many tasks at a time as of late; a pool,
with its places.

*How many tasks run at a time* is not known to anybody but the workers, and follows from what has ended: the run times of what has
ended lately, by the time that this took (Little's law). If the measured times are too long, this number is too large, and the two
cancel out. As long as the workers had less to do than they could, it may be more: anything between that and as many as ever ran,
or the limit.

*Where nothing is known, nothing is told.* Of a task of which none has ended one or two others say nothing, and more of them
little: the range may be from a second to hours. Then the task is named instead. What fails again and again has no end that
could be told.

*What is done by a workflow of its own* ends as that one's estimate says. Of one that has not begun nobody knows how much it will
be, and nothing is told.

*For a person nobody can tell.* What needs one (a gate ahead, a node that an operator holds, a lost task) makes the end unknown;
how long the rest takes is told in words.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from heapq import nlargest
from itertools import compress
from math import sqrt
from random import Random
from typing import Final

from dyrygentd.core.likely_ends import Work, likely_ends, quantiles, rest_s
from dyrygentd.core.remaining import Plan, Remaining
from dyrygentd.core.run_times import RunTime, mixed
from dyrygentd.core.states import NodeState, WorkflowState

#: Ends by which it is told how many tasks run at a time.
_ENDS: Final = 300
#: If so many times as many tasks are to run as do, or they are in flight for so many times as long as they run, workers are busy.
_BUSY: Final = 1.3
#: By how much the number of those that run at a time may differ from what it was.
_SLACK: Final = 0.15
_PREFERRED: Final = 1.2
#: Shares of the runs that end before the range and within it.
_LOW, _HIGH = 0.05, 0.95
#: What no run knows of: the daemon's own time, and what has never happened yet.
_MARGIN: Final = 0.08
#: Of a task that does not matter, as nothing is known of any.
_NOTHING: Final = RunTime((0.0, 0.0), (1.0, 2.0), 0.0, 0.0, 1.0, 0.0)
#: Different tasks from whose times those of others can be guessed.
_SAMPLE: Final = 3
#: From so many times as long, and so many seconds longer, a range says nothing, if not all tasks are known.
_TOO_WIDE, _TOO_LONG_S = 20.0, 60.0
#: Nodes of the path that are told.
PATH_MAX: Final = 50


class Bound(StrEnum):
    """What a workflow's end depends on."""

    PATH = "path"
    WORKERS = "workers"
    POOL = "pool"
    LIMIT = "limit"
    PERSON = "person"
    TIME = "time"
    FAILING = "failing"
    UNKNOWN = "unknown"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a workflow goes on.

    Attributes:
        low_s, high_s: In so many seconds it ends, or what does not need a person; None if nobody can tell.
        name: Of what bounds it: a pool, a limit, the node that waits for a person or a time, or keeps failing; the task of which
            nothing is known, or the node of whose workflow nothing is.
        is_of_child: Whether that is such a node.
        slots: How many of its tasks run at a time, 0 if that is not known.
        known: The share of the open tasks whose run times were measured, 0 to 1.
        path: The longest path through what is left, the first nodes of it.
        path_seconds: How long each of these takes from now, or once it is its turn.
        path_nodes, path_s: How many nodes and seconds it has in all.
        persons: Nodes that wait for a person, or will, the first few.
        person_count: How many there are.
    """

    bound: Bound
    low_s: float | None = None
    high_s: float | None = None
    name: str = ""
    slots: float = 0.0
    known: float = 1.0
    path: Sequence[int] = ()
    path_seconds: Sequence[float] = ()
    path_nodes: int = 0
    path_s: float = 0.0
    persons: Sequence[int] = ()
    person_count: int = 0
    is_of_child: bool = False


def estimate(plan: Plan, left: Remaining, times: Mapping[str, RunTime], chance: Random) -> Estimate:
    """Tell how long a workflow goes on; takes about a second for 100,000 nodes, in short steps.

    Args:
        times: How long tasks take, as far as that is known.
        chance: With the same seed the same is told.
    """
    nodes = left.open_nodes()
    if left.state.is_finished or not nodes:
        return Estimate(Bound.NOTHING, 0.0, 0.0)
    persons = _persons(plan, left)
    anything = mixed(times.values())
    tasks = Counter(plan.task_of[node] for node in nodes)
    open_tasks = sum(tasks.values()) - tasks[-1]
    known = sum(count for task, count in tasks.items() if task >= 0 and plan.tasks[task] in times)
    share = known / open_tasks if open_tasks else 1.0
    lacking, is_all = _lacking(plan, nodes, times)
    if persons[1] or left.state is WorkflowState.PAUSED:
        vague = Estimate(Bound.PERSON, known=share, persons=persons[0], person_count=persons[1])
    else:
        vague = Estimate(Bound.UNKNOWN, name=lacking, known=share)
    if left.failing:
        return (
            vague if vague.bound is Bound.PERSON else replace(vague, bound=Bound.FAILING, name=plan.graph.names[left.failing[0]])
        )
    ahead = [node for node in plan.children if left.states[node] == NodeState.WAITING and node not in plan.unlikely]
    if unknown := [*left.vague, *sorted(ahead)]:
        return vague if vague.bound is Bound.PERSON else replace(vague, name=plan.graph.names[unknown[0]], is_of_child=True)
    if open_tasks and (anything is None or (is_all and len(times) < _SAMPLE)):
        return vague
    by_task = [times.get(task) or anything or _NOTHING for task in plan.tasks]
    work = _work(plan, left, nodes, by_task, [task in times for task in plan.tasks])
    means = _means(work)
    path, path_seconds, path_s = _longest_path(work, means)
    ends = likely_ends(work, chance)
    low_s, high_s = quantiles(ends, _LOW, _HIGH)
    if lacking and high_s > max(_TOO_WIDE * low_s, low_s + _TOO_LONG_S):
        return vague
    wait_s = max(0.0, left.start_at - left.now)
    bound, name = _bound(work, means, path, path_seconds, wait_s)
    return Estimate(
        Bound.PERSON if vague.bound is Bound.PERSON else bound,
        low_s * (1.0 - _MARGIN) + wait_s,
        high_s * (1.0 + _MARGIN) + wait_s,
        name,
        _middle(work),
        share,
        path[:PATH_MAX],
        path_seconds[:PATH_MAX],
        len(path),
        path_s,
        *persons,
    )


def aged(it: Estimate, by_s: float) -> Estimate:
    """Return an estimate as it reads so many seconds after it was made; while a person is waited for no time is used up."""
    if it.low_s is None or it.high_s is None or it.bound is Bound.PERSON:
        return it
    return replace(it, low_s=max(0.0, it.low_s - by_s), high_s=max(0.0, it.high_s - by_s), path_s=max(0.0, it.path_s - by_s))


def _lacking(plan: Plan, nodes: Sequence[int], times: Mapping[str, RunTime]) -> tuple[str, bool]:
    """Return the task of which nothing has ended and most is left, empty if there is none, and whether there are no others.

    What does not run if all goes well does not count.
    """
    wanted = Counter(plan.task_of[node] for node in nodes if node not in plan.unlikely)
    lacking = {plan.tasks[task]: count for task, count in wanted.items() if task >= 0 and plan.tasks[task] not in times}
    return max(lacking, key=lacking.__getitem__, default=""), bool(lacking) and len(lacking) == sum(task >= 0 for task in wanted)


def weights_of(plan: Plan, times: Mapping[str, RunTime]) -> "array[float]":
    """Return how much of the work each node is, in seconds; nothing if no run time is known."""
    anything = mixed(times.values())
    if anything is None:
        return array("f")
    means = [(times.get(task) or anything).mean_s for task in plan.tasks]
    means.append(0.0)  # What has no task has the number -1.
    return array("f", map(means.__getitem__, plan.task_of))


def _persons(plan: Plan, left: Remaining) -> tuple[list[int], int]:
    """Return the nodes that wait for a person, or will, and how many there are."""
    ahead = [node for node in plan.gates if left.states[node] == NodeState.WAITING] if plan.gates else []
    return [*left.persons, *sorted(ahead)][:PATH_MAX], left.person_count + len(ahead)


def _work(plan: Plan, left: Remaining, nodes: Sequence[int], times: Sequence[RunTime], is_known: Sequence[bool]) -> Work:
    states = left.states
    # First what runs, then as it was sent.
    in_flight = sorted(left.begun_at, key=lambda node: (not left.begun_at[node], left.dispatched_at[node]))
    pool_of, free = dict(plan.pools), dict(plan.places)
    for task, (queue, size) in left.queues.items():
        number = plan.tasks.index(task)
        free[queue] = size
        pool_of |= {node: queue for node in nodes if plan.task_of[node] == number and node not in pool_of}
    mine = Counter(pool_of[node] for node in in_flight if node in pool_of)
    for name, size in free.items():
        free[name] = max(1, size - left.used.get(name, 0) + mine[name])
    waits = sum(states[node] == NodeState.READY for node in nodes)
    low, high = _slots(plan, left, times, in_flight, waits)
    return Work(plan, left, nodes, times, is_known, in_flight, pool_of, free, low, high)


def _slots(plan: Plan, left: Remaining, times: Sequence[RunTime], in_flight: Sequence[int], waits: int) -> tuple[float, float]:
    """Return how many tasks run at a time, at least and at most."""
    begun = float(sum(map(bool, left.begun_at.values())))
    limit = float(left.in_flight_max)
    most = min(limit, max(left.slots * (1.0 + _SLACK), begun)) if left.slots else limit
    ended = [*compress(range(len(left.states)), left.finished_at)]
    latest = nlargest(_ENDS, (node for node in ended if left.dispatched_at[node]), key=left.finished_at.__getitem__)
    if not latest:
        return min(max(1.0, begun, left.slots * (1.0 - _SLACK)), most), most
    since, until = min(left.dispatched_at[node] for node in latest), left.finished_at[latest[0]]
    span_s, means = max(until - since, 0.001), [time.mean_s for time in times]
    counted = [node for node in ended if left.dispatched_at[node] and left.finished_at[node] > since]
    ran_s = sum(means[plan.task_of[node]] for node in counted)
    stayed_s = sum(left.finished_at[node] - left.dispatched_at[node] for node in counted)
    slots = min(max(1.0, ran_s / span_s), limit)
    if len(in_flight) + waits > _BUSY * slots or stayed_s > _BUSY * ran_s:
        return max(1.0, slots * (1.0 - _SLACK), begun), min(limit, max(slots * (1.0 + _SLACK), begun))
    return min(max(slots, begun), most), most


def _means(work: Work) -> "array[float]":
    """Return how long each node that is left takes on an average, from now on or once it is its turn, all of it."""
    plan, left, means = work.plan, work.left, array("d", bytes(8 * len(work.left.states)))
    of_task = [time.mean_s / max(0.5, 1.0 - time.failing) if left.retry is not None else time.mean_s for time in work.times]
    for node in work.nodes:
        task = plan.task_of[node]
        if task >= 0 and node not in plan.unlikely:
            means[node] = of_task[task]
    for node in work.in_flight:
        if left.begun_at.get(node):
            means[node] = rest_s(work.times[plan.task_of[node]], work.age_s(node), 0.5)
    return means


def _delays(work: Work) -> dict[int, float]:
    """Return how long nodes are held by times, beside how long they take."""
    plan, left = work.plan, work.left
    delays: dict[int, float] = {node: until - left.now for node, until in left.until.items() if until > left.now}
    delays |= {node: (least + most) / 2.0 for node, (least, most) in left.children.items()}
    for node, seconds in plan.sleeps.items():
        if left.states[node] == NodeState.WAITING:
            delays[node] = seconds
    for node, at in plan.named_times.items():
        if left.states[node] == NodeState.WAITING and at > left.now:
            delays[node] = max(at - left.now, delays.get(node, 0.0))
    return delays


def _longest_path(work: Work, means: "array[float]") -> tuple[list[int], list[float], float]:
    """Return the longest path through what is left, how long each node of it takes, and all of it."""
    plan, states, delays = work.plan, work.left.states, _delays(work)
    is_open = bytearray(len(states))
    for node in work.nodes:
        is_open[node] = 1
    rest, following = array("d", bytes(8 * len(states))), array("i", [-1]) * len(states)
    dependents, ends = plan.graph.dependents, plan.graph.section_ends
    for node in reversed(plan.order):
        if not is_open[node]:
            continue
        most, best = 0.0, -1
        for dependent in dependents(node) if ends is None else [*dependents(node), *ends.following(node)]:
            if is_open[dependent] and rest[dependent] >= most:
                most, best = rest[dependent], dependent
        following[node] = best
        rest[node] = most + means[node] + (delays.get(node, 0.0) if delays else 0.0)
    node = max(work.nodes, key=rest.__getitem__)
    path_s, path = rest[node], []
    while node >= 0:
        if not plan.graph.is_join(node):
            path.append(node)
        node = following[node]
    return path, [means[node] + delays.get(node, 0.0) for node in path], path_s


def _middle(work: Work) -> float:
    return sqrt(work.slots_low * work.slots_high)


def _bound(
    work: Work, means: "array[float]", path: Sequence[int], path_seconds: Sequence[float], wait_s: float
) -> tuple[Bound, str]:
    """Return what would take longest on its own, and its name."""
    names, path_s = work.plan.graph.names, sum(path_seconds)
    held_s = [(seconds - means[node], node) for node, seconds in zip(path, path_seconds, strict=True)]
    longest_s, longest = max(held_s, default=(0.0, -1))
    by_path: tuple[float, Bound, str] = (path_s, Bound.PATH, "")
    if longest_s > path_s / 2.0 and longest not in work.left.children:
        by_path = (path_s, Bound.TIME, names[longest])
    if wait_s > path_s:
        by_path = (wait_s + path_s, Bound.TIME, "")
    slots = _middle(work)
    is_limit = work.slots_low >= 0.9 * work.left.in_flight_max
    by_work = (sum(means) / slots, Bound.LIMIT if is_limit else Bound.WORKERS, work.left.limit if is_limit else "")
    found = [by_work, by_path]
    if work.pool_of:
        in_pools: dict[str, float] = {}
        for node in work.nodes:
            if node in work.pool_of:
                in_pools[work.pool_of[node]] = in_pools.get(work.pool_of[node], 0.0) + means[node]
        # How many run at a time may be what the pool lets run, and is known less well.
        found += [(_PREFERRED * seconds / work.free[pool], Bound.POOL, pool) for pool, seconds in in_pools.items()]
    _, bound, name = max(found, key=lambda each: each[0])
    return bound, name
