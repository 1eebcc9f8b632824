"""Keeps what is done from being done again, after the database or the broker has gone back.

*The database went back* (it was restored, its log was deleted, it is a copy): it takes for undone what was done, and sends it
anew under the same task ids. The results are there under these very ids. So what is to be sent of workflows from before is
first read from the result backend, and so is what becomes ready because of that, one after the other: what is stored as ended
is taken, what is stored as begun counts as sent, and only the rest is sent. This holds for `_MARKED_S` and over restarts. What
is stored nowhere, since its result has expired or is not kept, runs again; nobody can know.

*The broker went back*: what had ended after the moment to which it went back may be in its queues again. What has ended lately
is taken back from there, and revoked at the workers.
"""

import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import anyio
import anyio.lowlevel

from dyrygentd.core.effects import Publish, Revoke
from dyrygentd.core.events import MessagePublished
from dyrygentd.core.states import FINISHED
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BackendUnavailable, OutsideError
from dyrygentd.ports import Clock, ResultWatcher, Store
from dyrygentd.ports.facts import SETBACK_NOTE
from dyrygentd.scheduler.limits import RETRY_FIRST_S, RETRY_MAX_S

logger = logging.getLogger("dyrygentd")

#: As long as a marker in the broker outlives the last push of its workflow.
_MARKED_S: Final = 30 * 24 * 3600.0
#: How long it stands among the notices.
_SHOWN_S: Final = 900.0
#: Tasks read at one time.
_SLICE: Final = 100
#: What has ended longer ago is not looked for in a broker that went back, nor more than so many, the newest first.
_LATELY_S: Final = 900.0
_ENDED_MAX: Final = 10_000
#: Nodes looked through before others have their turn.
_STEP: Final = 5000


class Hindsight:
    """Reads before it sends. Guards: after a setback nothing from before is sent whose end is stored.

    Args:
        workflows: The unfinished workflows by id.
        post: Takes what is known of tasks.
        send: Takes messages that are to be sent after all.
        revoke: Takes tasks that are to be kept from running.

    Attributes:
        problem: Why nothing can be read, empty if it can.
        setback_count: How often the database was found to be older than what was done with it.
        found_count: Tasks that were not sent, since something was stored of them.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        watcher: ResultWatcher,
        *,
        workflows: Mapping[str, RunningWorkflow],
        post: Callable[..., None],
        send: Callable[[Sequence[Publish]], None],
        revoke: Callable[[Iterable[Revoke]], None],
    ) -> None:
        self.problem = ""
        self.setback_count = self.found_count = 0
        self._store = store
        self._clock = clock
        self._watcher = watcher
        self._workflows = workflows
        self._post = post
        self._send = send
        self._revoke = revoke
        self._since = 0.0
        self._why = ""
        self._is_noted = True
        self._to_read: deque[Publish] = deque()
        self._is_broker_back = False
        self._awake = anyio.Event()

    def __repr__(self) -> str:
        return f"<Hindsight to_read={len(self._to_read)} setbacks={self.setback_count} problem='{self.problem}'>"

    @property
    def queue_size(self) -> int:
        """Messages that wait for being read first; as many as are in flight at most."""
        return len(self._to_read)

    @property
    def notice(self) -> str:
        """Return what people should know of a setback; empty after a while."""
        if not self._since or (self._clock.now() - self._since > _SHOWN_S and not self._to_read):
            return ""
        at = datetime.fromtimestamp(self._since, UTC)
        return (
            f"{self._why}, found at {at:%Y-%m-%d %H:%M:%S} UTC: what it would send anew is looked for in the result backend first"
            f" ({self.found_count} tasks found so far); what is stored nowhere runs again"
        )

    # --- the database -----------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Find out whether there was a setback. Raises `StoreUnavailable` if the database cannot be read."""
        noted = await self._store.recall(SETBACK_NOTE)
        if noted is not None:
            known = json.loads(noted)
            if self._clock.now() - float(known["at"]) <= _MARKED_S:
                self._since, self._why = float(known["at"]), str(known["why"])
        if self._store.setback:
            # The store has noted it in the transaction that made it look like any other.
            self.setback_count += 1
            self._log()

    async def begin(self, why: str) -> None:
        """Read first what is to be sent of all workflows there are now."""
        if self._why and self._why == self._store.setback:
            # The broker knows of what the database has told at the start: one setback, seen from two sides. Others are others.
            why = f"{self._why}; {why}"
        else:
            self.setback_count += 1
        self._since, self._why, self._is_noted = self._clock.now(), why, False
        self._log()
        await self._note()

    def _log(self) -> None:
        logger.error("%s: what it would send anew is looked for in the result backend first", self._why)

    async def _note(self) -> None:
        # One that cannot be written sends nothing either.
        with suppress(OutsideError):
            await self._store.remember(SETBACK_NOTE, json.dumps({"at": self._since, "why": self._why}))
            self._is_noted = True

    def divert(self, messages: Sequence[Publish]) -> Sequence[Publish]:
        """Keep what is to be read first, and return the rest."""
        if not self._since:
            return messages
        straight = []
        for message in messages:
            workflow = self._workflows.get(message.workflow_id)
            if workflow is not None and workflow.origin.created_at <= self._since:
                self._to_read.append(message)
            else:
                straight.append(message)
        if self._to_read:
            self._awake.set()
        return straight

    async def run(self) -> None:
        """Read what is to be read first, until cancelled."""
        while True:
            if not (self._to_read or self._is_broker_back):
                self._awake = anyio.Event()
                await self._awake.wait()
            if self._is_broker_back:
                self._is_broker_back = False
                await self._take_back_ended()
            if self._to_read:
                await self._read([self._to_read.popleft() for _ in range(min(len(self._to_read), _SLICE))])

    async def _read(self, messages: Sequence[Publish]) -> None:
        if not self._is_noted:
            await self._note()
        known = await self._known([message.task_id for message in messages])
        self.found_count += len(known)
        self._post(*(MessagePublished(task_id) for task_id, has_ended in known.items() if not has_ended))
        self._send([message for message in messages if message.task_id not in known])

    async def _known(self, task_ids: Sequence[str]) -> Mapping[str, bool]:
        pause_s = RETRY_FIRST_S
        while True:
            try:
                known = await self._watcher.read(task_ids)
            except BackendUnavailable as error:
                if not self.problem:
                    logger.warning("%d tasks from before wait for the result backend: %s", len(task_ids), error)
                self.problem = f"what was done before cannot be looked for: {error.message}"
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
            else:
                self.problem = ""
                return known

    # --- the broker -------------------------------------------------------------------------------------------------

    def broker_went_back(self) -> None:
        """Take back what has ended lately and may be in a queue again."""
        self._is_broker_back = True
        self._awake.set()

    async def _take_back_ended(self) -> None:
        ended = [revoke async for revoke in self._ended_lately()]
        if ended:
            logger.warning("%d tasks that have ended lately are taken back, should they be in a queue again", len(ended))
            self._revoke(ended)

    async def _ended_lately(self) -> AsyncIterator[Revoke]:
        since, count = self._clock.now() - _LATELY_S, 0
        for workflow in list(self._workflows.values()):
            graph = workflow.graph
            for begin in range(0, len(graph), _STEP):
                await anyio.lowlevel.checkpoint()
                for node in range(begin, min(begin + _STEP, len(graph))):
                    signature = graph.signatures[node]
                    if signature is None or workflow.states[node] not in FINISHED or workflow.nodes.finished_at[node] < since:
                        continue
                    attempt = workflow.attempts.of(node)
                    if attempt and count < _ENDED_MAX:
                        count += 1
                        yield Revoke(workflow.attempts.task_id_of(node), attempt, signature)
