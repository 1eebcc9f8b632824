"""A canvas as it was written, read without a judgement: `lint` reads on where the importer refuses."""

from typing import Any

import pytest
from celery import chain, chord, group

from dyrygentd.canvas.parts import ends_in_body, errbacks_of, is_empty, is_fan, kind_of, listed, members_in, options_of, tasks_of
from tests.canvas.support import a, b, c, guarded


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (a.s(), ""),
        (a.s() | b.s(), "chain"),
        (group(a.s(), b.s()), "group"),
        (chord([a.s()], b.s()), "chord"),
        ({"task": "celery.chunks"}, "chunks"),
        ({"task": "celery.group", "subtask_type": "chord"}, "chord"),
        ({"task": ["celery.group"], "subtask_type": 5}, ""),
        ("celery.group", ""),
        (None, ""),
    ],
)
def test_kind(what: Any, kind: str) -> None:
    """The subtask type goes before the task's name, and what is no signature has no kind."""
    assert kind_of(what) == kind


@pytest.mark.parametrize(
    "what", [{}, {"kwargs": 5, "options": 5}, {"kwargs": None, "options": None}, {"kwargs": {"tasks": None}}]
)
def test_what_is_malformed_holds_nothing(what: dict[str, Any]) -> None:
    """Whoever reads on is not stopped by a part that nobody could run."""
    assert (tasks_of(what), options_of(what), list(members_in(tasks_of(what)))) == (None, {}, [])
    assert not is_empty(what)
    assert errbacks_of(what) == ()


@pytest.mark.parametrize(("tasks", "count"), [([1, 2], 2), ((1,), 1), ({"task": "t"}, 1), ("ab", 0), (5, 0), (iter("ab"), 2)])
def test_members(tasks: Any, count: int) -> None:
    """One task stands for a list of it, and text is no list."""
    assert len(members_in(tasks)) == count


def test_steps_of_a_chain() -> None:
    """A step is empty if it holds an empty list, a fan if Celery leaves it a group, and may end in a body however nested."""
    assert [is_empty(step) for step in (group([]), chain(), group([a.s()]), a.s(), {"task": "celery.group"})] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert [is_fan(step) for step in (group([a.s(), b.s()]), group([a.s()]), a.s())] == [True, False, False]
    nested = {"task": "celery.chain", "kwargs": {"tasks": [a.s(), chord([a.s()], b.s()), group([])]}}
    assert [ends_in_body(step) for step in (nested, a.s(), group([a.s()]))] == [True, False, False]


def test_error_callbacks_of_a_body() -> None:
    """Those of its members and of its own body are among them, each once; those of a chain's steps are not."""
    first, second = guarded(b.s(), c.s(1)), guarded(b.s(), c.s(2))
    body = guarded(chord([guarded(a.s(), c.s(3))], group([first, second])), c.s(1))
    assert [each["args"] for each in errbacks_of(body)] == [(1,), (2,)]
    assert errbacks_of({"task": "celery.chain", "kwargs": {"tasks": [first]}}) == ()
    assert listed(None) == ()
    assert listed(c.s()) == (c.s(),)
