"""Whether this process leads, where several processes may wait for one database.

*Trust.* The lease runs by the database's clock, which nobody can read without asking. So a process counts by its own, which
nobody sets: it had the lease at some time after it began to ask, so it has it until a whole time to live after that, and trusts
it a little less long. What is not trusted publishes nothing and answers nothing with success; what it has in memory stays, and
goes on as soon as the lease is renewed. Trust keeps a process that was stopped, or cut off, from work that would be refused; that
it is refused, by database and broker, does not rest on it.

*When the database cannot be reached* it is asked again and again: the lease was over then, and may be this process's still.
"""

import logging
from collections.abc import Callable
from copy import copy
from typing import Final

import anyio

from dyrygentd.errors import DyrygentError, Fenced, OutsideError, StoreLocked
from dyrygentd.ports import Clock, Lease, SteadyClock
from dyrygentd.ports.facts import Holder, LeaseView

logger = logging.getLogger("dyrygentd")

#: Parts of its time to live after which a lease is renewed, and for which it is not trusted any more.
_RENEWED_AFTER: Final = 0.2
_MARGIN: Final = 0.2
#: Renewals between two looks at who waits.
_LOOK_EVERY: Final = 2
#: How long who begins waits before it asks again for what another one has, and how much longer a lease holds that was renewed.
_ASK_AGAIN_S: Final = 0.2
_RENEWED_S: Final = 0.05


class NotConfirmed(OutsideError):
    """What was asked for is stored, and it is not known whether this daemon led then, so that it counts."""

    code = "not-confirmed"
    next_step = "look whether it was done, `dyrygentctl list` and `dyrygentctl events ID`; what has a key may be submitted again"

    def __init__(self, reason: str) -> None:
        super().__init__(f"it is not known whether this daemon still leads: {reason}")
        self.reason = reason


class Leadership:
    """Keeps the lease. Guards: it is trusted only as long as nobody else can have it, by a clock that nobody sets.

    Args:
        lease: None where a lock decides, which nobody else can have: then it is trusted always.
        confirm_max_s: How long an answer waits until the lease is trusted again.

    Attributes:
        lost: Why this process does not lead any more; None as long as it does, or may.
        view: What was seen last of the lease.
        holder: As what this process has taken it; None where a lock decides, and before `begin`.
    """

    def __init__(self, lease: Lease | None, clock: Clock, *, confirm_max_s: float = 10.0) -> None:
        self.lost: Fenced | None = None
        self.view: LeaseView | None = None
        self.holder: Holder | None = None
        self._lease = lease
        self._clock = clock
        self._steady: Callable[[], float] = clock.steady if isinstance(clock, SteadyClock) else clock.now
        self._confirm_max_s = confirm_max_s
        self._trusted_until = float("inf") if lease is None else float("-inf")
        self._changed = anyio.Event()
        self._problem = ""
        self._has_ended = False
        # How many renewals were asked for, which of these was granted last, and who asks beside `run`.
        self._asked = self._renewed = 0
        self._asks_anew = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Leadership trusted={self.is_trusted} lost={self.lost is not None}>"

    @property
    def is_trusted(self) -> bool:
        """Whether nobody else can have the lease now."""
        return self.lost is None and self._steady() < self._trusted_until

    @property
    def left_s(self) -> float:
        """For how long it is trusted still; negative if it is not."""
        return self._trusted_until - self._steady()

    @property
    def problem(self) -> str:
        """Why nothing is published although this process led, empty if it does, or knows that it does not."""
        if self.is_trusted or self.lost is not None or self._trusted_until == float("-inf"):
            return ""
        why = f": {self._problem}" if self._problem else ""
        return (
            "the lease was not renewed in time, and another process may lead:"
            f" nothing is dispatched until the database answers{why}"
        )

    @property
    def standbys(self) -> int:
        """How many processes wait for it, as far as is known."""
        return 0 if self.view is None else self.view.standbys

    async def begin(self) -> None:
        """Take the lease, also of a process that is there no more, as soon as that is over.

        Raises:
            StoreLocked: Another process leads, and goes on.
            StoreUnavailable, StoreIncompatible: The database cannot be used.
        """
        if self._lease is None:
            return
        holder = self.holder = Holder.here(self._clock.now())
        until: float | None = None
        while not await self._taken(self._lease, holder):
            view, now = await self._lease.view(), self._steady()
            if not view.is_held:
                # Free for a moment, or a tool has it that works without a daemon.
                until = now if until is None else until
                if now - until > self._lease.ttl_s:
                    raise StoreLocked("the database is in use by another program")
            elif until is not None and now + view.left_s > until + _RENEWED_S:
                raise StoreLocked(f"the database is in use by {view.holder.words if view.holder else 'another process'}")
            else:
                until = now + view.left_s if until is None else until
            await anyio.sleep(_ASK_AGAIN_S)

    async def _taken(self, lease: Lease, holder: Holder) -> bool:
        begun = self._steady()
        if not await lease.take(holder):
            return False
        self._trust_from(begun)
        return True

    def _trust_from(self, begun: float) -> None:
        assert self._lease is not None
        self._trusted_until = begun + (1 - _MARGIN) * self._lease.ttl_s
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def run(self) -> None:
        """Renew the lease until cancelled. Raises `Fenced` once another process has it."""
        if self._lease is None:
            return
        count = 0
        while True:
            if count % _LOOK_EVERY == 0:
                await self._look(self._lease)
            count += 1
            await anyio.sleep(_RENEWED_AFTER * self._lease.ttl_s)
            await self._renew(self._lease)

    async def _renew(self, lease: Lease) -> None:
        begun, was_trusted = self._steady(), self.is_trusted
        self._asked += 1
        number = self._asked
        try:
            await lease.renew()
        except Fenced as error:
            self.lost = error
            self._tell()
            raise
        except OutsideError as error:
            if self._problem != error.message:
                logger.warning("the lease was not renewed, and is tried again: %s", error)
                self._problem = error.message
            return
        self._problem = ""
        self._renewed = number
        self._trust_from(begun)
        if not was_trusted:
            logger.warning("the lease was over, and nobody has taken it: this process goes on")

    async def _look(self, lease: Lease) -> None:
        try:
            self.view = await lease.view()
        except DyrygentError as error:
            logger.debug("who waits for the lease is not known: %s", error)

    async def wait_trusted(self) -> None:
        """Return as soon as the lease is trusted; if this process ends before, never. Raises `Fenced` if it is another's."""
        while not self.is_trusted:
            if self.lost is not None:
                raise copy(self.lost)
            await self._changed.wait()

    def lose(self, error: Fenced) -> None:
        """Hear from the broker that another process leads: the database, which may not answer, is not waited for."""
        if self.lost is None:
            self.lost = error
            self._tell()
        if self._lease is not None:
            self._lease.lose(error)

    def end(self) -> None:
        """Wake everybody who waits: the lease is not renewed any more."""
        self._has_ended = True
        self._tell()

    async def confirm(self) -> None:
        """Return if what is on disk now may be answered for. Raises `Fenced` or `NotConfirmed`."""
        with anyio.move_on_after(self._confirm_max_s):
            while not self.is_trusted:
                if self.lost is not None:
                    raise copy(self.lost)
                if self._has_ended:
                    raise NotConfirmed("it has ended")
                await self._changed.wait()
            return
        raise NotConfirmed(self._problem or "the lease was not renewed in time")

    async def confirm_anew(self) -> None:
        """Return once the database has said, asked from now on, that this process leads; where a lock decides, at once.

        What is trusted may be over all the same: the clock of a machine that was suspended stood still. Raises `Fenced` or
        `NotConfirmed`.
        """
        if self._lease is None:
            return
        earlier = self._asked
        with anyio.move_on_after(self._confirm_max_s):
            async with self._asks_anew:
                # Many who wait share one.
                if self._renewed <= earlier:
                    await self._renew(self._lease)
                if self._renewed > earlier:
                    return
        raise NotConfirmed(self._problem or "the database does not answer")
