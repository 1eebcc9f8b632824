"""What one that does not lead says beside its answers, and how a lease is told."""

from typing import Any

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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"role": "leader", "term": 3, "lease_left_s": 4.23, "standbys": 1}, "term 3, holds for 4.2 s, 1 standby"),
        ({"role": "standby", "term": 3, "lease_left_s": -75.0, "standbys": 2}, "term 3, over for 1 min 15 s, 2 standbys"),
        ({"role": "gateway"}, "term 0, 0 standbys"),
        ({}, ""),
    ],
)
def test_it_says_how_the_lease_stands(given: dict[str, Any], words: str) -> None:
    """Health and statistics say the same; where one process alone has the database there is nothing to say."""
    health = wire.Health("ok", "1", **given)
    statistics = wire.Statistics("1", 0.0, {}, {}, {}, {}, **given)
    assert wire.lease_words(health) == wire.lease_words(statistics) == words
