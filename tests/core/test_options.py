"""Options with which nothing could be published are found when a workflow is made."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dyrygentd.core.ids import MadeIds
from dyrygentd.core.options import (
    CHECKED_OPTIONS,
    clash_of,
    counts_from_dispatch,
    flaw_of,
    flaw_of_nested,
    flaw_of_serializer,
    is_number,
    moment_of,
    shown,
    unix_time_of,
)

GOOD: dict[str, list[Any]] = {
    "queue": ["q", ""],
    "routing_key": ["a.b"],
    "exchange": ["x"],
    "exchange_type": ["topic"],
    "shadow": ["s"],
    "priority": [0, 255],
    "time_limit": [0, 0.5],
    "soft_time_limit": [3],
    "compression": ["", "gzip", "application/zstd"],
    "delivery_mode": [2, "transient"],
    "headers": [{}, {"tenant": 1}],
    "from_app": [["queue"], ()],
    "result_serializer": ["json"],
    "stamped_headers": [["a"]],
    "link": [None, [], {"task": "t"}, [{"task": "t"}]],
    "link_error": [{"task": "t"}],
}
BAD: dict[str, list[Any]] = {
    "queue": [5, "unacked", "a\nb"],
    "routing_key": [["a"]],
    "exchange": ["x" * 256],
    "exchange_type": [1],
    "shadow": [{}],
    "priority": [-1, 256, True, "5", 1.5],
    "time_limit": [-1, "5", float("nan"), 1e12, False],
    "soft_time_limit": [-0.1],
    "compression": ["zip", 5],
    "delivery_mode": ["lasting", 1.5],
    "headers": [[], {"timelimit": 5}],
    "from_app": ["queue", [5]],
    "result_serializer": [1],
    "stamped_headers": ["a", [1]],
    "link": ["t", {"task": ""}, [{"args": []}]],
    "link_error": [5],
}


@pytest.mark.parametrize("option", sorted(CHECKED_OPTIONS))
def test_every_checked_option(option: str) -> None:
    """Good values pass, bad ones are named with what to do; None is an option that was not given."""
    assert [flaw_of(option, value) for value in (None, *GOOD[option])] == [None] * (len(GOOD[option]) + 1)
    for value in BAD[option]:
        flaw = flaw_of(option, value)
        assert flaw is not None, value
        assert flaw.reason
        assert flaw.next_step


def test_unknown_options_pass() -> None:
    """What Celery learns to publish one day must not be refused here."""
    assert flaw_of("brand_new", object()) is None


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"serializer": "pickle"}, "serializer"),
        ({"priority": 999}, "priority"),
        ({"task_id": 5}, "task_id"),
        ({"task_id": "a\x00"}, "task_id"),
        ({"task_id": MadeIds()()}, "task_id"),
        ({"headers": {"id": "x", "a": 1}}, "headers.id"),
        ({"soft_time_limit": 9, "time_limit": 3}, "soft_time_limit"),
    ],
)
def test_nested_options(options: dict[str, Any], option: str) -> None:
    """A worker publishes a nested signature as it stands, so it may bring no id of another task and no header of Celery's."""
    found = flaw_of_nested(options)
    assert found is not None
    assert found[0] == option


def test_good_nested_options() -> None:
    """Most have nothing, or what is the caller's own."""
    assert flaw_of_nested({}) is None
    assert flaw_of_nested({"task_id": "mine", "headers": {"a": 1}, "queue": "q", "serializer": "json"}) is None


def test_unpickling_is_never_asked_for() -> None:
    """It runs code of whoever submits."""
    refused = flaw_of_serializer("pickle")
    assert refused is not None
    assert "'pickle' is not accepted" in refused.reason
    assert flaw_of_serializer("json") is flaw_of_serializer(None) is None


def test_limits_that_contradict_each_other() -> None:
    """A soft limit above the hard one never comes; a limit that is missing contradicts nothing."""
    clash = clash_of({"soft_time_limit": 9, "time_limit": 3})
    assert clash is not None
    assert clash.reason == "is 9 s, and `time_limit` 3 s"
    assert clash_of({"soft_time_limit": 3, "time_limit": 9}) is clash_of({"soft_time_limit": 9}) is None


def test_long_values_are_cut() -> None:
    """A message has one line."""
    assert shown("ab") == "'ab'"
    assert len(shown("x" * 1000)) == 61


def test_truth_is_no_number() -> None:
    """`True` is 1 to Python, and a mistake to everybody else."""
    assert [is_number(value) for value in (1, 0.5, True, "1")] == [True, True, False, False]


def test_moments_in_three_forms() -> None:
    """Canvases have datetimes, documents their text, and kombu its own form; anything else is no moment."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    for given in (moment, moment.isoformat(), {"__type__": "datetime", "__value__": moment.isoformat()}):
        assert moment_of(given) == moment
    others: list[object] = ["soon", 5, {"__value__": 5}, {}, None]
    for other in others:
        assert moment_of(other) is None


def test_expiries_that_count_from_the_dispatch() -> None:
    """A number is for the worker to judge; a moment is not, and neither is what no calendar has."""
    assert [counts_from_dispatch(value) for value in (5, -0.5, True, "5", 1e12)] == [True, True, False, False, False]


def test_moments_without_a_zone_are_in_utc() -> None:
    """As workers take them (``maybe_make_aware``)."""
    assert unix_time_of(datetime(1970, 1, 2)) == unix_time_of(datetime(1970, 1, 2, tzinfo=UTC)) == 86_400
