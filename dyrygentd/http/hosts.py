"""Which Host and Origin headers are taken on TCP: a page of a stranger in somebody's browser must not read what a daemon shows.

A browser sends what a page asks for to wherever the page's name leads, and the owner of that name may have it lead here (DNS
rebinding). So a *name* in the Host header has to be known: this machine's, that of `listen`, or one of `hosts`. An address is no
name, nobody can have it lead elsewhere. Who comes by loopback says localhost.
"""

import ipaddress
import socket
from collections.abc import Collection
from typing import Final

import anyio
import anyio.to_thread
from aiohttp import web

from dyrygentd.http.problems import ForeignHost, ForeignOrigin
from dyrygentd.http.sockets import host_of, is_loopback

_ANY: Final = "*"
#: A name service that does not answer is not waited for: this machine then has its short name alone.
_LOOKUP_TIMEOUT_S: Final = 2.0


async def own_names(listen: str | None = None) -> frozenset[str]:
    """Return what this machine is called, and the name in ``listen``."""
    names = {socket.gethostname(), *([host_of(listen)] if listen else [])}
    with anyio.move_on_after(_LOOKUP_TIMEOUT_S):
        names.add(await anyio.to_thread.run_sync(socket.getfqdn, abandon_on_cancel=True))
    return frozenset(host_of(name) for name in names if name)


def check_host(request: web.Request, *, allowed: Collection[str], own: Collection[str]) -> None:
    """Refuse what a page of strangers may have asked for. A Unix socket has no browsers.

    Args:
        allowed: Names that are taken beside one's own; with ``*`` any.

    Raises:
        ForeignHost, ForeignOrigin
    """
    transport = request.transport
    address = None if transport is None else transport.get_extra_info("sockname")
    if not isinstance(address, tuple) or _ANY in allowed:
        return
    origin = request.headers.get("Origin")
    asking = None if origin is None else origin.partition("://")[2]
    names = {name.lower() for name in (*allowed, *own)}
    # Not `request.host`, which asks the name service if there is none. Browsers always send one.
    given = request.headers.get("Host")
    host, is_here = host_of(given or ""), is_loopback(str(address[0]))
    if given is None:
        is_known = True
    elif is_here:
        is_known = is_loopback(host) or host in {name.lower() for name in allowed}
    else:
        is_known = _is_address(host) or host in names
    if not is_known:
        raise ForeignHost(given or "")
    if origin is None or asking is None:
        return
    # Of an address any page may say that it is one's own, so that another's is no reason.
    if not ((is_here and is_loopback(asking)) or host_of(asking) in (names if not is_here else set(allowed)) | {host}):
        raise ForeignOrigin(origin)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
