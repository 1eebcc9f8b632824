"""Who is let in: a token that opens once, and the cookie for which it is exchanged. No I/O."""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from dyrygentd.loopback.refusals import NotLetIn

TOKEN_LIVES_S: Final = 600.0
"""An address that nobody has opened for so long opens nothing any more: it may lie in a log or on a screen."""

#: 256 bits: nobody guesses it, so that tries need no bound.
_BYTES: Final = 32


class Entry:
    """One door with one key. Guards: the token opens once, while it is fresh; without its cookie nobody is let in.

    Args:
        port: Part of the cookie's name, since browsers send a cookie to all ports of a host.
        clock: Monotonic seconds.

    Attributes:
        token: What stands in the printed address.
    """

    def __init__(self, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.cookie_name = f"dyrygentd-{port}"
        self.token = secrets.token_urlsafe(_BYTES)
        self._cookie = secrets.token_urlsafe(_BYTES)
        self._clock = clock
        self._until = clock() + TOKEN_LIVES_S
        self._is_used = False

    def __repr__(self) -> str:
        return f"<Entry {self.cookie_name} is_used={self._is_used}>"

    def exchange(self, token: str) -> str:
        """Return the cookie's value for the token. Raises `NotLetIn`, with what is wrong about it."""
        if not _is_same(token, self.token):
            raise NotLetIn("the token in the address is not the one of this `dyrygentctl ui`")
        if self._is_used:
            raise NotLetIn("the token in the address has been used: it opens once")
        if self._clock() > self._until:
            raise NotLetIn(f"the token in the address is too old: it opens for {TOKEN_LIVES_S / 60:.0f} minutes")
        self._is_used = True
        return self._cookie

    def check(self, cookies: Sequence[str]) -> None:
        """Raise `NotLetIn` unless one of them is the cookie."""
        if not cookies:
            raise NotLetIn("this browser has not come by the address that `dyrygentctl ui` printed")
        if not self._is_used or not any(_is_same(cookie, self._cookie) for cookie in cookies):
            raise NotLetIn("this browser comes from an earlier `dyrygentctl ui`, which has ended")


def _is_same(given: str, kept: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return secrets.compare_digest(given.encode(errors="surrogatepass"), kept.encode())
