"""The members of a map: whose turn it is, and what becomes of the list if some of them fail."""

import json

import pytest

from dyrygentd.core.events import TaskFailed
from dyrygentd.core.limits import Limits
from dyrygentd.core.members import marker_of_failed, member_name
from tests.support.conversation import Conversation, parse_graph

THREE = "m[0]; m[1]; m[2]; &m < m[0] m[1] m[2] rule=all_finished at_least=2"


def test_an_item_goes_all_its_way_before_others_begin() -> None:
    """Whoever maps thousands of items wants the first ones done early, and not all of them half done (airflow#25032)."""
    text = "m[0].a; m[0].b < m[0].a; m[1].a; m[1].b < m[1].a; m[2].a; m[2].b < m[2].a; &m < m[0].b m[1].b m[2].b"
    for item_nodes, order in ((0, "0a 1a 2a 0b 1b 2b"), (2, "0a 0b 1a 1b 2a 2b")):
        conversation = Conversation(Limits(in_flight_max=1))
        batch = conversation.submit(parse_graph(text, item_nodes=item_nodes))
        ran = []
        while batch.publish:
            (message,) = batch.publish
            ran.append(message.task_id)
            batch = conversation.succeed(message.task_id)
        assert " ".join(task_id[4] + task_id[-1] for task_id in ran) == order


def test_the_longest_way_comes_first_inside_an_item() -> None:
    """Depth first concerns items; inside one the critical path decides, as everywhere."""
    graph = parse_graph("m[0].a; m[0].b; m[0].c < m[0].b; m[1].a; m[1].b; m[1].c < m[1].b; &m < m[0].a m[1].a", item_nodes=3)
    ranks = graph.ranks()
    assert sorted(range(len(graph)), key=lambda node: (-ranks[node], node)) == [1, 0, 2, 4, 3, 5, 6]


def test_enough_succeeded(conversation: Conversation) -> None:
    """The list says which member failed, and why, in its place; the workflow has succeeded."""
    conversation.submit(THREE)
    conversation.turn(TaskFailed("w/m[1]", "ValueError('x')"))
    conversation.succeed("w/m[0]", value=b"5")
    batch = conversation.succeed("w/m[2]", value=b"6")
    (finished,) = batch.finished
    assert finished.state == "succeeded"
    assert json.loads(finished.result or b"") == [5, {"__failed__": "m[1]", "error": "ValueError('x')"}, 6]


def test_not_enough_succeeded(conversation: Conversation) -> None:
    """Too few are a failure like any other: it says whose, and a retry of one member is enough to mend it."""
    conversation.submit(THREE)
    conversation.turn(TaskFailed("w/m[1]", "boom"), TaskFailed("w/m[2]", "bang"))
    conversation.succeed("w/m[0]")
    assert conversation.workflows["w"].state == "failed"
    assert conversation.states()["m"] == "blocked"
    conversation.ask("retry", "m[2]")
    batch = conversation.succeed(conversation.engine.workflows["w"].attempts.task_id_of(2), value=b"7")
    (finished,) = batch.finished
    assert json.loads(finished.result or b"") == [1, {"__failed__": "m[1]", "error": "boom"}, 7]


def test_one_more_succeeds_later(conversation: Conversation) -> None:
    """What was handed on stays what it is when a member is retried that it went without: somebody has worked with it."""
    conversation.submit(THREE)
    conversation.turn(TaskFailed("w/m[1]", "boom"))
    conversation.succeed("w/m[0]", "w/m[2]")
    conversation.ask("retry", "m[1]")
    batch = conversation.succeed(conversation.engine.workflows["w"].attempts.task_id_of(1), value=b"2")
    assert [each.result for each in batch.finished] == [b'[1,{"__failed__": "m[1]", "error": "boom"},1]']


def test_what_never_ran_names_who_is_to_blame(conversation: Conversation) -> None:
    """In a graph the last node of an item is the one that is listed, and the one that failed is the one to look at."""
    conversation.submit("m[0].a; m[0].b < m[0].a; m[1].a; m[1].b < m[1].a; &m < m[0].b m[1].b rule=all_finished at_least=0")
    conversation.turn(TaskFailed("w/m[0].a", "boom"))
    conversation.succeed("w/m[1].a")
    (finished,) = conversation.succeed("w/m[1].b").finished
    assert json.loads(finished.result or b"") == [{"__failed__": "m[0].a", "error": "boom"}, 1]


def test_survives_a_crash(conversation: Conversation) -> None:
    """The list with its markers is kept on disk for who takes it."""
    conversation.submit("m[0]; m[1]; &m < m[0] m[1] rule=all_finished at_least=1; x! < m; y < m x", output="m")
    conversation.turn(TaskFailed("w/m[1]", "boom"))
    conversation.succeed("w/m[0]")
    conversation.crash()
    (message,) = conversation.succeed("w/x").publish
    assert json.loads(bytes(message.input or b"")) == [[1, {"__failed__": "m[1]", "error": "boom"}], 1]


@pytest.mark.parametrize("label", [7, "osd-42"])
def test_names(label: object) -> None:
    """Verbs name a member by the number or the key of its item."""
    assert member_name("drain", label) == f"drain[{label}]"


def test_long_errors_are_cut() -> None:
    """A list of thousands of them is passed on as one value."""
    assert len(marker_of_failed("m[0]", "x" * 10_000)) < 600
