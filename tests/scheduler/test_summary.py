"""What is told of a workflow at one look: what waits for a person first, and no more of it than was asked for."""

import pytest

from dyrygentd import errors
from dyrygentd.client.sync import Client
from tests.http.support import Daemon, daemon, holding

__all__ = ["daemon", "holding"]


def test_what_waits_for_a_person_comes_first(holding: Daemon) -> None:
    """Thousands in flight do not hide the one gate that somebody has to open."""
    client = Client(holding.path)
    tasks = [{"name": f"n{number}", "task": "add"} for number in range(30)]
    handle = client.submit(
        {"nodes": [*tasks, {"name": "gate", "gate": True}, {"name": "last", "task": "add", "after": ["gate"]}]}
    )
    found = client.summary("@latest", limit=3)
    assert (found.workflow.id, found.workflow.state, found.decided) == (handle.id, "running", None)
    assert [node.name for node in found.under_way] == ["gate", "n0", "n1"]
    assert (found.failed, found.blocked, found.causes.causes) == ([], [], [])
    handle.pause(why="switch upgrade")
    decided = client.summary(handle.id).decided
    assert decided is not None
    assert (decided.verb, decided.why) == ("pause", "switch upgrade")


def test_node_tells_which_operator_holds_it(holding: Daemon) -> None:
    """Whoever finds a held node wants to know whom to ask, also before the node is free to be held."""
    client = Client(holding.path)
    handle = client.submit({"nodes": [{"name": "a", "task": "add"}, {"name": "b", "task": "add", "after": ["a"]}]})
    assert handle.node("b").decided is None
    handle.hold("b", why="disk is in use")
    decided = handle.node("b").decided
    assert decided is not None
    assert (decided.verb, decided.why) == ("hold", "disk is in use")
    handle.release("b")
    assert handle.node("b").decided is None


def test_end_is_told_with_its_failures(daemon: Daemon) -> None:
    """The result, what failed, what never ran because of it, and the causes come together."""
    client = Client(daemon.path)
    client.submit({"nodes": [{"name": "a", "task": "fail"}, {"name": "b", "task": "add", "after": ["a"]}]}).wait(10)
    found = client.summary("@latest")
    assert ([node.name for node in found.failed], [node.name for node in found.blocked]) == (["a"], ["b"])
    assert (found.causes.failures, found.under_way) == (1, [])
    client.submit({"nodes": [{"task": "add", "args": [1, 2]}]}).wait(10)
    assert client.summary("@latest").workflow.result == 3
    with pytest.raises(errors.RemoteError, match="limit"):
        client.summary("@latest", limit=0)
    with pytest.raises(errors.RemoteError, match="no workflow"):
        client.summary("none")
