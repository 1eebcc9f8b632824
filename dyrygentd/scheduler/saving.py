"""Makes batches durable, whatever the disk does.

*While the disk does not work* a batch is tried again and again, and what happens meanwhile is merged into it.

*When the store refuses* a batch for good (a bug of ours, or a row that somebody changed), its workflows are saved one by one. The
one that it is about is set aside, with the reason as its error, and all others go on.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import anyio

from dyrygentd.core.effects import Answer, Batch
from dyrygentd.core.events import Event, SaveRefused
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.tally import ROWS, Tally
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DyrygentError, Fenced, StoreUnavailable
from dyrygentd.ports import Clock, Store
from dyrygentd.scheduler.inbox import Inbox
from dyrygentd.scheduler.limits import RETRY_FIRST_S, RETRY_MAX_S, SLOW_S

logger = logging.getLogger("dyrygentd")


class Saving:
    """Saves one batch at a time. Guards: when `save` returns all of it is on disk, but for what the store takes never.

    Args:
        meanwhile: Works in what the inbox has, after these events, and returns the batch that comes of it.

    Attributes:
        problem: Why the store cannot be written, empty if it can or is only slow.
        seconds, rows: How long a transaction took until it was durable, and its rows.
    """

    def __init__(self, store: Store, clock: Clock, *, inbox: Inbox, meanwhile: Callable[..., Batch]) -> None:
        self.problem = ""
        self.seconds, self.rows = Tally(), Tally(ROWS)
        self._store = store
        self._clock = clock
        self._inbox = inbox
        self._meanwhile = meanwhile
        self._unsaved: Batch | None = None
        self._finishing: dict[str, RunningWorkflow] = {}
        self._since: float | None = None
        self._slow_until = 0.0

    def __repr__(self) -> str:
        rows = 0 if self._unsaved is None else self._unsaved.row_count
        return f"<Saving rows={rows} waiting_s={self.waiting_s:.1f} problem={self.problem!r}>"

    # --- what is not on disk yet ------------------------------------------------------------------------------------

    def finishing(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow that has ended, and whose end is not on disk yet."""
        return self._finishing.get(workflow_id)

    def unsaved_answer(self, ticket: int) -> Answer | None:
        """Return what the engine has answered to somebody, if that is not on disk yet."""
        answers = () if self._unsaved is None else self._unsaved.answers
        return next((answer for answer in answers if answer.ticket == ticket), None)

    # --- how it goes ------------------------------------------------------------------------------------------------

    @property
    def waiting_s(self) -> float:
        """For how long the present transaction has been waiting for the disk."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @property
    def slowness(self) -> str:
        """That the database is slow, empty if it is not; one slow transaction is remembered for a while."""
        if self.waiting_s > SLOW_S:
            return f"the database is slow: a transaction has been waiting for {self.waiting_s:.0f} s"
        return "the database is slow: transactions take seconds" if time.monotonic() < self._slow_until else ""

    @property
    def reason(self) -> str:
        """Why something has not reached the disk in time."""
        return self.problem or self.slowness or "the database is slow"

    async def log_slowness(self) -> None:
        """Tell the log when a transaction takes long, also one that never ends."""
        is_told = False
        while True:
            await anyio.sleep(SLOW_S / 2)
            slowness = self.slowness
            if slowness and not is_told:
                logger.warning("%s; what is sent and answered waits for it", slowness)
            elif is_told and not slowness:
                logger.warning("the database is fast again")
            is_told = bool(slowness)

    # --- saving -----------------------------------------------------------------------------------------------------

    async def save(self, batch: Batch) -> None:
        """Make a batch durable, however long it takes; what happens meanwhile is merged into it. Raises `Fenced`."""
        self._unsaved = batch
        self._note_ends(batch)
        # What is not written yet, if it is not all of the batch.
        rest: Batch | None = None
        pause_s = RETRY_FIRST_S
        while (batch if rest is None else rest).row_count:
            try:
                if rest is None:
                    await self._write(batch)
                    break
                await self._save_apart(batch, rest)
                continue
            except StoreUnavailable as error:
                if not self.problem:
                    logger.error("nothing is dispatched until the database can be written: %s", error)
                self.problem = error.message
            except Fenced:
                raise
            except Exception as error:
                if rest is not None:
                    raise
                # Not by the disk: trying the same again would go on for ever.
                logger.error("the database refuses a transaction, whose workflows are saved one by one: %s", error)
                rest = batch.rows()
                continue
            await self._pause(pause_s, batch, rest)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
        if self.problem:
            logger.warning("the database can be written again")
            self.problem = ""
        self._unsaved = None
        for workflow in batch.finished:
            self._finishing.pop(workflow.workflow_id, None)

    async def remember(self, name: str, value: str) -> bool:
        """Note something about the world outside; tell whether it is durable."""
        try:
            with anyio.CancelScope(shield=True):
                await self._store.remember(name, value)
        except StoreUnavailable as error:
            # Whether the database can be written is told by the next transaction.
            logger.info("'%s' is not noted: %s", name, error)
            return False
        return True

    def _note_ends(self, batch: Batch) -> None:
        for workflow in batch.finished:
            self._finishing[workflow.workflow_id] = workflow

    async def _pause(self, pause_s: float, batch: Batch, rest: Batch | None) -> None:
        """Wait before the disk is tried again. What somebody asks for meanwhile is judged at once: a refusal needs no disk."""
        end = anyio.current_time() + pause_s
        while (left_s := end - anyio.current_time()) > 0:
            # Results come one by one, and a merge looks at all that waits to be published: they have time.
            if await self._inbox.wait_for_news(left_s):
                self._merge(batch, rest)
        self._merge(batch, rest)

    async def _write(self, batch: Batch) -> None:
        self._since = time.monotonic()
        self.rows.add(batch.row_count)
        try:
            with anyio.CancelScope(shield=True):
                await self._store.save(batch.save_workflows.values(), batch.save_nodes.values(), batch.journal)
        finally:
            self.seconds.add(self.waiting_s)
            if self.waiting_s > SLOW_S:
                self._slow_until = time.monotonic() + 10 * SLOW_S
            self._since = None

    def _merge(self, batch: Batch, rest: Batch | None, *events: Event) -> None:
        later = self._meanwhile(*events)
        self._note_ends(later)
        batch.merge(later)
        if rest is not None:
            rest.merge(later)

    async def _save_apart(self, batch: Batch, rest: Batch) -> None:
        """Write what is left of a batch, each workflow in a transaction of its own; those that are refused are set aside."""
        places = [*rest.save_workflows, *(owner for owner, _ in rest.save_nodes), *(entry.workflow_id for entry in rest.journal)]
        for workflow_id in dict.fromkeys(places):
            rows = rest.take_rows(workflow_id)
            try:
                await self._write(rows)
            except (StoreUnavailable, Fenced):
                rest.merge(rows)
                raise
            except Exception as error:
                await self._save_end(batch, rest, rows, workflow_id, error)

    async def _save_end(self, batch: Batch, rest: Batch, rows: Batch, workflow_id: str, error: Exception) -> None:
        """Set a workflow aside whose rows are refused, and write that, if anything of it can be written."""
        story = f"the database refuses what it has become: {error.message if isinstance(error, DyrygentError) else error}"
        logger.error("workflow %s is set aside: %s", workflow_id, story, exc_info=error)
        self._merge(batch, rest, SaveRefused(workflow_id, story))
        record = rest.take_rows(workflow_id).save_workflows.get(workflow_id) or rows.save_workflows.get(workflow_id)
        if record is None:
            return  # A late note about one that has finished.
        document = next((earlier.document for earlier in rows.save_workflows.values()), None)
        ended = replace(
            record,
            state=WorkflowState.FAILED,
            finished_at=record.finished_at or self._clock.now(),
            result=None,
            error=record.error or story,
            document=record.document or document,
        )
        only_end = Batch({workflow_id: ended})
        batch.save_workflows[workflow_id] = ended
        try:
            await self._write(only_end)
        except (StoreUnavailable, Fenced):
            rest.merge(only_end)
            raise
        except Exception as again:
            logger.error("workflow %s is set aside in memory only; on disk it is as it was: %s", workflow_id, again)
            del batch.save_workflows[workflow_id]
            batch.refused[workflow_id] = story
