"""A map and its list become a workflow of members: the same each time it is read, or a refusal that says what is wrong."""

import json
from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.ids import is_made
from dyrygentd.core.policy import OnFailure, Retry, Rule, WorkflowPolicy
from dyrygentd.errors import BadNode, BadRequest
from dyrygentd.wire.again import definition_again
from dyrygentd.wire.expanding import expand

RESIZE = {"task": "resize"}
GRAPH = {"nodes": [{"name": "fetch", "task": "fetch"}, {"name": "thumb", "task": "thumb", "after": ["fetch"]}]}


def expanded(value: Any, do: Any = RESIZE, *, policy: WorkflowPolicy | None = None, **fields: Any) -> Definition:
    """Expand a map called ``m`` over a value."""
    definition = expanded_or_skipped(value, do, policy=policy, **fields)
    assert definition is not None
    return definition


def expanded_or_skipped(
    value: Any, do: Any = RESIZE, *, policy: WorkflowPolicy | None = None, nodes_max: int = 1000, **fields: Any
) -> Definition | None:
    """Expand a map, or have it skipped."""
    return expand(
        json.dumps({"do": do, **fields}).encode(),
        value if isinstance(value, bytes) else json.dumps(value).encode(),
        node="m",
        seed="child",
        name="w: m",
        policy=policy or WorkflowPolicy(),
        nodes_max=nodes_max,
        node_bytes_max=1000,
    )


def refusal(value: Any, do: Any = RESIZE, **fields: Any) -> tuple[str, str]:
    """Return why a map cannot be expanded, and what to do about it."""
    with pytest.raises(BadNode) as caught:
        expanded_or_skipped(value, do, **fields)
    assert caught.value.node == "m"
    return caught.value.reason, caught.value.next_step


def calls(definition: Definition) -> dict[str, Any]:
    """Return ``{node: positional arguments}`` of the tasks."""
    graph = definition.graph
    return {graph.names[node]: json.loads(each.args) for node, each in enumerate(graph.signatures) if each is not None}


def test_members_and_their_list() -> None:
    """Each item stands in front of the arguments of its member, and a join has their values in the order of the items."""
    definition = expanded([{"id": 1}, "b", None], {"task": "resize", "args": [200], "kwargs": {"x": 1}})
    graph = definition.graph
    assert calls(definition) == {"m[0]": [{"id": 1}, 200], "m[1]": ["b", 200], "m[2]": [None, 200]}
    assert graph.names == ["m[0]", "m[1]", "m[2]", "m"]
    assert list(graph.dependencies(3)) == [0, 1, 2]
    assert (graph.output, graph.is_join(3), graph.policy(3).rule) == (3, True, Rule.NONE_FAILED)
    assert all(is_made(task_id) for task_id in graph.task_ids[:3])
    assert definition.nodes_from_outside == []
    assert not graph.sections


@pytest.mark.parametrize("count", [0, 1, 999])
def test_any_number_of_items(count: int) -> None:
    """None is a list like any other: it has an empty list of values (airflow#43214)."""
    graph = expanded([*range(count)]).graph
    assert len(graph) == count + 1
    assert graph.dependency_count(graph.output or 0) == count


def test_what_is_stored_is_read_as_the_same() -> None:
    """The map and the list are stored once, and give the same graph with the same task ids after any restart."""
    items = [{"name": f"osd/{number}"} for number in range(20)]
    policy = WorkflowPolicy(priority=3, retry=Retry(5))
    definition = expanded(items, GRAPH, key="name", on_failure="stop", in_flight_max=4, pool="disks", policy=policy)
    stored = wire.document_of(definition)
    again = wire.decode_definition(stored, nodes_max=NODES_MAX, node_bytes_max=0, has_good_options=False)
    for field in ("names", "signatures", "task_ids", "policies", "heights", "output", "item_nodes"):
        assert getattr(again.graph, field) == getattr(definition.graph, field), field
    assert [*again.graph.ranks()] == [*definition.graph.ranks()]
    assert (again.name, again.policy) == ("w: m", definition.policy)
    assert again.policy == WorkflowPolicy(priority=3, retry=Retry(5), on_failure=OnFailure.STOP, in_flight_max=4)
    assert wire.document_of(again) == stored
    assert len(stored) < 1000 + sum(len(json.dumps(item)) for item in items)


def test_two_generations_have_other_ids() -> None:
    """What a rerun begins anew must not find the results of what was there before."""
    first, second = (
        expand(b'{"do":{"task":"t"}}', b"[1]", node="m", seed=seed, name="n") for seed in ("generation-0", "generation-1")
    )
    assert first is not None
    assert second is not None
    assert set(first.graph.task_ids).isdisjoint({*second.graph.task_ids} - {""})


def test_a_graph_for_each_item() -> None:
    """Each item goes through a graph of its own, which is a section for whoever looks."""
    definition = expanded(["a", "b"], GRAPH)
    graph = definition.graph
    assert graph.names == ["m[0].fetch", "m[0].thumb", "m[1].fetch", "m[1].thumb", "m"]
    assert calls(definition) == {"m[0].fetch": ["a"], "m[0].thumb": [], "m[1].fetch": ["b"], "m[1].thumb": []}
    assert [[graph.names[each] for each in graph.dependencies(node)] for node in (1, 4)] == [
        ["m[0].fetch"],
        ["m[0].thumb", "m[1].thumb"],
    ]
    assert [graph.sections.of(node) for node in range(5)] == ["m[0]", "m[0]", "m[1]", "m[1]", ""]
    assert graph.item_nodes == 2


def test_all_that_begin_are_given_the_item() -> None:
    """In a graph whatever waits for nothing takes the item, as in a canvas, and nothing else does."""
    do = {
        "nodes": [
            {"name": "a", "task": "t"},
            {"name": "b", "task": "t", "args": [1], "immutable": True},
            {"name": "c", "task": "t", "args": [2], "after": ["a", "b"], "section": "end"},
        ]
    }
    definition = expanded([7], do)
    assert calls(definition) == {"m[0].a": [7], "m[0].b": [1], "m[0].c": [2]}
    assert definition.graph.sections.of(2) == "m[0]/end"


def test_output_of_a_graph() -> None:
    """The value of an item is that of its only end, or of the node that is named."""
    two = [{"name": "a", "task": "t"}, {"name": "b", "task": "t"}]
    assert refusal([1], {"nodes": two})[1] == "name one of them as `output` of `map.do`, or let a join wait for them"
    graph = expanded([1, 2], {"nodes": two, "output": "b"}).graph
    assert [graph.names[node] for node in graph.dependencies(4)] == ["m[0].b", "m[1].b"]


def test_batches() -> None:
    """Many short items are given to one task together; the last list is shorter."""
    definition = expanded([1, 2, 3, 4, 5], {"task": "t", "args": [9]}, batch=2)
    assert calls(definition) == {"m[0]": [[1, 2], 9], "m[1]": [[3, 4], 9], "m[2]": [[5], 9]}
    assert calls(expanded([], batch=2)) == {}


def test_spread() -> None:
    """An item may be all of a call's arguments."""
    definition = expanded([[1, 2], {"x": 3, "size": 4}, []], {"task": "t", "args": [9], "kwargs": {"size": 5}}, spread=True)
    assert calls(definition) == {"m[0]": [1, 2, 9], "m[1]": [9], "m[2]": [9]}
    kwargs = [json.loads(each.kwargs) for each in definition.graph.signatures if each is not None]
    assert kwargs == [{"size": 5}, {"size": 4, "x": 3}, {"size": 5}]
    assert refusal([1], spread=True)[0] == "`spread` needs a list or an object, and item 0 is the number 1"


def test_keys() -> None:
    """Members that have names are found again in another run, whatever the order of the list."""
    items = [{"host": "a/1"}, {"host": "b"}]
    assert expanded(items, key="host").graph.names == ["m[a/1]", "m[b]", "m"]
    assert expanded(["x", "y"], key=".").graph.names == ["m[x]", "m[y]", "m"]
    assert expanded(items, GRAPH, key="host").graph.sections.of(0) == "m[a\u22151]"
    for wrong, reason in (
        ([{"host": "a"}, {"host": "a"}], "the key 'a' is that of 2 items"),
        ([{"host": "a"}, {"name": "b"}], "item 1 has no field 'host' to be its key: its fields are name"),
        ([{"host": 7}], '`host` of item 0 is no text that could be its key: {"host": 7}'),
        ([{"host": ""}], '`host` of item 0 is no text that could be its key: {"host": ""}'),
        (["a"], "`key` is a field of each item, and item 0 is text"),
        ([{"host": "x" * 300}], None),
    ):
        found, _ = refusal(wrong, key="host")
        assert found == reason or (reason is None and "would have 303 characters, the most is 200" in found)
    assert refusal([7], key=".")[0] == "item 0 is no text that could be its key: 7"
    assert refusal(["a\n"], key=".")[0].startswith("item 0 has characters that cannot be printed")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (7, "the number 7"),
        ("text", "text"),
        (True, "true"),
        ({"a": 1}, "an object: let its task return one, such as list(d.items()) of a dictionary"),
    ],
)
def test_no_list(value: Any, kind: str) -> None:
    """Whoever returned something else is told what it is."""
    assert refusal(value)[0] == f"a map needs a list, and what it is over is {kind}"


def test_too_long() -> None:
    """The length and the bound are told, and nothing is cut: a part of a list would look like all of it."""
    assert len(expanded([*range(10)], max_items=10).graph) == 11
    reason, next_step = refusal([*range(11)], max_items=10)
    assert reason == "its list has 11 items, `max_items` is 10"
    assert next_step == "raise `max_items`, or give several items to one task by `batch`"
    assert refusal([*range(10_001)], nodes_max=100_000)[0] == "its list has 10,001 items, `max_items` is 10,000"


def test_too_many_nodes() -> None:
    """The bound of a workflow's nodes counts what comes of the list."""
    reason, _ = refusal([*range(500)], GRAPH)
    assert reason == "its list has 500 items, 2 nodes each: 1,001 nodes with the join behind them, `nodes_max` is 1,000"


def test_an_item_that_is_too_large() -> None:
    """One item is sent in one message, and which one it is is told."""
    reason, next_step = refusal(["a", "x" * 1000])
    assert reason == "item 1 has 1,002 bytes, the most is 1,000 (`node_bytes_max`)"
    assert next_step == "return references to long data instead of the data"
    assert "item 0 is nested too deeply" in refusal([json.loads("[" * 250 + "]" * 250)])[0]


def test_empty_lists() -> None:
    """An empty list is a success, unless somebody says that it is none."""
    assert expanded_or_skipped([], if_empty="skip") is None
    assert expanded_or_skipped([1], if_empty="skip") is not None
    assert refusal([], if_empty="fail")[0] == "its list is empty, and `if_empty` is 'fail'"


@pytest.mark.parametrize(("asked", "least"), [(2, 2), (0.5, 2), (0.51, 3), (1.0, 4), (0, 0), (0.1 + 0.2, 2)])
def test_min_success(asked: float, least: int) -> None:
    """A share is rounded up, so that 51 % of four are three."""
    graph = expanded([1, 2, 3, 4], min_success=asked).graph
    assert (graph.policy(4).rule, graph.policy(4).succeeded_min) == (Rule.ALL_FINISHED, least)


def test_min_success_that_cannot_be() -> None:
    """What cannot succeed is told before anything is sent."""
    assert refusal([1], min_success=2)[0] == "`min_success` asks for 2 members that succeed, and there are 1"


def test_pool() -> None:
    """The map's pool is for its tasks that name none."""
    do = {"nodes": [{"name": "a", "task": "t"}, {"name": "b", "task": "t", "after": ["a"], "pool": "own"}]}
    graph = expanded([1], do, pool="disks").graph
    assert [graph.policy(node).pool for node in range(3)] == ["disks", "own", ""]


def test_what_is_stored_is_not_submitted() -> None:
    """The ids of its tasks follow from a seed, which somebody outside could choose to be that of somebody else's."""
    stored = wire.document_of(expanded([1, 2]))
    assert wire.decode_definition(stored, nodes_max=9, node_bytes_max=0).graph.names[:2] == ["m[0]", "m[1]"]
    for body in (stored, b'{"nodes": [{"name": "n", "workflow": {"definition": %b}}]}' % stored):
        with pytest.raises((BadRequest, BadNode), match="unknown field `expanded`"):
            wire.decode_definition(body, nodes_max=9)


def test_again_is_the_map() -> None:
    """Who submits the workflow of a map's members once more gets the map, over the same list."""
    again = json.loads(definition_again(wire.document_of(expanded([1, 2], min_success=1))))
    assert again == {"name": "w: m", "nodes": [{"name": "m", "map": {"do": RESIZE, "over": [1, 2], "min_success": 1}}]}


_LONG = {"parameters": {"i": "x"}, "nodes": [{"name": number * "y", "task": "t"} for number in range(197, 201)]}


@pytest.mark.parametrize("do", [{"task": "t", "args": ["x" * 900]}, {"workflow": {"input": "i", "definition": _LONG}}])
def test_what_is_there_once_for_each_item_has_a_bound(do: dict[str, Any]) -> None:
    """A short definition and a short list must not be gigabytes together."""
    reason, next_step = refusal(list(range(90_000)), do, nodes_max=100_000, max_items=100_000)
    assert "bytes beside the item, and with 90,000 items more than 67,108,864" in reason
    assert next_step.startswith("give several items to one task by `batch`")
    document = {"nodes": [{"name": "m", "map": {"over": list(range(90_000)), "max_items": 100_000, "do": do}}]}
    with pytest.raises(BadNode, match="bytes beside the item"):
        wire.decode_definition(json.dumps(document).encode(), nodes_max=100_000)


@pytest.mark.parametrize("keys", [["a/b", "a\u2215b"], ["~a", "a"]])
def test_each_item_has_a_section_of_its_own(keys: list[str]) -> None:
    """What ends the section of an item waits for that one alone, however much its key looks like another one."""
    do = {"nodes": [{"name": "x", "task": "t"}, {"name": "y", "task": "t", "after": ["x"]}]}
    graph = expanded(keys, do, key=".").graph
    assert len({graph.sections.of(node) for node in range(4)}) == 2
