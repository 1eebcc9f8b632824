"""Headers that a client may give, and those with which a message would end every worker that takes it."""

import pytest

from dyrygentd.core.headers import NEVER_SENT, OWN_HEADERS, flaw_of_headers


def test_headers_of_a_clients_own() -> None:
    """What no worker reads is the client's business."""
    assert flaw_of_headers({"tenant": "a", "trace": 1}) is None


@pytest.mark.parametrize(
    ("name", "next_step"),
    [
        ("timelimit", "use the options `time_limit` and `soft_time_limit`"),
        ("expires", "use the option `expires`"),
        ("stamps", "use the option `stamped_headers`"),
        ("chord", "leave it out"),
    ],
)
def test_headers_that_workers_read(name: str, next_step: str) -> None:
    """They are refused by name, with the option that is checked."""
    assert flaw_of_headers({"tenant": "a", name: [1]}) == (name, next_step)


def test_what_a_message_says_about_itself_is_left_out_silently() -> None:
    """Old definitions have them, so they are no flaw; and none is ever sent."""
    assert flaw_of_headers(dict.fromkeys(OWN_HEADERS)) is None
    assert {"id", "timelimit", "chord"} <= NEVER_SENT
