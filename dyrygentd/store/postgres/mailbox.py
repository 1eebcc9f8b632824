"""Letters in a table, with LISTEN and NOTIFY as a hint and a look each second as the net.

*Leaving* is one statement: it counts what waits, writes letters as far as there is room, and tells whoever leads. It may be
repeated, as each letter has a token. Letters that come while it waits for the server's disk are left together by the next one,
and so are answers read: most of what a letter costs is the statements around it, and commits that tell somebody wait for each
other. One that is not left with the others (it is there already, or there is no room) goes alone, and is told why.

*Answering* goes through the writer's turns, so whoever has lost the database answers nothing.

*Behind a pool of connections* that gives each transaction another one (PgBouncer's transaction mode) nothing is heard, and all is
a second later.
"""

import json
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import anyio
import psycopg
from psycopg import AsyncConnection, sql

from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.mailbox import Footprint, Letter, LetterAnswer, LetterKind, MailboxBounds, MailboxFull, MailboxStatistics
from dyrygentd.store.postgres import letter_rows
from dyrygentd.store.postgres.connection import Link, connect, drop
from dyrygentd.store.postgres.refusals import refusal_to, refusal_to_write, words_of
from dyrygentd.store.postgres.rows import text_of
from dyrygentd.store.postgres.together import Together
from dyrygentd.store.postgres.turns import Statement
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.rows import owned_key

logger = logging.getLogger("dyrygentd.store")

CarryOut = Callable[[Statement], Awaitable[tuple[Any, ...] | None]]

#: Connections that leave letters, and look for them, at one time.
_LINKS: Final = 4
_QUERY_MAX_S: Final = 30.0
#: How often is looked for what nobody told.
_LOOK_EVERY_S: Final = 1.0
#: Answers that were told before anybody waited for them.
_TOLD_MAX: Final = 10_000
#: Answers in one transaction: a notification has 8000 bytes.
_ANSWERS_MAX: Final = 200
_LEAVE_TRIES: Final = 3
_NUMBER: Final = re.compile(r"[0-9]{1,19}")
#: Letters that are left in one statement, and how long one may be.
_LEFT_TOGETHER_MAX: Final = 64
_SHORT_BYTES: Final = 256 * 1024
_VERBS: Final = (LetterKind.PERFORM, LetterKind.PERFORM_IN_BULK)


class PostgresMailbox:
    """A box in one schema. Guards: a letter is left once, and answered by nobody who does not have the database.

    Args:
        carry_out: Carries out a statement in a turn of the writer; None for who only leaves letters.
        look_every_s: How often is looked for what nobody told.
    """

    def __init__(
        self,
        url: PostgresUrl,
        *,
        bounds: MailboxBounds | None = None,
        carry_out: CarryOut | None = None,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._url = url
        self._bounds = bounds or MailboxBounds()
        self._carry_out = carry_out
        self._look_every_s = look_every_s
        self._leaving = Together(self._leave_several, most=_LEFT_TOGETHER_MAX)
        self._reading = Together(self._read_answers, most=_ANSWERS_MAX)
        self._links: list[Link] = []
        self._free = anyio.Semaphore(_LINKS)
        self._came = anyio.Event()
        self._waiters: dict[int, anyio.Event] = {}
        self._told: OrderedDict[int, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<PostgresMailbox '{self._url}' waiters={len(self._waiters)}>"

    # --- whoever leaves letters -------------------------------------------------------------------------------------

    async def leave(self, letter: Letter) -> Letter:
        """Leave a letter, and return it as it is kept, durably. Raises `MailboxFull` or `StoreUnavailable`."""
        number, left_at = await self._leaving.ask(letter) if len(letter.body) <= _SHORT_BYTES else (0, 0.0)
        return replace(letter, number=number, left_at=left_at) if number else await self._leave_alone(letter)

    async def _leave_several(self, letters: Sequence[Letter]) -> Sequence[tuple[int, float]]:
        """Leave those for which there is room and that are not there; return number and time of each, 0 of the others."""
        rows, of_sender, so_far = [], Counter[object](), Counter[object]()
        for letter in letters:
            row = self._values(letter)
            row |= {"so_far": so_far[None], "of_sender": of_sender[letter.sender], "of_sender_so_far": so_far[letter.sender]}
            of_sender[letter.sender] += 1
            so_far.update({None: len(letter.body), letter.sender: len(letter.body)})
            rows.append(row)
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        left = await self._fetch(letter_rows.LEAVE_SEVERAL, columns | self._maxima(), verb="write")
        found = {token: (number, left_at) for token, number, left_at in left}
        return [found.get(letter.token, (0, 0.0)) for letter in letters]

    def _values(self, letter: Letter) -> dict[str, Any]:
        return {
            "token": letter.token,
            "kind": letter.kind.value,
            "workflow": text_of(letter.workflow_id),
            "owner": json.dumps(letter.owner and letter.owner.identity),
            "owner_name": text_of(letter.owner.name if letter.owner else ""),
            "host": text_of(letter.host),
            "key": None if letter.key is None else text_of(owned_key(letter.key, letter.owner)),
            "digest": letter.digest,
            "body": letter.body,
            "bytes": len(letter.body),
            "oldest_max_s": self._bounds.verb_wait_s if letter.kind in _VERBS else 1e9,
        }

    def _maxima(self) -> dict[str, Any]:
        bounds = self._bounds
        return {
            "letters_max": bounds.letters_max,
            "bytes_max": bounds.bytes_max,
            "of_sender_max": bounds.of_sender_max,
            "of_sender_bytes_max": bounds.of_sender_bytes_max,
        }

    async def _leave_alone(self, letter: Letter) -> Letter:
        values = self._values(letter)
        for _ in range(_LEAVE_TRIES):
            ((number, left_at, *box),) = await self._fetch(letter_rows.LEAVE, values | self._maxima(), verb="write")
            if number is not None:
                return replace(letter, number=number, left_at=left_at)
            before = await self._fetch(letter_rows.LEFT_BEFORE, (letter.token, values["key"], letter.token), verb="write")
            if before:
                return letter_rows.letter_of(before[0])
            reason = _why_full(self._bounds, box, len(letter.body), is_verb=letter.kind in _VERBS)
            if reason:
                raise MailboxFull(reason)
            # The one with its key was answered a moment ago.
        raise StoreUnavailable(f"cannot leave a letter in the database '{self._url}': others with its key come and go")

    async def answered(self, number: int, *, timeout_s: float) -> Letter | None:
        """Wait until a letter is answered and return it; None if it is not in time, or is not kept any more."""
        if number not in self._told:
            with anyio.move_on_after(timeout_s):
                heard = self._waiters.setdefault(number, anyio.Event())
                try:
                    await heard.wait()
                finally:
                    self._waiters.pop(number, None)
        self._told.pop(number, None)
        return await self._reading.ask(number)

    async def _read_answers(self, numbers: Sequence[int]) -> Sequence[Letter | None]:
        found = {row[0]: row for row in await self._fetch(letter_rows.READ_ANSWERS, ([*numbers],))}
        return [letter_rows.letter_of(found[number]) if number in found else None for number in numbers]

    async def find(self, workflow_id: str) -> Letter | None:
        """Return the last letter that was to make this workflow, while it waits, and if it was refused or has another id."""
        rows = await self._fetch(letter_rows.FIND, (text_of(workflow_id),))
        return letter_rows.letter_of(rows[0]) if rows else None

    async def look(self) -> MailboxStatistics:
        """Return a snapshot."""
        ((letters, size, _, _, oldest_s),) = await self._fetch(letter_rows.WAITING, {"host": "", "owner": ""})
        return MailboxStatistics(letters, size, max(0.0, oldest_s))

    # --- whoever leads ----------------------------------------------------------------------------------------------

    async def take(
        self, in_hand: Collection[int], *, limit: int, bytes_max: int, resting: Collection[int] = ()
    ) -> Sequence[Letter]:
        """Return letters that wait, but those that the caller has in hand; of each sender the oldest first."""
        rows = await self._fetch(letter_rows.TAKE, ([*resting], [*in_hand], limit, bytes_max))
        return [replace(letter_rows.letter_of(row), may_be_done=may_be_done) for *row, may_be_done in rows]

    async def footprints(self, number: int) -> Mapping[str, Footprint]:
        """Return what was changed by a letter: ``{workflow id: footprint}``."""
        rows = await self._fetch("SELECT workflow, nodes, count FROM footprints WHERE letter = %s", (number,))
        return {workflow: Footprint(workflow, tuple(json.loads(nodes)), count) for workflow, nodes, count in rows}

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        """Write answers, and have those know who wait for them. Raises `Fenced` or `StoreUnavailable`."""
        assert self._carry_out is not None, "who only leaves letters answers none"
        for begin in range(0, len(answers), _ANSWERS_MAX):
            part = answers[begin : begin + _ANSWERS_MAX]
            columns = (
                [each.number for each in part],
                [each.answer for each in part],
                [each.is_refused for each in part],
                [text_of(each.known_as) for each in part],
            )
            await self._carry_out((letter_rows.ANSWER, columns))

    async def wait(self, timeout_s: float) -> None:
        """Return when a letter may have been left, or after this time."""
        with anyio.move_on_after(timeout_s):
            await self._came.wait()
        self._came = anyio.Event()

    async def expire(self, *, kept_s: float, refused_s: float, refused_max: int) -> int:
        """Delete what nobody waits for any more; return how many."""
        assert self._carry_out is not None, "who only leaves letters deletes none"
        row = await self._carry_out((letter_rows.EXPIRE, (refused_s, kept_s, refused_max)))
        assert row is not None
        return int(row[0])

    # --- hearing ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Hear of letters and answers until cancelled; what nobody told is seen each second."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look)
            await self._listen()

    async def close(self) -> None:
        """Let connections go; safe to repeat, and it may be used again after that."""
        links, self._links = self._links, []
        for link in links:
            link.close()

    async def _listen(self) -> None:
        is_told = False
        while True:
            connection = None
            try:
                connection = await connect(self._url)
                await self._hear(connection)
            except psycopg.Error as error:
                if not is_told:
                    logger.info("letters in the database '%s' are looked for each second: %s", self._url, words_of(error))
                is_told = True
            finally:
                if connection is not None:
                    drop(connection)
            await anyio.sleep(self._look_every_s)

    async def _hear(self, connection: AsyncConnection) -> None:
        ((place,),) = await (await connection.execute(f"SELECT {letter_rows.PLACE}")).fetchall()
        letters, answers = f"dyrygentd_letters_{place}", f"dyrygentd_answers_{place}"
        for channel in (letters, answers):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self._came.set()
        async for told in connection.notifies():
            if told.channel == letters:
                self._came.set()
            else:
                # Whoever may connect may say something there.
                words = told.payload.split()
                self._hear_answers([int(word) for word in words if _NUMBER.fullmatch(word)])

    def _hear_answers(self, numbers: Collection[int]) -> None:
        for number in numbers:
            waiter = self._waiters.get(number)
            if waiter is not None:
                waiter.set()
            else:
                self._told[number] = None
        while len(self._told) > _TOLD_MAX:
            self._told.popitem(last=False)

    async def _look(self) -> None:
        """Look for answers that nobody told."""
        while True:
            await anyio.sleep(self._look_every_s)
            if not self._waiters:
                continue
            try:
                rows = await self._fetch(letter_rows.ANSWERED, ([*self._waiters],))
            except StoreUnavailable:
                continue
            self._hear_answers([number for (number,) in rows])

    # --- connections ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _link(self) -> AsyncIterator[Link]:
        async with self._free:
            links = self._links
            if links:
                link = links.pop()
            else:
                link = Link(self._url, query_max_s=_QUERY_MAX_S, is_writing=True)
                await link.open()
            try:
                yield link
            finally:
                if links is self._links:
                    links.append(link)
                else:
                    link.close()

    async def _fetch(self, query: str, values: Sequence[Any] | Mapping[str, Any], *, verb: str = "read") -> list[tuple[Any, ...]]:
        try:
            async with self._link() as link:
                return await link.fetch(query, values)
        except psycopg.Error as error:
            raise refusal_to_write(self._url, error) if verb == "write" else refusal_to(verb, self._url, error) from error


def _why_full(bounds: MailboxBounds, box: Sequence[Any], size: int, *, is_verb: bool) -> str:
    """Return which bound keeps a letter out; empty if none does."""
    letters, in_all, of_sender, of_sender_bytes, oldest_s, is_led = box
    if letters >= bounds.letters_max:
        return f"{letters} letters wait, the most that may"
    if in_all + size > bounds.bytes_max:
        return f"letters of {in_all} bytes wait, and {bounds.bytes_max} may"
    if of_sender >= bounds.of_sender_max:
        return f"{of_sender} letters of yours wait, the most that may"
    if of_sender_bytes + size > bounds.of_sender_bytes_max:
        return f"letters of {of_sender_bytes} bytes of yours wait, and {bounds.of_sender_bytes_max} may"
    if is_verb and oldest_s > bounds.verb_wait_s and not is_led:
        return f"nobody leads, and a letter has been waiting for {oldest_s:.0f} s"
    return ""
