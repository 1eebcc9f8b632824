"""Bars and letters: what there is at all is seen, at every width, with and without colours."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dyrygentd.cli.tui.lines import EntryLine
from dyrygentd.cli.tui.marks import ASCII, STATES, UNICODE, bar, cells, counts, glyphs_of, letter
from dyrygentd.core.states import NodeState
from dyrygentd.wire import JournalView

ANY = st.dictionaries(st.sampled_from([*STATES, "of a newer daemon"]), st.integers(0, 10**7))


def test_each_state_has_a_letter() -> None:
    """A state of the core without a letter would be a question mark to everybody."""
    assert {state.word for state in NodeState} == set(STATES)


@given(ANY, st.integers(1, 60))
def test_bars_are_as_wide_as_they_may_be(states: dict[str, int], width: int) -> None:
    """One failure among ten million has a place of its own, if there is one for each state."""
    found = cells(states, width)
    there = {word for word, count in states.items() if count}
    assert sum(found.values()) == (width if there else 0)
    assert bar(states, width).cell_len == sum(found.values())
    assert found.keys() == there if len(there) <= width else len(found) == width
    assert len(found) >= width or min(found.values(), default=1) >= 1


def test_failures_stay_where_there_is_no_room() -> None:
    """Of six states in two columns those stay that somebody has to do something about."""
    states = dict.fromkeys(("succeeded", "waiting", "ready", "failed", "held", "skipped"), 5)
    assert cells(states, 2) == {"held": 1, "failed": 1}


def test_bars_are_told_apart_without_colours() -> None:
    """The letters say it all, in ASCII too."""
    states = {"succeeded": 5, "dispatched": 2, "waiting": 2, "failed": 1}
    assert bar(states, 10).plain == "SSSSSRR··F"
    assert bar(states, 10, ASCII).plain == "SSSSSRRwwF"
    assert letter("waiting", ASCII).plain == "w"
    assert letter("of a newer daemon").plain == "?"


@given(ANY, st.integers(20, 100))
def test_counts_fit(states: dict[str, int], width: int) -> None:
    """What says most comes first, and that something is left out is said."""
    line = counts(states, width)
    assert line.cell_len <= max(width, 32)
    if states.get("failed"):
        assert line.plain.startswith("F failed ")
    if sum(count > 0 for count in states.values()) > line.plain.count("   ") + 1:
        assert line.plain.endswith("…")


@given(st.text(), st.integers(1, 40), st.sampled_from([UNICODE, ASCII]))
def test_texts_are_cut_to_columns(text: str, width: int, glyphs: object) -> None:
    """Whatever it is made of, wide characters too, it takes the columns that it is given."""
    for signs in (UNICODE, ASCII):
        shown = signs.plain(text)
        assert shown.isprintable()
        assert cell_len(signs.fitted(shown, width)) == width
    assert ASCII.plain(text).isascii()


def test_names_keep_both_ends() -> None:
    """Names of a program begin alike."""
    assert UNICODE.fitted("replace-gra1-osd-42", 11) == "repla…sd-42"
    assert ASCII.fitted("replace-gra1-osd-42", 11) == "repla..d-42"
    assert UNICODE.fitted("short", 8) == "short   "
    # An entry of the journal is a sentence: its end is what can be left out.
    line = EntryLine(0, JournalView(at=0.0, verb="retry", by="ada (uid 7)", nodes=["a"], count=1, why="the mail server knows us"))
    drawn = line.draw(42, UNICODE).plain
    assert cell_len(drawn) == 42
    assert re.search(r" ada retry 1 node: a \(th[a-z ]*…$", drawn)
    assert (ASCII.begun("will-retry", 7), UNICODE.begun("will", 1), UNICODE.begun("a", 3)) == ("will-..", "w", "a  ")


@pytest.mark.parametrize(
    ("environment", "is_ascii"),
    [
        ({"LANG": "C.UTF-8"}, False),
        ({"LANG": "de_DE.utf8"}, False),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, True),
        ({"LC_CTYPE": "C.UTF-8", "LANG": "C"}, False),
        ({}, True),
    ],
)
def test_the_locale_says_which_signs(environment: dict[str, str], is_ascii: bool) -> None:
    """A terminal that shows ASCII alone gets nothing else."""
    assert glyphs_of(environment).is_ascii is is_ascii
