"""Notices that the broker has lost its memory: restarted without its data, flushed, failed over to an empty replica.

A token of ours lies beside the queues, and the store knows it. Each push checks it in the same script, so nothing is pushed into
an emptied broker as if nothing had happened; when nothing is pushed, a look every few seconds does. What was in flight then is
looked for at once (`dyrygentd.scheduler.lost`): workers may have it, and what nobody has is lost, and its policy decides.

A token that takes the place of another one is on disk before it is in the broker: a crash between the two raises a second alarm
at the next start, which costs a search. Before both it is on disk that what may have been sent counts as sent: after a crash in
between nobody would be alarmed, and it would be sent again, past markers that are gone. The first token is in the broker before
it is on disk, so that it raises no alarm.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import anyio

from dyrygentd.errors import BrokerUnavailable, StoreUnavailable
from dyrygentd.ports import Clock, Dispatcher, Store

logger = logging.getLogger("dyrygentd")

_NOTE: Final = "sentinel"
#: Between two looks at the broker; also how long an outage may go unnoticed while nothing is published.
_LOOK_EVERY_S: Final = 5.0
#: How long an emptied broker stands among the problems.
_SHOWN_S: Final = 900.0


class Sentinel:
    """Keeps a token in the broker. Guards: a broker that was emptied is noticed before anything is pushed into it.

    Args:
        on_emptied: Called with the reason when the broker has lost its memory.
        settle: Waits until what came of that is on disk.

    Attributes:
        problem: Why the broker cannot be reached, as far as is known from looking; empty if it can.
        emptied_count: How often it was found emptied.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        *,
        on_emptied: Callable[[str], None],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self.problem = ""
        self.emptied_count = 0
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._on_emptied = on_emptied
        self._settle = settle
        self._emptied_at = 0.0
        self._is_new = False
        self._is_examined = False
        self._one_at_a_time = anyio.Lock()

    @property
    def notice(self) -> str:
        """Return what people should know about the broker's past; empty after a while."""
        if not self._emptied_at or self._clock.now() - self._emptied_at > _SHOWN_S:
            return ""
        at = datetime.fromtimestamp(self._emptied_at, UTC)
        return f"the broker was found emptied at {at:%H:%M:%S} UTC; what was in flight is looked for, and lost if nobody has it"

    async def prepare(self) -> None:
        """Read the token that the broker must have. Raises `StoreUnavailable`."""
        token = await self._store.recall(_NOTE)
        self._is_new = token is None
        if token is not None:
            self._dispatcher.guard(self._store.identity, token)

    async def run(self) -> None:
        """Look after the token until cancelled."""
        while True:
            try:
                await self.look()
            except BrokerUnavailable as error:
                if not self.problem:
                    logger.warning("the broker does not answer: %s", error)
                self.problem = str(error)
            except StoreUnavailable as error:
                # Said by the turns; without a new token on disk nothing is pushed.
                logger.debug("no new token for the broker: %s", error)
            else:
                if self.problem:
                    logger.warning("the broker can be reached again")
                self.problem = ""
            await anyio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Look whether the broker has its token. Raises `BrokerUnavailable` or `StoreUnavailable`."""
        if self._is_new or not await self._dispatcher.is_marked():
            await self.replace()
        if not self._is_examined:
            for caution in await self._dispatcher.cautions():
                logger.warning("%s", caution)
            self._is_examined = True

    async def replace(self) -> None:
        """Give the broker a token, and raise the alarm if it had one. Raises `BrokerUnavailable` or `StoreUnavailable`."""
        async with self._one_at_a_time:
            name, token = self._store.identity, secrets.token_hex(16)
            if self._is_new:
                await self._dispatcher.mark(name, token)
                await self._store.remember(_NOTE, token)
            elif await self._dispatcher.is_marked():
                return  # Somebody else was quicker.
            else:
                self.emptied_count += 1
                self._emptied_at = self._clock.now()
                self._on_emptied("the broker was emptied")
                await self._settle()
                await self._store.remember(_NOTE, token)
                await self._dispatcher.mark(name, token)
            self._dispatcher.guard(name, token)
            self._is_new = False
