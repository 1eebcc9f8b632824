"""What a node waits for whose work is a workflow of its own: explained in that one, and in the one below it, down to the bottom.

Somebody who asks about the uppermost workflow wants to know which task, gate or failure it is in the end, and not that something
below it is not done.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import islice
from typing import Final

from dyrygentd import wire
from dyrygentd.core.cancelling import is_being_cancelled
from dyrygentd.core.children import parent_of
from dyrygentd.core.for_people import waits_for_person
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.standing import Standing
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.scheduler.sight import Sight

#: Children of one workflow among which the one is looked for that needs somebody most.
_LOOKED_AT_MAX: Final = 50
#: What is said of one in which tasks are in flight and nothing is wrong; what needs somebody is lower.
_IN_FLIGHT: Final = 2
_DONE: Final = frozenset({"succeeded", "skipped"})


class Bottoms:
    """Follows nodes into their workflows.

    Args:
        explain: Says why a workflow is not running, and what can be done.
        waits_of: Tells why a child of this id cannot begin just now; empty if it can.
    """

    def __init__(
        self,
        sight: Sight,
        explain: Callable[[RunningWorkflow], Awaitable[wire.Explanation]],
        waits_of: Callable[[str], str] = lambda child_id: "",
    ) -> None:
        self._waits_of = waits_of
        self._sight = sight
        self._explain = explain

    def __repr__(self) -> str:
        return f"<Bottoms {self._sight!r}>"

    async def told(self, workflow: RunningWorkflow, standing: Standing) -> Standing:
        """Return how a node stands, with what is to be said of its workflow if it waits for that."""
        if standing.code == "cancelled":
            return self._cleaning_up(workflow, standing)
        if standing.code != "child":
            return standing
        node = workflow.graph.number(standing.node)
        nodes = [node] if standing.count == 1 and node is not None else _waiting(workflow)
        ids = {each: parent_of(workflow, each).child_id for each in nodes}
        await self._sight.look(*ids.values())
        live = {each: child for each, child_id in ids.items() if (child := self._sight.live(child_id)) is not None}
        why = next(filter(None, map(self._waits_of, ids.values())), "")
        if not live and why:
            text = f"'{standing.node}' waits for its workflow, which cannot begin yet: {why}"
            return replace(standing, text=text, next_step="it begins by itself as soon as it can")
        if not live:
            return replace(standing, text=f"'{standing.node}' waits for its workflow, which is about to begin", next_step="")
        chosen = min(live, key=lambda each: self._rank(live[each]))
        return await self._of_child(workflow, chosen, live[chosen], standing)

    def _cleaning_up(self, workflow: RunningWorkflow, standing: Standing) -> Standing:
        """Return how a node stands that was cancelled, whose workflow ends only when its sections have cleaned up."""
        names = {standing.node, *standing.examples}
        for child in islice(self._sight.engine.children.of(workflow.workflow_id), _LOOKED_AT_MAX):
            parent = child.origin.parent
            name = None if parent is None else workflow.graph.names[parent.node]
            if name in names and is_being_cancelled(child):
                whose = "its workflow" if standing.count == 1 else f"the workflow of '{name}'"
                text = f"{standing.text}; {whose} ends when its sections have cleaned up"
                step = f"{_where(child)}; then {standing.next_step}" if standing.next_step else _where(child)
                return replace(standing, text=text, next_step=step)
        return standing

    async def _of_child(self, workflow: RunningWorkflow, node: int, child: RunningWorkflow, standing: Standing) -> Standing:
        found, name = await self._explain(child), workflow.graph.names[node]
        done = sum(count for word, count in child.nodes.counts_by_word().items() if word in _DONE)
        how = "" if child.state is WorkflowState.RUNNING else f"is {child.state}, "
        text = f"'{name}' is done by workflow {child.workflow_id}, which {how}has done {done:,} of {child.graph.task_count:,}"
        below = found.standings[0] if found.standings and child.state is not WorkflowState.PAUSED else None
        is_deeper = below is not None and below.code == "child"
        return replace(
            standing,
            is_urgent=self._rank(child) < _IN_FLIGHT,
            text=f"{text}; there {found.verdict if below is None else below.text}",
            next_step=below.next_step if is_deeper and below is not None else _where(child),
        )

    def _rank(self, child: RunningWorkflow) -> int:
        """Return a number that is the lower, the more somebody has to look at a workflow, or at what is below it."""
        ranks, wanted = [_rank(child)], [child]
        while wanted and len(ranks) < _LOOKED_AT_MAX:
            below = [*islice(self._sight.engine.children.of(wanted.pop().workflow_id), _LOOKED_AT_MAX - len(ranks))]
            ranks += map(_rank, below)
            wanted += below
        return min(ranks)


def _where(child: RunningWorkflow) -> str:
    return f"dyrygentctl explain {child.workflow_id}"


def _waiting(workflow: RunningWorkflow) -> list[int]:
    held = (node for node, hold in workflow.holds.items() if hold.reason is HoldReason.CHILD)
    return [*islice(held, _LOOKED_AT_MAX)]


def _rank(child: RunningWorkflow) -> int:
    """Return a number that is the lower, the more somebody has to look at a workflow."""
    if waits_for_person(child) or child.state is WorkflowState.PAUSED:
        return 0
    if child.nodes.count(NodeState.FAILED) or child.attempts.tried_again.often:
        return 1
    return _IN_FLIGHT if child.nodes.in_flight_count else _IN_FLIGHT + 1
