"""Spans of time and numbers as people read them."""

import pytest

from dyrygentd.core.words import counted, described, span, span_range, without_particulars


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (43, "43 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (3600, "1 h"),
        (90_000, "1 d 1 h"),
        (86_400 * 1234, "1,234 d"),
    ],
)
def test_two_largest_units(seconds: float, text: str) -> None:
    """More than two units is more than anybody reads, and a span in the past is none."""
    assert span(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.24, "4.2 s"), (-1, "0.0 s"), (9.99, "10.0 s"), (10, "10 s")])
def test_short_spans_are_fine_where_asked(seconds: float, text: str) -> None:
    """What takes seconds differs by tenths."""
    assert span(seconds, is_fine=True) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 nodes"), (1, "1 node"), (3812, "3,812 nodes")])
def test_one_or_many(number: int, text: str) -> None:
    """One node is no nodes."""
    assert counted(number, "node") == text


def test_errors_of_others() -> None:
    """By their class, and what they say if they say anything."""
    assert (described(ValueError("no")), described(KeyError())) == ("ValueError: no", "KeyError")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0, 0.4, "0 s"),
        (3.2, 3.4, "3 s"),
        (40.0, 70.0, "40 to 70 s"),
        (100.0, 130.0, "1.7 to 2.2 min"),
        (700.0, 1100.0, "12 to 18 min"),
        (3600.0, 9000.0, "1 to 2.5 h"),
        (86400.0, 20 * 86400.0, "1 to 20 d"),
    ],
)
def test_a_range_in_one_unit(low: float, high: float, words: str) -> None:
    """Two numbers of one unit are read at one look."""
    assert span_range(low, high) == words


def test_what_errors_of_one_kind_have_in_common() -> None:
    """Names and numbers differ, words do not; it is an id, and as short as one."""
    assert without_particulars("item 1,200 of 'a b' has 5 bytes, not '7'") == "item … of … has … bytes, not …"
    assert len(without_particulars("x" * 900)) == 200
