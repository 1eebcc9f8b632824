"""Values as JSON text."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from dyrygentd.canvas import decode_value, encode_value
from dyrygentd.errors import DyrygentError


@pytest.mark.parametrize("value", [None, 1, "ż", [1, {"a": None}], Decimal("1.5"), b"\xff", datetime(2030, 1, 1, tzinfo=UTC)])
def test_value_round_trip(value: Any) -> None:
    """What is encoded is decoded as the same, with the types that kombu knows."""
    assert decode_value(encode_value(value)) == value


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b'{"__type__":"x","__value__":1}', b'{"__type__":"datetime","__value__":1}', b"[" * 100_000]
)
def test_malformed_value_is_our_error(text: bytes) -> None:
    """Text that cannot be read raises an error of this package, whatever the reason."""
    with pytest.raises(DyrygentError, match="not valid JSON"):
        decode_value(text)


@pytest.mark.parametrize("value", [object(), float("nan"), {"x": {1, 2}}])
def test_value_json_cannot_carry_is_our_error(value: Any) -> None:
    """A value that cannot be written raises an error of this package, with its type."""
    with pytest.raises(DyrygentError, match=f"JSON cannot carry the {type(value).__name__}"):
        encode_value(value)
