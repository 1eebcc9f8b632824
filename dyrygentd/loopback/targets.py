"""What is passed on to the daemon: what the page shows, and the verbs. No I/O.

Left out are submissions and imports, for which the page has no form, and `definition` and `export`: these have the arguments
and values of tasks as they are, while the page shows what the redaction has left of them.
"""

from typing import Final
from urllib.parse import quote, unquote

from dyrygentd import wire
from dyrygentd.core.verbs import WORKFLOW_VERBS, Verb
from dyrygentd.loopback.refusals import NotPassedOn

WITHHELD: Final = frozenset({"definition", "export"})
_OF_DAEMON: Final = frozenset({"workflows", "journal", "explain", "stats", "run-times", "openapi.json", "definition.schema.json"})
_OF_WORKFLOW: Final = frozenset({"nodes", "fold", "timeline", "estimate", "events", "summary", "causes", "journal", "explain"})
_HEALTH: Final = frozenset({"/healthz", "/readyz"})
_VERBS: Final = frozenset(Verb)


def target_of(method: str, path: str, query: str) -> str:
    """Return the target for the daemon of what a browser asks. Raises `NotPassedOn`.

    Args:
        path: As it came, percent-encoded: a name may have a slash in it.
        query: As it came, without the question mark.
    """
    if method == "GET" and path in _HEALTH and not query:
        return path
    parts = [unquote(part) for part in path.split("/")]
    # Segments like these would lead elsewhere.
    is_plain = all(part not in ("", ".", "..") for part in parts[2:]) and "\\" not in path
    if parts[:2] != ["", wire.API_VERSION] or not is_plain or not _is_listed(method, parts[2:]):
        raise NotPassedOn(method, path)
    written = "/".join(quote(part, safe="") for part in parts)
    return f"{written}?{query}" if query else written


def _is_listed(method: str, parts: list[str]) -> bool:
    match method, parts:
        case "GET", [word]:
            return word in _OF_DAEMON
        case "GET", ["workflows", _]:
            return True
        case "GET", ["workflows", _, word]:
            return word in _OF_WORKFLOW
        case "GET", ["workflows", _, "nodes", _] | ["workflows", _, "nodes", _, "explain"] | ["workflows", _, "fold", "events"]:
            return True
        case "POST", ["workflows", _, word]:
            return word in _VERBS
        case "POST", ["bulk", word]:
            return word in WORKFLOW_VERBS
        case _:
            return False
