"""Verbs: handed to the engine, and answered when what they did is on disk.

*When the disk does not answer in time*, whoever asked is told what is true. What the engine has taken cannot be taken back (more
has been decided since, by what it changed), so it is done as soon as it can be written: that is `NotOnDiskYet` and no error. What
the engine refuses, or has never been handed, changes nothing: that is an error at once. If the process is killed before, nothing
of it ever happened.
"""

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from dyrygentd import wire
from dyrygentd.core.cancelling import is_being_cancelled
from dyrygentd.core.children import refuse_if_unwanted
from dyrygentd.core.effects import Answer
from dyrygentd.core.events import VerbRequested
from dyrygentd.core.ids import ALL_MADE
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import (
    DaemonUnreachable,
    NotOnDiskYet,
    OutsideError,
    RequestError,
    StoreUnavailable,
    WorkflowNotFound,
)
from dyrygentd.ports import Store
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.door import Door
from dyrygentd.scheduler.limits import RETRY_MAX_S
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.submissions import Submissions
from dyrygentd.scheduler.turns import Turns

#: Workflows that one request in bulk may change; each is a transaction.
_BULK_MAX: Final = 1000
#: A workflow may finish, and one that has finished may be set running, between looking for it and asking for something.
_ASK_TRIES: Final = 3
#: How long a verb waits for a disk that is known not to work: until it was tried once more.
_KNOWN_PROBLEM_WAIT_S: Final = RETRY_MAX_S + 1.0
#: A verb waits a second longer for so many nodes of its workflow, whose rows are to be read and written; in all no longer than
#: that, since clients wait for a minute.
_NODES_PER_S: Final = 4000
_LONGER_MAX_S: Final = 25.0
#: Verbs that may set a finished workflow running again, which takes a place in memory.
REOPENING: Final = frozenset({Verb.RETRY, Verb.RERUN, Verb.SKIP})


@dataclass(slots=True)
class _Ticket:
    """Somebody who waits for the answer to a verb; ``number`` is 0 as long as the engine has not been asked."""

    workflow_id: str
    number: int = 0
    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: Answer | None = None
    patience: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def wait_longer(self, node_count: int) -> None:
        """Have the patience that so many nodes need."""
        self.patience.deadline += min(node_count / _NODES_PER_S, _LONGER_MAX_S)


class Verbs:
    """Asks the engine. Guards: nobody brings back an older state of a finished workflow than another has just made.

    Args:
        refuse: Raises if a request is not to be carried out because of what the world outside says.
        confirm: Raises `Fenced` if another process has taken over, so that nothing of what was done here counts.
    """

    def __init__(
        self,
        turns: Turns,
        *,
        store: Store,
        archive: Archive,
        submissions: Submissions,
        listeners: Listeners,
        door: Door,
        durable_timeout_s: float,
        refuse: Callable[[str, VerbRequest], Awaitable[None]] | None = None,
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        self._door = door
        self._turns = turns
        self._store = store
        self._archive = archive
        self._submissions = submissions
        self._listeners = listeners
        self._durable_timeout_s = durable_timeout_s
        self._refuse = refuse
        self._confirm = confirm
        self._tickets: dict[int, _Ticket] = {}
        self._reopening: dict[str, _Ticket] = {}
        self._last_ticket = 0
        self._reopen_lock = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Verbs tickets={len(self._tickets)} reopening={len(self._reopening)}>"

    def __len__(self) -> int:
        """Return how many wait for an answer."""
        return len(self._tickets)

    async def ask(self, workflow_id: str, request: VerbRequest) -> Answer:
        """Do as `_ask`; a retry of a whole workflow, and the end of what cleans up, is one of its unfinished children as well."""
        is_end = request.verb is Verb.CANCEL and request.force
        if not is_end and (request.verb is not Verb.RETRY or request.nodes or request.cause):
            return await self._ask(workflow_id, request)
        if not is_end:
            await self._refuse_below(workflow_id, request)
        answer = await self._ask(workflow_id, request)
        for child in self._cleaning_below(workflow_id) if is_end else [*self._turns.engine.children.of(workflow_id)]:
            below = await self.ask(child.workflow_id, replace(request, letter=0))
            answer = replace(answer, is_changed=answer.is_changed or below.is_changed, count=answer.count + below.count)
        return answer

    def _cleaning_below(self, workflow_id: str) -> list[RunningWorkflow]:
        """Return what only cleans up below a workflow, be what is in between finished or not; one left to itself goes on."""
        found = []
        for workflow in self._turns.engine.workflows.values():
            above = workflow.origin.parent
            if above is not None and workflow_id in (above.workflow_id, above.root_id) and is_being_cancelled(workflow):
                found.append(workflow)
        return found

    async def _refuse_below(self, workflow_id: str, request: VerbRequest) -> None:
        """Raise before anything is changed if one below is not to be retried: half of a retry is none."""
        below = [workflow_id]
        while below and self._refuse is not None:
            for child in [*self._turns.engine.children.of(below.pop())]:
                await self._refuse(child.workflow_id, request)
                below.append(child.workflow_id)

    async def _ask(self, workflow_id: str, request: VerbRequest) -> Answer:
        """Hand a verb to the engine and wait until its answer is on disk; raise the error that it answers.

        Raises:
            NotOnDiskYet: The disk did not answer in time; what was asked for is done as soon as it does.
            StoreUnavailable: The disk did not answer in time, and nothing was or will be done.
            Fenced: Another process has taken over, which knows nothing of it.
        """
        if self._refuse is not None:
            await self._refuse(workflow_id, request)
        answer: Answer | None = None
        with anyio.move_on_after(self._patience_s(request)) as patience:
            ticket = _Ticket(workflow_id, patience=patience)
            workflow = self._turns.engine.workflows.get(workflow_id)
            if workflow is not None:
                ticket.wait_longer(len(workflow.graph))
            answer = await self._answer(ticket, request)
        if answer is None:
            answer = self._refused_in_memory(ticket, request)
        if answer.error is not None:
            raise answer.error
        # What is on disk here is what the other one has read, or is not to count at all. Whoever answers a letter asks by itself.
        if not request.letter:
            await self._confirm()
        return answer

    def _patience_s(self, request: VerbRequest) -> float:
        if request.letter:
            # It is answered when it is carried out, and whoever left it knows by itself how long to wait.
            return math.inf
        longest = self._durable_timeout_s
        return min(longest, _KNOWN_PROBLEM_WAIT_S) if self._turns.saving.problem else longest

    def _refused_in_memory(self, ticket: _Ticket, request: VerbRequest) -> Answer:
        """Return the answer to what is not on disk in time if it is a refusal, which changes nothing; else raise what is true."""
        workflow_id, reason = ticket.workflow_id, self._turns.saving.reason
        decided = self._turns.saving.unsaved_answer(ticket.number) if ticket.number else None
        if self._turns.has_ended and not self._turns.fenced and ticket.number and decided is None:
            raise DaemonUnreachable(
                f"the scheduler has ended before '{request.verb}' of workflow '{workflow_id}' was seen on disk",
                next_step=f"when it is back, `dyrygentctl events {workflow_id}` shows whether it was done",
            )
        self._turns.refuse_if_ended(workflow_id)
        if not ticket.number or (decided is not None and isinstance(decided.error, WorkflowNotFound)):
            raise StoreUnavailable(f"'{request.verb}' was not done, nothing was changed: {reason}")
        if decided is not None and decided.error is not None:
            return decided
        fate = f"`dyrygentctl events {workflow_id}` shows it then; if the daemon is killed before, it never happened"
        if decided is None:
            fate = f"it waits behind a transaction, and the workflow must still allow it then; {fate}"
        raise NotOnDiskYet(f"'{request.verb}'", workflow_id, reason, next_step=f"nothing has to be repeated: {fate}")

    async def _answer(self, ticket: _Ticket, request: VerbRequest) -> Answer | None:
        answer, workflow_id = None, ticket.workflow_id
        for _ in range(_ASK_TRIES):
            self._turns.refuse_if_ended(workflow_id)
            if workflow_id in self._turns.engine.workflows:
                answer = await self._ask_engine(ticket, VerbRequested(workflow_id, request))
            else:
                async with self._reopen_lock:
                    answer = await self._ask_about_finished(ticket, request)
            if answer is None or not isinstance(answer.error, WorkflowNotFound):
                break
        return answer

    async def _ask_about_finished(self, ticket: _Ticket, request: VerbRequest) -> Answer | None:
        workflow_id = ticket.workflow_id
        earlier = self._reopening.get(workflow_id)
        if earlier is not None:
            # Whoever asked has gone, and what was asked for happens all the same: what is stored now is out of date.
            await earlier.answered.wait()
        await self.wait_until_stored(workflow_id)
        if workflow_id in self._turns.engine.workflows:
            return await self._ask_engine(ticket, VerbRequested(workflow_id, request))
        stored = await self._archive.stored(workflow_id, to_reopen=True)
        ticket.wait_longer(stored.record.task_count)
        if request.verb in REOPENING:
            self._submissions.refuse_if_not_accepting(stored.record.task_count)
        restored = await self._archive.rebuilt(stored)
        await self._refuse_if_unwanted(restored, request)
        is_to_be_judged = request.verb in REOPENING and restored.attempts.ids != ALL_MADE
        taken = await self._door.taken_since(restored) if is_to_be_judged else ()
        return await self._ask_engine(ticket, VerbRequested(workflow_id, request, restored=restored, taken=taken))

    async def _refuse_if_unwanted(self, child: RunningWorkflow, request: VerbRequest) -> None:
        """Raise `VerbRefused` if a child would go on for which nobody waits; a parent in memory is the engine's to ask."""
        parent = child.origin.parent
        if parent is None or self._turns.live(parent.workflow_id) is not None:
            return
        try:
            above = await self._archive.unpacked(parent.workflow_id)
        except WorkflowNotFound:
            return
        refuse_if_unwanted(above, child, request)

    async def ask_all(
        self, selection: Selection, request: VerbRequest, *, done: frozenset[str] = frozenset()
    ) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit, newest first, each on its own; at most 1000 of them.

        Args:
            done: Those for which it was carried out before, whether they fit still or not.
        """
        told = wire.BulkChanged(verb=request.verb.value, matched=0, changed=sorted(done), unchanged=[], refused=[])
        ids: list[str] = []
        page = replace(selection, limit=min(500, _BULK_MAX))
        while len(ids) < _BULK_MAX:
            rows = await self._store.list(page)
            ids += [row.record.workflow_id for row in rows]
            if len(rows) < page.limit:
                break
            page = replace(page, before=rows[-1].cursor)
        left = [each for each in ids[:_BULK_MAX] if each not in done]
        told.matched, told.is_complete = len(left) + len(done), len(ids) < _BULK_MAX
        for workflow_id in left:
            try:
                answer = await self.ask(workflow_id, request)
                (told.changed if answer.is_changed else told.unchanged).append(workflow_id)
            except RequestError as error:
                told.refused.append(wire.Refusal(workflow_id, error.message, error.code, error.next_step))
            except NotOnDiskYet:
                told.not_on_disk_yet.append(workflow_id)
                told.is_complete = False
                break
            except OutsideError as error:
                if request.letter:
                    # It is tried again, and goes on where it was.
                    raise
                # The others would fare no better; what was done is told.
                told.refused.append(wire.Refusal(workflow_id, error.message, error.code, error.next_step))
                told.is_complete = False
                break
        return told

    def answered(self, answers: Iterable[Answer]) -> None:
        """Hand out answers that are on disk."""
        for answer in answers:
            ticket = self._tickets.pop(answer.ticket, None)
            if ticket is not None:
                if self._reopening.get(ticket.workflow_id) is ticket:
                    del self._reopening[ticket.workflow_id]
                ticket.answer, ticket.number = answer, 0
                ticket.answered.set()

    def end(self) -> None:
        """Wake everybody who waits for something that will not happen any more."""
        for ticket in self._tickets.values():
            ticket.answered.set()

    async def _ask_engine(self, ticket: _Ticket, event: VerbRequested) -> Answer | None:
        """Return the engine's answer once it is on disk, None if the scheduler ends before."""
        self._turns.refuse_if_ended(event.workflow_id)
        self._last_ticket += 1
        number = ticket.number = self._last_ticket
        ticket.answered = anyio.Event()
        self._tickets[number] = ticket
        if event.restored is not None:
            self._reopening[event.workflow_id] = ticket
        try:
            self._turns.inbox.post(replace(event, ticket=number))
            await ticket.answered.wait()
        finally:
            if event.restored is None:
                self._tickets.pop(number, None)
        return ticket.answer

    async def wait_until_stored(self, workflow_id: str) -> None:
        """Wait until the end of a workflow is on disk."""
        with self._listeners.to(workflow_id) as listener:
            while self._turns.saving.finishing(workflow_id) is not None:
                self._turns.refuse_if_ended(workflow_id)
                await listener.wait()
