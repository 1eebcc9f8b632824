"""Publish options: what could not be published is found, and what is good is left alone."""

from typing import Any

import pytest
from celery import chain, group

from dyrygentd.canvas import definition_of
from dyrygentd.errors import BadNode
from dyrygentd.lint import lint
from tests.lint.support import a, b, c, codes, only


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": 5}, "`queue` must be text, and is 5"),
        ({"routing_key": ["x"]}, "`routing_key` must be text"),
        ({"priority": "high"}, "`priority` must be a whole number"),
        ({"priority": True}, "`priority` must be a whole number"),
        ({"priority": 1.5}, "`priority` must be a whole number"),
        ({"priority": 300}, "0 to 255, and is 300"),
        ({"priority": -1}, "0 to 255, and is -1"),
        ({"time_limit": "1h"}, "`time_limit` must be a number of seconds"),
        ({"countdown": "5"}, "`countdown` must be a number of seconds"),
        ({"countdown": float("nan")}, "`countdown` must be a number of seconds"),
        ({"eta": "tomorrow"}, "`eta` must be a time"),
        ({"expires": "tomorrow"}, "`expires` must be a number of seconds or a time"),
        ({"headers": [1]}, "`headers` must be an object"),
        ({"link": "t.a"}, "`link` must be a signature"),
        ({"link_error": [{"no": "task"}]}, "`link_error` must be a signature"),
        ({"stamped_headers": "x"}, "`stamped_headers` must be a list of names"),
    ],
)
def test_option_of_a_wrong_type(options: dict[str, Any], words: str) -> None:
    """It would be found when the task is published: at night, in the middle of a workflow."""
    finding = only(chain(a, b.clone().set(**options)), "bad-option")
    assert (finding.severity, finding.place) == ("error", "step 2 of the chain")
    assert words in finding.message


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": -1},
        {"time_limit": 1e300},
        {"delivery_mode": "for ever"},
        {"exchange_type": 5},
        {"queue": "_kombu.binding.q"},
        {"headers": {"timelimit": [1, 2]}},
        {"compression": 5},
        {"expires": 1e300},
        {"expires": 10**400},
        {"countdown": 10**400},
    ],
)
def test_option_that_is_refused_is_found(options: dict[str, Any]) -> None:
    """A report without errors that is followed by a refusal is worth nothing, and both ask the same function."""
    what = a.clone().set(**options)
    with pytest.raises(BadNode) as refusal:
        definition_of(what)
    (finding,) = [found for found in lint(what) if found.severity == "error"]
    (option,) = options
    assert f"`{option}`" in refusal.value.reason
    assert f"`{option}`" in finding.message


def test_good_options_are_left_alone() -> None:
    """Whatever Celery documents passes, and so do stamps."""
    good = a.clone().set(
        queue="q", routing_key="q.r", exchange="x", priority=9, serializer="json", compression="gzip", shadow="b", expires=60,
        time_limit=10, soft_time_limit=9.5, headers={"k": "v"}, delivery_mode=1, ignore_result=False,
    )  # fmt: skip
    good.stamp(customer="x")
    assert codes(good) == {}


@pytest.mark.parametrize("serializer", ["pickle", "jsno"])
def test_serializer_that_is_not_accepted(serializer: str) -> None:
    """The import refuses the first; the report names them all, and says it once."""
    found = lint(group(a.clone().set(serializer=serializer) for _ in range(3)))
    assert [(finding.code, finding.count) for finding in found] == [("serializer-refused", 3)]
    assert found[0].place == "member 1 of the group; member 2 of the group; member 3 of the group"


def test_compression() -> None:
    """A compression that kombu does not have fails at publishing."""
    assert codes(a.clone().set(compression="zip")) == {"unknown-compression": 1}
    assert codes(a.clone().set(compression="bzip2")) == {}


def test_priority_that_is_cut() -> None:
    """On Redis 10 to 255 are all one priority, and the order that was wanted is lost."""
    assert codes(a.clone().set(priority=10)) == {"priority-range": 1}


def test_unknown_option_is_told_with_a_suggestion() -> None:
    """A misspelt option is silently ignored by Celery."""
    assert "did you mean 'queue'?" in only(a.clone().set(queu="q"), "unknown-option").message


def test_options_that_containers_hand_down_are_checked() -> None:
    """What counts is what each task will have."""
    finding = only(chain(a, group(b, c).set(priority="x")), "bad-option")
    assert (finding.count, finding.place) == (
        2,
        "step 2 of the chain, member 1 of the group; step 2 of the chain, member 2 of the group",
    )


def test_callbacks_are_told_to_be_untracked() -> None:
    """A callback that fails is seen by nobody."""
    finding = only(group(a.clone().set(link=[b]), c), "link-untracked")
    assert (finding.severity, finding.node, finding.place) == ("info", "a-1", "member 1 of the group")
    assert "link-untracked" not in codes(group(a, b))
