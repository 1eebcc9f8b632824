"""Sends messages: exactly once per attempt on Redis, at least once elsewhere.

One connection of our own (`dyrygentd.transport.broker_connection`), and one way to publish over it: `MarkedPublishing` on Redis,
`PlainPublishing` on every other transport. What has nothing to do with the way stands here: broadcasts to workers, and where a
message goes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import anyio

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.core.node_spec import Signature
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.ports.facts import WITHOUT_REPORTS, BrokerMemory, DispatcherStatistics, TaskPlace, Term
from dyrygentd.transport.broadcast import PublishesOnce
from dyrygentd.transport.broker_connection import BrokerConnection
from dyrygentd.transport.marked_publishing import MarkedPublishing
from dyrygentd.transport.message import MessageSender
from dyrygentd.transport.plain_publishing import PlainPublishing
from dyrygentd.transport.publishing import Publishing, PublishOutcome
from dyrygentd.transport.redis_push import Pushes
from dyrygentd.transport.template import TYPED, has_code

#: A broker that does not answer for this long is treated as unreachable; the message is sent again later.
_SOCKET_TIMEOUT_S = 10.0
#: Task ids in one broadcast: about 40 kB.
_REVOKE_SLICE = 1000
#: Signatures whose queue is kept in mind.
_ROUTED_MAX = 1000
#: Redis cuts the connection of a client that sends more than 512 MB in one argument or 1 GB in one command, which would look
#: like an outage that never ends.
_MESSAGE_BYTES_MAX = 128 * 1024 * 1024


class CeleryDispatcher:
    """Publishes through the app's broker. Guards: one thread at a time uses the connection.

    Args:
        socket_timeout_s: How long the broker may take for one answer.
        message_bytes_max: Longest message accepted for Redis.
        reports: Returns what messages say about reporting, see `dyrygentd.ports.ReportReader.header`.
        ways: What pushes on Redis.
    """

    def __init__(
        self,
        app: Any,
        *,
        socket_timeout_s: float = _SOCKET_TIMEOUT_S,
        message_bytes_max: int = _MESSAGE_BYTES_MAX,
        reports: Callable[[], Mapping[str, Any] | None] = lambda: WITHOUT_REPORTS,
        ways: Pushes | None = None,
    ) -> None:
        self._app = app
        self._broker = BrokerConnection(app, timeout_s=socket_timeout_s)
        self._sender = MessageSender(app, reports=reports)
        self._way: Publishing = PlainPublishing(self._broker, self._sender)
        if self._broker.is_redis:
            self._way = MarkedPublishing(
                app,
                self._broker,
                self._sender,
                message_bytes_max=message_bytes_max,
                reports=reports,
                ways=ways or Pushes(),
            )
        self._broker.owner = self._way
        # The scheduler asks about each attempt twice, in its loop; large workflows repeat few signatures.
        self._routed = lru_cache(maxsize=_ROUTED_MAX)(self._sender.destination)
        self._looks_at_input: bool | None = None
        self._published = self._refused = self._failures = 0
        self._publish_seconds = 0.0

    def __repr__(self) -> str:
        return f"<CeleryDispatcher published={self._published} refused={self._refused} failures={self._failures} {self._way!r}>"

    async def publish(self, messages: Sequence[Publish]) -> Sequence[PublishOutcome]:
        """Send messages and tell what became of them; those without an answer are to be handed in again.

        Raises:
            BrokerUnavailable: It is unknown whether any was sent; handing in the same messages again is safe.
            BrokerEmptied: The broker has lost its memory, and nothing was sent.
        """
        begun = time.perf_counter()
        try:
            outcomes = await self._way.publish(messages)
        except BrokerUnavailable:
            self._failures += 1
            raise
        finally:
            self._publish_seconds += time.perf_counter() - begun
        self._published += sum(isinstance(outcome, MessagePublished) for outcome in outcomes)
        self._refused += sum(isinstance(outcome, MessageRefused) for outcome in outcomes)
        return outcomes

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool = False) -> None:
        """Ask the workers to drop these tasks; a worker that starts later does not know. Raises `BrokerUnavailable`.

        Args:
            terminate: Also end the processes that execute them. The pool ``prefork`` can do that.
        """
        slices = [list(task_ids[begin : begin + _REVOKE_SLICE]) for begin in range(0, len(task_ids), _REVOKE_SLICE)]
        await self._broadcast("revoke", [{"task_id": ids} for ids in slices], terminate)

    async def revoke_stamped(self, header: str, values: Sequence[str], *, terminate: bool = False) -> None:
        """Ask the workers to drop the tasks that carry one of these values. Raises `BrokerUnavailable`.

        Workers keep the values in a list without an end, and look through it for each task: see `dyrygentd.ports.Dispatcher`.
        """
        slices = [list(values[begin : begin + _REVOKE_SLICE]) for begin in range(0, len(values), _REVOKE_SLICE)]
        await self._broadcast("revoke_by_stamped_headers", [{"headers": {header: each}} for each in slices], terminate)

    async def _broadcast(self, command: str, calls: Sequence[dict[str, Any]], terminate: bool) -> None:
        """Do what `app.control` does, over a connection that neither waits nor tries for ever."""

        def broadcast() -> None:
            mailbox = self._app.control.mailbox(self._broker.connect())
            producer = self._broker.producer
            once = PublishesOnce(producer)
            for call in calls:
                arguments = {**call, "terminate": terminate, "signal": "SIGTERM"}
                mailbox._publish(command, arguments, channel=producer.channel, producer=once)

        if calls:
            await self._broker.in_thread(broadcast)

    async def withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        """Take messages back that no worker has fetched, and return their tasks' ids. Raises `BrokerUnavailable`.

        On Redis only. At most `dyrygentd.transport.redis_queues.SEARCHED_MAX` messages of a list are looked at, the newest first.
        A message that a worker has fetched is kept from being delivered again, should that worker end before it starts the task.
        """
        return await self._way.withdraw(tasks)

    async def raise_term(self, name: str, term: Term) -> None:
        """Have the broker know who holds a database, and change nothing there once it knows of a later one; on Redis only.

        Raises `Fenced` or `BrokerUnavailable`.
        """
        await self._way.raise_term(name, term)

    def guard(self, name: str, token: str, pushes: int = 0) -> None:
        """From now on publish only into a broker that has this token, and so many pushes at least; on Redis only."""
        self._way.guard(name, token, pushes)

    async def mark(self, name: str, token: str) -> None:
        """Leave a token in the broker. Raises `BrokerUnavailable`."""
        await self._way.mark(name, token)

    async def memory(self, name: str) -> BrokerMemory | None:
        """Return what the broker remembers under a name; None but on Redis. Raises `BrokerUnavailable`."""
        return await self._way.memory(name)

    def pushes(self) -> int:
        """Return how many pushes the broker has at least, by its own answers."""
        return self._way.pushes()

    async def note(self, name: str, turn: int, holder: str) -> None:
        """Have the broker remember how far the database is, and which process says so. Raises `BrokerUnavailable`."""
        await self._way.note(name, turn, holder)

    async def cautions(self) -> Sequence[str]:
        """Return what about the broker's configuration weakens the promises. Raises `BrokerUnavailable`."""
        return await self._way.cautions()

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop the markers of workflows that will publish no more. Raises `BrokerUnavailable`."""
        await self._way.forget(workflow_ids)

    def queue_of(self, signature: Signature) -> str:
        """Return the name of the queue that a task goes to, empty if it cannot be routed; routers are asked once."""
        try:
            return self._routed(signature).queue
        # Routers are the user's code; publishing will meet the same error and tell it.
        except Exception:
            return ""

    def knows(self, task: str) -> bool:
        """Tell whether the app has the task."""
        return self._sender.knows(task)

    def refusal_of(self, signature: Signature) -> tuple[str, str]:
        """Return why a task's result could not be read here: workers write it with a serializer that this app has not."""
        return self._sender.refusal_of(signature)

    @property
    def looks_at_input(self) -> bool:
        """Whether a router is code, and may look at arguments, the clock or anything else."""
        if self._looks_at_input is None:
            self._looks_at_input = has_code(self._app.amqp.router)
        return self._looks_at_input

    def destination_of(self, signature: Signature, given: bytes | None) -> str:
        """Return where a message goes, as text; empty if it cannot be routed, or only in the thread that publishes."""
        try:
            if not self.looks_at_input:
                return self._routed(signature).text
            if any(TYPED in text for text in (signature.args, signature.kwargs, given or b"")):
                return ""  # Types that the user registers may be looked up anywhere, which is not for the loop.
            return self._sender.destination(signature, given).text
        # As in `queue_of`.
        except Exception:
            return ""

    def backlog(self) -> int:
        """Return how many messages were in the queues before what was published last; 0 if a queue was short lately."""
        return self._way.backlog()

    def statistics(self) -> DispatcherStatistics:
        """Return an immutable snapshot."""
        return DispatcherStatistics(
            published=self._published,
            repeated=self._way.repeated,
            refused=self._refused,
            failures=self._failures,
            publish_seconds=self._publish_seconds,
            exactly_once=self._way.exactly_once,
        )

    async def close(self) -> None:
        """Close the connection; safe to repeat."""
        with anyio.move_on_after(self._broker.timeout_s, shield=True):
            await self._way.close()
            await self._broker.in_thread(self._broker.disconnect)
