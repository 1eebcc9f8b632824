"""What goes to the broker: messages, and errands that may fail without harm."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import anyio

from dyrygentd.core.effects import Batch, Publish, Revoke, RevokeStamped
from dyrygentd.core.events import Event, TaskRevoked
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.ports import WORKFLOW_STAMP, Dispatcher, TaskPlace
from dyrygentd.scheduler.limits import RETRY_FIRST_S, RETRY_MAX_S

logger = logging.getLogger("dyrygentd")

#: Messages per call of the dispatcher: one script call, about 20 ms of encoding, so a cancel is never far behind.
_PUBLISH_SLICE: Final = 100


class Courier:
    """Publishes and revokes, each in a task of its own.

    Args:
        is_wanted: Tells whether a task id is still to be published.
        post: Takes the outcomes.

    Attributes:
        problem: Why the broker cannot be reached, empty if it can.
    """

    def __init__(self, dispatcher: Dispatcher, *, is_wanted: Callable[[str], bool], post: Callable[..., None]) -> None:
        self.problem = ""
        self._dispatcher = dispatcher
        self._is_wanted = is_wanted
        self._post: Callable[..., None] = post
        self._to_publish: deque[Publish] = deque()
        self._publisher_awake = anyio.Event()
        self._to_revoke: list[Revoke] = []
        self._to_revoke_stamped: list[RevokeStamped] = []
        self._to_forget: list[str] = []
        self._errands_awake = anyio.Event()

    @property
    def queue_size(self) -> int:
        """Durable dispatches that wait for the broker."""
        return len(self._to_publish)

    def take(self, batch: Batch, *, publish: Sequence[Publish]) -> None:
        """Take the broker's part of a batch that is durable; ``publish`` is what is left of its messages."""
        if publish:
            self._to_publish.extend(publish)
            self._publisher_awake.set()
        self._to_revoke.extend(batch.revoke)
        self._to_revoke_stamped.extend(batch.revoke_stamped)
        self._to_forget.extend(workflow.workflow_id for workflow in batch.finished)
        if self._to_revoke or self._to_revoke_stamped or self._to_forget:
            self._errands_awake.set()

    # --- messages ---------------------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Publish what is taken in, until cancelled."""
        while True:
            if not self._to_publish:
                self._publisher_awake = anyio.Event()
                await self._publisher_awake.wait()
            size = min(len(self._to_publish), _PUBLISH_SLICE)
            await self._publish_slice([self._to_publish.popleft() for _ in range(size)])

    async def _publish_slice(self, messages: Sequence[Publish]) -> None:
        """Publish, again and again until the broker answers; what was cancelled meanwhile is left out."""
        pause_s = RETRY_FIRST_S
        while messages := [message for message in messages if self._is_wanted(message.task_id)]:
            try:
                outcomes = await self._dispatcher.publish(messages)
            except BrokerUnavailable as error:
                if not self.problem:
                    logger.error("nothing is dispatched until the broker answers: %s", error)
                self.problem = str(error)
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            self._post(*outcomes)
            answered = {outcome.task_id for outcome in outcomes}
            messages = [message for message in messages if message.task_id not in answered]
            if self.problem:
                logger.warning("the broker answers again")
                self.problem = ""

    # --- errands ----------------------------------------------------------------------------------------------------

    async def run_errands(self) -> None:
        """Do what may fail without harm, until cancelled: revoke tasks, forget markers."""
        while True:
            if not self._to_revoke and not self._to_revoke_stamped and not self._to_forget:
                self._errands_awake = anyio.Event()
                await self._errands_awake.wait()
            revoke, self._to_revoke = self._to_revoke, []
            stamped, self._to_revoke_stamped = self._to_revoke_stamped, []
            forget, self._to_forget = self._to_forget, []
            try:
                await self._revoke(revoke, stamped)
                if forget:
                    await self._dispatcher.forget(forget)
            except BrokerUnavailable as error:
                # The engine asks again for as long as a task might still run; a marker that stays expires.
                logger.warning("could not revoke %d tasks or forget %d workflows: %s", len(revoke), len(forget), error)

    async def _revoke(self, revokes: Sequence[Revoke], stamped: Sequence[RevokeStamped]) -> None:
        """Take back what no worker has fetched, and tell the workers about the rest."""
        for terminate in (False, True):
            stamps = [revoke.stamp for revoke in stamped if revoke.terminate == terminate]
            if stamps:
                await self._dispatcher.revoke_stamped(WORKFLOW_STAMP, stamps, terminate=terminate)
        withdrawn: set[str] = set()
        for start in range(0, len(revokes), _PUBLISH_SLICE):
            part = revokes[start : start + _PUBLISH_SLICE]
            places = [TaskPlace(revoke.task_id, revoke.attempt, revoke.signature) for revoke in part]
            withdrawn.update(await self._dispatcher.withdraw(places))
        events: list[Event] = [TaskRevoked(task_id, "withdrawn before a worker had it") for task_id in withdrawn]
        self._post(*events)
        for terminate in (False, True):
            ids = [revoke.task_id for revoke in revokes if revoke.terminate == terminate and revoke.task_id not in withdrawn]
            if ids:
                await self._dispatcher.revoke(ids, terminate=terminate)
