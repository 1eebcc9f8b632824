"""What lost tasks have in common, told by what is kept of each, so that one command is for all of them."""

from typing import Final

#: Words in what is kept of a lost task, by which it is known that another attempt would end in the same way.
ENDED_SILENTLY: Final = "ended without a result"
#: Words by which it is known that it may have ended while no daemon ran.
EXPIRED: Final = "its result has expired"
#: Words by which it is known that the broker had lost its memory.
EMPTIED: Final = "the broker was emptied"
#: Words by which it is known that workers could not store results while it was in flight.
AWAY: Final = "the result backend was away"
#: All that was lost, in the place of the number or id of a cause.
LOST: Final = "lost"


def fingerprint_of_lost(error: str) -> str:
    """Return what lost tasks of one cause have in common; it begins with `LOST`."""
    for words in (EMPTIED, AWAY, ENDED_SILENTLY, EXPIRED):
        if words in error:
            return f"{LOST}: {words}"
    return LOST


def is_of_lost(fingerprint: str) -> bool:
    """Tell whether a fingerprint is one of lost tasks."""
    return fingerprint == LOST or fingerprint.startswith(f"{LOST}: ")
