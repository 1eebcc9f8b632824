"""In which states the nodes of one workflow are, and what follows from that alone: counts, and who waits for how many.

The states are one array of bytes, in which it is cheap to look for one of them. Which nodes have a new state since the last turn
is kept beside it, as theirs are the records to be written.
"""

from array import array
from collections.abc import Iterator
from typing import Final

from dyrygentd.core.graph import Graph
from dyrygentd.core.section_counts import SectionCounts
from dyrygentd.core.states import BAD, FINISHED, TRANSITIONS, NodeState
from dyrygentd.core.story import Story
from dyrygentd.errors import InvariantBroken

_STATES: Final = tuple(NodeState)
#: The finished states have the highest numbers, so that one comparison tells most changes apart from an end.
#: As plain numbers, which are compared faster, in the order of the table: what goes on, what was good, what was not.
FIRST_FINISHED, FIRST_BAD = int(min(FINISHED)), int(min(BAD))
_READY: Final = int(NodeState.READY)
#: For each state before, by its number, the numbers of those after for which the table has a row.
_MAY_BECOME: Final = tuple(bytes((before, after) in TRANSITIONS for after in NodeState) for before in NodeState)
#: What a cancel makes of each state.
_CANCELLED_IF_OPEN: Final = bytes(NodeState.CANCELLED if state < FIRST_FINISHED else state for state in range(256))
#: If fewer than one in so many nodes are wanted, they are looked up one by one.
_FEW: Final = 8


class NodeStates:
    """The states of the nodes. Guards: every change is a row of `TRANSITIONS`, and the counts agree with the states.

    Attributes:
        states: The number of each node's state; not to be changed from outside.
        counts: Number of nodes by the number of their state, joins left out; not to be changed.
        unmet: How many dependencies of each node have not finished; kept by whoever finishes nodes.
        finished_at: When each of them finished, 0 if it has not.
        unfinished: Number of nodes, joins included, to which something will still happen.
        bad: Number of nodes, joins included, that ended and did not succeed.
        hooks_open, hooks_bad: How many of the hooks are still to run, and how many ended and did not succeed.
        sections: What is open and bad in sections for whose end somebody waits; None if there are none.
        changed: Nodes whose record has changed since `take_changed`.
        story: Where each change is written down; the engine has one for all.
    """

    __slots__ = (
        "_graph",
        "_signatures",
        "_workflow_id",
        "bad",
        "changed",
        "counts",
        "finished_at",
        "hooks_bad",
        "hooks_open",
        "sections",
        "states",
        "story",
        "unfinished",
        "unmet",
    )

    def __init__(self, workflow_id: str, graph: Graph, story: Story | None = None) -> None:
        self._workflow_id = workflow_id
        self._graph = graph
        self._signatures = graph.signatures
        self.states = bytearray(len(graph))
        self.counts = [0] * len(_STATES)
        self.counts[NodeState.WAITING] = graph.task_count
        self.unmet = graph.unmet_counts()
        self.finished_at = array("d", bytes(8 * len(graph)))
        self.unfinished = len(graph)
        self.bad = 0
        self.hooks_open, self.hooks_bad = len(graph.hooks), 0
        self.sections = None if graph.section_ends is None else SectionCounts(graph.section_ends)
        self.changed: set[int] = set()
        self.story = Story() if story is None else story

    def __repr__(self) -> str:
        counts = " ".join(f"{word}={count}" for word, count in self.counts_by_word().items() if count)
        return f"<NodeStates {counts}>"

    # --- changes ----------------------------------------------------------------------------------------------------

    def move(self, node: int, state: NodeState, now: float) -> None:
        """Change a node's state; beside `cancel_open` the only place that does, but for what is read back with `place`."""
        # A plain number: this is the hottest place of all, and everything below takes it faster than a member of an enum.
        before, after = self.states[node], state._value_
        if not _MAY_BECOME[before][after]:
            raise self._forbidden(node, state)
        self.states[node] = after
        if self._signatures[node] is not None or not self._graph.is_join(node):
            counts = self.counts
            counts[before] -= 1
            counts[after] += 1
        if after >= FIRST_FINISHED or before >= FIRST_FINISHED:
            self._count_ends(node, before, after)
            self.finished_at[node] = now if after >= FIRST_FINISHED else 0.0
        self.story.note((self._workflow_id, node, before, after, now))
        if after != _READY:
            self.changed.add(node)

    def place(self, node: int, state: NodeState) -> None:
        """Put a node into any state, as it was stored."""
        before = self.states[node]
        self.states[node] = state
        if self._signatures[node] is not None or not self._graph.is_join(node):
            self.counts[before] -= 1
            self.counts[state] += 1
        self._count_ends(node, before, state)

    def _count_ends(self, node: int, before: int, after: int) -> None:
        self.unfinished += (before >= FIRST_FINISHED) - (after >= FIRST_FINISHED)
        if after >= FIRST_BAD or before >= FIRST_BAD:
            self.bad += (after >= FIRST_BAD) - (before >= FIRST_BAD)
        if self._graph.hooks and self.is_hook(node):
            self.hooks_open += (before in FINISHED) - (after in FINISHED)
            self.hooks_bad += (after in BAD) - (before in BAD)
        if self.sections is not None:
            self.sections.count(node, before, after)

    def cancel_open(self, now: float) -> None:
        """Do what `move` does for all that has not finished, hooks left aside, in a tenth of the time."""
        for state in {*self.states}:
            if state < FIRST_FINISHED and (_STATES[state], NodeState.CANCELLED) not in TRANSITIONS:  # pragma: no cover - all are
                raise self._forbidden(self.states.index(state), NodeState.CANCELLED)
        open_nodes = [node for node, state in enumerate(self.states) if state < FIRST_FINISHED]
        self.states[:] = self.states.translate(_CANCELLED_IF_OPEN)
        for state in range(FIRST_FINISHED):
            self.counts[NodeState.CANCELLED] += self.counts[state]
            self.counts[state] = 0
        for node in open_nodes:
            self.finished_at[node] = now
        self.story.note_cancel(self._workflow_id, now)
        self.unfinished -= len(open_nodes)
        self.bad += len(open_nodes)
        self.changed.update(open_nodes)
        if self.sections is not None:
            self.sections.count_anew(self.states)

    def forget_unmet(self) -> None:
        """Have nothing wait for anything, as after a cancel."""
        self.unmet = array("I", bytes(self.unmet.itemsize * len(self._graph)))

    def take_changed(self) -> set[int]:
        """Return the nodes whose records have changed, and forget them."""
        changed, self.changed = self.changed, set()
        return changed

    def broken(self, node: int, complaint: str) -> InvariantBroken:
        """Return what is wrong with a node, with its last changes."""
        return InvariantBroken(
            f"node '{self._graph.names[node]}' of workflow '{self._workflow_id}' {complaint}"
            f" (unmet dependencies {self.unmet[node]}, {self!r}; {self.story.told(self._workflow_id, node)})"
        )

    def _forbidden(self, node: int, state: NodeState) -> InvariantBroken:
        return self.broken(node, f"cannot go from {self.of(node).word} to {state.word}")

    # --- questions --------------------------------------------------------------------------------------------------

    def of(self, node: int) -> NodeState:
        """Return the state of a node."""
        return _STATES[self.states[node]]

    def is_hook(self, node: int) -> bool:
        """Tell whether a node runs when the workflow has ended."""
        return bool(self._graph.hooks) and self._graph.policy(node).hook is not None

    def is_at_the_end(self, node: int) -> bool:
        """Tell whether a node waits for the rest of the workflow or of a section, and not only for its dependencies."""
        ends = self._graph.section_ends
        return self.is_hook(node) or (ends is not None and node in ends.ended_by)

    @property
    def in_flight_count(self) -> int:
        """Number of tasks in the broker or at workers."""
        return self.counts[NodeState.DISPATCHING] + self.counts[NodeState.DISPATCHED]

    @property
    def has_failed_work(self) -> bool:
        """Tell whether a node that is no hook ended and did not succeed: then this end is a failure."""
        return self.bad > self.hooks_bad

    def count(self, state: NodeState) -> int:
        """Return how many nodes are in ``state``; joins are not counted."""
        return self.counts[state]

    def counts_by_word(self) -> dict[str, int]:
        """Return ``{state word: number of nodes}`` for all states; joins are not counted."""
        return {state.word: self.counts[state] for state in _STATES}

    def all_in(self, *states: NodeState) -> list[int]:
        """Return the nodes in these states, joins included, in their order."""
        if sum(map(self.states.count, states)) * _FEW > len(self.states):
            wanted = bytes(states)
            return [node for node, state in enumerate(self.states) if state in wanted]
        return sorted(node for state in set(states) for node in self.each_in(state))

    def each_in(self, state: NodeState) -> Iterator[int]:
        """Iterate over the nodes in a state, joins included, in their order; the others cost next to nothing."""
        find = self.states.find
        node = find(state)
        while node >= 0:
            yield node
            node = find(state, node + 1)
