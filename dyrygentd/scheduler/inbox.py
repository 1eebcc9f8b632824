"""What has happened and waits for the next turn, with a door for each kind of news.

*Requests* (submissions, verbs, what was found out about a task) have a turn taken at once. *Results*, which may come by the
thousand, and the broker's *outcomes* may wait a moment for company, so that they share a turn and its transaction. A watcher that
gathers results by itself, so that they share the cost of reading as well, does so for as long, and they wait no second time.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import anyio

from dyrygentd.core.events import Event, TaskEvent, TaskReported
from dyrygentd.scheduler.redaction import Redaction

#: A result waits for others until there is one for so many messages in the queues.
_COMPANY: Final = 10


class Inbox:
    """Takes events in. Guards: a result is never dropped, and no text that came from a task or the broker keeps a secret.

    Args:
        redaction: Takes secrets out of texts, where they arrive.
        events_max: Events in the inbox beyond which progress reports of workers are dropped.
        turn_events_max: Events that are taken at one time.
        backlog: Tells how many messages are before one that is published now, see `Dispatcher.backlog`.
        company_s: Longest time that a result waits for others.
    """

    def __init__(
        self,
        redaction: Redaction,
        *,
        events_max: int = 100_000,
        turn_events_max: int = 2000,
        backlog: Callable[[], int] = lambda: 0,
        company_s: float = 0.01,
    ) -> None:
        self._redaction = redaction
        self._events_max = events_max
        self._turn_events_max = turn_events_max
        self._backlog = backlog
        self._company_s = company_s
        self._events: deque[Event] = deque()
        self._sleeper: asyncio.Future[None] | None = None
        self._saved = anyio.Event()
        self._is_urgent = self._has_gathered = False
        self._has_landed = True
        self._posted_at = time.monotonic()
        self._first_post: float | None = None

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return f"<Inbox events={len(self)} urgent={self._is_urgent} saved={self.is_saved}>"

    # --- the doors --------------------------------------------------------------------------------------------------

    def post(self, *events: Event) -> None:
        """Take what has a turn taken at once."""
        self._add(events)
        self._is_urgent = True
        self._wake()

    def post_results(self, events: Sequence[TaskEvent]) -> None:
        """Take what became of tasks; under overload reports that decide nothing are dropped."""
        if len(self._events) > self._events_max:
            events = [event for event in events if not isinstance(event, TaskReported)]
        self._add_patiently(events)

    def post_gathered(self, events: Sequence[TaskEvent]) -> None:
        """Take what became of tasks from a watcher that has gathered it for as long as `gather_s` said: it waits no more."""
        self._has_gathered = True
        self.post_results(events)

    def gather_s(self, count: int) -> float:
        """Return how long the results after so many may be gathered, in seconds; 0 if somebody waits for them."""
        return self._company_s if count < self._backlog() // _COMPANY else 0.0

    def post_outcomes(self, outcomes: Sequence[TaskEvent]) -> None:
        """Take what the broker answered to messages and revokes; there is one for each, so nothing piles up."""
        self._add_patiently(outcomes)

    def _add_patiently(self, events: Sequence[TaskEvent]) -> None:
        is_first = not self._events
        self._add(self._redaction.events(events))
        # The first begins the time for which the others may take to come.
        if is_first or not self._lacks_company:
            self._wake()

    def _add(self, events: Sequence[Event]) -> None:
        if not self._events:
            self._posted_at = time.monotonic()
        if self._first_post is None:
            self._first_post = self._posted_at
        self._events.extend(events)

    @property
    def _lacks_company(self) -> bool:
        """Tell whether what has happened may wait a moment for more.

        It may if it is little beside what waits in the queues: what goes on because of it would wait behind that.
        """
        return not (self._is_urgent or self._has_gathered) and len(self._events) < self._backlog() // _COMPANY

    # --- for the turns ----------------------------------------------------------------------------------------------

    async def wait(self, due_s: Callable[[], float]) -> None:
        """Wait for something that needs no more company, or until anything else is due, in so many seconds."""
        company_until: float | None = None
        while True:
            pause_s = due_s()
            if self._events:
                now = asyncio.get_running_loop().time()
                if company_until is None:
                    company_until = now + self._company_s
                pause_s = min(pause_s, company_until - now) if self._lacks_company else 0.0
            if pause_s <= 0:
                await asyncio.sleep(0)
                return
            await self._doze(pause_s)
            if not (self._events and self._lacks_company):
                return

    async def wait_for_news(self, timeout_s: float) -> bool:
        """Wait until something comes, or for so long; tell whether somebody waits for an answer."""
        await self._doze(timeout_s)
        return self._is_urgent

    async def _doze(self, timeout_s: float) -> None:
        """Wait until somebody wakes, or for so long. anyio's event and scope take 13 us instead of 3, in each turn twice."""
        loop = asyncio.get_running_loop()
        self._sleeper = sleeper = loop.create_future()
        timer = None if timeout_s == math.inf else loop.call_later(timeout_s, self._wake)
        try:
            await sleeper
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def take(self) -> Iterator[Event]:
        """Iterate over what is there now, as much as one turn takes, and have it out of the inbox."""
        if self._events:
            self._has_landed = False
        self._is_urgent = self._has_gathered = False
        for _ in range(min(len(self._events), self._turn_events_max)):
            yield self._events.popleft()

    def take_first_post(self) -> float | None:
        """Return when the first event came since this was called last, None if none did."""
        first_post, self._first_post = self._first_post, None
        return first_post

    def landed(self) -> None:
        """Note that what was taken is on disk, if anything had to be."""
        self._has_landed = True
        if not self._events:
            self._saved.set()

    # --- for those who wait -----------------------------------------------------------------------------------------

    @property
    def is_saved(self) -> bool:
        """Tell whether all that was posted is worked in and on disk."""
        return self._has_landed and not self._events

    @property
    def waiting_s(self) -> float:
        """For how long there has been something that no turn has taken."""
        return time.monotonic() - self._posted_at if self._events else 0.0

    async def wait_saved(self) -> None:
        """Wait until all that was posted until now is worked in and on disk."""
        while not self.is_saved:
            if self._saved.is_set():
                self._saved = anyio.Event()
            await self._saved.wait()
