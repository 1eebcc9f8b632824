"""What runs at the end of a section: its ``finally`` and its hooks, whatever came of the rest, and anew if that changes."""

import json
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskIgnored, TaskSucceeded
from dyrygentd.core.policy import OnFailure, SectionEnd, WorkflowPolicy
from dyrygentd.core.standing import headline
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BadNode, CycleError, DyrygentError
from dyrygentd.wire.definitions import decode_definition
from dyrygentd.wire.expanding import expand
from tests.support.conversation import Conversation, cancel, parse_graph

#: A section with a chain of two, a clean-up and hooks of each kind, and what comes behind it.
_DRAIN = """
a! section=drain; b! < a section=drain; clean! section=drain end=finally
good section=drain end=success; bad section=drain end=failure; told section=drain end=always
next! < clean
"""


def _ids(conversation: Conversation) -> list[str]:
    workflow = conversation.engine.workflows.get("w")
    return [] if workflow is None else sorted(name for name, state in conversation.states().items() if state == "dispatching")


def _let(conversation: Conversation, **outcomes: bool) -> None:
    """Let the present attempts of nodes end, well or badly, one after the other."""
    for name, is_good in outcomes.items():
        workflow = conversation.workflow()
        node = workflow.graph.number(name)
        assert node is not None
        task_id = workflow.attempts.task_id_of(node)
        conversation.turn(TaskSucceeded(task_id, b"1") if is_good else TaskFailed(task_id, f"boom of {name}"), after_s=1)


def test_a_finally_runs_after_success_and_what_follows_waits_for_it() -> None:
    """The clean-up is a part of the section: hooks and what is behind come after it."""
    conversation = Conversation()
    conversation.submit(_DRAIN)
    _let(conversation, a=True)
    assert _ids(conversation) == ["b"]
    _let(conversation, b=True)
    assert _ids(conversation) == ["clean"]
    _let(conversation, clean=True)
    assert _ids(conversation) == ["good", "next", "told"]
    assert conversation.states()["bad"] == "skipped"
    _let(conversation, good=True, told=True, next=True)
    assert conversation.workflows["w"].state.value == "succeeded"


def test_a_failure_stays_one_behind_a_finally() -> None:
    """A clean-up that went well does not have the next section begin, and the workflow has failed."""
    conversation = Conversation()
    conversation.submit(_DRAIN)
    _let(conversation, a=False)
    assert _ids(conversation) == ["clean"]
    _let(conversation, clean=True)
    assert _ids(conversation) == ["bad", "told"]
    assert (conversation.states()["next"], conversation.states()["good"]) == ("blocked", "skipped")
    workflow = conversation.workflow()
    assert workflow.graph.names[workflow.blocked_by[6]] == "a"
    _let(conversation, bad=True, told=True)
    assert conversation.workflows["w"].state.value == "failed"
    assert conversation.workflows["w"].error == "'a' failed: boom of a"


def test_a_hook_of_a_section_is_told_of_the_section_alone() -> None:
    """Failures elsewhere are none of its."""
    conversation = Conversation()
    conversation.submit("x; " + _DRAIN.strip())
    _let(conversation, x=False, a=True, b=False)
    batch = conversation.succeed("w/clean")
    (summary,) = {bytes(message.input or b"") for message in batch.publish}
    assert json.loads(summary) == {
        "workflow_id": "w",
        "name": "name of w",
        "labels": {},
        "section": "drain",
        "state": "failed",
        "error": "'b' failed: boom of b",
        "failures": 1,
        "failed": [{"node": "b", "error": "boom of b"}],
    }


def test_a_finally_that_fails_makes_its_section_failed() -> None:
    """The hooks of the section, what is behind it and the workflow see a clean-up that did not work."""
    conversation = Conversation()
    conversation.submit(_DRAIN)
    _let(conversation, a=True, b=True, clean=False)
    assert _ids(conversation) == ["bad", "told"]
    assert conversation.states()["next"] == "blocked"


def test_a_section_that_never_began_has_no_end() -> None:
    """There is nothing to clean up, and another node is to blame; it ends when it did begin after a retry."""
    conversation = Conversation()
    conversation.submit("x!; " + _DRAIN.strip().replace("a!", "a! < x"))
    _let(conversation, x=False)
    assert conversation.states() == {
        "x": "failed",
        "a": "blocked",
        "b": "blocked",
        "next": "blocked",
        **dict.fromkeys(("clean", "good", "bad", "told"), "skipped"),
    }
    assert conversation.ask("retry", "x").is_changed
    assert {state for name, state in conversation.states().items() if name != "x"} == {"waiting"}
    _let(conversation, x=True, a=True, b=True)
    assert _ids(conversation) == ["clean"]


def test_a_stop_by_failure_leaves_the_end_of_a_section() -> None:
    """What has begun is cleaned up after; what has not is cancelled."""
    conversation = Conversation()
    conversation.submit(f"x!; {_DRAIN.strip()}; y! < x section=late; tidy! section=late end=finally", policy=_STOP)
    _let(conversation, a=False)
    assert _ids(conversation) == ["clean", "x"]
    assert (conversation.states()["next"], conversation.states()["y"]) == ("cancelled", "cancelled")
    assert conversation.states()["tidy"] == "skipped"


_STOP = WorkflowPolicy(on_failure=OnFailure.STOP)


def test_the_deadline_leaves_the_end_of_a_section() -> None:
    """Somebody has to take away what was put there."""
    conversation = Conversation()
    conversation.submit(_DRAIN, policy=WorkflowPolicy(deadline_s=10))
    conversation.turn(after_s=11)
    assert conversation.states()["a"] == "cancelled"
    assert _ids(conversation) == ["clean"]
    _let(conversation, clean=True)
    assert _ids(conversation) == ["bad", "told"]


def test_inner_sections_end_before_outer_ones() -> None:
    """The end of an inner section is a part of the outer one, and a section without an end of its own one of those around it."""
    conversation = Conversation()
    conversation.submit(
        "a! section=x/y; b! section=x/y/z; c! section=x; in! section=x/y end=finally; in2! section=x/y end=failure;"
        "out! section=x end=finally; after! section=x end=always; alarm! hook=failure"
    )
    _let(conversation, a=True, c=True)
    assert _ids(conversation) == ["b"]
    _let(conversation, b=True)
    assert _ids(conversation) == ["in"]
    _let(conversation, **{"in": False})
    assert _ids(conversation) == ["in2"]
    _let(conversation, in2=True)
    assert _ids(conversation) == ["out"]
    _let(conversation, out=True)
    assert _ids(conversation) == ["after"]
    _let(conversation, after=True)
    assert _ids(conversation) == ["alarm"]


def test_a_finally_is_given_what_it_cleans_up() -> None:
    """It runs if the lock was taken, and with its value, again after a retry in the section; if there is no lock it does not."""
    conversation = Conversation()
    text = "lock! section=s; work! < lock section=s; release < lock section=s end=finally; report < release section=s end=finally"
    conversation.submit(text)
    conversation.succeed("w/lock", value=b'"key"')
    (message,) = conversation.turn(TaskFailed("w/work", "boom")).publish
    assert (message.task_id, bytes(message.input or b"")) == ("w/release", b'"key"')
    (message,) = conversation.succeed("w/release", value=b'"free"').publish
    assert (message.task_id, bytes(message.input or b"")) == ("w/report", b'"free"')
    conversation.succeed("w/report")
    assert conversation.ask("retry", "work").is_changed
    assert _ids(conversation) == ["work"]
    _let(conversation, work=True)
    assert _ids(conversation) == ["release"]
    without = Conversation()
    without.submit(text)
    without.turn(TaskFailed("w/lock", "taken"))
    assert without.states() == {"lock": "failed", "work": "blocked", "release": "blocked", "report": "blocked"}


def test_a_retry_has_the_end_decided_anew() -> None:
    """What was told or done for an end that is none any more, is told and done again, at once or when it comes back."""
    conversation = Conversation()
    conversation.submit(_DRAIN)
    _let(conversation, a=True, b=False)
    assert _ids(conversation) == ["clean"]
    assert conversation.ask("retry", "b").is_changed
    assert _ids(conversation) == ["b", "clean"]
    conversation.crash()
    _let(conversation, clean=True)
    assert conversation.states()["clean"] == "waiting"
    _let(conversation, b=True)
    assert _ids(conversation) == ["clean"]
    _let(conversation, clean=True)
    assert _ids(conversation) == ["good", "next", "told"]
    _let(conversation, good=True, told=True, next=True)
    assert conversation.ask("rerun", "b").is_changed
    assert {name: state for name, state in conversation.states().items() if state != "waiting"} == {
        "a": "succeeded",
        "b": "dispatching",
    }


def test_a_skip_in_a_section_ends_it() -> None:
    """What an operator skipped counts as succeeded, for the section as well."""
    conversation = Conversation()
    conversation.submit(_DRAIN)
    _let(conversation, a=False, clean=True)
    conversation.ask("skip", "a")
    _let(conversation, bad=True)
    assert _ids(conversation) == ["b", "told"]
    _let(conversation, b=True, told=True)
    assert _ids(conversation) == ["clean"]
    _let(conversation, clean=True)
    assert _ids(conversation) == ["good", "next", "told"]


def test_a_cancel_has_sections_clean_up() -> None:
    """What has begun is cleaned up after, and then it is cancelled; no hook is told, and the same again changes nothing."""
    conversation = Conversation()
    conversation.submit(f"{_DRAIN.strip()}; y! < a section=late; tidy! section=late end=finally; alarm! hook=always")
    batch = conversation.turn(cancel("w"))
    assert [revoke.task_id for revoke in batch.revoke] == ["w/a"]
    assert [message.task_id for message in batch.publish] == ["w/clean"]
    assert not batch.revoke_stamped
    record = conversation.workflows["w"]
    assert (record.state.value, record.error) == ("running", "it was cancelled, and ends when its sections have cleaned up")
    others = {name: state for name, state in conversation.states().items() if name not in ("clean", "tidy")}
    assert set(others.values()) == {"cancelled", "blocked"}
    assert conversation.states()["tidy"] == "skipped"
    assert not conversation.ask("cancel").is_changed
    conversation.crash()
    assert not conversation.ask("cancel").is_changed
    assert "`cancel --force` ends it now" in headline(conversation.engine, conversation.workflow(), conversation.now)
    conversation.succeed("w/clean")
    assert (conversation.workflows["w"].state.value, conversation.workflows["w"].error) == ("cancelled", "")
    assert conversation.ask("retry").is_changed
    assert _ids(conversation) == ["a"]
    _let(conversation, a=True, b=True, y=True)
    assert _ids(conversation) == ["clean", "tidy"]


def test_a_cancel_with_force_ends_all_at_once() -> None:
    """The clean-up may be what hangs."""
    conversation = Conversation()
    conversation.submit(_DRAIN)
    assert conversation.ask("cancel").is_changed
    assert conversation.ask("cancel", force=True).is_changed
    assert set(conversation.states().values()) == {"cancelled", "blocked"}
    assert conversation.workflows["w"].state.value == "cancelled"


def test_a_cancel_before_anything_ran_ends_all_at_once() -> None:
    """There is nothing to clean up."""
    conversation = Conversation()
    conversation.submit(_DRAIN.replace("a!", "g gate=1 section=drain; a! < g"))
    assert conversation.turn(cancel("w")).publish == []
    assert set(conversation.states().values()) == {"cancelled"}
    assert conversation.workflows["w"].state.value == "cancelled"


def test_a_cancel_of_what_is_paused_cleans_up() -> None:
    """A pause is over with it; and of a workflow that only cleans up there is nothing to cancel."""
    conversation = Conversation()
    conversation.submit(_DRAIN)
    assert conversation.ask("pause").is_changed
    assert [message.task_id for message in conversation.turn(cancel("w")).publish] == ["w/clean"]
    plain = Conversation()
    plain.submit("a! section=s; clean! section=s end=finally")
    plain.succeed("w/a")
    plain.turn(cancel("w"))
    plain.succeed("w/clean")
    assert plain.workflows["w"].state.value == "succeeded"


def test_a_retry_while_it_cleans_up_takes_the_cancel_back() -> None:
    """The work goes on, and is cleaned up after in its time."""
    conversation = Conversation()
    conversation.submit(_DRAIN)
    conversation.turn(cancel("w"))
    assert conversation.ask("retry").is_changed
    assert conversation.workflows["w"].error == ""
    _let(conversation, a=True, b=True, clean=True)
    assert _ids(conversation) == ["clean"]
    _let(conversation, clean=True)
    _let(conversation, good=True, told=True, next=True)
    assert conversation.workflows["w"].state.value == "succeeded"


def test_a_section_that_was_not_chosen_has_no_end() -> None:
    """Its condition is for what ends it as well; and one that was chosen ends by what became of it, again after a retry."""
    document = {
        "nodes": [
            {"name": "check", "task": "t", "task_id": "w/check"},
            {"name": "work", "task": "t", "task_id": "w/work", "immutable": True, "section": "s"},
            {"name": "clean", "task": "t", "task_id": "w/clean", "immutable": True, "section": "s", "section_end": "finally"},
            {"name": "told", "task": "t", "task_id": "w/told", "section": "s", "section_end": "always"},
            {"name": "next", "task": "t", "task_id": "w/next", "immutable": True, "after": ["clean"], "rule": "none_failed"},
        ],
        "sections": {"s": {"when": {"value": "check", "is": "yes"}}},
    }
    graph = decode_definition(json.dumps(document).encode(), nodes_max=9).graph
    left_out, chosen = Conversation(), Conversation()
    for conversation, value in ((left_out, b'"no"'), (chosen, b'"yes"')):
        conversation.submit(graph)
        conversation.succeed("w/check", value=value)
    assert set(left_out.states().values()) == {"succeeded", "skipped", "dispatching"}
    assert _ids(left_out) == ["next"]
    _let(chosen, work=False, clean=True, told=True)
    assert chosen.states()["next"] == "blocked"
    assert chosen.ask("retry").is_changed
    _let(chosen, work=True, clean=True)
    assert _ids(chosen) == ["next", "told"]


def test_each_item_of_a_map_is_cleaned_up_after() -> None:
    """In a map an item is a section: one that failed has its clean-up as soon as it ends, and the others theirs."""
    do = {
        "nodes": [
            {"name": "lock", "task": "t"},
            {"name": "work", "task": "t", "after": ["lock"], "immutable": True},
            {"name": "free", "task": "t", "after": ["lock"], "section_end": "finally"},
        ]
    }
    definition = expand(json.dumps({"do": do}).encode(), b"[1, 2]", node="m", seed="seed", name="w: m")
    assert definition is not None
    assert [definition.graph.sections.of(node) for node in range(6)] == ["m[0]"] * 3 + ["m[1]"] * 3
    conversation = Conversation()
    conversation.submit(definition.graph)
    _let(conversation, **{"m[0].lock": True, "m[1].lock": True})
    assert _ids(conversation) == ["m[0].work", "m[1].work"]
    _let(conversation, **{"m[0].work": False})
    assert _ids(conversation) == ["m[0].free", "m[1].work"]
    _let(conversation, **{"m[0].free": True, "m[1].work": True})
    assert _ids(conversation) == ["m[1].free"]
    _let(conversation, **{"m[1].free": True})
    assert conversation.workflows["w"].state.value == "failed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a; f end=finally", "it ends a section and is in none"),
        ("a; f section=s end=finally", "section 's' has no other node whose end it could wait for"),
        ("a section=s; f section=s end=always; g section=s end=finally hook=always", "it is a hook of the workflow and ends a"),
        ("a section=s; f < a section=s end=failure", "a hook of a section (`section_end: failure`) waits for all of it"),
        ("a section=s; f section=s end=failure poll=1", "it is a poll, and a hook of a section is no poll"),
        ("a section=s; f section=s end=finally gate=1", "it has no task, and what ends a section runs a task"),
    ],
)
def test_what_cannot_end_a_section(text: str, words: str) -> None:
    """It is refused with the node, and what to do."""
    with pytest.raises(BadNode) as refused:
        parse_graph(text)
    assert words in str(refused.value)
    assert refused.value.next_step


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("a section=s; b < f section=s; f section=s end=finally", "b f"),
        ("a < x section=s; f section=s end=finally; x < f", "a f x"),
        ("a section=s; f < x section=s end=finally; x < h; h section=s end=always", "f h x"),
    ],
)
def test_no_section_waits_for_its_own_end(text: str, circle: str) -> None:
    """The way round is told as any other circle."""
    with pytest.raises(CycleError) as refused:
        parse_graph(text)
    assert set(refused.value.nodes) == set(circle.split())


def test_outputs_and_heights() -> None:
    """What cleans up has no part in the result, and is a part of the longest way."""
    graph = parse_graph(_DRAIN)
    assert graph.output == graph.number("next")
    assert [graph.heights[node] for node in range(len(graph))] == [4, 3, 2, 1, 1, 1, 1]
    assert parse_graph("a section=s; f section=s end=finally").output == 0


_SECTIONS = ("", "s", "s/t", "s/t/v", "u")
_RULES = ("all_succeeded", "all_finished", "any_failed", "any_succeeded", "none_failed")


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Make up to eight nodes in sections, and at their ends what may be there."""
    lines: list[str] = []
    paths = draw(st.lists(st.sampled_from(_SECTIONS), min_size=1, max_size=8))
    ends = [(path, draw(st.sampled_from(["finally", "finally", "success", "failure", "always"]))) for path in paths if path]
    ends = [end for end in ends if draw(st.integers(0, 2))]
    kinds: list[str | tuple[str, str]] = [*paths, *ends]

    def end_of(kind: str | tuple[str, str]) -> str:
        return kind[1] if isinstance(kind, tuple) else ""

    for number, kind in enumerate(kinds):
        is_hook = end_of(kind) not in ("", "finally")
        after = [] if is_hook else draw(st.lists(st.sampled_from(range(len(kinds))), unique=True, max_size=2))
        names = " ".join(f"n{other}" for other in after if other != number)
        words = f"rule={draw(st.sampled_from(_RULES))}" if names and draw(st.booleans()) else ""
        is_join = not end_of(kind) and draw(st.integers(0, 6)) == 0
        words += " retry=2 backoff=1" if not is_join and draw(st.integers(0, 4)) == 0 else ""
        section = kind[0] if isinstance(kind, tuple) else kind
        words += (f" section={section}" if section else "") + (f" end={end_of(kind)}" if end_of(kind) else "")
        name = f"&n{number}" if is_join else f"n{number}{draw(st.sampled_from(['', '!']))}"
        lines.append(f"{name} < {names} {words}")
    return "\n".join([*lines, "alarm! hook=failure"])


def _run(conversation: Conversation, chance: Random, *, with_verbs: bool) -> None:
    """Let all tasks end, with verbs and crashes in between."""
    for _ in range(2000):
        workflow = conversation.engine.workflows.get("w")
        if workflow is None:
            return
        in_flight = [(task_id, node) for task_id, _, node in conversation.engine.flights.in_flight()]
        if with_verbs and chance.random() < 0.1:
            verb, name = chance.choice(["retry", "rerun", "hold", "release"]), chance.choice(workflow.graph.names)
            conversation.ask(verb, name)
            conversation.ask("release", name)
            if chance.random() < 0.1:
                conversation.ask("cancel")
        elif not in_flight:
            conversation.turn(after_s=1)
        else:
            task_id, node = chance.choice(in_flight)
            words = f"boom of {node}"
            event: TaskEvent = TaskFailed(task_id, words) if chance.random() < 0.3 else TaskSucceeded(task_id, b"1")
            conversation.turn(TaskIgnored(task_id, "not today") if chance.random() < 0.1 else event)
        if chance.random() < 0.1:
            conversation.crash()
    raise AssertionError(f"it does not end: {conversation.states()}")


def _check_ends(workflow: RunningWorkflow) -> None:
    """Check by the states of all nodes what has run at the ends of sections."""
    graph = workflow.graph

    def is_before(node: int, ender: int) -> bool:
        path, mine = graph.sections.of(node), graph.sections.of(ender)
        if path != mine:
            return path.startswith(f"{mine}/")
        end, its = graph.policy(ender).section_end, graph.policy(node).section_end
        return its is None or (its == "finally" and end != "finally")

    for ender, policy in graph.policies.items():
        if policy.section_end is None:
            continue
        rest = [node for node in range(len(graph)) if is_before(node, ender)]
        has_begun = any(
            workflow.attempts.of(node) or (workflow.states[node] == NodeState.SUCCEEDED and not graph.is_join(node))
            for node in rest
        )
        is_bad = any(workflow.state_of(node) in (NodeState.FAILED, NodeState.BLOCKED, NodeState.CANCELLED) for node in rest)
        applies = {"success": not is_bad, "failure": is_bad}.get(policy.section_end.value, True)
        state, ran = workflow.state_of(ender), bool(workflow.attempts.dispatched_at[ender])
        if workflow.state is WorkflowState.CANCELLED and policy.section_end is not SectionEnd.FINALLY:
            assert state in (NodeState.CANCELLED, NodeState.SKIPPED, NodeState.SUCCEEDED, NodeState.FAILED)
        elif not has_begun or not applies:
            assert (state, ran) == (NodeState.SKIPPED, False), graph.names[ender]
        elif not graph.dependencies(ender):
            assert ran, graph.names[ender]
        last = max((workflow.nodes.finished_at[node] for node in rest), default=0.0)
        assert not ran or workflow.attempts.dispatched_at[ender] >= last


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=texts(), seed=st.integers(0, 2**16), stops=st.booleans(), with_verbs=st.booleans())
def test_whatever_happens_sections_end_as_they_should(text: str, seed: int, stops: bool, with_verbs: bool) -> None:
    """What ends a section runs after all else of it, exactly if it applies, over retries, reruns, stops and crashes."""
    try:
        parse_graph(text)
    except DyrygentError:
        assume(False)
    conversation, chance = Conversation(), Random(seed)
    conversation.submit(text, policy=_STOP if stops else WorkflowPolicy())
    for _ in range(3):
        _run(conversation, chance, with_verbs=with_verbs)
        workflow = conversation.restored("w")
        assert workflow.state.value in (("failed", "cancelled") if workflow.nodes.bad else ("succeeded",))
        assert "broken" not in workflow.error
        _check_ends(workflow)
        if not conversation.ask("retry").is_changed:
            break
