"""What a program asks for with the builder is checked where it asks, and refused with what would be right."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from dyrygentd.canvas.policy_checks import (
    checked_policy,
    checked_redeliveries,
    checked_retry,
    checked_seconds,
    checked_word,
)
from dyrygentd.core.policy import OnFailure, OnLost, Retry, WorkflowPolicy
from dyrygentd.errors import BadNode, BadRequest


@pytest.mark.parametrize(
    ("check", "given", "reason", "next_step"),
    [
        (checked_seconds, timedelta(minutes=2), "must be a number of seconds, and is a 'timedelta'", "write 120"),
        (checked_seconds, "5", "must be a number of seconds, and is a 'str'", "write a number, 0 or more"),
        (checked_seconds, -1, "is -1 seconds", "use 0 to 316224000"),
        (checked_seconds, float("nan"), "is nan seconds", "use 0 to 316224000"),
    ],
)
def test_seconds(check: Callable[[str, str, Any], float], given: Any, reason: str, next_step: str) -> None:
    """A unit that is not in the name is a mistake of a factor."""
    with pytest.raises(BadNode, match="node 'a': `timeout_s` ") as refused:
        check("a", "timeout_s", given)
    assert reason in str(refused.value)
    assert refused.value.next_step == next_step
    assert (check("a", "timeout_s", 0), check("a", "timeout_s", 1.5)) == (0.0, 1.5)


def test_words() -> None:
    """A word of a fixed set, or its own constant."""
    assert checked_word(OnLost, "a", "on_lost", "retry") is checked_word(OnLost, "a", "on_lost", OnLost.RETRY) is OnLost.RETRY
    with pytest.raises(BadNode, match="`on_lost` is 'ask'") as refused:
        checked_word(OnLost, "a", "on_lost", "ask")
    assert refused.value.next_step == "use one of retry, fail, hold"


def test_retries() -> None:
    """A number is that many attempts; one name of a failure is a set of one."""
    assert checked_retry("a", None) is None
    assert checked_retry("a", 3) == Retry(attempts=3)
    assert checked_retry("a", Retry(on=["OSError"])) == Retry(on=frozenset({"OSError"}))  # type: ignore[arg-type]
    assert checked_retry("a", Retry(on="OSError")) == Retry(on=frozenset({"OSError"}))  # type: ignore[arg-type]
    assert checked_retry("a", Retry(on=frozenset())) == Retry()


@pytest.mark.parametrize(
    ("retry", "reason"),
    [
        (True, "`retry` is True"),
        ("often", "`retry` is 'often'"),
        (0, "`retry` is 0 attempts"),
        (1001, "`retry` is 1001 attempts"),
        (Retry(backoff_s=-1), "`retry.backoff_s` is -1 seconds"),
        (Retry(backoff_s=9, backoff_max_s=3), "the longest pause, 3 s, is shorter than the first one, 9 s"),
        (Retry(jitter=1.5), "`retry.jitter` is 1.5"),
        (Retry(on=frozenset({""})), "`retry.on` is"),
        (Retry(on=5), "`retry.on` is 5"),  # type: ignore[arg-type]
    ],
)
def test_retries_that_make_no_sense(retry: Any, reason: str) -> None:
    """What could never be carried out as it is written is said at once."""
    with pytest.raises(BadNode) as refused:
        checked_retry("a", retry)
    assert reason in str(refused.value)
    assert refused.value.next_step


def test_redeliveries() -> None:
    """None says nothing, 0 is without a bound."""
    assert [checked_redeliveries("a", given) for given in (None, 0, 1000)] == [None, 0, 1000]
    for given in (-1, 1001, True, "3"):
        with pytest.raises(BadNode, match="`redeliveries_max` is"):
            checked_redeliveries("a", given)


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"priority": 1}, "$.policy"),
        (WorkflowPolicy(priority=2_000_000), "$.policy.priority"),
        (WorkflowPolicy(weight=0), "$.policy.weight"),
        (WorkflowPolicy(in_flight_max=-1), "$.policy.in_flight_max"),
        (WorkflowPolicy(start_at=-5), "$.policy.start_at"),
        (WorkflowPolicy(start_at="tomorrow"), "$.policy.start_at"),  # type: ignore[arg-type]
        (WorkflowPolicy(deadline_s=-1), "$.policy"),
        (WorkflowPolicy(on_failure="explode"), "$.policy"),  # type: ignore[arg-type]
    ],
)
def test_policies_of_workflows(policy: Any, path: str) -> None:
    """The same bounds as on the wire, and the same place of the mistake."""
    with pytest.raises(BadRequest) as refused:
        checked_policy(policy)
    assert refused.value.path == path
    assert refused.value.next_step


def test_a_good_policy_comes_back_complete() -> None:
    """With its words read, and its retry made of a number."""
    given = WorkflowPolicy(retry=2, on_failure="stop")  # type: ignore[arg-type]
    assert checked_policy(given) == WorkflowPolicy(retry=Retry(attempts=2), on_failure=OnFailure.STOP)
