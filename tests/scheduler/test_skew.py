"""What is said of who knows a task."""

import pytest

from dyrygentd.scheduler.skew import words_of


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (None, ""),
        ({}, ""),
        ({"a": False, "b": False}, "no worker that answered knows the task (a, b)"),
        ({"a": True}, "all workers that answered know it by now (a)"),
        (
            {"a": True, "b": False, "c": True},
            "b does not know the task, and a, c do: restart it with the new code first, or another attempt is a matter of luck",
        ),
    ],
)
def test_words(known: dict[str, bool] | None, words: str) -> None:
    """Each case has one sentence."""
    assert words_of(known) == words
