"""A `dyrygentctl ui` in this process, and what a browser would send to it."""

import http.client
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self
from urllib.parse import urlsplit

import anyio.from_thread

from dyrygentd.loopback.server import serving_page
from tests.http.support import Answer, Daemon

#: What a browser says of a request that a script of the page makes.
OF_PAGE = {"Sec-Fetch-Site": "same-origin", "X-Dyrygentd-Page": "1"}


class Served(AbstractContextManager["Served"]):
    """Serves on entering, with settings of `serving_page`.

    Attributes:
        url: The address that opens it once.
        cookie: What a browser was given; None until `enter`.
    """

    def __init__(self, daemon: Any, **settings: Any) -> None:
        self.daemon: Daemon = daemon
        self._settings = settings
        self.url = ""
        self.cookie: str | None = None
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        portal = self._exits.enter_context(anyio.from_thread.start_blocking_portal())
        self.url = self._exits.enter_context(portal.wrap_async_context_manager(serving_page(self.daemon.path, **self._settings)))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End; safe to repeat."""
        self._exits.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.url).port or 0

    @property
    def start(self) -> str:
        """The target in the printed address, with the token."""
        return self.url[self.url.index("/?") :]

    def enter(self) -> None:
        """Open the address, as a browser does, and keep the cookie."""
        answer = self.ask("GET", self.start)
        assert (answer.status, answer.headers["Location"]) == (303, "/"), answer
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection to it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make a request with the cookie, if there is one; a header that is empty is left out."""
        given = {"Cookie": self.cookie or "", "Content-Type": "application/json" if method == "POST" else "", **(headers or {})}
        connection = self.connection()
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, target, body=content, headers={name: text for name, text in given.items() if text})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def act(self, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Do something, as the page does it."""
        return self.ask("POST", target, body or {}, {**OF_PAGE, **(headers or {})})
