"""Verbs over HTTP: bodies, refusals, who is recorded, and that TCP may look but not touch."""

import getpass
import os
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dyrygentd.core.verbs import WORKFLOW_VERBS, Verb
from dyrygentd.http.limits import HttpLimits
from tests.http.support import Daemon

_FAILING = ({"name": "bad", "task": "fail"}, {"name": "after", "task": "add", "after": ["bad"], "args": [1]})

#: ``{verb: body that does something to a held workflow of a, and b after a}``.
_BODIES: dict[str, dict[str, Any]] = {
    "cancel": {"terminate": True},
    "pause": {},
    "set-priority": {"priority": -3},
    "hold": {"nodes": ["b"]},
    "skip": {"nodes": ["a"], "value": {"x": [1, None]}},
    "retry": {"nodes": ["a"], "force": True},
}


def _held(daemon: Daemon) -> str:
    workflow_id = daemon.submit({"name": "a", "task": "add"}, {"name": "b", "task": "add", "after": ["a"]})
    daemon.call(_until_held, daemon)
    return workflow_id


async def _until_held(daemon: Daemon) -> None:
    with anyio.fail_after(10):
        while not daemon.broker._held:
            await anyio.lowlevel.checkpoint()


def _failed(daemon: Daemon) -> str:
    workflow_id = daemon.submit(*_FAILING)
    assert daemon.finish(workflow_id) == "failed"
    return workflow_id


@pytest.mark.parametrize("body", [{"cause": "x" * 100_000}, {"nodes": ["x" * 100_000]}, {"why": "x" * 100_000}])
@pytest.mark.parametrize("target", ["/v1/bulk/retry?name=many", "/v1/workflows/{}/retry"])
def test_long_words_are_refused_once(daemon: Daemon, target: str, body: Any) -> None:
    """What is asked is told again of each workflow in bulk: a thousand times a megabyte would be the daemon's end."""
    ids = [daemon.submit(*_FAILING, name="many") for _ in range(5)]
    assert {daemon.finish(workflow_id) for workflow_id in ids} == {"failed"}
    answer = daemon.ask("POST", target.format(ids[0]), body)
    assert answer.status == 400
    assert len(answer.body) < 5000


@pytest.mark.parametrize("verb", _BODIES)
def test_verb_is_done_and_recorded(holding: Daemon, verb: str) -> None:
    """The answer has the changed workflow, and the journal who asked (by the socket's credentials), when, and why."""
    workflow_id = _held(holding)
    answer = holding.ask("POST", f"/v1/workflows/{workflow_id}/{verb}", _BODIES[verb] | {"why": "ticket 7"})
    assert answer.status == 200, answer
    assert (answer.json["verb"], answer.json["is_changed"], answer.json["workflow"]["id"]) == (verb, True, workflow_id)
    (entry,) = holding.ask("GET", f"/v1/workflows/{workflow_id}/journal").json["entries"]
    assert (entry["verb"], entry["why"]) == (verb, "ticket 7")
    assert entry["by"] == f"{getpass.getuser()} (uid {os.getuid()}, pid {os.getpid()})"
    if verb != "retry":
        again = holding.ask("POST", f"/v1/workflows/{workflow_id}/{verb}", _BODIES[verb])
        assert (again.status, again.json["is_changed"]) == (200, False)
        assert len(holding.ask("GET", f"/v1/workflows/{workflow_id}/journal").json["entries"]) == 1


@pytest.mark.parametrize("verb", ["retry", "skip", "rerun"])
def test_finished_workflow_goes_on(daemon: Daemon, verb: str) -> None:
    """What failed is set running again, and comes to another end."""
    workflow_id = _failed(daemon)
    causes = daemon.ask("GET", f"/v1/workflows/{workflow_id}/causes").json
    assert (causes["failures"], causes["causes"][0]["nodes"]) == (1, ["bad"])
    daemon.call(daemon.broker.tasks.clear)
    answer = daemon.ask("POST", f"/v1/workflows/{workflow_id}/{verb}", {"nodes": ["bad"]})
    assert answer.status == 200, answer
    assert daemon.finish(workflow_id) == "succeeded"


@pytest.mark.parametrize("body", [None, b"", b" ", b"{}"])
def test_body_may_be_left_out(holding: Daemon, body: bytes | None) -> None:
    """`curl -X POST` is enough."""
    assert holding.ask("POST", f"/v1/workflows/{_held(holding)}/pause", body).status == 200


@pytest.mark.parametrize(
    ("verb", "body", "status", "words"),
    [
        ("pause", {"reason": "x"}, 400, "reason"),
        ("hold", {"nodes": "b"}, 400, "nodes"),
        ("cancel", {"terminate": "yes"}, 400, "terminate"),
        ("cancel", {"why": "x" * 1001}, 400, "why"),
        ("cancel", [], 400, "object"),
        ("cancel", b"{", 400, "JSON"),
        ("set-priority", {}, 400, "priority"),
        ("set-priority", {"priority": 1.5}, 400, "priority"),
        ("set-priority", {"priority": 10**7}, 400, "priority"),
        ("hold", {}, 400, "name of a node"),
        ("hold", {"nodes": ["nobody"]}, 404, "nobody"),
        ("retry", {"cause": "9"}, 404, "9"),
        ("retry", {"nodes": ["a"]}, 409, "force"),
        ("delete", {}, 404, "set-priority"),
    ],
)
def test_bad_request_is_named(holding: Daemon, verb: str, body: Any, status: int, words: str) -> None:
    """Whatever is wrong with a request is named, and nothing is changed."""
    workflow_id = _held(holding)
    answer = holding.ask("POST", f"/v1/workflows/{workflow_id}/{verb}", body)
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert words in f"{answer.json}"
    assert holding.ask("GET", f"/v1/workflows/{workflow_id}/journal").json["entries"] == []


def test_refusal_names_what_is_possible(daemon: Daemon) -> None:
    """A verb that a state does not allow is a conflict, with those that it does."""
    workflow_id = _failed(daemon)
    answer = daemon.ask("POST", f"/v1/workflows/{workflow_id}/pause")
    assert (answer.status, answer.json["code"]) == (409, "verb-refused")
    assert "retry" in answer.json["next_step"]


def test_other_media_type_is_refused(holding: Daemon) -> None:
    """A form that somebody posts is no JSON, whatever it looks like."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert holding.ask("POST", f"/v1/workflows/{_held(holding)}/pause", b"why=x", headers).status == 415


def test_body_over_the_limit_is_refused(short_tmp: Any) -> None:
    """A list of names has a bound as a definition has."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(body_bytes_max=2000), holds=True) as daemon:
        workflow_id = _held(daemon)
        answer = daemon.ask("POST", f"/v1/workflows/{workflow_id}/hold", {"nodes": ["x" * 3000]})
        assert (answer.status, answer.json["code"]) == (413, "body-too-large")


def test_bulk(daemon: Daemon) -> None:
    """A verb for many needs a filter, is not for nodes, and tells for each workflow what came of it."""
    failed = [_failed(daemon) for _ in range(2)]
    daemon.finish(daemon.submit())
    assert daemon.ask("POST", "/v1/bulk/retry").status == 400
    assert daemon.ask("POST", "/v1/bulk/hold?state=failed").status == 400
    assert daemon.ask("POST", "/v1/bulk/retry?state=failed", {"nodes": ["bad"]}).status == 400
    assert daemon.ask("POST", "/v1/bulk/retry?state=broken").status == 400
    unknown = daemon.ask("POST", "/v1/bulk/delete?state=failed")
    assert unknown.status == 404
    assert all(verb in f"{unknown.json}" for verb in WORKFLOW_VERBS)
    refused = daemon.ask("POST", "/v1/bulk/pause?state=failed,succeeded").json
    assert (refused["matched"], len(refused["refused"])) == (3, 3)
    done = daemon.ask("POST", "/v1/bulk/retry?state=failed", {"why": "all"}).json
    assert (sorted(done["changed"]), done["is_complete"]) == (sorted(failed), True)


@pytest.mark.parametrize("verb", Verb)
def test_tcp_may_look_but_not_touch(holding: Daemon, verb: str) -> None:
    """Explanations, causes and journals are for everybody who can reach the port; no verb is."""
    workflow_id = _held(holding)
    for path in ("explain", "causes", "journal", "nodes/a/explain"):
        assert holding.ask_tcp("GET", f"/v1/workflows/{workflow_id}/{path}").status == 200
    for target in (f"/v1/workflows/{workflow_id}/{verb}", f"/v1/bulk/{verb}?state=running"):
        assert holding.ask_tcp("POST", target).status in (404, 405)
    assert holding.ask("GET", f"/v1/workflows/{workflow_id}").json["state"] == "running"


def test_openapi_describes_the_verbs(daemon: Daemon) -> None:
    """The body of a verb is described, and the verbs are named."""
    document = daemon.ask("GET", "/v1/openapi.json").json
    operation = document["paths"]["/v1/workflows/{ref}/{verb}"]["post"]
    assert all(verb in operation["summary"] for verb in Verb)
    schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert {"why", "nodes", "cause", "value", "priority", "terminate", "force"} <= document["components"]["schemas"][schema][
        "properties"
    ].keys()
