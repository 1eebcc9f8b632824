"""Workflows of random shape, and what must become of each of their nodes."""

import random
from typing import Final

from celery import chain, chord, group

from dyrygentd import Workflow
from dyrygentd.canvas import NodeRef, definition_of
from dyrygentd.core.graph import Definition
from tests.support import tasks


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
