"""Hosts for tests, which are skipped aloud where none can be made."""

from collections.abc import Iterator

import pytest

from tests.hosts.network import skip_without_hosts
from tests.hosts.world import World
from tests.support.directories import short_directory


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    """Hosts for the tests of a module, each of which leaves them as they were."""
    skip_without_hosts()
    with short_directory() as directory, World(directory) as world:
        yield world


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """The same; after the test all ways are open, and all servers go on."""
    yield shared_world
    shared_world.mend()
    shared_world.executions.clear()


@pytest.fixture
def own_world() -> Iterator[World]:
    """Hosts of this test alone, which it need not mend."""
    skip_without_hosts()
    with short_directory() as directory, World(directory) as world:
        yield world
