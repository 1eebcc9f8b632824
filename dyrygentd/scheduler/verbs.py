"""Verbs: handed to the engine, and answered when what they did is on disk."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from dyrygentd import wire
from dyrygentd.core.effects import Answer
from dyrygentd.core.events import VerbRequested
from dyrygentd.core.verbs import Request, Verb
from dyrygentd.errors import OutsideError, RequestError, StoreUnavailable, WorkflowNotFound
from dyrygentd.ports import Selection, Store
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.limits import SchedulerLimits
from dyrygentd.scheduler.listeners import Listeners
from dyrygentd.scheduler.submissions import Submissions
from dyrygentd.scheduler.turns import Turns

#: Workflows that one request in bulk may change; each is a transaction.
_BULK_MAX: Final = 1000
#: A workflow may finish, and one that has finished may be set running, between looking for it and asking for something.
_ASK_TRIES: Final = 3
#: Verbs that may set a finished workflow running again, which takes a place in memory.
_REOPENING: Final = frozenset({Verb.RETRY, Verb.RERUN, Verb.SKIP})


@dataclass(slots=True)
class _Ticket:
    """Somebody who waits for the answer to a verb."""

    workflow_id: str
    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: Answer | None = None


class Verbs:
    """Asks the engine. Guards: nobody brings back an older state of a finished workflow than another has just made."""

    def __init__(
        self,
        turns: Turns,
        store: Store,
        archive: Archive,
        submissions: Submissions,
        listeners: Listeners,
        limits: SchedulerLimits,
    ) -> None:
        self._turns = turns
        self._store = store
        self._archive = archive
        self._submissions = submissions
        self._listeners = listeners
        self._limits = limits
        self._tickets: dict[int, _Ticket] = {}
        self._reopening: dict[str, _Ticket] = {}
        self._last_ticket = 0
        self._reopen_lock = anyio.Lock()

    def __len__(self) -> int:
        """Return how many wait for an answer."""
        return len(self._tickets)

    async def ask(self, workflow_id: str, request: Request) -> Answer:
        """Hand a verb to the engine and wait until its answer is on disk; raise the error that it answers.

        Raises:
            StoreUnavailable: The disk did not answer in time; what was asked for may still be done.
        """
        answer: Answer | None = None
        with anyio.move_on_after(self._limits.durable_timeout_s):
            answer = await self._answer(workflow_id, request)
        if answer is None:
            self._turns.refuse_if_ended(workflow_id)
            raise StoreUnavailable(
                self._turns.problem or f"the database is slow; '{request.verb}' is not on disk yet, and may still be done"
            )
        if answer.error is not None:
            raise answer.error
        return answer

    async def _answer(self, workflow_id: str, request: Request) -> Answer | None:
        answer = None
        for _ in range(_ASK_TRIES):
            self._turns.refuse_if_ended(workflow_id)
            if workflow_id in self._turns.engine.workflows:
                answer = await self._ask_engine(VerbRequested(workflow_id, request))
            else:
                async with self._reopen_lock:
                    answer = await self._ask_about_finished(workflow_id, request)
            if answer is None or not isinstance(answer.error, WorkflowNotFound):
                break
        return answer

    async def _ask_about_finished(self, workflow_id: str, request: Request) -> Answer | None:
        earlier = self._reopening.get(workflow_id)
        if earlier is not None:
            # Whoever asked has gone, and what was asked for happens all the same: what is stored now is out of date.
            await earlier.answered.wait()
        await self._wait_until_stored(workflow_id)
        if workflow_id in self._turns.engine.workflows:
            return await self._ask_engine(VerbRequested(workflow_id, request))
        stored = await self._archive.stored(workflow_id, to_reopen=True)
        if request.verb in _REOPENING:
            self._submissions.refuse_if_not_accepting(stored.record.task_count)
        restored = await self._archive.rebuilt(stored)
        return await self._ask_engine(VerbRequested(workflow_id, request, restored=restored))

    async def ask_all(self, selection: Selection, request: Request) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit, newest first, each on its own; at most 1000 of them."""
        done = wire.BulkChanged(verb=request.verb.value, matched=0, changed=[], unchanged=[], refused=[])
        ids: list[str] = []
        page = replace(selection, limit=min(500, _BULK_MAX))
        while len(ids) < _BULK_MAX:
            rows = await self._store.list(page)
            ids += [row.record.workflow_id for row in rows]
            if len(rows) < page.limit:
                break
            page = replace(page, before=rows[-1].cursor)
        done.matched, done.is_complete = len(ids[:_BULK_MAX]), len(ids) < _BULK_MAX
        for workflow_id in ids[:_BULK_MAX]:
            try:
                answer = await self.ask(workflow_id, request)
                (done.changed if answer.is_changed else done.unchanged).append(workflow_id)
            except RequestError as error:
                done.refused.append(wire.Refusal(workflow_id, str(error), error.code, error.next_step))
            except OutsideError as error:
                # The others would fare no better; what was done is told.
                done.refused.append(wire.Refusal(workflow_id, str(error), error.code, error.next_step))
                done.is_complete = False
                break
        return done

    def answered(self, answers: Iterable[Answer]) -> None:
        """Hand out answers that are on disk."""
        for answer in answers:
            ticket = self._tickets.pop(answer.ticket, None)
            if ticket is not None:
                if self._reopening.get(ticket.workflow_id) is ticket:
                    del self._reopening[ticket.workflow_id]
                ticket.answer = answer
                ticket.answered.set()

    def end(self) -> None:
        """Wake everybody who waits for something that will not happen any more."""
        for ticket in self._tickets.values():
            ticket.answered.set()

    async def _ask_engine(self, event: VerbRequested) -> Answer | None:
        """Return the engine's answer once it is on disk, None if the scheduler ends before."""
        self._turns.refuse_if_ended(event.workflow_id)
        self._last_ticket += 1
        number, ticket = self._last_ticket, _Ticket(event.workflow_id)
        self._tickets[number] = ticket
        if event.restored is not None:
            self._reopening[event.workflow_id] = ticket
        try:
            self._turns.post(replace(event, ticket=number))
            await ticket.answered.wait()
        finally:
            if event.restored is None:
                self._tickets.pop(number, None)
        return ticket.answer

    async def _wait_until_stored(self, workflow_id: str) -> None:
        """Wait until the end of a workflow is on disk."""
        with self._listeners.to(workflow_id) as listener:
            while self._turns.is_finishing(workflow_id):
                self._turns.refuse_if_ended(workflow_id)
                await listener.wait()
