"""Hooks follow the state of the workflow, whatever rules, skips and retries made of its nodes."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskIgnored, TaskSucceeded
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from dyrygentd.core.standing import standing_of_node
from dyrygentd.core.states import IN_FLIGHT
from tests.support.conversation import Conversation, cancel

_RULES = ("all_succeeded", "all_finished", "any_failed", "any_succeeded", "none_failed")
_HOOKS = ("success! hook=success", "failure! hook=failure", "always! hook=always")


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Make up to seven nodes with rules, retries and joins, and a hook of each kind somewhere among them."""
    lines: list[str] = []
    for number in range(draw(st.integers(1, 7))):
        after = draw(st.lists(st.sampled_from(range(number)), unique=True, max_size=3)) if number else []
        names = " ".join(f"n{dependency}" for dependency in after)
        if draw(st.integers(0, 4)) == 0:
            lines.append(f"&n{number} < {names}" if after else f"&n{number}")
            continue
        words = f"rule={draw(st.sampled_from(_RULES))}" if after else ""
        words += " retry=2 backoff=1" if draw(st.integers(0, 3)) == 0 else ""
        lines.append(f"n{number}! < {names} {words}")
    for hook in _HOOKS:
        lines.insert(draw(st.integers(0, len(lines))), hook)
    return "\n".join(lines)


def _run(conversation: Conversation, chance: Random) -> dict[str, str]:
    """Let all tasks end, most of the hooks well; return ``{node: state}``."""
    for _ in range(1000):
        in_flight = [(task_id, workflow, node) for task_id, workflow, node in conversation.engine.flights.in_flight()]
        if "w" not in conversation.engine.workflows:
            return conversation.states()
        if not in_flight:
            conversation.turn(after_s=1)
            continue
        task_id, workflow, node = chance.choice(in_flight)
        is_hook = node in workflow.graph.hooks
        event: TaskEvent = TaskSucceeded(task_id, b"1")
        if not is_hook and chance.random() < 0.4:
            event = TaskFailed(task_id, f"boom of {workflow.graph.names[node]}")
        elif not is_hook and chance.random() < 0.1:
            event = TaskIgnored(task_id, "not today")
        elif not is_hook and chance.random() < 0.05:
            conversation.ask("skip", workflow.graph.names[node])
            continue
        conversation.turn(event)
        if chance.random() < 0.1:
            conversation.crash()
    raise AssertionError(f"it does not end: {conversation.states()}")


def _check(conversation: Conversation, states: dict[str, str]) -> None:
    ran = {hook: states[hook] == "succeeded" for hook in ("success", "failure", "always")}
    state = conversation.workflows["w"].state.value
    assert ran == {"success": state == "succeeded", "failure": state == "failed", "always": True}
    if state == "failed":
        assert any(conversation.workflows["w"].error.startswith(f"'{name}' failed: ") for name in states)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=texts(), seed=st.integers(0, 2**16), stops=st.booleans())
def test_hooks_run_exactly_by_the_final_state(text: str, seed: int, stops: bool) -> None:
    """The hook of a failure runs if and only if the workflow ends as failed, also when it has been retried after its end."""
    conversation, chance = Conversation(), Random(seed)
    conversation.submit(text, policy=WorkflowPolicy(on_failure=OnFailure.STOP if stops else OnFailure.CONTINUE))
    states = _run(conversation, chance)
    _check(conversation, states)
    for _ in range(2):
        if not conversation.ask("retry").is_changed:
            break
        _check(conversation, _run(conversation, chance))


@pytest.mark.parametrize(
    "text",
    [
        "a; c! < a rule=all_finished",
        "a; c! < a rule=any_failed",
        "a; b; c! < a b rule=any_succeeded",
        "a; b; c! < b rule=none_failed; d! < a rule=all_finished",
    ],
)
def test_the_end_that_succeeds_does_not_hide_a_failure(text: str) -> None:
    """A clean-up after a failure and an alarm are the usual pair; the one must not keep the other from running."""
    conversation = Conversation()
    conversation.submit(f"{text}; alarm hook=failure; good! hook=success")
    conversation.turn(TaskFailed("w/a", "boom"))
    for _ in range(3):
        batch = conversation.succeed(
            *(task_id for task_id, _, _ in conversation.engine.flights.in_flight() if task_id != "w/alarm")
        )
        if any(message.task_id == "w/alarm" for message in batch.publish):
            told = json.loads(bytes(batch.publish[-1].input or b""))
    assert (told["state"], told["error"], told["failures"]) == ("failed", "'a' failed: boom", 1)
    conversation.succeed("w/alarm")
    assert conversation.workflows["w"].state.value == "failed"
    assert conversation.workflows["w"].error == "'a' failed: boom"
    assert conversation.states()["good"] == "skipped"
    assert conversation.ask("retry", "a").is_changed
    conversation.succeed(conversation.workflow().attempts.task_id_of(0))
    for _ in range(3):
        live = conversation.engine.workflows.get("w")
        in_flight = [] if live is None else [live.attempts.task_id_of(node) for node in live.nodes.all_in(*IN_FLIGHT)]
        conversation.succeed(*in_flight)
    assert conversation.workflows["w"].state.value == "succeeded"
    assert conversation.workflows["w"].error == ""
    assert (conversation.states()["good"], conversation.states()["alarm"]) == ("succeeded", "skipped")


def test_a_hook_waits_for_what_is_no_end() -> None:
    """What a node with a rule has overtaken may still fail."""
    conversation = Conversation()
    conversation.submit("a; b; c! < a b rule=any_succeeded; good! hook=success; alarm! hook=failure")
    conversation.succeed("w/a")
    conversation.succeed("w/c")
    assert conversation.states() == {
        "a": "succeeded",
        "b": "dispatching",
        "c": "succeeded",
        "good": "waiting",
        "alarm": "waiting",
    }
    standing = standing_of_node(conversation.engine, conversation.workflow(), 3, conversation.now)
    assert standing.text.startswith("'good' waits for 1 of 3 dependencies, first 'b': 'b' is on its way")
    batch = conversation.turn(TaskFailed("w/b", "late boom"))
    assert [message.task_id for message in batch.publish] == ["w/alarm"]


def test_a_cancel_runs_no_hook() -> None:
    """Whoever cancels knows."""
    conversation = Conversation()
    conversation.submit("a; alarm! hook=failure; always! hook=always")
    assert conversation.turn(cancel("w")).publish == []
    assert conversation.states() == {"a": "cancelled", "alarm": "cancelled", "always": "cancelled"}


def test_a_stopped_workflow_tells_its_first_failure() -> None:
    """What was cancelled because of it comes later."""
    conversation = Conversation()
    conversation.submit("a; b gate=1; alarm hook=failure", policy=WorkflowPolicy(on_failure=OnFailure.STOP))
    (message,) = conversation.turn(TaskFailed("w/a", "boom")).publish
    assert json.loads(bytes(message.input or b""))["error"] == "'a' failed: boom"


def test_many_failures_cost_one_look() -> None:
    """The error is the first one, and bounded, however many there are and however long their texts are."""
    conversation = Conversation()
    conversation.submit("; ".join(f"n{number}" for number in range(300)))
    conversation.turn(TaskFailed("w/n7", "boom" * 1000), after_s=1)
    conversation.turn(*[TaskFailed(f"w/n{number}", "later") for number in range(300) if number != 7], after_s=1)
    error = conversation.workflows["w"].error
    assert error.startswith("'n7' failed: boomboom")
    assert len(error) == 1000
