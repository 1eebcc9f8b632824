"""Names that no queue may have, since something else on the broker has them."""

import pytest

from dyrygentd.core.queues import flaw_of_name, is_reserved


@pytest.mark.parametrize(
    "name",
    [
        "unacked",
        "unacked_index",
        "prefix-unacked_mutex",
        "_kombu.binding.celery",
        "w1@host.celery.pidbox",
        "celeryev.123",
        "mine:dyrygentd:t:1",
        "celery-task-meta-1",
        "p_celery-taskset-meta-1",
        "chord-unlock-1",
    ],
)
def test_keys_of_others_are_refused(name: str) -> None:
    """A message in the place of such a key ends workers, or is taken for a command to them."""
    assert is_reserved(name)
    assert flaw_of_name(name) == "is the name of a key of kombu's, Celery's or the daemon's own"


@pytest.mark.parametrize("name", ["celery", "drain@gra1", "unack", "żółw", "pidbox", "my.celery.results"])
def test_names_of_users_are_not(name: str) -> None:
    """What only looks a little like it is a user's own."""
    assert flaw_of_name(name) == ""


def test_what_no_broker_can_take() -> None:
    """kombu parts its own words by control characters, and AMQP has one byte for the length."""
    assert flaw_of_name("a\x06\x16b") == "has characters that cannot be printed"
    assert flaw_of_name("ż" * 127) == ""
    assert flaw_of_name("ż" * 128) == "has more than 255 bytes"
