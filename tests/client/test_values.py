"""What a program gets: values as Python has them, the first error without waiting, and plain data to hand on."""

import asyncio
import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import pytest
from msgspec import Struct

from dyrygentd import AsyncClient, Client, wire
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.errors import BadRequest, WorkflowNotSucceeded
from tests.http.support import Daemon

VALUE: dict[str, Any] = {
    "price": Decimal("1.50"),
    "day": date(2026, 11, 29),
    "id": UUID(int=1),
    "at": [datetime(2026, 11, 29, 2, 0)],
    "blob": b"\x00\xff",
}
BROKEN = {
    "nodes": [
        {"name": "fine", "task": "add", "args": [1]},
        {"name": "a", "task": "fail"},
        {"name": "b", "task": "add", "after": ["a"]},
    ]
}


def test_value_is_a_value_in_both_clients(daemon: Daemon) -> None:
    """Kombu's types come back as what they were, wherever the value is read, and only if somebody asked for it."""
    daemon.broker.tasks["price"] = lambda: VALUE
    client = Client(daemon.path)
    handle = client.submit({"nodes": [{"task": "price"}]})
    assert handle.wait(10).result == VALUE
    assert handle.outcome().result == handle.status(with_result=True).result == VALUE
    assert client.get(handle.id, with_result=True).result == VALUE
    assert client.get(handle.id).result is None

    async def use() -> None:
        async with AsyncClient(daemon.path) as aio:
            again = await aio.handle(handle.id)
            assert (await again.outcome()).result == (await again.status(with_result=True)).result == VALUE

    asyncio.run(use())


def test_value_of_a_type_that_nobody_knows_is_told(daemon: Daemon) -> None:
    """A type that the workers' app has registered with kombu needs the same in the program that reads it."""
    view = wire.decode_view(
        b'{"id":"i","name":"n","state":"succeeded","created_at":1,"tasks":1,"counts":{},"result":%b}' % _MONEY
    )
    assert view.result_text == _MONEY
    with pytest.raises(BadRequest, match="money"):
        _ = view.result


_MONEY = b'{"__type__":"money","__value__":"5 EUR"}'


def test_first_error_is_had_without_waiting(daemon: Daemon) -> None:
    """The view that polls shows what failed first, in the listing too, and the outcome which nodes."""
    client = Client(daemon.path)
    handle = client.submit(BROKEN)
    handle.wait(10)
    assert client.get(handle.id).error == client.list()[0].error == "'a' failed: ValueError: no such host"
    outcome = handle.outcome()
    assert (outcome.is_finished, outcome.is_success, outcome.error) == (True, False, client.get(handle.id).error)
    assert [node.name for node in outcome.failed_nodes] == ["a"]


def test_outcome_of_one_that_goes_on(holding: Daemon) -> None:
    """Asked too early it says so, and nobody takes it for an end."""
    handle = Client(holding.path).submit({"nodes": [{"name": "a", "task": "add", "args": [1]}]})
    outcome = handle.outcome()
    assert (outcome.state, outcome.is_finished, outcome.result, outcome.failed_nodes) == ("running", False, None, [])
    with pytest.raises(WorkflowNotSucceeded, match="is running"):
        outcome.raise_for_state()
    holding.let_go()
    assert handle.wait(10).is_finished


def test_everything_is_plain_data_on_request(daemon: Daemon) -> None:
    """Frameworks and templates take dicts; each field is there, whatever its value, and dates are text."""
    daemon.broker.tasks["price"] = lambda: VALUE
    client = Client(daemon.path)
    handle = client.submit({"nodes": [{"name": "p", "task": "price"}]}, labels={"dc": "gra"})
    outcome = handle.wait(10)
    view = client.get(handle.id, with_result=True)
    plain = view.to_dict()
    assert plain["result"]["price"] == "1.50"
    assert plain["result"]["day"] == "2026-11-29"
    assert (plain["state"], plain["error"], plain["key"], plain["labels"]) == ("succeeded", "", None, {"dc": "gra"})
    assert dict(view) == plain
    assert "result" not in client.get(handle.id).to_dict()
    assert json.loads(view.to_json())["counts"] == {"succeeded": 1}
    daemon.broker.tasks["nan"] = lambda: float("nan")
    nan = client.submit({"nodes": [{"task": "nan"}]})
    assert nan.wait(10).result != nan.outcome().result  # As NaN is.
    assert json.loads(nan.status(with_result=True).to_json())["result"] is None
    assert json.loads(client.summary(nan.id).workflow.to_json())["result"] is None
    assert outcome.to_dict()["result"]["id"] == str(UUID(int=1))
    failed = client.submit(BROKEN)
    assert failed.wait(10).to_dict()["failed_nodes"][0]["name"] == "a"
    shown: list[wire.View] = [
        handle.node("p"),
        failed.causes(),
        client.summary(failed.id),
        failed.explain(),
        failed.retry(),
        client.stats(),
        client.health(),
        client.journal(),
        client.perform_in_bulk("pause", name="none"),
        *handle.journal(),
    ]
    for each in shown:
        document: Any = json.loads(json.dumps(each.to_dict(), allow_nan=False))
        assert document.keys() == set(each.__struct_fields__)


def test_every_view_can_become_plain_data() -> None:
    """A form that somebody adds for clients is one of them."""
    for name in wire.__all__:
        form = getattr(wire, name)
        if isinstance(form, type) and issubclass(form, Struct) and not name.endswith("Document"):
            assert issubclass(form, wire.View), name


def test_words_for_type_checkers_are_those_of_the_daemon() -> None:
    """A type checker that knows fewer words than there are would call right programs wrong."""
    assert set(get_args(wire.WorkflowWord)) == {state.value for state in WorkflowState}
    assert set(get_args(wire.NodeWord)) == {state.word for state in NodeState}
    assert set(get_args(wire.HoldWord)) == {reason.value for reason in HoldReason}


def test_unknown_word_of_a_newer_daemon_is_read() -> None:
    """A client that is older than the daemon goes on reading."""
    view = wire.decode(
        b'{"id":"i","name":"n","state":"dreaming","created_at":1,"tasks":1,"counts":{},"since":"5.0"}', wire.WorkflowView
    )
    assert str(view.state) == "dreaming"
