"""A daemon that leaves: clients wait for the next one, and are told what is going on if that takes long."""

import socket
from pathlib import Path

import anyio
import pytest
from aiohttp import ClientSession, ClientTimeout, UnixConnector, web

from dyrygentd.daemon.leaving import leave
from dyrygentd.http.server import Site, serving
from tests.support.activation import listening_unix

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that the daemon has."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def held(short_tmp: Path) -> socket.socket:
    """A socket as systemd holds it."""
    return listening_unix(short_tmp / "a.sock")


async def _ask(path: Path) -> str:
    connector, timeout = UnixConnector(str(path)), ClientTimeout(total=60)
    async with ClientSession(connector=connector, timeout=timeout) as session, session.get("http://localhost/") as answer:
        return await answer.text()


def _app() -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/", answer)
    return app


async def _waits(path: Path, seconds: float = 0.3) -> bool:
    with anyio.move_on_after(seconds):
        await _ask(path)
        return False
    return True


async def test_clients_wait_while_a_stop_is_short(short_tmp: Path, held: socket.socket) -> None:
    """Nobody is served while tasks are waited for, and nobody is refused: the next daemon finds them in the socket."""
    path = short_tmp / "a.sock"
    async with serving(_app(), [held.dup()]) as site:
        assert await _ask(path) == "here"

        async def drain() -> None:
            assert await _waits(path)

        await leave(site, drain, timeout_s=5, at_first_s=0.01, at_last_s=5)
        assert await _waits(path)
    async with serving(_app(), [held.dup()]):
        assert await _ask(path) == "here"
    held.close()


async def test_clients_are_served_while_a_stop_takes_long(short_tmp: Path, held: socket.socket) -> None:
    """Whoever came while nobody accepted is answered, and before the end clients wait again."""
    path = short_tmp / "a.sock"
    async with serving(_app(), [held.dup()]) as site:

        async def drain() -> None:
            assert await _ask(path) == "here"
            assert await _ask(path) == "here"

        await leave(site, drain, timeout_s=600, at_first_s=0.05, at_last_s=1)
        assert await _waits(path)
    held.close()


async def test_paused_site_is_resumed(short_tmp: Path, held: socket.socket) -> None:
    """Pausing and resuming can be repeated, and closing closes what was kept."""
    path = short_tmp / "a.sock"
    site: Site
    async with serving(_app(), [held]) as site:
        for _ in range(3):
            site.pause()
            site.pause()
            assert await _waits(path, 0.05)
            await site.resume()
            assert await _ask(path) == "here"
        site.pause()
    with pytest.raises(OSError, match=r"Cannot connect|refused"):
        await _ask(path)
