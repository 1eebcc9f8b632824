"""How a command says that it failed: words on stderr, or with ``--json`` one line there that holds a problem document.

On stderr in both forms: what a script has read from stdout is data, or nothing. The document is that of the daemon's HTTP
interface (RFC 9457) with the exit status beside it, so that both are read in one way.
"""

import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import click

_IS_JSON: Final = "dyrygentd.json"
_CODES: Final = {2: "usage", 3: "daemon-unreachable", 130: "interrupted"}
#: What writing may fail with, if it is not that nobody reads any more.
_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def wants_json(arguments: Sequence[str]) -> bool:
    """Tell whether a command line asks for JSON, even if the rest of it is wrong."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def note_form(context: click.Context, *, is_json: bool) -> None:
    """Keep for the whole command in which form errors are told."""
    context.meta[_IS_JSON] = is_json


def is_json() -> bool:
    """Tell whether the present command tells its errors as JSON."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_IS_JSON))


def document_of(
    words: str, *, next_step: str, status: int, code: str = "", document: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return an error as a problem document.

    Args:
        document: The one that it came with, if it did.
    """
    known = code or _CODES.get(status, "failed")
    plain = {"type": f"https://dyrygentd.invalid/problems/{known}", "title": known.replace("-", " "), "code": known}
    return {**plain, **(document or {}), "detail": words, "next_step": next_step, "exit_status": status}


def usage(error: click.ClickException) -> dict[str, Any]:
    """Return an error of usage as a problem document."""
    context = getattr(error, "ctx", None)
    next_step = "" if context is None else f"{context.command_path} --help"
    return document_of(error.format_message(), next_step=next_step, status=error.exit_code)


def write(document: Mapping[str, Any]) -> None:
    """Write a problem document as one line of ASCII, which steers no terminal."""
    click.echo(json.dumps(document, default=str), err=True)


def unwritable(error: OSError) -> str:
    """Return what to say of output that could not be written; empty if the error is of another kind."""
    if error.errno not in _UNWRITABLE or error.filename is not None:
        return ""
    # What is left in the buffer would be tried once more at the end, and complained of with a traceback.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f"cannot write the output: {error.strerror}"
