"""Clients that mean harm, or are broken: none of them keeps the daemon or another client from its work."""

import asyncio
import gzip
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from dyrygentd import __version__, wire
from dyrygentd.client import connection
from dyrygentd.client.aio import AsyncClient
from dyrygentd.client.sync import Client
from dyrygentd.core.bounds import LABELS_MAX, NAME_LENGTH_MAX
from dyrygentd.http import guard as guard_module
from dyrygentd.http.guard import Guard
from dyrygentd.http.limits import ConnectionLimits, HttpLimits
from tests.http.support import Daemon
from tests.support.servers import wait_until


@pytest.fixture
def guarded(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon with few places and little patience."""
    limits = HttpLimits(requests_max=4, waits_max=2, body_timeout_s=2.0, body_bytes_max=4_000_000)
    guard = Guard(ConnectionLimits(connections_max=20, head_timeout_s=0.5, write_timeout_s=1.0))
    with Daemon(short_tmp / "d.sock", limits=limits, guard=guard) as daemon:
        yield daemon


@pytest.fixture
def full(short_tmp: Path, clients: ExitStack) -> Iterator[tuple[Daemon, list[socket.socket]]]:
    """A daemon without a place, and the clients that have them all."""
    limits = HttpLimits(body_timeout_s=60.0, body_silence_s=60.0)
    waiting = b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    with Daemon(short_tmp / "d.sock", limits=limits, guard=Guard(ConnectionLimits(connections_max=20, user_share=2.0))) as daemon:
        # Some places are kept for root.
        places = 20 if os.geteuid() == 0 else int(20 * (1 - guard_module._RESERVED_SHARE))
        busy = [_connect(daemon, clients, waiting) for _ in range(places)]
        wait_until(lambda: daemon.http_statistics().bodies_bytes == places)
        yield daemon, busy


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Connections that are closed at the end."""
    with ExitStack() as stack:
        yield stack


def _connect(daemon: Daemon, clients: ExitStack, data: bytes = b"") -> socket.socket:
    client = clients.enter_context(socket.socket(socket.AF_UNIX))
    client.settimeout(10)
    client.connect(str(daemon.path))
    if data:
        client.sendall(data)
    return client


def _is_closed(client: socket.socket) -> bool:
    """Wait for the end of a connection, whatever is said before."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def _is_served(daemon: Daemon) -> bool:
    return daemon.ask("GET", "/healthz").status == 200


@pytest.mark.long
@pytest.mark.parametrize("beginning", [b"", b"GET /healthz HTT", b"POST /v1/workflows HTTP/1.1\r\nHost: x\r\nA: "])
def test_slow_head_is_closed(beginning: bytes, guarded: Daemon, clients: ExitStack) -> None:
    """A head that does not come to its end, or never begins, gives its place up; so does a second one on the same connection."""
    assert _is_closed(_connect(guarded, clients, beginning))
    again = _connect(guarded, clients, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert again.recv(65536).startswith(b"HTTP/1.1 200")
    again.sendall(b"GET /he")
    assert _is_closed(again)
    assert guarded.guard.statistics().refused["slow head"] == 2
    assert _is_served(guarded)


_GET: bytes = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_POST: bytes = b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.long
@pytest.mark.parametrize(
    "first",
    [
        _GET,
        _GET * 3,
        _POST + b"Content-Length: 2\r\n\r\n{}",
        _POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["one", "three", "with a body", "with chunks"],
)
@pytest.mark.parametrize("second", [b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: "])
@pytest.mark.parametrize("cut", [None, -1, 3])
def test_half_a_head_behind_a_request(first: bytes, second: bytes, cut: int | None, guarded: Daemon, clients: ExitStack) -> None:
    """It gives its place up as well, wherever the packets are cut, and the requests before it are answered."""
    client = _connect(guarded, clients)
    client.sendall(first[:cut] if cut else first + second)
    if cut:
        # So that it is a packet of its own: there is nothing to see from here.
        time.sleep(0.05)
        client.sendall(first[cut:] + second)
    answers = b""
    with suppress(ConnectionError):
        while read := client.recv(65536):
            answers += read
    assert answers.count(b"HTTP/1.1 ") == first.count(b"HTTP/1.1")
    assert guarded.guard.statistics().refused["slow head"] == 1


def test_many_half_heads_at_once(short_tmp: Path, clients: ExitStack) -> None:
    """Sent with the connection, as whoever wants to take all places does it: every one of them ends."""
    guard = Guard(ConnectionLimits(connections_max=1000, head_timeout_s=0.5))
    with Daemon(short_tmp / "d.sock", guard=guard) as daemon:
        many = [_connect(daemon, clients, (_GET if number % 2 else b"") + b"GET / HTTP/1.1\r\nA") for number in range(300)]
        assert all(_is_closed(client) for client in many)
        assert guard.statistics().refused["slow head"] == 300
        assert _is_served(daemon)


@pytest.mark.parametrize("ending", [b"", b"\r\n"], ids=["exact", "with a blank line"])
def test_kept_connections_are_no_slow_heads(ending: bytes, guarded: Daemon, clients: ExitStack) -> None:
    """Whoever has ended their request may keep the connection, whatever was in its body."""
    kept = []
    for body in (b"", b"{}", b'{"a": "\r\n\r\n"}', b"x" * 70_000):
        client = _connect(guarded, clients, _POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + ending)
        assert client.recv(65536).startswith(b"HTTP/1.1 4")
        kept.append(client)
    # A slow head that began later has ended, so these were looked at.
    assert _is_closed(_connect(guarded, clients, b"G"))
    assert guarded.guard.statistics().refused["slow head"] == 1
    for client in kept:
        client.sendall(_GET)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("nonsense", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"])
def test_what_is_no_http_is_answered_with_a_problem_document(nonsense: bytes, daemon: Daemon, clients: ExitStack) -> None:
    """Every error is one, and tells what to do."""
    head, _, body = _connect(daemon, clients, nonsense).recv(65536).partition(b"\r\n\r\n")
    assert head.partition(b" ")[2].startswith(b"400 Bad Request")
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["code"], problem["status"]) == ("no-http", 400)
    assert problem["detail"].startswith("what came is no HTTP")


def test_slow_bodies_take_no_places(guarded: Daemon, clients: ExitStack) -> None:
    """Bodies that never end, more of them than there are places, keep nobody from being served."""
    head = b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    slow = [_connect(guarded, clients, head) for _ in range(10)]
    for _ in range(5):
        assert guarded.ask("GET", "/v1/workflows").status == 200
        guarded.submit()
    assert [client.recv(100).split()[1] for client in slow] == [b"408"] * 10


@pytest.mark.long
def test_silent_body_is_given_up_early(short_tmp: Path, clients: ExitStack) -> None:
    """A body that stops on its way is not waited for as long as one that goes on arriving."""
    limits = HttpLimits(body_timeout_s=600.0, body_silence_s=0.3)
    head = b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    with Daemon(short_tmp / "d.sock", limits=limits) as daemon:
        answer = _connect(daemon, clients, head).recv(4096)
        assert answer.split()[1] == b"408"
        assert b"1 bytes had arrived" in answer
        # One that goes on, however slowly, is waited for.
        slow = _connect(daemon, clients, head)
        for _ in range(10):
            time.sleep(0.1)
            slow.sendall(b" ")
        slow.sendall(b" " * 980 + b"]" * 9)
        assert slow.recv(4096).split()[1] == b"400"


@pytest.mark.parametrize("is_async", [False, True], ids=["Client", "AsyncClient"])
def test_clients_come_again_when_the_daemon_is_full(
    is_async: bool, full: tuple[Daemon, list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both clients take the refusal for what it is, with a body on the way, and are served as soon as there is a place."""
    monkeypatch.setattr(connection, "BUSY_PAUSES_S", (0.05,) * 1000)
    daemon, busy = full
    document = {"nodes": [{"name": "one", "task": "add"}], "payload": "x" * 2_000_000}

    def submit() -> str:
        if not is_async:
            with Client(daemon.path) as client:
                return client.submit(document).id

        async def submit_async() -> str:
            async with AsyncClient(daemon.path) as client:
                return (await client.submit(document)).id

        return asyncio.run(submit_async())

    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(submit)
        wait_until(lambda: daemon.guard.statistics().refused["full"] >= 3 or submitted.done())
        for client in busy:
            client.close()
        assert daemon.finish(submitted.result(timeout=30)) == "succeeded"


@pytest.mark.long
def test_refusal_of_a_full_daemon_is_a_problem_document(full: tuple[Daemon, list[socket.socket]], clients: ExitStack) -> None:
    """Who is turned away before a request was read is told the same as everybody else: code, limit, next step, version."""
    head, _, body = _connect(full[0], clients).recv(65536).partition(b"\r\n\r\n")
    assert f"{wire.VERSION_HEADER}: {__version__}".encode() in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"], problem["facts"]["maximum"]) == (503, "too-busy", 20)
    assert problem["next_step"]


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"nodes": [{"task": "add"}] * 50}, 201),
        ({"nodes": [{"task": "add"}] * 51}, 422),
        ({"nodes": [{"task": "add", "name": "n" * NAME_LENGTH_MAX}]}, 201),
        ({"nodes": [{"task": "add", "name": "n" * (NAME_LENGTH_MAX + 1)}]}, 400),
        ({"nodes": [{"task": "add"}], "labels": {f"l{number}": "v" for number in range(LABELS_MAX)}}, 201),
        ({"nodes": [{"task": "add"}], "labels": {f"l{number}": "v" for number in range(LABELS_MAX + 1)}}, 400),
        ({"nodes": [{"task": "add"}], "name": "ä" * NAME_LENGTH_MAX}, 201),
        ({"nodes": [{"task": "add"}], "name": "ä" * (NAME_LENGTH_MAX + 1)}, 400),
    ],
)
def test_limits_are_met_exactly(document: dict[str, object], status: int, short_tmp: Path) -> None:
    """What a limit allows is taken, one more is refused."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(nodes_max=50)) as daemon:
        answer = daemon.ask("POST", "/v1/workflows", document)
        assert answer.status == status, answer


def test_unread_answers_are_given_up(guarded: Daemon, clients: ExitStack) -> None:
    """Clients that ask and do not read are cut off, and all that they held is given back."""
    guarded.submit(*({"name": f"n{number}", "task": "add", "payload": "x" * 500} for number in range(900)))
    before = _fds()
    request = b"GET /v1/definition.schema.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    greedy = [_connect(guarded, clients) for _ in range(8)]
    for client in greedy:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(request * 60)
    wait_until(lambda: guarded.guard.statistics().refused["unread answer"] == 8, message=lambda: str(guarded.guard.statistics()))
    assert _is_served(guarded)
    # The clients' own ends are still open; the daemon's, in this process too, are not.
    wait_until(lambda: _fds() <= before + len(greedy) + 2, message=lambda: f"{_fds()} files, {before} before")


def test_stuck_reader_of_events_is_given_up(short_tmp: Path, clients: ExitStack) -> None:
    """A client that follows a workflow and does not read is cut off in time, with what waited for it, and slows nobody down."""
    guard = Guard(ConnectionLimits(write_timeout_s=0.5))
    with Daemon(short_tmp / "d.sock", holds=True, guard=guard) as daemon:
        workflow_id = daemon.submit(labels={f"label{number}": "x" * 150 for number in range(50)})
        stuck = clients.enter_context(socket.socket(socket.AF_UNIX))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(str(daemon.path))
        stuck.sendall(f"GET /v1/workflows/{workflow_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: daemon.http_statistics().streams == 1)
        changes = 0
        while not guard.statistics().refused["unread answer"]:
            answer = daemon.ask("POST", f"/v1/workflows/{workflow_id}/set-priority", {"priority": changes % 100 + 1})
            assert answer.status == 200
            changes += 1
            assert changes < 5000, guard.statistics()
        wait_until(lambda: daemon.http_statistics().streams == 0)


@pytest.mark.long
def test_connections_are_bounded(guarded: Daemon, clients: ExitStack) -> None:
    """Beyond the bound the oldest unused connections make room; those that are used stay, and the rest is told to come again."""
    # Whoever runs the tests may have all of them.
    guarded.guard.limits = replace(guarded.guard.limits, user_share=2.0)
    idle = [_connect(guarded, clients) for _ in range(20)]
    assert _is_served(guarded)
    assert _is_closed(idle[0])
    assert guarded.guard.statistics().connections <= 20
    waiting = b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    busy = [_connect(guarded, clients, waiting) for _ in range(20)]
    assert len(busy) == 20
    wait_until(lambda: _turned_away(guarded, clients), message="nobody was turned away")
    assert guarded.guard.statistics().refused["full"]
    # Their time is over after a while.
    wait_until(lambda: _connect_and_ask(guarded, clients).startswith(b"HTTP/1.1 200"))


def _turned_away(daemon: Daemon, clients: ExitStack) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(0.2)
        client.connect(str(daemon.path))
        try:
            answer = client.recv(4096)
        except TimeoutError:
            return False
    return answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer


def _connect_and_ask(daemon: Daemon, clients: ExitStack) -> bytes:
    try:
        return _connect(daemon, clients, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").recv(4096)
    except ConnectionError:
        return b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_one_user_leaves_places_to_others(guarded: Daemon) -> None:
    """A user who is not root gets three quarters of the connections, and is told so; root is still served."""
    os.chmod(guarded.path, 0o666)
    os.chmod(guarded.path.parent, 0o755)
    script = f"""
import os, socket
os.setgid(65534); os.setuid(65534)
clients = []
request = b"POST /v1/workflows HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 1000\\r\\n\\r\\n{{"
for number in range(18):
    client = socket.socket(socket.AF_UNIX); client.settimeout(10); client.connect({str(guarded.path)!r})
    try:
        client.sendall(request)
    except OSError:
        pass
    clients.append(client)
    try:
        client.settimeout(0.3)
        print(client.recv(100).split()[1].decode())
    except TimeoutError:
        print("held")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    answers = done.stdout.split()
    assert answers.count("held") == 15
    assert answers[15:] == ["429"] * 3
    assert guarded.guard.statistics().refused["client"] == 3
    assert _is_served(guarded)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_strangers_cannot_connect(guarded: Daemon) -> None:
    """Whoever is neither the owner nor of the group is refused by the kernel."""
    os.chmod(guarded.path.parent, 0o755)
    become = "import os, socket; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    script = f"{become}; socket.socket(socket.AF_UNIX).connect({str(guarded.path)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "PermissionError" in done.stderr


def test_compressed_bomb_is_refused(guarded: Daemon) -> None:
    """A small body that would become a gigabyte is refused, and does not take the memory first."""
    bomb = gzip.compress(bytes(200_000_000), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = guarded.ask("POST", "/v1/workflows", bomb, {"Content-Encoding": "gzip"})
    assert answer.status in (400, 413), answer
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert _is_served(guarded)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"nodes":' * 50_000,
        b'{"name": "' + b"x" * 3_000_000 + b'"}',
        b'{"nodes": [{"name": "' + b"n" * 100_000 + b'", "task": "t"}]}',
        b'{"nodes": [{"name": "a", "task": "t", "after": ["' + b"z" * 500_000 + b'"]}]}',
        b'{"nodes": [{"name": "a", "task": "t", "args": [NaN]}]}',
        b'\xff\xfe{"nodes": []}',
        json.dumps({"nodes": [{"name": "a", "task": "t"}], "labels": {f"l{n}": "v" for n in range(10_000)}}).encode(),
    ],
    ids=[
        "deep list",
        "deep object",
        "long name",
        "long node name",
        "long dependency",
        "NaN",
        "no UTF-8",
        "labels",
    ],
)
def test_monstrous_body_is_refused_in_few_words(body: bytes, guarded: Daemon) -> None:
    """What is too deep, too long or no JSON is a problem document that does not repeat it all."""
    answer = guarded.ask("POST", "/v1/workflows", body)
    assert 400 <= answer.status < 500, answer.status
    assert len(answer.body) < 5000
    assert _is_served(guarded)


def test_noise_is_survived(guarded: Daemon, clients: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are no HTTP, by seed: each connection ends, nothing is logged as an error, and the next client is served."""
    chance = Random(1)
    pieces = [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"POST /v1/workflows HTTP/1.1\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Host: localhost\r\n",
        b"X: " + b"a" * 9000 + b"\r\n",
        b"\r\n",
        b"\0\0\0",
        b"ffffffffffffffff\r\n",
        b"GET /" + b"u" * 9000 + b" HTTP/1.1\r\n",
        b"GET /healthz\r\n",
    ]
    for _ in range(200):
        noise = b"".join(chance.choices(pieces, k=chance.randrange(1, 6)))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(guarded.path))
            try:
                client.sendall(noise)
                if chance.random() < 0.5:
                    client.shutdown(socket.SHUT_WR)
                    _is_closed(client)
            except OSError:
                pass
    assert _is_served(guarded)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_pipelined_requests_are_answered(guarded: Daemon, clients: ExitStack) -> None:
    """Two thousand requests in one go are answered one by one, without holding up another client."""
    client = _connect(guarded, clients)
    count, answers = 2000, 0
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(count // 100):
        client.sendall(request * 100)
        assert _is_served(guarded)
        while answers % 100 or not answers or answers < 100 * (_ + 1):
            answers += client.recv(65536).count(b"HTTP/1.1 200")
    assert answers == count
