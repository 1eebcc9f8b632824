"""Errors that a browser meets here before the daemon is asked; they are reported like all others, as problem documents."""

from typing import Final

from dyrygentd.errors import RequestError

_ANEW: Final = "start `dyrygentctl ui` anew, and open the address that it prints"


class NotLetIn(RequestError):
    """The browser has not come by the address that `dyrygentctl ui` printed, or has lost what it got there."""

    status = 401
    code = "not-let-in"
    next_step = _ANEW

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class StrangersConnection(RequestError):
    """Somebody else has connected to what `dyrygentctl ui` serves to one user."""

    status = 403
    code = "strangers-connection"
    next_step = "start `dyrygentctl ui` as yourself; from another machine come by `ssh -L`, as the user who started it"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class NoRoom(RequestError):
    """More connections than one browser opens."""

    status = 503
    code = "no-room"
    next_step = "close some tabs, and try again in a moment"

    def __init__(self, maximum: int) -> None:
        super().__init__(f"there are {maximum} connections already, the most that one browser is served")
        self.maximum = maximum


class StrangersHost(RequestError):
    """The Host header is not the address at which `dyrygentctl ui` serves: a page may be posing as it (DNS rebinding)."""

    status = 421
    code = "strangers-host"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"the Host header names '{host}', and this is 127.0.0.1:{port}")
        self.host = host
        self.next_step = (
            f"come by http://127.0.0.1:{port}, from another machine by `ssh -L {port}:127.0.0.1:{port}` with this same port"
        )


class StrangersPage(RequestError):
    """Another page in the browser asks, not the one that was served here."""

    status = 403
    code = "strangers-page"
    next_step = "act from the page itself"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class NotPassedOn(RequestError):
    """What is asked is nothing that the page shows or does."""

    status = 404
    code = "not-passed-on"
    next_step = "ask the daemon's Unix socket for it"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"{method} '{path}' is not passed on to the daemon from here")
        self.path = path
