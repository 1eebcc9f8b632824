"""Long bodies are decoded in threads: few at a time, no user has all the places, and none goes on for nobody.

A thread cannot be ended from outside, so the work looks now and then whether it is still wanted: it is not when its client has
gone, its time is up, or the daemon stops. Nobody waits for it to notice: its place is given back when it has, and the threads
keep no process from ending.
"""

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Callable
from threading import Thread
from typing import Any, Final, TypeVar

import anyio

from dyrygentd.beside import giving_way
from dyrygentd.errors import BadRequest, DyrygentError, NotAccepting
from dyrygentd.http.problems import DecodingTooSlow
from dyrygentd.wire.bounds import Look

#: Decoding holds the interpreter's lock most of the time: more threads would only make everybody slower.
PLACES: Final = 2
#: Of these, those that one user may take; root may take all.
_OWN_PLACES: Final = 1
#: Some ten times what the longest body takes on a slow machine.
TIMEOUT_S: Final = 60.0
#: How long a client may have gone before it is noticed.
_LOOK_S: Final = 0.1

T = TypeVar("T")


class NotWanted(Exception):
    """Nobody waits for what is being decoded."""


class _Work:
    """One decoding, from its request on."""

    def __init__(self, user: int | None) -> None:
        self.user = user
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        self.is_wanted = True
        self.result: Any = None
        self.error: BaseException | None = None

    def look(self) -> None:
        """Raise `NotWanted` if it was given up."""
        if not self.is_wanted:
            raise NotWanted


class Decodes:
    """Runs decodings in threads. Guards: never more than `PLACES` run, and of one user's fewer, unless it is root.

    Made inside the event loop.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[_Work, None] = {}
        self._running: dict[_Work, None] = {}
        self._of_user: Counter[int | None] = Counter()
        self._is_stopping = False

    def __repr__(self) -> str:
        return f"<Decodes running={len(self._running)} waiting={len(self._waiting)}>"

    def stop(self) -> None:
        """Give up everything."""
        self._is_stopping = True

    async def run(self, decode: Callable[[Look], T], *, user: int | None, is_there: Callable[[], bool]) -> T:
        """Run a decoding for a user when it is its turn.

        Args:
            decode: Gets what it is to call now and then.
            is_there: Tells whether the client is.

        Raises:
            NotAccepting, DecodingTooSlow: It was given up.
            BadRequest: The client has gone.
        """
        work = _Work(user)
        self._waiting[work] = None
        try:
            self._begin_next()
            await self._wait(work.begun, is_there, self._timeout_s)
            Thread(target=self._in_thread, args=(work, decode), name="dyrygentd decoding", daemon=True).start()
            await self._wait(work.ended, is_there, self._timeout_s)
        finally:
            work.is_wanted = False
            if not work.begun.is_set():
                del self._waiting[work]
        if work.error is not None:
            raise work.error
        result: T = work.result
        return result

    async def _wait(self, event: anyio.Event, is_there: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not event.is_set():
            if self._is_stopping:
                raise NotAccepting("the daemon is stopping", next_step="submit again when it is back")
            if not is_there():
                raise BadRequest("the connection was cut before the answer")
            if time.monotonic() > deadline:
                raise DecodingTooSlow(timeout_s)
            with anyio.move_on_after(_LOOK_S):
                await event.wait()

    def _begin_next(self) -> None:
        for work in list(self._waiting):
            if len(self._running) >= PLACES:
                return
            if work.user and self._of_user[work.user] >= _OWN_PLACES:
                continue
            del self._waiting[work]
            self._running[work] = None
            self._of_user[work.user] += 1
            work.begun.set()

    def _in_thread(self, work: _Work, decode: Callable[[Look], Any]) -> None:
        try:
            work.look()
            with giving_way():
                work.result = decode(work.look)
        except DyrygentError as error:
            _let_go(error)
            work.error = error
        except BaseException as error:
            work.error = error
        # The loop may have ended meanwhile, and nobody waits then.
        try:
            self._loop.call_soon_threadsafe(self._end, work)
        except RuntimeError:
            return

    def _end(self, work: _Work) -> None:
        del self._running[work]
        self._of_user[work.user] -= 1
        if not self._of_user[work.user]:
            del self._of_user[work.user]
        work.ended.set()
        self._begin_next()


def _let_go(error: BaseException) -> None:
    """Free here, and not in the loop, what was built before an error."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
