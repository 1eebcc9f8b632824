"""Who brought it about, when and why: the last entries of the journal that say why a workflow, or a node, stands as it does."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from dyrygentd import wire
from dyrygentd.core.decisions import Decision
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.standing import Standing
from dyrygentd.core.states import FINISHED, WorkflowState
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

    def of_standing(self, standing: Standing, *, is_on_hold: bool = False) -> wire.JournalView | None:
        """Return who held, cancelled or skipped a node, as far as the journal names it."""
        verb = _OF_CODE.get(standing.code, Verb.HOLD if is_on_hold else None)
        if verb is None:
            return None
        return _last(self.entries, verb, standing.node)


class Decided:
    """Reads the journal where somebody may have decided something."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def by_whom(self, workflow: RunningWorkflow, standings: Sequence[Standing], *, is_on_hold: bool = False) -> Found:
        """Return who made a workflow and its nodes stand as they do."""
        verb = _OF_STATE.get(workflow.state)
        if verb is None and not is_on_hold and not any(standing.code in _OF_CODE for standing in standings):
            return Found(None, ())
        entries = await self._store.journal(workflow.workflow_id)
        last = [entry for entry in entries if entry.verb == verb][-1:]
        return Found(wire.view_of_entry(last[0]) if last else None, entries)

    async def fill_in(self, workflow: RunningWorkflow, nodes: Sequence[int], views: Sequence[wire.NodeView]) -> None:
        """Say in views of nodes who holds them, who has paused their workflow, or when their tasks were taken for lost."""
        verbs = {node: verb for node in nodes if (verb := _verb_of(workflow, node)) is not None}
        if not verbs:
            return
        entries = await self._store.journal(workflow.workflow_id)
        for node, view in zip(nodes, views, strict=True):
            view.decided = _last(entries, verbs.get(node, ""), workflow.graph.names[node])


def _verb_of(workflow: RunningWorkflow, node: int) -> str | None:
    """Return the verb of the entry that tells why a node does not go on, if there is one."""
    hold = workflow.holds.get(node)
    if node in workflow.on_hold or (hold is not None and hold.reason is HoldReason.OPERATOR):
        return Verb.HOLD
    if hold is not None and hold.reason is HoldReason.LOST:
        return Decision.LOST
    return Verb.PAUSE if workflow.state is WorkflowState.PAUSED and workflow.states[node] not in FINISHED else None


def _last(entries: Sequence[JournalEntry], verb: str, name: str) -> wire.JournalView | None:
    """Return the last entry of a verb that is about a node; one of very many names only the first of them."""
    fitting = [
        entry for entry in entries if entry.verb == verb and (name in entry.nodes or len(entry.nodes) < (entry.count or 1))
    ]
    return wire.view_of_entry(fitting[-1]) if fitting else None
