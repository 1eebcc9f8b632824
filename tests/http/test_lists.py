"""Narrowed lists of tasks and queues mean every signature in a definition, whatever it hides in."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from dyrygentd import wire
from dyrygentd.core.graph import Graph
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.nested import nested_in
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.parent import Parent
from dyrygentd.core.queues import is_reserved
from dyrygentd.errors import BadNode
from dyrygentd.http.access import Access
from dyrygentd.http.lists import Lists, QueueForbidden, TaskForbidden
from tests.http.support import Daemon

BAD: Final = {"task": "os.system", "args": ["id"], "kwargs": {}, "options": {}}
GOOD: Final = {"task": "add", "args": [1], "kwargs": {}, "options": {}}
CHAIN: Final = {"task": "celery.chain", "args": [], "kwargs": {"tasks": [GOOD, BAD]}, "options": {}, "subtask_type": "chain"}
GROUP: Final = {"task": "celery.group", "args": [], "kwargs": {"tasks": [BAD]}, "options": {}, "subtask_type": "group"}
CHORD: Final = {"task": "celery.chord", "kwargs": {"header": GROUP, "body": GOOD}, "subtask_type": "chord"}


def _good(**options: Any) -> dict[str, Any]:
    return {**GOOD, "options": options}


def _deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = BAD
    for _ in range(levels):
        found = _good(link=[found])
    return found


#: Each is a node that would have the forbidden task run.
WAYS: Final[dict[str, dict[str, Any]]] = {
    "its own": BAD,
    "link": _good(link=BAD),
    "link in a list": _good(link=[GOOD, BAD]),
    "link_error": _good(link_error=BAD),
    "link_error in a list": _good(link_error=[BAD]),
    "link_error that the companion calls": {"task": "dyrygentd.call_errbacks", "args": ["id"], "options": {"link_error": [BAD]}},
    "link in a link": _good(link=_good(link=BAD)),
    "link_error in a link": _good(link=[_good(link_error=[BAD])]),
    "far down": _deep(40),
    "chain in a link": _good(link=CHAIN),
    "group in a link": _good(link=GROUP),
    "chord in a link": _good(link=CHORD),
    "body of a chord in a link": _good(link={**CHORD, "kwargs": {"header": {**GROUP, "kwargs": {"tasks": [GOOD]}}, "body": BAD}}),
    "chord in the options of a link": _good(link=_good(chord=BAD)),
    "chain in the options of a link": _good(link=_good(chain=[BAD, GOOD])),
    "a type that says otherwise than the name": _good(link={**GOOD, "subtask_type": "chain", "kwargs": {"tasks": [BAD]}}),
    "map by kwargs": {"task": "celery.map", "kwargs": {"task": BAD, "it": [[1]]}},
    "map by args": {"task": "celery.map", "args": [BAD, [[1]]]},
    "map by a bare name": {"task": "celery.map", "args": ["os.system", ["id"]]},
    "map by a bare name in kwargs": {"task": "celery.map", "kwargs": {"task": "os.system", "it": ["id"]}},
    "starmap": {"task": "celery.starmap", "kwargs": {"task": BAD, "it": [[1]]}},
    "chunks": {"task": "celery.chunks", "kwargs": {"task": BAD, "it": [[1]], "n": 1}},
    "group": {"task": "celery.group", "kwargs": {"tasks": [GOOD, BAD]}},
    "group by args": {"task": "celery.group", "args": [[BAD], None, "id", []]},
    "header of a chord": {"task": "celery.chord", "args": [[BAD], GOOD]},
    "body of a chord": {"task": "celery.chord", "kwargs": {"header": [GOOD], "body": BAD}},
    "group in a chord": {"task": "celery.chord", "kwargs": {"header": GROUP, "body": GOOD}},
    "link of a group's member": {"task": "celery.group", "kwargs": {"tasks": [_good(link=BAD)]}},
    "chord_unlock": {"task": "celery.chord_unlock", "args": ["id", BAD]},
    "chain": {"task": "celery.chain", "kwargs": {"tasks": [BAD]}},
    "hook": {**_good(link=BAD), "hook": "always"},
    "poll": {**_good(link=BAD), "poll": {"every_s": 1}},
    "a workflow of celery-dyrygent": {
        "task": "workflow-processor",
        "kwargs": {"workflow_dict": {"nodes": {"a": {"signature": BAD}}}},
    },
}


def _definition(*nodes: dict[str, Any]) -> dict[str, Any]:
    fields = ("task", "args", "kwargs", "options", "hook", "poll", "after", "immutable", "name")
    made = [{"name": f"n{number}", **node} for number, node in enumerate(nodes)]
    return {"nodes": [{field: node[field] for field in fields if field in node} for node in made]}


def _check(access: Access, *nodes: dict[str, Any]) -> None:
    access.check_tasks(wire.decode_definition(json.dumps(_definition(*nodes)).encode(), nodes_max=10).graph)


@pytest.mark.parametrize("way", WAYS)
def test_forbidden_task_is_found_wherever_it_stands(way: str) -> None:
    """Neither a list of what may be submitted nor one of what may not is passed by, and the place is named."""
    for access in (
        Access(tasks=["add", "celery.*", "workflow-processor"]),
        Access(tasks_denied=["os.*"]),
    ):
        with pytest.raises(TaskForbidden) as caught:
            _check(access, WAYS[way])
        assert caught.value.task == "os.system"
        assert "node 'n0': task 'os.system' fits" in str(caught.value)
        assert way == "its own" or f"in `{caught.value.place}`" in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_ways_stay_open_where_nothing_is_narrowed(way: str) -> None:
    """Without lists nothing of this is anybody's business, and where the task is allowed, nothing is refused."""
    _check(Access(), WAYS[way])
    _check(Access(tasks=["os.system", "add", "celery.*", "workflow-processor"]), WAYS[way])


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([GOOD, {"task": "celery.map", "kwargs": {"it": [1]}, "after": ["n0"]}], "would run what another task returns"),
        ([_good(link={"task": "celery.map", "kwargs": {"it": [1]}})], "would run what another task returns"),
        (
            [{"task": "celery.starmap", "kwargs": {"task": "celery.map", "it": [[BAD, [1]]]}}],
            "would run what another task returns",
        ),
        ([{"task": "celery.map", "kwargs": {"it": [1]}}], "holds no signature that can be read"),
        ([{"task": "celery.map", "kwargs": {"task": ["os.system"], "it": [1]}}], "holds no signature that can be read"),
        ([{"task": "celery.group", "kwargs": {"tasks": [{"task": 7}]}}], "holds no signature that can be read"),
        ([_good(link=_good(chord=["os.system"]))], "holds no signature that can be read"),
        ([_good(link={**GOOD, "options": ["link"]})], "holds no signature that can be read"),
    ],
)
def test_what_cannot_be_read_is_refused(nodes: list[dict[str, Any]], words: str) -> None:
    """Where nobody can tell what would run, nothing is taken while lists are narrowed; without lists it is taken."""
    with pytest.raises((TaskForbidden, QueueForbidden), match=words):
        _check(Access(tasks=["add", "celery.*"]), *nodes)
    with pytest.raises((TaskForbidden, QueueForbidden), match=words):
        _check(Access(queues=["a"]), *nodes)
    _check(Access(), *nodes)


def test_data_is_no_signature() -> None:
    """Arguments of ordinary tasks, items of a map, and values that are collected may look like anything."""
    access = Access(tasks=["add", "celery.*"])
    # What calls error callbacks is nothing by itself.
    _check(access, {"task": "dyrygentd.call_errbacks", "args": ["id"], "options": {"link_error": [GOOD]}})
    _check(access, {"task": "add", "args": [BAD], "kwargs": {"task": BAD}})
    _check(access, {"task": "celery.map", "kwargs": {"task": "add", "it": [BAD]}})
    _check(access, GOOD, {"task": "celery.accumulate", "args": [BAD], "after": ["n0"]})
    _check(access, GOOD, {"task": "celery.map", "kwargs": {"task": "add", "it": [1]}, "after": ["n0"], "immutable": True})


def test_walking_is_bounded_by_the_text() -> None:
    """Many signatures side by side are walked through once, without recursion."""
    many = {"tasks": [[GOOD] * 100] * 200}
    assert sum(1 for _ in nested_in("celery.group", [], many, {})) == 20_000


def test_forbidden_link_is_refused_over_http(short_tmp: Path) -> None:
    """Nothing of a definition with a forbidden callback is taken, by submission or by import."""
    with Daemon(short_tmp / "d.sock", access=Access(tasks=["add"])) as daemon:
        answer = daemon.ask("POST", "/v1/workflows", _definition(GOOD, WAYS["link in a link"]))
        assert (answer.status, answer.json["code"]) == (403, "task-forbidden")
        assert answer.json["facts"] == {"node": "n1", "task": "os.system", "place": "options.link.options.link"}
        definition = {"name": "x", **_definition(WAYS["link"])}
        definition["nodes"][0]["task_id"] = "00000000-0000-4000-8000-000000000002"
        workflow = {"id": "00000000-0000-4000-8000-000000000001", "name": "x", "state": "paused", "created_at": 1}
        answer = daemon.ask("POST", "/v1/imports", {"export": 1, "workflow": workflow, "definition": definition})
        assert (answer.status, answer.json["code"]) == (403, "task-forbidden")
        above = {"name": "x", "nodes": [{"name": "c", "workflow": {"definition": {"nodes": [{"name": "n", "task": "add"}]}}}]}
        parent = {"workflow": workflow["id"], "node": "c"}
        below = {**workflow, "id": Parent(str(workflow["id"]), 0).child_id, "parent": parent}
        export = {
            "export": 1,
            "workflow": workflow,
            "definition": above,
            "children": [{"workflow": below, "definition": definition}],
        }
        answer = daemon.ask("POST", "/v1/imports", export)
        assert (answer.status, answer.json["code"]) == (403, "task-forbidden")
        assert daemon.ask("GET", "/v1/workflows").json["workflows"] == []


# --- options of nested signatures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"serializer": "pickle"}, r"options.serializer` 'pickle' is not accepted"),
        ({"serializer": ["json"]}, "options.serializer` "),
        ({"queue": "unacked_index"}, "options.queue` 'unacked_index' is the name of a key"),
        ({"queue": 7}, "options.queue` must be text"),
        ({"exchange": "celery.pidbox"}, "options.exchange` 'celery.pidbox' is the name of a key"),
        ({"priority": -1}, "options.priority` must be a whole number"),
        ({"headers": {"task": "os.system"}}, "options.headers.task` is what a message says about itself"),
        ({"headers": {"id": "somebody's"}}, "options.headers.id` is"),
        ({"headers": {"timelimit": "x"}}, "options.headers` has `timelimit`, which workers read"),
        ({"headers": {"expires": {}}}, "options.headers` has `expires`"),
        ({"eta": {}}, "options.eta` must be an ISO 8601 time, and is {}"),
        ({"expires": "soon"}, "options.expires` must be an ISO 8601 time, and is 'soon'"),
        ({"countdown": "x"}, "options.countdown` must be a number of seconds"),
        ({"link": {"options": {}}}, "options.link` must be a signature"),
        ({"task_id": MadeIds()()}, "options.task_id` is no text that can be printed, or was made by a dyrygentd"),
        ({"task_id": "a\nb"}, "options.task_id` is no text"),
        ({"soft_time_limit": 9, "time_limit": 1}, "options.soft_time_limit` is 9 s"),
    ],
)
@pytest.mark.parametrize("place", ["link", "link_error", "chain", "map", "chord"])
def test_options_of_nested_signatures_are_checked(options: dict[str, Any], words: str, place: str) -> None:
    """A worker publishes them with these options, so what is refused at a node is refused there as well."""
    inner = _good(**options)
    node = {
        "link": _good(link=inner),
        "link_error": _good(link_error=[GOOD, inner]),
        "chain": _good(link={**CHAIN, "kwargs": {"tasks": [inner]}}),
        "map": {"task": "celery.group", "kwargs": {"tasks": [inner]}},
        "chord": {"task": "celery.chord", "kwargs": {"header": [GOOD], "body": _good(link=inner)}},
    }[place]
    with pytest.raises(BadNode, match=words):
        _check(Access(), node)


def test_times_of_nested_signatures_may_be_times() -> None:
    """In all forms that Celery writes: numbers, text, kombu's own; without a time zone they are the worker's."""
    moment = {"__type__": "datetime", "__value__": "2030-01-31T08:00:00"}
    for options in ({"expires": 60, "countdown": -1}, {"expires": moment, "eta": moment}, {"eta": "2030-01-31T08:00:00+01:00"}):
        _check(Access(), _good(link=_good(**options)))


# --- queues ---------------------------------------------------------------------------------------------------------

RESERVED: Final = (
    "unacked",
    "unacked_index",
    "unacked_mutex",
    "unacked_anything",
    "prefix:unacked_index",
    "celery.pidbox",
    "celery@host.celery.pidbox",
    "x.reply.celery.pidbox",
    "_kombu.binding.celery",
    "prefix:_kombu.binding.celery",
    "celeryev",
    "celeryev.1234",
    "dyrygentd:published:1",
    "dyrygentd:sentinel:1",
    "prefix:dyrygentd:sentinel:1",
    "celery-task-meta-1",
    "prefix_celery-task-meta-1",
    "celery-taskset-meta-1.j",
    "chord-unlock-1",
)
FREE: Final = ("celery", "default", "unack", "my-unacked-tasks", "ceph.gra1", "kombu", "pidbox.x", "a b", "żółw", "dyrygentd")


@pytest.mark.parametrize("option", ["queue", "routing_key", "exchange"])
@pytest.mark.parametrize("name", [*RESERVED, "a\nb", "a\x1b[31mb", "celery\x06\x163", "a\u202eb", "a\x9bb", "x" * 256])
def test_names_of_other_keys_are_no_queues(name: str, option: str) -> None:
    """A key of kombu's that is a list ends every worker; a name that cannot be printed forges lines of logs."""
    with pytest.raises(BadNode, match=f"`options.{option}`") as caught:
        _check(Access(), _good(**{option: name}))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", FREE)
def test_ordinary_names_are_queues(name: str) -> None:
    """Names that only resemble them are anybody's."""
    assert not is_reserved(name)
    _check(Access(), _good(queue=name, routing_key=name))


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"queue": "b"}, "options.queue"),
        ({"routing_key": "b"}, "options.routing_key"),
        ({"exchange": "b", "routing_key": "a"}, "options.exchange"),
        ({"queue": "a.denied"}, "options.queue"),
        ({"route_name": "os.system"}, "options.route_name"),
        ({"link": _good(queue="b")}, "options.link.options.queue"),
        ({"link_error": [_good(link=_good(queue="b"))]}, "options.link_error[0].options.link.options.queue"),
    ],
)
def test_queues_that_may_be_named(options: dict[str, Any], place: str) -> None:
    """Only what fits `queues`, and nothing that fits `queues_denied`; a node that names none goes where the app sends it."""
    access = Access(queues=["a*"], queues_denied=["*.denied"])
    with pytest.raises(QueueForbidden) as caught:
        _check(access, _good(**options))
    assert caught.value.place == place
    assert "`queues" in f"{caught.value} {caught.value.next_step}"
    _check(access, GOOD, _good(queue="a1", link=_good(queue="a2")))


@pytest.mark.parametrize("task_id", ["a\nERROR forged", "a\x1b[31m", "a\u202eb", "a\x9b"])
def test_task_ids_can_be_printed(task_id: str) -> None:
    """They stand in logs and on terminals."""
    body = json.dumps({"nodes": [{"name": "n", "task": "t", "task_id": task_id}]}).encode()
    with pytest.raises(BadNode, match="`task_id` has characters that cannot be printed"):
        wire.decode_definition(body, nodes_max=1)
    # What is stored is read whatever it has.
    assert wire.decode_definition(body, nodes_max=1, has_good_options=False).graph.task_ids == [task_id]


def test_what_the_daemons_app_decides_itself_is_not_the_clients_word() -> None:
    """A queue that a client's app has said is looked at, unless the daemon's own app says it: then nobody has named it."""
    options = json.dumps({"queue": "video", "from_app": ["queue"]}).encode()
    graph = Graph.build([NodeSpec("n", Signature("film", options=options), "i")])
    lists = Lists(tasks=["*"], tasks_denied=[], queues=["ceph.*"], queues_denied=[])
    with pytest.raises(QueueForbidden):
        lists.check(graph)
    lists.check(graph, knows=lambda task: task == "film")
    named = Graph.build([NodeSpec("n", Signature("film", options=b'{"queue":"video","from_app":["priority"]}'), "i")])
    with pytest.raises(QueueForbidden):
        lists.check(named, knows=lambda task: task == "film")
