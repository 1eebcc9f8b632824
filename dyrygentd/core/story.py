"""What has happened last, so that an error about a node can tell how the node came to where it is.

One log for all workflows: its rows are few enough to be no burden however many workflows there are, and enough that a node in
trouble finds its own among them. It is kept in memory only, and costs a tuple for each change.
"""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from dyrygentd.core.states import NodeState

#: Changes that are kept: the last lives of some two thousand nodes, in about a megabyte.
ROWS_MAX: Final = 8192
#: Of one node, the newest, in an error.
_TOLD_MAX: Final = 10
#: In place of a node: all that were open.
_ALL_OPEN: Final = -1


class Change(NamedTuple):
    """One change of a node's state.

    Attributes:
        node: Its number.
        before: Its state before; None if it is one of very many that changed in one go.
    """

    node: int
    before: NodeState | None
    after: NodeState
    now: float

    def __str__(self) -> str:
        before = "whatever it was" if self.before is None else self.before.word
        return f"{before} -> {self.after.word} at {datetime.fromtimestamp(self.now, UTC):%H:%M:%S.%f}"


class Story:
    """The last changes of nodes, of all workflows that share it. Guards: at most ``ROWS_MAX`` are kept, in their order.

    Attributes:
        note: Writes a change down, given ``(workflow id, node, before, after, now)`` with the numbers of the states.
    """

    __slots__ = ("_rows", "note")

    def __init__(self) -> None:
        self._rows: deque[tuple[str, int, int, int, float]] = deque(maxlen=ROWS_MAX)
        # The method itself: it is called four times in the life of a node.
        self.note: Callable[[tuple[str, int, int, int, float]], None] = self._rows.append

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<Story {len(self._rows)} changes>"

    def note_cancel(self, workflow_id: str, now: float) -> None:
        """Write down that all open nodes of a workflow were cancelled, in one row however many they are."""
        self.note((workflow_id, _ALL_OPEN, _ALL_OPEN, NodeState.CANCELLED, now))

    def take_over(self, other: "Story") -> None:
        """Write down what another one knows."""
        if other is not self:
            self._rows.extend(other._rows)

    def of(self, workflow_id: str, node: int) -> list[Change]:
        """Return the changes of a node that are still known."""
        return [
            Change(node, None if before == _ALL_OPEN else NodeState(before), NodeState(after), now)
            for owner, changed, before, after, now in self._rows
            if owner == workflow_id and changed in (node, _ALL_OPEN)
        ]

    def told(self, workflow_id: str, node: int) -> str:
        """Return the last changes of a node in words."""
        changes = self.of(workflow_id, node)
        if not changes:
            return "no change of it is known here"
        return f"its last changes: {', '.join(map(str, changes[-_TOLD_MAX:]))}"
