"""Conditions that may not be meant are told, and others are not."""

import pytest

from dyrygentd.core.conditions import When, when_of
from dyrygentd.lint import lint
from dyrygentd.lint.choices import remarks_on_choices
from tests.core.test_choices import EMPTY, FULL, when
from tests.support.conversation import parse_graph

BOTH = when(
    {"all": [{"value": "check", "path": "status", "in": ["full", "half"]}, {"value": "check", "path": "status", "is": "empty"}]}
)
NOT_FULL = when({"value": "check", "path": "status", "is_not": "full"})


def told(text: str, whens: dict[str, When] | None = None) -> list[tuple[str, str]]:
    """Return what is told of which node, but for waits."""
    return [(each.code, each.node) for each in remarks_on_choices(parse_graph(text, whens=whens)) if each.code != "when-waits"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a; b < a", []),
        (f"check; a < check {FULL}; b < check {EMPTY}; &j < a b rule=none_failed hands_on=one; z < j", []),
        (f"check; a < check {FULL}; b < check {EMPTY}; &j < a b; z < j", [("never-runs", "j")]),
        (f"check; a < check {BOTH}", [("never-runs", "a")]),
        (f"check; a < check {FULL}; b < a {NOT_FULL}; c < b", [("never-runs", "b")]),
        (f"check; a < check {FULL}; b < a {NOT_FULL} rule=all_finished", []),
        (f"a {when({'given': 'dry', 'is': 'wet'})}", [("never-runs", "a")]),
        (f"a {when({'given': 'dry', 'is': 3})}", [("never-runs", "a")]),
        (f"check; a < check {when({'value': 'check', 'in': []})}", [("never-runs", "a")]),
        (f"check; a < check {when({'any': [{'value': 'check', 'in': []}, {'value': 'check', 'is': 1}]})}", []),
        (f"check; a < check {FULL}; b < check {FULL}; &j < a b rule=none_failed hands_on=one", [("branches-alike", "j")]),
        (f"check; a < check {FULL}; b < check {FULL}; &j < a b rule=none_failed", []),
    ],
)
def test_branches(text: str, expected: list[tuple[str, str]]) -> None:
    """The usual trap is a join with the usual rule behind branches of which only one runs."""
    assert told(text) == expected


def test_sections_count() -> None:
    """A node has the conditions of its section as well."""
    whens = {"s": when_of({"value": "check", "path": "status", "is": "full"})}
    assert told(f"check; a < check {EMPTY} section=s", whens) == [("never-runs", "a")]


def test_a_wait_that_is_not_written_down_is_told() -> None:
    """It is right, and surprises whoever reads `after` alone."""
    (remark,) = remarks_on_choices(parse_graph(f"check; other; a < other {FULL}; b < check {FULL}"))
    assert (remark.code, remark.node) == ("when-waits", "a")
    assert "asks for the value of 'check', which is not in its `after`" in remark.said


def test_it_is_in_the_report() -> None:
    """With what to do about it."""
    document = {
        "nodes": [
            {"name": "check", "task": "t"},
            {"name": "a", "task": "t", "after": ["check"], "immutable": True, "when": {"value": "check", "in": []}},
        ]
    }
    (finding,) = [each for each in lint(document) if each.code == "never-runs"]
    assert (finding.severity, finding.node, finding.message) == ("warning", "a", "it can never run: check is one of nothing")
    assert "none_failed" in finding.next_step
