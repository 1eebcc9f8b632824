"""What the message of a task says about dyrygentd, from a `Context` or a plain dictionary."""

from typing import Any, Final

#: The stamp on each of the daemon's messages (`dyrygentd.transport.message`, which workers need not load).
WORKFLOW_STAMP: Final = "dyrygentd_workflow"
#: The header of the same messages that says where to report, see `dyrygentd.ports.facts.REPORTS_HEADER`.
REPORTS_HEADER: Final = "dyrygentd_reports"
_PLACES: Final = ("backend", "broker")


def attribute(request: Any, name: str) -> Any:
    """Return what a request has under this name, None if it has nothing."""
    return request.get(name) if hasattr(request, "get") else getattr(request, name, None)


def header_of(request: Any) -> dict[str, Any] | None:
    """Return our header."""
    header = attribute(request, REPORTS_HEADER)
    if header is None:
        header = (attribute(request, "headers") or {}).get(REPORTS_HEADER)
    return header if isinstance(header, dict) else None


def is_for(header: dict[str, Any], request: Any) -> bool:
    """Tell whether a header is meant for this task: what stands in a task's place has it too, and ends under its id or not."""
    return header.get("of") in (None, attribute(request, "id"))


def place_of(request: Any) -> dict[str, Any] | None:
    """Return where to report; None if nobody reads that."""
    header = header_of(request)
    if header is None or not isinstance(header.get("stream"), str) or header.get("in") not in _PLACES:
        return None
    return header


def addition_bytes_max(request: Any) -> int:
    """Return how long the definition may be that a task adds; 0 if it can add nothing."""
    header = header_of(request)
    most = None if header is None or not is_for(header, request) else header.get("adds")
    return most if isinstance(most, int) and most > 0 and not attribute(request, "is_eager") else 0
