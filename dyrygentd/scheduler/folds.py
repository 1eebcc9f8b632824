"""Folds workflows for whoever looks at them: long ones in a thread, so that no turn is longer for it.

What depends on the graph alone is kept as long as the workflow is in memory, for the last that were looked at. Counts are made
anew each time, from a copy of the states as they stood when somebody asked.
"""

import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import anyio

from dyrygentd import wire
from dyrygentd.beside import in_thread
from dyrygentd.core.fold_counts import BoxCounts, counts_of, shares_of
from dyrygentd.core.folding import Fold, Folding
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BoxNotFound

_T = TypeVar("_T")

#: Nodes that are folded within two milliseconds; for fewer the hop into a thread costs more than it saves.
_INLINE_MAX: Final = 500
#: Nodes of all workflows whose folds are kept, at 20 to 60 bytes each.
_KEPT_NODES_MAX: Final = 2_000_000
_NO_WEIGHTS: Final = array("f")


class Folds:
    """Folds workflows. Guards: one long workflow is folded at a time, and what is kept is bounded.

    Args:
        weights: Returns how much of the work each node of a workflow is, nothing if nobody can tell.

    Attributes:
        count: How many folds were counted.
        seconds: What that took, without waiting for others.
    """

    def __init__(
        self,
        weights: Callable[[RunningWorkflow], Awaitable["array[float]"]] | None = None,
        *,
        kept_nodes_max: int = _KEPT_NODES_MAX,
    ) -> None:
        self._weights = weights
        self.count = 0
        self.seconds = 0.0
        self._kept_nodes_max = kept_nodes_max
        # In the order in which they were looked at last.
        self._kept: WeakKeyDictionary[RunningWorkflow, _Folded] = WeakKeyDictionary()
        self._lock: anyio.Lock | None = None
        self._in_thread: RunningWorkflow | None = None

    def __repr__(self) -> str:
        return f"<Folds kept={len(self._kept)}>"

    @property
    def kept_nodes(self) -> int:
        """Number of nodes of the workflows whose folds are kept."""
        return sum(len(folded.graph) for folded in self._kept.values())

    def pass_on(self, before: RunningWorkflow, after: RunningWorkflow) -> None:
        """Keep of a workflow that was read anew what is kept of it as it was; it has the same graph."""
        # Only one thread works on it at a time.
        if self._in_thread is not before and (folded := self._kept.pop(before, None)) is not None:
            self._kept[after] = folded

    async def view(self, workflow: RunningWorkflow, path: str) -> wire.FoldView:
        """Return a box of a workflow, opened. Raises `BoxNotFound`."""
        dispatched_at, weights = workflow.attempts.dispatched_at, _NO_WEIGHTS
        if self._weights is not None and not workflow.state.is_finished:
            weights = await self._weights(workflow)

        def see(fold: Fold, states: bytes) -> tuple[Fold, list[BoxCounts], list[float] | None]:
            counts = counts_of(fold, states, dispatched_at, workflow.fingerprints)
            return fold, counts, shares_of(fold, states, weights) if weights else None

        return wire.view_of_fold(workflow, path, *await self.look(workflow, path, see))

    async def look(
        self, workflow: RunningWorkflow, path: str, see: Callable[[Fold, bytes], _T], *, inline_max: int = _INLINE_MAX
    ) -> _T:
        """Return what ``see`` makes of a box, opened, and of the states as they stand now. Raises `BoxNotFound`.

        Args:
            see: Called in a thread, if the workflow has more than ``inline_max`` nodes.
        """

        def found(folded: _Folded, states: bytes) -> _T:
            fold = folded.at(path)
            if fold is None:
                raise BoxNotFound(workflow.workflow_id, path)
            return see(fold, states)

        return await self._done(workflow, found, inline_max)

    async def nodes(self, workflow: RunningWorkflow, path: str) -> Sequence[int]:
        """Return the numbers of the nodes in a box, rising; the path may be that of a single one. Raises `BoxNotFound`."""

        def found(folded: _Folded, states: bytes) -> Sequence[int]:
            nodes = folded.nodes_in(path)
            if nodes is None:
                raise BoxNotFound(workflow.workflow_id, path)
            return nodes

        return await self._done(workflow, found, _INLINE_MAX)

    async def _done(self, workflow: RunningWorkflow, work: "Callable[[_Folded, bytes], _T]", inline_max: int) -> _T:
        # A short one may be looked at here and in the thread, by those whose bounds differ.
        if len(workflow.graph) <= inline_max and self._in_thread is not workflow:
            begun = time.monotonic()
            done = work(self._kept_of(workflow), bytes(workflow.states))
        else:
            self._lock = self._lock or anyio.Lock()
            async with self._lock:
                begun, self._in_thread = time.monotonic(), workflow
                try:
                    done = await in_thread(work, self._kept_of(workflow), bytes(workflow.states))
                finally:
                    self._in_thread = None
        self.count += 1
        self.seconds += time.monotonic() - begun
        return done

    def _kept_of(self, workflow: RunningWorkflow) -> "_Folded":
        """Return what is kept of a workflow from now on; let go of what was looked at longest ago."""
        self._kept[workflow] = folded = self._kept.pop(workflow, None) or _Folded(workflow)
        total = 0
        for other in reversed([*self._kept]):
            total += len(other.graph)
            if total > self._kept_nodes_max and other is not workflow:
                del self._kept[other]
        return folded


class _Folded:
    """The folds of one workflow, as far as they were looked at. Only one thread works on it at a time."""

    def __init__(self, workflow: RunningWorkflow) -> None:
        # The workflow itself would be kept by it.
        self.graph = workflow.graph
        self._folding: Folding | None = None
        # Of the box that was asked for last: it is asked for page by page.
        self._nodes: tuple[str, Sequence[int]] | None = None

    def at(self, path: str) -> Fold | None:
        """Return a box, opened; None if there is no such box."""
        self._folding = self._folding or Folding(self.graph)
        return self._folding.at(path)

    def nodes_in(self, path: str) -> Sequence[int] | None:
        """Return the nodes of a box, rising; None if there is no such box."""
        if self._nodes is None or self._nodes[0] != path:
            self._folding = self._folding or Folding(self.graph)
            nodes = self._folding.nodes_in(path)
            if nodes is None:
                return None
            self._nodes = path, nodes
        return self._nodes[1]
