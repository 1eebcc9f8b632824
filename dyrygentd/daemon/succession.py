"""In which order a process stands by and leads, and what it does when it is overtaken; how either is done it does not know.

*Whose database is away at the start* stands by until it is there. What waiting does not help (no such database, no rights) ends
it, since whoever has started it looks then.

*Whose database went back* has turns in mind that nobody has any more. It begins anew with what is there, unless one that stood by
is faster.

*Who was overtaken* stands by, unless a copy of the database has gone on: two that take turns would help nobody, so it ends.

*Where a lock decides*, as with SQLite, a process leads from its start to its end, and another one that takes over ends it.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import anyio
from anyio.abc import TaskStatus

from dyrygentd.errors import Fenced, OutsideError, StoreIncompatible, StoreLocked, StoreUnavailable
from dyrygentd.ports import Lease, Store
from dyrygentd.ports.facts import Holder, LeaseView
from dyrygentd.store.continuity import WentBack
from dyrygentd.store.postgres import StoreAway

logger = logging.getLogger("dyrygentd.daemon")

#: How often who stands by tries to take the lease, if nobody wakes it; and how long after its end, if that comes before.
LOOK_S: Final = 1.0
_JUST_OVER_S: Final = 0.1
#: How long whoever was overtaken asks by whom.
_ASK_MAX_S: Final = 2.0


class Part(Protocol):
    """How a process does what its role is."""

    @property
    def may_lead(self) -> bool:
        """Tell whether it wants the lease at all."""

    @property
    def is_serving(self) -> bool:
        """Tell whether clients have been served by this process, in whatever role."""

    def holder(self) -> Holder:
        """Return what tells this process from others."""

    def make_store(self) -> Store:
        """Make a store to lead with, which is not open yet."""

    async def prepare(self, lease: Lease) -> None:
        """See whether it may take part. Raises what keeps it from that."""

    async def keep_up(self, lease: Lease) -> None:
        """Do what has to be done beside each role, until cancelled."""

    async def answer_beside(self, lease: Lease, over: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        """Serve clients beside whoever leads until ``over``; started once they are served."""

    async def lead(self, store: Store, standby_over: Callable[[], None]) -> None:
        """Lead until the end, having told when clients are served. Raises `Fenced` if another process takes over."""


class Succession:
    """Guards: a process has one role at a time, and who has served clients does so in each.

    Attributes:
        ending: Set by `end`.
        losses: How often this process was overtaken.
    """

    def __init__(self, part: Part) -> None:
        self.ending = anyio.Event()
        self.losses = 0
        self._part = part

    def __repr__(self) -> str:
        return f"<Succession losses={self.losses} ending={self.ending.is_set()}>"

    def end(self) -> None:
        """Have `run` return as soon as whoever leads has ended its work."""
        self.ending.set()

    async def run(self) -> None:
        """Go through the roles until `end`.

        Raises `Fenced` where nobody stands by, or a copy of the database went on, or what keeps the first role from beginning.
        """
        while not self.ending.is_set():
            store = self._part.make_store()
            if store.lease is None:
                await self._part.lead(store, _nobody_stands_by)
                return
            try:
                await self._part.prepare(store.lease)
                await self._take_part(store, store.lease)
            except WentBack as error:
                logger.error("%s: this process begins anew", error.message)
            except Fenced as error:
                if await _is_by_a_copy(store.lease):
                    raise
                self.losses += 1
                logger.error("%s: this process stands by", error.message)
            except StoreLocked as error:
                # It was this one's for a moment, in which the process did not get as far as to lead.
                logger.warning("cannot lead, and stands by: %s", error)
            except StoreUnavailable as error:
                if not self._part.is_serving and not isinstance(error, StoreAway):
                    raise
                logger.error("cannot lead, and stands by: %s", error)
            finally:
                with anyio.CancelScope(shield=True):
                    await store.close()

    async def _take_part(self, store: Store, lease: Lease) -> None:
        """Stand by unless the lease can be had at once, and lead when it can, until that is over."""
        lost: Fenced | StoreUnavailable | StoreLocked | None = None
        async with anyio.create_task_group() as tasks:
            over, keeping_up = anyio.Event(), anyio.CancelScope()
            tasks.start_soon(self._keep_up, lease, keeping_up)
            # Who has lost it serves clients first, whether the database can be reached or not.
            at_once = self._part.may_lead and not self._part.is_serving
            if not (at_once and await self._taken_at_once(lease)):
                await tasks.start(self._part.answer_beside, lease, over)
                await self._wait_for(lease)
            if not self.ending.is_set():
                try:
                    await self._part.lead(store, over.set)
                except (Fenced, StoreUnavailable, StoreLocked) as error:
                    lost = error
            over.set()
            keeping_up.cancel()
        if lost is not None:
            raise lost

    async def _keep_up(self, lease: Lease, scope: anyio.CancelScope) -> None:
        with scope:
            await self._part.keep_up(lease)

    async def _taken_at_once(self, lease: Lease) -> bool:
        """Take the lease if it is free. Who leads on a schema of an older version, or a server that is away, is waited for."""
        try:
            return await lease.take(self._part.holder())
        except StoreLocked:
            # Whoever asks for it again says so.
            return False
        except StoreAway as error:
            logger.warning("cannot lead yet, and stands by: %s", error)
            return False

    async def _wait_for(self, lease: Lease) -> None:
        """Return once this process has the lease, or is to end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._take_as_soon_as_free, lease, tasks.cancel_scope.cancel)
            await self.ending.wait()
            tasks.cancel_scope.cancel()

    async def _take_as_soon_as_free(self, lease: Lease, taken: Callable[[], None]) -> None:
        if not self._part.may_lead:
            await anyio.sleep_forever()
        # It was asked for just now, or was lost: who loses it again and again pauses.
        complaint, pause_s = "", LOOK_S
        while True:
            try:
                await lease.wait(pause_s)
                if await lease.take(self._part.holder()):
                    taken()
                    return
                complaint, pause_s = "", until_next_look_s(await lease.view())
            except StoreIncompatible:
                raise
            except OutsideError as error:
                is_older = isinstance(error, StoreLocked)
                if error.message != complaint:
                    logger.warning("stands by%s: %s", "" if is_older else ", and cannot ask for the lease", error)
                    complaint = error.message
                if not is_older:
                    await anyio.sleep(LOOK_S)


def until_next_look_s(view: LeaseView) -> float:
    """Return how long who stands by pauses: until the lease is over at most, and never less than it takes to look."""
    return min(LOOK_S, max(view.left_s, 0.0) + _JUST_OVER_S)


async def _is_by_a_copy(lease: Lease) -> bool:
    """Tell whether who has overtaken this process works with another database: in this one it would have the lease before."""
    # Who cannot ask stands by, and finds out at the next attempt to lead; its clients wait meanwhile.
    with suppress(OutsideError), anyio.move_on_after(_ASK_MAX_S):
        return (await lease.view()).is_ours
    return False


def _nobody_stands_by() -> None:
    pass
