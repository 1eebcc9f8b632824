"""Tells where the time of workflows went, to any number of people who look.

A timeline costs a look at each node in the opened box: half a second at a hundred thousand. So it is made in a thread, for all
who ask for the same at one time, and what took long is shown again for a while: looking takes a tenth of a processor at most.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

import anyio

from dyrygentd import wire
from dyrygentd.core.folding import Fold
from dyrygentd.core.timeline import frame_of, times_of
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.ports import Clock
from dyrygentd.scheduler.folds import Folds

#: Nodes, a millisecond's work, for which the hop into a thread costs more than it saves.
_INLINE_MAX: Final = 30
#: A timeline is shown for so many times as long as it took to make, unless that was less than this.
_SHOWN_TIMES: Final = 10
_SHORT_S: Final = 0.02
#: Timelines that are kept, a megabyte at most each.
_KEPT_MAX: Final = 16


class _Made(NamedTuple):
    """A timeline, until when it is good, and of which state of its workflow it is."""

    view: wire.TimelineView
    until: float
    finished_at: float | None


class Timelines:
    """Makes timelines. Guards: one long timeline is made at a time, and what is kept is bounded.

    Args:
        folds: Folds the workflows.
        short_s: What took less is made anew each time.
        shown_times: For how many times as long as it took to make a timeline is shown.
    """

    def __init__(self, folds: Folds, clock: Clock, *, short_s: float = _SHORT_S, shown_times: float = _SHOWN_TIMES) -> None:
        self._folds = folds
        self._clock = clock
        self._short_s, self._shown_times = short_s, shown_times
        # In the order in which they were looked at last.
        self._kept: OrderedDict[tuple[str, str, int], _Made] = OrderedDict()
        self._lock: anyio.Lock | None = None

    def __repr__(self) -> str:
        return f"<Timelines kept={len(self._kept)}>"

    async def view(self, workflow: RunningWorkflow, path: str, bins: int) -> wire.TimelineView:
        """Return where the time of a workflow, or of a box of it, went. Raises `BoxNotFound`."""
        if len(workflow.graph) <= _INLINE_MAX:
            return await self._made(workflow, path, bins)
        self._lock = self._lock or anyio.Lock()
        async with self._lock:
            key = workflow.workflow_id, path, bins
            made = self._kept.pop(key, None)
            begin = anyio.current_time()
            if made is None or made.until < begin or made.finished_at != workflow.finished_at:
                finished_at = workflow.finished_at
                view = await self._made(workflow, path, bins)
                end = anyio.current_time()
                if end - begin < self._short_s:
                    return view
                made = _Made(view, end + self._shown_times * (end - begin), finished_at)
            self._kept[key] = made
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
            return made.view

    async def _made(self, workflow: RunningWorkflow, path: str, bins: int) -> wire.TimelineView:
        frame = frame_of(workflow, self._clock.now(), bins)

        def see(fold: Fold, states: bytes) -> wire.TimelineView:
            return wire.view_of_timeline(workflow, path, fold, frame, times_of(fold, workflow, states, frame))

        return await self._folds.look(workflow, path, see, inline_max=_INLINE_MAX)
