"""A SQLite store in a directory of its own, and another process that uses the same file."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from dyrygentd.store.sqlite import SqliteStore
from tests.support.servers import REPOSITORY

Spawn = Callable[[str], "subprocess.Popen[str]"]

#: What every script for another process begins with; ``path`` is the database.
_PREAMBLE = """
import anyio, os, pathlib, sys
from dyrygentd.errors import DyrygentError
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import finished, node, workflow
path = pathlib.Path(sys.argv[1])
"""


@pytest.fixture
def anyio_backend() -> str:
    """The only backend: aiosqlite is asyncio's."""
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "state.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """An open store."""
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def spawn(path: Path) -> Iterator[Spawn]:
    """Run a script in another process, which is killed if it outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(script: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + script, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
