"""Parameters of the user's functions, for `lint` and `submit`."""

import sys
from typing import Any

import pytest

from dyrygentd.tasks.signatures import signature_of

#: Before Python 3.14, what names what nobody has imported has to say that it is text.
_LAZY = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"


def test_annotations_that_name_nothing_do_not_matter() -> None:
    """A type that is imported for type checkers alone hides no parameter: on Python 3.14 it raised a NameError instead."""
    names: dict[str, Any] = {}
    exec(f"{_LAZY}def task(shelf: Shelf, count: int = 1, *more: Shelf) -> Shelf: ...", names)
    signature = signature_of(names["task"])
    assert list(signature.parameters) == ["shelf", "count", "more"]
    assert signature.parameters["count"].default == 1
    assert signature.parameters["shelf"].annotation == "Shelf"


def test_what_is_no_function_is_refused() -> None:
    """As `inspect.signature` does it."""
    with pytest.raises(TypeError):
        signature_of(7)  # type: ignore[arg-type]
