"""One task as the core keeps it: start times, and what cannot be written."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery, chord, group
from celery.canvas import Signature as CelerySignature
from celery.utils.time import maybe_iso8601, maybe_make_aware

from dyrygentd.canvas import definition_of
from dyrygentd.core.node_spec import SERIALIZERS
from dyrygentd.errors import BadNode
from dyrygentd.wire import decode_definition, encode_definition
from tests.canvas.support import a, b, c, signatures


@pytest.mark.parametrize(
    "eta",
    [
        datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2030, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2))),
        datetime(2030, 1, 2, 3, 4, 5),
        "2030-01-02T03:04:05Z",
        "2030-01-02T03:04:05",
        {"__type__": "datetime", "__value__": "2030-01-02T05:04:05+02:00"},
        1893553445,
    ],
)
def test_eta_becomes_unix_time(eta: Any) -> None:
    """A start time is taken out of the options, in every form that Celery and JSON give it."""
    (found,) = signatures(a.s().set(eta=eta, queue="q")).values()
    assert found.eta_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert json.loads(found.options) == {"queue": "q"}


def test_naive_eta_means_what_workers_read() -> None:
    """A start time without a zone is UTC even if the app's zone is another, because a worker reads it so."""
    there = Celery("there", set_as_current=False)
    there.conf.timezone = "Asia/Tokyo"
    naive = datetime(2030, 7, 1, 12, 0)
    at_the_worker = maybe_make_aware(maybe_iso8601(naive.isoformat()), ZoneInfo(str(there.timezone)))
    (found,) = signatures(there.signature("x", eta=naive)).values()
    assert found.eta_at == at_the_worker.timestamp()


def test_countdown_goes_before_eta() -> None:
    """As in Celery, a countdown wins over an eta, and one in the past means now."""
    (found,) = signatures(a.s().set(countdown=2.5, eta=datetime.now(UTC))).values()
    assert (found.countdown_s, found.eta_at) == (2.5, 0.0)
    (found,) = signatures(a.s().set(countdown=-3)).values()
    assert found.countdown_s == 0.0


def test_definition_survives_the_wire() -> None:
    """What the importer writes is what the daemon reads: same graph, same ids, same times."""
    canvas = chord(
        [a.s(datetime(2030, 1, 1, tzinfo=UTC)).set(countdown=3, expires=datetime(2031, 1, 1)), b.s(x=Decimal("1.5"))], c.s()
    )
    sent = definition_of(canvas, name="n", key="k", labels={"l": "v"})
    read = decode_definition(encode_definition(sent), nodes_max=10)
    assert (read.name, read.key, read.labels, read.payload) == ("n", "k", {"l": "v"}, b"null")
    for attribute in ("names", "task_ids", "output"):
        assert getattr(read.graph, attribute) == getattr(sent.graph, attribute)
    assert [s and (s.task, s.args, s.kwargs, s.countdown_s, s.eta_at, json.loads(s.options)) for s in read.graph.signatures] == [
        s and (s.task, s.args, s.kwargs, s.countdown_s, s.eta_at, json.loads(s.options)) for s in sent.graph.signatures
    ]


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (a.s(1, {"x": object()}), "node 'a-2': argument 2 is a 'dict' that JSON cannot carry: Object of type object is not"),
        (a.s(x=object()), "node 'a-2': argument 'x' is a 'object' that JSON cannot carry"),
        (a.s(float("nan")), "node 'a-2': argument 1 is a 'float' that JSON cannot carry: Out of range"),
        (a.s(1, "caf\udce9.txt"), "node 'a-2': argument 2 is a 'str' that JSON cannot carry: it holds '\\udce9', which is no"),
        (a.s(name={"x": ["\ud800"]}), "node 'a-2': argument 'name' is a 'dict' that JSON cannot carry: it holds '\\ud800'"),
        (a.s({(1, 2): 3}), "node 'a-2': argument 1 is a 'dict' that JSON cannot carry"),
        (a.s().set(headers={"x": object()}), "node 'a-2': option 'headers' is a 'dict' that JSON cannot carry"),
        (a.s().set(link=b), "node 'a-2': `link` must be a signature or a list of them, and is "),
        (a.s().set(serializer="pickle"), "node 'a-2': serializer 'pickle' is not accepted"),
        (a.s().set(countdown="5"), "node 'a-2': `countdown` must be a number of seconds, and is a 'str'"),
        (a.s().set(countdown=float("inf")), "node 'a-2': `countdown` must be a number of seconds"),
        (a.s().set(eta="tomorrow"), "node 'a-2': `eta` must be a datetime or ISO 8601 text, and is a 'str'"),
        ({"task": "tests.a", "kwargs": [1]}, "node 'a-2': `kwargs` must be a mapping"),
        (CelerySignature("x" * 201), f"node '{'x' * 100}-2': the task's name has more than 200 characters"),
    ],
)
def test_node_that_cannot_be_written_is_refused(signature: Any, message: str) -> None:
    """What JSON or the daemon cannot carry is refused with the node, the argument and its type."""
    with pytest.raises(BadNode) as caught:
        definition_of(group(b.s(), signature))
    assert str(caught.value).startswith(message)


def test_serializers_are_those_of_the_wire() -> None:
    """The importer and the daemon accept the same serializers."""
    for serializer in SERIALIZERS:
        definition_of(a.s().set(serializer=serializer))
    with pytest.raises(BadNode) as caught:
        definition_of(a.s().set(serializer="pickle"))
    assert caught.value.next_step == "use one of json, msgpack, yaml"
