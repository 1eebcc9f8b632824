"""Pickles as data: what is read, and that nothing in them can run, change or fill anything."""

import datetime
import decimal
import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.transport.inert import Called, NotData, PickledName, data_of_pickle


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, None, 2.5, True, "ä", b"\xff", (1, 2)], 2: 10**30, (1, "x"): []},
        datetime.datetime(2030, 1, 31, tzinfo=datetime.UTC),
        datetime.timedelta(days=3),
        decimal.Decimal("1.50"),
        uuid.UUID(int=7),
        {1, 2},
        frozenset(["x"]),
        [[1], [1]] * 50,
    ],
)
def test_data_is_read(value: Any, protocol: int) -> None:
    """Plain data, and what kombu's JSON has a form for, is read as pickle reads it."""
    assert data_of_pickle(pickle.dumps(value, protocol)) == value


class _Leaves:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_called(tmp_path: Path, protocol: int) -> None:
    """A call is a record of what would have been called."""
    read = data_of_pickle(pickle.dumps({"x": _Leaves(tmp_path / "made")}, protocol))
    assert isinstance(read["x"], Called)
    assert (read["x"].name, read["x"].arguments) == (PickledName("posix", "mkdir"), (str(tmp_path / "made"),))
    assert not (tmp_path / "made").exists()


def test_exceptions_stay_names() -> None:
    """An exception is told by its name and arguments."""
    read = data_of_pickle(pickle.dumps(ValueError("no", 3)))
    assert isinstance(read, Called)
    assert (read.name, read.arguments) == (PickledName("builtins", "ValueError"), ("no", 3))


def _shared() -> Any:
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    return value


_UUID = b"cuuid\nUUID\n"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\x04.",
        b"not a pickle",
        # Changes a class that is on the stack.
        _UUID + b"(N}Vhex\nVpoisoned\nstb.",
        # Sets an item of something, appends to something, adds to something.
        _UUID + b"Vhex\nI1\ns.",
        _UUID + b"I1\na.",
        _UUID + b"(I1\n\x90.",
        # Calls what is no name, a class by a number, an object outside.
        b"Vabc\n(tR.",
        b"\x82\x01.",
        b"Pabc\n.",
        # Makes room.
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        b"\x97.",
        # Keys that are hashed without end.
        b"}" + b")" + b"\x85" * 100_000 + b"I1\ns.",
        b"(" * 100_000 + b"]" + b"a" * 5,
        pickle.dumps(_shared()),
    ],
)
def test_nothing_else_is_done(payload: bytes) -> None:
    """What changes, makes room, or means far more than it says is refused."""
    with pytest.raises(NotData):
        data_of_pickle(payload)
    assert uuid.UUID(int=1).hex != "poisoned"


def test_a_large_memo_takes_no_room() -> None:
    """A pickle may name any place of its memo."""
    assert data_of_pickle(b"I1\nr\xff\xff\xff\x7f.") == 1
