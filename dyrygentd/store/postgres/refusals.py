"""What an error of PostgreSQL's means: whose fault it is, whether waiting helps, and what an operator does.

A server that lets somebody in tells errors by code. libpq has none for what is said to somebody who is not let in, nor for a
network that leads nowhere: there the words are looked at. The server's are English unless its `lc_messages` is not; libpq's own
and the kernel's are, since Python leaves the language of a process alone. What is not understood is shown as it is.
"""

import re
from typing import Final, NamedTuple

import psycopg
from psycopg import AsyncConnection

from dyrygentd.errors import DyrygentError, InvariantBroken, StoreIncompatible, StoreUnavailable
from dyrygentd.store.postgres import StoreAway
from dyrygentd.store.postgres.url import PostgresUrl

#: What we say of a server that takes too long.
HUNG: Final = "the server has not answered"
#: And of one that has given up waiting, because somebody told it to.
UNREPLICATED: Final = "the wait for the synchronous replica was cancelled"


def is_lost(connection: AsyncConnection, error: psycopg.Error) -> bool:
    """Tell whether nobody knows what became of what was sent last: only an answer of the server's does, and not its last words.

    psycopg may call an end amid a pipeline by other names ("cannot exit pipeline mode while busy"), and the connection open.
    """
    return connection.closed or error.sqlstate is None or error.sqlstate.startswith(("08", "57P0"))


def is_of_our_making(error: psycopg.Error) -> bool:
    """Tell whether a transaction failed because of what was to be written, so that repeating it would not help."""
    if error.sqlstate is None:
        # Raised by psycopg itself: it cannot write a value.
        return isinstance(error, psycopg.DataError | psycopg.ProgrammingError | psycopg.NotSupportedError)
    return error.sqlstate.startswith(("22", "23", "54"))


def words_of(error: BaseException) -> str:
    """Return what the server or libpq says, in one line."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
        return f"{error.diag.message_primary}{detail}"
    # What follows in libpq's words is a guess.
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def refusal_to_write(url: PostgresUrl, error: psycopg.Error) -> DyrygentError:
    """Return what to raise for a transaction that failed."""
    if is_of_our_making(error):
        return InvariantBroken(f"the database '{url}' refuses what is to be saved: {words_of(error)}")
    return _unavailable("write", url, error)


def refusal_to(verb: str, url: PostgresUrl, error: psycopg.Error) -> StoreUnavailable | StoreIncompatible:
    """Return what to raise when the database cannot be opened or read."""
    if (error.sqlstate or "")[:2] == "XX" and error.sqlstate != "XX000":
        damaged = StoreIncompatible(f"the database '{url}' is damaged: {words_of(error)}")
        damaged.next_step = "see the server's log; a copy of the server's own tools is put back by them"
        return damaged
    return _unavailable(verb, url, error)


def _unavailable(verb: str, url: PostgresUrl, error: psycopg.Error) -> StoreUnavailable:
    reason = _reason_of(error)
    kind = StoreAway if reason.may_pass else StoreUnavailable
    unavailable = kind(f"cannot {verb} the database '{url}': {words_of(error)}")
    unavailable.next_step = reason.step.format(schema=url.schema)
    return unavailable


class _Reason(NamedTuple):
    """Why a server does not do what it is asked.

    Attributes:
        words: A pattern of what it says to somebody whom it does not let in; None if it tells that by its code alone.
        code: What it tells others; empty if it has none.
        step: What an operator does; empty if the words say so.
        may_pass: Waiting may be enough.
    """

    words: str | None
    code: str
    step: str
    may_pass: bool = False


_UNKNOWN: Final = _Reason(None, "", "does the server run, and do host, port and `sslmode` fit?")
_NOT_THERE: Final = _UNKNOWN._replace(may_pass=True)
_MAKE_ROLE: Final = "make the role: `CREATE ROLE NAME LOGIN`; and let it in from here, in the server's pg_hba.conf"

#: Where several hosts are named each may have a reason of its own: the first of these that fits one is told, so what somebody has
#: to mend comes before what may pass.
_REASONS: Final = (
    _Reason(
        "does not match host name", "", "name the server in the URL as its certificate does; where it is may stand in `hostaddr=`"
    ),
    _Reason(
        "certificate verify failed",
        "",
        "the file of whoever signed its certificate belongs in `sslrootcert=`, and the certificate must not be over:"
        " `openssl s_client -starttls postgres -connect HOST:PORT` shows it",
    ),
    _Reason("root certificate file", "", "name the file of whoever signed the server's certificate in `sslrootcert=`"),
    _Reason(
        "does not support SSL", "", "set `ssl = on` at the server, or `sslmode=disable` in the URL where nobody is in between"
    ),
    # Before version 14 "SSL off".
    _Reason(
        'no pg_hba.conf entry for host "[^[].*(no encryption|SSL off)',
        "",
        "the server takes nobody from here without TLS (`sslmode=verify-full&sslrootcert=FILE` in the URL),"
        " or nobody at all (its pg_hba.conf)",
    ),
    _Reason(
        "password authentication failed|no password supplied",
        "28P01",
        "give the password in the credential `database-url`, in ~/.pgpass, or in the file that PGPASSFILE names",
    ),
    _Reason('role ".*" (does not exist|is not permitted to log in)', "28000", _MAKE_ROLE),
    _Reason(
        "pg_hba.conf|authentication failed for user",
        "28000",
        "let the role in from here, and in this way, in the server's pg_hba.conf; its log tells which line was taken",
    ),
    _Reason('database ".*" does not exist', "3D000", "make the database: `createdb --encoding UTF8 NAME`"),
    _Reason('permission denied for database ".*"', "", "a superuser gives the right: `GRANT CONNECT ON DATABASE NAME TO ROLE`"),
    _Reason(
        'database ".*" is not currently accepting connections',
        "55000",
        "somebody has closed it; a superuser opens it: `ALTER DATABASE NAME ALLOW_CONNECTIONS true`",
    ),
    _Reason(
        "too many (clients|connections)|connection slots are reserved",
        "53300",
        "raise `max_connections`, or the `CONNECTION LIMIT` of role or database: a daemon has up to ten connections",
    ),
    _Reason(
        None, "42501", "the daemon's role has to own the schema: `ALTER SCHEMA {schema} OWNER TO ROLE`, and all that is in it"
    ),
    _Reason(None, "53100", "make room on the server's disk"),
    # One that follows another server is writable once it leads.
    _Reason(
        "session is read-only|server is in hot standby mode|not accepting connections",
        "25006",
        "it is a standby, or was made read-only: name the primary, or several hosts of which one is it",
        may_pass=True,
    ),
    _Reason(
        "the database system is shutting down|terminating connection due to administrator command",
        "57P01",
        "it goes on by itself when the server is started again",
        may_pass=True,
    ),
    _Reason(
        "the database system is (starting up|in recovery mode|not yet accepting connections)",
        "57P03",
        "it goes on by itself once the server has started; the server's log tells what that waits for",
        may_pass=True,
    ),
    _Reason(
        None, "57P02", "it goes on by itself once the server has started; the server's log tells why it ended", may_pass=True
    ),
    _Reason(
        HUNG,
        "",
        "look what its processes wait for (`pg_stat_activity`): a disk, or a synchronous replica that is gone",
        may_pass=True,
    ),
    _Reason(
        UNREPLICATED,
        "",
        "have a replica be there, or take it out of `synchronous_standby_names`: who only cancels waits has it wait again",
        may_pass=True,
    ),
    _NOT_THERE._replace(
        words=(
            "[Cc]onnection (refused|reset|timed out|timeout)|server closed the connection|Broken pipe|SSL SYSCALL error"
            "|No route to host|(Network|Host) is (unreachable|down)|Temporary failure in name resolution"
            "|on socket .* failed: No such file"
        )
    ),
)


def _reason_of(error: psycopg.Error) -> _Reason:
    if error.sqlstate:
        known = next((reason for reason in _REASONS if reason.code == error.sqlstate), None)
        return known or _UNKNOWN._replace(step="", may_pass=error.sqlstate.startswith("08"))
    said = str(error)
    return next((reason for reason in _REASONS if reason.words and re.search(reason.words, said)), _UNKNOWN)
