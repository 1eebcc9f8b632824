"""What each task is given: times, values and arguments."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from dyrygentd.canvas import Workflow
from tests.lint.support import a, add, anything, app, b, bound, c, codes, injected, only, ping, quiet, total, waiting


def test_start_beyond_the_visibility_timeout() -> None:
    """In Celery such a task runs again and again; here it does not, and whoever worked around it may stop."""
    far = a.clone().set(countdown=4000)
    assert "visibility timeout of 3,600 s" in only(far, "countdown-in-daemon").message
    assert "visibility timeout of 3,600 s" not in only(far, "countdown-in-daemon", visibility_timeout_s=5000).message
    patient = Celery("p", broker="memory://", set_as_current=False, broker_transport_options={"visibility_timeout": 60})
    assert "visibility timeout of 60 s" in only(a.clone().set(countdown=90), "countdown-in-daemon", app=patient).message


@pytest.mark.parametrize("expires", [-1, 0, datetime(2020, 1, 1, tzinfo=UTC), "2020-01-01T00:00:00Z", datetime(2020, 1, 1)])
def test_expires_that_has_passed(expires: Any) -> None:
    """A worker would revoke it, hours after it was submitted."""
    assert only(a.clone().set(expires=expires), "expires-passed").severity == "error"


@pytest.mark.parametrize("expires", [60, datetime.now(UTC) + timedelta(days=1), None])
def test_expires_ahead(expires: Any) -> None:
    """An expiry that can be met is nobody's business."""
    assert codes(a.clone().set(expires=expires)) == {}


def test_expires_before_the_start() -> None:
    """Celery counts `expires` from sending and never runs such a task; from an absolute time there is no way out here either."""
    relative = only(a.clone().set(expires=10, countdown=60), "expires-before-start")
    assert relative.severity == "warning"
    assert "here: `expires` counts from the start" in relative.message
    soon, later = datetime.now(UTC) + timedelta(minutes=1), datetime.now(UTC) + timedelta(hours=1)
    assert only(a.clone().set(expires=soon, eta=later), "expires-before-start").severity == "error"
    assert "expires-before-start" not in codes(a.clone().set(expires=60, countdown=10))
    assert "expires-before-start" not in codes(a.clone().set(expires=later, eta=soon))


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        (add.s(1), "arguments-do-not-fit", "is given 1 positional argument: missing a required argument: 'y'"),
        (add.s(1, 2, 3), "arguments-do-not-fit", "too many positional arguments"),
        (add.s(1, z=2), "arguments-do-not-fit", "1 positional argument and `z`"),
        (chain(add.s(1, 2), add.s()), "arguments-do-not-fit", "(the first is a value from what precedes it)"),
        (bound.s(), "arguments-do-not-fit", "'t.bound(x: int)"),
        (add.s(1, x=2), "argument-given-twice", "`x` would have two values"),
        (chain(add.s(1, 2), add.s(x=1)), "argument-given-twice", "`x` would have two values"),
        (chain(add.s(1, 2), ping.s()), "unexpected-input", "is given a value by what precedes it"),
        (chain(group(add.s(1, 2), add.s(1, 2)), ping.s()), "unexpected-input", "is given a list of 2 values by what precedes it"),
        (chord([add.s(1, 2)], ping.s()), "unexpected-input", "a list of 1 values"),
    ],
)
def test_arguments_that_do_not_fit(what: Any, code: str, words: str) -> None:
    """A TypeError in the last step of a long workflow is the most expensive place for a typing error."""
    finding = only(what, code, app=app)
    assert finding.severity == "error"
    assert words in finding.message
    assert code not in codes(what)


@pytest.mark.parametrize(
    "what",
    [
        chain(add.s(1, 2), add.s(1), ping.si(), add.si(x=1, y=2)),
        chord([add.s(1, 2), add.s(y=1, x=1)], total.s(factor=2)),
        chain(bound.s(1), bound.s()),
        chain(anything.s(1, 2, x=3), anything.s(), injected.s()),
        add.chunks([(1, 2), (3, 4)], 1),
        bound.map([1, 2]),
    ],
)
def test_arguments_that_fit(what: Any) -> None:
    """Bound tasks, keyword-only arguments, values from before and Celery's own tasks are counted as a worker does."""
    assert codes(what, app=app) == {}


def test_class_that_ignores_results() -> None:
    """Workers before 5.6.3 do as the class says, and the workflow waits for ever: that is more than an overruled option."""
    finding = only(chain(quiet.s(1), bound.s()), "ignore-result-forced", app=app)
    assert (finding.severity, finding.node) == ("warning", "quiet-1")
    assert "another task takes its value" in finding.message
    assert "another task" not in only(quiet.s(1), "ignore-result-forced", app=app).message
    assert codes(quiet.s(1)) == {}


def test_huge_list() -> None:
    """The list is one value: it must fit into the limit, and each taker has a copy in its message."""
    finding = only(chord([a] * 1001, b), "huge-list")
    assert (finding.place, finding.node) == ("the body of the chord", "b-1003")
    assert "a list of 1,001 values: more than 16,760 bytes each" in finding.message
    assert "copied into 2,000 messages" in only(chain(group([a] * 2000), group([b] * 2000)), "huge-list").message
    assert "huge-list" not in codes(chord([a] * 1000, b))
    assert "huge-list" not in codes(chord([a] * 1001, waiting(b)))


def test_several_dependencies_give_a_list() -> None:
    """In a graph built by hand a task that only waits is easily written as one that takes values."""
    workflow = Workflow("w")
    first = [workflow.add(a) for _ in range(3)]
    workflow.add(b, after=first, name="taker")
    workflow.add(waiting(c), after=first)
    finding = only(workflow, "list-input")
    assert (finding.node, finding.place, finding.count) == ("taker", "node 'taker'", 1)
    many = Workflow("w")
    many.add(b, after=[many.add(a) for _ in range(1001)])
    assert codes(many) == {"huge-list": 1}


def test_what_runs_beside_a_clean_up() -> None:
    """Whoever names the work of a section is easily meant to come after its clean-up; inside of it, or after both, it is not."""
    workflow = Workflow("w")
    with workflow.section("s") as section:
        work = workflow.add(waiting(a), name="work")
        workflow.add(waiting(b), after=work)
    clean = section.finally_(waiting(c), after=work, name="clean")
    section.finally_(waiting(c), after=clean)
    section.hook("always", waiting(c))
    workflow.add(waiting(b), after=[work, clean])
    assert "beside-finally" not in codes(workflow)
    workflow.add(waiting(b), after=work, name="next")
    finding = only(workflow, "beside-finally")
    assert (finding.severity, finding.node) == ("info", "next")
    assert "'next' waits for 'work' of section 's', and not for its `finally` 'clean'" in finding.message


def test_a_hook_takes_a_summary() -> None:
    """Whatever it comes after, it is given one value: how its section, or the workflow, has ended."""
    for hooked in (total, ping):
        workflow = Workflow("w")
        with workflow.section("s") as section:
            workflow.add(ping.si(), name="first")
            workflow.add(ping.si(), name="second")
        section.hook("failure", hooked.s(), name="of-section")
        workflow.hook("always", hooked.s(), name="of-workflow")
        assert codes(workflow, app=app) == ({} if hooked is total else {"unexpected-input": 2})


def test_large_arguments() -> None:
    """They are stored, and sent again with each attempt."""
    assert codes(app.signature("t.a", args=("x" * 100_001,))) == {"large-arguments": 1}
    assert codes(app.signature("t.a", args=("x" * 99_000,))) == {}
