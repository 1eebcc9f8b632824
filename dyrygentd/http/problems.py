"""Errors that only exist between a request and a route; they are reported like all others, as problem documents."""

from collections.abc import Sequence
from typing import Final

from dyrygentd import wire
from dyrygentd.errors import DyrygentError, RequestError

JSON: Final = "application/json"
PROBLEM: Final = wire.PROBLEM


class RouteNotFound(RequestError):
    """There is nothing at this path."""

    status = 404
    code = "route-not-found"
    next_step = "`GET /v1/openapi.json` lists the routes"

    def __init__(self, path: str) -> None:
        super().__init__(f"there is nothing at '{path}'")
        self.path = path


class MethodNotAllowed(RequestError):
    """The path exists, but not for this method."""

    status = 405
    code = "method-not-allowed"

    def __init__(self, method: str, path: str, allowed: Sequence[str], *, read_only: bool) -> None:
        super().__init__(f"'{path}' does not take {method}, only {', '.join(allowed)}")
        self.method = method
        self.path = path
        self.allowed = list(allowed)
        if read_only:
            self.next_step = "this listener is read-only: use the daemon's Unix socket"


class UnknownVerb(RequestError):
    """There is no such verb."""

    status = 404
    code = "unknown-verb"

    def __init__(self, verb: str, known: Sequence[str]) -> None:
        super().__init__(f"there is no verb '{verb}'")
        self.verb = verb
        self.next_step = f"use one of {', '.join(known)}"


class UnsupportedMediaType(RequestError):
    """The body is declared as something else than JSON."""

    status = 415
    code = "unsupported-media-type"
    next_step = "send JSON with `Content-Type: application/json`"

    def __init__(self, content_type: str) -> None:
        super().__init__(f"the body is declared as '{content_type}', not as JSON")
        self.content_type = content_type


class BodyTooSlow(RequestError):
    """The body did not arrive in time, or stopped on the way."""

    status = 408
    code = "body-too-slow"

    def __init__(self, arrived: int, timeout_s: float, silence_s: float) -> None:
        super().__init__(
            f"of the request body {arrived} bytes had arrived when time was up: all of it may take {timeout_s:g} s,"
            f" a pause in it {silence_s:g} s"
        )
        self.arrived = arrived


class DecodingTooSlow(RequestError):
    """The body was not read in time; nothing was changed by the request."""

    status = 503
    code = "decoding-too-slow"
    next_step = "submit it in parts, or when the machine has less to do"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the request body could not be read within {timeout_s:g} s")
        self.timeout_s = timeout_s


class TooBusy(RequestError):
    """A bound of the daemon is reached; nothing was changed by the request."""

    status = 503
    code = "too-busy"
    next_step = "try again in a moment"

    def __init__(self, what: str, maximum: int) -> None:
        super().__init__(f"the daemon serves {maximum} {what} already, which is its limit")
        self.what = what
        self.maximum = maximum


class TooManyOfYours(RequestError):
    """One user has taken what a single user may; others are still served, and nothing was changed by the request."""

    status = 429
    code = "too-many-of-yours"
    next_step = "wait for your other requests"

    def __init__(self, what: str, maximum: int) -> None:
        super().__init__(f"your user has {maximum} {what} already, the most that one may have")
        self.what = what
        self.maximum = maximum


class NotStarted(RequestError):
    """The daemon was started for this client and cannot start; nothing was changed by the request."""

    status = 503
    code = "not-started"

    def __init__(self, reason: str, *, next_step: str) -> None:
        super().__init__(f"the daemon cannot start: {reason}" if reason else "the daemon cannot start")
        self.next_step = next_step


class ForeignHost(RequestError):
    """The Host header does not name this machine: a page in a browser may be posing as us (DNS rebinding)."""

    status = 421
    code = "foreign-host"
    next_step = (
        "use 'localhost' (by loopback), this machine's name or its address; a proxy has to send that as the Host header, or its"
        " own name is added to `hosts` in the daemon's configuration"
    )

    def __init__(self, host: str) -> None:
        super().__init__(f"the Host header names '{host}', which is no name of this machine that the daemon knows")
        self.host = host


class ForeignOrigin(RequestError):
    """A page that is not of this machine asks by way of a browser on it."""

    status = 403
    code = "foreign-origin"
    next_step = "use a page of this machine, or a proxy that takes the Origin header away"

    def __init__(self, origin: str) -> None:
        super().__init__(f"the Origin header names '{origin}', but this listener serves pages of this machine only")
        self.origin = origin


class NotHttp(RequestError):
    """What came is no HTTP; the connection is closed."""

    code = "no-http"
    next_step = "speak HTTP/1.1, as in `curl --unix-socket PATH http://localhost/healthz`"

    def __init__(self, reason: str) -> None:
        super().__init__(f"what came is no HTTP: {reason}" if reason else "what came is no HTTP")


class InternalError(DyrygentError):
    """Something unexpected happened; the log has it, the client gets no internals."""

    next_step = "the daemon's log tells more"

    def __init__(self) -> None:
        super().__init__("an unexpected error in the daemon")
