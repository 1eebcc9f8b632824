"""Submissions on their way to the disk, and when none is accepted."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from random import Random
from typing import Final, NamedTuple
from uuid import UUID

import anyio

from dyrygentd import wire
from dyrygentd.core.events import VerbRequested, WorkflowImported, WorkflowSubmitted
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.ids import ALL_MADE, SOME_FROM_OUTSIDE
from dyrygentd.core.invariants import check_workflow
from dyrygentd.core.parent import Parent
from dyrygentd.core.pools import Pools
from dyrygentd.core.records import WorkflowRecord
from dyrygentd.core.series import Admission, SeriesWord
from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import (
    BadRequest,
    InvariantBroken,
    KeyTaken,
    NotAccepting,
    NotImportable,
    NotOnDiskYet,
    NotStored,
    UnknownPool,
)
from dyrygentd.ports import Store
from dyrygentd.ports.facts import Stored
from dyrygentd.ports.mailbox import Letter
from dyrygentd.scheduler.admissions import Taken
from dyrygentd.scheduler.archive import Archive, in_thread_if_long
from dyrygentd.scheduler.door import Door
from dyrygentd.scheduler.turns import Turns
from dyrygentd.wire.digests import difference, digest_of, is_other

#: A key, and whose it is: those of two users never meet.
_Key = tuple[User | None, str]
#: What a workflow of one node has in memory, in nodes of long workflows.
_NODES_OF_A_WORKFLOW: Final = 10
_TOO_LATE: Final = "it could not be stored in time"


class _Keyed(NamedTuple):
    """What has a key, and is not on disk yet."""

    workflow_id: str
    digest: str
    definition: Definition


class Submissions:
    """Takes definitions in. Guards: a key of a user creates one workflow, however often and however soon it comes again.

    Task ids that come from outside go through the `Door`.
    """

    def __init__(
        self,
        turns: Turns,
        *,
        store: Store,
        archive: Archive,
        pools: Pools,
        door: Door,
        chance: Random,
        submissions_max: int,
        workflows_max: int,
        nodes_in_memory_max: int,
        durable_timeout_s: float,
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        self._confirm = confirm
        self._door = door
        self._chance = chance
        self._archive = archive
        self._turns = turns
        self._store = store
        self._pools = pools
        self._submissions_max = submissions_max
        self._workflows_max = workflows_max
        self._nodes_in_memory_max = nodes_in_memory_max
        self._durable_timeout_s = durable_timeout_s
        self._submitting: dict[str, anyio.Event] = {}
        self._withdrawn: set[str] = set()
        self._keys: dict[_Key, _Keyed] = {}
        self._refused: dict[str, str] = {}
        self._admissions: dict[str, Admission] = {}
        self._key_locks: dict[_Key, anyio.Lock] = {}
        self._key_users: Counter[_Key] = Counter()
        self._import_lock = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Submissions submitting={len(self._submitting)} keys={len(self._keys)} withdrawn={len(self._withdrawn)}>"

    async def submit(
        self,
        definition: Definition,
        owner: User | None,
        *,
        letter: Letter | None = None,
        begun: Callable[[], None] = lambda: None,
    ) -> Taken:
        """Submit a definition for a user; return what became of it when that is on disk.

        Args:
            letter: By which it came. It has an id by that, is found again if it is here, waits for the disk for ever, and is
                confirmed by whoever answers letters.
            begun: Told once nothing that is submitted later can be worked in before it.

        Raises:
            NotAccepting, NotStored, NotOnDiskYet, UnknownPool, TaskIdTaken, KeyTaken, Fenced
        """
        timeout_s, made = (self._durable_timeout_s, "") if letter is None else (math.inf, letter.workflow_id)
        if letter is not None and letter.may_be_done and await self._is_here(made):
            begun()
            await self._wait_durable(made, is_keyed=True, timeout_s=timeout_s)
            return Taken(made, True, self._admissions.get(made))
        self.refuse_if_not_accepting(len(definition.graph))
        self._refuse_unknown_pools(definition)
        known = None
        if definition.key is None:
            workflow_id = await self._take_in(definition, owner, made=made)
        else:
            digest = await in_thread_if_long(lambda: digest_of(definition), 100 * len(definition.graph))
            async with self._only(owner, definition.key):
                known = await self._known(definition, owner, digest)
                workflow_id = known or await self._take_in(definition, owner, digest, made=made)
        begun()
        await self._wait_durable(workflow_id, is_keyed=definition.key is not None, timeout_s=timeout_s)
        if letter is None:
            await self._confirm()
        admission = self._admissions.get(workflow_id)
        if admission is not None and admission.word is SeriesWord.SKIPPED:
            return Taken(admission.going, False, admission)
        return Taken(workflow_id, known is None, admission if known is None else None)

    async def _is_here(self, workflow_id: str) -> bool:
        """Tell whether a workflow is known, on disk or not."""
        is_under_way = workflow_id in self._submitting or self._turns.live(workflow_id) is not None
        return is_under_way or await self._store.record(workflow_id) is not None

    async def _known(self, definition: Definition, owner: User | None, digest: str) -> str | None:
        """Return the workflow that a user has given this key before. Raises `KeyTaken` if it has another definition."""
        key = definition.key
        assert key is not None
        keyed = self._keys.get((owner, key))
        if keyed is not None:
            if is_other(keyed.digest, digest):
                raise KeyTaken(key, keyed.workflow_id, difference(keyed.definition, definition))
            return keyed.workflow_id
        known = await self._store.find_key(key, owner)
        record = None if known is None else await self._store.record(known)
        if known is not None and record is not None and is_other(record.digest, digest):
            raise KeyTaken(key, known, await self._difference(known, definition))
        return known

    async def _difference(self, workflow_id: str, definition: Definition) -> str:
        stored = await self._archive.stored(workflow_id)
        document = stored.record.document or b""

        def compare() -> str:
            known = wire.decode_definition(document, nodes_max=NODES_MAX, has_good_options=False)
            return difference(known, definition)

        return await in_thread_if_long(compare, len(document))

    @asynccontextmanager
    async def _only(self, owner: User | None, key: str | None) -> AsyncIterator[None]:
        """Let one submission after the other look for a key: what the first one does is what the next one finds."""
        if key is None:
            yield
            return
        whose = owner, key
        self._key_users[whose] += 1
        try:
            async with self._key_locks.setdefault(whose, anyio.Lock()):
                yield
        finally:
            self._key_users[whose] -= 1
            if not self._key_users[whose]:
                del self._key_users[whose], self._key_locks[whose]

    async def take_over(self, imported: wire.Imported, *, is_patient: bool = False) -> str:
        """Take in a workflow of another daemon with its states, and all below it; return its id when they are on disk.

        Args:
            is_patient: Wait for the disk however long it takes, and leave it to whoever answers letters to confirm it.

        Raises:
            NotImportable, BadRequest, NotAccepting, NotStored, UnknownPool, TaskIdTaken, Fenced
        """
        record, definition, nodes = imported.record, imported.definition, imported.node_count
        self.refuse_if_not_accepting(nodes)
        whole = [imported, *imported.children]
        for each in whole:
            self._refuse_unknown_pools(each.definition)
        workflows = [await self._rebuilt(each) for each in whole]
        async with self._import_lock, self._only(record.owner, record.key):
            for each in whole:
                await self._refuse_if_known(each.record)
            try:
                for workflow in workflows:
                    await self._door.admit_import(workflow)
                events = [_imported(each, workflow) for each, workflow in zip(whole, workflows, strict=True)]
                self._post(record.workflow_id, replace(events[0], children=events[1:]), nodes)
            except BaseException:
                for workflow in workflows:
                    self._door.dismiss(workflow.workflow_id)
                raise
            if record.key is not None:
                self._keys[record.owner, record.key] = _Keyed(record.workflow_id, record.digest, definition)
        timeout_s = math.inf if is_patient else self._durable_timeout_s
        await self._wait_durable(record.workflow_id, is_keyed=True, timeout_s=timeout_s)
        if not is_patient:
            await self._confirm()
        return record.workflow_id

    async def _rebuilt(self, imported: wire.Imported) -> RunningWorkflow:
        """Build an imported workflow. Raises `BadRequest` if what is said of it cannot be."""
        try:
            workflow = await self._archive.rebuilt(Stored(imported.record, imported.nodes))
            await in_thread_if_long(lambda: check_workflow(workflow), 100 * len(imported.definition.graph))
        except Exception as error:
            # Whatever somebody has written into it must be told to them, and end nothing here.
            raise BadRequest(f"the export contradicts itself: {error!s:.300}", path="$") from error
        return workflow

    def refuse_if_not_accepting(self, nodes: int, *, is_child: bool = False) -> None:
        """Raise `NotAccepting` or `Fenced` if no workflow of so many nodes can be taken in now.

        Args:
            is_child: It does the work of a node, whose workflow may be one of the most that are allowed: each of these could
                wait for a child for ever.
        """
        turns, engine = self._turns, self._turns.engine
        if turns.fenced is not None:
            raise copy(turns.fenced)
        if turns.has_ended:
            raise NotAccepting("the scheduler has ended", next_step="submit again when it is back")
        if engine.draining:
            raise NotAccepting("the daemon is stopping", next_step="submit again when it is back")
        if turns.saving.problem:
            raise NotAccepting(turns.saving.problem, next_step="mend that; the daemon goes on by itself as soon as it can write")
        if len(self._submitting) >= self._submissions_max:
            raise NotAccepting(f"{self._submissions_max} submissions are being stored at this moment")
        if len(engine.workflows) >= self._workflows_max and not is_child:
            raise NotAccepting(f"{self._workflows_max} workflows are unfinished, the most that `workflows_max` allows")
        # Children alone can be more workflows than these, and many of one node each have more in memory than their nodes.
        others = _NODES_OF_A_WORKFLOW * max(0, len(engine.workflows) - self._workflows_max)
        if engine.node_count + nodes + others > self._nodes_in_memory_max:
            beside = f", and {len(engine.workflows)} workflows" if others else ""
            words = f"{engine.node_count} nodes are in memory{beside}, `nodes_in_memory_max` is {self._nodes_in_memory_max}"
            raise NotAccepting(words)

    def is_withdrawn(self, workflow_id: str) -> bool:
        """Tell whether a workflow was given up before it was stored, so that nothing of it may be sent."""
        return workflow_id in self._withdrawn

    def withdrawn(self) -> list[RunningWorkflow]:
        """Return those that were given up and are in memory until the disk works again."""
        workflows = self._turns.engine.workflows
        return [workflows[each] for each in self._withdrawn if each in workflows]

    def saved(
        self,
        records: Mapping[str, WorkflowRecord],
        refused: Mapping[str, str],
        finished: Iterable[RunningWorkflow],
        admissions: Mapping[str, Admission],
    ) -> None:
        """Let those go on who wait for what is on disk now, or never will be.

        Args:
            records: ``{workflow id: what is stored of it now}``.
            refused: ``{workflow id: why}`` of those of which the store takes nothing.
            admissions: ``{workflow id: what was decided}`` of submissions of a series.
        """
        for workflow_id, admission in admissions.items():
            self._admitted(workflow_id, admission)
        for workflow_id, record in records.items():
            durable = self._submitting.pop(workflow_id, None)
            if durable is not None:
                durable.set()
            if record.key is not None:
                self._keys.pop((record.owner, record.key), None)
        for workflow_id, story in refused.items():
            durable = self._submitting.pop(workflow_id, None)
            if durable is not None:
                self._refused[workflow_id] = story
                while len(self._refused) > self._submissions_max:
                    # Whoever asked went away.
                    del self._refused[next(iter(self._refused))]
                durable.set()
        for workflow in finished:
            self._withdrawn.discard(workflow.workflow_id)
            if workflow.workflow_id in refused and workflow.origin.key is not None:
                self._keys.pop((workflow.origin.owner, workflow.origin.key), None)

    def _admitted(self, workflow_id: str, admission: Admission) -> None:
        """Keep what was decided about a submission for whoever asks for it; of one that was skipped nothing is left."""
        self._admissions[workflow_id] = admission
        while len(self._admissions) > self._submissions_max:
            del self._admissions[next(iter(self._admissions))]
        if admission.word is SeriesWord.SKIPPED:
            self._door.dismiss(workflow_id)
            self._withdrawn.discard(workflow_id)
            keyed = None if admission.key is None else self._keys.get((admission.owner, admission.key))
            if admission.key is not None and keyed is not None and keyed.workflow_id == workflow_id:
                del self._keys[admission.owner, admission.key]
            durable = self._submitting.pop(workflow_id, None)
            if durable is not None:
                durable.set()

    def end(self) -> None:
        """Wake everybody who waits for something that will not happen any more."""
        for durable in self._submitting.values():
            durable.set()

    async def _take_in(self, definition: Definition, owner: User | None, digest: str = "", *, made: str = "") -> str:
        """Put a new workflow into the inbox and return its id. Its key is kept until the disk has it."""
        workflow_id = made or str(UUID(int=self._chance.getrandbits(128), version=4))
        given = definition
        try:
            definition = await self._door.admit(workflow_id, definition)
            document = await in_thread_if_long(lambda: wire.document_of(definition), 100 * len(definition.graph))
            # From here on nothing waits, so nobody can be cancelled.
            self._post(workflow_id, self._submitted(workflow_id, definition, document, owner, digest), len(definition.graph))
        except BaseException:
            self._door.dismiss(workflow_id)
            raise
        if definition.key is not None:
            self._keys[owner, definition.key] = _Keyed(workflow_id, digest, given)
        return workflow_id

    async def take_in_child(self, definition: Definition, owner: User | None, parent: Parent) -> None:
        """Put the workflow of a node into the inbox; the engine takes it in if the node still waits for it.

        Raises:
            NotAccepting, UnknownPool, BadNode, TaskIdTaken, Fenced
        """
        child_id, nodes = parent.child_id, len(definition.graph)
        self._refuse_if_never(parent, nodes)
        self.refuse_if_not_accepting(nodes, is_child=True)
        self._refuse_unknown_pools(definition)
        try:
            definition = await self._door.admit(child_id, definition)
            document = await in_thread_if_long(lambda: wire.document_of(definition), 100 * nodes)
            self.refuse_if_not_accepting(nodes, is_child=True)
        except BaseException:
            self._door.dismiss(child_id)
            raise
        event = self._submitted(child_id, definition, document, owner, "")
        self._turns.inbox.post(replace(event, parent=parent))

    def _refuse_if_never(self, parent: Parent, nodes: int) -> None:
        """Raise `BadRequest` if there is no room for a child even when nothing but what is above it is in memory."""
        above, upper = 0, self._turns.live(parent.workflow_id)
        while upper is not None:
            above += len(upper.graph)
            upper = None if upper.origin.parent is None else self._turns.live(upper.origin.parent.workflow_id)
        most = self._nodes_in_memory_max
        if above + nodes > most:
            raise BadRequest(
                f"it has {nodes} nodes, and those above it {above}, more than `nodes_in_memory_max` ({most})",
                path="$.nodes",
                next_step="raise that in the daemon's configuration, or have it do less at one time",
            )

    def _submitted(
        self, workflow_id: str, definition: Definition, document: bytes, owner: User | None, digest: str
    ) -> WorkflowSubmitted:
        return WorkflowSubmitted(
            workflow_id=workflow_id,
            name=definition.name,
            graph=definition.graph,
            document=document,
            key=definition.key,
            labels=definition.labels,
            policy=definition.policy,
            adopted=definition.adopted,
            owner=owner,
            ids=SOME_FROM_OUTSIDE if definition.nodes_from_outside else ALL_MADE,
            digest=digest,
            parent_task=definition.parent_task,
            series=definition.series,
        )

    def _post(self, workflow_id: str, event: WorkflowSubmitted | WorkflowImported, nodes: int) -> None:
        self.refuse_if_not_accepting(nodes)
        self._submitting[workflow_id] = anyio.Event()
        self._turns.inbox.post(event)

    async def _refuse_if_known(self, record: WorkflowRecord) -> None:
        workflow_id, key = record.workflow_id, record.key
        if await self._is_here(workflow_id):
            raise NotImportable(workflow_id, "it is here already", next_step=f"`dyrygentctl show {workflow_id}`")
        keyed = None if key is None else self._keys.get((record.owner, key))
        known = keyed.workflow_id if keyed is not None else None
        if key is not None and known is None:
            known = await self._store.find_key(key, record.owner)
        if known is not None:
            raise NotImportable(
                workflow_id,
                f"workflow '{known}' was submitted with the same key '{key}'",
                next_step=f"`dyrygentctl show {known}`; if both are meant, remove `key` from the export",
            )

    def _refuse_unknown_pools(self, definition: Definition) -> None:
        for graph in (each.graph for each in definition.whole()):
            for node, policy in graph.policies.items():
                if policy.pool and self._pools.size_of(policy.pool) is None:
                    raise UnknownPool(graph.names[node], policy.pool, self._pools.names)

    async def _wait_durable(self, workflow_id: str, *, is_keyed: bool, timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
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
        self._turns.refuse_if_ended(workflow_id)
        reason = self._turns.saving.reason
        if is_keyed:
            show = f"`dyrygentctl show {workflow_id}`; doing the same again takes nothing twice"
            next_step = f"{show}; if the daemon is killed before it is on disk, it never happened"
            raise NotOnDiskYet("the submission", workflow_id, reason, next_step=next_step)
        self._withdrawn.add(workflow_id)
        self._turns.inbox.post(VerbRequested(workflow_id, VerbRequest(Verb.CANCEL, why=_TOO_LATE, force=True)))
        raise NotStored(reason, self._durable_timeout_s)


def _imported(imported: wire.Imported, workflow: RunningWorkflow) -> WorkflowImported:
    # What is shown of a finished one is what it is, whatever the export says.
    counts = workflow.nodes.counts_by_word() if workflow.state.is_finished else None
    return WorkflowImported(workflow, replace(imported.record, counts=counts), imported.nodes, imported.journal)
