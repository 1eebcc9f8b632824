"""Who brought it about, when and why: the last entries of the journal that say why a workflow, or a node, stands as it does."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from dyrygentd import wire
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.standing import Standing
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.verbs import Verb
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.ports import Store

_OF_STATE: Final[Mapping[WorkflowState, Verb]] = {WorkflowState.PAUSED: Verb.PAUSE, WorkflowState.CANCELLED: Verb.CANCEL}
#: ``{code of a standing: verb}``.
_OF_CODE: Final = {"hold": Verb.HOLD, "cancelled": Verb.CANCEL, "skipped": Verb.SKIP}


class Found(NamedTuple):
    """The entries that matter."""

    of_workflow: wire.JournalView | None
    entries: Sequence[JournalEntry]

    def of_standing(self, standing: Standing) -> wire.JournalView | None:
        """Return who held, cancelled or skipped a node, as far as the journal names it."""
        verb = _OF_CODE.get(standing.code)
        if verb is None:
            return None
        fitting = [
            entry
            for entry in self.entries
            if entry.verb == verb and (standing.node in entry.nodes or len(entry.nodes) < entry.count or not entry.nodes)
        ]
        return wire.view_of_entry(fitting[-1]) if fitting else None


class Decided:
    """Reads the journal where somebody may have decided something."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def by_whom(self, workflow: RunningWorkflow, standings: Sequence[Standing]) -> Found:
        """Return who made a workflow and its nodes stand as they do."""
        verb = _OF_STATE.get(workflow.state)
        if verb is None and not any(standing.code in _OF_CODE for standing in standings):
            return Found(None, ())
        entries = await self._store.journal(workflow.workflow_id)
        last = [entry for entry in entries if entry.verb == verb][-1:]
        return Found(wire.view_of_entry(last[0]) if last else None, entries)

    async def who_holds(self, workflow: RunningWorkflow, node: int) -> wire.JournalView | None:
        """Return which operator holds a node, if one does and the journal names it."""
        hold = workflow.holds.get(node)
        if node not in workflow.on_hold and (hold is None or hold.reason is not HoldReason.OPERATOR):
            return None
        name, entries = workflow.graph.names[node], await self._store.journal(workflow.workflow_id)
        last = [entry for entry in entries if entry.verb == Verb.HOLD and name in entry.nodes][-1:]
        return wire.view_of_entry(last[0]) if last else None
