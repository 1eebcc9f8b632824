"""Definitions: what is accepted comes back the same, and is stored as it was meant."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd import wire
from dyrygentd.core.graph import NODES_MAX, Definition
from dyrygentd.core.options import COMPRESSIONS
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.errors import (
    BadNode,
    BadRequest,
    CycleError,
    EmptyWorkflow,
    TooManyNodes,
    UnknownDependency,
)
from tests.support.conversation import Conversation, parse_graph
from tests.wire.support import decode

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)

_NAMES = st.text(min_size=1, max_size=200)

_SECONDS = st.floats(0, 1e8)

_RETRIES: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda pause, **fields: {"backoff_s": pause, "backoff_max_s": 2 * pause + 1, **fields},
    pause=_SECONDS,
    attempts=st.integers(1, 1000),
    jitter=st.floats(0, 1),
    on=st.lists(st.sampled_from(["any", "infrastructure", "expired", "OSError"]), max_size=3, unique=True),
)

_POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "on_failure": st.sampled_from(["continue", "stop"]),
        "retry": _RETRIES | st.none(),
        "timeout_s": _SECONDS,
        "deadline_s": _SECONDS,
        "start_at": st.floats(0, 1e11) | st.just("2030-01-31T08:00:00Z"),
        "priority": st.integers(-1_000_000, 1_000_000),
        "weight": st.integers(1, 1000),
        "in_flight_max": st.integers(0, 10**6),
        "redeliveries_max": st.none() | st.integers(0, 1000),
    },
)

_TASK_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "task_id": st.uuids().map(str),
        "rule": st.sampled_from(["all_succeeded", "all_finished", "none_failed"]),
        "pool": st.text(max_size=200),
        "retry": _RETRIES | st.none(),
        "timeout_s": _SECONDS,
        "on_lost": st.sampled_from(["retry", "fail", "hold", None]),
        "idempotent": st.booleans(),
        "redeliveries_max": st.none() | st.integers(0, 1000),
        "expands": st.booleans(),
        "payload": _JSON,
        "poll": st.none() | st.fixed_dictionaries({"every_s": st.floats(0.1, 1e7)}, optional={"timeout_s": _SECONDS}),
        "adopted": st.sampled_from(["succeeded", "failed", "dispatched", None]),
        "section": st.sampled_from(["", "drain", "drain/osd-42"]),
    },
)

_KNOWN_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.text(max_size=5).filter(str.isprintable) | st.none(),
        "priority": st.integers(0, 255) | st.none(),
        "expires": st.integers(-5, 10**6) | st.datetimes(timezones=st.timezones()).map(str) | st.none(),
        "compression": st.sampled_from(sorted(COMPRESSIONS)) | st.none(),
        "headers": st.dictionaries(st.text(max_size=5), _JSON, max_size=2),
        "link": st.just({"task": "t"}) | st.lists(st.just({"task": "t"}), max_size=2) | st.none(),
        "time_limit": st.floats(0, 1e6) | st.none(),
        "serializer": st.sampled_from(["json", "yaml", "msgpack"]),
    },
)

_TIMES = st.floats(0, 1e12) | st.integers(0, 10**12) | st.none() | st.datetimes(timezones=st.timezones()).map(str)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Make a valid definition document."""
    names = draw(st.lists(_NAMES.filter(lambda name: not name[-1].isdigit()), min_size=1, max_size=6, unique=True))
    nodes: list[dict[str, Any]] = []
    hooks: list[dict[str, Any]] = []
    for position, name in enumerate(names):
        after = draw(st.lists(st.sampled_from(names[:position]), max_size=4)) if position else []
        if draw(st.integers(0, 3)) == 0:
            kind: dict[str, Any] = draw(st.sampled_from([{"join": True}, {"gate": True}, {"sleep_s": 5}]))
            nodes.append({**kind, "name": name, "after": after, "payload": draw(_JSON), "section": "join"})
            continue
        if draw(st.integers(0, 5)) == 0 and position:
            # Nothing may wait for a hook that waits for all ends.
            hook = {"hook": draw(st.sampled_from(["success", "failure", "always"])), "task": "t", "retry": draw(_RETRIES)}
            hooks.append({**hook, "name": f"hook of {position}"})
        if draw(st.integers(0, 5)) == 0 and position:
            end = {"section": "join", "section_end": draw(st.sampled_from(["finally", "success", "failure", "always"]))}
            nodes.insert(0, {"task": "t", "name": f"work of {position}", "section": "join"})
            hooks.append({**end, "name": f"end of {position}", "task": "t", "retry": draw(_RETRIES)})
        # None that means anything: Hypothesis also tries words that it finds in the package.
        options = draw(st.dictionaries(st.text(max_size=5).map("x-{}".format), _JSON, max_size=2))
        options |= draw(_KNOWN_OPTIONS)
        options |= {"countdown": draw(st.floats(0, 1e9) | st.none()), "eta": draw(_TIMES)}
        nodes.append(
            {
                "task": draw(_NAMES),
                "name": name,
                "args": draw(st.lists(_JSON, max_size=2)),
                "kwargs": draw(st.dictionaries(st.text(max_size=5), _JSON, max_size=2)),
                "options": options,
                "immutable": draw(st.booleans()),
                "after": after,
                **draw(_TASK_FIELDS),
            }
        )
    for node in nodes:
        if node.get("poll") or node.get("adopted"):
            node.pop("expands", None)
    if any(node.get("adopted") == "succeeded" for node in nodes):
        for node in nodes:
            node |= {"immutable": True} if "task" in node else {}  # What was adopted has no value for anybody.
    document = {
        "nodes": nodes + hooks,
        "policy": draw(_POLICIES),
        "payload": draw(_JSON),
        "labels": draw(st.dictionaries(_NAMES, st.text(max_size=9), max_size=2)),
    }
    if draw(st.booleans()):
        document |= {"output": draw(st.sampled_from(names)), "name": draw(_NAMES), "key": draw(_NAMES)}
    return document


def _essence(definition: Definition) -> object:
    graph = definition.graph
    edges = [list(graph.dependencies(node)) for node in range(len(graph))]
    return (
        (graph.names, graph.signatures, graph.task_ids, edges, graph.output),
        [(graph.policy(node), graph.is_join(node)) for node in range(len(graph))],
        (definition.name, definition.key, dict(definition.labels), definition.payload),
        (definition.policy, definition.adopted),
    )


@pytest.mark.long
@settings(max_examples=60, deadline=None, derandomize=True)
@given(documents())
def test_what_is_accepted_is_read_back(document: dict[str, Any]) -> None:
    """A stored definition gives the same graph with the same task ids, or a restart would run something else."""
    definition = decode(document)
    again = decode(wire.encode_definition(definition))
    assert _essence(again) == _essence(definition)


def test_least_definition() -> None:
    """One task's name is enough; everything else has a default."""
    definition = wire.decode_definition(b'{"nodes": [{"task": "ceph.osd.drain"}]}', nodes_max=1)
    (signature,) = definition.graph.signatures
    assert signature is not None
    assert (signature.args, signature.kwargs, signature.options, signature.immutable) == (b"[]", b"{}", b"{}", False)
    assert (definition.name, definition.key, definition.labels, definition.payload) == ("ceph.osd.drain", None, {}, b"null")
    assert definition.graph.names == ["drain-1"]
    assert len(definition.graph.task_ids[0]) == 36


def test_made_name_makes_way_for_a_given_one() -> None:
    """A name that the daemon makes never takes one that the user gave to another node."""
    definition = decode({"nodes": [{"task": "a"}, {"task": "b", "name": "a-1"}]})
    assert definition.graph.names == ["a-1+", "a-1"]


def test_names_are_made_from_task_and_position() -> None:
    """A node without a name gets one that a person recognises; a workflow gets that of its first task."""
    definition = decode({"nodes": [{"join": True}, {"task": "a.b.c"}, {"task": "plain", "name": "mine"}, {"task": "x" * 200}]})
    assert definition.graph.names == ["join-1", "c-2", "mine", f"{'x' * 180}-4"]
    assert definition.name == "a.b.c"
    assert decode({"nodes": [{"join": True}]}).name == "workflow"
    assert decode(wire.encode_definition(definition)).graph.names == definition.graph.names


def test_ids_that_come_along_are_kept() -> None:
    """A client that fixed its task ids holds results under them already; joins have none."""
    definition = decode({"nodes": [{"task": "t", "task_id": "mine"}, {"task": "t"}, {"join": True}]})
    assert definition.graph.task_ids == ["mine", "id-0", ""]


def test_hooks_are_bounded_at_submission_only() -> None:
    """Each has an edge from every end of the graph, so many of both would cost their product; what is stored is read."""
    hooks = [{"name": f"h{number}", "task": "t", "hook": "always"} for number in range(101)]
    assert len(decode({"nodes": hooks[:100]}).graph) == 100
    with pytest.raises(BadRequest, match="the workflow has 101 hooks, the limit is 100"):
        decode({"nodes": hooks})
    assert len(decode({"nodes": hooks}, nodes_max=NODES_MAX).graph) == 101


def test_refuses_a_graph_that_cannot_run() -> None:
    """The graph's own checks are made at the edge as well."""
    with pytest.raises(EmptyWorkflow):
        decode({"nodes": []})
    with pytest.raises(TooManyNodes):
        decode({"nodes": [{"task": "t"}] * 3}, nodes_max=2)
    with pytest.raises(CycleError):
        decode({"nodes": [{"task": "t", "name": "a", "after": ["a"]}]})
    with pytest.raises(UnknownDependency) as caught:
        decode({"nodes": [{"task": "t", "name": "drain"}, {"task": "t", "after": ["drian"]}]})
    assert caught.value.next_step == "did you mean 'drain'?"
    with pytest.raises(BadRequest, match="`output` names 'nobody', which is no node"):
        decode({"nodes": [{"task": "t"}], "output": "nobody"})


def test_graph_notation_and_wire_agree() -> None:
    """The notation of the core's tests describes what the wire carries, so both test the same thing."""
    graph = parse_graph("a; b! < a; &j < a b; c < j countdown=5")
    again = decode(wire.encode_definition(Definition(graph, "w"))).graph
    assert (again.names, again.signatures, again.task_ids, again.output) == (
        graph.names,
        graph.signatures,
        graph.task_ids,
        graph.output,
    )


def test_nothing_but_hooks() -> None:
    """A workflow of hooks alone is odd, and has no result; its hooks run at once."""
    hooks = [{"name": name, "task": "t", "hook": name} for name in ("always", "success")]
    graph = wire.decode_definition(wire.encode({"nodes": hooks}), nodes_max=10).graph
    assert (graph.hooks, graph.output) == ([0, 1], None)
    conversation = Conversation()
    assert len(conversation.submit(graph).publish) == 2


@pytest.mark.parametrize(
    "nodes",
    [
        [{"name": "a", "task": "t", "adopted": "succeeded"}, {"name": "b", "task": "t", "after": ["a"]}],
        [
            {"name": "a", "task": "t", "adopted": "succeeded"},
            {"name": "j", "join": True, "after": ["a"]},
            {"name": "b", "task": "t", "after": ["j"]},
        ],
    ],
    ids=["task", "join"],
)
def test_values_of_what_was_adopted_are_refused(nodes: list[dict[str, Any]]) -> None:
    """What succeeded before the submission has left no value here, so nothing that takes one could ever be published."""
    with pytest.raises(BadNode, match="node 'a': it is adopted as succeeded, and has no value for") as caught:
        wire.decode_definition(wire.encode({"nodes": nodes}), nodes_max=10)
    assert "immutable" in caught.value.next_step
    for words in ({"immutable": True}, {"adopted": "succeeded"}):
        nodes[-1] = nodes[-1] | words
        if "adopted" in words and len(nodes) > 2:
            continue  # The join still makes a list for a task, if only for one that is not to run.
        wire.decode_definition(wire.encode({"nodes": nodes}), nodes_max=10)
        nodes[-1].pop(*words)


def _read(document: dict[str, Any] | bytes) -> Definition:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return wire.decode_definition(body, nodes_max=100)


def test_a_complete_definition_is_stored_as_it_came() -> None:
    """What says everything need not be written anew; read again it gives the same, ids included."""
    body = wire.encode_definition(_read({"nodes": [{"name": "a", "task": "t"}, {"name": "j", "join": True, "after": ["a"]}]}))
    definition = _read(body)
    assert wire.document_of(definition) == body
    again = _read(wire.document_of(definition))
    assert (again.graph.names, again.graph.task_ids) == (definition.graph.names, definition.graph.task_ids)


@pytest.mark.parametrize(
    "document",
    [
        {"nodes": [{"name": "a", "task": "t", "task_id": "1"}]},
        {"name": "w", "nodes": [{"task": "t", "task_id": "1"}]},
        {"name": "w", "nodes": [{"name": "a", "task": "t"}]},
        {"name": "w", "parameters": {"p": 1}, "nodes": [{"name": "a", "task": "t", "args": ["${p}"]}]},
    ],
)
def test_what_was_made_up_is_stored(document: dict[str, Any]) -> None:
    """A name, an id or a parameter's value that was filled in would be another one after the next reading."""
    definition = _read(document)
    stored = _read(wire.document_of(definition))
    assert wire.document_of(definition) == wire.encode_definition(definition)
    assert stored.graph.task_ids == definition.graph.task_ids
    assert (stored.name, stored.graph.names, stored.graph.signatures) == (
        definition.name,
        definition.graph.names,
        definition.graph.signatures,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"key": "k"},
        {"name": "other"},
        {"labels": {"a": "b"}},
        {"payload": b"1"},
        {"parent_task": ParentTask("p", "p")},
        {"parent_task": ParentTask("p", "r")},
    ],
)
def test_what_was_changed_since_is_stored(change: dict[str, Any]) -> None:
    """A key from a header, or a name that somebody gave on the way, is not lost."""
    definition = _read({"name": "w", "nodes": [{"name": "a", "task": "t", "task_id": "1"}]})
    assert wire.document_of(definition) == definition.source.document  # type: ignore[union-attr]
    stored = _read(wire.document_of(replace(definition, **change)))
    (field, value), *_ = change.items()
    assert getattr(stored, field) == value
