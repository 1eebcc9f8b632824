"""Who goes next, and why one does not: the reason that is told is the one that holds, and without one it goes on."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dyrygentd.core.dispatching import Bar, HoldBack
from dyrygentd.core.effects import Batch
from dyrygentd.core.events import DrainRequested, TaskFailed, TaskSucceeded
from dyrygentd.core.limits import Limits
from dyrygentd.core.policy import PLAIN_WORKFLOW, WorkflowPolicy
from dyrygentd.core.standing import headline
from dyrygentd.core.workflow import RunningWorkflow
from tests.support.conversation import Conversation
from tests.support.stepping import standings

_POLICIES = st.builds(
    WorkflowPolicy,
    priority=st.sampled_from([0, 0, 0, 5, -5]),
    weight=st.integers(1, 3),
    in_flight_max=st.sampled_from([0, 0, 1, 2]),
)
_GRAPHS = st.sampled_from(
    ["a; b; c; d; e", "a; b; c; d; e; f; g", "a", "a; b < a; c < a; d; e", "a countdown=5; b; c", "a gate=1; b; c < b"]
)
_STEPS = st.lists(st.sampled_from(["turn", "turn", "succeed", "fail", "pause", "resume", "wait", "drain", "raise"]), max_size=25)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    workflows=st.lists(st.tuples(_GRAPHS, _POLICIES), min_size=2, max_size=4),
    in_flight_max=st.sampled_from([100, 1, 3, 100]),
    dispatch_max=st.sampled_from([1, 2, 5]),
    steps=_STEPS,
    data=st.data(),
)
def test_reason_is_the_one_that_holds(
    workflows: list[tuple[str, WorkflowPolicy]], in_flight_max: int, dispatch_max: int, steps: list[str], data: st.DataObject
) -> None:
    """What a person is told at night is what the loop goes by, whatever has happened before."""
    conversation = Conversation(Limits(in_flight_max=in_flight_max, dispatch_max=dispatch_max))
    for number, (graph, policy) in enumerate(workflows):
        conversation.tell(conversation.submission(graph, f"w{number}", policy=policy))
    conversation.turn()
    _look(conversation)
    for step in steps:
        running = sorted(conversation.engine.workflows)
        in_flight = sorted(task_id for task_id, _, _ in conversation.engine.flights.in_flight())
        match step:
            case "succeed" if in_flight:
                conversation.tell(TaskSucceeded(data.draw(st.sampled_from(in_flight)), b"1"))
            case "fail" if in_flight:
                conversation.tell(TaskFailed(data.draw(st.sampled_from(in_flight)), "boom"))
            case "pause" | "resume" if running:
                conversation.ask(step, workflow_id=data.draw(st.sampled_from(running)))
            case "raise" if running:
                conversation.ask("set-priority", workflow_id=data.draw(st.sampled_from(running)), priority=9)
            case "wait":
                conversation.now += 5
            case "drain" if data.draw(st.integers(0, 9)) == 0:
                conversation.tell(DrainRequested())
        conversation.turn()
        _look(conversation)


def _look(conversation: Conversation) -> None:
    """Ask of every workflow why it does not go, and hold that against the next turns, in which nothing else happens."""
    engine = conversation.engine
    running = dict(engine.workflows)
    told = {workflow_id: engine.held_back(workflow) for workflow_id, workflow in running.items()}
    told_at_limit = engine.flights.in_flight_count >= conversation.limits.in_flight_max
    paused = {workflow_id for workflow_id, workflow in running.items() if workflow.state.value != "running"}
    order = [message.workflow_id for _ in range(4) for message in conversation.turn().publish]
    for workflow_id, held in told.items():
        _hold_against(held, workflow_id, order, running)
        assert (held is not None and held.bar is Bar.NOT_RUNNING) == (workflow_id in paused)
        assert held is None or held.bar is not Bar.IN_FLIGHT_MAX or told_at_limit
    assert sum(held is None for held in told.values()) == bool(order)


def _hold_against(held: HoldBack | None, workflow_id: str, order: list[str], running: dict[str, RunningWorkflow]) -> None:
    """Compare what is told of one workflow with who went, and in which order."""
    if held is None:
        assert order[0] == workflow_id
    elif held.bar in (Bar.DRAINING, Bar.IN_FLIGHT_MAX):
        assert not order
    elif held.bar is Bar.PRIORITY:
        assert running[order[0]].priority == held.priority > running[workflow_id].priority
    elif held.bar is Bar.TURN:
        before = order[: order.index(workflow_id)] if workflow_id in order else order
        assert 0 < len(set(before)) <= held.ahead
        assert len(before) == held.nodes if workflow_id in order else len(before) <= held.nodes
    else:
        assert workflow_id not in order


def test_who_waits_for_a_pool_is_not_ready() -> None:
    """A node that stands in line holds nobody up, and its workflow says that it has nothing to give."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("a pool=p; b pool=p")
    assert conversation.engine.held_back(conversation.workflow()) == HoldBack(Bar.NOTHING_READY)
    batch = conversation.succeed("w/a")
    assert [message.task_id for message in batch.publish] == ["w/b"]


def _text(conversation: Conversation, workflow_id: str) -> tuple[str, str, str]:
    workflow = conversation.workflow(workflow_id)
    (standing,) = [each for each in standings(conversation.engine, workflow, conversation.now) if each.code == "ready"]
    return standing.text, standing.next_step, headline(conversation.engine, workflow, conversation.now)


@pytest.mark.parametrize(
    ("limits", "policies", "events", "text", "step"),
    [
        (Limits(dispatch_max=1), {}, [], "its turn comes within moments", ""),
        (Limits(dispatch_max=1), {"v": WorkflowPolicy(weight=3)}, [], "1 other workflow goes first, with 2 nodes by weight", ""),
        (
            Limits(dispatch_max=1),
            {"v": WorkflowPolicy(priority=7)},
            [],
            "1 workflow of a higher priority (7) goes first",
            "`set-priority` lets it go before others",
        ),
        (
            Limits(in_flight_max=1),
            {"v": WorkflowPolicy(priority=7)},
            [],
            "1 tasks are in flight, as many as `in_flight_max` allows, and 1 workflow of a higher priority (7) goes first",
            "add workers, or raise `in_flight_max`; `set-priority` lets it go before others",
        ),
        (
            Limits(in_flight_max=1),
            {"v": WorkflowPolicy(weight=2)},
            [],
            "1 tasks are in flight, as many as `in_flight_max` allows, and 1 other workflow goes first, with 1 node by weight",
            "add workers, or raise `in_flight_max`",
        ),
        (
            Limits(dispatch_max=1),
            {},
            [DrainRequested()],
            "the daemon is stopping and dispatches nothing more",
            "it goes on after the next start",
        ),
    ],
)
def test_reason_in_words(
    limits: Limits, policies: dict[str, WorkflowPolicy], events: list[DrainRequested], text: str, step: str
) -> None:
    """Priorities and weights are among the answers, with the verb that changes them."""
    conversation = Conversation(limits)
    for workflow_id in ("v", "w"):
        conversation.tell(conversation.submission("a; b; c; d", workflow_id, policy=policies.get(workflow_id, PLAIN_WORKFLOW)))
    conversation.turn()
    conversation.tell(*events)
    assert _text(conversation, "w")[:2] == (f"'a' is ready: {text}", step)


def test_goes_within_moments(conversation: Conversation) -> None:
    """Whoever is first is told so."""
    conversation.tell(conversation.submission("a; b"))
    assert _text(conversation, "w") == (
        "'a' is ready: its turn comes within moments",
        "",
        "2 nodes ready, none in flight: its turn comes within moments",
    )


def test_batch_is_empty_while_draining(conversation: Conversation) -> None:
    """A daemon that stops sends nothing more, and says so."""
    conversation.tell(conversation.submission("a"), DrainRequested())
    assert conversation.turn().publish == Batch().publish
    assert conversation.engine.held_back(conversation.workflow()) == HoldBack(Bar.DRAINING)
