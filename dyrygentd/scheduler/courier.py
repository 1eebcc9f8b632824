"""What goes to the broker: messages, and errands: revoking, and forgetting what was kept against double sending.

Both are repeated until the broker answers. Only the process's end keeps an errand from being done: `Archive.given_up` finds after
the next start what is still to be revoked, and a marker that stays expires by itself.
"""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import anyio

from dyrygentd.core.effects import Publish, Revoke, RevokeStamped
from dyrygentd.core.events import MessagePublished, TaskEvent, TaskRevoked
from dyrygentd.core.tally import Tally
from dyrygentd.errors import BrokerEmptied, BrokerUnavailable, Fenced, OutsideError
from dyrygentd.ports import Dispatcher
from dyrygentd.ports.facts import WORKFLOW_STAMP, TaskPlace
from dyrygentd.scheduler.limits import RETRY_FIRST_S, RETRY_MAX_S
from dyrygentd.scheduler.value_reading import ValueReading

logger = logging.getLogger("dyrygentd")

#: Messages per call of the dispatcher: one script call, about 20 ms of encoding, so a cancel is never far behind.
_PUBLISH_SLICE: Final = 100
#: Errands that wait for the broker; the oldest go first, and of those the engine repeats what may still matter.
_ERRANDS_MAX: Final = 20_000

T = TypeVar("T")


class Courier:
    """Publishes and revokes, each in a task of its own.

    Args:
        is_wanted: Tells whether a task id is still to be published.
        is_live: Tells whether a workflow may publish more.
        post: Takes what the broker has answered.
        on_withdrawn: Told which cancelled tasks will never run, since their messages were taken back.
        wait_examined: Waits until it is known whether the broker is as it was left; nothing is sent before.
        wait_trusted: Waits until it is known that no other process may lead; nothing is sent before. Raises `Fenced`.
        values: Reads what messages are given, if it is kept beside the database.
        on_emptied: Called when the broker has lost its memory; when it returns, publishing goes on. It calls `emptied`.

    Attributes:
        problem: Why the broker cannot be reached, empty if it can.
        publish_seconds: From a dispatch being on disk to its message being in the broker.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        is_wanted: Callable[[str], bool],
        is_live: Callable[[str], bool],
        post: Callable[[Sequence[TaskEvent]], None],
        on_emptied: Callable[[], Awaitable[None]],
        on_withdrawn: Callable[[Iterable[str]], None] = lambda _: None,
        wait_examined: Callable[[], Awaitable[None]],
        wait_trusted: Callable[[], Awaitable[None]],
        values: ValueReading,
    ) -> None:
        self.problem = ""
        self.publish_seconds = Tally()
        self._taken_at: deque[tuple[int, float]] = deque()
        self._on_emptied = on_emptied
        self._on_withdrawn = on_withdrawn
        self._wait_examined = wait_examined
        self._wait_trusted = wait_trusted
        self._values = values
        # Tried without an answer, and those of them that were given up when the broker had lost its memory.
        self._ambiguous: set[str] = set()
        self._given_up: set[str] = set()
        self._dispatcher = dispatcher
        self._is_wanted = is_wanted
        self._is_live = is_live
        self._post = post
        self._to_publish: deque[Publish] = deque()
        self._publisher_awake = anyio.Event()
        self._to_revoke: dict[str, Revoke] = {}
        self._to_revoke_stamped: dict[str, RevokeStamped] = {}
        self._to_forget: dict[str, None] = {}
        self._errands_awake = anyio.Event()

    def __repr__(self) -> str:
        publish, revoke, forget = len(self._to_publish), len(self._to_revoke), len(self._to_forget)
        return f"<Courier {publish=} {revoke=} {forget=} problem='{self.problem}'>"

    @property
    def errand_count(self) -> int:
        """Errands that wait for the broker."""
        return len(self._to_revoke) + len(self._to_revoke_stamped) + len(self._to_forget)

    @property
    def _has_errands(self) -> bool:
        return bool(self.errand_count)

    @property
    def queue_size(self) -> int:
        """Durable dispatches that wait for the broker."""
        return len(self._to_publish)

    def doubt(self, task_ids: Iterable[str]) -> None:
        """Note that these messages may have been sent by an earlier process."""
        self._ambiguous.update(task_ids)

    def is_doubted(self, task_id: str) -> bool:
        """Tell whether a message may have been sent, and nobody knows."""
        return task_id in self._ambiguous

    def emptied(self) -> None:
        """Note that the broker has lost its memory: what may have been sent before that counts as sent, and is not sent again.

        A worker may have it, and the marker against double publishing is gone.
        """
        self._given_up, self._ambiguous = self._ambiguous, set()
        self._post([*map(MessagePublished, self._given_up)])

    def hand_in(self, messages: Sequence[Publish]) -> None:
        """Take messages of a batch that is durable."""
        if messages:
            self._to_publish.extend(messages)
            self._taken_at.append((len(messages), time.monotonic()))
            self._publisher_awake.set()

    def revoke(self, revokes: Iterable[Revoke], stamped: Iterable[RevokeStamped] = ()) -> None:
        """Keep tasks from running, as soon as the broker can be reached."""
        self._to_revoke.update({revoke.task_id: revoke for revoke in revokes})
        self._to_revoke_stamped.update({revoke.stamp: revoke for revoke in stamped})
        if self._has_errands:
            self._errands_awake.set()

    def forget(self, workflow_ids: Iterable[str]) -> None:
        """Drop what was kept against double sending of workflows that have ended, as soon as the broker can be reached."""
        self._to_forget.update(dict.fromkeys(workflow_ids))
        if self._has_errands:
            self._errands_awake.set()

    # --- messages ---------------------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Publish what is taken in, until cancelled. Raises `Fenced`."""
        await self._wait_examined()
        while True:
            if not self._to_publish:
                self._publisher_awake = anyio.Event()
                await self._publisher_awake.wait()
            size = min(len(self._to_publish), _PUBLISH_SLICE)
            await self._publish_slice([self._to_publish.popleft() for _ in range(size)])
            self._note_published(size)

    def _note_published(self, count: int) -> None:
        """Count how long messages took; they go in the order in which they were taken in."""
        now = time.monotonic()
        while count and self._taken_at:
            number, taken_at = self._taken_at.popleft()
            self.publish_seconds.add(now - taken_at, count=min(number, count))
            if number > count:
                self._taken_at.appendleft((number - count, taken_at))
            count -= min(number, count)

    async def _publish_slice(self, messages: Sequence[Publish]) -> None:
        """Publish, again and again until the broker answers; what was cancelled meanwhile is left out."""
        pause_s = RETRY_FIRST_S
        await self._wait_trusted()
        while messages := [message for message in messages if self._is_to_be_sent(message.task_id)]:
            filled = await self._values.fill(messages)
            if not filled.messages and not filled.refused:
                # Others go first: what they are given can be read.
                self.hand_in(messages)
                await anyio.sleep(RETRY_FIRST_S)
                break
            try:
                outcomes = [*filled.refused, *(await self._dispatcher.publish(filled.messages) if filled.messages else ())]
            except BrokerEmptied:
                try:
                    await self._on_emptied()
                except Fenced:
                    raise
                except OutsideError as error:
                    self.problem = error.message
                    await anyio.sleep(pause_s)
                    pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            except Fenced:
                raise
            except Exception as error:
                self._ambiguous.update(message.task_id for message in messages)
                # What a dispatcher does not translate is a bug, its own or of a library below: an outage that can be looked into.
                is_bug = not isinstance(error, BrokerUnavailable)
                if not self.problem or is_bug:
                    logger.error("nothing is dispatched until the broker answers: %s", error, exc_info=is_bug)
                self.problem = (
                    error.message if isinstance(error, BrokerUnavailable) else f"publishing failed unexpectedly: {error!r}"
                )
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                await self._wait_trusted()
                continue
            self._post(outcomes)
            answered = {outcome.task_id for outcome in outcomes}
            self._ambiguous -= answered
            messages = [message for message in messages if message.task_id not in answered]
            self._note_no_problem("the broker answers again")
        # What was left may not be wanted any more; whether the broker is there is then known from elsewhere.
        self._note_no_problem("nothing waits for the broker any more")
        if not self._to_publish:
            # What was cancelled meanwhile will not be sent.
            self._ambiguous.clear()
            self._given_up.clear()

    def _note_no_problem(self, words: str) -> None:
        if self.problem:
            logger.warning(words)
            self.problem = ""

    def _is_to_be_sent(self, task_id: str) -> bool:
        return self._is_wanted(task_id) and task_id not in self._given_up

    # --- errands ----------------------------------------------------------------------------------------------------

    async def run_errands(self) -> None:
        """Revoke tasks and forget markers, until cancelled. Raises `Fenced`."""
        await self._wait_examined()
        pause_s = RETRY_FIRST_S
        while True:
            if not self._has_errands:
                self._errands_awake = anyio.Event()
                await self._errands_awake.wait()
            await self._wait_trusted()
            revokes, self._to_revoke = self._to_revoke, {}
            stamped, self._to_revoke_stamped = self._to_revoke_stamped, {}
            forget, self._to_forget = self._to_forget, {}
            try:
                await self._revoke(list(revokes.values()), list(stamped.values()))
                # One that goes on needs its markers, and its end will come again.
                over = [workflow_id for workflow_id in forget if not self._is_live(workflow_id)]
                if over:
                    await self._dispatcher.forget(over)
            except Fenced:
                raise
            except Exception as error:
                is_bug = not isinstance(error, BrokerUnavailable)
                # An outage is told once, however often it is tried meanwhile.
                level = logging.WARNING if pause_s == RETRY_FIRST_S or is_bug else logging.DEBUG
                words = "could not revoke %d tasks or forget %d workflows, and goes on trying: %s"
                logger.log(level, words, len(revokes), len(forget), error, exc_info=is_bug)
                self._to_revoke = _newest(revokes | self._to_revoke)
                self._to_revoke_stamped = _newest(stamped | self._to_revoke_stamped)
                self._to_forget = _newest(forget | self._to_forget)
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
            else:
                pause_s = RETRY_FIRST_S

    async def _revoke(self, revokes: Sequence[Revoke], stamped: Sequence[RevokeStamped]) -> None:
        """Take back what no worker has fetched, and tell the workers about the rest."""
        for terminate in (False, True):
            stamps = [revoke.stamp for revoke in stamped if revoke.terminate == terminate]
            if stamps:
                await self._dispatcher.revoke_stamped(WORKFLOW_STAMP, stamps, terminate=terminate)
        withdrawn: set[str] = set()
        for start in range(0, len(revokes), _PUBLISH_SLICE):
            part = revokes[start : start + _PUBLISH_SLICE]
            places = [TaskPlace(revoke.task_id, revoke.attempt, revoke.signature, revoke.destination) for revoke in part]
            withdrawn.update(await self._dispatcher.withdraw(places))
        self._post([TaskRevoked(task_id, "withdrawn before a worker had it") for task_id in withdrawn])
        self._on_withdrawn(withdrawn)
        for terminate in (False, True):
            ids = [revoke.task_id for revoke in revokes if revoke.terminate == terminate and revoke.task_id not in withdrawn]
            if ids:
                await self._dispatcher.revoke(ids, terminate=terminate)


def _newest(errands: dict[str, T]) -> dict[str, T]:
    return dict(list(errands.items())[-_ERRANDS_MAX:])
