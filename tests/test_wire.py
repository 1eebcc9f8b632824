"""The forms on the wire: what is accepted comes back the same, what is refused says where and why."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import compression

from dyrygentd import wire
from dyrygentd.core.checkpoint import workflow_record
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskReported, TaskSucceeded
from dyrygentd.core.graph import NODES_MAX, RESERVED_OPTIONS, Definition
from dyrygentd.core.options import COMPRESSIONS
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.errors import (
    BadNode,
    BadRequest,
    CycleError,
    DyrygentError,
    EmptyWorkflow,
    TooManyNodes,
    UnknownDependency,
    WorkflowNotSucceeded,
)
from dyrygentd.wire import reading
from tests.support.conversation import START, Conversation, parse_graph


@pytest.fixture
def conversation() -> Conversation:
    """A conversation with an engine, for workflows to be shown."""
    return Conversation()


def decode(document: object, *, nodes_max: int = 1000) -> Definition:
    """Decode a definition with task ids that count up."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    ids = iter(range(10_000))
    return wire.decode_definition(body, nodes_max=nodes_max, new_id=lambda: f"id-{next(ids)}")


def decode_one(**fields: Any) -> Definition:
    """Decode a definition of one task with some fields."""
    return decode({"nodes": [{"task": "t", **fields}]})


# --- definitions ----------------------------------------------------------------------------------------------------

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
        "payload": _JSON,
        "poll": st.none() | st.fixed_dictionaries({"every_s": st.floats(0.1, 1e7)}, optional={"timeout_s": _SECONDS}),
        "adopted": st.sampled_from(["succeeded", "failed", "dispatched", None]),
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
            nodes.append({**kind, "name": name, "after": after, "payload": draw(_JSON)})
            continue
        if draw(st.integers(0, 5)) == 0 and position:
            # Nothing may wait for a hook that waits for all ends.
            hook = {"hook": draw(st.sampled_from(["success", "failure", "always"])), "task": "t", "retry": draw(_RETRIES)}
            hooks.append({**hook, "name": f"hook of {position}"})
        options = draw(
            st.dictionaries(st.text(max_size=5).filter(lambda key: key not in {"eta", *RESERVED_OPTIONS}), _JSON, max_size=2)
        )
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


@pytest.mark.parametrize("option", sorted(RESERVED_OPTIONS))
def test_options_of_the_daemon_are_refused(option: str) -> None:
    """A client cannot set what identifies a message, so no task runs under another one's id."""
    with pytest.raises(BadNode, match=f"`options.{option}` is set by the daemon"):
        decode({"nodes": [{"task": "a", "options": {option: "x"}}]})


def test_join_takes_nothing_but_dependencies() -> None:
    """A join with arguments is a mistake, and is said to be one."""
    with pytest.raises(BadNode, match="a join has a name, `after`, `rule` and `payload`, and nothing else"):
        decode({"nodes": [{"join": True, "args": [1]}]})


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


def test_arguments_stay_text() -> None:
    """Arguments are not looked into, so their types, order and large numbers survive."""
    body = b'{"nodes": [{"task": "t", "args": [ 1.0, 12345678901234567890123 ], "kwargs":{"b":1,"a":{"__type__":"datetime"}}}]}'
    (signature,) = decode(body).graph.signatures
    assert signature is not None
    assert signature.args == b"[ 1.0, 12345678901234567890123 ]"
    assert signature.kwargs == b'{"b":1,"a":{"__type__":"datetime"}}'


def test_equal_signatures_are_one_object() -> None:
    """Ten thousand equal calls cost one signature."""
    graph = decode(
        {"nodes": [{"task": "t", "args": [1], "options": {"queue": "q", "countdown": 3}}] * 50 + [{"task": "t"}]}
    ).graph
    assert len({id(signature) for signature in graph.signatures}) == 2


@pytest.mark.parametrize(
    ("options", "rest", "countdown_s", "eta_at"),
    [
        ({}, b"{}", 0, 0),
        ({"queue": "q"}, b'{"queue":"q"}', 0, 0),
        ({"countdown": 5}, b"{}", 5, 0),
        ({"countdown": 0.5, "queue": "q"}, b'{"queue":"q"}', 0.5, 0),
        ({"countdown": None, "eta": None}, b"{}", 0, 0),
        ({"eta": 1700000000.5}, b"{}", 0, 1700000000.5),
        ({"eta": "2023-11-14T22:13:20Z"}, b"{}", 0, 1700000000),
        ({"eta": "2023-11-14T23:13:20+01:00"}, b"{}", 0, 1700000000),
        ({"eta": {"__type__": "datetime", "__value__": "2023-11-14T22:13:20+00:00"}}, b"{}", 0, 1700000000),
        ({"eta": "1950-01-01T00:00:00Z"}, b"{}", 0, 0),
        ({"serializer": "json"}, b'{"serializer":"json"}', 0, 0),
    ],
)
def test_options_are_split(options: dict[str, Any], rest: bytes, countdown_s: float, eta_at: float) -> None:
    """Countdown and eta are the daemon's own timers, in every form that Celery writes; the rest goes to the message."""
    definition = decode_one(options=options)
    (signature,) = definition.graph.signatures
    assert signature is not None
    assert (signature.options, signature.countdown_s, signature.eta_at) == (rest, countdown_s, eta_at)
    assert decode(wire.encode_definition(definition)).graph.signatures == [signature]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "$"),
        (b"[1]", "$"),
        (b"{", "$"),
        (b'{"nodes": [{"task": "\xff"}]}', "$"),
        (b'{"nodes": [{"task": "t", "args": ["\xff"]}]}', "$"),
        (b'{"nodes": [{"task": "t", "args": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", "$"),
        (b"{}", "$"),
        (b'{"nodes": 1}', "$.nodes"),
        (b'{"nodes": [{"task": "t"}, {"task": 1}]}', "$.nodes[1].task"),
        (b'{"nodes": [{"task": ""}]}', "$.nodes[0].task"),
        (b'{"nodes": [{"task": "t", "after": ["a", 2]}]}', "$.nodes[0].after[1]"),
        (b'{"nodes": [{"task": "t", "arg": []}]}', "$.nodes[0]"),
        (b'{"nodes": [], "unknown": 1}', "$"),
        (b'{"nodes": [], "version": 2}', "$.version"),
        (b'{"nodes": [], "labels": {"a": 1}}', "$.labels[...]"),
        (b'{"nodes": [], "name": "' + b"x" * 201 + b'"}', "$.name"),
        (b'{"nodes": [{"task": "t", "options": {"countdown": 1e400}}]}', "$[...]"),
    ],
)
def test_refuses_another_shape_and_says_where(body: bytes, path: str) -> None:
    """The path leads to the mistake in a file of thousands of lines."""
    with pytest.raises(BadRequest) as caught:
        decode(body)
    assert caught.value.path == path
    assert "msgspec" not in str(caught.value)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({}, "`task` is missing"),
        ({"join": True, "task": "t"}, "a join has no task"),
        ({"task": "t", "args": {}}, "`args` must be an array"),
        ({"task": "t", "kwargs": []}, "`kwargs` must be an object"),
        ({"task": "t", "options": []}, "`options` must be an object"),
        ({"task": "t", "options": {"serializer": "pickle"}}, "serializer 'pickle' is not accepted"),
        ({"task": "t", "options": {"serializer": ["json"]}}, r"serializer '\['json'\]' is not accepted"),
        ({"task": "t", "options": {"countdown": -1}}, "`options.countdown` must be a number"),
        ({"task": "t", "options": {"countdown": "5"}}, "`options.countdown` must be a number"),
        ({"task": "t", "options": {"eta": -1}}, "`options.eta` must be an ISO 8601 time"),
        ({"task": "t", "options": {"eta": "soon"}}, "`options.eta` must be an ISO 8601 time"),
        ({"task": "t", "options": {"eta": {}}}, "`options.eta` must be an ISO 8601 time"),
        ({"task": "t", "options": {"eta": "2023-11-14T22:13:20"}}, "`options.eta` has no time zone"),
    ],
)
def test_refuses_a_bad_node_by_name(node: dict[str, Any], reason: str) -> None:
    """The right shape with a wrong content names the node, as that is what the author knows."""
    with pytest.raises(BadNode, match=f"node 'bad': {reason}"):
        decode({"nodes": [{"name": "bad", **node}]})


@pytest.mark.parametrize(
    ("node", "message", "next_step"),
    [
        # Another shape.
        ({"tasks": "t"}, "node 'x': unknown field `tasks`, at $.nodes[1]", "did you mean 'task'?"),
        ({"zzzz": 1}, "unknown field `zzzz`", "known are name, task, join"),
        ({"task": 5}, "`task` must be text or null, and is a whole number, at $.nodes[1].task", "write text of 1 to 200"),
        ({"after": "a"}, "`after` must be an array, and is text", "write an array"),
        ({"after": ["a", 5]}, "`after[1]` must be text, and is a whole number", "write text"),
        ({"rule": "all"}, "`rule` cannot be 'all'", "use one of all_succeeded, all_finished, any_failed, any_succeeded"),
        ({"redeliveries_max": -1}, "`redeliveries_max` must be a whole number >= 0", "write a whole number from 0 to 1000"),
        ({"on_lost": "x"}, "`on_lost` cannot be 'x'", "use one of retry, fail, hold"),
        ({"hook": "x"}, "`hook` cannot be 'x'", "use one of success, failure, always"),
        ({"adopted": "x"}, "`adopted` cannot be 'x'", "use one of dispatched, failed, succeeded"),
        ({"rule": 5}, "`rule` must be text, and is a whole number", "use one of all_succeeded"),
        ({"immutable": "yes"}, "`immutable` must be true or false, and is text", "write true or false"),
        ({"timeout_s": -1}, "`timeout_s` must be a number >= 0", "write a number from 0 to"),
        ({"timeout_s": "5"}, "`timeout_s` must be a number, and is text", "write a number from 0 to"),
        ({"retry": 3}, "`retry` must be an object or null, and is a whole number", "write an object with attempts, backoff_s"),
        ({"retry": {"attempts": 0}}, "`retry.attempts` must be a whole number >= 1", "write a whole number from 1 to 1000"),
        ({"retry": {"attempts": 1.5}}, "`retry.attempts` must be a whole number, and is a number", "write a whole number"),
        ({"retry": {"attempt": 1}}, "unknown field `attempt` in `retry`", "did you mean 'attempts'?"),
        ({"retry": {"jitter": 2}}, "`retry.jitter` must be a number <= 1", "write a number from 0 to 1"),
        ({"poll": {}}, "the field `every_s` of `poll` is missing", "add `every_s`"),
        ({"poll": {"every_s": 0}}, "`poll.every_s` must be a number >= 0.1", "write a number from 0.1 to"),
        ({"pool": "x" * 201}, "`pool` must be text with a length <= 200", "write text of 0 to 200 characters"),
        # Contradictions.
        ({"gate": True}, "node 'x': a gate has no task", "leave out either `gate` or `task`"),
        ({"task": None, "poll": {"every_s": 1}}, "a poll repeats a task, and `task` is missing", "name a task"),
        ({"task": None, "hook": "always"}, "a hook runs a task, and `task` is missing", "name a task"),
        ({"task": None, "gate": True, "args": [1]}, "a gate has a name, `after`, `rule`", "leave out `args`"),
        ({"task": None, "gate": True, "sleep_s": 1}, "it is `gate` and `sleep_s` in one", "make two nodes of it"),
        ({"task": None, "sleep_s": 1, "pool": "p"}, "a sleep has a name", "leave out `pool`"),
        ({"task": None, "join": True, "adopted": "dispatched"}, "what has no task cannot have been", "leave out `adopted`"),
        ({"hook": "always", "after": ["a"]}, "a hook waits for all ends", "leave out `after` and `rule`"),
        ({"hook": "always", "poll": {"every_s": 1}}, "a hook is neither a poll nor adopted", "leave out `poll` or `hook`"),
        ({"hook": "always", "adopted": "failed"}, "a hook is neither a poll nor adopted", "leave out `adopted` or `hook`"),
        ({"rule": "any_failed"}, "rule 'any_failed' needs something to wait for", "name it in `after`"),
        ({"retry": {"backoff_s": 9, "backoff_max_s": 3}}, "`retry`: the longest pause, 3 s, is shorter than", "raise"),
        ({"args": {"a": 1}}, "`args` must be an array", "write `args: [1, 2]`"),
        # Options that nobody could publish with.
        ({"options": {"queue": 5}}, "`options.queue` must be text, and is 5", "give the queue's name"),
        ({"options": {"routing_key": ["x"]}}, "`options.routing_key` must be text", "give the key"),
        ({"options": {"exchange": {}}}, "`options.exchange` must be text", "give the exchange's name"),
        ({"options": {"shadow": 1}}, "`options.shadow` must be text", "it is the name"),
        ({"options": {"priority": "high"}}, "`options.priority` must be a whole number from 0 to 255, and is 'high'", "brokers"),
        ({"options": {"priority": 256}}, "`options.priority` must be a whole number from 0 to 255, and is 256", "brokers"),
        ({"options": {"priority": True}}, "`options.priority` must be a whole number", "brokers"),
        ({"options": {"time_limit": "1h"}}, "`options.time_limit` must be a number of seconds", "for a bound from dispatch"),
        ({"options": {"soft_time_limit": -1}}, "`options.soft_time_limit` must be a number of seconds", "for a bound"),
        ({"options": {"compression": "zip"}}, "`options.compression` must be one that kombu knows", "use one of brotli"),
        ({"options": {"compression": ["gzip"]}}, "`options.compression` must be one that kombu knows", "use one of"),
        ({"options": {"delivery_mode": "fast"}}, "`options.delivery_mode` must be 1, 2, 'transient'", "leave it out"),
        ({"options": {"headers": [1]}}, "`options.headers` must be an object", "write"),
        ({"options": {"headers": {"timelimit": [1]}}}, "`options.headers` has `timelimit`, which workers", "use the option"),
        ({"options": {"headers": {"expires": "x"}}}, "`options.headers` has `expires`", "use the option `expires`"),
        ({"options": {"headers": {"stamped_headers": 5}}}, "`options.headers` has `stamped_headers`", "use the option"),
        ({"options": {"headers": {"x": 1, "delivery_info": 5}}}, "`options.headers` has `delivery_info`", "leave it out"),
        ({"options": {"countdown": 10**400}}, "`options.countdown` must be a number of seconds", "write a number"),
        ({"options": {"eta": 10**400}}, "`options.eta` must be an ISO 8601 time", "write it as in"),
        ({"options": {"stamped_headers": "x"}}, "`options.stamped_headers` must be a list of names", "leave it out"),
        ({"options": {"link": "t"}}, "`options.link` must be a signature or a list of them, and is 't'", "write"),
        ({"options": {"link_error": [{"task": "t"}, {}]}}, "`options.link_error` must be a signature", "write"),
        ({"options": {"expires": "soon"}}, "`options.expires` must be an ISO 8601 time", "write it as in 2030"),
        ({"options": {"expires": "2030-01-01T00:00:00"}}, "`options.expires` has no time zone", "write it as in 2030"),
        ({"options": {"expires": [1]}}, "`options.expires` must be a number of seconds or an ISO 8601 time, and is [1]", "write"),
        ({"options": {"expires": 1e12}}, "`options.expires` must be a number of seconds", "write it as"),
        ({"options": {"eta": "soon"}}, "`options.eta` must be an ISO 8601 time", "write it as in 2030"),
    ],
)  # fmt: skip
def test_mistake_in_a_node_says_what_is_allowed(node: dict[str, Any], message: str, next_step: str) -> None:
    """The node, the field, what is allowed and the next step: nobody has to look the form up."""
    with pytest.raises((BadNode, BadRequest)) as caught:
        decode({"nodes": [{"task": "t", "name": "a"}, {"task": "t", "name": "x", **node}]})
    assert str(caught.value).startswith("node 'x': ")
    assert message in str(caught.value)
    assert caught.value.next_step.startswith(next_step)


@pytest.mark.parametrize(
    ("fields", "message", "next_step"),
    [
        ({"node": []}, "unknown field `node`, at $", "did you mean 'nodes'?"),
        ({"nodes": {}}, "`nodes` must be an array, and is an object, at $.nodes", "write an array"),
        ({"nodes": [5]}, "node 1: a node must be an object, and is a whole number", "write an object with name, task"),
        ({"nodes": [{"task": "t", "retry": 1}]}, "node 1 (task 't'): `retry` must be", "write an object"),
        ({"policy": {"on_failure": "halt"}}, "`policy.on_failure` cannot be 'halt'", "use one of continue, stop"),
        ({"policy": {"deadline_s": -1}}, "`policy.deadline_s` must be a number >= 0", "write a number from 0 to"),
        ({"policy": {"weight": 0}}, "`policy.weight` must be a whole number >= 1", "write a whole number from 1 to 1000"),
        ({"policy": {"priority": "high"}}, "`policy.priority` must be a whole number, and is text", "write a whole number"),
        ({"policy": {"in_flight_max": -1}}, "`policy.in_flight_max` must be a whole number >= 0", "write a whole number, 0"),
        ({"policy": {"redeliveries_max": 1001}}, "`policy.redeliveries_max` must be a whole number <= 1000", "write"),
        ({"policy": {"retry": {"on": [1]}}}, "`policy.retry.on[0]` must be text", "write text of 1 to 200"),
        ({"policy": {"retry": {"backoff_s": 601}}}, "`policy.retry`: the longest pause, 600 s, is shorter", "raise"),
        ({"policy": {"start_at": "soon"}}, "`policy.start_at` must be an ISO 8601 time or Unix seconds", "write it as in 2030"),
        ({"policy": {"start_at": []}}, "`policy.start_at` must be a number or text, and is an array", ""),
        ({"policy": {"timeout": 1}}, "unknown field `timeout` in `policy`", "did you mean 'timeout_s'?"),
        ({"labels": {"": "x"}}, "`labels` must be text with a length >= 1, at $.labels", "write an object"),
        ({"labels": {"a": 1}}, "must be text, and is a whole number, at $.labels[...]", "write text"),
        ({"name": ""}, "`name` must be text with a length >= 1", "write text of 1 to 200"),
        ({"output": "tt"}, "`output` names 'tt', which is no node", "known are t-1"),
        ({"version": "1"}, "`version` must be a whole number, and is text", "write a whole number"),
        ({"parent_task": "x"}, "`parent_task` must be an object or null, and is text", "write an object with task_id, root_id"),
        ({"parent_task": {}}, "the field `task_id` of `parent_task` is missing", "add `task_id`"),
        ({"parent_task": {"task_id": ""}}, "`parent_task.task_id` must be text with a length >= 1", "write text of 1 to 200"),
        ({"parent_task": {"task_id": "x" * 201}}, "must be text with a length <= 200", "write text of 1 to 200"),
        ({"parent_task": {"task_id": 5}}, "`parent_task.task_id` must be text, and is a whole number", "write text"),
        ({"parent_task": {"task_id": "x", "root_id": ""}}, "`parent_task.root_id` must be text with a length >= 1", "write"),
        ({"parent_task": {"task_id": "x", "chord": 1}}, "unknown field `chord` in `parent_task`", "known are task_id, root_id"),
        ({"parent_task": {"task_id": "a\nb"}}, "`parent_task.task_id` has characters that cannot be printed", "leave"),
        ({"parent_task": {"task_id": "a", "root_id": "\x1b[2J"}}, "`parent_task.root_id` has characters", "leave"),
        (
            {"nodes": [{"task": "t", "task_id": "x"}], "parent_task": {"task_id": "x"}},
            "`parent_task.task_id` is 'x', a task of this workflow",
            "leave `parent_task` out",
        ),
    ],
)  # fmt: skip
def test_mistake_in_a_workflow_says_what_is_allowed(fields: dict[str, Any], message: str, next_step: str) -> None:
    """The same for what concerns all nodes."""
    with pytest.raises(BadRequest) as caught:
        decode({"nodes": [{"task": "t"}], **fields})
    assert message in str(caught.value)
    assert caught.value.next_step.startswith(next_step)


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "", "routing_key": "a.b", "exchange": "x", "exchange_type": "topic", "shadow": "s"},
        {"priority": 0, "time_limit": 3, "soft_time_limit": 0.5, "delivery_mode": 2, "headers": {}},
        {"expires": -5, "compression": "", "link": [], "link_error": {"task": "t"}, "stamped_headers": ["a"], "a": 5},
        {"queue": None, "priority": None, "expires": None, "compression": None, "headers": None, "link": None},
        {"mandatory": True, "anything": {"else": 1}},
    ],
)
def test_what_can_be_published_is_accepted(options: dict[str, Any]) -> None:
    """The checks refuse what fails at dispatch, and nothing else."""
    (signature,) = decode_one(options=options).graph.signatures
    assert signature is not None
    assert json.loads(signature.options) == options


def test_a_linter_reads_on() -> None:
    """What cannot be published is a finding among others there, so the rest must be read."""
    body = json.dumps({"nodes": [{"task": "t", "options": {"queue": 5, "expires": "soon"}}]}).encode()
    assert len(wire.decode_definition(body, nodes_max=1, has_good_options=False).graph) == 1


def test_compressions_are_those_of_kombu() -> None:
    """Whatever this kombu knows is accepted."""
    assert {*compression._aliases, *compression._encoders} <= COMPRESSIONS


def test_a_missing_node_is_guessed_among_many() -> None:
    """The look for a resembling name has a bound."""
    nodes = [{"task": "t", "name": f"node-{number}"} for number in range(5000)]
    with pytest.raises(UnknownDependency) as caught:
        decode({"nodes": [*nodes, {"task": "t", "after": ["nod-7"]}]}, nodes_max=10_000)
    assert caught.value.next_step == "did you mean 'node-7'?"


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


# --- views ----------------------------------------------------------------------------------------------------------


def test_shows_a_running_workflow(conversation: Conversation) -> None:
    """A view has what a person asks first, and leaves out what is empty."""
    conversation.submit("a; b < a; c < b")
    view = wire.view_of_running(conversation.workflow())
    assert json.loads(wire.encode(view)) == {
        "id": "w",
        "name": "name of w",
        "state": "running",
        "created_at": START,
        "tasks": 3,
        "counts": {"dispatching": 1, "waiting": 2},
    }
    assert wire.decode(wire.encode(view), wire.WorkflowView) == view
    assert not view.is_finished
    assert view.result_text is None


def test_memory_and_store_show_the_same(conversation: Conversation) -> None:
    """A finished workflow looks the same before and after it left the memory, with its result when asked for."""
    conversation.submit("a")
    (workflow,) = conversation.succeed("w/a", value=b'{"x":null}').finished
    running = wire.view_of_running(workflow, with_result=True)
    stored = wire.view_of_record(workflow_record(workflow), with_result=True)
    assert wire.encode(running) == wire.encode(stored)
    assert running.is_finished
    assert wire.decode(wire.encode(stored), wire.WorkflowView).result_text == b'{"x":null}'
    assert wire.view_of_record(workflow_record(workflow)).result_text is None


def test_shows_the_task_that_started_it(conversation: Conversation) -> None:
    """From memory and from the store."""
    conversation.submit("a", parent_task=ParentTask("p", "r"))
    (workflow,) = conversation.succeed("w/a").finished
    for view in (wire.view_of_running(workflow), wire.view_of_record(workflow_record(workflow))):
        assert json.loads(wire.encode(view))["parent_task"] == {"task_id": "p", "root_id": "r"}
        assert wire.decode(wire.encode(view), wire.WorkflowView) == view


def test_shows_nodes(conversation: Conversation) -> None:
    """A node tells why it is where it is."""
    conversation.submit("a; b < a; &j < a; c countdown=9; d; e")
    conversation.turn(TaskFailed("w/a", "boom"), MessagePublished("w/d"), TaskReported("w/d", "STARTED"), after_s=2)
    a, b, j, c, d, _ = (wire.view_of_node(conversation.workflow(), node) for node in range(6))
    assert (a.task, a.task_id, a.state, a.error, a.attempt) == ("tasks.a", "w/a", "failed", "boom", 1)
    assert (a.dispatched_at, a.finished_at) == (START, START + 2)
    assert (b.state, b.blocked_by, b.after, b.attempt, b.dispatched_at) == ("blocked", "a", ["a"], 0, None)
    assert (j.task, j.task_id, j.state) == (None, None, "blocked")
    assert (c.state, c.held_until) == ("held", START + 9)
    assert (d.state, d.reported, d.finished_at) == ("dispatched", "STARTED", None)
    assert wire.decode(wire.encode(a), wire.NodeView) == a


def test_outcome_raises_unless_all_succeeded(conversation: Conversation) -> None:
    """A script that demands success gets the names of the nodes that failed."""
    conversation.submit("a")
    conversation.submit("a", "v")
    bad, good = conversation.turn(TaskFailed("w/a", "boom"), TaskSucceeded("v/a", b"[1]")).finished
    failed = wire.outcome_of(wire.view_of_running(bad, with_result=True), [wire.view_of_node(bad, 0)])
    assert not failed.is_success
    with pytest.raises(WorkflowNotSucceeded, match=r"workflow 'name of w' \(w\) ended as failed, failed nodes: 'a'"):
        failed.raise_for_state()
    succeeded = wire.outcome_of(wire.view_of_running(good, with_result=True), [])
    succeeded.raise_for_state()
    assert succeeded.result == [1]


def test_schemas_name_each_form() -> None:
    """The OpenAPI document refers to the forms by their names."""
    assert {"WorkflowPage", "WorkflowView"} <= set(wire.schemas([wire.WorkflowPage]))


# --- problems -------------------------------------------------------------------------------------------------------


def test_problem_is_read_back_as_a_remote_error() -> None:
    """A client raises what the daemon said, in its words."""
    problem = wire.problem_of(BadNode("a", "is odd", next_step="mend it"))
    assert (problem["type"], problem["title"]) == ("https://dyrygentd.invalid/problems/bad-node", "bad node")
    assert problem["facts"] == {"node": "a", "reason": "is odd"}
    remote = wire.error_of_problem(wire.encode(problem), 422)
    assert (str(remote), remote.status, remote.code, remote.next_step) == ("node 'a': is odd", 422, "bad-node", "mend it")
    assert remote.document == problem


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "HTTP status 502"),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b"\xff" * 3, "\ufffd" * 3),
        (b'{"detail": "\xff"}', '{"detail": "\ufffd"}'),
        (b"[" * 100_000, "[" * 200),
        (b"{}", "HTTP status 502"),
    ],
)
def test_any_answer_becomes_an_error(body: bytes, message: str) -> None:
    """A proxy, another program or rubbish on the socket gives an error that quotes it."""
    remote = wire.error_of_problem(body, 502)
    assert (str(remote), remote.status, remote.code) == (message, 502, "unknown")


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


_MANY = [
    {"name": f"n{number}", "task": "t", "args": ["ż", number], "after": [f"n{number - 1}"] if number else []}
    for number in range(1201)
]


@pytest.mark.parametrize(
    "document",
    [
        {"nodes": _MANY, "name": "x", "labels": {"a": "b"}, "payload": [1], "policy": {"timeout_s": 5}, "key": "k"},
        {"nodes": []},
        {"nodes": [*_MANY, {"name": 7}]},
        {"nodes": [*_MANY, {"name": "n5", "taskk": "t"}]},
        {"nodes": [*_MANY, None]},
        {"nodes": [*_MANY, {"name": "n5", "task": "t"}]},
        {"nodes": [*_MANY, {"name": "y", "task": "t", "after": ["nobody"]}]},
        {"nodes": 7},
        {"nodez": _MANY},
        {"nodes": _MANY, "labels": {"a": 7}},
        {"nodes": _MANY, "version": 99},
        [],
    ],
)
def test_long_definitions_are_decoded_alike(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some nodes at a time or all at once: the same definition comes of it, or the same error in the same words."""
    body = json.dumps(document).encode()
    found: list[object] = []
    for limit in (0, 10**9):
        monkeypatch.setattr(reading, "SLICED_BYTES", limit)
        try:
            made = wire.decode_definition(body, nodes_max=10_000, new_id=iter(map(str, range(10_000))).__next__)
            found.append((wire.encode_definition(made), made.name, made.key, dict(made.labels), made.payload))
        except DyrygentError as error:
            found.append((type(error), str(error), error.next_step, getattr(error, "path", "")))
    assert found[0] == found[1]


def test_long_definition_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no JSON is told as such, some nodes at a time too."""
    monkeypatch.setattr(reading, "SLICED_BYTES", 0)
    with pytest.raises(BadRequest, match="not valid JSON"):
        wire.decode_definition(json.dumps({"nodes": _MANY}).encode()[:-5], nodes_max=10_000)


# --- what is stored -------------------------------------------------------------------------------------------------


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
