"""Inside one workflow: what spreads from a node, what it costs, and what is kept meanwhile."""

from array import array

import pytest

from dyrygentd.core import outcomes
from dyrygentd.core.events import TaskFailed, TaskReported, TaskSucceeded, VerbRequested
from dyrygentd.core.graph import Graph
from dyrygentd.core.limits import Limits
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.origin import Origin
from dyrygentd.core.states import NodeState
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from tests.support.conversation import Conversation, parse_graph, states_of


class CountingGraph(Graph):
    """A graph that counts the edges that are looked at."""

    __slots__ = ("edges_seen",)

    def dependents(self, node: int) -> "array[int]":
        found = super().dependents(node)
        self.edges_seen = getattr(self, "edges_seen", 0) + len(found)
        return found

    def dependencies(self, node: int) -> "array[int]":
        found = super().dependencies(node)
        self.edges_seen = getattr(self, "edges_seen", 0) + len(found)
        return found


def test_shows_itself_in_one_line(conversation: Conversation) -> None:
    """A log line tells which workflow it is and how far it has come."""
    conversation.submit("a; b < a")
    conversation.succeed("w/a")
    assert repr(conversation.workflow()) == "<RunningWorkflow w 'name of w' running dispatching=1 succeeded=1>"


def test_tells_about_nodes(conversation: Conversation) -> None:
    """Attempt, task id and the worker's last word can be asked of any node, at any time."""
    conversation.submit("a; b < a; &j < b")
    conversation.turn(TaskReported("w/a", "STARTED"))
    workflow = conversation.workflow()
    assert workflow.attempts.reported == {0: "STARTED"}
    assert [workflow.attempts.of(node) for node in range(3)] == [1, 0, 0]
    assert [workflow.attempts.task_id_of(node) for node in range(3)] == ["w/a", "w/b", ""]
    assert (workflow.nodes.unfinished, workflow.nodes.count(NodeState.WAITING)) == (3, 1)
    conversation.succeed("w/a")
    assert workflow.attempts.reported == {}


@pytest.mark.parametrize(
    ("text", "parent"),
    [("x", ""), ("a; x < a", "w/a"), ("a; b; x < b a", "w/a"), ("a; b; &i < a b; &j < i; x < j", "w/b"), ("&j; x < j", "")],
)
def test_parent_is_the_last_task_before(text: str, parent: str) -> None:
    """Celery's parent id is one task; joins are looked through, as they are none."""
    graph = parse_graph(text)
    number = graph.number("x")
    assert number is not None
    assert _running(graph).parent_task_id(number) == parent


def test_blame_goes_to_the_first_cause(conversation: Conversation) -> None:
    """A node blocked through others names the failure itself, since that is what has to be mended."""
    conversation.submit("a; b; c < a; d < c b; e < d")
    conversation.turn(TaskFailed("w/a", "boom"))
    conversation.turn(TaskFailed("w/b", "boom too"))
    assert conversation.states()["e"] == "blocked"
    assert {node: row.blocked_by for (_, node), row in conversation.nodes.items() if row.state == "blocked"} == {2: 0, 3: 0, 4: 0}


def test_a_join_that_fails_is_blamed(conversation: Conversation) -> None:
    """A list over the limit fails its join, and a workflow whose tasks all succeeded so far fails with it."""
    conversation.restart(Limits(value_bytes_max=4))
    conversation.submit("a; b; &j < a b; &k < j; c < k; d! < b")
    conversation.succeed("w/a", "w/b", value=b"12")
    conversation.succeed("w/d")
    assert conversation.states() == {
        "a": "succeeded",
        "b": "succeeded",
        "j": "failed",
        "k": "blocked",
        "c": "blocked",
        "d": "succeeded",
    }
    assert conversation.workflows["w"].state.value == "failed"
    assert conversation.nodes["w", 4].blocked_by == 2


def test_deep_failure_needs_no_recursion(conversation: Conversation) -> None:
    """A failure at the head of ten thousand tasks blocks them all."""
    signature = Signature("t")
    conversation.submit(Graph.build([NodeSpec(str(i), signature, str(i), [str(i - 1)] if i else []) for i in range(10_000)]))
    batch = conversation.turn(TaskFailed("0", "boom"))
    assert batch.save_workflows["w"].counts is not None
    assert batch.save_workflows["w"].counts["blocked"] == 9_999


def test_long_row_of_joins_needs_no_recursion() -> None:
    """Joins finish each other through a stack, as deep as they are nested."""
    joins = [NodeSpec(str(i), None, "", [str(i - 1)] if i else []) for i in range(10_000)]
    workflow = _running(Graph.build(joins, output="0"))
    assert workflow.state.value == "succeeded"
    assert workflow.result == b"[]"


def test_each_edge_is_looked_at_a_few_times_only() -> None:
    """A group after a group costs its edges and no more: looking at a pair of members would be seen here."""
    n = 100
    first = [NodeSpec(f"a{i}", Signature("t"), f"a{i}") for i in range(n)]
    second = [NodeSpec(f"b{i}", Signature("t"), f"b{i}", ["j"]) for i in range(n)]
    graph = CountingGraph.build([*first, NodeSpec("j", None, "", [node.name for node in first]), *second])
    assert isinstance(graph, CountingGraph)
    workflow = _running(graph, value_bytes_max=10_000)
    graph.edges_seen = 0
    while workflow.ready_count:
        node = workflow.take_ready(2.0)
        bytes(workflow.input_text(node) or b"")
        workflow.parent_task_id(node)
        outcomes.succeeded(workflow, node, b"1", "", 3.0)
    assert workflow.state.value == "succeeded"
    assert graph.edges_seen <= 8 * graph.edge_count


def test_missing_value_is_cheap_however_joins_are_nested() -> None:
    """Forty layers of two joins each have 2**40 paths; nobody may walk them to find out who wants a value."""
    specs = [NodeSpec("a", Signature("t"), "a"), NodeSpec("i0", None, "", ["a"]), NodeSpec("j0", None, "", ["a"])]
    for layer in range(1, 40):
        specs += [NodeSpec(f"{kind}{layer}", None, "", [f"i{layer - 1}", f"j{layer - 1}"]) for kind in "ij"]
    specs.append(NodeSpec("end", None, "", ["i39", "j39"]))
    workflow = _running(Graph.build(specs))
    outcomes.succeeded(workflow, workflow.take_ready(2.0), None, "it is a Socket", 3.0)
    assert workflow.state.value == "succeeded"
    assert workflow.error == "the task succeeded, but its value cannot be passed on: it is a Socket"


def test_values_are_kept_while_wanted(conversation: Conversation) -> None:
    """A failed taker keeps its input, so that it can be tried again; a satisfied one lets it go."""
    conversation.submit("a; b; c < a; d < b; e! < c d")
    conversation.succeed("w/a", "w/b", value=b"1")
    conversation.turn(TaskSucceeded("w/c", b"2"), TaskFailed("w/d", "boom"))
    assert conversation.nodes["w", 0].value is None
    assert conversation.nodes["w", 1].value == b"1"


def test_release_of_a_node_that_is_not_due() -> None:
    """Held nodes are released at their time, not before and not twice."""
    workflow = _running(parse_graph("a countdown=5"))
    assert not workflow.time_passed(0, 5.9)
    assert workflow.time_passed(0, 6.0)
    assert not workflow.time_passed(0, 7.0)
    assert states_of(workflow) == {"a": "ready"}


def _running(graph: Graph, *, value_bytes_max: int = 1000) -> RunningWorkflow:
    workflow = RunningWorkflow(workflow_id="w", name="w", graph=graph, origin=Origin(1.0), value_bytes_max=value_bytes_max)
    workflow.begin(1.0)
    return workflow


def test_next_try_is_known_until_something_else_is(conversation: Conversation) -> None:
    """The state that is stored knows less than the report of the same; another one, or the end, makes it void."""
    conversation.submit("a")
    workflow = conversation.workflow()
    conversation.tell(TaskReported("w/a", "RETRY", "w@h", 60.0), TaskReported("w/a", "RETRY"))
    assert (workflow.attempts.reported, workflow.attempts.next_tries) == ({0: "RETRY"}, {0: (60.0, "w@h")})
    conversation.tell(TaskReported("w/a", "STARTED"))
    assert workflow.attempts.next_tries == {}
    conversation.tell(TaskReported("w/a", "RETRY", "", 90.0), TaskSucceeded("w/a", b"1"))
    assert (workflow.attempts.reported, workflow.attempts.next_tries) == ({}, {})


def test_all_of_it_was_adopted(conversation: Conversation) -> None:
    """A workflow whose tasks all ended before it was submitted ends with the turn that takes it in."""
    batch = conversation.submit("a!; b! < a", adopted={0: NodeState.SUCCEEDED, 1: NodeState.SUCCEEDED})
    assert [workflow.state.value for workflow in batch.finished] == ["succeeded"]


def test_two_ways_to_the_same_end(conversation: Conversation) -> None:
    """A node that two of its dependencies decide in one go is decided once."""
    conversation.submit("a; b < a c; c < a; d < b")
    conversation.turn(TaskFailed("w/a", "boom"))
    assert conversation.states() == {"a": "failed", "b": "blocked", "c": "blocked", "d": "blocked"}


def test_called_to_a_pool_and_held_in_one_turn() -> None:
    """An operator's hold counts more than a place that has just become free."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("a pool=p; b pool=p; c pool=p")
    hold = VerbRequested("w", VerbRequest(Verb.HOLD, nodes=("b",)))
    batch = conversation.turn(hold, TaskSucceeded("w/a", b"1"))
    assert conversation.states()["b"] == "held"
    assert [message.task_id for message in batch.publish] in ([], ["w/c"])
    conversation.turn()
    assert conversation.states()["c"] == "dispatching"
