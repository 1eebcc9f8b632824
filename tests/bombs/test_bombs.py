"""Bombs against a real daemon with little memory: it refuses them in about their length, and serves others meanwhile."""

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.bombs.bodies import BOMBS, NODES_MAX, Bomb
from tests.support.daemon import Daemon
from tests.support.servers import wait_until

#: Long enough that a daemon that builds what it refuses would take a gigabyte, and short enough for a slow machine.
SIZE: Final = 20_000_000
#: Address space: of it a fresh daemon has less than the half, most of it reserved and never touched.
MEMORY_MAX: Final = 1_500_000_000
#: What a refused body may take beside itself: the body as it arrives, in one piece, and one text with wide characters made of it.
TIMES: Final = 7
#: What does not depend on the body: the allocator's habits, one slice of nodes, the nodes of the largest workflow.
SPARE: Final = 150_000_000

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with its own broker and little memory."""
    directory = Path("/tmp") / f"bombs-{os.getpid()}"
    directory.mkdir()
    try:
        with (
            EmbeddedServer(directory) as server,
            Daemon(
                ["--broker", server.url, "--drain-timeout-s", "0.1", "--socket-mode", "0666"],
                directory=directory,
                memory_max=MEMORY_MAX,
            ) as daemon,
        ):
            directory.chmod(0o755)
            yield daemon
    finally:
        subprocess.run(["rm", "-rf", str(directory)], check=True)


def _ask(daemon: Daemon, body: bytes, target: str = "/v1/workflows", /, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("localhost", timeout=100)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(100)
    connection.sock.connect(str(daemon.socket_path))
    try:
        connection.request("POST", target, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def _peak(daemon: Daemon) -> int:
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def _forget_peak(daemon: Daemon) -> int:
    """Begin to count anew; return what the process has."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")
    return _peak(daemon)


SMALL: Final = json.dumps({"nodes": [{"name": "one", "task": "add"}]}).encode()


@pytest.mark.long
@pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("bomb", BOMBS, ids=[bomb.name for bomb in BOMBS])
def test_bomb_costs_about_its_length(bomb: Bomb, is_compressed: bool, daemon: Daemon) -> None:
    """A body is refused in words about it, takes a few times its length of memory, and others are served meanwhile."""
    body = bomb.make(SIZE)
    sent = gzip.compress(body, 1) if is_compressed else body
    headers = {"Content-Encoding": "gzip"} if is_compressed else {}
    before = _forget_peak(daemon)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_ask, daemon, sent, **headers)
        others = 0
        while not asked.done() or not others:
            assert _ask(daemon, SMALL)[0] == 201
            others += 1
        status, problem = asked.result()
    assert status in bomb.statuses, problem
    assert status == 201 or bomb.words in problem["detail"], problem
    assert len(json.dumps(problem)) < 10_000
    grown = _peak(daemon) - before
    assert grown < TIMES * len(body) + SPARE, f"{grown / 1e6:.0f} MB for {len(body) / 1e6:.1f} MB"
    assert daemon.is_alive


@pytest.mark.parametrize(
    ("target", "head", "piece", "tail"),
    [
        ("/v1/workflows/@latest/hold", b'{"nodes":[', b'"a",', b'"a"]}'),
        ("/v1/workflows/@latest/hold", b'{"why":"', b"x", b'"}'),
        ("/v1/workflows/@latest/hold", b'{"a":{', b'"a":1,', b'"b":1}}'),
        ("/v1/imports", b'{"export":1,"nodes":[', b"{},", b"{}]}"),
        ("/v1/imports", b'{"export":1,"journal":[', b"1,", b"1]}"),
        ("/v1/imports", b'{"export":1,"definition":{"nodes":[', b'{"join":true},', b'{"join":true}]}}'),
    ],
)
def test_bomb_for_other_routes(target: str, head: bytes, piece: bytes, tail: bytes, daemon: Daemon) -> None:
    """Bodies of verbs and exports have bounds of the same kind."""
    body = head + piece * (SIZE // len(piece)) + tail
    before = _forget_peak(daemon)
    status, problem = _ask(daemon, body, target)
    assert status in (400, 422), problem
    assert _peak(daemon) - before < TIMES * len(body) + SPARE
    assert daemon.is_alive


def test_one_node_too_many_is_found_by_its_number(daemon: Daemon) -> None:
    """Real nodes are counted without being read, and the limit is named."""
    nodes = [b'{"name":"n%d","task":"add","args":["%d",[1,2]]}' % (number, number) for number in range(NODES_MAX + 1)]
    status, problem = _ask(daemon, b'{"nodes":[' + b",".join(nodes) + b"]}")
    assert (status, problem["code"]) == (422, "too-many-nodes")
    assert str(NODES_MAX) in problem["detail"]


#: Takes some seconds to be counted: each of its lists is a step.
def _slow(size: int) -> bytes:
    return b'{"nodes":[{"name":"a","task":"add","args":[' + b"[[[[]]]],[[[]]],0,0,0,0," * (size // 24) + b"0]}]}"


_AS_ANOTHER: Final = """
import http.client, os, socket, sys
os.setgroups([]); os.setgid(1); os.setuid(1)
connection = http.client.HTTPConnection("localhost", timeout=60)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(60)
connection.sock.connect(sys.argv[1])
body = b'{"nodes":[{"name":"one","task":"add"}],"payload":"' + b"x" * 40000 + b'"}'
connection.request("POST", "/v1/workflows", body, {"Content-Type": "application/json"})
print(connection.getresponse().status)
"""

_AND_GO: Final = """
import os, socket, sys
os.setgroups([]); os.setgid(2); os.setuid(2)
body = sys.stdin.buffer.read()
head = "POST /v1/workflows HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\nContent-Length: "
for number in range(2):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.sendall(f"{head}{len(body)}\\r\\n\\r\\n".encode() + body)
    client.close()
"""


@only_root
def test_clients_that_go_leave_no_work(daemon: Daemon) -> None:
    """Long bodies of one user whose clients have gone keep another's longer body from nothing."""
    for _ in range(2):
        command = [sys.executable, "-c", _AND_GO, str(daemon.socket_path)]
        subprocess.run(command, input=_slow(8_000_000), check=True, timeout=60)
        done = subprocess.run(
            [sys.executable, "-c", _AS_ANOTHER, str(daemon.socket_path)], capture_output=True, text=True, timeout=90, check=False
        )
        assert done.stdout == "201\n", done.stderr


@pytest.mark.long
def test_stopping_waits_for_no_decoding(short_tmp: Path, redis_server: EmbeddedServer) -> None:
    """SIGTERM while long bodies are decoded: they are answered with 503, or given up, and the process ends as soon as always."""
    arguments = ["--broker", redis_server.url, "--drain-timeout-s", "0.1"]
    with Daemon(arguments, directory=short_tmp, memory_max=MEMORY_MAX) as daemon, ThreadPoolExecutor(2) as pool:
        body = _slow(8_000_000)
        before = _threads(daemon)
        asked = [pool.submit(_ask_or_not, daemon, body) for _ in range(2)]
        wait_until(lambda: _threads(daemon) > before)
        begun = time.monotonic()
        daemon.signal(signal.SIGTERM, timeout_s=20)
        assert time.monotonic() - begun < 20
        assert all(each.result() in (0, 400, 422, 503) for each in asked)


def _ask_or_not(daemon: Daemon, body: bytes) -> int:
    try:
        return _ask(daemon, body)[0]
    except (OSError, http.client.HTTPException):
        return 0


def _threads(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))
