"""Workflows of random shape, and what must become of each of their nodes."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from celery import chain, chord, group

from dyrygentd import Workflow
from dyrygentd.canvas import NodeRef, definition_of
from dyrygentd.core.graph import Definition
from dyrygentd.core.policy import Retry, Rule
from tests.support import tasks

#: Those of `tests.faults.world.EARLY` and `LATE`.
QUEUES: Final = ("celery", "late")
#: What no task is to blame for: a child that was killed, and a result that a worker could not store, for which Celery stores
#: the error as the task's own as soon as it can.
_OUTAGES: Final = frozenset({"infrastructure", "ConnectionError", "TimeoutError", "BusyLoadingError", "OperationalError"})
_AGAIN: Final = Retry(attempts=10, backoff_s=0.05, backoff_max_s=0.2, on=_OUTAGES)


def small_workflow(chance: random.Random) -> Definition:
    """Make a workflow of 5 to 40 tasks, all of which succeed, and may be repeated."""
    size = chance.randrange(5, 41)
    return _SMALL[chance.randrange(len(_SMALL))](size, chance)


def _layered(size: int, chance: random.Random) -> Definition:
    workflow = Workflow(f"layered {size}")
    nodes: list[NodeRef] = []
    for _ in range(size):
        after = chance.sample(nodes[-8:], min(len(nodes), chance.randrange(0, 4)))
        nodes.append(workflow.add(tasks.noop.si(), after=after, idempotent=True))
    return definition_of(workflow)


def _values(size: int, chance: random.Random) -> Definition:
    workflow = Workflow(f"values {size}")
    before = workflow.add(tasks.identity.si([1, 2, 3]), idempotent=True)
    for _ in range(size - 1):
        before = workflow.add(tasks.identity.s(), after=before, idempotent=True)
    return definition_of(workflow)


def _chord(size: int, chance: random.Random) -> Definition:
    return definition_of(chord([tasks.add.si(1, 1) for _ in range(size - 1)], tasks.total.s()), name=f"chord {size}")


def _chain(size: int, chance: random.Random) -> Definition:
    return definition_of(chain([tasks.noop.s() for _ in range(size)]), name=f"chain {size}")


def _groups(size: int, chance: random.Random) -> Definition:
    half = size // 2
    canvas = group([tasks.noop.si() for _ in range(half)]) | group([tasks.noop.si() for _ in range(half)])
    return definition_of(canvas, name=f"groups {2 * half}")


_SMALL: Final = (_layered, _layered, _values, _chord, _chain, _groups)


@dataclass(frozen=True, slots=True)
class Planned:
    """A workflow, and what must become of it whatever breaks meanwhile.

    Attributes:
        states: ``{node: state}`` of all nodes with a task.
        idempotent: Nodes that may be tried again without asking, should their task be lost.
        result: The value of its output; None if it has none to look at.
    """

    key: str
    definition: Definition
    states: Mapping[str, str]
    idempotent: frozenset[str]
    result: object = None

    @property
    def state(self) -> str:
        """The workflow's own end."""
        return "succeeded" if set(self.states.values()) <= {"succeeded"} else "failed"


def planned(chance: random.Random, *, key: str, size: int) -> Planned:
    """Make a workflow of this size, and work out its end."""
    return _planned_values(chance, key, size) if chance.random() < 0.3 else _planned_graph(chance, key, size)


def _planned_graph(chance: random.Random, key: str, size: int) -> Planned:
    """Any graph: tasks that succeed, take their time, fail, or fail at first; by the first or the second queue."""
    workflow = Workflow(key)
    nodes: list[NodeRef] = []
    states: dict[str, str] = {}
    idempotent: set[str] = set()
    has_failures = chance.random() < 0.5
    width = chance.choice([1, 3, 8, 30])
    for number in range(size):
        after = chance.sample(nodes[-width:], min(len(nodes[-width:]), chance.randrange(0, 4)))
        kind = chance.choices(["plain", "slow", "failing", "flaky"], [80, 12, 3 if has_failures else 0, 5])[0]
        rule = chance.choices([Rule.ALL_SUCCEEDED, Rule.ALL_FINISHED], [80, 20])[0] if after else Rule.ALL_SUCCEEDED
        retry = _AGAIN
        match kind:
            case "plain":
                signature = tasks.noop.si()
            case "slow":
                signature = tasks.sleep.si(round(chance.uniform(0.02, 0.2), 3))
            case "failing":
                signature = tasks.fail.si("planned")
            case _:
                failures = chance.randrange(1, 3)
                signature = tasks.flaky.si(f"{key}-{number}", failures)
                # Each attempt that was lost takes one of them as well.
                retry = Retry(attempts=failures + 10, backoff_s=0.05, backoff_max_s=0.2)
        signature.set(queue=chance.choice(QUEUES))
        name = f"{kind}-{number}"
        nodes.append(workflow.add(signature, name=name, after=after, rule=rule, retry=retry, idempotent=chance.random() < 0.5))
        if rule is Rule.ALL_SUCCEEDED and any(states[reference.name] != "succeeded" for reference in after):
            states[name] = "blocked"
        else:
            states[name] = "failed" if kind == "failing" else "succeeded"
    return Planned(key, definition_of(workflow, key=key), states, frozenset(idempotent))


def _planned_values(chance: random.Random, key: str, size: int) -> Planned:
    """Values through fans and their sums: what was counted twice, or taken from a forged result, shows in the end."""
    workflow = Workflow(key)
    states: dict[str, str] = {}
    value, before = 1, workflow.add(tasks.identity.si(1).set(queue=QUEUES[0]), name="begin", retry=_AGAIN, idempotent=True)
    states["begin"] = "succeeded"
    idempotent = {"begin"}
    left = size - 1
    while left > 1:
        width = min(left - 1, chance.randrange(1, 9))
        fan = []
        for _ in range(width):
            name = f"add-{left}"
            signature = tasks.add.s(left).set(queue=chance.choice(QUEUES))
            if chance.random() < 0.5:
                idempotent.add(name)
            fan.append(workflow.add(signature, name=name, after=before, retry=_AGAIN, idempotent=name in idempotent))
            states[name] = "succeeded"
            left -= 1
        terms = [value + left + 1 + number for number in range(width)]
        name = f"sum-{left}"
        if width > 1:
            before = workflow.add(tasks.total.s().set(queue=chance.choice(QUEUES)), name=name, after=fan, retry=_AGAIN)
            value = sum(terms)
        else:
            before = workflow.add(tasks.identity.s().set(queue=chance.choice(QUEUES)), name=name, after=fan, retry=_AGAIN)
            value = terms[0]
        states[name] = "succeeded"
        left -= 1
    return Planned(key, definition_of(workflow, key=key), states, frozenset(idempotent), result=value)
