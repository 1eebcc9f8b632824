"""The daemons whose page is served here, and the page itself."""

from collections.abc import Iterator

import pytest

from tests.http.support import Daemon, daemon
from tests.loopback.support import Served

__all__ = ["daemon"]


@pytest.fixture
def served(daemon: Daemon) -> Iterator[Served]:
    """The page of ``daemon``, whose token nobody has used."""
    with Served(daemon) as running:
        yield running
