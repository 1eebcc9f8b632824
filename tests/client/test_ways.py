"""Which daemon is meant: arguments, the environment, and what is refused."""

from pathlib import Path

import pytest

from dyrygentd import AsyncClient, Client
from dyrygentd.client.ways import find_way
from dyrygentd.errors import ConfigurationError


def test_socket_is_a_way() -> None:
    """Paths are what they always were."""
    way = find_way("/a.sock", environ={})
    assert (way.name, way.path, way.user) == ("/a.sock", "/a.sock", None)
    assert find_way(Path("/a.sock"), environ={"DYRYGENTD_HOST": "ssh://ops1"}).name == "/a.sock"
    assert find_way(environ={"DYRYGENTD_SOCKET": "/b.sock"}).name == "/b.sock"


def test_host_is_a_way_that_opens_nothing_yet() -> None:
    """Making a client costs nothing, on whatever host its daemon is."""
    for way in (find_way("ssh://ops1", environ={}), find_way(environ={"DYRYGENTD_HOST": "ssh://ops1"})):
        assert (way.name, way.path, way.user) == ("ssh://ops1", None, None)
        assert find_way(way) is way
        way.close()
    assert repr(Client("ssh://me@ops1:2222")) == "<Client ssh://me@ops1:2222>"
    assert repr(AsyncClient("ssh://ops1")) == "<AsyncClient ssh://ops1>"


def test_two_daemons_in_the_environment_are_refused() -> None:
    """Neither is taken by guess: the other one may be production."""
    with pytest.raises(ConfigurationError, match="both name a daemon") as refusal:
        find_way(environ={"DYRYGENTD_HOST": "ssh://ops1", "DYRYGENTD_SOCKET": "/b.sock"})
    assert "unset" in refusal.value.next_step


def test_name_alone_is_refused_with_what_was_meant() -> None:
    """`ops1` might be a file, so it is not taken for a host."""
    with pytest.raises(ConfigurationError, match="no address of a host") as refusal:
        find_way(environ={"DYRYGENTD_HOST": "ops1"})
    assert "ssh://ops1" in refusal.value.next_step
