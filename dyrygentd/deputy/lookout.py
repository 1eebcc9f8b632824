"""Who leads, and since when nothing was heard of them, as the lease tells it to a process that does not lead."""

import logging
from typing import Final

import anyio

from dyrygentd.errors import OutsideError
from dyrygentd.ports import Lease, Store
from dyrygentd.ports.facts import LeaseView

logger = logging.getLogger("dyrygentd.deputy")

_LOOK_S: Final = 1.0
#: How long the first look may take before clients are answered all the same.
_FIRST_LOOK_S: Final = 2.0


class Lookout:
    """Looks at the lease each second.

    Args:
        lease: Whose; None if nobody knows who leads.
        store: Where the number of unfinished workflows is asked for.

    Attributes:
        view: What was seen last; None if nothing was yet.
        workflow_count: Unfinished workflows.
        problem: Why nothing can be seen, empty if it can.
    """

    def __init__(self, lease: Lease | None, store: Store, *, look_s: float = _LOOK_S) -> None:
        self.view: LeaseView | None = None
        self.workflow_count = 0
        self.problem = ""
        self._lease = lease
        self._store = store
        self._look_s = look_s
        self._seen_at = 0.0

    def __repr__(self) -> str:
        return f"<Lookout leader='{self.leader}' lag_s={self.lag_s} problem='{self.problem}'>"

    @property
    def leader(self) -> str:
        """Who leads, as people are told; empty if nobody does, or nobody knows."""
        view = self.view
        is_held = view is not None and view.left_s > self._age_s
        return view.holder.words if view is not None and view.holder is not None and is_held else ""

    @property
    def is_leaderless(self) -> bool:
        """Whether it is known that nobody leads; who cannot look does not know it."""
        return self.view is not None and not self.leader and not self.problem

    @property
    def term(self) -> int:
        """How many processes have taken the database over."""
        return 0 if self.view is None else self.view.term

    @property
    def left_s(self) -> float | None:
        """For how long the leader has the database still; negative if it is over. None if that is not known."""
        left_s = -float("inf") if self.view is None else self.view.left_s - self._age_s
        # One that was resigned, or that nobody ever had, has no such time.
        return left_s if left_s > -float("inf") else None

    @property
    def standbys(self) -> int:
        """How many processes wait to lead, as far as they were seen lately."""
        return 0 if self.view is None else self.view.standbys

    @property
    def lag_s(self) -> float | None:
        """How long ago the leader was heard of last; what is stored may be as old. None if that is not known."""
        if self.view is None or self._lease is None:
            return None
        lag_s = self._lease.ttl_s - self.view.left_s + self._age_s
        # One that has resigned has no such time.
        return max(0.0, lag_s) if lag_s < float("inf") else None

    @property
    def _age_s(self) -> float:
        return anyio.current_time() - self._seen_at

    async def look(self) -> None:
        """Look once."""
        try:
            begun = anyio.current_time()
            if self._lease is not None:
                view = await self._lease.view()
                self.view, self._seen_at = view, begun
            self.workflow_count = await self._store.unfinished_count()
        except OutsideError as error:
            if not self.problem:
                logger.warning("the database cannot be read: %s", error)
            self.problem = error.message
        else:
            self.problem = ""

    async def look_first(self) -> None:
        """Look once, and not for long: who asks is told that nobody answers."""
        with anyio.move_on_after(_FIRST_LOOK_S) as bound:
            await self.look()
        if bound.cancelled_caught and not self.problem:
            self.problem = "the database has not answered yet"

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await anyio.sleep(self._look_s)
