"""Children beside the nodes whose work they are, for whoever looks at these: from memory what is live, else from the store.

What it costs has a bound: a few dozen nodes of one answer are given what their children look like, and one row is read for each
of these that has finished.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from dyrygentd import wire
from dyrygentd.core.children import parent_of
from dyrygentd.core.for_people import waits_for_person
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.states import FINISHED
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BadRequest, OutsideError
from dyrygentd.ports import Store
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler.sight import Sight

#: Nodes of one answer whose children are shown; a fold has as many boxes of single nodes.
SHOWN_MAX: Final = 40
#: Children that are read from the store at one time.
_PAGE: Final = 200
#: Children of one workflow that are looked at; of more it is told what the first ones are at.
_COUNTED_MAX: Final = 200


class Families:
    """Finds children. Guards: a child that goes on is shown as it stands, and no answer reads more than `SHOWN_MAX` rows."""

    def __init__(self, sight: Sight, store: Store) -> None:
        self._sight = sight
        self._store = store

    def __repr__(self) -> str:
        return f"<Families of {self._sight!r}>"

    async def children_of(self, workflow: RunningWorkflow, nodes: Iterable[int]) -> dict[int, wire.ChildView]:
        """Return the children of the first few of these nodes that have one, ``{node: child}``."""
        wanted = [*islice((node for node in nodes if has_child(workflow, node)), SHOWN_MAX)]
        if not wanted:
            return {}
        ids = {node: parent_of(workflow, node).child_id for node in wanted}
        await self._sight.look(*(child_id for node, child_id in ids.items() if workflow.states[node] not in FINISHED))
        found = {node: await self._child(child_id) for node, child_id in ids.items()}
        return {node: child for node, child in found.items() if child is not None}

    async def fill_in(self, workflow: RunningWorkflow, nodes: Sequence[int], views: Sequence[wire.NodeView]) -> None:
        """Put children into the views of their nodes."""
        children = await self.children_of(workflow, nodes)
        for node, view in zip(nodes, views, strict=True):
            view.child = children.get(node)

    async def fill_in_fold(self, workflow: RunningWorkflow, view: wire.FoldView) -> wire.FoldView:
        """Put children into the boxes of single nodes; return the fold."""
        boxes: dict[int, wire.BoxView] = {}
        for box in view.boxes:
            node = workflow.graph.number(box.title) if box.kind == "node" else None
            if node is not None:
                boxes[node] = box
        for node, child in (await self.children_of(workflow, sorted(boxes))).items():
            boxes[node].child = child
        return view

    async def look_below(self, *workflows: RunningWorkflow) -> None:
        """Have what is below unfinished workflows be as new as they are, as far as it is shown with them."""
        wanted, seen = [*workflows], 0
        while wanted and seen < _COUNTED_MAX:
            held = ((each, node) for each in wanted for node, hold in each.holds.items() if hold.reason is HoldReason.CHILD)
            ids = [parent_of(each, node).child_id for each, node in islice(held, _COUNTED_MAX - seen)]
            seen += len(ids)
            if ids:
                await self._sight.look(*ids)
            wanted = [child for child_id in ids if (child := self._sight.live(child_id)) is not None]

    def add_to(self, workflow: RunningWorkflow, view: wire.WorkflowView) -> None:
        """Put into the view of a workflow what its unfinished children are at, and what in them waits for a person."""
        children = [*islice(self._sight.engine.children.of(workflow.workflow_id), _COUNTED_MAX)]
        if not children:
            return
        below = view.below = wire.BelowView(len(children), {}, 0, {})
        for child in children:
            below.tasks += child.graph.task_count
            below.states[child.state.value] = below.states.get(child.state.value, 0) + 1
            _add(below.counts, child.nodes.counts_by_word())
        looked_at = 0
        while children and looked_at < _COUNTED_MAX:
            child = children.pop()
            looked_at += 1
            _add(view.waits_for_person, waits_for_person(child))
            view.keeps_failing += child.attempts.tried_again.often
            children += islice(self._sight.engine.children.of(child.workflow_id), _COUNTED_MAX)

    async def tree(self, workflow_id: str) -> AsyncIterator[str]:
        """Iterate over a workflow and all below it, each before what is below that. Raises `BadRequest` if they are too many."""
        wanted, count = deque([workflow_id]), 0
        while wanted:
            above = wanted.popleft()
            yield above
            before, below = None, list[str]()
            while rows := await self._store.list(Selection(parent=above, before=before, limit=_PAGE)):
                before, count = rows[-1].cursor, count + len(rows)
                if count > wire.CHILDREN_MAX:
                    raise BadRequest(
                        f"there are more than {wire.CHILDREN_MAX:,} workflows below '{workflow_id}'",
                        next_step="export them one by one: `dyrygentctl list --parent REF` has them",
                    )
                below += (row.record.workflow_id for row in rows)
            # As they began.
            wanted += reversed(below)

    async def _child(self, child_id: str) -> wire.ChildView | None:
        live = self._sight.live(child_id)
        if live is not None:
            return wire.view_of_child(wire.view_of_running(live))
        with suppress(OutsideError):
            record = await self._store.record(child_id)
            # Not kept: it may run again, and end otherwise, while nobody looks.
            return None if record is None else wire.view_of_child(wire.view_of_record(record))
        return None


def has_child(workflow: RunningWorkflow, node: int) -> bool:
    """Tell whether a node may have a child, or waits for one; what its task has added is one as long as it may go on."""
    hold = workflow.holds.get(node)
    return (hold is not None and hold.reason is HoldReason.CHILD) or workflow.attempts.additions.is_child(node)


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for word, count in more.items():
        if count:
            counts[word] = counts.get(word, 0) + count
