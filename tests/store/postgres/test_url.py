"""Where a database on PostgreSQL is, as people write it and as it is shown."""

import pytest

from dyrygentd.store.postgres.url import PostgresUrl, is_postgres


@pytest.mark.parametrize(
    ("text", "conninfo", "schema", "shown"),
    [
        ("postgresql://h/d", "postgresql://h/d", "dyrygentd", "postgresql://h/d"),
        ("postgres://u@h:1/d", "postgresql://u@h:1/d", "dyrygentd", "postgresql://u@h:1/d"),
        (
            "postgresql://u:p%40w@a:1,b:2/d?schema=ops",
            "postgresql://u:p%40w@a:1,b:2/d",
            "ops",
            "postgresql://u:****@a:1,b:2/d?schema=ops",
        ),
        (
            "postgresql:///d?host=/run/p&password=s3&sslmode=verify-full",
            "postgresql:///d?host=%2Frun%2Fp&password=s3&sslmode=verify-full",
            "dyrygentd",
            "postgresql:///d?host=/run/p&password=****&sslmode=verify-full",
        ),
        ("postgresql://?service=ops&schema=s_1", "postgresql://?service=ops", "s_1", "postgresql://?service=ops&schema=s_1"),
    ],
)
def test_urls(text: str, conninfo: str, schema: str, shown: str) -> None:
    """What libpq gets has the password and not the schema, what people see the other way round."""
    url = PostgresUrl.read(text)
    assert (url.conninfo, url.schema, str(url)) == (conninfo, schema, shown)
    assert "s3" not in repr(url)
    assert "p%40w" not in f"{url!r}{url}"


@pytest.mark.parametrize(
    "text", ["state.db", "mysql://h/d", "postgresql://h/d?schema=Ops", "postgresql://h/d?schema=pg_x", "postgresql://h/d?schema="]
)
def test_what_is_no_place(text: str) -> None:
    """Another program's URL, and a schema whose name would need quotes or is the server's own."""
    with pytest.raises(ValueError, match=r"postgresql://|schema"):
        PostgresUrl.read(text)


def test_what_is_a_url() -> None:
    """A file may be called anything, but for that."""
    assert is_postgres("postgresql://")
    assert not is_postgres("postgresql:/state.db")
    assert not is_postgres("postgres")
