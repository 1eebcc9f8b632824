"""Estimates in words: what bounds the end, and names that do no harm."""

import pytest

from dyrygentd.core.estimate import Bound, Estimate
from dyrygentd.core.events import VerbRequested
from dyrygentd.core.run_times import RunTimes
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.wire import view_of_estimate, view_of_run_times
from tests.support.conversation import Conversation


@pytest.fixture
def conversation() -> Conversation:
    made = Conversation()
    made.submit("a; b < a; c < b; d < c; e < d; g < e gate=1")
    return made


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (
            Estimate(Bound.PATH, 720.0, 1080.0, path=[0, 1], path_seconds=[1, 2], path_nodes=2),
            "12 to 18 min left, bounded by the longest path: a -> b",
        ),
        (
            Estimate(Bound.PATH, 40.0, 70.0, path=range(5), path_seconds=range(5), path_nodes=70, path_s=60.0),
            "40 to 70 s left, bounded by the longest path: a -> b -> c -> d -> … (66 nodes more, 1 min in all)",
        ),
        (
            Estimate(Bound.WORKERS, 60.0, 120.0, slots=7.6),
            "1 to 2 min left, bounded by the workers: about 8 tasks of it at a time",
        ),
        (Estimate(Bound.POOL, 60.0, 120.0, "drain"), "1 to 2 min left, bounded by pool 'drain'"),
        (Estimate(Bound.LIMIT, 60.0, 120.0, "`in_flight_max`"), "1 to 2 min left, bounded by `in_flight_max`"),
        (Estimate(Bound.TIME, 60.0, 120.0, "s" * 99), f"1 to 2 min left, bounded by the time for which '{'s' * 59}…' is held"),
        (Estimate(Bound.TIME, 60.0, 120.0), "1 to 2 min left, bounded by the time at which it starts"),
    ],
)
def test_what_bounds_it(conversation: Conversation, estimate: Estimate, words: str) -> None:
    """A sentence that can stand alone."""
    shown = view_of_estimate(conversation.workflow(), estimate)
    assert shown.words == f"about {words}"
    assert (shown.low_s, shown.high_s, shown.bound) == (estimate.low_s, estimate.high_s, estimate.bound.value)
    assert [node.name for node in shown.path] == [conversation.workflow().graph.names[node] for node in estimate.path]


def test_where_nobody_can_tell(conversation: Conversation) -> None:
    """No number is shown then, and who decides is named."""
    workflow = conversation.workflow()
    shown = view_of_estimate(workflow, Estimate(Bound.PERSON, 5.0, 9.0, persons=[5], person_count=1))
    assert (shown.low_s, shown.high_s, shown.bound_name) == (None, None, "g")
    assert shown.words == "nobody can tell when it ends: 'g' waits for a person, or will; without that, about 5 to 9 s"
    shown = view_of_estimate(workflow, Estimate(Bound.PERSON, persons=[0, 5], person_count=3))
    assert shown.words == "nobody can tell when it ends: 'a' and 2 nodes more wait for a person, or will"
    unknown = view_of_estimate(workflow, Estimate(Bound.UNKNOWN, 1.0, 9.0, "t"))
    assert unknown.words == "not known yet: nothing of task 't' has ended, in this workflow or another one"
    assert (unknown.low_s, unknown.bound_name) == (None, "t")
    failing = view_of_estimate(workflow, Estimate(Bound.FAILING, name="a"))
    assert (failing.words, failing.low_s) == ("nobody can tell when it ends: 'a' keeps failing", None)
    assert view_of_estimate(workflow, Estimate(Bound.NOTHING, 0.0, 0.0)).words == "it is about to end"
    conversation.tell(VerbRequested("w", VerbRequest(Verb.PAUSE)))
    shown = view_of_estimate(workflow, Estimate(Bound.PERSON, 5.0, 9.0))
    assert shown.words == "nobody can tell when it ends: it is paused; without that, about 5 to 9 s"
    conversation.tell(VerbRequested("w", VerbRequest(Verb.CANCEL)))
    assert view_of_estimate(workflow, Estimate(Bound.NOTHING, 0.0, 0.0)).words == "it has finished"


def test_run_times_are_shown() -> None:
    """Half of them, and nearly all of them."""
    times = RunTimes()
    for second in range(1, 101):
        times.ended("t", float(second), is_good=True)
    times.ended("t", 1.0, is_good=False)
    shown = view_of_run_times(times.view(["t"]).items(), 3)
    assert shown.left_out == 3
    (task,) = shown.tasks
    assert (task.task, task.count, task.failing) == ("t", 100, 0.01)
    assert task.p50_s == pytest.approx(50.0, rel=0.15)
    assert task.p95_s == pytest.approx(95.0, rel=0.15)
