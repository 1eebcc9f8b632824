"""Whose turn it is: a ring of workflows for each priority, each of which gives as many nodes in turn as its weight says."""

from collections import deque
from collections.abc import Iterator
from itertools import takewhile

from dyrygentd.errors import InvariantBroken


class Rings:
    """The ids of the workflows that have something to give. Guards: each stands in one ring, once, and no ring is empty.

    Ids, not objects: a workflow that has left and is brought back from the store while its id stands here keeps its place.
    """

    def __init__(self) -> None:
        self._rings: dict[int, deque[str]] = {}
        self._priority_of: dict[str, int] = {}
        self._turn = ("", 0)

    def __repr__(self) -> str:
        return f"<Rings workflows={len(self._priority_of)} priorities={sorted(self._rings, reverse=True)[:5]}>"

    def __bool__(self) -> bool:
        return bool(self._rings)

    @property
    def first(self) -> str:
        """The workflow whose turn it is, of the highest priority that has any."""
        return self._rings[max(self._rings)][0]

    def priority_of(self, workflow_id: str) -> int | None:
        """Return in which ring a workflow stands."""
        return self._priority_of.get(workflow_id)

    def join(self, workflow_id: str, priority: int) -> None:
        """Have a workflow stand at the end of its ring, if it does not stand there yet."""
        if workflow_id not in self._priority_of:
            self._priority_of[workflow_id] = priority
            self._rings.setdefault(priority, deque()).append(workflow_id)

    def leave(self, workflow_id: str) -> None:
        """Take a workflow out, wherever it stands."""
        priority = self._priority_of.pop(workflow_id, None)
        if priority is not None:
            self._rings[priority].remove(workflow_id)
            if not self._rings[priority]:
                del self._rings[priority]

    def drop_first(self) -> None:
        """Take the workflow out whose turn it is."""
        priority = max(self._rings)
        del self._priority_of[self._rings[priority].popleft()]
        if not self._rings[priority]:
            del self._rings[priority]

    def give(self, weight: int) -> None:
        """Note that the first one gives a node; when it has given as many as its weight, the next one follows."""
        ring = self._rings[max(self._rings)]
        owner, given = self._turn
        given = given + 1 if owner == ring[0] else 1
        self._turn = ring[0], given
        if given >= weight:
            self._turn = ring[0], 0
            ring.rotate(-1)

    def given_by(self, workflow_id: str) -> int:
        """Return how many nodes a workflow has given in its present turn."""
        owner, given = self._turn
        return given if owner == workflow_id else 0

    def before(self, workflow_id: str) -> Iterator[str]:
        """Iterate over those that come before a workflow, in the order of their turns: of higher priorities first."""
        own = self._priority_of.get(workflow_id)
        for priority in sorted(self._rings, reverse=True):
            if own is not None and priority <= own:
                break
            yield from self._rings[priority]
        if own is not None:
            yield from takewhile(lambda other: other != workflow_id, self._rings[own])

    def check(self) -> None:
        """Raise `InvariantBroken` if the rings and the table of them disagree. For tests."""
        rings = {workflow_id: priority for priority, ring in self._rings.items() for workflow_id in ring}
        if rings != self._priority_of or sum(map(len, self._rings.values())) != len(rings) or not all(self._rings.values()):
            raise InvariantBroken(f"the rings are {self._rings}, the table of them is {self._priority_of}")
