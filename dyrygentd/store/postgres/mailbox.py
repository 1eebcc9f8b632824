"""Letters in a table, with LISTEN and NOTIFY as a hint and a look each second as the net.

*Leaving* is one statement: it counts what waits, writes the letter if there is room, and tells whoever leads. It may be repeated,
as the letter has a token. Several connections do it, since each waits for the server's disk.

*Answering* goes through the writer's turns, so whoever has lost the database answers nothing.

*Behind a pool of connections* that gives each transaction another one (PgBouncer's transaction mode) nothing is heard, and all is
a second later.
"""

import json
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import anyio
import psycopg
from psycopg import AsyncConnection, sql

from dyrygentd.core.user import User
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.mailbox import Footprint, Letter, LetterAnswer, LetterKind, MailboxBounds, MailboxFull, MailboxStatistics
from dyrygentd.store.postgres.connection import Link, connect, drop
from dyrygentd.store.postgres.refusals import refusal_to, refusal_to_write, words_of
from dyrygentd.store.postgres.rows import text_of
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

_NOW: Final = "extract(epoch FROM clock_timestamp())"
_PLACE: Final = "current_schema()::regnamespace::oid"
_COLUMNS: Final = "number, token, kind, workflow, owner, owner_name, host, digest, body, left_at, answer, is_refused, known_as"
_WAITING: Final = f"""
    SELECT count(*) AS letters, coalesce(sum(bytes), 0)::bigint AS bytes,
        count(*) FILTER (WHERE host = %(host)s AND owner = %(owner)s) AS of_sender,
        coalesce(sum(bytes) FILTER (WHERE host = %(host)s AND owner = %(owner)s), 0)::bigint AS of_sender_bytes,
        coalesce({_NOW} - min(left_at), 0)::float8 AS oldest_s
    FROM letters WHERE answered_at IS NULL
"""
_LEAVE: Final = f"""
    WITH box AS ({_WAITING}),
        led AS (SELECT in_use AND until > {_NOW} AS is_led FROM owner),
        new AS (
            INSERT INTO letters (token, kind, workflow, owner, owner_name, host, key, digest, body, bytes, left_at, is_refused,
                known_as)
            SELECT %(token)s, %(kind)s, %(workflow)s, %(owner)s, %(owner_name)s, %(host)s, %(key)s, %(digest)s, %(body)s::bytea,
                %(bytes)s, {_NOW}, false, ''
            FROM box, led WHERE letters < %(letters_max)s AND bytes + %(bytes)s <= %(bytes_max)s AND of_sender < %(of_sender_max)s
                AND of_sender_bytes + %(bytes)s <= %(of_sender_bytes_max)s AND (oldest_s <= %(oldest_max_s)s OR is_led)
            ON CONFLICT DO NOTHING RETURNING number, left_at
        ),
        told AS (SELECT pg_notify('dyrygentd_letters_' || {_PLACE}, '') FROM new)
    SELECT new.number, new.left_at, box.*, is_led FROM box CROSS JOIN led LEFT JOIN new ON true LEFT JOIN told ON true
"""
#: Changed, so that the commit waits for a synchronous replica: who left it may not have waited to the end.
_LEFT_BEFORE: Final = f"""
    UPDATE letters SET bytes = bytes WHERE number = (
        SELECT number FROM letters WHERE token = %s OR (key = %s AND answered_at IS NULL) ORDER BY token <> %s LIMIT 1
    ) RETURNING {_COLUMNS}
"""
#: Of each sender in turn, and none before an earlier one of the sender that rests, or waits for another one about its workflow.
_TAKE: Final = f"""
    WITH waiting AS (
        SELECT number, bytes, row_number() OVER sender AS place, bool_or(number = ANY (%s::bigint[])) OVER sender AS rests,
            bool_or(workflow <> '' AND EXISTS (
            SELECT 1 FROM letters AS earlier WHERE earlier.answered_at IS NULL AND earlier.workflow = letters.workflow
                AND earlier.number < letters.number
        )) OVER sender AS is_blocked
        FROM letters WHERE answered_at IS NULL WINDOW sender AS (PARTITION BY host, owner ORDER BY number)
    ), chosen AS (
        SELECT number, row_number() OVER turn AS rank, sum(bytes) OVER turn AS so_far
        FROM waiting WHERE number <> ALL (%s::bigint[]) AND NOT rests AND NOT is_blocked WINDOW turn AS (ORDER BY place, number)
        ORDER BY place, number LIMIT %s
    )
    SELECT {_COLUMNS} FROM letters JOIN chosen USING (number) WHERE rank = 1 OR so_far <= %s ORDER BY number
"""
_ANSWER: Final = f"""
    WITH given AS (
            SELECT * FROM unnest(%s::bigint[], %s::bytea[], %s::boolean[], %s::text[])
                AS given (number, answer, is_refused, known_as)
        ),
        done AS (
            UPDATE letters SET answered_at = {_NOW}, answer = given.answer, is_refused = given.is_refused,
                known_as = given.known_as, body = ''
            FROM given WHERE letters.number = given.number AND letters.answered_at IS NULL RETURNING letters.number
        ),
        gone AS (DELETE FROM footprints USING done WHERE footprints.letter = done.number)
    SELECT pg_notify('dyrygentd_answers_' || {_PLACE}, coalesce(string_agg(number::text, ' '), '')) FROM done
"""
#: Refused submissions, and those that are another workflow, are what somebody may ask for by the id that they were told.
_IS_KEPT: Final = "kind IN ('submit', 'import') AND (is_refused OR known_as <> '')"
_FIND: Final = f"""
    SELECT {_COLUMNS} FROM letters WHERE workflow = %s AND kind IN ('submit', 'import')
        AND (answered_at IS NULL OR is_refused OR known_as <> '') ORDER BY number DESC LIMIT 1
"""
_ANSWERED: Final = "SELECT number FROM letters WHERE number = ANY (%s::bigint[]) AND answered_at IS NOT NULL"
_EXPIRE: Final = f"""
    WITH gone AS (
        DELETE FROM letters WHERE answered_at IS NOT NULL AND (
            answered_at < {_NOW} - CASE WHEN {_IS_KEPT} THEN %s::float8 ELSE %s::float8 END
            OR number IN (
                SELECT number FROM letters WHERE answered_at IS NOT NULL AND {_IS_KEPT} ORDER BY number DESC OFFSET %s
            )
        ) RETURNING number
    )
    SELECT count(*) FROM gone
"""


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
        bounds, is_verb = self._bounds, letter.kind in (LetterKind.PERFORM, LetterKind.PERFORM_IN_BULK)
        key = None if letter.key is None else text_of(owned_key(letter.key, letter.owner))
        values = {
            "token": letter.token,
            "kind": letter.kind.value,
            "workflow": text_of(letter.workflow_id),
            "owner": json.dumps(letter.owner and letter.owner.identity),
            "owner_name": text_of(letter.owner.name if letter.owner else ""),
            "host": text_of(letter.host),
            "key": key,
            "digest": letter.digest,
            "body": letter.body,
            "bytes": len(letter.body),
            "letters_max": bounds.letters_max,
            "bytes_max": bounds.bytes_max,
            "of_sender_max": bounds.of_sender_max,
            "of_sender_bytes_max": bounds.of_sender_bytes_max,
            "oldest_max_s": bounds.verb_wait_s if is_verb else 1e9,
        }
        for _ in range(_LEAVE_TRIES):
            ((number, left_at, *box),) = await self._fetch(_LEAVE, values, verb="write")
            if number is not None:
                return replace(letter, number=number, left_at=left_at)
            before = await self._fetch(_LEFT_BEFORE, (letter.token, key, letter.token), verb="write")
            if before:
                return _letter_of(before[0])
            reason = _why_full(bounds, box, len(letter.body), is_verb=is_verb)
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
        rows = await self._fetch(f"SELECT {_COLUMNS} FROM letters WHERE number = %s AND answered_at IS NOT NULL", (number,))
        return _letter_of(rows[0]) if rows else None

    async def find(self, workflow_id: str) -> Letter | None:
        """Return the last letter that was to make this workflow, while it waits, and if it was refused or has another id."""
        rows = await self._fetch(_FIND, (text_of(workflow_id),))
        return _letter_of(rows[0]) if rows else None

    async def look(self) -> MailboxStatistics:
        """Return a snapshot."""
        ((letters, size, _, _, oldest_s),) = await self._fetch(_WAITING, {"host": "", "owner": ""})
        return MailboxStatistics(letters, size, max(0.0, oldest_s))

    # --- whoever leads ----------------------------------------------------------------------------------------------

    async def take(
        self, in_hand: Collection[int], *, limit: int, bytes_max: int, resting: Collection[int] = ()
    ) -> Sequence[Letter]:
        """Return letters that wait, but those that the caller has in hand; of each sender the oldest first."""
        return [_letter_of(row) for row in await self._fetch(_TAKE, ([*resting], [*in_hand], limit, bytes_max))]

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
            await self._carry_out((_ANSWER, columns))

    async def wait(self, timeout_s: float) -> None:
        """Return when a letter may have been left, or after this time."""
        with anyio.move_on_after(timeout_s):
            await self._came.wait()
        self._came = anyio.Event()

    async def expire(self, *, kept_s: float, refused_s: float, refused_max: int) -> int:
        """Delete what nobody waits for any more; return how many."""
        assert self._carry_out is not None, "who only leaves letters deletes none"
        row = await self._carry_out((_EXPIRE, (refused_s, kept_s, refused_max)))
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
        ((place,),) = await (await connection.execute(f"SELECT {_PLACE}")).fetchall()
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
                rows = await self._fetch(_ANSWERED, ([*self._waiters],))
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


def _letter_of(row: Sequence[Any]) -> Letter:
    """Read a row. One that cannot be read is told as such, so that nobody else's letters are kept from who leads."""
    number, token, kind, workflow, owner, owner_name, host, digest, body, left_at, answer, is_refused, known_as = row
    whose: User | None = None
    try:
        read, whose = LetterKind(kind), User.of(json.loads(owner), owner_name)
    except (ValueError, TypeError, RecursionError) as error:
        read, body = LetterKind.UNREADABLE, f"{error!s:.200}".encode()
    return Letter(
        token=token,
        kind=read,
        body=bytes(body),
        workflow_id=workflow,
        owner=whose,
        host=host,
        digest=digest,
        number=number,
        left_at=left_at,
        answer=bytes(answer or b""),
        is_refused=is_refused,
        known_as=known_as,
    )


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
