"""Errors as problem documents (RFC 9457)."""

from typing import Any

import msgspec

from dyrygentd.errors import DyrygentError, RemoteError


def problem_of(error: DyrygentError) -> dict[str, Any]:
    """Describe an error as a problem document: status, what, which, next step."""
    return {
        "type": f"https://dyrygentd.invalid/problems/{error.code}",
        "title": error.code.replace("-", " "),
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "next_step": error.next_step,
        "facts": error.facts,
    }


def error_of_problem(body: bytes, status: int) -> RemoteError:
    """Read a problem document back; anything else becomes an error that quotes the beginning of the body."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = {"detail": body[:200].decode(errors="replace").strip() or f"HTTP status {status}"}
    return RemoteError(
        str(document.get("detail", f"HTTP status {status}")),
        status=status,
        code=str(document.get("code", "unknown")),
        next_step=str(document.get("next_step", "")),
        document=document,
    )
