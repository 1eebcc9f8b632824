"""Dicts and messages of celery-dyrygent become definitions with the same task ids, and what was done stays done."""

import base64
import json
import pickle
import time
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import celery_dyrygent.tasks as their_tasks
import celery_dyrygent.workflows as theirs
import pytest
from celery import Celery, chain, group
from kombu.entity import Queue

from dyrygentd import wire
from dyrygentd.compat.celery_dyrygent import adopted_definition, workflow_dict_of
from dyrygentd.compat.celery_dyrygent.adoption import node_names
from dyrygentd.errors import BadNode, BadRequest, DyrygentError, EmptyWorkflow, UnknownDependency
from tests.bombs.mutations import change
from tests.compat.test_same import task
from tests.support.size import of_size


def workflow_dict(app: Celery, canvas: Any, **changes: Any) -> dict[str, Any]:
    """Return what the original writes about a canvas."""
    workflow = theirs.Workflow()
    workflow.add_celery_canvas(canvas)
    return {**workflow.to_dict(), **changes}


def ids(found: dict[str, Any]) -> list[str]:
    """Return the task ids of a workflow's dict."""
    return list(found["nodes"])


def marks(document: dict[str, Any]) -> dict[str, str | None]:
    """Return ``{task id: adopted}`` of a definition."""
    return {node["task_id"]: node.get("adopted") for node in document["nodes"] if not node.get("join")}


def decoded(document: dict[str, Any]) -> Any:
    """Read a definition as the daemon does."""
    return wire.decode_definition(json.dumps(document).encode(), nodes_max=10_000)


# --- definitions ----------------------------------------------------------------------------------------------------


def test_original_in_mid_flight_is_adopted(app: Celery) -> None:
    """What the original's own ticks wrote down is understood: succeeded, failed, running, and not yet published."""
    canvas = chain(task(app), group(task(app), task(app), task(app)), task(app))
    workflow = theirs.Workflow()
    workflow.add_celery_canvas(canvas)
    workflow.evaluate_processing_limit()
    first, *middle, last = ids(workflow.to_dict())
    workflow.tick()
    app.backend.store_result(first, 2, "SUCCESS")
    workflow.tick()
    app.backend.store_result(middle[0], 2, "SUCCESS")
    app.backend.store_result(middle[1], ValueError("no such osd"), "FAILURE")
    for _ in range(4):
        workflow.tick()  # It believes in a failure when it has seen it four times.
    found = json.loads(json.dumps(workflow.to_dict()))
    document = adopted_definition(found)
    assert marks(document) == {
        first: "succeeded",
        middle[0]: "succeeded",
        middle[1]: "failed",
        middle[2]: "dispatched",
        last: None,
    }
    assert sorted(decoded(document).graph.task_ids) == sorted(ids(found))


def test_arguments_and_options_are_kept_and_values_are_not_passed(app: Celery) -> None:
    """A task gets what it got before: its own arguments and options, under those of the workflow, and nothing of others."""
    when = datetime(2026, 5, 1, tzinfo=UTC)
    first = app.signature("add", args=(1,), kwargs={"when": when}, options={"queue": "own", "time_limit": 5})
    found = workflow_dict(app, chain(first, task(app)), tasks_options={"queue": "theirs", "priority": 3})
    node = adopted_definition(found)["nodes"][0]
    assert (node["args"], node["immutable"]) == ([1], True)
    assert node["options"] == {"queue": "theirs", "priority": 3, "time_limit": 5}
    assert node["kwargs"]["when"]["__value__"].startswith("2026-05-01")


def test_tasks_options_mean_what_the_original_sends(app: Celery) -> None:
    """Options of the workflow and of a task are merged as ``signature.apply_async(**options)`` merges them."""
    app.conf.task_queues = [Queue("own"), Queue("theirs")]
    workflow = theirs.Workflow()
    workflow.add_celery_canvas(app.signature("add", args=(1,), options={"queue": "own", "headers": {"a": 1}}))
    workflow.tasks_options = {"queue": "theirs", "kwargs": {"y": 2}, "headers": {"b": 2}}
    (node,) = adopted_definition(workflow.to_dict())["nodes"]
    workflow.schedule_node_exec(next(iter(workflow.nodes.values())))
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("theirs", no_ack=True)
    (args, kwargs, _), headers = message.payload, message.headers
    assert (node["args"], node["kwargs"]) == (args, kwargs)
    assert node["options"]["headers"].items() <= headers.items()
    assert node["task_id"] == headers["id"]


def test_names_are_ids_of_the_user_or_the_task_with_a_short_id(app: Celery) -> None:
    """A node is found by what a person knows of it, whatever the order in which the dict comes."""
    chosen = task(app).set(task_id="drain-osd-42")
    found = workflow_dict(app, chain(chosen, task(app)))
    names = node_names(found["nodes"])
    assert sorted(names.values()) == sorted(["drain-osd-42", f"add-{ids(found)[1][:8]}"])
    assert node_names(dict(sorted(found["nodes"].items(), reverse=True))) == names


def test_names_stay_unique(app: Celery) -> None:
    """Two ids that begin alike are written out."""
    first, second = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
    found = workflow_dict(app, group(task(app).set(task_id=first), task(app).set(task_id=second)))
    assert node_names(found["nodes"]) == {first: first, second: second}


def test_groups_after_groups_meet_in_a_join(app: Celery) -> None:
    """The original's n*m edges become n+m, or large workflows would not get through the door."""
    found = workflow_dict(app, group(task(app) for _ in range(30)) | group(task(app) for _ in range(40)))
    graph = decoded(adopted_definition(found)).graph
    assert (graph.task_count, graph.edge_count) == (70, 70)


def test_name_of_a_join_is_free(app: Celery) -> None:
    """A task that is called as a join would be keeps its name."""
    chosen = task(app).set(task_id="join-1")
    found = workflow_dict(app, group(task(app), task(app), chosen) | group(task(app), task(app), task(app)))
    joins = [node["name"] for node in adopted_definition(found)["nodes"] if node.get("join")]
    assert joins == ["join-2"]


def test_payloads_are_kept(app: Celery) -> None:
    """Custom payloads of workflow and nodes go along."""
    found = workflow_dict(app, task(app), custom_payload={"ticket": 7})
    found["nodes"][ids(found)[0]]["custom_payload"] = {"user": "jo"}
    document = adopted_definition(found)
    assert (document["payload"], document["nodes"][0]["payload"]) == ({"ticket": 7}, {"user": "jo"})
    assert json.loads(decoded(document).payload) == {"ticket": 7}


def test_limit_of_time_becomes_the_deadline(app: Celery) -> None:
    """What is left of the processing time is the deadline; if nothing is left, the workflow ends at once."""
    found = workflow_dict(app, task(app))
    assert "policy" not in adopted_definition(found)
    assert adopted_definition({**found, "processing_limit_ts": 1100}, now=1000.0)["policy"] == {"deadline_s": 100.0}
    assert "policy" not in adopted_definition({**found, "processing_limit_ts": 10**12}, now=1000.0)
    assert adopted_definition({**found, "processing_limit_ts": 900}, now=1000.0)["policy"] == {"deadline_s": 1.0}


def test_key_and_name_are_the_id_or_made_of_the_task_ids(app: Celery) -> None:
    """Adopting the same workflow again creates nothing, with or without an id."""
    found = workflow_dict(app, chain(task(app), task(app)))
    assert adopted_definition(found)["key"] == adopted_definition(json.loads(json.dumps(found)))["key"]
    assert adopted_definition(found)["key"] != adopted_definition(workflow_dict(app, task(app)))["key"]
    known = adopted_definition({**found, "id": "the-id"})
    assert (known["key"], known["name"]) == ("the-id", "the-id")
    assert adopted_definition({**found, "id": "the-id"}, name="drain")["name"] == "drain"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda found: {**found, "nodes": {}}, EmptyWorkflow, "no nodes"),
        (lambda found: {**found, "nodes": []}, BadRequest, "no mapping `nodes`"),
        (lambda found: {**found, "version": 2}, BadRequest, "version 2 is unknown"),
        (lambda found: {**found, "nodes": {"a": {"signature": {}}}}, BadNode, "'a': it has no `signature`"),
        (lambda found: {**found, "nodes": {"a": {"signature": {"task": "t"}, "dependencies": 3}}}, BadNode, "must be a mapping"),
        (
            lambda found: {**found, "nodes": {"a": {"signature": {"task": "t"}, "dependencies": {"b": None}}}},
            UnknownDependency,
            "'a' depends on 'b'",
        ),
        (lambda found: {**found, "running": {"x": 1}}, BadRequest, "`running` names 'x'"),
        (lambda found: {**found, "finished": ["x"]}, BadRequest, "`finished` must be a mapping"),
        (lambda found: {**found, "custom_payload": {"x": object()}}, BadRequest, "JSON cannot carry"),
        (lambda found: {**found, "tasks_options": {"args": 5}}, BadNode, "options do not fit"),
        (lambda found: {**found, "tasks_options": {"serializer": "pickle"}}, BadNode, "serializer 'pickle' is not accepted"),
    ],
)
def test_damaged_dicts_are_told_apart(
    app: Celery, change: Callable[[dict[str, Any]], dict[str, Any]], error: type[DyrygentError], words: str
) -> None:
    """The message says what is wrong with which node, since nobody knows these dicts by heart."""
    with pytest.raises(error, match=words):
        adopted_definition(change(workflow_dict(app, task(app))))


def test_adopted_tasks_keep_their_routes(app: Celery) -> None:
    """Whoever hands a workflow over knows the routes; a daemon with URLs alone would send all to a queue that nobody consumes."""
    app.conf.task_routes = {"*": {"queue": "hardware"}}
    found = workflow_dict(app, chain(task(app), task(app).set(queue="own")))
    routed, own = (node["options"] for node in adopted_definition(found)["nodes"])
    assert (routed["queue"], own["queue"]) == ("hardware", "own")
    with Celery(set_as_current=False) as other:
        again, _ = adopted_definition(found, app=other)["nodes"]
    assert "queue" not in again.get("options", {})


# --- messages -------------------------------------------------------------------------------------------------------


def _message(found: dict[str, Any], **changes: Any) -> dict[str, Any]:
    body = json.dumps([[], {"workflow_dict": found}, {}]).encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": "the-id", "task": "workflow-processor"},
        "properties": {"body_encoding": "base64", "correlation_id": "the-id"},
        **changes,
    }


def _compressed(found: dict[str, Any]) -> dict[str, Any]:
    body = base64.b64encode(zlib.compress(json.dumps([[], {"workflow_dict": found}, {}]).encode())).decode()
    return _message(found, body=body, headers={"id": "the-id", "compression": "application/x-gzip"})


@pytest.mark.parametrize(
    ("wrap", "workflow_id"),
    [
        (lambda found: found, None),
        (lambda found: {**found, "id": "own"}, "own"),
        (lambda found: {"workflow_dict": found}, None),
        (lambda found: [[], {"workflow_dict": found}, {"callbacks": None}], None),
        (lambda found: [[found], {}, {}], None),
        (lambda found: [[], {"workflow_dict": found}], None),
        (lambda found: {"id": "the-id", "task": "workflow-processor", "args": [], "kwargs": {"workflow_dict": found}}, "the-id"),
        (lambda found: {"args": [], "kwargs": {"workflow_dict": found}}, None),
        (lambda found: {"eta": "2026-05-01", "request": {"id": "the-id", "kwargs": {"workflow_dict": found}}}, "the-id"),
        (_message, "the-id"),
        (lambda found: [_message(found), "celery", "celery"], "the-id"),
        (lambda found: _message(found, headers={}), "the-id"),
        (_compressed, "the-id"),
    ],
)
@pytest.mark.parametrize(
    "write", [lambda what: what, json.dumps, lambda what: json.dumps(what).encode()], ids=["object", "text", "bytes"]
)
def test_workflow_is_found_in(
    app: Celery, wrap: Callable[[dict[str, Any]], Any], workflow_id: str | None, write: Callable[[Any], Any]
) -> None:
    """Whatever form a workflow can be got hold of in, it is found there, and with it its id."""
    found = json.loads(json.dumps(workflow_dict(app, task(app))))
    assert workflow_dict_of(write(wrap(found))) == {**found, "id": workflow_id}


def test_message_of_the_original_is_read(app: Celery) -> None:
    """What the original really sends is what is understood here."""
    their_tasks.register_workflow_processor(app, shared=False)
    workflow = theirs.Workflow(options={"priority": 3, "queue": "processors"})
    workflow.add_celery_canvas(chain(task(app), task(app)))
    workflow.apply_async(options={"queue": "celery"})
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("processors", no_ack=True)
    raw = {"body": message.body, "headers": message.headers, "content-type": message.content_type}
    found = workflow_dict_of(raw)
    assert found["id"] == workflow.id
    assert ids(found) == ids(workflow.to_dict())
    document = adopted_definition(found, now=time.time())
    assert document["policy"]["deadline_s"] == pytest.approx(workflow.max_processing_time, abs=5)
    assert [node["options"] for node in document["nodes"]] == [{"queue": "celery"}] * 2


PICKLED = {"content-type": "application/x-python-serialize", "content-encoding": "binary"}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (b"\xff", "not valid JSON"),
        ("{", "not valid JSON"),
        ({}, "nothing in it"),
        ({"nodes": []}, "an object with 'nodes'"),
        ([], "a list"),
        (3, "a int"),
        ({"task": "tasks.add", "args": [1]}, "an object with 'task', 'args'"),
        (_message({}, body="!"), "body cannot be decoded"),
        ({**_message({}, body=base64.b64encode(pickle.dumps([])).decode()), **PICKLED}, "body cannot be decoded"),
        (_message({}, body=base64.b64encode(b"[[1, 2], {}, {}]").decode()), "a list"),
    ],
)
def test_anything_else_is_refused(what: Any, words: str) -> None:
    """Another task's message, a broken file, a pickle: none is run, and each is told."""
    with pytest.raises(BadRequest, match=words) as caught:
        workflow_dict_of(what)
    assert "to_dict" in caught.value.next_step


@pytest.mark.parametrize("part", range(2))
def test_dicts_that_are_a_little_wrong(part: int) -> None:
    """What somebody has written down by hand, or cut off, is adopted or refused in words, and never ends in a traceback."""
    seeds = of_size(300, 1500)
    answers = Counter(_tried(seed) for seed in range(part, seeds, 2))
    assert answers["adopted"] > seeds / 30
    assert answers["refused"] > seeds / 30


def _tried(seed: int) -> str:
    chance = Random(seed)
    signature = {"task": "add", "args": [1], "kwargs": {}, "options": {"queue": "q"}, "subtask_type": None, "immutable": False}
    nodes = {
        "a": {"id": "a", "signature": signature, "dependencies": {}, "custom_payload": {}},
        "b": {"id": "b", "signature": signature, "dependencies": {"a": None}, "custom_payload": {"x": 1}},
    }
    document: Any = {
        "id": "w",
        "version": 1,
        "nodes": nodes,
        "running": {"a": 3},
        "finished": {},
        "tasks_options": {"queue": "q"},
    }
    document |= {"processing_limit_ts": 1e10, "custom_payload": {"a": 1}}
    if seed % 3 == 0:
        document = {"kwargs": {"workflow_dict": document}, "headers": {"id": "x"}, "properties": {"correlation_id": "y"}}
    if seed % 7 == 0:
        document = {"body": json.dumps([[], {"workflow_dict": document}, {}]), "headers": {}, "properties": {}}
    change(chance, document := json.loads(json.dumps(document)))
    try:
        made = adopted_definition(workflow_dict_of(json.dumps(document).encode()))
        wire.decode_definition(json.dumps(made).encode(), nodes_max=10)
    except DyrygentError:
        return "refused"
    return "adopted"
