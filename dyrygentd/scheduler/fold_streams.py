"""Whoever follows folded workflows: a box is counted once per change for all who look at it, however many they are.

*Theory of operation.* All who follow one box of one workflow share a *source*. Whoever has what is newest waits for its lock; the
one who holds it waits for a change, rests for as long as the pace demands, counts, and lets go, after which everybody finds
something new. Nothing runs in the background, so nothing is left behind: if the one who counts leaves, the next in the line goes
on. Each takes what has changed since it was there last, so a slow reader slows nobody, and is told less often instead.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, Literal, NamedTuple

import anyio

from dyrygentd import wire
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.scheduler.listeners import Listener, Listeners
from dyrygentd.scheduler.sight import Sight
from dyrygentd.wire.fold_changes import FoldHistory

#: After a count, no other one for so many times what it took: a hundred people at a hundred boxes get a fifth of the time.
_REST: Final = 4
#: A count that waited for the folding of others is no measure of what counting costs.
_REST_MAX_S: Final = 2.0


class FoldEvent(NamedTuple):
    """Something for those who follow: all of a fold, or what has changed of it, encoded once for all of them."""

    kind: Literal["fold", "boxes"]
    data: bytes


class FoldStreams:
    """All who follow folded workflows.

    Guards: one box is counted at a time for them, each once per change and interval, and nobody waits for a slow reader.

    Args:
        fold: Returns a box of a workflow, opened, as it stands.
        unpacked: Returns a workflow by its id, from memory or from the store. Raises `WorkflowNotFound`.
        interval_s: Shortest time between two counts of one box.
    """

    def __init__(
        self,
        fold: Callable[[RunningWorkflow, str], Awaitable[wire.FoldView]],
        sight: Sight,
        listeners: Listeners,
        *,
        unpacked: Callable[[str], Awaitable[RunningWorkflow]],
        interval_s: float,
    ) -> None:
        self._fold = fold
        self._sight = sight
        self._listeners = listeners
        self._unpacked = unpacked
        self._interval_s = interval_s
        self._sources: dict[tuple[str, str], _Source] = {}
        self._counting: anyio.Lock | None = None
        self._rests_until = 0.0

    def __repr__(self) -> str:
        return f"<FoldStreams sources={len(self._sources)} readers={self.readers}>"

    @property
    def readers(self) -> int:
        """Number of those who follow a box that still changes."""
        return sum(source.readers for source in self._sources.values())

    async def follow(self, workflow_id: str, path: str) -> AsyncGenerator[FoldEvent]:
        """Iterate over a fold and its changes until the workflow has finished.

        Raises:
            WorkflowNotFound, BoxNotFound
            DaemonUnreachable: The scheduler was left meanwhile.
        """
        source, seq = self._join(workflow_id, path), 0
        try:
            while source.seq > seq or not source.is_over:
                if source.seq > seq:
                    event, seq = source.event(seq), source.seq
                    yield event
                    continue
                async with source.lock:
                    # Whoever had the lock before may have counted.
                    if source.seq == seq and not source.is_over:
                        await self._look(source)
        finally:
            self._leave(source)

    def _join(self, workflow_id: str, path: str) -> "_Source":
        source = self._sources.get((workflow_id, path))
        if source is None or source.is_over:
            # What is over is kept by those who have not seen its end yet; the workflow may run again.
            source = self._sources[workflow_id, path] = _Source(workflow_id, path, self._listeners.to(workflow_id))
            self._listeners.add(source.listener)
        source.readers += 1
        return source

    def _leave(self, source: "_Source") -> None:
        source.readers -= 1
        if source.readers:
            return
        self._listeners.remove(source.listener)
        if self._sources.get((source.workflow_id, source.path)) is source:
            del self._sources[source.workflow_id, source.path]

    async def _look(self, source: "_Source") -> None:
        """Count a box as soon as it may have changed and the pace allows it; one that nobody has looked at yet, at once."""
        if not source.seq:
            await self._count(source)
            return
        if not source.is_stale:
            self._sight.refuse_if_ended(source.workflow_id)
            await source.listener.wait()
            # Whoever comes after one who leaves in between is not told of the change any more.
            source.is_stale = True
        await anyio.sleep_until(source.counted_at + self._interval_s)
        self._counting = self._counting or anyio.Lock()
        async with self._counting:
            await anyio.sleep_until(self._rests_until)
            begun = anyio.current_time()
            await self._count(source)
            now = anyio.current_time()
            self._rests_until = now + min(_REST * (now - begun), _REST_MAX_S)

    async def _count(self, source: "_Source") -> None:
        source.counted_at = anyio.current_time()
        await self._sight.look(source.workflow_id)
        live = self._sight.live(source.workflow_id)
        if live is not None:
            source.workflow = live
        elif source.workflow is None or not source.workflow.state.is_finished:
            # What was followed to its end is at hand, and need not be read back for the last look.
            source.workflow = await self._unpacked(source.workflow_id)
        source.take(await self._fold(source.workflow, source.path))
        source.is_over = live is None


class _Source:
    """What all readers of one box share.

    Attributes:
        lock: Had by the one who waits and counts for all.
        is_stale: It has changed since it was counted.
        is_over: The workflow has finished, and that was counted.
        workflow: As it was counted last; kept in memory to its end by those who follow it.
    """

    def __init__(self, workflow_id: str, path: str, listener: Listener) -> None:
        self.workflow_id = workflow_id
        self.path = path
        self.listener = listener
        self.lock = anyio.Lock()
        self.readers = 0
        self.is_stale = self.is_over = False
        self.counted_at = 0.0
        self.workflow: RunningWorkflow | None = None
        self._history: FoldHistory | None = None
        # By the number that their readers had; those who keep up have the same one.
        self._events: dict[int, FoldEvent] = {}

    def __repr__(self) -> str:
        return f"<_Source {self.workflow_id} path='{self.path}' readers={self.readers} {self._history!r}>"

    @property
    def seq(self) -> int:
        """Number of what was counted last, 0 before."""
        return 0 if self._history is None else self._history.view.seq

    def take(self, view: wire.FoldView) -> None:
        """Take what was counted."""
        seq = self.seq
        if self._history is None:
            self._history = FoldHistory(view)
        else:
            self._history.take(view)
        if self.seq != seq:
            self._events.clear()
        self.is_stale = False

    def event(self, seq: int) -> FoldEvent:
        """Return what a reader needs who has what had this number."""
        assert self._history is not None
        event = self._events.get(seq)
        if event is None:
            told = self._history.since(seq)
            event = self._events[seq] = FoldEvent("fold" if isinstance(told, wire.FoldView) else "boxes", wire.encode(told))
        return event
