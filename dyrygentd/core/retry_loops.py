"""What keeps failing in a workflow, told by cause: how many nodes, how often, with what, and when the next attempt comes.

Pure reading of what `dyrygentd.core.tried_again` has counted. Of each cause only the first nodes are looked at, so it costs the
same for ten nodes and for 100,000.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from typing import Final

from dyrygentd.core.states import IN_FLIGHT, NodeState
from dyrygentd.core.tried_again import TriedCause
from dyrygentd.core.tries import begun, could_run_at
from dyrygentd.core.words import counted, span
from dyrygentd.core.workflow import RunningWorkflow

#: Nodes of a cause that are looked at, and that are named.
_LOOKED_AT_MAX: Final = 1000
NAMED_MAX: Final = 5
#: Causes of a workflow that are told.
CAUSES_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class StillTried:
    """Nodes that failed for one cause and are tried again.

    Attributes:
        fingerprint: What their failures have in common.
        error: The last of them.
        count: How many nodes there are.
        failures: How often they have failed, each counted since it was good last.
        nodes: Names, those first that failed most often.
        most: How often the first of these has failed.
        next_at: When the next attempt comes, as far as one of them waits for it; 0 if none does.
        in_flight: How many of those that were looked at are in flight in another attempt.
        since: Since when the first of these nodes is tried in vain.
    """

    fingerprint: str
    error: str
    count: int
    failures: int
    nodes: tuple[str, ...]
    most: int
    next_at: float
    in_flight: int
    since: float

    def words(self, now: float) -> str:
        """Say it, the names first: ``'b' has failed 47 times in a row …``."""
        error = f": {self.error}" if self.error else ""
        if self.count == 1:
            return f"'{self.nodes[0]}' has failed {self._in_a_row(now)}, and {self._next(now)}{error}"
        often = f"{counted(self.failures, 'time')}, '{self.nodes[0]}' {self._in_a_row(now)}"
        return f"{counted(self.count, 'node')} have failed {often}; one of them {self._next(now)}{error}"

    def _in_a_row(self, now: float) -> str:
        return f"{self.most:,} times in a row within {span(now - self.since)}" if self.most > 1 else "once"

    def _next(self, now: float) -> str:
        if self.next_at:
            return f"is tried again in {span(self.next_at - now)}"
        return "is in flight once more" if self.in_flight else "waits to be tried again"


def tried_again(workflow: RunningWorkflow, *, most: int = CAUSES_MAX) -> Iterator[StillTried]:
    """Iterate over everything that has failed and is tried again, by cause, in the order in which the causes appeared."""
    for cause in islice(workflow.attempts.tried_again.causes.values(), most):
        yield _told(workflow, cause, cause.failures, cause.sum, _LOOKED_AT_MAX)


def keeps_failing(workflow: RunningWorkflow, *, most: int = CAUSES_MAX, looked_at: int = _LOOKED_AT_MAX) -> list[StillTried]:
    """Return what of it keeps failing, by cause, what has failed most often first.

    Args:
        most: Causes that are told.
        looked_at: Causes, and nodes of each, that are looked at.
    """
    loops = nlargest(most, islice(workflow.attempts.tried_again.loops.values(), looked_at), key=lambda cause: cause.sum_often)
    return [_told(workflow, cause, cause.often, cause.sum_often, looked_at) for cause in loops]


def words_of_loops(workflow: RunningWorkflow, now: float) -> str:
    """Tell, behind how a workflow stands, what keeps failing in it; empty if nothing does."""
    loops = keeps_failing(workflow, most=1)
    if not loops:
        return ""
    if len(workflow.attempts.tried_again.loops) == 1:
        return f"; {loops[0].words(now)}"
    return f"; {counted(workflow.attempts.tried_again.often, 'node')} keep failing, most often '{loops[0].nodes[0]}'"


def times_in_a_row(workflow: RunningWorkflow, node: int) -> str:
    """Tell, behind ``failed``, how often a node has in a row; empty if that is not often."""
    cause = workflow.attempts.tried_again.cause_of.get(node)
    return f" {cause.failures[node]:,} times in a row, now" if cause is not None and node in cause.often else ""


def _told(workflow: RunningWorkflow, cause: TriedCause, nodes: Collection[int], failures: int, looked_at_max: int) -> StillTried:
    looked_at = list(islice(nodes, looked_at_max))
    named = nlargest(NAMED_MAX, looked_at, key=cause.failures.__getitem__)
    due = [at for node in looked_at if (at := _next_at(workflow, node))]
    return StillTried(
        cause.fingerprint,
        cause.error,
        len(nodes),
        failures,
        tuple(workflow.graph.names[node] for node in named),
        cause.failures[named[0]],
        min(due, default=0.0),
        sum(workflow.state_of(node) in IN_FLIGHT for node in looked_at),
        _since(workflow, named[0], cause.failures[named[0]]),
    )


def _since(workflow: RunningWorkflow, node: int, failures: int) -> float:
    """Return when the first of so many failures was sent; what is known if too many attempts came after it."""
    attempts = workflow.attempts
    kept = attempts.earlier.get(node, ())[-failures:]
    if len(kept) < failures and attempts.of(node) <= failures + 1:
        # It was never good, so it is as long as it could run.
        return could_run_at(workflow, node, workflow.states, begun(workflow)) or attempts.dispatched_at[node]
    return kept[0].sent_at if kept else attempts.dispatched_at[node]


def _next_at(workflow: RunningWorkflow, node: int) -> float:
    """Return when a node is tried again: by us, or by its task; 0 if that is not known, or it is tried just now."""
    if workflow.state_of(node) is NodeState.RETRYING:
        return workflow.holds[node].until
    return workflow.attempts.next_tries.get(node, (0.0, ""))[0]
