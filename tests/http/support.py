"""A daemon for tests: the real scheduler on the shipped fakes, behind a real Unix socket, in a thread with an event loop."""

import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import anyio.from_thread
import pytest
from aiohttp import web

from dyrygentd.http.access import Access
from dyrygentd.http.app import AROUND, make_app
from dyrygentd.http.around import HttpStatistics
from dyrygentd.http.guard import Guard
from dyrygentd.http.limits import HttpLimits
from dyrygentd.http.server import serving
from dyrygentd.http.sockets import listen_tcp, listen_unix
from dyrygentd.scheduler import Pace, Scheduler, SchedulerLimits
from dyrygentd.testing import FakeBroker, MemoryStore


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


class Daemon(AbstractContextManager["Daemon"]):
    """Starts on entering; `stop` and `start` restart it with the same store and the same broker.

    Attributes:
        broker: Touch it through `call` while the daemon runs.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: HttpLimits | None = None,
        holds: bool = False,
        guard: Guard | None = None,
        access: Access | None = None,
        scheduler_limits: SchedulerLimits | None = None,
        listen: str = "127.0.0.1:0",
        own_names: Collection[str] = (),
        grafana: str = "",
        has_worker: bool = True,
        pace: Pace | None = None,
    ) -> None:
        self.pace = pace
        self.listen, self.own_names, self.grafana = listen, own_names, grafana
        self.scheduler_limits = scheduler_limits or SchedulerLimits(follow_interval_s=0.0)
        self.access = access or Access()
        self.guard = guard or Guard()
        self.path = path
        self.limits = limits or HttpLimits()
        tasks = {"add": lambda *numbers: sum(numbers), "fail": _fail}
        self.broker = FakeBroker(tasks, holds=holds, has_worker=has_worker)
        self.store = MemoryStore()
        self.tcp_port = 0
        self.app: web.Application
        self.public: web.Application
        self.scheduler: Scheduler
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, on the Unix socket and (read-only) on a free TCP port."""
        self._portal = self._exits.enter_context(anyio.from_thread.start_blocking_portal())
        self._exits.enter_context(self._portal.wrap_async_context_manager(self._serving()))

    def stop(self) -> None:
        """End; safe to repeat."""
        self._exits.close()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function, or await a coroutine function, inside the loop."""
        return self._portal.call(function, *args)

    def ask(self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make a request on the Unix socket; a body that is no bytes is sent as JSON."""
        connection = unix_connection(self.path)
        try:
            return _exchange(connection, method, target, body, headers)
        finally:
            connection.close()

    def ask_tcp(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, *, address: str = "127.0.0.1"
    ) -> Answer:
        """Make a request on the TCP port."""
        connection = http.client.HTTPConnection(address, self.tcp_port, timeout=10)
        try:
            return _exchange(connection, method, target, None, headers)
        finally:
            connection.close()

    def submit(self, *nodes: Mapping[str, Any], **fields: Any) -> str:
        """Submit a workflow; return its id."""
        answer = self.ask("POST", "/v1/workflows", {"nodes": list(nodes) or [{"name": "one", "task": "add"}], **fields})
        assert answer.status == 201, answer
        return str(answer.json["id"])

    def finish(self, workflow_id: str) -> str:
        """Wait for the end of a workflow; return its state."""
        return str(self.ask("GET", f"/v1/workflows/{workflow_id}?wait_s=10").json["state"])

    def let_go(self) -> None:
        """Let out the results that are held back, as soon as there are some."""
        self.call(self._let_go)

    def http_statistics(self) -> HttpStatistics:
        """Return what the HTTP side serves now."""
        found: HttpStatistics = self.call(self.app[AROUND].statistics)
        return found

    async def _let_go(self) -> None:
        with anyio.fail_after(10):
            while not self.broker._held:
                await anyio.lowlevel.checkpoint()
        self.broker.let_go()

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        limits, broker = self.scheduler_limits, self.broker
        async with Scheduler(
            store=self.store,
            dispatcher=broker.dispatcher,
            watcher=broker.watcher,
            # Where nobody takes tasks, somebody has to ask.
            inspector=None if broker.has_worker else broker.inspector,
            limits=limits,
            pace=self.pace,
        ) as self.scheduler:
            self.app = make_app(
                self.scheduler,
                access=self.access,
                limits=self.limits,
                render_metrics=_render_metrics,
                read_only=False,
                grafana=self.grafana,
            )
            self.public = public = make_app(
                self.scheduler,
                access=self.access,
                limits=self.limits,
                render_metrics=_render_metrics,
                read_only=True,
                own_names=self.own_names,
                grafana=self.grafana,
            )
            listener = listen_unix(self.path)
            tcp = listen_tcp(self.listen)
            self.tcp_port = tcp.getsockname()[1]
            try:
                async with serving(self.app, [listener.socket], guard=self.guard), serving(public, [tcp]):
                    yield
            finally:
                listener.close()


def unix_connection(path: Path) -> http.client.HTTPConnection:
    """Return a connection to a Unix socket."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    connection.sock.connect(str(path))
    return connection


@pytest.fixture
def daemon(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon whose tasks run at once."""
    with Daemon(short_tmp / "d.sock") as running:
        yield running


@pytest.fixture
def holding(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon whose results are held back until `Daemon.let_go`."""
    with Daemon(short_tmp / "holding.sock", holds=True) as running:
        yield running


def _exchange(
    connection: http.client.HTTPConnection, method: str, target: str, body: Any, headers: Mapping[str, str] | None
) -> Answer:
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    # A body that is refused early cannot be sent to its end; the answer is there nevertheless.
    with suppress(BrokenPipeError):
        connection.request(method, target, body=body, headers={"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    return Answer(response.status, dict(response.getheaders()), response.read())


def _render_metrics(accept: str) -> tuple[bytes, str]:
    return f"# accept {accept}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"


def _fail(*_: object) -> None:
    raise ValueError("no such host")
