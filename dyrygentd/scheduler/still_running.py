"""Which tasks run on although their nodes have gone on without them: timed out, cancelled, skipped, or taken for lost.

A worker cannot always end what it executes (only the pool ``prefork`` can), and one that was away does not know that it should.
So before anybody starts another attempt it is asked whether the old one still runs, and whoever asks to retry is refused as long
as it does, unless they force it.

Whoever retries in bulk asks for one workflow after the other. So a look takes along what other workflows have given up, and its
answer counts for some seconds: a thousand workflows cost a few questions, and none of them goes unasked.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Final

import anyio

from dyrygentd.commands import command_on
from dyrygentd.core.engine import Engine
from dyrygentd.core.given_up import given_up_by
from dyrygentd.core.verbs import Verb, VerbRequest, started_again_by
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import VerbRefused, WorkflowNotFound
from dyrygentd.ports import Clock, Inspector
from dyrygentd.ports.facts import Inspection
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.lost import sought
from dyrygentd.scheduler.whereabouts import FRESH_S, LOOKED_FOR_MAX, Whereabouts, whereabouts_of
from dyrygentd.witnesses import Roster

#: Tasks in one question for whoever wants to start them again.
_ASKED_AT_ONCE: Final = 500
#: Tasks that are looked for at one request; one that may start more beside old ones has to be made smaller, or forced.
_ASKED_MAX: Final = 5000
_STARTING_AGAIN: Final = frozenset({Verb.RETRY, Verb.RERUN})


class StillRunning:
    """Asks the workers about tasks whose nodes went on without them. Those that ended long ago are not asked for.

    Args:
        engine: Returns the engine that has the workflows.
    """

    def __init__(
        self, engine: Callable[[], Engine], archive: Archive, *, inspector: Inspector | None, clock: Clock, roster: Roster
    ) -> None:
        self._engine = engine
        self._archive = archive
        self._inspector = inspector
        self._clock = clock
        self._roster = roster
        # One look at a time: those who wait for it mostly find their answer in it.
        self._one_look = anyio.Lock()
        self._found: dict[str, tuple[float, Whereabouts | None]] = {}

    def __repr__(self) -> str:
        return f"<StillRunning found={len(self._found)}>"

    def candidates(self, workflow: RunningWorkflow, *, most: int = LOOKED_FOR_MAX) -> list[int]:
        """Return the nodes of a workflow whose last attempt may run on although they went on without it."""
        if self._inspector is None:
            return []
        if self._engine().flights.known(workflow.workflow_id) is None:
            # It ended before this process began, or all that was watched of it has been heard of.
            given_up = given_up_by(workflow, self._clock.now() - self._engine().limits.late_watch_s)
            return [task.node for task in islice(given_up, most)]
        if not self._engine().flights.has_late(workflow.workflow_id):
            return []
        found = (node for node in range(len(workflow.graph)) if self._is_late(workflow, node))
        return list(islice(found, most))

    def _is_late(self, workflow: RunningWorkflow, node: int) -> bool:
        is_without = workflow.state_of(node).is_finished or node in workflow.holds
        return is_without and self._engine().flights.is_late(workflow.attempts.task_id_of(node))

    def may_run_on(self, workflow: RunningWorkflow, node: int) -> bool:
        """Tell, without asking anybody, whether the last attempt may run although the node has gone on without it."""
        if not (workflow.state_of(node).is_finished or node in workflow.holds):
            return False
        if self._engine().flights.known(workflow.workflow_id) is None:
            return any(given_up_by(workflow, self._clock.now() - self._engine().limits.late_watch_s, [node]))
        return self._engine().flights.is_given_up(workflow.attempts.task_id_of(node))

    def running(self, workflow: RunningWorkflow, nodes: Sequence[int], inspection: Inspection) -> dict[int, Whereabouts]:
        """Return those of the nodes whose old task runs at a worker, with what is known of it."""
        found = {}
        for node in nodes:
            task_id = workflow.attempts.task_id_of(node)
            if task_id in inspection.tasks:
                whereabouts = whereabouts_of(inspection, task_id, now=self._clock.now())
                if whereabouts.code == "running":
                    found[node] = replace(
                        whereabouts, text=f"its task still {whereabouts.text}", next_step=beside(workflow, node)
                    )
        return found

    async def refuse(self, workflow_id: str, request: VerbRequest) -> None:
        """Raise `VerbRefused` if somebody would start a task beside one that still runs, and did not force it."""
        if self._inspector is None or request.force or request.verb not in _STARTING_AGAIN:
            return
        workflow = self._engine().flights.known(workflow_id)
        if workflow is None:
            with suppress(WorkflowNotFound):
                workflow = await self._archive.unpacked(workflow_id)
        if workflow is None:
            return
        candidates = self.candidates(workflow, most=len(workflow.graph))
        meant = started_again_by(workflow, request) if candidates else set()
        nodes = [node for node in candidates if node in meant]
        if len(nodes) > _ASKED_MAX:
            raise _too_many(workflow, request, len(nodes))
        for first in range(0, len(nodes), _ASKED_AT_ONCE):
            asked = nodes[first : first + _ASKED_AT_ONCE]
            for node, whereabouts in (await self._found_of(workflow, asked)).items():
                if whereabouts is not None:
                    name, state = workflow.graph.names[node], workflow.state_of(node).word
                    error = VerbRefused(request.verb.value, f"node '{name}'", state, allowed=[], reason=whereabouts.text)
                    error.next_step = whereabouts.next_step
                    raise error

    async def _found_of(self, workflow: RunningWorkflow, nodes: Sequence[int]) -> dict[int, Whereabouts | None]:
        """Return what the workers said lately of the old tasks of these, and ask them if they were not asked."""
        async with self._one_look:
            now = self._clock.now()
            self._found = {task_id: found for task_id, found in self._found.items() if abs(now - found[0]) < FRESH_S}
            if any(workflow.attempts.task_id_of(node) not in self._found for node in nodes):
                await self._ask(workflow, nodes)
            # What somebody else has started again meanwhile was not asked for: it is in flight, which the engine refuses.
            return {node: self._found.get(workflow.attempts.task_id_of(node), (now, None))[1] for node in nodes}

    async def _ask(self, workflow: RunningWorkflow, nodes: Sequence[int]) -> None:
        asked = {workflow.workflow_id: (workflow, [*nodes])}
        count = len(nodes)
        for other, node in self._others(workflow, _ASKED_AT_ONCE - count):
            asked.setdefault(other.workflow_id, (other, []))[1].append(node)
        assert self._inspector is not None
        places = {each.attempts.task_id_of(node): sought(each, node) for each, its_nodes in asked.values() for node in its_nodes}
        inspection = await self._inspector.trace([*places.values()])
        now = self._clock.now()
        inspection = self._roster.seen(inspection, now)
        self._found |= dict.fromkeys(places, (now, None))
        for each, its_nodes in asked.values():
            # By what they were asked for: a node may have begun another attempt meanwhile.
            for node, whereabouts in self.running(each, its_nodes, inspection).items():
                self._found[each.attempts.task_id_of(node)] = now, whereabouts

    def _others(self, workflow: RunningWorkflow, most: int) -> Iterable[tuple[RunningWorkflow, int]]:
        """Return what others have given up and nobody asked about lately, the newest first, as those who ask in bulk go."""
        found = (
            (other, node)
            for other, node in islice(self._engine().flights.late_tasks(), _ASKED_MAX)
            if other is not workflow and self._is_late(other, node) and other.attempts.task_id_of(node) not in self._found
        )
        return islice(found, max(most, 0))


def _too_many(workflow: RunningWorkflow, request: VerbRequest, count: int) -> VerbRefused:
    what = f"workflow '{workflow.workflow_id}'"
    reason = f"{count} of its old tasks may still run, and {_ASKED_MAX} are looked for at one time"
    error = VerbRefused(request.verb.value, what, workflow.state.value, allowed=[], reason=reason)
    error.next_step = "wait until they have ended, name fewer nodes, or add --force: tasks may then run twice"
    return error


def beside(workflow: RunningWorkflow, node: int) -> str:
    """Say what can be done while an old task runs."""
    retry = command_on("retry", workflow.workflow_id, [workflow.graph.names[node]], force=True)
    return f"wait for its end, or end it at its worker; `{retry}` starts another one beside it"
