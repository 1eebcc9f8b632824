"""Where a database on PostgreSQL is: a URL as libpq takes it, and the schema in it. Nothing of psycopg's is imported here."""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

#: Where nothing else is said.
SCHEMA: Final = "dyrygentd"
_SCHEMES: Final = ("postgresql", "postgres")
#: Names that need no quotes, so that what an operator types is what is there.
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SECRET_PARAMETERS: Final = frozenset({"password", "sslpassword"})


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A database and a schema in it. Its text never shows a password.

    Attributes:
        conninfo: The URL for libpq, passwords included.
        schema: A name that needs no quotes.
    """

    conninfo: str = field(repr=False)
    schema: str = SCHEMA

    @classmethod
    def read(cls, text: str) -> Self:
        """Read ``postgresql://USER@HOST/DATABASE?schema=NAME``, with what else libpq takes. Raises `ValueError`."""
        if not is_postgres(text):
            raise ValueError("it must begin with postgresql://")
        parts = urlsplit(text)
        parameters = parse_qsl(parts.query, keep_blank_values=True)
        schema = dict(parameters).get("schema", SCHEMA)
        if not _NAME.fullmatch(schema) or schema.startswith("pg_"):
            raise ValueError(f"the schema '{schema}' is no name of small letters, digits and _")
        rest = [(name, value) for name, value in parameters if name != "schema"]
        # libpq takes %20 for a space, and + for itself.
        return cls(_joined(parts.netloc, parts.path, urlencode(rest, quote_via=quote)), schema)

    def __str__(self) -> str:
        parts = urlsplit(self.conninfo)
        user, at, host = parts.netloc.rpartition("@")
        name, colon, _ = user.partition(":")
        shown = [
            (key, "****" if key in _SECRET_PARAMETERS else value) for key, value in parse_qsl(parts.query, keep_blank_values=True)
        ]
        if self.schema != SCHEMA:
            shown.append(("schema", self.schema))
        query = urlencode(shown, quote_via=quote, safe="*/")
        return _joined(f"{name}{':****' if colon else ''}{at}{host}", parts.path, query)


def _joined(netloc: str, path: str, query: str) -> str:
    # Not `urlunsplit`, which leaves the slashes out where no host is named.
    return f"postgresql://{netloc}{path}{'?' if query else ''}{query}"


def is_postgres(text: str) -> bool:
    """Tell whether a place of a database is one of PostgreSQL's."""
    return text.partition("://")[0] in _SCHEMES and "://" in text
