"""Values as PostgreSQL takes them: what is written is read back, whatever is in it."""

import math

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd.store.postgres import rows
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]


@given(
    st.lists(st.tuples(st.text(), st.none() | st.binary(), st.none() | st.integers(-(2**31), 2**31 - 1), st.floats()), max_size=5)
)
@settings(max_examples=100)
def test_columns(shared_postgres: PostgresServer, values: list[tuple[str, bytes | None, int | None, float]]) -> None:
    """Texts with quotes and backslashes, bytes, numbers and nothing at all come back as they were."""
    lines = [
        (1, place, text, 1, number, 0.0, 0.0, other, text, content, None)
        for place, (text, content, other, number) in enumerate(values)
    ]
    columns = rows.node_columns(lines) if lines else []
    if not columns:
        return
    query = "SELECT * FROM unnest(%s::text[], %s::bytea[], %s::integer[], %s::float8[])"
    with psycopg.connect(shared_postgres.conninfo()) as connection:
        found = connection.execute(query, (columns[8], columns[9], columns[7], columns[4]), binary=True).fetchall()
    expected = [(rows.text_of(text), content, other, number) for text, content, other, number in values]
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert all(
        one[3] == other[3] or (math.isnan(one[3]) and math.isnan(other[3])) for one, other in zip(found, expected, strict=True)
    )


def test_of_two_rows_of_a_node_the_later() -> None:
    """A statement may not change a row twice."""
    line = (1, 0, "ready", 1, 0.0, 0.0, 0.0, None, "", None, None)
    assert rows.node_columns([line, (*line[:2], "failed", *line[3:])])[:3] == ["{1}", "{0}", '{"failed"}']


def test_pairs_are_compared_as_a_whole() -> None:
    """A label is found by name and value, also with quotes in them."""
    assert rows.pairs_of({'a"': "b", "c": "\0"}) == '[["a\\"", "b"],["c", "\\u0000"]]'
    assert rows.pair_of("c", "\0") == '["c", "\\u0000"]'
