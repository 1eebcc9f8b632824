"""The one door for task ids from outside: of definitions, frozen canvases, adopted tasks, imports, and workflows that go on.

*The idea.* Results, messages, revokes and markers go by a task's id alone, and everybody who may read sees the ids of all. So an
id that somebody brings along is taken only if it is nobody's: no daemon has made it, no workflow here holds it or has its task
watched on, and nothing is stored under it in the result backend, where tasks of other daemons and of plain Celery leave what they
did. What is adopted was sent before, so something may be stored of it.

*When.* The id is claimed first, which nobody else can then; the backend is asked after that, once for all of them, and the answer
to the submission waits for it. Ids that the daemon makes need neither.

*What cannot be known*: a task of another daemon, or of plain Celery, of which nothing is stored yet. Its id is taken; whoever may
submit and knows it can then have it revoked, as anybody can who reaches the broker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from dyrygentd.core.engine import Engine
from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.ids import is_made, looks_made
from dyrygentd.core.states import NodeState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BackendUnavailable, BadNode, NotAccepting, TaskIdTaken
from dyrygentd.ports import ResultWatcher
from dyrygentd.scheduler.archive import in_thread_if_long
from dyrygentd.scheduler.nested_ids import nested_ids

_SUCCESS: Final = "SUCCESS"


class Door:
    """Judges ids. Guards: an id from outside belongs to one workflow, and to nobody outside as far as that can be known."""

    def __init__(self, engine: Engine, watcher: ResultWatcher) -> None:
        self._engine = engine
        self._watcher = watcher

    async def admit(self, workflow_id: str, definition: Definition) -> Definition:
        """Claim the ids that a definition brings along, and return it with what turned out to be adopted.

        Whoever does not take it in has to call `dismiss`.

        Raises:
            BadNode, TaskIdTaken, NotAccepting
        """
        graph = definition.graph
        nodes = definition.nodes_from_outside
        nested = await in_thread_if_long(lambda: nested_ids(graph), 10 * len(graph))
        if nested:
            await self._admit_nested(workflow_id, graph, nested)
        if not nodes:
            return definition
        task_ids = [graph.task_ids[node] for node in nodes]
        # Of thousands of ids nearly always all are good, which is seen faster of all of them together.
        if self._engine.flights.are_held(task_ids) or any(map(looks_made, task_ids)) or not "".join(task_ids).isprintable():
            for node in nodes:
                self._refuse_if_bad(graph, node, graph.task_ids[node])
        self._engine.flights.claims.claim(workflow_id, task_ids)
        if definition.adopted:
            task_ids = [graph.task_ids[node] for node in nodes if node not in definition.adopted]
        stored = await self._stored(task_ids)
        if not stored:
            return definition
        taken = [node for node in nodes if graph.task_ids[node] in stored]
        if definition.adopted:
            # Of what is adopted something may have been sent in the last moment, and gone by whoever wrote this down.
            return replace(definition, adopted={**definition.adopted, **dict.fromkeys(taken, NodeState.DISPATCHED)}, source=None)
        task_id = graph.task_ids[taken[0]]
        raise _has_result(graph, taken[0], task_id, stored[task_id])

    async def _admit_nested(self, workflow_id: str, graph: Graph, nested: Mapping[str, int]) -> None:
        """Claim ids of signatures inside others, under which workers will store results."""
        for task_id, node in nested.items():
            self._refuse_if_bad(graph, node, task_id)
        self._engine.flights.claims.claim(workflow_id, nested)
        stored = await self._stored(list(nested))
        for task_id in stored:
            raise _has_result(graph, nested[task_id], task_id, stored[task_id])

    async def admit_import(self, workflow: RunningWorkflow) -> None:
        """Claim the ids of a workflow that comes from another daemon, which are what they are.

        Raises:
            TaskIdTaken, NotAccepting
        """
        graph, ids = workflow.graph, {}
        for node, task_id in enumerate(graph.task_ids):
            if task_id:
                ids[task_id] = node
        for task_id, node in ids.items():
            self._refuse_if_held(graph, node, task_id)
        for other in self._engine.workflows.values():
            # Those that the daemon made stand in no table.
            for task_id in ids.keys() & set(other.graph.task_ids):
                raise _is_held(graph, ids[task_id], task_id, other.workflow_id)
        if workflow.state.is_finished:
            return
        self._engine.flights.claims.claim(workflow.workflow_id, ids)
        never_sent = [node for node in ids.values() if not workflow.attempts.of(node)]
        stored = await self._stored([graph.task_ids[node] for node in never_sent])
        for node in never_sent:
            if stored.get(graph.task_ids[node]) == _SUCCESS:
                raise _has_result(graph, node, graph.task_ids[node], _SUCCESS)

    async def taken_since(self, workflow: RunningWorkflow) -> Sequence[int]:
        """Return the nodes of a finished workflow that were never sent, and have to leave their ids to others if it goes on.

        Raises:
            NotAccepting
        """
        graph = workflow.graph
        nodes = [
            node
            for node, task_id in enumerate(graph.task_ids)
            if task_id and not workflow.attempts.of(node) and not is_made(task_id)
        ]
        stored = await self._stored([graph.task_ids[node] for node in nodes])
        return [
            node
            for node in nodes
            if stored.get(graph.task_ids[node]) == _SUCCESS
            or self._engine.flights.holder_of(graph.task_ids[node]) not in (None, workflow.workflow_id)
        ]

    def dismiss(self, workflow_id: str) -> None:
        """Give up the claims of a workflow that is not taken in."""
        self._engine.flights.claims.release(workflow_id)

    def _refuse_if_bad(self, graph: Graph, node: int, task_id: str) -> None:
        if not task_id.isprintable():
            raise BadNode(graph.names[node], f"`task_id` is {task_id[:100]!r}", next_step="leave it out, or use printable text")
        self._refuse_if_held(graph, node, task_id)
        if looks_made(task_id):
            raise TaskIdTaken(graph.names[node], task_id, "was made by a dyrygentd for a task of its own")

    def _refuse_if_held(self, graph: Graph, node: int, task_id: str) -> None:
        holder = self._engine.flights.holder_of(task_id)
        if holder is not None:
            raise _is_held(graph, node, task_id, holder)

    async def _stored(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        if not task_ids:
            return {}
        try:
            return await self._watcher.find_stored(task_ids)
        except BackendUnavailable as error:
            next_step = "submit again when the result backend answers, or leave out `task_id`"
            raise NotAccepting(error.message, next_step=next_step) from error


def _is_held(graph: Graph, node: int, task_id: str, holder: str) -> TaskIdTaken:
    return TaskIdTaken(graph.names[node], task_id, f"belongs to a task of workflow '{holder}'")


def _has_result(graph: Graph, node: int, task_id: str, state: str) -> TaskIdTaken:
    return TaskIdTaken(graph.names[node], task_id, f"is that of a task which has run: the result backend has {state}")
