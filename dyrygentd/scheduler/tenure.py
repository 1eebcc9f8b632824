"""Who has the database: one process at a time, also where there are copies of it.

Theory of operation
===================
*The idea.* Identity and token lie in the database, so a copy has both, and its process would be taken for this one. What tells
two processes apart is a number, the term: each process that opens a database raises it there, and then in the broker, which keeps
the highest. Whatever changes the broker names the term of its process, and the broker refuses an older one in the same breath
(`dyrygentd.transport.redis_term`). Such a process is *fenced*: it changes nothing more, says who has taken over, and ends.

*The order.* The database first, durably; then the broker; only then is read what is unfinished, and published. So the broker
never knows of a term that no database has, and what the process before has saved until it was fenced is read. A crash between any
two steps leaves out a number, and nothing else.

*Who may follow whom.* A process whose database is behind the broker does not start: the broker has heard of a later term, so
another copy has gone on, and if each start took over, two copies under a service manager would take turns. Two copies that have
raised the same number are told apart by their holders. A database that is meant to go on in spite of it says so by a note, the
claim: `dyrygentd restore` leaves it in the copy that it puts in place, `dyrygentd claim` in the database as it is. It counts
until the broker knows the new term.

*While the broker is away* a process starts, and takes submissions and verbs, as ever; nothing is sent before the first look at
the broker, which then decides. A broker that has lost the term is told again by each look.

*Answers.* Submissions and verbs are answered once they are on disk and the broker has confirmed the term after that: a cancel
that somebody was told of must not be undone by a process that has taken over before. Where the broker cannot be asked, or is
known to be away, the database is asked whose the lease is; where a lock decides they are answered as ever.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from dyrygentd.errors import BrokerUnavailable, Fenced, OutsideError
from dyrygentd.ports import Clock, Dispatcher, Store
from dyrygentd.ports.facts import CLAIM_NOTE, BrokerMemory, Holder, Term
from dyrygentd.scheduler.leadership import Leadership

logger = logging.getLogger("dyrygentd")

#: How long a start waits for the broker, and an answer for its confirmation.
_ASK_S: Final = 2.0


@dataclass
class _Question:
    """Of the broker, which many may wait for."""

    is_over: anyio.Event = field(default_factory=anyio.Event)
    is_answered: bool = False


class Tenure:
    """Holds the term of a process. Guards: a term is in the database before it is in the broker; once fenced, always fenced.

    Args:
        on_fenced: Called once, when another process is found to have taken over.
        is_broker_away: Tells whether the broker is known not to answer.
        confirm_max_s: How long an answer waits until the lease is trusted.

    Attributes:
        leadership: Keeps the lease, where several processes may wait for the database.
        term: That of this process; None before `begin`.
        fenced: Why nothing is done any more; None as long as this process has the database.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        *,
        on_fenced: Callable[[Fenced], None] = lambda _: None,
        is_broker_away: Callable[[], bool] = lambda: False,
        confirm_max_s: float = 10.0,
    ) -> None:
        self.leadership = Leadership(store.lease, clock, confirm_max_s=confirm_max_s)
        self.term: Term | None = None
        self.fenced: Fenced | None = None
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._on_fenced = on_fenced
        self._is_broker_away = is_broker_away
        self._before: Term | None = None
        self._claim = ""
        self._is_told = False
        self._is_lost = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._question: _Question | None = None

    def __repr__(self) -> str:
        return f"<Tenure term={self.number} told={self._is_told} fenced={self.fenced is not None}>"

    @property
    def number(self) -> int:
        """Return the number of the term, 0 before `begin`."""
        return self.term.number if self.term else 0

    async def begin(self, tasks: TaskGroup) -> None:
        """Take the database over: in the store, then in the broker, if that answers in time.

        Args:
            tasks: For questions to the broker that outlast whoever has put them.

        Raises:
            Fenced: Another process has gone on with a copy of it; nothing was changed.
            StoreUnavailable: The term cannot be written.
        """
        self._tasks = tasks
        self._before = await self._store.term()
        self._claim = await self._store.recall(CLAIM_NOTE) or ""
        is_there, known = await self._first_look(tasks)
        self._refuse_to_follow(known)
        # Lease and term name the same moment, so that all processes tell the same of who leads.
        holder = self.leadership.holder or Holder.here(self._clock.now())
        self.term = await self._store.raise_term(holder, above=known.number if known and self._claim else 0)
        logger.info("term %d of this database", self.number)
        if is_there:
            try:
                await self._tell()
            except BrokerUnavailable as error:
                logger.info("the broker is told of the term later: %s", error)

    async def _first_look(self, tasks: TaskGroup) -> tuple[bool, Term | None]:
        """Return whether the broker has answered in time, and the term that it knows."""
        answers: list[BrokerMemory | None] = []
        asked = anyio.Event()

        async def ask() -> None:
            try:
                answers.append(await self._dispatcher.memory(self._store.identity))
            except BrokerUnavailable as error:
                logger.debug("the broker is asked for the term later: %s", error)
            finally:
                asked.set()

        # Not cancelled when it takes too long: the connection is made in a thread, which nobody else may use meanwhile.
        tasks.start_soon(ask, name="dyrygentd first look")
        with anyio.move_on_after(_ASK_S):
            await asked.wait()
        memory = answers[0] if answers else None
        return bool(answers), memory.term if memory else None

    def _refuse_to_follow(self, known: Term | None) -> None:
        """Raise `Fenced` if the broker has heard of a process that this database knows nothing of."""
        if known is None or self._claim or known == self._before:
            return
        if self._before is None or known.number >= self._before.number:
            raise Fenced(self.number, known.number, known.holder.words)

    async def hold(self, memory: BrokerMemory | None) -> None:
        """Have the broker know the term, unless it knows of a later one: called with what each look finds.

        Raises `Fenced`, `BrokerUnavailable` or `StoreUnavailable`.
        """
        self.refuse_if_fenced()
        if self.term is None or memory is None or memory.term == self.term:
            return
        if not self._is_told:
            self._refuse_to_follow(memory.term)
            if self._claim and memory.term is not None and memory.term.number >= self.number:
                self.term = await self._store.raise_term(self.term.holder, above=memory.term.number)
        await self._tell()

    async def _tell(self) -> None:
        assert self.term is not None
        await self._dispatcher.raise_term(self._store.identity, self.term)
        self._is_told = True
        if self._claim:
            logger.warning("the database goes on with term %d, as it was meant to: %s", self.number, self._claim)
            await self._store.remember(CLAIM_NOTE, "")
            self._claim = ""

    async def confirm(self) -> None:
        """Return if nobody else can have the database, and the broker knows of no later term, or cannot be asked.

        Raises `Fenced` or `NotConfirmed`.
        """
        await self.leadership.confirm()
        if self.fenced is None and not await self._is_broker_sure():
            await self.leadership.confirm_anew()
        self.refuse_if_fenced()

    async def _is_broker_sure(self) -> bool:
        """Tell whether the broker, asked from now on, has answered."""
        if self._is_told and not self._is_broker_away():
            with anyio.move_on_after(_ASK_S):
                return await self._asked_anew()
        return False

    async def _asked_anew(self) -> bool:
        """Wait until a question that is put from now on is over, and tell whether it was answered; many who wait share one."""
        if self._question is not None:
            # That one may have been answered before what is to be confirmed.
            await self._question.is_over.wait()
        if self._question is None:
            assert self._tasks is not None
            self._question = _Question()
            self._tasks.start_soon(self._ask, self._question, name="dyrygentd confirm")
        question = self._question
        await question.is_over.wait()
        return question.is_answered

    async def _ask(self, question: _Question) -> None:
        try:
            await self.hold(await self._dispatcher.memory(self._store.identity))
            question.is_answered = True
        except Fenced as error:
            self.lose(error)
        except OutsideError as error:
            logger.debug("the term is not confirmed: %s", error)
        finally:
            self._question = None
            question.is_over.set()

    def refuse_if_fenced(self) -> None:
        """Raise `Fenced` if another process is known to have taken over."""
        if self.fenced is not None:
            raise copy(self.fenced)

    async def run(self) -> None:
        """Wait until another process has taken over, and raise `Fenced` then."""
        await self._is_lost.wait()
        self.refuse_if_fenced()

    def lose(self, error: Fenced) -> None:
        """Note that another process has taken over."""
        if self.fenced is None:
            self.fenced = error
            self._is_lost.set()
            logger.critical("%s; nothing is published any more", error)
            self.leadership.lose(error)
            self._on_fenced(error)


@asynccontextmanager
async def questions() -> AsyncIterator[TaskGroup]:
    """Have a task group that is cancelled at the end; what is raised beside it is not wrapped."""
    raised: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as error:
            raised = error
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised


def unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what tasks that have ended together were ended by, if it is `Fenced` alone; else all of it."""
    _, rest = group.split(Fenced)
    found: BaseException = group
    while rest is None and isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
