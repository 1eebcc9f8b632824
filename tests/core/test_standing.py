"""Why is it not running: the engine's own answer for each state of a node and of a workflow."""

import pytest

from dyrygentd.core.events import DrainRequested, MessagePublished, TaskFailed, TaskIgnored, TaskLost, TaskReported, TaskSucceeded
from dyrygentd.core.limits import Limits
from dyrygentd.core.lost_causes import ENDED_SILENTLY, EXPIRED
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from dyrygentd.core.standing import Standing, headline, in_flight_of, standing_of_node
from dyrygentd.core.states import NodeState
from tests.support.conversation import START, Conversation
from tests.support.stepping import standings


def _standing(conversation: Conversation, name: str) -> Standing:
    workflow = conversation.engine.workflows.get("w") or conversation.restored("w")
    node = workflow.graph.number(name)
    assert node is not None
    return standing_of_node(conversation.engine, workflow, node, conversation.now)


def _headline(conversation: Conversation) -> str:
    workflow = conversation.engine.workflows.get("w") or conversation.restored("w")
    return headline(conversation.engine, workflow, conversation.now)


def test_held_nodes_say_what_holds_them(conversation: Conversation) -> None:
    """Each kind of hold has words of its own, and the verb that ends it."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("g gate=1; t countdown=90; a poll=60; r retry=3 backoff=30 jitter=0; p1 pool=p; p2 pool=p; x; o < x")
    conversation.ask("hold", "o")
    conversation.turn(TaskFailed("w/r", "boom"))
    conversation.succeed("w/a", value=b"false")
    conversation.succeed("w/x")
    found = {name: _standing(conversation, name) for name in ("g", "t", "a", "r", "p2", "o")}
    assert {name: (each.code, each.text) for name, each in found.items()} == {
        "g": ("gate", "'g' is a gate and waits for an operator"),
        "t": ("time", "'t' waits for its time, another 1 min 30 s"),
        "a": ("poll", "'a' asked once and asks again in 1 min"),
        "r": ("retrying", "'r' failed in attempt 1 (boom) and is tried again in 30 s"),
        "p2": ("pool", "'p2' waits for a place in pool 'p'"),
        "o": ("hold", "'o' is held by an operator"),
    }
    assert found["g"].next_step == "`release g` opens it"
    assert found["r"].next_step == "`retry r` tries at once, `skip r` goes on without it"


@pytest.mark.parametrize(
    ("error", "step"),
    [
        ("nowhere", "`retry a` starts another attempt, `skip a` goes on"),
        (
            f"w1 has it no longer: it {ENDED_SILENTLY}",
            "`skip a` goes on; another attempt, by `retry a`, would end in the same way",
        ),
        (f"if it ended then, {EXPIRED}", "`skip a` goes on, if its work is done; `retry a` starts another attempt"),
    ],
)
def test_lost_tasks(conversation: Conversation, error: str, step: str) -> None:
    """What is known of the loss decides what helps; those that wait for it say so shortly in a group."""
    conversation.submit("a; b < a")
    conversation.turn(TaskLost("w/a", f"its task is lost: {error}"))
    standing = _standing(conversation, "a")
    assert (standing.text, standing.next_step) == (f"'a' is held, since its task was lost: {error}", step)
    behind = standings(conversation.engine, conversation.workflow(), conversation.now)[1]
    assert behind.text == "'b' waits for 1 of 1 dependencies, first 'a': 'a' is held, since its task was lost"
    assert behind.next_step == ""
    assert error in _standing(conversation, "b").text


def test_waiting_leads_to_what_somebody_can_do(conversation: Conversation) -> None:
    """However long the way: the end of it is named, and a hold that comes on top."""
    conversation.submit("g gate=1; a; b < g a; c < b; d < c")
    conversation.ask("hold", "d")
    standing = _standing(conversation, "d")
    way = "'d' waits for 1 of 1 dependencies, first 'c', which waits in the end for 'g': 'g' is a gate and waits for an operator"
    assert (standing.code, standing.text) == ("waiting", f"{way}; besides, an operator holds it")
    assert standing.next_step == "`release g` opens it"


def test_a_workflow_that_has_not_begun(conversation: Conversation) -> None:
    """All of it waits for the start."""
    conversation.submit("a; b < a", policy=WorkflowPolicy(start_at=START + 60))
    standing = _standing(conversation, "b")
    assert (standing.code, standing.text, standing.next_step) == ("scheduled", "it starts in 1 min", "`release`")


def test_in_flight(conversation: Conversation) -> None:
    """Since when, and what a worker last said of it."""
    conversation.submit("a; b; c; d")
    conversation.turn(*(MessagePublished(f"w/{name}") for name in "bcd"))
    conversation.turn(
        TaskReported("w/b", "STARTED"), TaskReported("w/c", "RETRY", "w1@h", 3661.0), TaskReported("w/d", "RETRY", "", 3661.0)
    )
    conversation.now += 5
    assert _standing(conversation, "a").text == "'a' is on its way to the broker since 5 s"
    assert [_standing(conversation, name).text.partition("for 5 s ")[2] for name in "bcd"] == [
        "(attempt 1, a worker reported STARTED)",
        "(attempt 1, w1@h reported RETRY, next try at 01:01:01 UTC)",
        "(attempt 1, a worker reported RETRY, next try at 01:01:01 UTC)",
    ]


def test_the_group_in_flight_is_told_by_the_oldest(conversation: Conversation) -> None:
    """Whoever has been longest is the one to look at."""
    conversation.submit("a; b; c countdown=5; d < a")
    conversation.turn(after_s=5)
    conversation.succeed("w/a", "w/b")
    [group] = standings(conversation.engine, conversation.workflow(), conversation.now + 3)
    assert (group.count, group.examples) == (2, ("c", "d"))
    assert group.text.startswith("'c' is on its way")
    assert [conversation.workflow().graph.names[node] for node in in_flight_of(conversation.workflow(), 1)] == ["c"]


def test_ends(conversation: Conversation) -> None:
    """What is over says how, and what would set it going again."""
    conversation.submit("a; s < a; u < a rule=any_failed; j; f; b < f a; i; &z < j")
    conversation.succeed("w/a", "w/j")
    conversation.ask("skip", "s")
    conversation.turn(
        TaskFailed("w/f", "ValueError: no", "ValueError", fingerprint="ValueError in work (tasks.py:7)"), TaskIgnored("w/i", "no")
    )
    found = {name: _standing(conversation, name) for name in ("a", "z", "s", "u", "i", "f", "b")}
    assert {name: (each.code, each.text) for name, each in found.items()} == {
        "a": ("succeeded", "'a' has succeeded in attempt 1"),
        "z": ("succeeded", "'z' has succeeded"),
        "s": ("skipped", "'s' was skipped by an operator"),
        "u": ("unneeded", "'u' was not needed: its rule or its task said so"),
        "i": ("unneeded", "'i' was not needed: its task said so: no"),
        "f": ("failed", "'f' failed in attempt 1: ValueError: no [in work (tasks.py:7)]"),
        "b": ("blocked", "'b' never ran, because of 'f'"),
    }
    assert found["b"].next_step == "retry or skip 'f'"


def test_more_than_one_to_blame(conversation: Conversation) -> None:
    """To retry the one that is named is not enough then."""
    conversation.submit("a; b; c; d < a b c")
    conversation.turn(TaskFailed("w/a", "x"), TaskFailed("w/b", "y"), TaskFailed("w/c", "z"))
    assert _standing(conversation, "d").text == "'d' never ran, because of 'a' and 2 more of its dependencies"


def test_failed_without_a_value_and_late(conversation: Conversation) -> None:
    """A value that cannot be carried fails again; an end that came later is told as well."""
    conversation.submit("a; b < a; c; d gate=1")
    conversation.turn(TaskSucceeded("w/a", None, "it is a socket"))
    assert _standing(conversation, "a").next_step.startswith("`skip a --value null` goes on without it")


@pytest.mark.parametrize(
    ("limits", "policy", "reason"),
    [
        (Limits(in_flight_max=1), WorkflowPolicy(), "1 tasks are in flight, as many as `in_flight_max` allows"),
        (Limits(), WorkflowPolicy(in_flight_max=1), "the workflow's own limit of 1 tasks in flight is reached"),
        (Limits(dispatch_max=1), WorkflowPolicy(), "its turn comes within moments"),
    ],
)
def test_ready_says_what_keeps_it(limits: Limits, policy: WorkflowPolicy, reason: str) -> None:
    """The limit that holds is the one that is told."""
    conversation = Conversation(limits)
    conversation.submit("a; b", policy=policy)
    assert _standing(conversation, "b").text == f"'b' is ready: {reason}"


def test_ready_while_paused_or_draining(conversation: Conversation) -> None:
    """Nothing goes then, whatever has a place."""
    conversation = Conversation(Limits(dispatch_max=1))
    conversation.submit("a; b")
    conversation.ask("pause")
    assert _standing(conversation, "b").text == "'b' is ready: the workflow is paused"
    assert _headline(conversation) == "it is paused: nothing is dispatched until `resume`; 1 task in flight"
    conversation.ask("resume")
    conversation = Conversation()
    conversation.turn(DrainRequested())
    conversation.submit("a")
    assert _standing(conversation, "a").text == "'a' is ready: the daemon is stopping and dispatches nothing more"
    assert _headline(conversation) == ("1 node ready, none in flight: the daemon is stopping and dispatches nothing more")


def test_headlines_of_what_goes_on(conversation: Conversation) -> None:
    """One sentence for the whole: what is in flight, else whom or what it waits for, people first."""
    conversation.submit("a; g < a gate=1; h < a gate=1; t < a countdown=50; z < g")
    assert _headline(conversation) == "it is running: 1 task in flight"
    conversation.succeed("w/a")
    assert (
        _headline(conversation) == "nothing is in flight: 2 gates wait for a person, 1 node held or waiting for another attempt"
    )
    conversation.turn(after_s=50)
    conversation.succeed("w/t")
    conversation.ask("release", "g")
    conversation.succeed("w/z")
    assert _headline(conversation) == "nothing is in flight: 1 gate waits for a person"


@pytest.mark.parametrize(
    ("graph", "ends", "words"),
    [
        ("a; b", "", "it has succeeded"),
        ("a; b; c", "a b", "it has failed: 2 failures, 2 causes"),
        ("a", "a", "it has failed: 1 failure, 1 cause"),
    ],
)
def test_headlines_of_ends(conversation: Conversation, graph: str, ends: str, words: str) -> None:
    """Failures are counted, and what they have in common."""
    conversation.submit(graph)
    names = conversation.workflow().graph.names
    conversation.turn(*(TaskFailed(f"w/{name}", "x", name.upper()) for name in ends.split()))
    conversation.succeed(*(f"w/{name}" for name in names if name not in ends.split()))
    assert _headline(conversation) == words


@pytest.mark.parametrize(("graph", "words"), [("a; b", "2 nodes were"), ("a", "1 node was")])
def test_failed_without_a_failure(conversation: Conversation, graph: str, words: str) -> None:
    """A deadline fails a workflow in which no node has failed."""
    conversation.submit(graph, policy=WorkflowPolicy(deadline_s=5))
    conversation.turn(after_s=6)
    assert _headline(conversation) == f"it has failed: {words} cancelled before"


def test_cancelled(conversation: Conversation) -> None:
    """And its nodes say what can be done."""
    conversation.submit("a; b < a", policy=WorkflowPolicy(on_failure=OnFailure.STOP))
    conversation.ask("cancel")
    assert _headline(conversation) == "it was cancelled"
    assert _standing(conversation, "a").code == "cancelled"


def test_groups(conversation: Conversation) -> None:
    """What somebody can do something about comes first; what only waits is counted with a few names."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("f; g gate=1; t countdown=9; p pool=p; q pool=p; o; w1 < o; w2 < o; b < f; r retry=2")
    conversation.turn(TaskFailed("w/f", "boom"), TaskFailed("w/r", "boom"))
    found = standings(conversation.engine, conversation.workflow(), conversation.now)
    assert [(each.code, each.count) for each in found] == [
        ("failed", 1),
        ("gate", 1),
        ("dispatching", 2),
        ("retrying", 1),
        ("pool", 1),
        ("time", 1),
        ("blocked", 1),
        ("waiting", 2),
    ]
    apart = standings(conversation.engine, conversation.workflow(), conversation.now, frozenset({6}))
    assert (apart[0].code, apart[0].examples) == ("waiting", ("w1",))


def test_nothing_has_begun_and_it_is_paused(conversation: Conversation) -> None:
    """The start has come and gone for nothing: what keeps the nodes is the pause."""
    conversation.submit("a; b < a", policy=WorkflowPolicy(start_at=START + 60))
    conversation.ask("pause")
    standing = _standing(conversation, "b")
    assert (standing.code, standing.next_step) == ("paused", "`resume`")
    assert standing.text.startswith("it is paused: nothing is dispatched until `resume`")


def test_in_the_middle_of_a_turn() -> None:
    """Whoever asks in between is told no less than that it is about to be decided."""
    conversation = Conversation()
    conversation.submit("a; b < a; c < b")
    workflow = conversation.workflow()
    workflow.nodes.place(0, NodeState.SUCCEEDED)
    assert _standing(conversation, "b").text == "'b' is about to be decided"
    assert _standing(conversation, "c").text.endswith("first 'b': 'b' waits for its dependencies")
