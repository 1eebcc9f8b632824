"""What Redis servers answer, and what is said to do about it."""

import pytest

from dyrygentd.advice import step_after, with_advice

_THEN = "it goes on by itself"


@pytest.mark.parametrize(
    ("answer", "words", "step"),
    [
        ("OutOfMemoryError: command not allowed when used memory > 'maxmemory'.", "it is full: give it", "give the broker more"),
        ("ReadOnlyError: You can't write against a read only replica.", "it is a replica", "promote the broker"),
        (
            "MasterDownError: Link with MASTER is down",
            "replica",
            "promote the broker",
        ),
        (
            "ResponseError: NOREPLICAS Not enough good replicas to write.",
            "without its replicas",
            "bring the replicas of the broker",
        ),
        ("ResponseError: MISCONF Errors writing to the AOF file", "it cannot save", "make the disk of the broker work"),
    ],
)
def test_what_refuses_writes_is_told_with_a_step(answer: str, words: str, step: str) -> None:
    """Celery's workers end with an error where a broker answers so, and have to be looked after."""
    said = with_advice(f"cannot reach the broker: {answer}")
    assert words in said
    assert ".;" not in said
    to_do = step_after(said, "the broker", _THEN)
    assert to_do.startswith(step)
    assert f": {_THEN}; see that the workers still run" in to_do


def test_what_is_not_known_is_left_as_it_is() -> None:
    """An outage that says nothing special has no special step."""
    assert with_advice("cannot reach the broker: Error 2.") == "cannot reach the broker: Error 2."
    assert step_after("cannot reach the broker: Error 2.", "the broker", _THEN) == ""


@pytest.mark.parametrize("place", [f"{'a' * 40}, on @user_script:4.", "on @user_script:4"], ids=["Redis", "Valkey"])
def test_what_servers_say_for_authors_of_scripts_is_left_out(place: str) -> None:
    """A hash of a script helps nobody who is woken up."""
    answer = f"You can't write against a read only replica. script: {place}"
    assert with_advice(answer).startswith("You can't write against a read only replica; it is a replica")
