"""The forms as an OpenAPI document refers to them."""

import pytest

from dyrygentd import wire
from dyrygentd.wire import encoding


def test_schemas_name_each_form() -> None:
    """The OpenAPI document refers to the forms by their names."""
    assert {"WorkflowPage", "WorkflowView"} <= set(wire.schemas([wire.WorkflowPage]))


@pytest.mark.parametrize("window", [1, 7, 64])
def test_umlauts_at_the_windows_end_are_text(window: int) -> None:
    """A character of several bytes may lie on the boundary, and half of one at the end may not."""
    encoding.check_text(("ü€😀" * 50).encode(), window=window)
    for wrong in (b"\xff", ("ü" * 50).encode()[:-1], b"abc\xc3("):
        with pytest.raises(UnicodeDecodeError):
            encoding.check_text(wrong, window=window)
