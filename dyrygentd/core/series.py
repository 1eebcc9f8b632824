"""A series: a name under which runs follow each other, and what a new run does while an older one goes on.

Whose series it is goes by its owner, as keys do: those of two users never meet.
"""

import re
from enum import StrEnum
from typing import Final, NamedTuple

from dyrygentd.core.user import User
from dyrygentd.errors import BadRequest

#: It stands in labels of metrics, in names of units and on command lines, where nobody wants to quote.
SERIES_LENGTH_MAX: Final = 100
SERIES_NAME: Final = rf"[A-Za-z0-9][A-Za-z0-9._:/@+-]{{0,{SERIES_LENGTH_MAX - 1}}}"
SERIES_RULE: Final = f"1 to {SERIES_LENGTH_MAX} of the characters A-Z a-z 0-9 . _ : / @ + -, a letter or digit first"
_NAME: Final = re.compile(SERIES_NAME)


class IfRunning(StrEnum):
    """What is done with a submission while another run of its series has not finished."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE_ONE = "queue_one"
    CANCEL_OLD = "cancel_old"


class Series(NamedTuple):
    """What a submission says of its series."""

    name: str
    if_running: IfRunning = IfRunning.ALLOW


class SeriesWord(StrEnum):
    """What was decided about a submission of a series."""

    BEGAN = "began"
    QUEUED = "queued"
    SKIPPED = "skipped"


class Admission(NamedTuple):
    """What the engine has decided about a submission of a series.

    Attributes:
        going: The run that goes on, because of which it waits or was skipped.
        ended: Runs that were cancelled because of it: all older ones, or the one that waited before.
        key, owner: Of the submission; a key that was skipped is free again.
    """

    word: SeriesWord
    going: str = ""
    ended: tuple[str, ...] = ()
    owner: User | None = None
    key: str | None = None


def is_series_name(text: object) -> bool:
    """Tell whether a series may be called so."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def series_of(name: object, if_running: object = None, *, present: Series | None = None) -> Series | None:
    """Return the series that is meant; None if there is none.

    Args:
        name, if_running: As they were given.
        present: What holds where nothing was given.

    Raises:
        BadRequest: It says what is allowed.
    """
    if present is not None:
        name, if_running = present.name if name is None else name, if_running or present.if_running
    if name is None and if_running is None:
        return None
    if name is None:
        raise BadRequest(
            f"`if_running` is {if_running!s:.60}, and there is no `series`",
            path="$.if_running",
            next_step="name the series whose other runs are meant",
        )
    if not is_series_name(name):
        raise BadRequest(f"`series` is {name!r:.60}", path="$.series", next_step=f"use {SERIES_RULE}")
    try:
        return Series(str(name), IfRunning(str(if_running or IfRunning.ALLOW)))
    except ValueError:
        allowed = ", ".join(IfRunning)
        raise BadRequest(f"`if_running` is {if_running!r:.60}", path="$.if_running", next_step=f"use one of {allowed}") from None


def words_of(series: str, admission: Admission) -> str:
    """Say what was decided; empty if it is what everybody expects."""
    going, ended = admission.going, ", ".join(each[:8] for each in admission.ended[:3])
    more = f" and {len(admission.ended) - 3} more" if len(admission.ended) > 3 else ""
    match admission.word:
        case SeriesWord.SKIPPED:
            return f"skipped: run {going[:8]} of series '{series}' goes on"
        case SeriesWord.QUEUED:
            replaced = f"; it takes the place of {ended}, which is cancelled" if ended else ""
            return f"it begins when run {going[:8]} of series '{series}' has ended{replaced}"
        case SeriesWord.BEGAN:
            return f"cancelled for it, of series '{series}': {ended}{more}" if ended else ""
