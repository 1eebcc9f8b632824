"""Conditions over values: what holds, what does not and why, and what is not guessed."""

import json
from typing import Any

import pytest

from dyrygentd.core.bounds import WHEN_BYTES_MAX, WHEN_DEPTH_MAX, WHEN_PARTS_MAX
from dyrygentd.core.conditions import BadWhen, NoValue, Undecided, comparisons_of, nodes_of, when_of, why_not

CHECK = {
    "status": "empty",
    "left": 0,
    "ready": True,
    "osds": [{"id": 7}, {"id": 8}],
    "note": None,
    "a.b": "dotted",
    "long": "x" * 50,
}


def told(given: dict[str, Any], value: Any = CHECK) -> str:
    """Return why a condition about the value of ``check`` does not hold, empty if it does."""

    def value_of(name: str) -> Any:
        assert name == "check"
        return value

    return why_not(when_of(given).condition, value_of)


def about(path: Any, **operator: Any) -> dict[str, Any]:
    """Return a condition about ``check``; an underscore ends words of Python."""
    return {"value": "check", "path": path} | {word.rstrip("_"): operand for word, operand in operator.items()}


@pytest.mark.parametrize(
    "given",
    [
        about("status", is_="empty"),
        about("status", is_not="full"),
        about("status", in_=["full", "empty"]),
        about("status", not_in=["full"]),
        about("status", is_not=None),
        about("note", is_=None),
        about("note", is_not="full"),
        about("note", not_in=[1, 2]),
        about("left", is_=0.0),
        about("left", under=1),
        about("left", at_most=0),
        about("left", at_least=0),
        about("left", over=-1),
        about("status", over="eggs"),
        about("osds.1.id", is_=8),
        about(["osds", 1, "id"], is_=8),
        about(["a.b"], is_="dotted"),
        about("osds", has={"id": 7}),
        about("", has="status"),
        about("nothing", exists=False),
        about("note", exists=True),
        about("left", truthy=False),
        about("osds", truthy=True),
        about("osds.0", is_={"id": 7}),
        {"given": "dry", "in": ["dry", "wet"]},
        {"given": {"mode": "dry"}, "path": "mode", "is": "dry"},
        {"all": [about("left", is_=0), about("ready", is_=True)]},
        {"any": [about("left", is_=1), about("ready", is_=True)]},
        {"not": about("left", is_=1)},
    ],
)
def test_holds(given: dict[str, Any]) -> None:
    """Each operator says what it is called: a user relies on the word alone."""
    assert told(given) == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (about("status", is_="full"), "check.status is 'empty', not 'full'"),
        (about("status", is_not="empty"), "check.status is 'empty'"),
        (about("status", in_=["full", "half"]), "check.status is 'empty', not one of 'full', 'half'"),
        (about("status", not_in=["empty"]), "check.status is 'empty'"),
        (about("status", in_=[]), "check.status is 'empty', not one of nothing"),
        (about("left", over=5), "check.left is 0, not over 5"),
        (about("left", at_least=5), "check.left is 0, not at least 5"),
        (about("ready", is_=False), "check.ready is true, not false"),
        (about("osds", has={"id": True}), "check.osds does not have an object"),
        (about("nothing", exists=True), "there is no check.nothing"),
        (about("note", exists=False), "there is check.note"),
        (about("left", truthy=True), "check.left is 0, which is not true"),
        (about("osds", truthy=False), "check.osds is a list of 2, which is not false"),
        (about("long", is_="x"), "check.long is a text of 50 characters, not 'x'"),
        ({"given": "dry", "is": "wet"}, "'dry' is 'dry', not 'wet'"),
        ({"all": [about("ready", is_=True), about("left", is_=1)]}, "check.left is 0, not 1"),
        ({"any": [about("left", is_=1), about("left", is_=2)]}, "check.left is 0, not 1; check.left is 0, not 2"),
        ({"any": [about("left", is_=number) for number in range(1, 6)]}, "and 2 more do not hold"),
        ({"not": about("left", is_=0)}, "check.left is 0"),
    ],
)
def test_does_not_hold_and_says_why(given: dict[str, Any], words: str) -> None:
    """The words are what `explain` tells of a node that was skipped: what was found, and what was wanted."""
    assert words in told(given)


@pytest.mark.parametrize(
    ("given", "value", "words"),
    [
        (about("", is_=3), "3", "check is the text '3', and is compared with 3"),
        (about("", is_=1), True, "check is true, and is compared with the number 1"),
        (about("", in_=["1", "2"]), 1, "check is the number 1, and is compared with the text '1'"),
        (about("", over=3), None, "check is null, and is compared with the number 3"),
        (about("", over="a"), 3, "check is the number 3, and is compared with the text 'a'"),
        (about("", has="x"), "text", "check is the text 'text', which cannot have the text 'x' in it"),
        (about("", has=1), {}, "check is an empty object, which cannot have the number 1 in it"),
        (about("status", is_="full"), 3, "check is the number 3, in which there is no 'status'"),
        (about("state", is_="full"), CHECK, "check has no 'state'; it has 'a.b', 'left', 'long', 'note', 'osds', …"),
        (about("osds.2", is_="full"), CHECK, "check.osds has no element 2: it is a list of 2"),
        (about("osds.id", is_="full"), CHECK, "check.osds is a list of 2, in which there is no 'id'"),
        (about("x", truthy=True), {}, "check has no 'x'; it has nothing"),
    ],
)
def test_what_cannot_be_compared_is_not_guessed(given: dict[str, Any], value: Any, words: str) -> None:
    """A text that looks like a number, a name that is not there: a silent "no" would skip what was meant to run."""
    with pytest.raises(Undecided) as caught:
        told(given, value)
    assert words.replace("with 3", "with the number 3") in str(caught.value)


def test_no_value_is_nothing_but_absent() -> None:
    """Of a node that failed or was not needed one may ask whether there is a value, and nothing else."""

    def value_of(name: str) -> Any:
        raise NoValue("was not needed")

    assert why_not(when_of(about("", exists=True)).condition, value_of) == "'check' was not needed and has no value"
    assert why_not(when_of(about("", exists=False)).condition, value_of) == ""
    with pytest.raises(Undecided, match="'check' was not needed and has no value"):
        why_not(when_of(about("", is_=None)).condition, value_of)


def test_all_stops_at_the_first_that_does_not_hold() -> None:
    """What comes behind it need not make sense then: it is how one asks first whether a part is there."""
    given = {"all": [about("disk", exists=True), about("disk.size", over=5)]}
    assert told(given) == "there is no check.disk"


def test_values_nested_beyond_python_are_told() -> None:
    """A task may return anything, and must not break the daemon with it."""
    deep: Any = []
    for _ in range(50_000):
        deep = [deep]
    other: Any = json.loads("[" * 900 + "]" * 900)
    with pytest.raises(Undecided, match="nested too deeply"):
        told({"any": [about("", is_=other)]}, deep)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("check", "a condition is an object, and this is 'check'"),
        ({}, "it does not say whose value it asks for"),
        ({"value": "a", "given": 1, "is": 1}, "it has both `value` and `given`"),
        ({"value": "a"}, "it compares with nothing"),
        ({"value": "a", "is": 1, "over": 1}, "it has both `is` and `over`"),
        ({"value": "a", "equals": 1}, "it has an unknown field `equals`"),
        ({"value": "", "is": 1}, "`value` is ''"),
        ({"value": 3, "is": 1}, "`value` is 3"),
        ({"value": "a", "path": "a..b", "is": 1}, "`path` is 'a..b'"),
        ({"value": "a", "path": [-1], "is": 1}, "`path` is a list of 1"),
        ({"value": "a", "path": ["a"] * 21, "is": 1}, "`path` is a list of 21"),
        ({"value": "a", "in": "ab"}, "`in` is 'ab'"),
        ({"value": "a", "over": True}, "`over` is true"),
        ({"value": "a", "over": None}, "`over` is null"),
        ({"value": "a", "exists": 1}, "`exists` is 1"),
        ({"all": []}, "`all` is an empty list"),
        ({"any": {}}, "`any` is an empty object"),
        ({"not": 3}, "a condition is an object, and this is 3"),
        ({"all": [{"value": "a", "is": 1}], "value": "b"}, "`all` stands beside `value`"),
        ({"value": "a", "is": {1}}, "a value in it is no JSON"),
        ({"value": "a", "is": "x" * WHEN_BYTES_MAX}, "bytes, the limit is"),
        ({"all": [{"value": "a", "is": 1}] * WHEN_PARTS_MAX}, "it has more than 100 comparisons"),
    ],
)
def test_bad_ones_are_refused_with_what_to_do(given: Any, reason: str) -> None:
    """Whoever writes one by hand is told which part is wrong, and what may stand there."""
    with pytest.raises(BadWhen) as caught:
        when_of(given)
    assert reason in caught.value.reason
    assert caught.value.next_step


def test_too_deep_ones_are_refused() -> None:
    """Conditions are read by recursion."""
    given: dict[str, Any] = {"value": "a", "is": 1}
    for _ in range(WHEN_DEPTH_MAX):
        given = {"not": given}
    with pytest.raises(BadWhen, match="more than 8 levels"):
        when_of(given)


def test_words_of_conditions() -> None:
    """A node's condition is shown in one line, whatever it is made of."""
    given = {"all": [about("left", at_least=1), {"any": [about("osds", exists=True), {"not": about("ready", truthy=False)}]}]}
    assert str(when_of(given)) == "check.left is at least 1 and (there is check.osds or (not (check.ready is false)))"
    assert str(when_of(about("status", not_in=["a", "b"]))) == "check.status is none of 'a', 'b'"
    assert str(when_of(about("x", exists=False))) == "there is no check.x"
    assert str(when_of(about("x", truthy=True))) == "check.x is true"
    assert [*nodes_of(when_of(given).condition)] == ["check"] * 3
    assert len([*comparisons_of(when_of({"given": 1, "is": 1}).condition)]) == 1


def test_the_order_of_fields_does_not_matter() -> None:
    """Definitions are compared by what they say."""
    assert when_of({"is": 1, "value": "a"}) == when_of({"value": "a", "is": 1})
    assert when_of({"not": {"is": 1, "value": "a"}}) == when_of({"not": {"value": "a", "is": 1}})
