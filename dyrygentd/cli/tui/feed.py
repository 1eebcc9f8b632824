"""What a view is told: it follows the fold of one workflow, and asks for the rest of what is shown when that has changed.

One stream for each view, of which the daemon serves a bounded number: it brings the boxes that have changed, twice a second at
most, and the daemon counts them once for all who look. At most once a second follow what is to be known at one glance, the
journal, and of the open boxes those that have changed. What is no change of a workflow, such as a broken disk, is asked for now
and then. A daemon that goes away is waited for, however long it takes, since whoever looks can leave at any time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from dyrygentd import wire
from dyrygentd.cli import standstill
from dyrygentd.cli.tui.outline import Outline
from dyrygentd.client import patience
from dyrygentd.client.aio import AsyncClient, AsyncHandle
from dyrygentd.errors import DyrygentError, RemoteError

_PAUSE_S: Final = 1.0
#: How often it is looked when nothing has changed.
_SLOW_S: Final = 10.0
#: Each so many folds all open boxes are asked for: counts may be the same although nodes have changed places.
_ALL_OF_THEM: Final = 10
#: How often a workflow that has ended is looked at: somebody may retry it.
_ENDED_PAUSE_S: Final = 5.0
_NODES: Final = 50


@dataclass(frozen=True, slots=True)
class Look:
    """How everything stood a moment ago."""

    summary: wire.Summary
    journal: list[wire.JournalView]

    @property
    def view(self) -> wire.WorkflowView:
        """The workflow."""
        return self.summary.workflow


class Feed:
    """Follows a workflow.

    Args:
        saw: Told each look, and None when the outline has other folds.
        lost: Told why the daemon cannot be reached, once when it goes away; empty when it is back.
        stood_still: Told why nothing goes on, which the daemon finds out by asking the workers; empty when it does.
    """

    def __init__(
        self,
        client: AsyncClient,
        handle: AsyncHandle,
        outline: Outline,
        *,
        saw: Callable[[Look | None], None],
        lost: Callable[[str], None],
        stood_still: Callable[[str], None],
    ) -> None:
        self._client, self._handle, self._outline = client, handle, outline
        self._saw, self._lost, self._stood_still = saw, lost, stood_still
        self._quiet = standstill.Quiet(after_s=standstill.AFTER_S)
        self._changed = asyncio.Event()
        self._is_lost = False
        self._folds = 0

    def __repr__(self) -> str:
        return f"<Feed of {self._handle.id}{' lost' if self._is_lost else ''}>"

    async def run(self) -> None:
        """Follow, until cancelled. Raises what no waiting helps against, such as that the workflow is gone."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._coming_back(self._follow))
            tasks.create_task(self._coming_back(self._look_on))
            tasks.create_task(self._coming_back(self._wonder))

    def poke(self) -> None:
        """Have it looked soon: something has been done."""
        self._changed.set()

    async def open(self, path: str) -> None:
        """Ask for a box and put it into the outline."""
        self._outline.put(await self._handle.fold(path))

    async def _coming_back(self, ask: Callable[[], Awaitable[object]]) -> None:
        pauses = patience.pauses()
        while True:
            try:
                await ask()
            except DyrygentError as error:
                if not patience.is_passing(error):
                    raise
                self._tell_lost(str(error))
                await asyncio.sleep(next(pauses))
            else:
                pauses = patience.pauses()

    async def _follow(self) -> None:
        state = ""
        async for fold in self._handle.follow_fold(reconnect_s=0.0):
            self._tell_lost("")
            self._changed.set()
            state = fold.state
            await self._take(fold)
            await asyncio.sleep(_PAUSE_S)
        self._changed.set()
        if state not in ("scheduled", "running", "paused"):
            await asyncio.sleep(_ENDED_PAUSE_S)

    async def _take(self, fold: wire.FoldView) -> None:
        """Take the fold of the whole, and ask for open boxes: what is inside of one can only have changed if the box has."""
        self._folds += 1
        asked = [path for path in self._outline.paths if path] if self._folds % _ALL_OF_THEM == 0 else self._outline.stale(fold)
        self._outline.put(fold)
        while asked:
            path = asked.pop(0)
            if self._outline.fold(path) is None:
                continue  # Closed meanwhile.
            try:
                inner = await self._handle.fold(path)
            except RemoteError as error:
                if patience.is_passing(error):
                    raise
                self._outline.close(path)
                continue
            asked += [each for each in self._outline.stale(inner) if each not in asked]
            if self._outline.fold(path) is not None:
                self._outline.put(inner)
        self._saw(None)

    async def _look_on(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), _SLOW_S)
        self._changed.clear()
        try:
            look = Look(await self._client.summary(self._handle.id, limit=_NODES), await self._handle.journal())
        except DyrygentError:
            self._changed.set()
            raise
        self._tell_lost("")
        self._quiet.note(look.view, time.monotonic())
        if self._quiet.is_over:
            self._stood_still("")
        self._saw(look)
        await asyncio.sleep(_PAUSE_S)

    async def _wonder(self) -> None:
        """Have it asked why nothing goes on, if nothing does."""
        await asyncio.sleep(self._quiet.after_s / 4)
        if self._quiet.is_due(time.monotonic()):
            why = standstill.reason_in(await self._handle.explain())
            # Meanwhile something may have ended.
            if not self._quiet.is_over:
                self._stood_still(why)

    def _tell_lost(self, why: str) -> None:
        if bool(why) != self._is_lost:
            self._is_lost = bool(why)
            self._lost(why)
