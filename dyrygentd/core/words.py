"""How spans of time, numbers and errors are written for people, everywhere in one form."""

import re
from typing import Final

#: What differs between errors of one kind.
_PARTICULARS: Final = re.compile(r"'[^']*'|\d[\d,.]*")
_KIND_LENGTH_MAX: Final = 200
_UNITS: Final = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


def span(seconds: float, *, is_fine: bool = False) -> str:
    """Write a span of time in its two largest units: ``43 s``, ``12 min 5 s``, ``1 d``.

    Args:
        is_fine: Write what is shorter than ten seconds as ``4.2 s``.
    """
    if is_fine and seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = max(0, round(seconds))
    for unit, size, smaller, smaller_size in _UNITS:
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def span_range(low: float, high: float) -> str:
    """Write a range of time in one unit: ``12 to 18 min``, ``40 to 70 s``; ``12 min`` if both are alike."""
    unit, size = next((each for each in (("d", 86400), ("h", 3600), ("min", 60)) if high >= 2 * each[1]), ("s", 1))
    # One digit behind the point where whole numbers would say too little.
    digits = 1 if unit != "s" and high / size < 10 else 0
    first, last = (f"{max(0.0, value) / size:.{digits}f}".removesuffix(".0") for value in (low, high))
    return f"{last} {unit}" if first == last else f"{first} to {last} {unit}"


def counted(number: int, word: str) -> str:
    """Write ``1 node`` or ``3,812 nodes``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def described(error: BaseException) -> str:
    """Write an error of somebody else's code: ``ValueError: why``, or its class alone if it says nothing."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def without_particulars(text: str) -> str:
    """Return a text without names in quotation marks and numbers, which are what differs between errors of one kind."""
    return _PARTICULARS.sub("…", text)[:_KIND_LENGTH_MAX]
