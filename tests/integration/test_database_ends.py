"""A database that ends its connections, as after a restart or an idle timeout: results are read again."""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from dyrygentd import Client
from tests.integration.test_as_stored import Site, site_of
from tests.integration.test_django import SHOP, Shop
from tests.support.directories import short_directory
from tests.support.servers import wait_until
from tests.support.strange import ident

pytestmark = pytest.mark.integration

_SERVER = "host=127.0.0.1 user=root dbname=test connect_timeout=3"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A database of PostgreSQL of this module's own."""
    try:
        connection = psycopg.connect(_SERVER, autocommit=True)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL answers on 127.0.0.1:5432: {error}")
    name = f"dyr{uuid.uuid4().hex[:12]}"
    with connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield name
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _end_connections(database: str) -> int:
    """End all connections to the database, and return how many there were."""
    with psycopg.connect(_SERVER, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()", (database,)
        ).fetchall()
    return len(ended)


def _check(client: Client, canvas: Any, database: str) -> None:
    """Have results read before, while and after all connections are ended, more than once."""
    assert client.submit(canvas).wait(timeout_s=60).state == "succeeded"
    for _ in range(3):
        _end_connections(database)
        assert client.submit(canvas).wait(timeout_s=60).state == "succeeded"
    wait_until(lambda: not client.stats().problems)


@pytest.fixture(scope="module")
def sql_site(database: str) -> Iterator[Site]:
    """A worker whose results are in the database, by SQLAlchemy."""
    yield from site_of(backend=f"db+postgresql+psycopg://root@127.0.0.1/{database}")


def test_sqlalchemy(sql_site: Site, database: str) -> None:
    """Celery's own database backend."""
    _check(sql_site.client(), ident.s(1), database)


@pytest.fixture(scope="module", params=[0, 60, None], ids=["new-each-time", "kept-60s", "kept"])
def shop(request: pytest.FixtureRequest, database: str) -> Iterator[Shop]:
    """The shop on Django, with its tables and results in the database, and its connections kept so long."""
    entry = {"ENGINE": "django.db.backends.postgresql", "NAME": database, "HOST": "127.0.0.1", "USER": "root"}
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        yield Shop(directory, exits, database=json.dumps({**entry, "CONN_MAX_AGE": request.param}))


@pytest.mark.long
def test_django(shop: Shop, database: str) -> None:
    """Results of `django-celery-results`, whose connection belongs to a thread that nobody cleans up after."""
    from celery import Celery

    with shop.daemon("--app", SHOP) as daemon, Client(str(daemon.socket_path)) as client:
        task = Celery("x", set_as_current=False).signature("media.probe", args=["clip"])
        _check(client, task, database)
