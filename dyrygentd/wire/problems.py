"""Errors as problem documents (RFC 9457)."""

from typing import Any, Final

import msgspec

from dyrygentd.errors import DyrygentError, NotOnDiskYet, RemoteError, RemoteNotOnDiskYet, RemoteUnavailable

#: Characters of one text in a problem document.
_TEXT_MAX: Final = 1500


#: Statuses of what may be possible later.
UNAVAILABLE: Final = frozenset({429, 503})

#: The media type of a problem document (RFC 9457).
PROBLEM: Final = "application/problem+json"


def is_problem(status: int, content_type: str | None) -> bool:
    """Tell whether an answer is a problem document: every error is, and so is what is accepted but not done yet."""
    return status >= 400 or (content_type or "").partition(";")[0].strip().lower() == PROBLEM


def problem_of(error: DyrygentError) -> dict[str, Any]:
    """Describe an error as a problem document: status, what, which, next step."""
    return {
        "type": f"https://dyrygentd.invalid/problems/{error.code}",
        "title": error.code.replace("-", " "),
        "status": error.status,
        "detail": _shortened(error.message),
        "code": error.code,
        "next_step": _shortened(error.next_step),
        "facts": {name: _shortened(fact) for name, fact in error.facts.items()},
    }


def _shortened(fact: Any) -> Any:
    """Cut the middle out of a long text: whoever sends megabytes need not be sent them back."""
    if not isinstance(fact, str) or len(fact) <= _TEXT_MAX:
        return fact
    half = _TEXT_MAX // 2
    return f"{fact[:half]} … {fact[-half:]}"


def error_of_problem(body: bytes, status: int) -> RemoteError:
    """Read a problem document back; anything else becomes an error that quotes the beginning of the body."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = {"detail": body[:200].decode(errors="replace").strip() or f"HTTP status {status}"}
    kind = RemoteUnavailable if status in UNAVAILABLE else RemoteError
    if document.get("code") == NotOnDiskYet.code:
        kind = RemoteNotOnDiskYet
    return kind(
        str(document.get("detail", f"HTTP status {status}")),
        status=status,
        code=str(document.get("code", "unknown")),
        next_step=str(document.get("next_step", "")),
        document=document,
    )
