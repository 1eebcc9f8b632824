"""Host and Origin headers on TCP: no page of a stranger reads what the daemon shows, on whatever address it listens."""

import socket
from pathlib import Path

import anyio
import pytest

from dyrygentd.http.access import Access
from dyrygentd.http.app import AROUND
from dyrygentd.http.hosts import own_names
from tests.http.support import Daemon

_EVIL = "evil.example"


def _lan_address(family: socket.AddressFamily) -> str:
    """Return an address of this machine that is not loopback; no packet is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1" if family is socket.AF_INET else "2001:db8::1", 9))
        except OSError:
            pytest.skip("NOT RUN: this machine has no address but loopback")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(("listen", "address"), [("[::]:0", "127.0.0.1"), ("[::]:0", "::1"), ("0.0.0.0:0", "127.0.0.1")])
def test_loopback_on_every_listener(short_tmp: Path, listen: str, address: str) -> None:
    """A socket for both versions of IP shows IPv4 as an IPv6 address, and is loopback all the same."""
    if ":" in listen.rpartition(":")[0] and not socket.has_dualstack_ipv6():
        pytest.skip("NOT RUN: this machine has no IPv6")
    with Daemon(short_tmp / "d.sock", listen=listen, own_names=["ops1"]) as daemon:
        assert daemon.ask_tcp("GET", "/v1/workflows", {"Host": "localhost:9465"}, address=address).status == 200
        for headers, status in (
            ({"Host": _EVIL}, 421),
            ({"Host": "ops1"}, 421),
            ({"Host": "10.0.0.1"}, 421),
            ({"Host": "localhost", "Origin": f"http://{_EVIL}"}, 403),
            ({"Host": "localhost", "Origin": "http://localhost:3000"}, 200),
            ({"Host": "localhost", "Origin": "null"}, 403),
        ):
            assert daemon.ask_tcp("GET", "/v1/workflows", headers, address=address).status == status, headers


def test_another_address(short_tmp: Path) -> None:
    """There this machine's names and addresses are taken, and what `hosts` adds, also after SIGHUP."""
    address = _lan_address(socket.AF_INET)
    with Daemon(short_tmp / "d.sock", listen="0.0.0.0:0", own_names=["ops1", "ops1.lan"]) as daemon:

        def status(**headers: str) -> int:
            return daemon.ask_tcp("GET", "/v1/workflows", headers, address=address).status

        assert [status(Host=host) for host in ("ops1:9465", "OPS1.lan.", address, f"{address}:80", "[2001:db8::1]")] == [200] * 5
        assert [status(Host=host) for host in (_EVIL, "ops1.evil.example", "localhost", "")] == [421] * 4
        assert status(Host="ops1", Origin=f"http://{_EVIL}") == 403
        # Any page may come from another address.
        assert status(Host=address, Origin="http://10.9.9.9") == 403
        assert status(Host=address, Origin=f"http://{address}:9465") == 200
        assert status(Host="ops1", Origin="http://ops1.lan") == 200
        daemon.app[AROUND].access = daemon.public[AROUND].access = Access(hosts=["Runs.example"])
        assert status(Host="runs.example", Origin="https://runs.example") == 200
        assert status(Host=_EVIL) == 421
        daemon.public[AROUND].access = Access(hosts=["*"])
        assert status(Host=_EVIL, Origin=f"http://{_EVIL}") == 200


def test_without_a_host(daemon: Daemon) -> None:
    """Browsers always send one; old probes of load balancers do not, and nobody asks a name service about it."""
    with socket.create_connection(("127.0.0.1", daemon.tcp_port), timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.0 200")


def test_own_names() -> None:
    """This machine's, and the one that it was told to listen on."""
    names = anyio.run(own_names, "Ops1.lan:9465")
    assert {"ops1.lan", socket.gethostname().lower()} <= names
