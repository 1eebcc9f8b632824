"""A report is short, names both sides and says what to do: one that cries wolf is not read."""

from celery import chain, group

from dyrygentd.lint import lint
from dyrygentd.lint.differences import BY_KEY
from dyrygentd.lint.report import ADVICE, MESSAGES
from tests.lint.support import a, b, c, container, d, e, f, only


def test_difference_names_both_sides() -> None:
    """The reader decides by what happens there and here, and can look it up."""
    message = only(chain(group(a, b), group(c, d), group(e, f)), "chain-of-groups").message
    celery, here = message.splitlines()[1:]
    assert celery.startswith("Celery: the last of three groups in a row runs once per member")
    assert "issues/8180" in celery
    assert here.startswith("here: each group runs once")


def test_every_rule_has_its_words() -> None:
    """A code without a severity or next step would be reported as an error with nothing to do about it."""
    assert {key for key, difference in BY_KEY.items() if not difference.unseen} | MESSAGES.keys() <= ADVICE.keys()
    assert all(advice.next_step for advice in ADVICE.values())


def test_report_on_a_large_canvas_is_short() -> None:
    """Ten thousand equal mistakes are one line, and different ones are told apart up to a bound."""
    same = lint(group(a.clone().set(queue=5) for _ in range(10_000)))
    assert [(finding.count, finding.place) for finding in same] == [
        (10_000, "member 1 of the group; member 2 of the group; member 3 of the group; 9,997 more")
    ]
    different = lint(container("group", [{"task": f"t.{number}"} for number in range(1_000)]), known_tasks=["t.x"])
    assert [finding.count for finding in different] == [1, 1, 1, 1, 1, 995]
    assert different[-1].message.startswith("others like this; the first of them: no worker has the task 't.5'")
