"""Statements and connections as later versions of Python want them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from dyrygentd.store.connections import connect
from tests.support.servers import REPOSITORY

pytestmark = pytest.mark.anyio

#: A place with a number or a name. Python 3.12 warns of such a place where a tuple is given, and later versions refuse it; plain
#: ``?`` goes with tuples everywhere, and all our values are tuples.
_NAMED_PLACE = re.compile(r"\?\d|(?<![\w:'\"])[:@$][a-z_]\w*")
_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|PRAGMA)\s", re.IGNORECASE)


def _texts(source: str) -> Iterator[str]:
    """Yield the texts of a module, each formatted one in a piece."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def named_places(source: str) -> list[str]:
    """Return the statements of a module that have numbered or named places."""
    return [text for text in _texts(source) if _STATEMENT.match(text) and _NAMED_PLACE.search(text)]


def test_places_in_statements_have_no_number_and_no_name() -> None:
    """Values are tuples, and Python 3.14 refuses a tuple for a place with a name: each verb on a workflow would fail."""
    paths = [path for room in ("dyrygentd", "tests") for path in (REPOSITORY / room).rglob("*.py") if path != Path(__file__)]
    sources = {str(path.relative_to(REPOSITORY)): source for path in paths if "sqlite" in (source := path.read_text())}
    assert {"dyrygentd/store/rows.py", "dyrygentd/store/sqlite.py"} <= sources.keys()
    assert {name: named for name, source in sources.items() if (named := named_places(source))} == {}
    assert named_places("x = 'DELETE FROM journal WHERE workflow = ?1'") == ["DELETE FROM journal WHERE workflow = ?1"]
    assert named_places("x = f'UPDATE nodes SET value = :value {y}'") == ["UPDATE nodes SET value = :value "]
    assert not named_places("x = 'SELECT seq FROM workflows WHERE id = ?'")


async def test_connection_is_had_by_whoever_was_cancelled_meanwhile(tmp_path: Path, anyio_backend: str) -> None:
    """Whoever asked for a connection gets it, cancelled or not: otherwise nobody could close it."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        connection = await connect(tmp_path / "state.db")
    assert [*await connection.execute_fetchall("SELECT 1")] == [(1,)]
    await connection.close()
