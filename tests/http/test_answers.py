"""What long answers and the reading of whole workflows may cost the others."""

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from dyrygentd import AsyncClient, Client, __version__, wire
from dyrygentd.http.answers import COMPRESSED_FROM_BYTES, LONG_BYTES, Gone, ReadingTurns
from dyrygentd.http.limits import HttpLimits
from tests.http.support import Daemon
from tests.support.servers import wait_until


@pytest.mark.anyio
async def test_turns_are_shared_between_users() -> None:
    """Whoever asks once waits for no more than what the greedy one has under way; who has gone reads nothing."""
    turns, most = ReadingTurns(3, 2), 0
    order: list[int | str | None] = []
    running: list[int | None] = []
    let_go = anyio.Event()

    async def read(user: int | None, *, is_there: bool = True) -> None:
        nonlocal most
        try:
            async with turns.of(user, lambda: is_there):
                order.append(user)
                running.append(user)
                most = max(most, len(running))
                assert running.count(user) <= (3 if user == 0 else 2)
                await let_go.wait()
                await anyio.lowlevel.checkpoint()
                running.remove(user)
        except Gone:
            order.append("gone")

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(read, 1000)
        await anyio.wait_all_tasks_blocked()
        for user in (2000, 2000, None):
            tasks.start_soon(read, user)
        await anyio.wait_all_tasks_blocked()
        assert order == [1000, 1000, 2000]
        with anyio.move_on_after(0):
            await read(3000)
        async with anyio.create_task_group() as gone:
            gone.start_soon(lambda: read(0, is_there=False))
            await anyio.wait_all_tasks_blocked()
            let_go.set()
    assert most == 3
    assert sorted(map(str, order)) == sorted(["1000"] * 20 + ["2000"] * 2 + ["None", "gone"])
    assert max(order.index(2000), order.index(None)) < 8
    async with turns.of(0, lambda: True), turns.of(0, lambda: True), turns.of(0, lambda: True):
        pass


class _Counts:
    """How many workflows are read whole, and how many at one time."""

    loads = 0
    under_way = 0
    most = 0


def _ask_all(daemon: Daemon, targets: list[str]) -> list[int]:
    with ExitStack() as exits:
        sockets = [exits.enter_context(_asking(daemon, target)) for target in targets]
        return [_status(connection) for connection in sockets]


@contextmanager
def _asking(daemon: Daemon, target: str) -> Iterator[socket.socket]:
    """Ask, and take no more of the answer than one is told to."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(str(daemon.path))
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        yield connection


def _status(connection: socket.socket) -> int:
    return int(connection.recv(12)[9:12])


def test_few_workflows_are_read_at_one_time(short_tmp: Path) -> None:
    """A hundred who ask for nodes of what has finished read it once; definitions are read by a few at a time."""
    with Daemon(short_tmp / "d.sock") as daemon:
        workflow_id = daemon.submit()
        wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow_id}").json["state"] == "succeeded")
        store = daemon.store
        counting = _Counts()
        store_load = store.load

        async def load(wanted: str, *, to_reopen: bool = False) -> Any:
            counting.loads += 1
            counting.under_way += 1
            counting.most = max(counting.most, counting.under_way)
            try:
                await anyio.sleep(0.02)
                return await store_load(wanted, to_reopen=to_reopen)
            finally:
                counting.under_way -= 1

        store.load = load  # type: ignore[method-assign,assignment]
        assert set(_ask_all(daemon, [f"/v1/workflows/{workflow_id}/nodes"] * 60)) == {200}
        assert counting.loads == 1
        assert set(_ask_all(daemon, [f"/v1/workflows/{workflow_id}/definition"] * 40)) == {200}
        assert counting.loads == 41
        assert counting.most <= 4


def test_answers_that_nobody_takes_are_counted(short_tmp: Path) -> None:
    """Long answers count until they are taken: beyond the bound others are refused, and short answers go on."""
    limits = HttpLimits(answers_bytes_max=9 * LONG_BYTES)
    with Daemon(short_tmp / "d.sock", limits=limits) as daemon:
        # Two are within the share of one user, a third is beyond what all may take.
        long = "x" * (3 * LONG_BYTES)
        body = json.dumps({"nodes": [{"task": "tasks.a", "args": [long]}]}).encode()
        workflow_id = daemon.ask("POST", "/v1/workflows", body).json["id"]
        target = f"/v1/workflows/{workflow_id}/definition"
        with ExitStack() as readers:
            for _ in range(2):
                # The first bytes tell that the answer counts, and are taken, since whoever asks next must not come before it.
                assert _status(readers.enter_context(_asking(daemon, target))) == 200
            refused = daemon.ask("GET", target)
            assert refused.status in (429, 503)
            assert (refused.json["code"] in ("too-busy", "too-many-of-yours"), "bytes of answers" in refused.json["detail"]) == (
                True,
                True,
            )
            assert daemon.ask("GET", f"/v1/workflows/{workflow_id}").status == 200
        wait_until(lambda: daemon.ask("GET", target).status == 200)


def test_long_answers_are_compressed_for_who_takes_that(short_tmp: Path) -> None:
    """A browser gets gzip, on the socket and on TCP, whatever the length; the bytes are those that others get as they are."""
    with Daemon(short_tmp / "d.sock", holds=True) as daemon:
        long = daemon.submit(
            {"name": "a", "task": "add"}, *({"task": "add", "after": ["a"], "section": "x" * 90} for _ in range(300))
        )
        for limit in (20, 300):
            plain = daemon.ask("GET", target := f"/v1/workflows/{long}/nodes?limit={limit}")
            assert "Content-Encoding" not in plain.headers
            assert plain.headers["Vary"] == "Accept-Encoding"
            for ask in (daemon.ask, daemon.ask_tcp):
                packed = ask("GET", target, headers={"Accept-Encoding": "deflate, gzip"})
                assert packed.headers["Content-Encoding"] == "gzip"
                assert packed.headers["Content-Length"] == str(len(packed.body))
                assert len(packed.body) < len(plain.body) / 3
                assert gzip.decompress(packed.body) == plain.body
            refusing = daemon.ask("GET", target, headers={"Accept-Encoding": "gzip;q=0, deflate"})
            assert (refusing.body, "Content-Encoding" in refusing.headers) == (plain.body, False)
        # That long it is a thread's work.
        assert len(plain.body) > 32 * 1024
        short = daemon.ask("GET", f"/v1/workflows/{long}", headers={"Accept-Encoding": "gzip"})
        assert short.json["id"] == long
        assert len(short.body) < COMPRESSED_FROM_BYTES


def test_our_own_clients_want_it_as_it_is(short_tmp: Path) -> None:
    """On one machine compressing wins nothing, and costs the daemon its time."""
    told: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        told.append(request.headers.get("Accept-Encoding", "identity"))
        return web.json_response({"workflows": []}, headers={wire.VERSION_HEADER: __version__})

    async def ask() -> None:
        app = web.Application()
        app.router.add_get("/{any:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(path)).start()
            async with AsyncClient(path) as client:
                await client.list()
            with Client(path) as client:
                await asyncio.to_thread(client.list)
        finally:
            await runner.cleanup()

    path = short_tmp / "d.sock"
    asyncio.run(ask())
    assert told == ["identity"] * 2


def test_long_workflows_take_turns(short_tmp: Path) -> None:
    """A hundred who ask why a very long one does not go on would take the loop from everybody else."""
    with Daemon(short_tmp / "d.sock", holds=True) as daemon:
        short = daemon.submit()
        long = daemon.submit({"name": "a", "task": "add"}, *({"task": "add", "after": ["a"]} for _ in range(2_100)))
        assert daemon.scheduler.is_at_hand(short)
        assert not daemon.scheduler.is_at_hand(long)
        assert set(_ask_all(daemon, [f"/v1/workflows/{long}/explain"] * 12)) == {200}
