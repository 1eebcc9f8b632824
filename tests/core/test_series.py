"""The name of a series, what is done if one is running, and what people are told of a decision."""

import pytest

from dyrygentd.core.series import SERIES_LENGTH_MAX, Admission, IfRunning, Series, SeriesWord, series_of, words_of
from dyrygentd.errors import BadRequest


@pytest.mark.parametrize("name", ["a", "backup/gra1", "nightly@db-1:5432", "x" * SERIES_LENGTH_MAX, "7.2_b+c"])
def test_names_that_need_no_quotes(name: str) -> None:
    """What labels, units and shells take as it is."""
    assert series_of(name) == Series(name, IfRunning.ALLOW)


@pytest.mark.parametrize("name", ["", " a", "a b", "-a", "/a", "nächtlich", "a\nb", "x" * (SERIES_LENGTH_MAX + 1), 7, ["a"]])
def test_names_that_are_refused(name: object) -> None:
    """The error names the field and says what is allowed."""
    with pytest.raises(BadRequest, match=r"`series` is") as refused:
        series_of(name)
    assert refused.value.path == "$.series"
    assert "1 to 100 of the characters" in refused.value.next_step


def test_no_series() -> None:
    """Nothing given is none; what to do about others needs one."""
    assert series_of(None) is None
    with pytest.raises(BadRequest, match="there is no `series`") as refused:
        series_of(None, "skip")
    assert refused.value.path == "$.if_running"


def test_words_for_if_running() -> None:
    """All four, and the next step names them if it is another one."""
    assert [series_of("a", each) for each in IfRunning] == [Series("a", each) for each in IfRunning]
    with pytest.raises(BadRequest, match="`if_running` is 'wait'") as refused:
        series_of("a", "wait")
    assert refused.value.next_step == "use one of allow, skip, queue_one, cancel_old"


def test_what_is_given_goes_before_what_is_there() -> None:
    """Either half may be given alone."""
    present = Series("a", IfRunning.SKIP)
    assert series_of(None, present=present) == present
    assert series_of("b", present=present) == Series("b", IfRunning.SKIP)
    assert series_of(None, "queue_one", present=present) == Series("a", IfRunning.QUEUE_ONE)


def test_words() -> None:
    """Ids are short; what everybody expects needs no words."""
    many = tuple(f"{number}0000000-more" for number in range(5))
    assert not words_of("s", Admission(SeriesWord.BEGAN))
    assert words_of("s", Admission(SeriesWord.SKIPPED, "12345678-9")) == "skipped: run 12345678 of series 's' goes on"
    assert words_of("s", Admission(SeriesWord.QUEUED, "12345678-9")) == "it begins when run 12345678 of series 's' has ended"
    replaced = words_of("s", Admission(SeriesWord.QUEUED, "12345678-9", ("abcdefgh-i",)))
    assert replaced.endswith("; it takes the place of abcdefgh, which is cancelled")
    ended = words_of("s", Admission(SeriesWord.BEGAN, ended=many))
    assert ended == "cancelled for it, of series 's': 00000000, 10000000, 20000000 and 2 more"
