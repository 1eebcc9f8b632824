"""Who has the places of a pool, for somebody who waits for one: by name, since when, and at which worker. Bounded."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from dyrygentd.core.engine import Engine
from dyrygentd.core.pools import QUEUE_PREFIX
from dyrygentd.core.standing import Standing
from dyrygentd.core.words import counted, span
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.ports.facts import Inspection, TaskPlace
from dyrygentd.scheduler.lost import sought

#: Nodes named of those who hold a pool, and workflows that are named.
_NODES_MAX: Final = 6
_WORKFLOWS_MAX: Final = 3
#: Pools whose holders are looked for in one explanation.
_POOLS_MAX: Final = 3
_SHORT_ID: Final = 8

Trace = Callable[[Sequence[TaskPlace]], Awaitable[Inspection]]
"""Looks for tasks."""


class Holders:
    """Names those who hold full pools; each pool is looked at once in an explanation.

    Args:
        trace: Asks where tasks are.
    """

    def __init__(self, engine: Engine, trace: Trace) -> None:
        self._engine = engine
        self._trace = trace
        self._words: dict[str, tuple[str, str]] = {}

    async def told(self, workflow: RunningWorkflow, standing: Standing, now: float) -> Standing:
        """Add to what is said of a node that waits for a pool who has its places."""
        number = workflow.graph.number(standing.node)
        hold = None if number is None else workflow.holds.get(number)
        if standing.code != "pool" or hold is None or not hold.pool:
            return standing
        if hold.pool not in self._words and len(self._words) < _POOLS_MAX:
            self._words[hold.pool] = await self._look(hold.pool, now)
        words, step = self._words.get(hold.pool, ("", ""))
        if not words:
            return standing
        return replace(standing, text=f"{standing.text}: {words}", next_step=step)

    async def _look(self, pool: str, now: float) -> tuple[str, str]:
        """Return who has the places of a pool, and what can be done; empty if nobody has them any more."""
        holders = sorted(self._engine.flights.holders_of(pool), key=lambda holder: holder[0].attempts.dispatched_at[holder[1]])
        if not holders:
            return "", ""
        named = holders[:_NODES_MAX]
        inspection = await self._trace([sought(workflow, node) for workflow, node in named])
        of: dict[str, list[str]] = {}
        for workflow, node in named:
            of.setdefault(workflow.workflow_id, []).append(_one(workflow, node, inspection, now))
        workflows = {workflow.workflow_id: workflow for workflow, _ in named}
        groups = [
            f"{', '.join(nodes)} of '{workflows[workflow_id].name}' ({workflow_id[:_SHORT_ID]})"
            for workflow_id, nodes in list(of.items())[:_WORKFLOWS_MAX]
        ]
        told = sum(len(nodes) for nodes in list(of.values())[:_WORKFLOWS_MAX])
        more = f" and {len(holders) - told} more" if len(holders) > told else ""
        what = f"limit of queue '{pool.removeprefix(QUEUE_PREFIX)}'" if pool.startswith(QUEUE_PREFIX) else "pool"
        words = f"all {counted(len(holders), 'place')} of the {what}" if len(holders) > 1 else f"the one place of the {what}"
        verb = "are" if len(holders) > 1 else "is"
        oldest = named[0][0].workflow_id
        return (
            f"{words} {verb} held by {'; '.join(groups)}{more}",
            f"it goes when a place is free; `dyrygentctl explain {oldest}` tells about the one that has held it longest",
        )


def _one(workflow: RunningWorkflow, node: int, inspection: Inspection, now: float) -> str:
    """Tell of one holder since when it has its place, and who has its task."""
    task = inspection.tasks.get(workflow.attempts.task_id_of(node))
    since = span(now - workflow.attempts.dispatched_at[node])
    where = "in flight"
    if task is not None and task.worker_state == "active":
        where, since = f"running on {task.worker}", since if task.started_at is None else span(now - task.started_at)
    elif task is not None and task.worker:
        where = f"at {task.worker}"
    elif task is not None and task.position is not None:
        where = f"in queue '{task.queue}'"
    return f"'{workflow.graph.names[node]}' ({where} for {since})"
