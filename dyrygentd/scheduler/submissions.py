"""Submissions on their way to the disk, and when none is accepted."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from uuid import UUID

import anyio

from dyrygentd import wire
from dyrygentd.core.checkpoint import JournalEntry, WorkflowRecord
from dyrygentd.core.effects import Batch
from dyrygentd.core.events import VerbRequested, WorkflowImported, WorkflowSubmitted
from dyrygentd.core.graph import Definition
from dyrygentd.core.invariants import check_workflow
from dyrygentd.core.pools import Pools
from dyrygentd.core.verbs import Request, Verb
from dyrygentd.errors import BadRequest, InvariantBroken, NotAccepting, NotImportable, NotStored, UnknownPool
from dyrygentd.ports import Store, Stored
from dyrygentd.scheduler.archive import Archive, in_thread_if_long
from dyrygentd.scheduler.limits import SchedulerLimits
from dyrygentd.scheduler.turns import Turns


class Submissions:
    """Takes definitions in. Guards: a key creates one workflow, however often and however soon it comes again."""

    def __init__(
        self, turns: Turns, store: Store, archive: Archive, pools: Pools, limits: SchedulerLimits, *, chance: Random
    ) -> None:
        self._chance = chance
        self._archive = archive
        self._turns = turns
        self._store = store
        self._pools = pools
        self._limits = limits
        self._submitting: dict[str, anyio.Event] = {}
        self._withdrawn: set[str] = set()
        self._keys: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._key_lock = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Submissions submitting={len(self._submitting)} keys={len(self._keys)} withdrawn={len(self._withdrawn)}>"

    async def submit(self, definition: Definition, owner: int | None) -> tuple[str, bool]:
        """Submit a definition for a user; return its id, and whether it is new, when it is on disk.

        Raises:
            NotAccepting, NotStored, UnknownPool
        """
        self.refuse_if_not_accepting(len(definition.graph))
        self._refuse_unknown_pools(definition)
        # First, so that nothing waits, and nobody can be cancelled, between looking for the key and the inbox.
        document = await in_thread_if_long(lambda: wire.document_of(definition), 100 * len(definition.graph))
        known = None
        if definition.key is None:
            workflow_id = self._take_in(definition, document, owner)
        else:
            async with self._key_lock:
                known = self._keys.get(definition.key) or await self._store.find_key(definition.key)
                workflow_id = known or self._take_in(definition, document, owner)
        await self._wait_durable(workflow_id, is_keyed=definition.key is not None)
        return workflow_id, known is None

    async def take_over(self, imported: wire.Imported, journal: Sequence[JournalEntry]) -> str:
        """Take in a workflow of another daemon, with its states; return its id when it is on disk.

        Raises:
            NotImportable, BadRequest, NotAccepting, NotStored, UnknownPool
        """
        record, definition = imported.record, imported.definition
        self.refuse_if_not_accepting(len(definition.graph))
        self._refuse_unknown_pools(definition)
        try:
            workflow = await self._archive.rebuilt(Stored(record, imported.nodes))
            await in_thread_if_long(lambda: check_workflow(workflow), 100 * len(definition.graph))
        except Exception as error:
            # Whatever somebody has written into it must be told to them, and end nothing here.
            raise BadRequest(f"the export contradicts itself: {error!s:.300}", path="$") from error
        async with self._key_lock:
            await self._refuse_if_known(record)
            # What is shown of a finished one is what it is, whatever the export says.
            counts = workflow.counts_by_word() if workflow.state.is_finished else None
            event = WorkflowImported(workflow, replace(record, counts=counts), imported.nodes, journal)
            self._post(record.workflow_id, record.key, event, len(definition.graph))
        await self._wait_durable(record.workflow_id, is_keyed=True)
        return record.workflow_id

    def refuse_if_not_accepting(self, nodes: int) -> None:
        """Raise `NotAccepting` if no workflow of so many nodes can be taken in now."""
        limits, turns, engine = self._limits, self._turns, self._turns.engine
        if turns.has_ended:
            raise NotAccepting("the scheduler has ended", next_step="submit again when it is back")
        if engine.draining:
            raise NotAccepting("the daemon is stopping", next_step="submit again when it is back")
        if turns.problem:
            raise NotAccepting(turns.problem, next_step="mend that; the daemon goes on by itself as soon as it can write")
        if len(self._submitting) >= limits.submissions_max:
            raise NotAccepting(f"{limits.submissions_max} submissions are being stored at this moment")
        if len(engine.workflows) >= limits.workflows_max:
            raise NotAccepting(f"{limits.workflows_max} workflows are unfinished, the most that `workflows_max` allows")
        if engine.node_count + nodes > limits.nodes_in_memory_max:
            raise NotAccepting(f"{engine.node_count} nodes are in memory, `nodes_in_memory_max` is {limits.nodes_in_memory_max}")

    def is_withdrawn(self, workflow_id: str) -> bool:
        """Tell whether a workflow was given up before it was stored, so that nothing of it may be sent."""
        return workflow_id in self._withdrawn

    def saved(self, batch: Batch) -> None:
        """Let those go on who wait for what is on disk now."""
        for workflow_id, record in batch.save_workflows.items():
            durable = self._submitting.pop(workflow_id, None)
            if durable is not None:
                durable.set()
            if record.key is not None:
                self._keys.pop(record.key, None)
        for workflow_id, story in batch.refused.items():
            durable = self._submitting.pop(workflow_id, None)
            if durable is not None:
                self._refused[workflow_id] = story
                while len(self._refused) > self._limits.submissions_max:
                    # Whoever asked went away.
                    del self._refused[next(iter(self._refused))]
                durable.set()
        for workflow in batch.finished:
            self._withdrawn.discard(workflow.workflow_id)
            if workflow.workflow_id in batch.refused and workflow.key is not None:
                self._keys.pop(workflow.key, None)

    def end(self) -> None:
        """Wake everybody who waits for something that will not happen any more."""
        for durable in self._submitting.values():
            durable.set()

    def _take_in(self, definition: Definition, document: bytes, owner: int | None) -> str:
        """Put a new workflow into the inbox and return its id. Its key is kept until the disk has it."""
        workflow_id = str(UUID(int=self._chance.getrandbits(128), version=4))
        submitted = WorkflowSubmitted(
            workflow_id=workflow_id,
            name=definition.name,
            graph=definition.graph,
            document=document,
            key=definition.key,
            labels=definition.labels,
            policy=definition.policy,
            adopted=definition.adopted,
            owner=owner,
        )
        self._post(workflow_id, definition.key, submitted, len(definition.graph))
        return workflow_id

    def _post(self, workflow_id: str, key: str | None, event: WorkflowSubmitted | WorkflowImported, nodes: int) -> None:
        self.refuse_if_not_accepting(nodes)
        self._submitting[workflow_id] = anyio.Event()
        if key is not None:
            self._keys[key] = workflow_id
        self._turns.post(event)

    async def _refuse_if_known(self, record: WorkflowRecord) -> None:
        workflow_id, key = record.workflow_id, record.key
        if workflow_id in self._submitting or self._turns.live(workflow_id) or await self._store.record(workflow_id):
            raise NotImportable(workflow_id, "it is here already", next_step=f"`dyrygentctl show {workflow_id}`")
        known = None if key is None else self._keys.get(key) or await self._store.find_key(key)
        if known is not None:
            raise NotImportable(
                workflow_id,
                f"workflow '{known}' was submitted with the same key '{key}'",
                next_step=f"`dyrygentctl show {known}`; if both are meant, remove `key` from the export",
            )

    def _refuse_unknown_pools(self, definition: Definition) -> None:
        graph = definition.graph
        for node, policy in graph.policies.items():
            if policy.pool and self._pools.size_of(policy.pool) is None:
                raise UnknownPool(graph.names[node], policy.pool, self._pools.names)

    async def _wait_durable(self, workflow_id: str, *, is_keyed: bool) -> None:
        with anyio.move_on_after(self._limits.durable_timeout_s):
            durable = self._submitting.get(workflow_id)
            if durable is not None:
                await durable.wait()
                if workflow_id in self._submitting:
                    self._turns.refuse_if_ended(workflow_id)
                if workflow_id in self._refused:
                    raise InvariantBroken(self._refused.pop(workflow_id))
            return
        if workflow_id not in self._submitting:
            return  # It reached the disk in the last moment.
        if not is_keyed:
            self._withdrawn.add(workflow_id)
            self._turns.post(VerbRequested(workflow_id, Request(Verb.CANCEL, why="it could not be stored in time")))
        reason = self._turns.problem or self._turns.slowness or "the database is slow"
        raise NotStored(reason, self._limits.durable_timeout_s, withdrawn=not is_keyed)
