"""The asyncio client against a real daemon: the same surface as the synchronous one."""

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dyrygentd import AsyncClient, errors, scheduler
from dyrygentd.client import aio, sync
from dyrygentd.core.verbs import Verb
from tests.http.support import Daemon

CHAIN = {"nodes": [{"name": "a", "task": "add", "args": [1, 2]}, {"name": "b", "task": "add", "args": [3], "after": ["a"]}]}


@pytest.mark.parametrize(("one", "other"), [(sync.Client, aio.AsyncClient), (sync.Handle, aio.AsyncHandle)])
def test_both_clients_have_one_surface(one: type, other: type) -> None:
    """Who knows one client knows the other: its methods, their arguments with kinds, types and defaults, and what they return."""
    assert _surface(one) == {name: words.replace("Async", "") for name, words in _surface(other).items()}


def _surface(client: type) -> dict[str, str]:
    """Return ``{method: its signature}``."""
    functions = inspect.getmembers(client, inspect.isfunction)
    return {name: str(inspect.signature(function)).replace("'", "") for name, function in functions if not name.startswith("_")}


@pytest.mark.parametrize("handle", [sync.Handle, aio.AsyncHandle, scheduler.Handle])
@pytest.mark.parametrize("verb", Verb)
def test_every_verb_is_a_method(verb: Verb, handle: type) -> None:
    """What the command line can do to a workflow, programs can: a new verb comes with its method, which takes the reason."""
    method = getattr(handle, verb.replace("-", "_"), None)
    assert method is not None, f"{handle.__module__}.{handle.__name__} has no method for `{verb}`"
    assert "why" in inspect.signature(method).parameters


def test_workflow_from_submission_to_outcome(daemon: Daemon) -> None:
    """All methods of the client and of its handle work against the daemon."""

    async def use(client: AsyncClient) -> None:
        handle = await client.submit(CHAIN, key="k", name="gra1/osd 42")
        assert [view.state async for view in handle.events()][-1] == "succeeded"
        outcome = await handle.wait(10)
        assert (outcome.result, outcome.failed_nodes) == (6, [])
        assert [node.name async for node in handle.nodes(page=1)] == ["a", "b"]
        assert (await handle.node("b")).after == ["a"]
        assert (await handle.status(with_result=True)).result_text == b"6"
        assert (await handle.status()).result_text is None
        assert (await handle.cancel()).state == "succeeded"
        assert (await client.handle("gra1/osd 42")).id == (await client.get("@latest")).id == handle.id
        assert [view.id for view in await client.list(limit=None, name="gra1/osd 42")] == [handle.id]
        assert [view.id for view in await client.list(ended_since=0.0, by_end=True)] == [handle.id]
        assert (await client.health()).status == "ok"
        assert (await client.stats()).engine["workflows"] == 0
        failed = await (await client.submit({"nodes": [{"name": "x", "task": "fail"}]})).wait()
        assert [node.name for node in failed.failed_nodes] == ["x"]

    _run(daemon.path, use)


def test_refusals_and_timeouts(holding: Daemon) -> None:
    """Errors are the same as those of the synchronous client."""

    async def use(client: AsyncClient) -> None:
        with pytest.raises(errors.RemoteError, match="no workflow"):
            await client.get("none")
        handle = await client.submit(CHAIN)
        with pytest.raises(errors.WaitTimeout):
            await handle.wait(0.05)

    _run(holding.path, use)


def test_waiting_and_following_survive_a_restart(holding: Daemon) -> None:
    """A daemon that is replaced interrupts nobody."""

    async def use(client: AsyncClient) -> None:
        handle = await client.submit(CHAIN)
        waiting = asyncio.create_task(handle.wait(30))
        events = handle.events()
        assert (await anext(events)).state == "running"
        await asyncio.to_thread(holding.stop)
        await asyncio.to_thread(holding.start)
        await asyncio.to_thread(holding.let_go)
        await asyncio.to_thread(holding.let_go)
        assert [view.state async for view in events][-1] == "succeeded"
        assert (await waiting).result == 6

    _run(holding.path, use)


def test_missing_socket_is_named(short_tmp: Path) -> None:
    """The path is in the message, because a wrong path is the usual reason."""

    async def use(client: AsyncClient) -> None:
        with pytest.raises(errors.DaemonUnreachable, match=str(short_tmp)):
            await client.health()

    _run(short_tmp / "none.sock", use)


def test_full_backlog_is_tried_again(short_tmp: Path) -> None:
    """A burst of clients meets EAGAIN; what asyncio makes of that is not reported as a daemon that stopped."""

    async def use(client: AsyncClient) -> None:
        with pytest.raises(errors.DaemonUnreachable, match="too many clients"):
            await client.health()

    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(short_tmp / "d.sock"))
        busy.listen(0)
        first.connect(str(short_tmp / "d.sock"))
        _run(short_tmp / "d.sock", use)


def _run(path: Path, use: Callable[[AsyncClient], Awaitable[Any]]) -> None:
    async def main() -> None:
        async with AsyncClient(path) as client:
            await use(client)

    asyncio.run(main())
