"""How much of the same is tried: by seeds, examples and rounds."""

import os
from typing import Final

_LONG: Final = "DYRYGENTD_TEST_LONG"


def try_more() -> None:
    """Have all there is tried, as with ``--long``, in this process and in those that it starts."""
    os.environ[_LONG] = "1"


def of_size(quick: int, long: int) -> int:
    """Return the second number with ``--long``, as CI runs the tests, and else the first, which has to find what breaks often."""
    return long if _LONG in os.environ else quick
