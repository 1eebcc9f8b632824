"""What a request says beside its body: the query, the path and a header, checked and made into values.

Guards: what is not as it should be is refused with the parameter's name and what it may be (`BadRequest`).
"""

from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from dyrygentd.core.graph import Definition
from dyrygentd.core.verbs import Verb
from dyrygentd.errors import BadRequest
from dyrygentd.http.limits import PageLength
from dyrygentd.http.problems import UnknownVerb

#: The year 9999; what is later is no time.
LATEST: Final = 253_402_300_799.0


def with_key(definition: Definition, key: str | None) -> Definition:
    """Return a definition with the key of its request's header. The two must not differ."""
    if key is None:
        return definition
    try:
        # What is no ASCII in a header comes as halves of characters.
        key = key.encode(errors="surrogateescape").decode()
    except UnicodeError:
        raise BadRequest("the key is no UTF-8", path="Idempotency-Key", next_step="give it as `key` in the definition") from None
    if not 1 <= len(key) <= 200:
        raise BadRequest("a key has 1 to 200 characters", path="Idempotency-Key")
    if definition.key not in (None, key):
        raise BadRequest(f"the header says key '{key}', the definition '{definition.key}'", path="Idempotency-Key")
    return replace(definition, key=key)


def states(request: web.Request, known: Any) -> frozenset[str]:
    """Return the states that the query asks for, each one of ``known``."""
    words = frozenset(word for text in request.query.getall("state", []) for word in text.split(",") if word)
    unknown = sorted(words - {str(word) for word in known})
    if unknown:
        raise BadRequest(f"'{unknown[0]}' is no state", path="state", next_step=f"use one of {', '.join(known)}")
    return words


def verb(request: web.Request) -> Verb:
    """Return the verb in the path."""
    word = request.match_info["verb"]
    try:
        return Verb(word)
    except ValueError:
        raise UnknownVerb(word, list(Verb)) from None


def labels(request: web.Request) -> dict[str, str]:
    """Return the labels that the query asks for."""
    wanted = {}
    for text in request.query.getall("label", []):
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadRequest(f"label '{text}' is not of the form k=v", path="label")
        wanted[name] = value
    return wanted


def integer(request: web.Request, name: str, *, default: int | None, least: int, most: int = 2**63 - 1) -> int | None:
    """Return a whole number of the query, ``default`` if it is not given."""
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not least <= int(text) <= most:
        bounds = f"from {least} to {most}" if most < 2**63 - 1 else "as the previous page gave it"
        raise BadRequest(f"`{name}` must be a whole number, {bounds}", path=name)
    return int(text)


def length(request: web.Request, page: PageLength) -> int:
    """Return how long a page is wanted. Raises `BadRequest`."""
    return integer(request, "limit", default=page.default, least=1, most=page.most) or page.default


def number(request: web.Request, name: str, *, least: float, most: float) -> float:
    """Return a number of the query, 0 if it is not given."""
    text = request.query.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise BadRequest(f"`{name}` must be a number from {least:g} to {most:g}", path=name)
    return value


def at(request: web.Request, name: str) -> float | None:
    """Return a time that the query gives."""
    return number(request, name, least=0, most=LATEST) if name in request.query else None


def flag(request: web.Request, name: str) -> bool:
    """Return whether the query asks for something."""
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise BadRequest(f"`{name}` must be true or false", path=name)
    return text in ("true", "1")
