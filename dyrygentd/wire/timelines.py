"""Views of where the time of a workflow went, box by box."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from dyrygentd.core.sections import inside
from dyrygentd.wire.plain import View

if TYPE_CHECKING:
    # Whoever reads a view needs nothing of what it is made of.
    from dyrygentd.core.folding import Box, Fold
    from dyrygentd.core.timeline import BoxTimes, Frame
    from dyrygentd.core.workflow import RunningWorkflow

    # For people who write programs these words are types; in JSON they are texts.
    from dyrygentd.wire.words import WorkflowWord
else:
    WorkflowWord = str

#: Rows of one timeline: what a person scrolls through. With 400 bins they are a megabyte.
ROWS_MAX: Final = 100
#: Digits behind the point of a mean, and of one below 1: a few of these may be all that there is of a short task.
_DIGITS, _DIGITS_OF_FEW = 3, 6


class TimelineRow(Struct, View):
    """A box of the folded workflow; each list has one number for each bin.

    Attributes:
        path: By which it is opened, as in the fold.
        kind: As in the fold.
        title: What it is called; names and tasks in it are as they were submitted.
        nodes: Number of nodes, joins left out.
        first: When the first of them was sent, or finished without having been.
        last: When the last of them that has finished did.
        waiting: How many could have been dispatched and were not in flight, on average over the bin, for whatever reason.
        running: How many were in flight in their first attempt, on average over the bin.
        again: How many were in flight in a later one.
        backoff: How many paused until their next attempt was due; and those whose attempts are too long ago to be known apart.
            Empty if the daemon is older and counts them as waiting.
        ended: How many ended well in the bin.
        failed: How many failed in it, or were cancelled after they had been sent. What never ran is in neither.
    """

    path: str
    kind: str
    title: str
    nodes: int
    first: float | None
    last: float | None
    waiting: list[float]
    running: list[float]
    again: list[float]
    ended: list[int]
    failed: list[int]
    backoff: list[float] = []


class TimelineView(Struct, View):
    """Where the time of a workflow, or of a box of it, went; times are Unix seconds.

    Attributes:
        path: Which box was opened; empty for the whole workflow.
        since: When the first bin begins.
        until: When the last one ends: now, or with the workflow.
        bin_s: How long each is.
        rows: The boxes that have more than joins, in the order in which they began.
        rows_left_out: How many further ones there are; those with failures and with the most time are shown.
    """

    id: str
    name: str
    state: WorkflowWord
    path: str
    since: float
    until: float
    bin_s: float
    rows: list[TimelineRow]
    rows_left_out: int


def view_of_timeline(
    workflow: "RunningWorkflow", path: str, fold: "Fold", frame: "Frame", times: "Sequence[BoxTimes]", *, rows_max: int = ROWS_MAX
) -> TimelineView:
    """Show what happened in the boxes of a fold."""
    from dyrygentd.core.timeline import row_order

    order, left_out = row_order(fold.boxes, times, rows_max)
    return TimelineView(
        id=workflow.workflow_id,
        name=workflow.name,
        state=workflow.state.value,
        path=path,
        since=frame.since,
        until=frame.until,
        bin_s=frame.bin_s,
        rows=[_row(path, fold.boxes[number], times[number]) for number in order],
        rows_left_out=left_out,
    )


def _row(path: str, box: "Box", times: "BoxTimes") -> TimelineRow:
    return TimelineRow(
        path=inside(path, box.key),
        kind=box.kind.value,
        title=box.title,
        nodes=box.counted - box.start,
        first=times.first,
        last=times.last,
        waiting=_short(times.waiting),
        running=_short(times.running),
        again=_short(times.again),
        ended=list(times.ended),
        failed=list(times.failed),
        backoff=_short(times.backoff),
    )


def _short(means: Sequence[float]) -> list[float]:
    """Return means in few characters: most are whole."""
    return [mean if isinstance(mean, int) else round(mean, _DIGITS if mean >= 1 else _DIGITS_OF_FEW) for mean in means]
