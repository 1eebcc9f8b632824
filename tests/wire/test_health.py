"""Who leads, as one says that does not, and how a lease is told."""

from typing import Any

import pytest

from dyrygentd import wire


@pytest.mark.parametrize(
    ("leader", "lag_s", "is_blind", "words"),
    [
        ("process 1 on 'a'", 0.84, False, "process 1 on 'a' leads, heard of 0.8 s ago"),
        ("process 1 on 'a'", None, False, "process 1 on 'a' leads"),
        # It was seen before the way to the database was lost, and its time is not over.
        ("process 1 on 'a'", 3.0, True, "process 1 on 'a' leads, heard of 3.0 s ago"),
        ("", 75.0, False, "nobody leads at present, nobody was heard of for 1 min 15 s"),
        ("", None, False, "nobody leads at present"),
        ("", 75.0, True, "who leads is not known here, as the database does not answer"),
    ],
)
def test_it_says_who_leads_and_how_old_it_is(leader: str, lag_s: float | None, is_blind: bool, words: str) -> None:
    """In one line; who cannot look does not say that nobody leads, which would have people act on it."""
    assert wire.who_leads(leader, lag_s, is_blind=is_blind) == words


@pytest.mark.parametrize(
    ("given", "knows"),
    [
        ({"role": "standby", "problems": [wire.NOBODY_LEADS]}, True),
        ({"role": "standby", "problems": ["the database cannot be read"]}, False),
        ({"role": "standby", "leader": "process 1 on 'a'"}, False),
        ({}, False),
    ],
)
def test_whether_nobody_leads(given: dict[str, Any], knows: bool) -> None:
    """It is known, not concluded from a name that is missing."""
    assert wire.knows_nobody_leads(wire.Health("ok", "1", **given)) is knows


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
