"""What one node may say: its options are split and checked, and what is refused is refused by its name."""

import json
from typing import Any

import pytest
from kombu import compression

from dyrygentd import wire
from dyrygentd.core.node_spec import RESERVED_OPTIONS
from dyrygentd.core.options import COMPRESSIONS
from dyrygentd.errors import (
    BadNode,
)
from tests.wire.support import decode, decode_one


@pytest.mark.parametrize("option", sorted(RESERVED_OPTIONS))
def test_options_of_the_daemon_are_refused(option: str) -> None:
    """A client cannot set what identifies a message, so no task runs under another one's id."""
    with pytest.raises(BadNode, match=f"`options.{option}` is set by the daemon"):
        decode({"nodes": [{"task": "a", "options": {option: "x"}}]})


def test_join_takes_nothing_but_dependencies() -> None:
    """A join with arguments is a mistake, and is said to be one."""
    with pytest.raises(BadNode, match="a join has a name, `after`, `rule`, `when`, `payload` and `section`, and nothing else"):
        decode({"nodes": [{"join": True, "args": [1]}]})


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


def test_compressions_are_those_of_kombu() -> None:
    """Whatever this kombu knows is accepted."""
    assert {*compression._aliases, *compression._encoders} <= COMPRESSIONS


def test_a_linter_reads_on() -> None:
    """What cannot be published is a finding among others there, so the rest must be read."""
    body = json.dumps({"nodes": [{"task": "t", "options": {"queue": 5, "expires": "soon"}}]}).encode()
    assert len(wire.decode_definition(body, nodes_max=1, has_good_options=False).graph) == 1
