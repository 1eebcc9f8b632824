"""Clients in sockets that systemd holds are told why the daemon cannot start, and do not have it started again for nothing."""

import select
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dyrygentd.client.sync import Client
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import RemoteError
from tests.support.activation import Service, listening_tcp, listening_unix
from tests.support.servers import wait_until

WRONG = "lissten = 'x'\n"


@pytest.fixture
def wrong(short_tmp: Path) -> Path:
    """A configuration with a wrong key."""
    path = short_tmp / "wrong.toml"
    path.write_text(WRONG)
    return path


def _waiting(path: Path) -> int:
    """Count connections that nobody has taken: besides the listening socket, their ends of this side have its path, too."""
    lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    return sum(line.endswith(f" {path}") for line in lines) - 1


def _failure(service: Service, path: Path, *, clients: int = 1) -> tuple[RemoteError, int]:
    """Let clients ask while nobody serves, start the daemon, and return what they are told and its exit status."""
    told: list[RemoteError] = []

    def ask() -> None:
        with Client(path, timeout_s=60) as client, pytest.raises(RemoteError) as caught:
            client.list()
        told.append(caught.value)

    before = _waiting(path)
    asking = [threading.Thread(target=ask) for _ in range(clients)]
    for each in asking:
        each.start()
    # Whoever comes after it has failed waits for the next start.
    wait_until(lambda: _waiting(path) == before + clients)
    service.launch()
    status = service.wait()
    for each in asking:
        each.join(30)
    assert len(told) == clients
    return told[0], status


def test_wrong_configuration_is_told(short_tmp: Path, wrong: Path, redis_server: EmbeddedServer) -> None:
    """Clients learn the key, the file and what was meant; the socket is empty then, and the next start has clients as always."""
    path = short_tmp / "api.sock"
    sockets = [listening_unix(path)]
    with Service(["--config", str(wrong)], directory=short_tmp, sockets=sockets) as service:
        error, status = _failure(service, path, clients=3)
        assert status == 2
        assert error.code == "not-started"
        assert f"the daemon cannot start: key 'lissten' in '{wrong}' is unknown" in str(error)
        assert "did you mean 'listen'" in error.next_step
        assert select.select(sockets, [], [], 0)[0] == []
        wrong.write_text(f"broker = '{redis_server.url}'\ndrain_timeout_s = 0.1\n")
        service.start()
        with Client(path) as client:
            assert client.list() == []


def test_wrong_flag_is_told(short_tmp: Path) -> None:
    """So is what is wrong in `ExecStart=`."""
    path = short_tmp / "api.sock"
    with Service(["--lissten", "x"], directory=short_tmp, sockets=[listening_unix(path)]) as service:
        error, status = _failure(service, path)
        assert status == 2
        assert "--lissten" in str(error)
        assert "ExecStart" in error.next_step


@pytest.mark.parametrize("what", ["app", "address"])
def test_what_may_pass_is_tried_again(short_tmp: Path, redis_server: EmbeddedServer, what: str) -> None:
    """A module that is not there and an address that is taken end with 1, after which systemd starts the service again."""
    path = short_tmp / "api.sock"
    taken = listening_tcp()
    listen = "{}:{}".format(*taken.getsockname())
    wrong = ["--app", "no.such.module:app"] if what == "app" else ["--broker", redis_server.url, "--listen", listen]
    with Service(wrong, directory=short_tmp, sockets=[listening_unix(path)]) as service:
        error, status = _failure(service, path)
    taken.close()
    assert status == 1
    assert ("no.such.module" if what == "app" else f"cannot listen on '{listen}'") in str(error)


def test_strangers_learn_nothing_of_the_configuration(short_tmp: Path, wrong: Path) -> None:
    """On TCP, where anybody may ask, the answer is that the daemon cannot start."""
    tcp = listening_tcp()
    host, port = tcp.getsockname()
    told: list[urllib.error.HTTPError] = []

    def ask() -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=60)
        told.append(caught.value)

    asking = threading.Thread(target=ask)
    asking.start()
    with Service(["--config", str(wrong)], directory=short_tmp, sockets=[listening_unix(short_tmp / "a.sock"), tcp]) as service:
        select.select([tcp], [], [], 30)
        service.launch()
        assert service.wait() == 2
        asking.join(30)
    body = told[0].read().decode()
    told[0].close()
    assert told[0].code == 503
    assert "cannot start" in body
    assert "lissten" not in body


def test_silent_client_is_let_go(short_tmp: Path, wrong: Path) -> None:
    """One that says nothing holds up neither the end nor the others."""
    path = short_tmp / "api.sock"
    with (
        Service(["--config", str(wrong)], directory=short_tmp, sockets=[listening_unix(path)]) as service,
        socket.socket(socket.AF_UNIX) as silent,
    ):
        silent.connect(str(path))
        error, status = _failure(service, path)
        assert (status, error.code) == (2, "not-started")
        assert silent.recv(1) == b""
