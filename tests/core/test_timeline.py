"""A timeline tells of every node's time once: waiting, in flight, in flight again, and its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.core.events import TaskFailed, TaskSucceeded
from dyrygentd.core.folding import Folding
from dyrygentd.core.graph import Graph
from dyrygentd.core.ids import task_id_of_attempt
from dyrygentd.core.limits import Limits
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.node_states import FIRST_FINISHED
from dyrygentd.core.origin import Origin
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.records import Attempt
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.timeline import BINS_MAX, BoxTimes, Frame, frame_of, row_order, times_of
from dyrygentd.core.tries import tries_of
from dyrygentd.core.workflow import RunningWorkflow
from tests.core.test_folding import graphs
from tests.support.conversation import START, Conversation


def told(workflow: RunningWorkflow, now: float, bins: int) -> dict[str, BoxTimes]:
    """Return ``{title: times}`` of a workflow that is opened down to its nodes."""
    fold = Folding(workflow.graph).at("")
    assert fold is not None
    times = times_of(fold, workflow, workflow.states, frame_of(workflow, now, bins))
    return {box.title: each for box, each in zip(fold.boxes, times, strict=True)}


def seconds(box: BoxTimes) -> tuple[float, float, float]:
    """Return how long nodes waited, ran, and ran again, in bins of a second."""
    waiting, running, again = (round(sum(means), 6) for means in (box.waiting, box.running, box.again))
    return waiting, running, again


def test_what_ends_a_section_waits_from_its_end_on() -> None:
    """Not from the beginning, although it names nothing that it waits for."""
    conversation = Conversation(Limits(in_flight_max=1))
    conversation.submit("a! section=s; c! section=s end=finally; z!; y! < z")
    conversation.turn(TaskSucceeded("w/a", b"1"), after_s=4)
    conversation.turn(TaskSucceeded("w/z", b"1"), after_s=3)
    boxes = told(conversation.workflow(), START + 10, 10)
    inner = Folding(conversation.workflow().graph).at("s")
    assert inner is not None
    times = times_of(
        inner, conversation.workflow(), conversation.workflow().states, frame_of(conversation.workflow(), START + 10, 10)
    )
    assert [box.title for box in inner.boxes] == ["a", "c"]
    assert [(edge.before, edge.after) for edge in inner.edges] == [(0, 1)]
    assert [seconds(each) for each in times] == [(0, 4, 0), (3, 3, 0)]
    assert boxes["s"].waiting == [0] * 4 + [1] * 3 + [0] * 3


def test_waiting_is_apart_from_running() -> None:
    """What has its turn later waits from when it could have run, and what follows begins to wait when that has ended."""
    conversation = Conversation()
    conversation.submit("a; b countdown=4; c < a; d < c")
    conversation.turn(TaskSucceeded("w/a", b"1"), after_s=2)
    conversation.turn(after_s=2)
    conversation.turn(TaskSucceeded("w/b", b"1"), after_s=1)
    boxes = told(conversation.workflow(), START + 10, 10)
    assert boxes["a"] == BoxTimes(START, START + 2, [0] * 10, [1, 1] + [0] * 8, [0] * 10, [0] * 10, [0, 0, 1] + [0] * 7, [0] * 10)
    assert boxes["b"].waiting == [1] * 4 + [0] * 6
    assert boxes["b"].running == [0] * 4 + [1] + [0] * 5
    assert boxes["c"].running == [0, 0] + [1] * 8
    assert (boxes["c"].first, boxes["c"].last, seconds(boxes["c"])) == (START + 2, None, (0, 8, 0))
    # It could not have run so far, which is no waiting of its own.
    assert (boxes["d"].first, seconds(boxes["d"])) == (None, (0, 0, 0))


def test_steps_within_a_bin_are_shares_of_it() -> None:
    """A bin is as full as its nodes were in it, wherever in it they began and ended."""
    conversation = Conversation()
    conversation.submit("a; b < a")
    conversation.turn(TaskSucceeded("w/a", b"1"), after_s=2.5)
    conversation.turn(TaskSucceeded("w/b", b"1"), after_s=1.25)
    boxes = told(conversation.restored("w"), START + 99, 3)
    assert boxes["a"].running == [1, 1, 0]
    assert boxes["b"].running == [0, 0, 1]
    boxes = told(conversation.restored("w"), START + 99, 2)
    assert boxes["a"].running == pytest.approx([1, 1 / 3])
    assert boxes["b"].running == pytest.approx([0, 2 / 3])


def test_later_attempts_are_apart() -> None:
    """Between attempts a node pauses until the next one is due, which is no waiting; one that a person tried again had ended."""
    conversation = Conversation()
    conversation.submit("a retry=2 backoff=3 jitter=0; r; f", policy=WorkflowPolicy())
    conversation.turn(TaskFailed("w/a", "no"), TaskFailed("w/r", "no"), after_s=2)
    conversation.turn(after_s=3)
    conversation.ask("retry", "r")
    conversation.turn(TaskFailed("w/f", "no"), TaskSucceeded(task_id_of_attempt("w/r", 2), b"1"), after_s=1)
    boxes = told(conversation.workflow(), START + 8, 8)
    assert (boxes["a"].running, boxes["a"].again) == ([1, 1] + [0] * 6, [0] * 5 + [1] * 3)
    assert (boxes["a"].waiting, boxes["a"].backoff) == ([0] * 8, [0, 0, 1, 1, 1, 0, 0, 0])
    assert boxes["a"].first == START
    assert (boxes["r"].running, boxes["r"].again) == ([1, 1] + [0] * 6, [0] * 5 + [1, 0, 0])
    assert (sum(boxes["r"].backoff), boxes["r"].ended) == (0, [0] * 6 + [1, 0])
    assert (boxes["f"].running, boxes["f"].failed) == ([1] * 6 + [0, 0], [0] * 6 + [1, 0])


def test_what_has_no_task_waits_and_ends() -> None:
    """A gate waits for a person and a sleep for its time; neither keeps a worker busy. A join is nobody's step."""
    conversation = Conversation()
    conversation.submit("g gate=1; s sleep=4; &j < g s; a < j; p poll=2; e hook=always")
    conversation.turn(TaskSucceeded("w/p", b"0"), after_s=1)
    conversation.ask("release", "g")
    conversation.turn(after_s=3)
    second = task_id_of_attempt("w/p", 2)
    conversation.turn(TaskSucceeded(second, b"1"), TaskSucceeded("w/a", b"1"), after_s=2)
    conversation.turn(TaskSucceeded("w/e", b"1"), after_s=2)
    boxes = told(conversation.restored("w"), START + 99, 8)
    assert (boxes["g"].waiting, boxes["g"].ended) == ([1] + [0] * 7, [0, 1] + [0] * 6)
    assert (boxes["s"].waiting, boxes["s"].ended) == ([1] * 4 + [0] * 4, [0] * 4 + [1] + [0] * 3)
    # It is one question to whoever looks, however often it was asked.
    assert (seconds(boxes["p"]), boxes["p"].first) == ((0, 6, 0), START)
    assert boxes["e"].running == [0] * 6 + [1, 1]
    assert sum(sum(box.ended) for box in boxes.values()) == 5


def test_what_never_ran_is_told_nowhere() -> None:
    """Thousands that one failure blocks, or a cancel took before they were sent, are no thousands of failures."""
    conversation = Conversation()
    conversation.submit("a; b < a; c countdown=99; d; e retry=2 backoff=50")
    conversation.turn(TaskFailed("w/a", "no"), TaskFailed("w/e", "no"), after_s=2)
    conversation.turn(after_s=2)
    conversation.ask("skip", "d")
    conversation.ask("cancel")
    boxes = told(conversation.restored("w"), START + 99, 4)
    assert {title: (sum(box.ended), sum(box.failed)) for title, box in boxes.items()} == {
        "a": (0, 1),
        "b": (0, 0),
        "c": (0, 0),
        "d": (1, 0),
        "e": (0, 1),
    }
    assert (seconds(boxes["c"]), boxes["c"].first) == ((4, 0, 0), None)
    assert seconds(boxes["b"]) == (0, 0, 0)


def test_bins_have_what_the_attempts_say() -> None:
    """Of a node that was tried again and again its attempts, pauses and waits fill the time from when it could run to its end."""
    conversation = Conversation(limits=Limits(in_flight_max=1))
    conversation.submit("a retry=9 backoff=2 backoff_max=2 jitter=0; b priority=-5")
    attempt = 1
    for after_s in (0.5, 1.25, 3):
        conversation.turn(TaskFailed(task_id_of_attempt("w/a", attempt) if attempt > 1 else "w/a", "no"), after_s=after_s)
        # The other one has the only place, so that this one has to wait when it is due.
        conversation.turn(after_s=3)
        conversation.turn(TaskSucceeded("w/b", b"1"), after_s=1)
        attempt += 1
    last = task_id_of_attempt("w/a", attempt)
    conversation.turn(TaskSucceeded(last, b"1"), after_s=1)
    workflow = conversation.restored("w")
    number = workflow.graph.number("a")
    assert number is not None
    tries = tries_of(workflow, number)
    assert [each.attempt.number for each in tries] == [1, 2, 3, 4]
    for bins in (2, 17, 100):
        frame = frame_of(workflow, 0.0, bins)
        box = told(workflow, 0.0, bins)["a"]
        seconds_of = [sum(series) * frame.bin_s for series in (box.running, box.again, box.backoff, box.waiting)]
        ran = [each.attempt.ended_at - each.attempt.sent_at for each in tries]
        expected = [ran[0], sum(ran[1:]), sum(each.backoff_s for each in tries), sum(each.waited_s or 0.0 for each in tries)]
        assert seconds_of == pytest.approx(expected)
        assert sum(expected) == pytest.approx(frame.until - START)
    assert [each.backoff_s for each in tries] == [0, 2, 2, 2]
    assert any(each.waited_s for each in tries)


@pytest.mark.parametrize(
    ("rule", "ends", "since"),
    [
        ("any_failed", (3.0, 0.0), 3),
        ("any_failed", (0.0, 5.0), None),
        ("any_succeeded", (3.0, 5.0), 5),
        ("any_succeeded", (0.0, 0.0), None),
        ("all_finished", (3.0, 5.0), 5),
        ("all_finished", (3.0, 0.0), None),
    ],
)
def test_a_rule_says_since_when_it_could_run(rule: str, ends: tuple[float, float], since: float | None) -> None:
    """What waits for any failure could run after the first one; here a has failed and b has succeeded."""
    conversation = Conversation()
    conversation.submit(f"a; b; c < a b rule={rule}")
    workflow = conversation.workflow()
    for node, (state, end) in enumerate(zip((NodeState.FAILED, NodeState.SUCCEEDED), ends, strict=True)):
        workflow.nodes.place(node, state)
        workflow.nodes.finished_at[node] = START + end if end else 0.0
    workflow.nodes.place(2, NodeState.READY)
    waited = sum(told(workflow, START + 10, 10)["c"].waiting)
    assert waited == pytest.approx(0 if since is None else 10 - since)


@pytest.mark.parametrize(
    ("start_at", "now", "since"), [(0, START + 9, START), (START + 5, START + 9, START + 5), (START + 50, START + 9, START)]
)
def test_a_timeline_begins_with_its_workflow(start_at: float, now: float, since: float) -> None:
    """A night before its start time is not shown, unless there is nothing else."""
    conversation = Conversation()
    conversation.submit("a", policy=WorkflowPolicy(start_at=start_at))
    assert frame_of(conversation.workflow(), now, 10) == Frame(since, now, 10)


def test_no_time_is_shown_nevertheless() -> None:
    """A workflow that has just begun, or began after now as far as the clock tells, has bins of some length."""
    conversation = Conversation()
    conversation.submit("a")
    for now in (START, START - 500):
        frame = frame_of(conversation.workflow(), now, 10)
        assert frame.bin_s == pytest.approx(0.001)
        assert sum(told(conversation.workflow(), now, 10)["a"].running) <= 10


def test_of_too_many_boxes_those_with_failures_and_time_stay() -> None:
    """And all that stay are in the order in which they began; what has not begun comes last. A join is no row."""
    specs = [NodeSpec("j", None, ""), *(NodeSpec(name, Signature(name), name) for name in "abcd")]
    fold = Folding(Graph.build(specs)).at("")
    assert fold is not None

    def times(first: float | None, running: float, failed: int = 0) -> BoxTimes:
        return BoxTimes(first, None, [0], [running], [0], [0], [0], [failed])

    boxes = [times(1, 9, 9), times(None, 0), times(7, 5), times(3, 1, 1), times(2, 2)]
    assert row_order(fold.boxes, boxes, 4) == ([4, 3, 2, 1], 0)
    assert row_order(fold.boxes, boxes, 2) == ([3, 2], 2)


@st.composite
def workflows(draw: st.DrawFn) -> RunningWorkflow:
    """Make a workflow in which nodes are in any state at any times, as after clocks that were set and operators' verbs."""
    graph = draw(graphs())
    workflow = RunningWorkflow(workflow_id="w", name="w", graph=graph, origin=Origin(START), value_bytes_max=100)
    if draw(st.booleans()):
        workflow.state, workflow.finished_at = WorkflowState.FAILED, START + draw(st.floats(-10, 100))
    times = st.floats(START - 50, START + 150)
    for node in range(len(graph)):
        state = draw(st.sampled_from(NodeState))
        workflow.nodes.place(node, state)
        if state.is_finished:
            workflow.nodes.finished_at[node] = draw(times)
        workflow.attempts.dispatched_at[node] = draw(st.just(0.0) | times)
        if draw(st.booleans()):
            workflow.attempts.pass_over_ids([node])
        if draw(st.integers(0, 5)) == 0:
            workflow.attempts.polling_since[node] = draw(times)
        if draw(st.booleans()):
            _try_before(draw, workflow, node)
    return workflow


def _try_before(draw: st.DrawFn, workflow: RunningWorkflow, node: int) -> None:
    """Give a node attempts before its present one, which is sent after them, if it may be."""
    times = sorted(draw(st.lists(st.floats(START - 50, START + 150), min_size=2, max_size=9)))
    row = workflow.attempts
    begun = workflow.states[node] not in (NodeState.WAITING, NodeState.BLOCKED) and row.dispatched_at[node]
    row.earlier[node] = tuple(
        Attempt(
            number, sent_at, ended_at, "failed", draw(st.just(0.0) | st.floats(START, START + 99)), is_over=draw(st.booleans())
        )
        for number, (sent_at, ended_at) in enumerate(zip(times[::2], times[1::2], strict=False), draw(st.integers(1, 2)))
    )
    row.take_back(node, 20, times[-1] + draw(st.floats(0, 50)) if begun else 0.0)


@given(workflows(), st.integers(2, BINS_MAX), st.floats(START - 20, START + 200))
def test_seconds_add_up(workflow: RunningWorkflow, bins: int, now: float) -> None:
    """All bins of all boxes have the seconds of all nodes, as far as they are within the frame, and none is below zero."""
    frame = frame_of(workflow, now, bins)

    def clamped(at: float) -> float:
        return min(max(at, frame.since), frame.until)

    in_flight_s, ends = 0.0, [0, 0]
    for node, state in enumerate(workflow.states):
        is_open = state in (NodeState.WAITING, NodeState.BLOCKED)
        polled_at = None if is_open else workflow.attempts.polling_since.get(node)
        earlier = [each for each in workflow.attempts.earlier.get(node, ()) if not polled_at or each.ended_at <= polled_at]
        if not workflow.graph.is_join(node):
            in_flight_s += sum(clamped(each.ended_at) - clamped(each.sent_at) for each in earlier)
        if workflow.graph.is_join(node) or is_open:
            continue
        sent_at = polled_at or workflow.attempts.dispatched_at[node]
        end = workflow.nodes.finished_at[node] if state >= FIRST_FINISHED else frame.until
        in_flight_s += max(0.0, clamped(end) - clamped(sent_at)) if sent_at else 0.0
        is_good = state in (NodeState.SUCCEEDED, NodeState.SKIPPED)
        if state >= FIRST_FINISHED and (is_good or workflow.attempts.of(node)):
            ends[is_good] += 1
    fold = Folding(workflow.graph).at("")
    assert fold is not None
    boxes = times_of(fold, workflow, bytes(workflow.states), frame)
    assert sum(sum(box.running) + sum(box.again) for box in boxes) * frame.bin_s == pytest.approx(in_flight_s, abs=1e-3)
    assert [sum(sum(box.failed) for box in boxes), sum(sum(box.ended) for box in boxes)] == ends
    for box in boxes:
        for series in (box.waiting, box.running, box.again, box.backoff, box.ended, box.failed):
            assert len(series) == bins
            assert min(series) >= 0
        assert (box.last is None) == (not any(box.ended) and not any(box.failed))


@given(workflows(), st.floats(START, START + 200))
def test_a_node_does_one_thing_at_a_time(workflow: RunningWorkflow, now: float) -> None:
    """Of a box there is never more under way or waiting than it has nodes."""
    fold = Folding(workflow.graph).at("")
    assert fold is not None
    for box, times in zip(fold.boxes, times_of(fold, workflow, workflow.states, frame_of(workflow, now, 7)), strict=True):
        for together in zip(times.waiting, times.running, times.again, times.backoff, strict=True):
            assert sum(together) <= box.counted - box.start + 1e-6
