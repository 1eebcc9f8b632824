"""Notices that the broker or the database has gone back: restarted without its data, flushed, failed over, restored.

*The broker* keeps two things for us: a token, which the store knows as well, and a ledger with the number of messages that were
pushed. Each push checks both in the same script, so nothing is pushed into an emptied broker, or into a replica that lacks the
last pushes, as if nothing had happened; when nothing is pushed, a look every few seconds does. What was in flight then is
looked for at once (`dyrygentd.scheduler.lost`): workers may have it, and what nobody has is lost, and its policy decides. What
has ended lately is taken back, should it be in a queue again (`dyrygentd.scheduler.hindsight`).

*The database* has a number that rises with each look after which it is not as it was, and the broker remembers it: a database
with a lower one is a copy, or was restored, and what it does not know to be done is read before it is sent. So each remembers
the other. The number is in the database before it is in the broker, so that a crash between the two raises no alarm.

*Another broker*, at another address than the one that was noted, has no memory either, and has lost nothing: it is told as that,
with what is in flight at the one before. If nothing is, a line in the log is all. Nothing is sent before the first look; so what
a process meant to send that never reached its broker, at a wrong address, was never sent, and is sent to the next one.

*Another token* is that of another daemon with a copy of this database, or that of a broker or database from before: it is taken
over, told, and nobody fights about it. That another process has begun to work under this database's name is told once.

A token that takes the place of another one is on disk before it is in the broker: a crash between the two raises a second alarm
at the next start, which costs a search. Before both it is on disk that what may have been sent counts as sent: after a crash in
between nobody would be alarmed, and it would be sent again, past markers that are gone. The first token is in the broker before
it is on disk, so that it raises no alarm.

*What is not noticed*: a broker that loses its last seconds together with a daemon that is killed, up to what was pushed since
the last look; and a copy of database and log of one moment that takes the place of both within seconds.
"""

import json
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import anyio

from dyrygentd.core.words import counted
from dyrygentd.errors import BrokerUnavailable, OutsideError, StoreUnavailable
from dyrygentd.ports import Clock, Dispatcher, Store
from dyrygentd.ports.facts import BrokerMemory
from dyrygentd.scheduler.limits import RETRY_FIRST_S, RETRY_MAX_S

logger = logging.getLogger("dyrygentd")

_NOTE: Final = "sentinel"
_LEDGER: Final = "ledger"
_PLACE: Final = "broker"
_NOTHING_SENT: Final = "nothing sent since"
#: How long an alarm stands among the notices.
_SHOWN_S: Final = 900.0


class Sentinel:
    """Keeps a token in the broker. Guards: a broker that went back is noticed before anything is pushed into it.

    Args:
        on_emptied: Called with the reason when the broker has lost its memory, or the last of it.
        wait_saved: Waits until what came of that is on disk.
        in_flight_count: Returns how many tasks a broker has, or may have.
        on_setback: Called with the reason when the database is found to be older than what was done with it.
        hold: Given what is found, raises `Fenced` if another process has the database; else the broker knows that this one has.

    Attributes:
        problem: Why the broker cannot be reached, as far as is known from looking; empty if it can.
        emptied_count: How often it was found emptied, or with another token.
        changed_count: How often it was found to be another one, at another address.
        went_back_count: How often it was found to have lost its last pushes.
        lost_pushes: How many pushes those were.
        nothing_sent_since: Unix time since which no process before this one can have sent anything; infinite if there is none.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        *,
        on_emptied: Callable[[str], None],
        wait_saved: Callable[[], Awaitable[None]],
        on_setback: Callable[[str], Awaitable[None]],
        hold: Callable[[BrokerMemory | None], Awaitable[None]],
        in_flight_count: Callable[[], int] = lambda: 0,
        look_every_s: float,
    ) -> None:
        self.problem = ""
        self.emptied_count = self.changed_count = self.went_back_count = self.lost_pushes = 0
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._on_emptied = on_emptied
        self._wait_saved = wait_saved
        self._on_setback = on_setback
        self._hold = hold
        self._in_flight_count = in_flight_count
        self._look_every_s = look_every_s
        self._place = ""
        self._told = self._consequence = ""
        self._told_at = 0.0
        self._is_new = False
        self._token = ""
        self._generation = self._noted_pushes = 0
        self._holder = secrets.token_hex(8)
        self._holder_before: str | None = None
        self._is_another_at_work = False
        self._are_cautions_told = False
        self.nothing_sent_since = math.inf
        self._examined = anyio.Event()
        self._one_at_a_time = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Sentinel emptied={self.emptied_count} went_back={self.went_back_count} problem='{self.problem}'>"

    @property
    def notice(self) -> str:
        """Return what people should know about the broker's past; an alarm is forgotten after a while."""
        lines = []
        if self._told and self._clock.now() - self._told_at <= _SHOWN_S:
            at = datetime.fromtimestamp(self._told_at, UTC)
            lines.append(f"{self._told} at {at:%H:%M:%S} UTC; {self._consequence}")
        if self._is_another_at_work:
            lines.append(_ANOTHER)
        return "; ".join(lines)

    async def prepare(self) -> None:
        """Read the token that the broker must have, and how far both were. Raises `StoreUnavailable`."""
        token, ledger = await self._store.recall(_NOTE), await self._store.recall(_LEDGER)
        self._place = await self._store.recall(_PLACE) or ""
        self._is_new = token is None
        since = await self._store.recall(_NOTHING_SENT)
        if since and not self._store.setback:
            self.nothing_sent_since = float(since)
        else:
            # Without a note everything may have been sent.
            with suppress(OutsideError):
                await self._store.remember(_NOTHING_SENT, repr(self._clock.now()))
        if ledger is not None:
            known = json.loads(ledger)
            self._generation, self._noted_pushes = int(known["turn"]), int(known["pushes"])
        if token is not None:
            self._guard(token, self._noted_pushes)

    def _guard(self, token: str, pushes: int) -> None:
        self._token = token
        self._dispatcher.guard(self._store.identity, token, pushes)

    async def run(self) -> None:
        """Look after the token until cancelled."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                await self.look()
            except BrokerUnavailable as error:
                if not self.problem:
                    logger.warning("the broker does not answer: %s", error)
                self.problem = error.message
            except StoreUnavailable as error:
                # Said by the turns; without a new token on disk nothing is pushed.
                logger.debug("no new token for the broker: %s", error)
            else:
                if self.problem:
                    logger.warning("the broker can be reached again")
                self.problem = ""
            # Until the first look nothing is sent.
            await anyio.sleep(self._look_every_s if self._examined.is_set() else pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def wait_examined(self) -> None:
        """Wait until it is known whether broker and database are as they were left."""
        await self._examined.wait()

    async def look(self) -> None:
        """Look whether the broker is as it was left. Raises `Fenced`, `BrokerUnavailable` or `StoreUnavailable`."""
        memory = await self._dispatcher.memory(self._store.identity)
        await self._hold(memory)
        if self._is_first(memory):
            # There is no past that could be lost.
            await self._let_send()
        if self._is_new or not self._fits(memory):
            await self.replace()
            memory = await self._dispatcher.memory(self._store.identity)
        if memory is not None:
            await self._look_at_database(memory)
        await self._let_send()
        if memory is not None:
            await self._note_place(memory)
            await self._note(memory)
        if not self._are_cautions_told:
            for caution in await self._dispatcher.cautions():
                logger.warning("%s", caution)
            self._are_cautions_told = True

    async def _let_send(self) -> None:
        if not self._examined.is_set():
            await self._store.remember(_NOTHING_SENT, "")
            self._examined.set()

    def _is_first(self, memory: BrokerMemory | None) -> bool:
        """Tell whether the database has no token, and never sent anything either."""
        return self._is_new and (memory is None or not (memory.token and memory.pushes))

    def _fits(self, memory: BrokerMemory | None) -> bool:
        return memory is None or (memory.token == self._token and memory.pushes >= self._dispatcher.pushes())

    async def replace(self) -> None:
        """Give the broker a token, and raise the alarm if it had one, or lacks pushes.

        Raises `Fenced`, `BrokerUnavailable` or `StoreUnavailable`.
        """
        async with self._one_at_a_time:
            memory = await self._dispatcher.memory(self._store.identity)
            await self._hold(memory)
            if self._is_first(memory):
                await self._begin()
            elif memory is None or self._fits(memory):
                return  # Somebody else was quicker.
            elif self._is_elsewhere(memory) and memory.token != self._token:
                await self._move(memory)
            elif not memory.token:
                self.emptied_count += 1
                self._tell("the broker was emptied", "the broker was found emptied")
                await self._begin_anew()
            elif memory.token != self._token:
                self.emptied_count += 1
                self._tell(_OTHER_TOKEN)
                await self._go_on_with(memory)
                await self._on_setback(_OTHER_TOKEN)
            else:
                lost = self._dispatcher.pushes() - memory.pushes
                self.went_back_count += 1
                self.lost_pushes += lost
                words = f"the broker has lost its last {lost} pushes (a failover to a replica that lagged, or older data)"
                self._tell(words, f"{words}, found")
                await self._go_on_with(memory)

    def _is_elsewhere(self, memory: BrokerMemory) -> bool:
        return bool(self._place and memory.place and memory.place != self._place)

    async def _move(self, memory: BrokerMemory) -> None:
        """Go on with another broker, which has lost nothing: it never had it, or had it before the one before."""
        self.changed_count += 1
        count = self._in_flight_count()
        words = f"the broker is another one, {memory.place} instead of {self._place}"
        if count:
            left = f"{counted(count, 'task')} in flight {'is' if count == 1 else 'are'} at the one before"
            self._tell(f"{words}: {left}", f"{words}, found", f"{left}: {_LEFT}")
        else:
            logger.warning("%s; nothing was in flight", words)
        if memory.token:
            await self._go_on_with(memory)
        else:
            await self._begin_anew()

    async def _note_place(self, memory: BrokerMemory) -> None:
        """Remember where the broker is."""
        if memory.place and memory.place != self._place:
            if self._place:
                logger.info("the broker is at %s from now on; it was at %s", memory.place, self._place)
            await self._store.remember(_PLACE, memory.place)
            self._place = memory.place

    async def _begin(self) -> None:
        name, token = self._store.identity, secrets.token_hex(16)
        await self._dispatcher.mark(name, token)
        await self._store.remember(_NOTE, token)
        self._guard(token, 0)
        self._is_new = False

    async def _begin_anew(self) -> None:
        name, token = self._store.identity, secrets.token_hex(16)
        await self._wait_saved()
        await self._remember(0)
        await self._store.remember(_NOTE, token)
        await self._dispatcher.mark(name, token)
        self._guard(token, 0)
        self._holder_before = None

    async def _go_on_with(self, memory: BrokerMemory) -> None:
        """Take the broker as it is."""
        await self._wait_saved()
        await self._remember(memory.pushes)
        await self._store.remember(_NOTE, memory.token)
        if memory.token == self._token:
            self._holder_before = memory.holder
        self._guard(memory.token, memory.pushes)
        self._is_new = False

    def _tell(self, reason: str, notice: str = "", consequence: str = "") -> None:
        self._told, self._told_at = notice or f"{reason}, found", self._clock.now()
        self._consequence = consequence or "what was in flight is looked for, and lost if nobody has it"
        self._on_emptied(reason)

    # --- how far the database is ------------------------------------------------------------------------------------

    async def _look_at_database(self, memory: BrokerMemory) -> None:
        """Find out whether the database is older than what the broker knows of it, and whether somebody else has it, too."""
        if self._holder_before is None:
            self._holder_before = memory.holder if not self._examined.is_set() else ""
            if memory.turn > self._generation and not self._examined.is_set():
                logger.info("the broker has note %d of this database, which itself has note %d", memory.turn, self._generation)
                self._generation = memory.turn
                await self._on_setback("the database is older than what was sent with it, as the broker knows")
        elif memory.holder not in ("", self._holder, self._holder_before) and not self._is_another_at_work:
            self._is_another_at_work = True
            logger.error("%s", _ANOTHER)

    async def _note(self, memory: BrokerMemory) -> None:
        """Have database and broker remember each other, if anything has changed since they did."""
        pushes = max(self._dispatcher.pushes(), memory.pushes)
        if pushes > self._dispatcher.pushes():
            # What an earlier process pushed, or had no answer for.
            self._guard(self._token, pushes)
        if self._is_another_at_work or (memory.holder == self._holder and pushes == self._noted_pushes):
            return
        self._generation += 1
        await self._remember(pushes)
        await self._dispatcher.note(self._store.identity, self._generation, self._holder)

    async def _remember(self, pushes: int) -> None:
        await self._store.remember(_LEDGER, json.dumps({"turn": self._generation, "pushes": pushes}))
        self._noted_pushes = pushes

    async def end(self) -> None:
        """Note how much was pushed, so that the next process knows all of it."""
        pushes = self._dispatcher.pushes()
        if pushes > self._noted_pushes:
            with suppress(OutsideError):
                await self._remember(pushes)


_LEFT: Final = (
    "workers that still read it carry them out, and their ends count if the result backend is the same; what nobody here has is"
    " lost, and its policy decides; to have them finished there, configure the one before again"
)
_OTHER_TOKEN: Final = (
    "the broker has another token: another daemon works with a copy of this database, or broker or database were restored"
)
_ANOTHER: Final = (
    "another process has begun to work on this broker with a copy of this database: stop one of the two,"
    " or start the copy with a broker of its own"
)
