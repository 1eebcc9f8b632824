"""`check-config --online` tells whether large values can be kept."""

from pathlib import Path

import pytest

from dyrygentd.daemon.check_values import check_values
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.values import DirectoryValues


def test_a_directory(tmp_path: Path) -> None:
    """Nothing is made, since root may ask for another user's daemon; what is in the way is named."""
    assert check_values(None, tmp_path / "state.db") == f"'{tmp_path}/values' does not exist, and will be made"
    assert list(tmp_path.iterdir()) == []
    DirectoryValues(tmp_path / "values").write("db/w/a", b"1")
    assert check_values(None, tmp_path / "state.db") == f"'{tmp_path}/values' is there"
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="is no directory in which this user may write"):
        check_values(str(tmp_path / "file"), tmp_path / "state.db")


def test_nowhere() -> None:
    """Beside PostgreSQL somebody has to name a place, and is told the setting."""
    words = check_values(None, PostgresUrl.read("postgresql://me@db1/flows"))
    assert words.startswith("there is no place for them beside a database on PostgreSQL: ")
    assert words.endswith("(`value_store`)")


def test_an_address() -> None:
    """A store is written, read, and left as it was."""
    assert check_values("memory://probe", None) == "'memory://probe' takes and gives them"
