"""The guard of the connections: it is there as long as somebody is served, and fits the aiohttp that is installed."""

import ast
import inspect
import socket
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from aiohttp import web

from dyrygentd.errors import ConfigurationError
from dyrygentd.http.guard import USED, Guard, GuardedConnection, refuse_unusable
from dyrygentd.http.server import serving
from dyrygentd.http.sockets import listen_unix


class _Failing(Guard):
    """A guard that looks when it is told to, and fails."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = anyio.Event()

    async def run(self) -> None:
        """Fail."""
        await self.fails.wait()
        raise AttributeError("'GuardedConnection' object has no attribute '_waiter'")


@pytest.fixture
def anyio_backend() -> str:
    """The only one: aiohttp is asyncio's."""
    return "asyncio"


@pytest.mark.anyio
async def test_who_serves_ends_with_the_guard(short_tmp: Path) -> None:
    """Nobody goes on serving without bounds and without a word when the guard has failed."""
    listener, guard = listen_unix(short_tmp / "d.sock"), _Failing()

    async def serve() -> None:
        async with serving(web.Application(), [listener.socket], guard=guard):
            guard.fails.set()
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await serve()
    assert [str(error) for error in raised.value.exceptions] == ["'GuardedConnection' object has no attribute '_waiter'"]
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(listener.path))
    listener.close()


@pytest.mark.anyio
async def test_one_guard_looks_for_several_applications(short_tmp: Path) -> None:
    """It looks once for all of them, and goes on when one of them ends: each loop more would look at all connections again."""
    guard = Guard()
    first, second = listen_unix(short_tmp / "1.sock"), listen_unix(short_tmp / "2.sock")
    async with serving(web.Application(), [first.socket], guard=guard):
        async with serving(web.Application(), [second.socket], guard=guard):
            await anyio.wait_all_tasks_blocked()
            assert guard._looking.statistics().tasks_waiting == 1
        assert (guard._looking.locked(), guard._looking.statistics().tasks_waiting) == (True, 0)
    assert not guard._looking.locked()
    first.close()
    second.close()


@pytest.mark.parametrize("missing", USED)
def test_aiohttp_without_what_is_built_on_is_refused(missing: str) -> None:
    """A later aiohttp may have become another one: that is told at the start, by what is missing, and not by the first client."""
    changed = SimpleNamespace(**dict.fromkeys(USED))
    refuse_unusable(changed)
    delattr(changed, missing)
    with pytest.raises(ConfigurationError, match=rf"aiohttp [\d.]+: .* they have no `{missing}`") as raised:
        refuse_unusable(changed)
    assert "pip install 'aiohttp<" in raised.value.next_step


def test_internals_that_are_looked_at_are_those_that_are_used() -> None:
    """The list names what a guarded connection takes of aiohttp's, and no more."""
    own = {*GuardedConnection.__slots__, *vars(GuardedConnection)}
    read = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(GuardedConnection)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    assert {name for name in read - own if name.startswith("_")} == set(USED)
