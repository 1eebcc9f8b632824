"""Workflows of nodes: begun, set going again, or found to have ended, as the engine asks for it.

*When.* What a node waits for is known once its row is on disk; the engine asks for the child then, and again after a restart. So
each step here may be done twice: the child's id is the same, and the engine takes nothing in that a node does not wait for.

*What is only weather* (a disk that does not answer, no room in memory) is waited for. What can never be begun makes its node fail
with the reason: nothing of it was sent.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

import anyio

from dyrygentd import wire
from dyrygentd.core.additions import ADDED
from dyrygentd.core.children import end_of, is_to_go_on
from dyrygentd.core.effects import BeginChild
from dyrygentd.core.events import ChildRefused
from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.parent import DEPTH_MAX, Parent
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.errors import (
    DefinitionError,
    DyrygentError,
    Fenced,
    NotAccepting,
    NotOnDiskYet,
    OutsideError,
    RequestError,
    WorkflowNotFound,
)
from dyrygentd.ports import Dispatcher, Store
from dyrygentd.scheduler.added import definition_of_added
from dyrygentd.scheduler.archive import EXPANSION, Archive, in_thread_if_long
from dyrygentd.scheduler.foreign import refuse_foreign
from dyrygentd.scheduler.item_lists import ItemLists
from dyrygentd.scheduler.limits import SchedulerLimits
from dyrygentd.scheduler.submissions import Submissions
from dyrygentd.scheduler.turns import Turns
from dyrygentd.scheduler.value_reading import ValueLost
from dyrygentd.scheduler.verbs import Verbs

logger = logging.getLogger("dyrygentd")

#: How long what cannot be begun just now waits until it is tried again.
_PAUSE_S: Final = 1.0
#: How long the answer to a verb on a child waits for its parent, which is to be read back and set going.
_PARENTS_WAIT_S: Final = 5.0
#: Children that are begun at one time: each may be built in a thread.
_AT_ONCE: Final = 4


class Beginnings:
    """Begins workflows of nodes. Guards: each that a node waits for is begun, however often that has to be tried.

    Args:
        limits: Tells the bounds in force.
        lists: Reads the lists of maps that stand in files.
        refuse_tasks: Raises a `RequestError` if a graph has a task that nobody may submit.

    Attributes:
        waits: ``{id: why}`` of those that cannot be begun just now.
    """

    def __init__(
        self,
        turns: Turns,
        *,
        store: Store,
        archive: Archive,
        submissions: Submissions,
        verbs: Verbs,
        dispatcher: Dispatcher,
        limits: Callable[[], SchedulerLimits],
        chance: Random,
        refuse_tasks: Callable[[Graph], None],
        lists: ItemLists,
    ) -> None:
        self.waits: dict[str, str] = {}
        self._turns = turns
        self._store = store
        self._archive = archive
        self._submissions = submissions
        self._verbs = verbs
        self._dispatcher = dispatcher
        self._limits = limits
        self._chance = chance
        self._refuse_tasks = refuse_tasks
        self._lists = lists
        # At most one for each node that waits, all of which are in memory.
        self._wanted: dict[str, BeginChild] = {}
        self._set_going: dict[str, Parent] = {}
        self._at_work: set[str] = set()
        self._places = anyio.CapacityLimiter(_AT_ONCE)
        self._news = anyio.Event()
        self._went = anyio.Event()

    def __repr__(self) -> str:
        return f"<Beginnings wanted={len(self._wanted)} waits={len(self.waits)}>"

    def __len__(self) -> int:
        """Return how many are wanted and not begun."""
        return len(self._wanted)

    @property
    def notice(self) -> str:
        """What people should know: those that wait for room may wait for each other."""
        why = next(iter(self.waits.values()), "")
        return (
            why and f"{len(self.waits)} workflows of nodes cannot begin: {why}; cancel what can be spared, if nothing else ends"
        )

    def hand_in(self, begin: Mapping[str, BeginChild], set_going: Mapping[str, Parent]) -> None:
        """Take note of what is to run, now that it is on disk that somebody waits for it."""
        if begin or set_going:
            self._wanted.update(begin)
            self._set_going.update(set_going)
            self._news.set()

    async def wait_parents(self, child_id: str) -> None:
        """Wait until what is above a workflow that has been set going goes on as well, or cannot; for some seconds at most.

        Whoever was told that a verb is done, and waits for the parent, must not find an end that is none any more.
        """
        with anyio.move_on_after(_PARENTS_WAIT_S):
            while True:
                live = self._turns.live(child_id)
                parent = self._set_going.get(child_id) or (None if live is None else live.origin.parent)
                while child_id in self._set_going:
                    await self._went.wait()
                if parent is None:
                    return
                child_id = parent.workflow_id

    async def run(self) -> None:
        """Begin them, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                if self._set_going:
                    await self._set_parents_going()
                for child_id in self._wanted.keys() - self._at_work:
                    self._at_work.add(child_id)
                    tasks.start_soon(self._work_on, child_id)
                if self._set_going:
                    with anyio.move_on_after(_PAUSE_S):
                        await self._news.wait()
                    self._news.set()

    async def _work_on(self, child_id: str) -> None:
        try:
            async with self._places:
                await self._begin_or_wait(child_id, self._wanted[child_id])
            if child_id in self.waits:
                await anyio.sleep(_PAUSE_S)
        finally:
            self._at_work.discard(child_id)
            if child_id in self._wanted:
                # It has to be tried again, or was asked for once more meanwhile.
                self._news.set()

    async def _begin_or_wait(self, child_id: str, wanted: BeginChild) -> None:
        try:
            refused = await self._begin(child_id, wanted)
        except Fenced:
            raise
        except (NotAccepting, NotOnDiskYet, OutsideError) as error:
            if child_id not in self.waits:
                logger.warning("workflow %s of a node waits to be begun: %s", child_id, error.message)
            self.waits[child_id] = error.message
            return
        except Exception as error:
            # A bug of ours must not end the others; whoever waits for this one is told.
            logger.exception("workflow %s of a node cannot be begun", child_id)
            refused = f"it cannot be begun: {error!r}"
        self.waits.pop(child_id, None)
        if self._wanted.get(child_id) is wanted:
            del self._wanted[child_id]
        if refused:
            self._turns.inbox.post(ChildRefused(wanted.parent, refused))

    async def _begin(self, child_id: str, wanted: BeginChild) -> str:
        """Have a child run, or tell that it has succeeded; return why that can never be, empty if it can."""
        if not self._is_wanted(wanted.parent):
            return ""
        live = self._turns.live(child_id)
        if live is not None and not _is_of(live.origin.parent, wanted.parent):
            return _OTHERS.format(child_id)
        if live is not None and not live.state.is_finished:
            return ""
        if live is not None:
            await self._verbs.wait_until_stored(child_id)
        # Those that wait for room are many, and each would read a row every time.
        self._submissions.refuse_if_not_accepting(1, is_child=True)
        record = await self._store.record(child_id)
        if record is not None and not _is_of(record.parent, wanted.parent):
            return _OTHERS.format(child_id)
        if record is not None:
            return await self._go_on(child_id, wanted)
        if wanted.parent.depth > DEPTH_MAX:
            return f"there are {wanted.parent.depth} workflows above its own, the limit is {DEPTH_MAX}"
        if not wanted.has_input:
            return "the value that its workflow takes is not kept any more: `rerun` what gives it"
        try:
            definition = await self._decoded(wanted)
            if definition is None:
                self._turns.inbox.post(ChildRefused(wanted.parent, "its list is empty", is_unneeded=True))
                return ""
            await refuse_foreign(definition, self._dispatcher)
            await self._submissions.take_in_child(definition, wanted.owner, wanted.parent)
        except NotAccepting:
            raise
        except (RequestError, DefinitionError, ValueLost) as error:
            step = f" (next: {error.next_step})" if error.next_step else ""
            return f"its workflow cannot be begun: {error.message}{step}"
        return ""

    async def _decoded(self, wanted: BeginChild) -> Definition | None:
        """Return what is to be begun; None if its node is to be skipped instead."""
        child, place = wanted.child, self._place_of(wanted.parent)
        given = None if wanted.input is None else await self._archive.values.text(bytes(wanted.input))
        limits, new_id = self._limits(), MadeIds(f"{self._chance.getrandbits(128):x}")
        if child.kind in ADDED:
            # What a task returns may be as long as any value.
            child = replace(child, document=await self._archive.values.text(child.document))
        elif child.kind == wire.MAP:
            bytes_max = limits.engine.value_bytes_max
            child, given = await self._lists.written_out(child, given, place.after, bytes_max=bytes_max)

        def decode() -> Definition | None:
            depth = wanted.parent.depth
            bounds: dict[str, Any] = {"nodes_max": limits.nodes_max, "node_bytes_max": limits.node_bytes_max}
            if child.kind == wire.MAP:
                definition = wire.expand_child(child, given, place, name=wanted.name, **bounds)
            elif child.kind in ADDED:
                definition = definition_of_added(child, name=wanted.name, depth=depth, new_id=new_id, **bounds)
            else:
                definition = wire.decode_child(child, given, name=wanted.name, depth=depth, new_id=new_id, **bounds)
            if definition is not None:
                # Once more: what a task returned may have become the name of one.
                self._refuse_tasks(definition.graph)
            return definition

        size = len(child.document) + len(given or b"")
        # A list is short for the nodes that are made of it.
        return await in_thread_if_long(decode, EXPANSION * size if child.kind == wire.MAP else size)

    def _place_of(self, parent: Parent) -> wire.ChildPlace:
        workflow = self._turns.engine.workflows[parent.workflow_id]
        names = workflow.graph.names
        after = [names[node] for node in workflow.graph.dependencies(parent.node)]
        return wire.ChildPlace(names[parent.node], after, parent.child_id, workflow.policy)

    def _is_wanted(self, parent: Parent) -> bool:
        workflow = self._turns.engine.workflows.get(parent.workflow_id)
        return workflow is not None and self._turns.engine.children.waits(parent)

    async def _go_on(self, child_id: str, wanted: BeginChild) -> str:
        """Have a child go on that has ended, since its node is tried again; or tell that it has succeeded."""
        record = await self._store.record(child_id)
        if record is None or record.finished_at is None:
            return ""
        if record.state is WorkflowState.SUCCEEDED:
            self._turns.inbox.post(end_of(await self._archive.unpacked(child_id), wanted.parent))
            return ""
        why = f"its node in workflow '{wanted.parent.workflow_id}' is tried again"
        try:
            answer = await self._verbs.ask(child_id, VerbRequest(Verb.RETRY, why=why))
        except NotAccepting:
            raise  # Not now, which is no answer.
        except RequestError as error:
            return f"its workflow '{child_id}' cannot go on: {error.message}"
        return "" if answer.is_changed else f"its workflow '{child_id}' has ended, and has nothing that could be tried again"

    async def _set_parents_going(self) -> None:
        """Have nodes wait for their children again that go on although their node has ended."""
        for child_id, parent in [*self._set_going.items()]:
            try:
                await self._set_parent_going(child_id, parent)
            except Fenced:
                raise
            except (NotAccepting, OutsideError) as error:
                logger.info("workflow %s is not set going again with its child yet: %s", parent.workflow_id, error)
                continue
            except DyrygentError as error:
                logger.warning("workflow %s does not go on with its child %s: %s", parent.workflow_id, child_id, error)
            self._set_going.pop(child_id, None)
            self._went.set()
            self._went = anyio.Event()

    async def _set_parent_going(self, child_id: str, parent: Parent) -> None:
        if await self._store.record(parent.workflow_id) is None:
            return
        live = self._turns.live(child_id)
        record = None if live is not None else await self._store.record(child_id)
        state = live.state if live is not None else None if record is None else record.state
        workflow = self._turns.live(parent.workflow_id)
        if workflow is None or workflow.state.is_finished:
            try:
                await self._verbs.wait_until_stored(parent.workflow_id)
                workflow = await self._archive.unpacked(parent.workflow_id)
            except WorkflowNotFound:
                return
        if state is not None and is_to_go_on(workflow, parent, state):
            name = workflow.graph.names[parent.node]
            why = f"its workflow '{child_id}' goes on"
            await self._verbs.ask(parent.workflow_id, VerbRequest(Verb.RETRY, nodes=(name,), why=why))


#: Somebody has written an export by hand, in which a workflow has this id; its result is not what the node waits for.
_OTHERS: Final = "workflow '{}' has the id of its own, and is not that of this node: `rerun` the node to have another one"


def _is_of(parent: Parent | None, wanted: Parent) -> bool:
    return parent is not None and (parent.workflow_id, parent.node, parent.generation) == (
        wanted.workflow_id,
        wanted.node,
        wanted.generation,
    )
