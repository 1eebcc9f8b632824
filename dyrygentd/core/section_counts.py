"""How much of the scopes of sections is open, and how much of it did not succeed: a counter of each for each scope.

What has changed in a scope changes the one around it only when the first of it opens or goes bad, or the last one does not any
more, so a node costs its scope and now and then a few around it.
"""

from collections.abc import Iterable, Sequence

from dyrygentd.core.section_ends import NO_SCOPE, SectionEnds
from dyrygentd.core.states import BAD, FINISHED


class SectionCounts:
    """The counters. Guards: they agree with the states of the nodes.

    Attributes:
        ends: Which scopes there are.
        open: For each scope how many nodes directly in it have not finished, and scopes in it in which something is open.
        bad: The same of what ended and did not succeed.
        closed: Scopes in which nothing is open any more, since they were last looked at; some may be open again.
        begun: ``{scope: whether anything of it ran}``, as far as it was asked since it closed.
        to_blame: ``{scope: a node of it that did not succeed}``, as far as it was asked; it may have been set back since.
    """

    __slots__ = ("bad", "begun", "closed", "ends", "open", "to_blame")

    def __init__(self, ends: SectionEnds) -> None:
        self.ends = ends
        self.open = ends.open_counts()
        self.bad = [0] * len(self.open)
        self.closed: list[int] = []
        self.begun: dict[int, bool] = {}
        self.to_blame: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<SectionCounts open={self.open} bad={self.bad}>"

    def count(self, node: int, before: int, after: int) -> None:
        """Take note of a node's change from one state to another."""
        scope = self.ends.scope_of[node]
        if scope == NO_SCOPE:
            return
        change = (after in BAD) - (before in BAD)
        if change:
            self._change(self.bad, scope, change)
        change = (before in FINISHED) - (after in FINISHED)
        if change:
            for changed in self._change(self.open, scope, change):
                self.begun.pop(changed, None)
                if change < 0:
                    self.closed.append(changed)

    def _change(self, counts: list[int], scope: int, change: int) -> list[int]:
        """Change a count, and those around it as far as it is nothing now, or was; return the scopes of which this is true."""
        changed = []
        while scope != NO_SCOPE:
            was_nothing = not counts[scope]
            counts[scope] += change
            if counts[scope] and not was_nothing:
                break
            changed.append(scope)
            scope = self.ends.outer[scope]
        return changed

    def count_anew(self, states: Sequence[int]) -> None:
        """Count from the beginning, after very many nodes have changed at once; nobody is told of what has closed."""
        self.open, self.bad = self.ends.open_counts(), [0] * len(self.open)
        for node, state in enumerate(states):
            self.count(node, 0, state)
        self.closed.clear()

    def take_closed(self) -> Iterable[int]:
        """Return the nodes that end what has closed, and is closed still, each once; they may be decided."""
        closed, self.closed = dict.fromkeys(self.closed), []
        return [node for scope in closed if not self.open[scope] for node in self.ends.enders[scope]]
