"""What the ways to publish have in common: what a dispatcher asks of them, and how a message is blamed."""

import logging
import traceback
from collections.abc import Sequence
from pathlib import PurePath
from typing import Protocol

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.core.words import described
from dyrygentd.ports.facts import BrokerMemory, TaskPlace, Term
from dyrygentd.transport.broker_connection import Owner

logger = logging.getLogger("dyrygentd.dispatcher")

PublishOutcome = MessagePublished | MessageRefused

#: The innermost frames of an error whose words are not logged.
_FRAMES_LOGGED = 4


class Publishing(Owner, Protocol):
    """A way to publish. What a way cannot do it leaves, and answers that there is nothing; see `dyrygentd.ports.Dispatcher`.

    All that asks the broker raises `BrokerUnavailable`, and after `raise_term` all that changes it `Fenced`.
    """

    @property
    def exactly_once(self) -> bool:
        """Whether an attempt that is handed in again is not sent again."""
        ...

    @property
    def repeated(self) -> int:
        """How many messages were handed in again and not sent again."""
        ...

    async def publish(self, messages: Sequence[Publish]) -> Sequence[PublishOutcome]:
        """Send messages, and tell what became of them. Raises `BrokerEmptied`, too."""
        ...

    async def withdraw(self, tasks: Sequence[TaskPlace]) -> Sequence[str]:
        """Take messages back that no worker has fetched, and return their tasks' ids."""
        ...

    def guard(self, name: str, token: str, pushes: int) -> None:
        """From now on publish only into a broker that has this token, and so many pushes at least."""
        ...

    async def raise_term(self, name: str, term: Term) -> None:
        """Have the broker know the term, and from now on change nothing there once it knows of a later one."""
        ...

    def pushes(self) -> int:
        """Return how many pushes the broker has at least."""
        ...

    async def mark(self, name: str, token: str) -> None:
        """Leave a token in the broker."""
        ...

    async def memory(self, name: str) -> BrokerMemory | None:
        """Return what the broker remembers under a name, None if it remembers nothing for us."""
        ...

    async def note(self, name: str, turn: int, holder: str) -> None:
        """Have the broker remember how far the database is, and which process says so."""
        ...

    async def cautions(self) -> Sequence[str]:
        """Return what about the broker's configuration weakens the promises."""
        ...

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Drop the markers of workflows that will publish no more."""
        ...

    def backlog(self) -> int:
        """Return how many messages were in the queues before what was published last."""
        ...

    async def close(self) -> None:
        """Close what the way has beside the common connection; safe to repeat."""
        ...


def refused(message: Publish, error: BaseException) -> MessageRefused:
    """Blame the message for what is not the broker's fault: routing, serializing, a receiver of a publish signal."""
    # Not its words and no traceback: it may quote the arguments, which are in no log.
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_LOGGED:]
    where = ", ".join(f"{frame.name} ({PurePath(frame.filename).name}:{frame.lineno})" for frame in reversed(frames))
    logger.warning("cannot build the message of task %r: %s in %s", message.task_id, type(error).__name__, where)
    return MessageRefused(message.task_id, described(error))
