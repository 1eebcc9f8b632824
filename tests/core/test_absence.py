"""For how long no daemon ran: what a note about it tells, and when it tells nothing."""

import pytest

from dyrygentd.core.absence import Absence, note_of


def test_note_is_read_back() -> None:
    """What one daemon writes, the next one reads."""
    assert Absence.of_note(note_of(10.0, was_killed=True), until=12.5) == Absence(10.0, 12.5, was_killed=True)


@pytest.mark.parametrize("note", [None, "", "1", "{}", '{"at": "noon", "killed": false}', note_of(13.0, was_killed=False)])
def test_notes_that_tell_nothing(note: str | None) -> None:
    """No note, one of something else, and one from the future, as after a clock was put back, are no absence."""
    assert Absence.of_note(note, until=12.5) is None


@pytest.mark.parametrize(
    ("dispatched_at", "kept_s", "may"),
    [(50.0, 60.0, True), (50.0, 120.0, False), (250.0, 60.0, False), (0.0, 60.0, False), (50.0, 0.0, False)],
)
def test_results_that_expired_unseen(dispatched_at: float, kept_s: float, may: bool) -> None:
    """Only a result that was sent before, and is kept for less than the absence, may have come and gone meanwhile."""
    assert Absence(100.0, 200.0).may_have_hidden(dispatched_at=dispatched_at, kept_s=kept_s) is may
