"""Whether a request comes from the page that was served here, or from another one in the same browser. No I/O.

What a browser says of a request it makes for a page: Host (to which name), Origin (of which page; not with every GET),
Sec-Fetch-Site (how that page stands to this one). No script can change them. Another port of this host is `same-site`, and
another page all the same.
"""

from collections.abc import Mapping
from typing import Final

from dyrygentd.loopback.refusals import StrangersHost, StrangersPage

OWN_HEADER: Final = "X-Dyrygentd-Page"
"""A page of another origin may not send it without asking first (CORS preflight), and is told no."""

_OWN_SITE: Final = "same-origin"
#: Nothing, or what a person has typed.
_HARMLESS_SITES: Final = frozenset({"", _OWN_SITE, "none"})


def check_host(host: str, port: int) -> None:
    """Raise `StrangersHost` unless the Host header names loopback and this port."""
    if host.lower() not in {f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"}:
        raise StrangersHost(host, port)


def check_reading(headers: Mapping[str, str]) -> None:
    """Raise `StrangersPage` if another page asks."""
    _check_origin(headers)
    if headers.get("Sec-Fetch-Site", "") not in _HARMLESS_SITES:
        raise StrangersPage("another page in this browser asks")


def check_acting(headers: Mapping[str, str]) -> None:
    """Raise `StrangersPage` unless all tells that the page served here asks for what changes something."""
    _check_origin(headers)
    site = headers.get("Sec-Fetch-Site", "")
    if site != _OWN_SITE and not (site == "" and "Origin" in headers):
        raise StrangersPage("nothing tells that the page served here asks: neither Sec-Fetch-Site nor Origin")
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise StrangersPage("the body is not declared as JSON, which no form of another page could send")
    if "Content-Encoding" in headers:
        raise StrangersPage("the body is compressed, as the page served here never sends it")
    if headers.get(OWN_HEADER) != "1":
        raise StrangersPage(f"the header `{OWN_HEADER}: 1` is missing, which the page served here sends")


def is_link(headers: Mapping[str, str]) -> bool:
    """Tell whether somebody has followed a link on another page: then no SameSite cookie is sent, even if there is one."""
    return headers.get("Sec-Fetch-Site", "") not in _HARMLESS_SITES and headers.get("Sec-Fetch-Mode") == "navigate"


def _check_origin(headers: Mapping[str, str]) -> None:
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{headers.get('Host', '')}":
        raise StrangersPage(f"the Origin header names '{origin}', another page")
