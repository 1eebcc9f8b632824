"""Whoever follows a fold over a real socket sees it change to the end, in both clients, as many as may, whatever others do."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.client.aio import AsyncClient
from dyrygentd.client.forms import EventReader, StreamEvent
from dyrygentd.client.sync import Client
from dyrygentd.errors import RemoteError
from dyrygentd.http.access import Access, Peer
from dyrygentd.http.app import AROUND
from dyrygentd.http.limits import HttpLimits
from tests.http.support import Daemon, unix_connection
from tests.support.servers import wait_until

TWO_STEPS: list[dict[str, Any]] = [
    {"name": "a", "task": "add", "section": "first"},
    {"name": "b", "task": "add", "after": ["a"], "section": "second"},
]


def wait_succeeded(daemon: Daemon, workflow_id: str, count: int) -> None:
    """Wait until so many nodes have succeeded."""
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow_id}").json["counts"].get("succeeded") == count)


class Stream:
    """An open stream of a fold."""

    def __init__(self, daemon: Daemon, workflow_id: str, path: str = "") -> None:
        self._connection = unix_connection(daemon.path)
        self._connection.request("GET", f"/v1/workflows/{workflow_id}/fold/events?path={quote(path, safe='')}")
        self.response = self._connection.getresponse()

    def raw(self) -> Iterator[tuple[str, Any]]:
        """Iterate over the events as they came, decoded."""
        kind = ""
        while line := self.response.readline():
            if line.startswith(b"event: "):
                kind = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                yield kind, json.loads(line[6:])

    def next(self) -> StreamEvent | None:
        """Return the next event as clients see it; None if there is no more. Do not mix with `raw`."""
        reader = EventReader()
        while line := self.response.readline():
            event = reader.feed(line.rstrip())
            if event is not None:
                return event
        return None

    def close(self) -> None:
        """Leave."""
        self.response.close()
        self._connection.close()


def test_the_stream_tells_what_changes_and_the_end(holding: Daemon) -> None:
    """First all of it, then only the boxes that are others than before, under numbers that rise."""
    workflow_id = holding.submit(*TWO_STEPS)
    stream = Stream(holding, workflow_id)
    assert stream.response.getheader("Content-Type") == "text/event-stream"
    events = stream.raw()
    kind, whole = next(events)
    assert (kind, whole["seq"], whole["path"], [box["title"] for box in whole["boxes"]]) == ("fold", 1, "", ["first", "second"])
    holding.let_go()
    wait_succeeded(holding, workflow_id, 1)
    holding.let_go()
    rest = [*events]
    assert rest[-1] == ("end", {})
    assert {kind for kind, _ in rest[:-1]} == {"boxes"}
    assert all(later["seq"] > earlier["seq"] for (_, earlier), (_, later) in pairwise([(kind, whole), *rest[:-1]]))
    assert (rest[-2][1]["state"], rest[-2][1]["boxes"][-1]["box"]["states"]) == ("succeeded", {"succeeded": 1})
    stream.close()


def test_both_clients_yield_whole_folds(holding: Daemon) -> None:
    """A program sees the fold as `fold` shows it, again and again, and need not put it together itself."""
    workflow_id = holding.submit(*TWO_STEPS)

    async def follow() -> list[wire.FoldView]:
        async with AsyncClient(holding.path) as client:
            handle = await client.handle(workflow_id)
            return [view async for view in handle.follow_fold("second")]

    with ThreadPoolExecutor(2) as threads, Client(holding.path) as client:
        views = client.handle(workflow_id).follow_fold()
        first = next(views)
        following = threads.submit(anyio.run, follow)
        wait_until(lambda: holding.http_statistics().streams == 2)
        for count in (1, 2):
            holding.let_go()
            wait_succeeded(holding, workflow_id, count)
        last = [*views][-1]
        assert first.boxes[1].states == {"waiting": 1}
        now = client.handle(workflow_id).fold()
        assert (last.boxes, last.edges, last.state, last.seq > first.seq) == (now.boxes, now.edges, "succeeded", True)
        inside = following.result()[-1]
        assert (inside.path, [box.title for box in inside.boxes], inside.boxes[0].states) == ("second", ["b"], {"succeeded": 1})


def test_errors_are_told_before_the_stream(holding: Daemon) -> None:
    """A path or an id that leads nowhere is a problem document with a next step, as without a stream."""
    workflow_id = holding.submit(*TWO_STEPS)
    answer = holding.ask("GET", f"/v1/workflows/{workflow_id}/fold/events?path=nothing")
    assert (answer.status, answer.json["code"]) == (404, "box-not-found")
    assert holding.ask("GET", "/v1/workflows/nobody/fold/events").json["code"] == "workflow-not-found"
    with Client(holding.path) as client, pytest.raises(RemoteError, match="has no box 'second/~1'"):
        next(client.handle(workflow_id).follow_fold("second/~1"))
    wait_until(lambda: holding.http_statistics().streams == 0)


def test_streams_of_folds_are_bounded_with_the_others(short_tmp: Path) -> None:
    """A page that opens one after the other leaves room for those of the rest, and leaving gives a place back."""
    with Daemon(short_tmp / "d.sock", holds=True, limits=HttpLimits(streams_max=1)) as daemon:
        workflow_id = daemon.submit(*TWO_STEPS)
        stream = Stream(daemon, workflow_id)
        assert next(stream.raw())[0] == "fold"
        answer = daemon.ask("GET", f"/v1/workflows/{workflow_id}/fold/events")
        assert (answer.status, answer.json["code"]) == (503, "too-busy")
        stream.close()
        daemon.let_go()
        wait_until(lambda: daemon.http_statistics().streams == 0)
        assert daemon.call(daemon.scheduler.faces.statistics)["fold_readers"] == 0


def test_a_stopping_daemon_says_bye_and_clients_come_back(short_tmp: Path) -> None:
    """A page and a program go on after a restart with all of the fold, as if nothing had been."""
    with Daemon(short_tmp / "d.sock", holds=True) as daemon, Client(daemon.path) as client:
        workflow_id = daemon.submit({"name": "g", "gate": True})
        stream, views = Stream(daemon, workflow_id), client.handle(workflow_id).follow_fold()
        assert next(stream.raw())[0] == "fold"
        assert next(views).boxes[0].states == {"held": 1}
        daemon.stop()
        assert [kind for kind, _ in stream.raw()][-1] == "bye"
        daemon.start()
        again = next(views)
        assert (again.seq, again.boxes[0].states) == (1, {"held": 1})
        client.handle(workflow_id).release("g")
        assert [*views][-1].boxes[0].states == {"succeeded": 1}
        stream.close()


def test_the_stream_ends_with_the_right_to_read(holding: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is taken away, whoever looks is told so, and sees nothing more."""
    workflow_id = holding.submit(*TWO_STEPS)
    wait_until(lambda: holding.ask("GET", f"/v1/workflows/{workflow_id}").json["counts"]["dispatched"] == 1)
    monkeypatch.setattr("dyrygentd.http.guard.peer_of", lambda transport: Peer(user=4711, group=4711))
    stream = Stream(holding, workflow_id)
    events = stream.raw()
    assert next(events)[0] == "fold"
    holding.call(setattr, holding.app[AROUND], "access", Access(readers=["nobody-else"], submitters=["nobody-else"]))
    kinds, told = zip(*events, strict=True)
    assert (kinds, told[0]["code"]) == (("error", "end"), "forbidden")
    stream.close()


def test_a_reader_that_takes_nothing_slows_nobody(holding: Daemon) -> None:
    """A suspended browser keeps its own place busy and no more: others see each change and the end."""
    workflow_id = holding.submit(*TWO_STEPS)
    with socket.create_connection(("127.0.0.1", holding.tcp_port)) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        silent.sendall(b"GET /v1/workflows/%b/fold/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % workflow_id.encode())
        assert silent.recv(1)
        with Client(holding.path) as client:
            views = client.handle(workflow_id).follow_fold()
            next(views)
            for count in (1, 2):
                holding.let_go()
                wait_until(
                    lambda count=count: (
                        holding.ask("GET", f"/v1/workflows/{workflow_id}").json["counts"].get("succeeded") == count
                    )  # type: ignore[misc]
                )
            assert [*views][-1].state == "succeeded"


def test_a_long_fold_is_one_line(short_tmp: Path) -> None:
    """Boxes with names and errors as long as they may be come whole, in both clients."""
    smiles = "\N{GRINNING FACE}" * 190
    nodes = [{"name": f"{number}{smiles}", "task": "fail", "section": f"{number}{smiles}"} for number in range(90)]
    with Daemon(short_tmp / "d.sock") as daemon:
        workflow_id = daemon.submit(*nodes)
        daemon.finish(workflow_id)

        async def follow() -> wire.FoldView:
            async with AsyncClient(daemon.path) as client:
                return [view async for view in (await client.handle(workflow_id)).follow_fold()][-1]

        with Client(daemon.path) as client:
            (view,) = client.handle(workflow_id).follow_fold()
            assert len(wire.encode(view)) > 150_000
            assert anyio.run(follow) == view
