"""Folds workflows for whoever looks at them: long ones in a thread, so that no turn is longer for it.

What depends on the graph alone is kept as long as the workflow is in memory, for the last that were looked at. Counts are made
anew each time, from a copy of the states as they stood when somebody asked.
"""

from typing import Final
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread

from dyrygentd import wire
from dyrygentd.core.fold_counts import BoxCounts, counts_of
from dyrygentd.core.folding import Fold, Folding
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BoxNotFound

#: Nodes that are folded within two milliseconds; for fewer the hop into a thread costs more than it saves.
_INLINE_MAX: Final = 500
#: Nodes of all workflows whose folds are kept, at 20 to 60 bytes each.
_KEPT_NODES_MAX: Final = 2_000_000


class Folds:
    """Folds workflows. Guards: one long workflow is folded at a time, and what is kept is bounded."""

    def __init__(self, *, kept_nodes_max: int = _KEPT_NODES_MAX) -> None:
        self._kept_nodes_max = kept_nodes_max
        # In the order in which they were looked at last.
        self._kept: WeakKeyDictionary[RunningWorkflow, _Folded] = WeakKeyDictionary()
        self._lock: anyio.Lock | None = None

    def __repr__(self) -> str:
        return f"<Folds kept={len(self._kept)}>"

    async def view(self, workflow: RunningWorkflow, path: str) -> wire.FoldView:
        """Return a box of a workflow, opened. Raises `BoxNotFound`."""
        if len(workflow.graph) <= _INLINE_MAX:
            found = self._kept_of(workflow)(path, workflow.states)
        else:
            self._lock = self._lock or anyio.Lock()
            async with self._lock:
                fold, states = self._kept_of(workflow), bytes(workflow.states)
                found = await anyio.to_thread.run_sync(fold, path, states)
        if found is None:
            raise BoxNotFound(workflow.workflow_id, path)
        return wire.view_of_fold(workflow, path, *found)

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
        self._graph, self._dispatched_at = workflow.graph, workflow.attempts.dispatched_at
        self._folding: Folding | None = None

    def __call__(self, path: str, states: bytes | bytearray) -> tuple[Fold, list[BoxCounts]] | None:
        """Return a box, opened, and how its boxes stand; None if there is no such box."""
        self._folding = self._folding or Folding(self._graph)
        fold = self._folding.at(path)
        return None if fold is None else (fold, counts_of(fold, states, self._dispatched_at))
