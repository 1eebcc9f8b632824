"""What one that does not lead says beside its answers."""

import pytest

from dyrygentd import wire


@pytest.mark.parametrize(
    ("role", "leader", "lag_s", "words"),
    [
        (
            "standby",
            "process 1 on 'a'",
            0.84,
            "answered by a standby, from what is stored: process 1 on 'a' leads, heard of 0.8 s ago",
        ),
        ("gateway", "process 1 on 'a'", None, "answered by a gateway, from what is stored: process 1 on 'a' leads"),
        (
            "standby",
            "",
            75.0,
            "answered by a standby, from what is stored: nobody leads at present, nobody was heard of for 1 min 15 s",
        ),
        ("standby", "", None, "answered by a standby, from what is stored: nobody leads at present"),
    ],
)
def test_it_says_who_leads_and_how_old_it_is(role: str, leader: str, lag_s: float | None, words: str) -> None:
    """In one line, which goes with each answer."""
    assert wire.vantage_of(role, leader, lag_s) == words
