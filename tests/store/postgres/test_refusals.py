"""What each refusal of a real server leads to: its words, the next step that fits, and whether waiting may be enough."""

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from dyrygentd.errors import StoreUnavailable
from dyrygentd.store.postgres import StoreAway
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.support.postgres import PostgresServer
from tests.support.servers import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.long]

_GOES_ON = "it goes on by itself"


@pytest.fixture
def server(short_tmp: Path) -> Iterator[PostgresServer]:
    """A server with few places, of which none is kept for superusers."""
    with PostgresServer(short_tmp, max_connections="6", superuser_reserved_connections="0", max_wal_senders="0") as server:
        yield server


async def _refusal(url: PostgresUrl) -> StoreUnavailable:
    store = PostgresStore(url)
    with pytest.raises(StoreUnavailable) as refused:
        await store.open()
    await store.close()
    return refused.value


async def _check(url: PostgresUrl, words: str, step: str, *, may_pass: bool = False) -> None:
    refusal = await _refusal(url)
    assert words in refusal.message
    assert step in refusal.next_step
    assert isinstance(refusal, StoreAway) == may_pass


async def test_server_that_starts_or_ends(server: PostgresServer) -> None:
    """Whoever only has to wait is told so, and not to make a database."""
    with server.starting():
        await _check(server.url(), "the database system is starting up", _GOES_ON, may_pass=True)
    with server.ending():
        await _check(server.url(), "the database system is shutting down", _GOES_ON, may_pass=True)
    await _check(server.url(), "connection to server on socket", "does the server run", may_pass=True)
    by_network = PostgresUrl.read(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")
    await _check(by_network, "Connection refused", "does the server run", may_pass=True)


async def test_standby_alone(short_tmp: Path) -> None:
    """A server that may be read and not written may be about to lead."""
    with PostgresServer(short_tmp) as server:
        server.stop()
        (short_tmp / "data/standby.signal").touch()
        server.start()
        await _check(server.url(), "session is read-only", "name the primary", may_pass=True)


async def test_server_without_a_place(server: PostgresServer) -> None:
    """Server, role and database may each have a limit; somebody has to raise it."""
    server.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 0")
    await _check(server.url(user="few"), 'too many connections for role "few"', "`CONNECTION LIMIT`")
    server.execute("CREATE ROLE other LOGIN")
    database = server.make_database()
    server.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 0")
    await _check(server.url(database, user="other"), "too many connections for database", "`CONNECTION LIMIT`")
    with ExitStack() as held:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                held.enter_context(psycopg.connect(server.conninfo()))
        await _check(server.url(), "sorry, too many clients already", "`max_connections`")


async def test_who_is_not_let_in(server: PostgresServer) -> None:
    """No such database or role, no right to connect, a closed database, a wrong or missing password, no line in pg_hba.conf."""
    server.execute("CREATE ROLE plain LOGIN PASSWORD 'right'")
    server.execute("CREATE ROLE shut")
    database = server.make_database()
    await _check(server.url("nowhere"), 'database "nowhere" does not exist', "createdb --encoding UTF8")
    await _check(server.url(user="nobody"), 'role "nobody" does not exist', "CREATE ROLE")
    await _check(server.url(user="shut"), 'role "shut" is not permitted to log in', "CREATE ROLE")
    server.execute(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    await _check(server.url(database, user="plain"), f'permission denied for database "{database}"', "`GRANT CONNECT ON")
    server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    await _check(server.url(database), "is not currently accepting connections", "ALLOW_CONNECTIONS true")
    with _let_in(server, "local all plain scram-sha-256", "local all postgres trust"):
        await _check(server.url(user="plain"), "no password supplied", "credential `database-url`")
        await _check(server.url(user="plain:wrong"), "password authentication failed", "credential `database-url`")
        await _check(server.url(user="shut"), "no pg_hba.conf entry", "pg_hba.conf; its log tells")
    with _let_in(server, "local all plain reject", "local all shut peer", "local all postgres trust"):
        await _check(server.url(user="plain"), "pg_hba.conf rejects connection", "pg_hba.conf; its log tells")
        await _check(server.url(user="shut"), "Peer authentication failed", "pg_hba.conf; its log tells")


@contextmanager
def _let_in(server: PostgresServer, *rules: str) -> Iterator[None]:
    """Have these rules instead of what the server has in its pg_hba.conf."""
    ((name,),) = server.execute("SHOW hba_file")
    path = Path(name)
    before = path.read_text()
    for text in ("\n".join([*rules, ""]), before):
        path.write_text(text)
        server.execute("SELECT pg_reload_conf()")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        wait_until(lambda lines=lines: len(server.execute("SELECT 1 FROM pg_hba_file_rules")) == len(lines))  # type: ignore[misc]
        if text != before:
            yield


async def test_each_of_several_hosts(server: PostgresServer) -> None:
    """What has to be mended at one host is told before what passes at another; a name that nobody knows is told at once."""
    nobody, there = "127.0.0.1:1", f"127.0.0.1:{server.port}"
    # psycopg tells what each host has said since 3.3, and before what the last one has.
    tells_all = int(psycopg.__version__.split(".")[1]) >= 3
    for places in (f"{nobody},{there}", *([f"{there},{nobody}"] if tells_all else [])):
        await _check(PostgresUrl.read(f"postgresql://postgres@{places}/nowhere"), "connection", "createdb --encoding UTF8")
    await _check(PostgresUrl.read("postgresql://postgres@nowhere.invalid/postgres"), "nowhere.invalid", "does the server run")
    await _check(PostgresUrl.read(f"postgresql://postgres@{there}/postgres?sslmode=odd"), "sslmode", "`sslmode` fit?")
