"""The server of `dyrygentctl ui`: who may come in (`entry`, `owners`, `checks`), the page's files, and the way to the daemon."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from html import escape
from typing import Final

import anyio
from aiohttp import web

from dyrygentd import page, wire
from dyrygentd.client.channel import Channel
from dyrygentd.client.connection import Warn
from dyrygentd.client.ways import Way
from dyrygentd.errors import BodyTooLarge, ConfigurationError, DyrygentError
from dyrygentd.loopback import checks
from dyrygentd.loopback.entry import Entry
from dyrygentd.loopback.owners import owner_of, trusted_users
from dyrygentd.loopback.passing import BODY_BYTES_MAX, Passage, user_name
from dyrygentd.loopback.refusals import NoRoom, NotLetIn, NotPassedOn, StrangersConnection
from dyrygentd.loopback.targets import target_of

HOST: Final = "127.0.0.1"
CONNECTIONS_MAX: Final = 64
"""A browser opens six at most for all its tabs. Fewer than a `Channel` has, so that no request waits behind those that follow."""

_BACKLOG: Final = 128
#: The daemon has its own patience; that of a command that is to end is short.
_SHUTDOWN_S: Final = 0.5
_TIMEOUT_S: Final = 30.0
_NO_STORE: Final = {**page.HEADERS, "Cache-Control": "no-store"}
_REFUSAL: Final = (
    "HTTP/1.1 {status} Refused\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
)
_HTML: Final = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
#: The browser goes on by itself: our own link sends the cookie, which another page's does not. What stands behind # goes along,
#: which only a script can see to; to the same address, but for a question mark, since else nothing would be loaded.
_ONWARD_SCRIPT: Final = 'location.replace((location.search ? "/" : "/?") + location.hash);\n'
_ONWARD_PATH: Final = "/onward.js"
_ONWARD: Final = f'{_HTML}<title>dyrygentd</title><script src="{_ONWARD_PATH}" defer></script><p>One moment …</p></html>'
_SORRY: Final = (
    f"{_HTML}<title>dyrygentd: not let in</title><h1>Not let in</h1><p>{{reason}}.</p><p>Next: {{next_step}}.</p></html>"
)


class Doorkeeper(asyncio.Protocol):
    """Looks at a connection before HTTP does. Guards: those of others, or one too many, are closed unread."""

    def __init__(self, server: web.Server, *, users: Collection[int], connections_max: int) -> None:
        self._server = server
        self._users = users
        self._connections_max = connections_max

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand it to the server, or say why not."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        error = self._refusal_of(transport)
        if error is None:
            inside = self._server()
            transport.set_protocol(inside)
            inside.connection_made(transport)
            return
        body = wire.encode(wire.problem_of(error))
        transport.write(_REFUSAL.format(status=error.status, length=len(body)).encode() + body)
        transport.close()

    def _refusal_of(self, transport: asyncio.BaseTransport) -> DyrygentError | None:
        if len(self._server.connections) >= self._connections_max:
            return NoRoom(self._connections_max)
        theirs, ours = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        owner = owner_of(theirs, ours) if theirs and ours else None
        if owner is None:
            return StrangersConnection("the kernel does not tell whose this connection is")
        if owner not in self._users:
            return StrangersConnection(f"this connection is uid {owner}'s, and only {user_name()} is served here")
        return None


class LoopbackPage:
    """The page of one daemon for one user. Guards: nothing is passed on before all checks are through.

    Attributes:
        entry: Has the token of the address.
    """

    def __init__(self, channel: Channel, port: int, entry: Entry) -> None:
        self.entry = entry
        self._port = port
        self._passage = Passage(channel, headers=_NO_STORE)

    def __repr__(self) -> str:
        return f"<LoopbackPage port={self._port} {self.entry!r} {self._passage!r}>"

    def application(self) -> web.Application:
        """Return it as an application."""
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_as_problem])
        # Names may have line breaks, at which a dot ends.
        app.router.add_route("*", r"/{path:[\s\S]*}", self.serve)
        return app

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer whatever is asked for."""
        checks.check_host(request.headers.get("Host", ""), self._port)
        path, _, query = request.raw_path.partition("?")
        if request.method == "GET" and path == "/":
            return self._start(request)
        if request.method == "GET" and path == _ONWARD_PATH:
            return web.Response(text=_ONWARD_SCRIPT, content_type="text/javascript", headers=_NO_STORE)
        (checks.check_reading if request.method == "GET" else checks.check_acting)(request.headers)
        self.entry.check(self._cookies(request))
        if path.startswith("/page/") and request.method == "GET":
            return await self._file(request, path.removeprefix("/page/"))
        return await self._passage.pass_on(request, target_of(request.method, path, query))

    def _start(self, request: web.Request) -> web.StreamResponse:
        """Let a browser in that has the token, show the page to the one that is in, and tell all others what to do."""
        cookies, token = self._cookies(request), request.query.get("token")
        try:
            # Whoever reloads the address, or comes back to it, is in.
            is_in = token is None or self._is_in(cookies)
            if token is None:
                self.entry.check(cookies)
                return self._of_name(request, page.START)
            value = None if is_in else self.entry.exchange(token)
        except NotLetIn as error:
            if token is None and checks.is_link(request.headers):
                return _html(_ONWARD, 200)
            return _html(_SORRY.format(reason=escape(error.message), next_step=escape(error.next_step)), error.status)
        response = _html(_ONWARD, 200)
        if not checks.is_link(request.headers):
            response.set_status(303)
            response.headers["Location"] = "/"
        if value is not None:
            response.set_cookie(self.entry.cookie_name, value, path="/", httponly=True, samesite="Strict")
        return response

    def _cookies(self, request: web.Request) -> list[str]:
        """Return all values: a server on another port of this host may have set more of the same name."""
        pairs = (part.strip().partition("=") for text in request.headers.getall("Cookie", []) for part in text.split(";"))
        return [value for name, _, value in pairs if name == self.entry.cookie_name]

    def _is_in(self, cookies: list[str]) -> bool:
        try:
            self.entry.check(cookies)
        except NotLetIn:
            return False
        return True

    async def _file(self, request: web.Request, name: str) -> web.StreamResponse:
        if name == "mode.json":
            acts, grafana = await self._passage.may_act(), await self._passage.grafana()
            return _of_page(page.mode(acts=acts, user=self._passage.user, grafana=grafana))
        return self._of_name(request, name)

    def _of_name(self, request: web.Request, name: str) -> web.StreamResponse:
        found = page.answer(name, request.headers)
        if found is None:
            raise NotPassedOn(request.method, request.path)
        return _of_page(found)


@asynccontextmanager
async def serving_page(
    socket_path: str | os.PathLike[str] | Way | None,
    *,
    port: int = 0,
    users: Collection[int] = (),
    connections_max: int = CONNECTIONS_MAX,
    warn: Warn | None = None,
) -> AsyncIterator[str]:
    """Serve the page of a daemon on loopback; yield the address that opens it once.

    Args:
        port: 0 takes a free one.
        users: Numbers of those who may connect, instead of `trusted_users`.
        warn: Told once if the daemon has another version.

    Raises:
        ConfigurationError: The port is taken.
    """
    listening = _listen(port)
    port = listening.getsockname()[1]
    channel = Channel(socket_path, timeout_s=_TIMEOUT_S, warn=warn)
    served = LoopbackPage(channel, port, Entry(port))
    # A browser that has gone lets go of what it followed at the daemon.
    runner = web.AppRunner(
        served.application(), handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_S, handler_cancellation=True
    )
    await runner.setup()
    try:
        inside = runner.server
        assert inside is not None
        server = await asyncio.get_running_loop().create_server(
            lambda: Doorkeeper(inside, users=users or trusted_users(), connections_max=connections_max),
            sock=listening,
            backlog=_BACKLOG,
        )
        try:
            yield f"http://{HOST}:{port}/?token={served.entry.token}"
        finally:
            server.close()
    finally:
        await runner.cleanup()
        await channel.close()


def run(
    socket_path: str | os.PathLike[str] | Way | None, *, port: int, on_ready: Callable[[str, int], None], warn: Warn | None = None
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        on_ready: Called with the address and the port.
    """

    async def serve() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with serving_page(socket_path, port=port, warn=warn) as address:
                on_ready(address, int(address.partition("/?")[0].rpartition(":")[2]))
                async for _ in signals:
                    return

    anyio.run(serve)


@web.middleware
async def _as_problem(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer an error as a problem document, as the daemon does."""
    try:
        return await handler(request)
    except DyrygentError as error:
        return _problem(error)
    except web.HTTPRequestEntityTooLarge:
        return _problem(BodyTooLarge(BODY_BYTES_MAX))
    except web.HTTPException:
        # There is no route for what is no path.
        return _problem(NotPassedOn(request.method, request.raw_path))


def _problem(error: DyrygentError) -> web.Response:
    return web.Response(
        body=wire.encode(wire.problem_of(error)), status=error.status, headers={**_NO_STORE, "Content-Type": wire.PROBLEM}
    )


def _html(text: str, status: int) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", headers=_NO_STORE)


def _of_page(answer: page.PageAnswer) -> web.Response:
    return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"cannot listen on {HOST}:{port}: {error.strerror}", next_step="name another with --port, or none to take a free one"
        ) from error
    return listening
