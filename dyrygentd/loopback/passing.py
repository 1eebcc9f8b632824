"""Passes requests on to the daemon's Unix socket, as the user of this process, and its answers back as they come."""

import os
import pwd
import time
from typing import Final
from uuid import uuid4

import aiohttp
from aiohttp import web

from dyrygentd import wire
from dyrygentd.client.again import QUESTION
from dyrygentd.client.channel import Channel
from dyrygentd.client.forms import Ask
from dyrygentd.errors import DyrygentError, RemoteError

BODY_BYTES_MAX: Final = 1024 * 1024
"""Of a verb with the names of some ten thousand nodes. Longer ones are refused with 413."""

#: The daemon beats every 15 s in a stream, and holds a long poll for a minute at most.
_SILENCE_MAX_S: Final = 90.0
#: Of an answer, all that a browser is to know; what it keeps is said by us.
_HEADERS_BACK: Final = ("Content-Type", "Retry-After", wire.VERSION_HEADER, wire.VANTAGE_HEADER)
#: So long the daemon's word about what the user may do is believed.
_ROLE_KEPT_S: Final = 30.0
_FORBIDDEN: Final = 403


class Passage:
    """One way to the daemon, for all that a browser asks.

    Args:
        headers: Of every answer.
    """

    def __init__(self, channel: Channel, *, headers: dict[str, str]) -> None:
        self._channel = channel
        self._headers = headers
        self._may_act = True
        self._asked_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Passage {self._channel.way.name} may_act={self._may_act}>"

    @property
    def user(self) -> str:
        """As whom the daemon knows whoever acts here: on another host, the user there."""
        return self._channel.way.user or user_name()

    async def pass_on(self, request: web.Request, target: str) -> web.StreamResponse:
        """Answer what the daemon answers. Raises `DaemonUnreachable` if nobody does; what breaks off is cut off here, too."""
        ask = Ask(request.method, target, await request.read() if request.method == "POST" else None)
        limits = aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_MAX_S)
        begun: web.StreamResponse | None = None
        try:
            async with self._channel.answered(ask, limits) as answer:
                kept = {name: answer.headers[name] for name in _HEADERS_BACK if name in answer.headers}
                begun = web.StreamResponse(status=answer.status, headers={**self._headers, **kept})
                await begun.prepare(request)
                # One part at a time: a browser that does not read makes the daemon wait, and nothing is piled up here.
                async for part in answer.content.iter_any():
                    await begun.write(part)
                await begun.write_eof()
        except DyrygentError:
            if begun is None:
                raise
            # Without the end of its last part, so that nobody takes it for whole.
            if request.transport is not None:
                request.transport.close()
        return begun

    async def may_act(self) -> bool:
        """Tell whether the daemon takes verbs of this user at all; while nobody answers it is believed.

        A verb for a workflow that cannot be there changes nothing, and is refused for its rights before it is looked for.
        """
        if time.monotonic() - self._asked_at > _ROLE_KEPT_S:
            ask = Ask("POST", f"/{wire.API_VERSION}/workflows/{uuid4()}/pause", b"{}", if_lost=QUESTION)
            try:
                await self._channel.request(ask)
            except RemoteError as error:
                self._may_act, self._asked_at = error.status != _FORBIDDEN, time.monotonic()
            except DyrygentError:
                return True
        return self._may_act

    async def grafana(self) -> str:
        """Return where the daemon says that Grafana is; empty if nobody answers, or an older one does."""
        try:
            told = wire.decode_any(await self._channel.request(Ask("GET", "/page/mode.json")), dict[str, object])
        except DyrygentError:
            return ""
        return str(told.get("grafana", ""))


def user_name() -> str:
    """Return as whom the daemon knows this process."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
