"""Views of folded workflows: boxes, how they stand, and which waits for which."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from dyrygentd.core.sections import inside
from dyrygentd.core.states import NodeState
from dyrygentd.wire.parents import ChildView
from dyrygentd.wire.plain import View

if TYPE_CHECKING:
    # Whoever reads a view needs nothing of what it is made of.
    from dyrygentd.core.fold_counts import BoxCounts
    from dyrygentd.core.folding import Box, Fold
    from dyrygentd.core.workflow import RunningWorkflow

    # For people who write programs these words are types; in JSON they are texts.
    from dyrygentd.wire.words import HoldWord, WorkflowWord
else:
    WorkflowWord = HoldWord = str

#: Characters of an error in a box; the node has all of it.
_ERROR_MAX = 200


class BoxView(Struct, View, omit_defaults=True):
    """A box of a folded workflow.

    Attributes:
        path: By which it is opened; of a single node too, which is not opened but shown by its name, the ``title``.
        kind: ``section``, ``sections`` (a range of them), ``group`` (one task on one level), ``levels``, ``page``, or ``node``.
        title: What it is called; names and tasks in it are as they were submitted.
        nodes: Number of nodes, joins left out.
        joins: Number of joins.
        states: ``{state: number of nodes}``, without those of which there is none.
        task: Name of the task that all of its nodes have.
        first_level, last_level: Where it stands; a level is the longest way from a beginning, in nodes and joins.
        failed: The first node that has failed, in the order of the definition.
        error: Of that node, shortened.
        failed_too, error_too: The first node that has failed for another cause, if there is one among the first failures.
        longest: The node that has been in flight for the longest time.
        longest_since: When that was dispatched.
        held: The first node that is held.
        hold: What holds that node, and until when if that ends by itself.
        share: Of the work that is left in the whole workflow, 0 to 1; nothing if nobody can tell.
        child: Of a single node the workflow that is its work; it has a fold of its own.
    """

    path: str
    kind: str
    title: str
    nodes: int
    states: dict[str, int]
    joins: int = 0
    task: str | None = None
    first_level: int = 1
    last_level: int = 1
    failed: str | None = None
    error: str | None = None
    failed_too: str | None = None
    error_too: str | None = None
    longest: str | None = None
    longest_since: float | None = None
    held: str | None = None
    hold: HoldWord | None = None
    held_until: float | None = None
    share: float | None = None
    child: ChildView | None = None


class EdgeView(Struct, View):
    """One box waits for another.

    Attributes:
        before, after: Their places among the boxes, from 0.
        weight: How many edges between their nodes that stands for.
    """

    before: int
    after: int
    weight: int


class FoldView(Struct, View):
    """A workflow, or a box of it, in at most 300 boxes, whatever its size; each node is in one of them.

    Attributes:
        path: Which box was opened; empty for the whole workflow.
        nodes: Number of nodes in it, joins left out.
        edges: Which boxes wait for which; what follows from others is left out.
        edges_left_out: How many further ones there are.
        seq: Its number for those who follow it, see `FoldChanges`; 0 in an answer to a single question.
    """

    id: str
    name: str
    state: WorkflowWord
    path: str
    nodes: int
    boxes: list[BoxView]
    edges: list[EdgeView]
    edges_left_out: int
    seq: int = 0


def view_of_fold(
    workflow: "RunningWorkflow", path: str, fold: "Fold", counts: "Sequence[BoxCounts]", shares: Sequence[float] | None = None
) -> FoldView:
    """Show a fold as it stood when it was counted."""
    shown: Sequence[float | None] = [None] * len(fold.boxes) if shares is None else [round(share, 2) for share in shares]
    return FoldView(
        id=workflow.workflow_id,
        name=workflow.name,
        state=workflow.state.value,
        path=path,
        nodes=sum(box.counted - box.start for box in fold.boxes),
        boxes=[
            _view_of_box(workflow, path, box, each, share) for box, each, share in zip(fold.boxes, counts, shown, strict=True)
        ],
        edges=[EdgeView(edge.before, edge.after, edge.weight) for edge in fold.edges],
        edges_left_out=fold.edges_left_out,
    )


def _view_of_box(workflow: "RunningWorkflow", path: str, box: "Box", counts: "BoxCounts", share: float | None) -> BoxView:
    names = workflow.graph.names
    hold = None if counts.held is None else workflow.holds.get(counts.held)
    return BoxView(
        path=inside(path, box.key),
        kind=box.kind.value,
        title=box.title,
        nodes=box.counted - box.start,
        states={state.word: counts.counts[state] for state in NodeState if counts.counts[state]},
        joins=box.end - box.counted,
        task=box.task or None,
        first_level=box.levels[0],
        last_level=box.levels[1],
        failed=None if counts.failed is None else names[counts.failed],
        error=_error_of(workflow, counts.failed),
        failed_too=None if counts.failed_too is None else names[counts.failed_too],
        error_too=_error_of(workflow, counts.failed_too),
        longest=None if counts.longest is None else names[counts.longest],
        longest_since=None if counts.longest is None else workflow.attempts.dispatched_at[counts.longest] or None,
        held=None if counts.held is None else names[counts.held],
        hold=None if hold is None else hold.reason.value,
        held_until=None if hold is None else hold.until or None,
        share=share,
    )


def _error_of(workflow: "RunningWorkflow", node: int | None) -> str | None:
    return None if node is None else (workflow.errors.get(node) or "")[:_ERROR_MAX] or None
