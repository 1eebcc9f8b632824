"""Stores for the scheduler, and the loop it runs on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dyrygentd.ports import Store
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import MemoryStore


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The standard library's loop; `test_scheduler` runs on both."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Each call gives a closed store on the same data, as after a restart."""
    if request.param == "postgres":
        from dyrygentd.store.postgres.store import PostgresStore

        url = request.getfixturevalue("shared_postgres").url()
        return lambda: PostgresStore(url)
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else (lambda: SqliteStore(tmp_path / "state.db"))


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    """A store that was not opened yet; the scheduler does that."""
    return reopen()
