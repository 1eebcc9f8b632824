"""Owners of the first version of the schema, which were numbers."""

import socket
from pathlib import Path

import pytest

from dyrygentd.core.user import User
from dyrygentd.ports.facts import Selection
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.store.records import workflow
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]


@pytest.mark.parametrize("given", ["", "app1"])
async def test_numbers_of_the_first_version_are_users_of_this_host(
    url: PostgresUrl, shared_postgres: PostgresServer, given: str
) -> None:
    """Where several hosts may have one store, a number becomes a user of the host that had it, with its keys and all else."""
    _make_first_version(shared_postgres, url)
    controls = ['{"priority": 3, "owner": 1000, "routes": {"owner": "q"}}', '{"owner": 0}', None]
    for at, (number, control) in enumerate(zip((1000, 0, None), controls, strict=True), start=1):
        shared_postgres.execute(
            f"INSERT INTO {url.schema}.workflows (seq, id, name, key, labels, state, created_at, tasks, error, control, document,"
            " label_pairs, owner) VALUES (%s, %s, 'n', %s, '{}', 'running', 1, 1, '', %s, '', '{}', %s)",
            *(at, f"w{at}", f"{'' if number is None else number}:a:b", control, number),
        )
    host = given or socket.gethostname()
    store = PostgresStore(url, host=given)
    await store.open()
    for workflow_id, owner in (("w1", User(1000, host)), ("w2", User(0, host)), ("w3", None)):
        record = await store.record(workflow_id)
        assert record is not None
        assert (record.owner, record.key) == (owner, "a:b")
        assert await store.find_key("a:b", owner) == workflow_id
        if owner is not None:
            assert [row.record.workflow_id for row in await store.list(Selection(owner=owner))] == [workflow_id]
    record = await store.record("w1")
    assert record is not None
    assert (record.priority, record.routes) == (3, {"owner": "q"})
    await store.save([workflow("w4", owner=User(1000, "app2", "ann"))], [])
    await store.close()
    rows = shared_postgres.execute(f"SELECT id, owner_uid, owner, key FROM {url.schema}.v_workflows ORDER BY id")
    assert rows[:3] == [("w1", 1000, f"1000@{host}", "a:b"), ("w2", 0, f"0@{host}", "a:b"), ("w3", None, None, "a:b")]
    assert rows[3][:3] == ("w4", 1000, "ann@app2")


def _make_first_version(server: PostgresServer, url: PostgresUrl) -> None:
    made = Path(__file__).with_name("version_1.sql").read_text()
    server.execute(f"CREATE SCHEMA {url.schema}; SET search_path TO {url.schema}; {made.replace('%', '%%')}")
    server.execute(f"INSERT INTO {url.schema}.about (version) VALUES (1)")
    server.execute(f"INSERT INTO {url.schema}.notes (name, value) VALUES ('n', 'kept')")
    server.execute(f"UPDATE {url.schema}.owner SET session = 3, term = '3 7 1700000000.500 h', holder = 'process 7'")
