"""The page: which files there are, how they are typed, and the headers under which a browser gets them.

Plain ES modules, as they stand in `static/`: no build step, nothing from elsewhere. Whoever serves them calls `answer`, so that a
browser is held to the same policy everywhere; only what the page may do differs, which `mode` says.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final

from dyrygentd import __version__

#: What a browser may do with the page: load what comes with it, talk to whoever served it, and nothing else.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # Names of files stay when their contents change with the version, so each is asked for by its tag.
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
    }
)
START: Final = "index.html"
#: Lines that are nothing but comments, a sixth of our modules and style sheets. They stay in the wheel, for who reads the code,
#: and are not sent. Nor is what lines are indented by: nobody sees it, not even in a template. So lines keep their numbers, for
#: who reads an error, and its column counts from where the line begins.
_COMMENTS: Final = re.compile(rb"^[ ]*(?://.*|/\*(?:[^*]|\*(?!/))*\*/)$", re.MULTILINE)
_INDENT: Final = re.compile(rb"^ +", re.MULTILINE)
#: A weight in Accept-Encoding that says no (RFC 9110 12.4.2).
_NEVER: Final = re.compile(r"q=0(?:\.0*)?", re.IGNORECASE)
#: What is served by suffix; anything else in the directory (licences, notes) is shipped and not served.
TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
)


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is served.

    Attributes:
        name: Relative to `/page/`.
        packed: The body as gzip.
        digest: Of the body; tags are made of it.
    """

    name: str
    content_type: str
    body: bytes
    packed: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """What goes back to a browser: the file, or that the one it has is still good."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@cache
def files() -> Mapping[str, PageFile]:
    """Return ``{name: file}`` of all that is served; read once, some 100 kB."""
    found: dict[str, PageFile] = {}
    pending: list[tuple[str, Traversable]] = [("", resources.files(__name__) / "static")]
    while pending:
        prefix, directory = pending.pop()
        for entry in directory.iterdir():
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                pending.append((f"{name}/", entry))
            elif (content_type := TYPES.get(f".{name.rpartition('.')[2]}")) is not None:
                found[name] = _page_file(name, content_type, entry.read_bytes())
    return MappingProxyType(found)


def answer(name: str, headers: Mapping[str, str] = MappingProxyType({})) -> PageAnswer | None:
    """Return what a browser gets that asks for a file, or None if there is no such file.

    Args:
        headers: Of the request; If-None-Match and Accept-Encoding are read.
    """
    file = files().get(name)
    if file is None:
        return None
    is_packed = takes_gzip(headers.get("Accept-Encoding", ""))
    # Other bytes have another tag, or a cache could put halves of both together (RFC 9110 8.8.3).
    tag = f'"{file.digest}-gzip"' if is_packed else f'"{file.digest}"'
    answered = {**HEADERS, "ETag": tag}
    if tag in (known.strip().removeprefix("W/") for known in headers.get("If-None-Match", "").split(",")):
        return PageAnswer(304, answered, b"")
    answered["Content-Type"] = f"{file.content_type}; charset=utf-8"
    if is_packed:
        answered["Content-Encoding"] = "gzip"
    return PageAnswer(200, answered, file.packed if is_packed else file.body)


def mode(*, acts: bool = False, user: str | None = None, grafana: str = "") -> PageAnswer:
    """Return what the page reads first: what it may do here.

    Args:
        acts: Whether verbs are taken, so that the page shows buttons instead of commands to copy.
        user: As whom, if they are.
        grafana: Where Grafana is, if the daemon knows.
    """
    body = json.dumps({"acts": acts, "user": user, "version": __version__, "grafana": grafana}).encode()
    headers = {**HEADERS, "Cache-Control": "no-store", "Content-Type": "application/json"}
    return PageAnswer(200, headers, body)


def _page_file(name: str, content_type: str, body: bytes) -> PageFile:
    if content_type in (TYPES[".js"], TYPES[".css"]) and not name.startswith("vendor/"):
        body = _INDENT.sub(b"", _COMMENTS.sub(lambda found: b"\n" * found[0].count(b"\n"), body))
    return PageFile(
        name=name,
        content_type=content_type,
        body=body,
        packed=gzip.compress(body, mtime=0),
        digest=hashlib.sha256(body).hexdigest()[:24],
    )


def takes_gzip(accepted: str) -> bool:
    """Tell whether a header Accept-Encoding names gzip, and does not say no to it."""
    for each in accepted.split(","):
        coding, _, weight = each.partition(";")
        if coding.strip().lower() == "gzip":
            return not _NEVER.fullmatch(weight.strip())
    return False
