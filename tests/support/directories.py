"""Directories of tests for sockets and servers, which are found again if a process of the test run ends without tidying up."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SESSION = "DYRYGENTD_TEST_SESSION"
_PARENT = Path("/tmp")


def begin_session() -> None:
    """Give the test run, with all of its processes, a name of its own."""
    os.environ.setdefault(_SESSION, uuid.uuid4().hex[:4])


def make_short_directory() -> Path:
    """Make a directory with a short path, because a Unix socket's path has 107 bytes at most."""
    return Path(tempfile.mkdtemp(prefix=_prefix(), dir=_PARENT))


@contextmanager
def short_directory() -> Iterator[Path]:
    """Have such a directory for a while."""
    directory = make_short_directory()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def left_behind() -> list[Path]:
    """Return the directories of this test run that are still there."""
    return sorted(_PARENT.glob(f"{_prefix()}*")) if _SESSION in os.environ else []


def _prefix() -> str:
    return f"dyr{os.environ.get(_SESSION, '')}"
