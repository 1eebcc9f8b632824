"""Choices: one branch runs and the other one is skipped as not needed, whatever happens on the way."""

import json
from cProfile import Profile

import pytest

from dyrygentd.core.bounds import WHEN_VALUE_BYTES_MAX
from dyrygentd.core.causes import failures_by_cause
from dyrygentd.core.choices import words_of_provisos
from dyrygentd.core.conditions import When, when_of
from dyrygentd.core.deciding import _decided, _decoded
from dyrygentd.core.events import TaskFailed
from dyrygentd.core.standing import standing_of_node
from dyrygentd.core.verdicts import verdict
from dyrygentd.errors import BadNode, CycleError, UnknownDependency
from tests.support.conversation import Conversation, parse_graph


def when(given: object) -> str:
    """Write a condition for the notation."""
    return "when=" + json.dumps(given, separators=(",", ":"))


FULL = when({"value": "check", "path": "status", "is": "full"})
EMPTY = when({"value": "check", "path": "status", "is": "empty"})
#: A choice between two branches, and a join behind them that hands on the value of the one that ran.
CHOICE = f"""
    check; drain < check {FULL}; wait < drain; remove! {EMPTY}
    &either < wait remove rule=none_failed hands_on=one; tell < either
"""


def explained(conversation: Conversation, name: str) -> str:
    """Return what is told of a node."""
    workflow = conversation.engine.workflows.get("w") or conversation.restored("w")
    node = workflow.graph.number(name)
    assert node is not None
    standing = standing_of_node(conversation.engine, workflow, node, conversation.now)
    return f"{standing.text} ({standing.next_step})"


def test_one_branch_runs_and_what_is_behind_goes_on_with_its_value() -> None:
    """It is all that a choice is for."""
    conversation = Conversation()
    conversation.submit(CHOICE)
    conversation.succeed("w/check", value=b'{"status":"empty"}')
    assert conversation.states() == {
        "check": "succeeded",
        "drain": "skipped",
        "wait": "skipped",
        "remove": "dispatching",
        "either": "waiting",
        "tell": "waiting",
    }
    assert "'drain' was not needed: `when`: check.status is 'empty', not 'full' (`rerun --from check`" in explained(
        conversation, "drain"
    )
    assert "'wait' was not needed, since 'drain' was not: `when`: check.status" in explained(conversation, "wait")
    conversation.succeed("w/remove", value=b'"removed"')
    assert conversation.workflow().input_text(5) == b'"removed"'
    conversation.succeed("w/tell", value=b'"told"')
    assert conversation.workflows["w"].state == "succeeded"
    assert conversation.workflows["w"].result == b'"told"'


def test_a_node_that_is_asked_only_hands_nothing_on() -> None:
    """`when` decides and `after` hands on: whoever adds a condition changes no arguments."""
    conversation = Conversation()
    conversation.submit(f"check; first; then < first {FULL}; also < first check {FULL}; alone {FULL}")
    conversation.succeed("w/check", value=b'{"status":"full"}')
    conversation.succeed("w/first", value=b"7")
    workflow = conversation.workflow()
    assert workflow.input_text(2) == b"7"
    assert workflow.input_text(3) == b'[7,{"status":"full"}]'
    assert workflow.input_text(4) is None


@pytest.mark.parametrize("value", [b"3", b'"full"', b'{"state":"full"}', b'{"status":1}'])
def test_what_cannot_be_compared_fails_the_node_by_name(value: bytes) -> None:
    """A guess would run the wrong branch, or silently none."""
    conversation = Conversation()
    conversation.submit(f"check; drain {FULL}; then < drain; other < check")
    conversation.succeed("w/check", value=value)
    assert conversation.states() == {"check": "succeeded", "drain": "failed", "then": "blocked", "other": "dispatching"}
    assert "'drain' failed before it ran: `when` cannot be decided: check" in explained(conversation, "drain")
    # The result backend is told, so that nobody waits for a task that will never run.
    assert conversation.workflow().fingerprints[1].startswith("undecided: ")


def test_undecided_for_different_reasons() -> None:
    """Each reason is a cause of its own; whose value was asked, and what it was, is none."""
    conversation = Conversation()
    over, path = ({"value": "x", "over": 3}, {"value": "x", "path": "z", "is": 1})
    conversation.submit(f"x; y; a < x {when(over)}; b < y {when(over | {'value': 'y'})}; c < x {when(path)}")
    conversation.succeed("w/x", value=b'"long"')
    conversation.succeed("w/y", value=b'"short"')
    assert [(cause, len(nodes)) for cause, nodes in failures_by_cause(conversation.restored("w"))] == [
        ("undecided: `when` cannot be decided: … is the text …, and is compared with the number …", 2),
        ("undecided: `when` cannot be decided: … is the text …, in which there is no …", 1),
    ]


def test_rerun_decides_anew_and_retry_after_it() -> None:
    """The branch is chosen by what is returned now, and not by what was returned once."""
    conversation = Conversation()
    conversation.submit(CHOICE)
    conversation.succeed("w/check", value=b'{"status":"empty"}')
    conversation.succeed("w/remove")
    conversation.succeed("w/tell")
    assert conversation.ask("rerun", "check").error is None
    assert set(conversation.states().values()) == {"waiting", "dispatching"}
    conversation.succeed(conversation.workflow().attempts.task_id_of(0), value=b'{"status":"full"}')
    assert conversation.states()["drain"] == "dispatching"
    assert conversation.states()["remove"] == "skipped"


def test_retry_of_what_could_not_be_decided_asks_for_the_value_again() -> None:
    """An operator may have skipped the check with another value meanwhile; by itself it ends in the same way."""
    conversation = Conversation()
    conversation.submit(f"check; drain! {FULL}")
    conversation.succeed("w/check", value=b"3")
    assert conversation.states()["drain"] == "failed"
    assert conversation.ask("retry", "drain").error is None
    assert conversation.states()["drain"] == "failed"
    conversation.ask("rerun", "check")
    conversation.ask("skip", "check", value=b'{"status":"full"}')
    assert conversation.states()["drain"] == "dispatching"


def test_a_restart_decides_the_same() -> None:
    """The value is kept until all have decided, and for those that may have to decide again."""
    conversation = Conversation()
    conversation.submit(f"check; slow; drain! < slow {FULL}; remove! < slow {EMPTY}")
    conversation.succeed("w/check", value=b'{"status":"full"}')
    conversation.crash()
    conversation.succeed("w/slow")
    assert conversation.states() == {"check": "succeeded", "slow": "succeeded", "drain": "dispatching", "remove": "skipped"}
    conversation.crash()
    assert "check.status is 'full', not 'empty'" in explained(conversation, "remove")
    conversation.succeed("w/drain")
    assert conversation.workflows["w"].state == "succeeded"


def test_a_check_that_fails_blocks_what_asks_it() -> None:
    """The rule comes first: without an answer there is nothing to decide."""
    conversation = Conversation()
    conversation.submit(CHOICE)
    conversation.turn(TaskFailed("w/check", "boom"))
    assert conversation.states()["drain"] == conversation.states()["either"] == "blocked"


def test_what_has_no_value_is_undecided_unless_one_asks_for_that() -> None:
    """Behind a failure only `exists` has an answer."""
    conversation = Conversation()
    there = when({"value": "check", "exists": True})
    conversation.submit(f"check; a! < check rule=all_finished {FULL}; b! < check rule=all_finished {there}")
    conversation.turn(TaskFailed("w/check", "boom"))
    assert conversation.states() == {"check": "failed", "a": "failed", "b": "skipped"}
    assert "'check' failed and has no value" in explained(conversation, "a")


def test_a_value_over_the_bound_is_not_read() -> None:
    """Reading it would hold up everybody."""
    conversation = Conversation()
    conversation.submit(f"check; drain! {FULL}")
    conversation.succeed("w/check", value=b'"' + b"x" * WHEN_VALUE_BYTES_MAX + b'"')
    assert "bytes of JSON, and a condition looks into 262144 at most" in explained(conversation, "drain")


def test_a_value_that_cannot_be_kept_fails_the_node_that_is_asked() -> None:
    """Whoever decides by it could not be decided after a restart."""
    conversation = Conversation(limits=None)
    conversation.submit(f"check; drain! {FULL}")
    conversation.workflow().values.bytes_max = 10
    conversation.succeed("w/check", value=b'{"status":"full"}')
    assert conversation.states() == {"check": "failed", "drain": "blocked"}


def test_rules_that_go_early_wait_for_who_decides() -> None:
    """`any_succeeded` goes on with the first success, and not before the answer is there."""
    conversation = Conversation()
    conversation.submit(f"check; a; b; go! < a b rule=any_succeeded {FULL}")
    conversation.succeed("w/a")
    assert conversation.states()["go"] == "waiting"
    conversation.succeed("w/check", value=b'{"status":"full"}')
    assert conversation.states()["go"] == "dispatching"


def test_a_section_holds_for_all_of_its_nodes() -> None:
    """Also for those whose rule would go on, and for sections inside; the outer condition is asked first."""
    whens: dict[str, When] = {
        "drain": when_of({"value": "check", "is": "full"}),
        "drain/deep": when_of({"value": "check", "path": "nothing", "is": 1}),
    }
    conversation = Conversation()
    text = (
        "check; a! < check section=drain; b! < a section=drain rule=all_finished; c! section=drain/deep; z! < b rule=none_failed"
    )
    conversation.submit(parse_graph(text, whens=whens))
    conversation.succeed("w/check", value=b'"empty"')
    assert conversation.states() == {"check": "succeeded", "a": "skipped", "b": "skipped", "c": "skipped", "z": "dispatching"}
    assert "'b' was not needed: `when` of section 'drain': check is 'empty', not 'full'" in explained(conversation, "b")


def test_conditions_without_a_node_are_decided_at_the_start() -> None:
    """Parameters choose, too."""
    conversation = Conversation()
    conversation.submit(f"a! {when({'given': 'dry', 'is': 'wet'})}; b! {when({'given': 'dry', 'is': 'dry'})}")
    assert conversation.states() == {"a": "skipped", "b": "dispatching"}


def test_gates_sleeps_and_joins_are_chosen_as_tasks_are() -> None:
    """A branch may begin with any of them."""
    conversation = Conversation()
    conversation.submit(
        f"check; gate < check gate=1 {EMPTY}; nap < check sleep=5 {FULL}; &j < check {EMPTY}; poll < check poll=1 {EMPTY}"
    )
    conversation.succeed("w/check", value=b'{"status":"full"}')
    assert conversation.states() == {"check": "succeeded", "gate": "skipped", "nap": "held", "j": "skipped", "poll": "skipped"}


@pytest.mark.parametrize(
    ("hands_on", "given"),
    [("all", b"[1,null,null]"), ("succeeded", b"[1]"), ("one", b"1")],
)
def test_what_a_join_behind_branches_hands_on(hands_on: str, given: bytes) -> None:
    """A list with gaps, a list without, or the value itself."""
    conversation = Conversation()
    branches = f"check; a! < check {FULL}; b! < check {EMPTY}; c! < check {EMPTY}"
    text = f"{branches}; &j < a b c rule=none_failed hands_on={hands_on}; z < j"
    conversation.submit(text)
    conversation.succeed("w/check", value=b'{"status":"full"}')
    conversation.succeed("w/a", value=b"1")
    conversation.crash()
    assert conversation.workflow().input_text(5) == given


def test_a_join_of_one_fails_if_two_have_run() -> None:
    """Which of them was meant is not guessed."""
    conversation = Conversation()
    conversation.submit("a; b; &j < a b rule=none_failed hands_on=one; z < j")
    conversation.succeed("w/a", "w/b")
    assert conversation.states()["j"] == "failed"
    assert "it hands on the value of one, and 'a', 'b' have succeeded" in explained(conversation, "j")


def test_a_join_of_one_hands_on_null_if_none_has_run() -> None:
    """No case fitted, and there was no default."""
    conversation = Conversation()
    conversation.submit(f"check; a < check {FULL}; &j < a rule=none_failed hands_on=one; z < j")
    conversation.succeed("w/check", value=b'{"status":"half"}')
    assert conversation.workflow().input_text(3) == b"null"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (f"a {when({'value': 'chek', 'is': 1})}; check", UnknownDependency, "'chek'"),
        (f"check {FULL}", BadNode, "`when` asks for its own value"),
        (f"check < a; a {FULL}", CycleError, "check"),
        (f"check; h! hook=failure {FULL}", BadNode, "has no `when`"),
        ("a; b < a hands_on=one", BadNode, "`hands_on: one` is for joins"),
    ],
)
def test_what_contradicts_itself_is_refused(text: str, kind: type[Exception], words: str) -> None:
    """Before anything runs, and by name."""
    with pytest.raises(kind, match=words):
        parse_graph(text)


def test_a_section_cannot_ask_a_node_in_it() -> None:
    """It would wait for itself."""
    with pytest.raises(BadNode, match="`when` of section 'drain' asks for the value of 'check', which is in that section"):
        parse_graph("check section=drain/a", whens={"drain": when_of({"value": "check", "is": 1})})


def test_many_nodes_are_decided_by_one_value_in_linear_time() -> None:
    """A section of thousands asks for one value: it is read once, and nothing is looked at twice."""
    conversation = Conversation()
    text = "\n".join(["check", *[f"n{number}! section=s" for number in range(3000)]])
    conversation.submit(parse_graph(text, whens={"s": when_of({"value": "check", "is": "full"})}))
    conversation.succeed("w/check", value=b'"empty"')
    assert conversation.workflows["w"].state == "succeeded"
    assert conversation.workflows["w"].counts == {"succeeded": 1, "skipped": 3000} | {
        word: 0 for word in conversation.workflows["w"].counts or {} if word not in ("succeeded", "skipped")
    }


def test_a_section_reads_long_values_once() -> None:
    """Three values of a quarter of a megabyte and two hundred nodes: read for each of these they took seconds."""
    conversation = Conversation()
    text = "\n".join(["x; y; z", *[f"n{number}! section=s" for number in range(200)]])
    condition = {"all": [{"value": name, "has": "no"} for name in "xyz"] + [{"value": "x", "path": "0", "is": 0}]}
    conversation.submit(parse_graph(text, whens={"s": when_of({"not": condition})}))
    _decided.cache_clear()
    _decoded.cache_clear()
    for name in "xyz":
        conversation.succeed(f"w/{name}", value=json.dumps([0, name, *([0] * 50_000)]).encode())
    assert conversation.states()["n199"] == "dispatching"
    assert (_decided.cache_info().misses, _decoded.cache_info().misses) == (1, 1)


@pytest.mark.parametrize("rule", ["all_succeeded", "any_succeeded", "any_failed"])
def test_many_who_decide_are_looked_at_once(rule: str) -> None:
    """Each node of a section with ninety values was looked at as a whole whenever one of these came."""
    conversation = Conversation()
    names = [f"c{number}" for number in range(90)]
    text = "\n".join([*names, *[f"n{number}! < c0 section=s rule={rule}" for number in range(20)]])
    condition = when_of({"all": [{"value": name, "is": 0} for name in names]})
    conversation.submit(parse_graph(text, whens={"s": condition}))
    profile = Profile()
    with profile:
        for name in names:
            conversation.succeed(f"w/{name}", value=b"0")
    assert conversation.states()["n19"] == ("skipped" if rule == "any_failed" else "dispatching")
    assert [each.callcount for each in profile.getstats() if each.code is verdict.__code__] == [20]


def test_conditions_of_all_nodes_have_a_bound() -> None:
    """Each that is asked is an edge: a short section with a hundred values had ten millions of them."""
    names = [f"c{number}" for number in range(99)]
    text = "\n".join([*names, *[f"n{number}! section=s" for number in range(10_200)]])
    condition = when_of({"all": [{"value": name, "is": 0} for name in names]})
    with pytest.raises(BadNode, match="the conditions of all nodes ask for more than 1000000 values"):
        parse_graph(text, whens={"s": condition})


def test_what_it_asks_for_together_has_a_bound() -> None:
    """A hundred long values for one node would hold up everybody."""
    conversation = Conversation()
    names = [f"c{number}" for number in range(9)]
    condition = when({"all": [{"value": name, "path": "0", "is": 0} for name in names]})
    conversation.submit("; ".join([*names, f"n! {condition}"]))
    for name in names:
        conversation.succeed(f"w/{name}", value=json.dumps([0, "x" * 250_000]).encode())
    assert (
        "cannot be decided: the values that it asks for have 2250063 bytes of JSON, and it looks into 2097152 at most"
        in (conversation.restored("w").errors[9])
    )


def test_the_conditions_of_a_node_in_words() -> None:
    """Those of its sections are told with its own."""
    graph = parse_graph(f"check; a {FULL} section=s; b", whens={"s": when_of({"value": "check", "exists": True})})
    assert words_of_provisos(graph.choices, 1) == "there is check and check.status is 'full'"
    assert words_of_provisos(graph.choices, 2) == ""
