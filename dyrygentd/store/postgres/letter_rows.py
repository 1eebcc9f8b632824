"""Letters as rows: the statements that leave, take, answer and find them, and how a row is read."""

import json
from collections.abc import Sequence
from typing import Any, Final

from dyrygentd.core.user import User
from dyrygentd.ports.mailbox import Letter, LetterKind

NOW: Final = "extract(epoch FROM clock_timestamp())"
PLACE: Final = "current_schema()::regnamespace::oid"
COLUMNS: Final = "number, token, kind, workflow, owner, owner_name, host, digest, body, left_at, answer, is_refused, known_as"
WAITING: Final = f"""
    SELECT count(*) AS letters, coalesce(sum(bytes), 0)::bigint AS bytes,
        count(*) FILTER (WHERE host = %(host)s AND owner = %(owner)s) AS of_sender,
        coalesce(sum(bytes) FILTER (WHERE host = %(host)s AND owner = %(owner)s), 0)::bigint AS of_sender_bytes,
        coalesce({NOW} - min(left_at), 0)::float8 AS oldest_s
    FROM letters WHERE answered_at IS NULL
"""
LEAVE: Final = f"""
    WITH box AS ({WAITING}),
        led AS (SELECT in_use AND until > {NOW} AS is_led FROM owner),
        new AS (
            INSERT INTO letters (token, kind, workflow, owner, owner_name, host, key, digest, body, bytes, left_at, is_refused,
                known_as)
            SELECT %(token)s, %(kind)s, %(workflow)s, %(owner)s, %(owner_name)s, %(host)s, %(key)s, %(digest)s, %(body)s::bytea,
                %(bytes)s, {NOW}, false, ''
            FROM box, led WHERE letters < %(letters_max)s AND bytes + %(bytes)s <= %(bytes_max)s AND of_sender < %(of_sender_max)s
                AND of_sender_bytes + %(bytes)s <= %(of_sender_bytes_max)s AND (oldest_s <= %(oldest_max_s)s OR is_led)
            ON CONFLICT DO NOTHING RETURNING number, left_at
        ),
        told AS (SELECT pg_notify('dyrygentd_letters_' || {PLACE}, '') FROM new)
    SELECT new.number, new.left_at, box.*, is_led FROM box CROSS JOIN led LEFT JOIN new ON true LEFT JOIN told ON true
"""
#: The same of several letters. ``so_far`` are the bytes of those before each, ``of_sender`` those of its sender before it.
LEAVE_SEVERAL: Final = f"""
    WITH given AS (
            SELECT * FROM unnest(
                %(token)s::text[], %(kind)s::text[], %(workflow)s::text[], %(owner)s::text[], %(owner_name)s::text[],
                %(host)s::text[], %(key)s::text[], %(digest)s::text[], %(body)s::bytea[], %(bytes)s::bigint[],
                %(oldest_max_s)s::float8[], %(so_far)s::bigint[], %(of_sender)s::bigint[], %(of_sender_so_far)s::bigint[]
            ) WITH ORDINALITY AS given (
                token, kind, workflow, owner, owner_name, host, key, digest, body, bytes, oldest_max_s,
                so_far, of_sender, of_sender_so_far, place
            )
        ),
        box AS (
            SELECT count(*) AS letters, coalesce(sum(bytes), 0)::bigint AS bytes,
                coalesce({NOW} - min(left_at), 0)::float8 AS oldest_s
            FROM letters WHERE answered_at IS NULL
        ),
        led AS (SELECT in_use AND until > {NOW} AS is_led FROM owner),
        senders AS (
            SELECT host, owner, count(*) AS letters, sum(bytes)::bigint AS bytes
            FROM letters WHERE answered_at IS NULL GROUP BY host, owner
        ),
        new AS (
            INSERT INTO letters (token, kind, workflow, owner, owner_name, host, key, digest, body, bytes, left_at, is_refused,
                known_as)
            SELECT given.token, given.kind, given.workflow, given.owner, given.owner_name, given.host, given.key, given.digest,
                given.body, given.bytes, {NOW}, false, ''
            FROM box, led, given LEFT JOIN senders ON senders.host = given.host AND senders.owner = given.owner
            WHERE box.letters + given.place <= %(letters_max)s AND box.bytes + given.so_far + given.bytes <= %(bytes_max)s
                AND coalesce(senders.letters, 0) + given.of_sender < %(of_sender_max)s
                AND coalesce(senders.bytes, 0) + given.of_sender_so_far + given.bytes <= %(of_sender_bytes_max)s
                AND (box.oldest_s <= given.oldest_max_s OR is_led)
            ORDER BY given.place
            ON CONFLICT DO NOTHING RETURNING token, number, left_at
        ),
        told AS (SELECT pg_notify('dyrygentd_letters_' || {PLACE}, '') FROM (SELECT 1 FROM new LIMIT 1) AS any_letter)
    SELECT new.token, new.number, new.left_at FROM new LEFT JOIN told ON true
"""
#: Changed, so that the commit waits for a synchronous replica: who left it may not have waited to the end.
LEFT_BEFORE: Final = f"""
    UPDATE letters SET bytes = bytes WHERE number = (
        SELECT number FROM letters WHERE token = %s OR (key = %s AND answered_at IS NULL) ORDER BY token <> %s LIMIT 1
    ) RETURNING {COLUMNS}
"""
#: Of each sender in turn, and none before an earlier one of the sender that rests, or waits for another one about its workflow.
TAKE: Final = f"""
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
    SELECT {COLUMNS}, EXISTS (SELECT 1 FROM workflows WHERE kind = 'submit' AND id = letters.workflow)
        OR EXISTS (SELECT 1 FROM footprints WHERE letter = letters.number)
    FROM letters JOIN chosen USING (number) WHERE rank = 1 OR so_far <= %s ORDER BY number
"""
ANSWER: Final = f"""
    WITH given AS (
            SELECT * FROM unnest(%s::bigint[], %s::bytea[], %s::boolean[], %s::text[])
                AS given (number, answer, is_refused, known_as)
        ),
        done AS (
            UPDATE letters SET answered_at = {NOW}, answer = given.answer, is_refused = given.is_refused,
                known_as = given.known_as, body = ''
            FROM given WHERE letters.number = given.number AND letters.answered_at IS NULL RETURNING letters.number
        ),
        gone AS (DELETE FROM footprints USING done WHERE footprints.letter = done.number)
    SELECT pg_notify('dyrygentd_answers_' || {PLACE}, coalesce(string_agg(number::text, ' '), '')) FROM done
"""
#: Refused submissions, and those that are another workflow, are what somebody may ask for by the id that they were told.
IS_KEPT: Final = "kind IN ('submit', 'import') AND (is_refused OR known_as <> '')"
FIND: Final = f"""
    SELECT {COLUMNS} FROM letters WHERE workflow = %s AND kind IN ('submit', 'import')
        AND (answered_at IS NULL OR is_refused OR known_as <> '') ORDER BY number DESC LIMIT 1
"""
READ_ANSWERS: Final = f"SELECT {COLUMNS} FROM letters WHERE number = ANY (%s::bigint[]) AND answered_at IS NOT NULL"
ANSWERED: Final = "SELECT number FROM letters WHERE number = ANY (%s::bigint[]) AND answered_at IS NOT NULL"
EXPIRE: Final = f"""
    WITH gone AS (
        DELETE FROM letters WHERE answered_at IS NOT NULL AND (
            answered_at < {NOW} - CASE WHEN {IS_KEPT} THEN %s::float8 ELSE %s::float8 END
            OR number IN (
                SELECT number FROM letters WHERE answered_at IS NOT NULL AND {IS_KEPT} ORDER BY number DESC OFFSET %s
            )
        ) RETURNING number
    )
    SELECT count(*) FROM gone
"""


def letter_of(row: Sequence[Any]) -> Letter:
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
