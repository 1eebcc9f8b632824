"""Values for messages: kombu's own types are made, an app's own stay text unless another serializer needs them."""

import datetime
import decimal
import json
import uuid
from typing import Any

import pytest
from kombu.utils.json import dumps, loads

from dyrygentd.transport.values import read_value


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, None, "ä", 2.5]},
        datetime.datetime(2030, 1, 31, tzinfo=datetime.UTC),
        datetime.date(2030, 1, 31),
        datetime.time(1, 2),
        decimal.Decimal("1.50"),
        uuid.UUID(int=7),
        b"abc",
        b"\xff",
        {"in": [uuid.UUID(int=7)]},
    ],
)
def test_what_kombu_knows(value: Any) -> None:
    """These are what Celery makes of them, so that routes, signals and monitors see the same."""
    text = dumps(value).encode()
    assert read_value(text) == loads(text) == value


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "model", "__value__": ["shop.Order", 7]},
        {"__type__": ["no", "name"], "__value__": 1},
        {"__type__": "decimal", "__value__": 1, "more": 2},
    ],
)
def test_what_only_the_app_knows(value: Any) -> None:
    """Types of others are handed on as they are written, whatever is in them."""
    assert read_value(json.dumps([value]).encode()) == [value]


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "datetime", "__value__": "tomorrow"},
        {"__type__": "uuid", "__value__": {}},
        {"__type__": "decimal", "__value__": "x"},
    ],
)
def test_what_no_worker_can_read(value: Any) -> None:
    """A value of one of kombu's types that is none is refused, since a worker throws the whole message away."""
    text = json.dumps([value])
    with pytest.raises(ValueError, match=value["__type__"]):
        read_value(text.encode())
    with pytest.raises((ValueError, TypeError, LookupError, ArithmeticError)):
        loads(text)
