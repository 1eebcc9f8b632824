"""A place on PostgreSQL for each test, and a way to it on which answers can be lost."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.support.postgres import PostgresServer
from tests.support.proxy import CuttingProxy


@pytest.fixture
def url(shared_postgres: PostgresServer) -> PostgresUrl:
    """A schema that is not there yet."""
    return shared_postgres.url()


@pytest.fixture
async def store(url: PostgresUrl) -> AsyncIterator[PostgresStore]:
    """An open store."""
    store = PostgresStore(url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def proxy(shared_postgres: PostgresServer, short_tmp: Path) -> Iterator[CuttingProxy]:
    """A socket on which answers of the server can be lost."""
    with CuttingProxy(short_tmp / shared_postgres.socket_name, shared_postgres.socket) as proxy:
        yield proxy


@pytest.fixture
def by_proxy(url: PostgresUrl, shared_postgres: PostgresServer, proxy: CuttingProxy, short_tmp: Path) -> PostgresUrl:
    """The same schema by that socket."""
    return PostgresUrl.read(f"{shared_postgres.conninfo(host=short_tmp)}&schema={url.schema}")
