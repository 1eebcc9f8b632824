"""The hosts and wires that other tests here stand on."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.hosts.network import Host, Network, skip_without_hosts
from tests.support.servers import wait_until

_PORT = 5000


@pytest.fixture
def network() -> Iterator[Network]:
    """Wires without hosts."""
    skip_without_hosts()
    with Network(seed=3) as network:
        yield network


@pytest.fixture
def wire(network: Network) -> Iterator[socket.socket]:
    """A connection from host a to the second address of host c, where what comes is sent back."""
    a, c = network.host("a"), network.host("c", addresses=2)
    with ExitStack() as exits:
        with c.inside():
            server = exits.enter_context(socket.create_server((c.addresses[1], _PORT)))
        with a.inside():
            client = exits.enter_context(socket.create_connection((c.addresses[1], _PORT), timeout=10))
        there, _ = server.accept()

        def echo() -> None:
            with there:
                while received := there.recv(1 << 16):
                    there.sendall(received)

        thread = threading.Thread(target=echo)
        thread.start()
        yield client
        network.mend()
        client.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _echoed(client: socket.socket, text: bytes) -> bool:
    client.sendall(text)
    answer = b""
    while len(answer) < len(text):
        answer += client.recv(1 << 16)
    return answer == text


def test_silent_cut(network: Network, wire: socket.socket) -> None:
    """A cut of one address leaves the other; what is cut hears nothing, and goes on where it was when the cut is mended."""
    a, c = network.host("a"), network.host("c")
    assert _echoed(wire, b"one")
    network.cut(a.address, c.addresses[0])
    assert _echoed(wire, b"two")
    network.cut_off(a, c)
    wire.settimeout(0.3)
    with pytest.raises(TimeoutError):
        _echoed(wire, b"three")
    assert network.dropped
    network.mend()
    wire.settimeout(10)
    assert wire.recv(5) == b"three"


def test_weather(network: Network, wire: socket.socket) -> None:
    """Packets are delayed and lost, and what TCP makes of it is what was sent."""
    network.slow(network.host("c"), delay_s=0.005, loss=0.1)
    text = os.urandom(300_000)
    answers: list[bool] = []
    sender = threading.Thread(target=lambda: answers.append(_echoed(wire, text[:50_000])))
    sender.start()
    sender.join(30)
    assert answers == [True]
    assert network.dropped > 3


def test_nothing_else_is_reached(network: Network) -> None:
    """A host has no way to what is not in its network, and no name that others meet."""
    with network.host("a").inside(), pytest.raises(OSError, match=r"timed out|unreachable"):
        socket.create_connection(("192.0.2.1", _PORT), timeout=0.2)
    before = _networks()
    with Network() as other:
        assert other.host("a").address == network.host("a").address
        assert _networks() == before
        assert isinstance(other.host("b"), Host)


def test_each_has_its_name(network: Network) -> None:
    """What runs on a host has that host's name, and nobody else has."""
    before = socket.gethostname()
    assert network.host("a").run("uname", "-n").strip() == "a"
    with network.host("b").inside():
        assert socket.gethostname() == "b"
    assert socket.gethostname() == before


def test_host_ends_with_the_network() -> None:
    """Nothing of a host is there when its network was left."""
    skip_without_hosts()
    with Network() as network:
        host = network.host("a")
        identity = os.fstat(host._namespaces[0]).st_ino
    wait_until(lambda: identity not in _networks_of_processes())


def _networks() -> list[str]:
    """Names that namespaces have."""
    return sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else []


def _networks_of_processes() -> set[int]:
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.add(os.stat(f"/proc/{pid}/ns/net").st_ino)
        except OSError:
            continue
    return found
