"""Decodes results beside the loop, and waits with those that may not be the end.

*Decoding.* What is no plain JSON is decoded by serializers that the app may have brought along, and encoded as JSON by what it
has registered: both may block, or ask a database that must not be asked from an event loop. So that is done in a thread.

*Doubt.* A task may store a final state about itself (``update_state(state="FAILURE")``) and go on. Where that can be suspected
(`dyrygentd.transport.meta.is_doubtful`), the end is told only when nothing else was stored for a while: a retry or the true end
follows within the time that the rest of the task takes. The doubt is bounded, so a task that has ended in a way which looks like
that is told a little later, and never hangs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.to_thread

from dyrygentd.core.events import TaskEvent
from dyrygentd.transport.meta import event_of_meta, is_doubtful
from dyrygentd.transport.results import StoredResults

#: How long an end is doubted: what comes after it in the task's body, such as a retry, takes milliseconds.
DOUBT_S: Final = 3.0
#: Results that wait to be decoded; those beyond it are found again by the sweep.
_WAITING_BYTES_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was stored of a task: an event, or nothing, or an error; found by this path."""

    task_id: str
    path: str
    event: TaskEvent | None = None
    is_doubtful: bool = False
    date_done: Any = None
    error: BaseException | None = None


def decoded(task_id: str, path: str, read: Callable[[], Mapping[str, Any]]) -> Decoded:
    """Read a result and make an event of it; never raises, whatever serializers and encoders raise."""
    try:
        meta = read()
        if not isinstance(meta["status"], str):
            raise TypeError(f"its state is {meta['status']!r}")
        return Decoded(task_id, path, event_of_meta(task_id, meta), is_doubtful(meta), meta.get("date_done"))
    except Exception as error:
        return Decoded(task_id, path, error=error)


class Decoding:
    """Results to be decoded in a thread. Guards: the newest of each task, no more bytes than there is room for."""

    def __init__(self, stored: StoredResults) -> None:
        self._stored = stored
        self._waiting: dict[str, tuple[bytes, str]] = {}
        self._bytes = 0
        self._added = anyio.Event()
        # A decoder that hangs keeps others from hanging beside it.
        self._one_at_a_time = anyio.CapacityLimiter(1)

    def __repr__(self) -> str:
        return f"<Decoding waiting={len(self._waiting)}>"

    def add(self, task_id: str, payload: bytes, path: str) -> None:
        """Have a result decoded, unless too many wait."""
        replaced = self._waiting.pop(task_id, None)
        self._bytes += len(payload) - (len(replaced[0]) if replaced else 0)
        if self._bytes > _WAITING_BYTES_MAX:
            self._bytes -= len(payload)
            return
        self._waiting[task_id] = payload, path
        self._added.set()

    def clear(self) -> None:
        """Forget what waits; whoever starts over reads it again."""
        self._waiting, self._bytes = {}, 0

    async def next(self) -> list[Decoded]:
        """Wait for results, and return them decoded."""
        if not self._waiting:
            self._added = anyio.Event()
            await self._added.wait()
        waiting = self._waiting
        self.clear()

        def decode() -> list[Decoded]:
            stored = self._stored
            return [
                decoded(task_id, path, lambda payload=payload: stored.decode(payload))  # type: ignore[misc]
                for task_id, (payload, path) in waiting.items()
            ]

        return await anyio.to_thread.run_sync(decode, limiter=self._one_at_a_time, abandon_on_cancel=True)


class Doubts:
    """Ends that are not believed yet. Guards: each is told once its time is over, unless it was dropped."""

    def __init__(self, doubt_s: float = DOUBT_S) -> None:
        self._doubt_s = doubt_s
        #: In the order of their times.
        self._doubted: dict[str, tuple[float, TaskEvent, str]] = {}
        self._added = anyio.Event()

    def __repr__(self) -> str:
        return f"<Doubts doubted={len(self._doubted)}>"

    def __bool__(self) -> bool:
        return bool(self._doubted)

    def add(self, event: TaskEvent, path: str) -> None:
        """Doubt an end from now on; the same one once more changes nothing."""
        before = self._doubted.get(event.task_id)
        if before is None or before[1] != event:
            self._doubted.pop(event.task_id, None)
            self._doubted[event.task_id] = anyio.current_time() + self._doubt_s, event, path
            self._added.set()

    def drop(self, task_id: str) -> None:
        """Forget about a task: something else is known of it."""
        self._doubted.pop(task_id, None)

    async def due(self) -> list[tuple[TaskEvent, str]]:
        """Wait until the time of some is over; return them."""
        while True:
            if not self._doubted:
                self._added = anyio.Event()
                await self._added.wait()
                continue
            first, now = next(iter(self._doubted.values()))[0], anyio.current_time()
            if first > now:
                await anyio.sleep(first - now)
                continue
            due = [task_id for task_id, (at, _, _) in self._doubted.items() if at <= now]
            return [self._doubted.pop(task_id)[1:] for task_id in due]
