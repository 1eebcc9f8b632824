"""What is said of a node whose workflow did not succeed."""

import pytest

from dyrygentd.core.child_causes import CHILD_CANCELLED, CHILD_FAILED, CHILD_REFUSED, cause_above, cause_of_refusal, failed_below

_A, _B = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "ab")


@pytest.mark.parametrize(
    ("cause", "above"),
    [
        ("", CHILD_FAILED),
        ("ValueError in f (t.py:1)", f"{CHILD_FAILED}: ValueError in f (t.py:1)"),
        (f"{CHILD_FAILED}: ValueError", f"{CHILD_FAILED}: ValueError"),
        (CHILD_CANCELLED, CHILD_CANCELLED),
        (CHILD_REFUSED, CHILD_REFUSED),
    ],
)
def test_a_cause_goes_up_as_it_is(cause: str, above: str) -> None:
    """However deep a failure is, its cause is as long as one level above it."""
    assert cause_above(cause) == above


def test_refusals_of_one_kind() -> None:
    """Names and numbers do not matter, and words do."""
    given = [f"{CHILD_REFUSED}: node 'm{number}': item {number:,} has 5,000 bytes" for number in range(2)]
    assert {cause_of_refusal(error) for error in given} == {f"{CHILD_REFUSED}: node …: item … has … bytes"}
    assert cause_of_refusal("it cannot be begun: no").startswith(CHILD_REFUSED)


@pytest.mark.parametrize(
    ("cause", "error", "below"),
    [
        (CHILD_FAILED, f"its workflow '{_A}' failed: 'x' failed: no", _A),
        (f"{CHILD_FAILED}: E", f"its workflow '{_A}' failed: 'k' failed: its workflow '{_B}' was cancelled", _B),
        (CHILD_CANCELLED, f"its workflow '{_A}' was cancelled", _A),
        (CHILD_REFUSED, "its workflow cannot be begun: no", ""),
        # A task may say what it likes.
        ("ValueError", f"its workflow '{_A}' failed", ""),
        (CHILD_FAILED, "its workflow '; rm -rf' failed", ""),
    ],
)
def test_where_the_failure_is(cause: str, error: str, below: str) -> None:
    """It is the id of a workflow, and nothing else, as it is a part of a command to paste."""
    assert failed_below(cause, error) == below
