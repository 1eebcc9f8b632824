"""What is wrong with a signature, and words for it."""

import difflib
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "info"]


class Fault(NamedTuple):
    """What is wrong with a signature, wherever it stands."""

    code: str
    subject: str = ""
    said: str = ""
    severity: Severity | None = None
    next_step: str = ""


def listing(names: Sequence[str]) -> str:
    """Return names in backticks."""
    return ", ".join(f"`{name}`" for name in names)


def resembling(name: str, known: Collection[str]) -> str:
    """Return a question for the known name that is most like this one; empty if none is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
