"""Every route, asked over a real socket."""

import json
from pathlib import Path
from typing import Any

import pytest

from dyrygentd import __version__, wire
from dyrygentd.http.limits import HttpLimits
from dyrygentd.http.table import ROUTES
from tests.http.support import Daemon
from tests.support.servers import wait_until

CHAIN = ({"name": "a", "task": "add", "args": [1, 2]}, {"name": "b", "task": "add", "args": [3], "after": ["a"]})


def test_submission_is_answered_with_id_and_place(daemon: Daemon) -> None:
    """A new workflow answers 201 with where it is found, as HTTP clients expect."""
    answer = daemon.ask("POST", "/v1/workflows", {"nodes": list(CHAIN), "name": "sum"})
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v1/workflows/{answer.json['id']}"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Dyrygentd-Version"] == __version__
    assert (answer.json["name"], answer.json["tasks"], answer.json["created"]) == ("sum", 2, True)


def test_result_comes_when_it_is_asked_for(daemon: Daemon) -> None:
    """The result may be long, so a view has it only on demand."""
    workflow_id = daemon.submit(*CHAIN)
    assert daemon.finish(workflow_id) == "succeeded"
    assert "result" not in daemon.ask("GET", f"/v1/workflows/{workflow_id}").json
    assert daemon.ask("GET", f"/v1/workflows/{workflow_id}?result=true").json["result"] == 6


@pytest.mark.parametrize("place", ["body", "header"])
def test_known_key_answers_with_the_first_workflow(daemon: Daemon, place: str) -> None:
    """A repeated submission creates nothing, so a script that was cut off may simply run again."""
    body = {"nodes": [{"task": "add"}]} | ({"key": "ticket-7"} if place == "body" else {})
    headers = {"Idempotency-Key": "ticket-7"} if place == "header" else {}
    first = daemon.ask("POST", "/v1/workflows", body, headers)
    second = daemon.ask("POST", "/v1/workflows", body, headers)
    assert (first.status, second.status) == (201, 200)
    assert (first.json["id"], second.json["created"]) == (second.json["id"], False)


def test_list_is_filtered_and_paged(daemon: Daemon) -> None:
    """Ten thousand workflows are looked through by state, name and label, page by page, newest first."""
    ids = [daemon.submit(name="x", labels={"dc": "gra" if number % 2 else "rbx"}) for number in range(4)]
    failed = daemon.submit({"task": "fail"}, name="y")
    for workflow_id in (*ids, failed):
        daemon.finish(workflow_id)
    first = daemon.ask("GET", "/v1/workflows?limit=3").json
    second = daemon.ask("GET", f"/v1/workflows?limit=3&cursor={first['next']}").json
    assert [view["id"] for view in first["workflows"] + second["workflows"]] == [failed, *reversed(ids)]
    assert second["next"] is None
    assert _ids(daemon, "state=failed,cancelled") == [failed]
    assert _ids(daemon, "state=failed&state=running") == [failed]
    assert _ids(daemon, "name=y") == [failed]
    assert _ids(daemon, "label=dc%3Dgra&name=x") == [ids[3], ids[1]]


def test_list_knows_when_workflows_ended(holding: Daemon) -> None:
    """What was submitted last week may have failed a minute ago; of those that ended last there is one page."""
    first, second, third = (holding.submit({"name": "go", "gate": True}) for _ in range(3))
    for workflow_id in (second, first):
        holding.ask("POST", f"/v1/workflows/{workflow_id}/cancel")
    assert _ids(holding, "ended_since=0") == [second, first]
    page = holding.ask("GET", "/v1/workflows?ended_since=0&by_end=true&limit=1").json
    assert ([view["id"] for view in page["workflows"]], page["next"]) == ([first], None)
    assert _ids(holding, f"ended_since={page['workflows'][0]['finished_at'] + 1}&by_end=true") == []
    assert third in _ids(holding, "state=running")


@pytest.mark.parametrize("reference", ["{id}", "{prefix}", "gra1%2Fosd%2042", "@latest"])
def test_workflow_answers_to_every_kind_of_reference(daemon: Daemon, reference: str) -> None:
    """A person types a name or a few characters, not 36 of them; names may hold slashes and spaces."""
    workflow_id = daemon.submit(name="gra1/osd 42")
    target = reference.format(id=workflow_id, prefix=workflow_id[:8])
    assert daemon.ask("GET", f"/v1/workflows/{target}").json["id"] == workflow_id


def test_long_poll_returns_at_the_end(holding: Daemon) -> None:
    """A waiting client hears of the end at once and not at its next poll."""
    workflow_id = holding.submit()
    assert holding.ask("GET", f"/v1/workflows/{workflow_id}?wait_s=0.05").json["state"] == "running"
    holding.let_go()
    assert holding.ask("GET", f"/v1/workflows/{workflow_id}?wait_s=60").json["state"] == "succeeded"


def test_nodes_are_filtered_and_paged(daemon: Daemon) -> None:
    """The nodes of a large workflow come in pages, and those that failed can be asked for alone."""
    workflow_id = daemon.submit(
        {"name": "a/1", "task": "fail"}, {"name": "b", "task": "add", "after": ["a/1"]}, {"name": "c", "task": "add"}
    )
    assert daemon.finish(workflow_id) == "failed"
    base = f"/v1/workflows/{workflow_id}/nodes"
    first = daemon.ask("GET", f"{base}?limit=2").json
    second = daemon.ask("GET", f"{base}?limit=2&cursor={first['next']}").json
    assert [node["name"] for node in first["nodes"] + second["nodes"]] == ["a/1", "b", "c"]
    assert second["next"] is None
    (blocked,) = daemon.ask("GET", f"{base}?state=blocked").json["nodes"]
    assert blocked["blocked_by"] == "a/1"
    assert daemon.ask("GET", f"{base}/a%2F1").json["error"] == "ValueError: no such host"


def test_cancel_ends_a_workflow_and_may_be_repeated(holding: Daemon) -> None:
    """Asking for a state that is reached is no error."""
    workflow_id = holding.submit()
    for _ in range(2):
        answer = holding.ask("POST", f"/v1/workflows/{workflow_id}/cancel")
        assert (answer.status, answer.json["workflow"]["state"]) == (200, "cancelled")


def test_stats_and_health(daemon: Daemon) -> None:
    """Operators and load balancers see that the daemon works."""
    assert daemon.ask("GET", "/v1/stats").json["version"] == __version__
    for target in ("/healthz", "/readyz"):
        answer = daemon.ask("GET", target)
        assert (answer.status, answer.json["status"]) == (200, "ok")


def test_degraded_daemon_is_alive_but_not_ready(daemon: Daemon) -> None:
    """A full disk must not have the daemon restarted (healthz), but no work sent to it (readyz)."""
    workflow_id = daemon.submit({"name": "a", "task": "add", "options": {"countdown": 3600}})
    daemon.call(setattr, daemon.store, "broken", "disk full")
    daemon.call(daemon.scheduler._parts.inbox.post, _cancel_event(workflow_id))
    wait_until(
        lambda: daemon.ask("GET", "/readyz").status == 503, timeout_s=10, message=lambda: str(daemon.ask("GET", "/readyz"))
    )
    answer = daemon.ask("GET", "/healthz")
    assert (answer.status, answer.json["status"], answer.json["problems"]) == (200, "degraded", ["disk full"])
    refused = daemon.ask("POST", "/v1/workflows", {"nodes": [{"task": "add"}]})
    assert (refused.status, refused.json["code"], refused.headers["Retry-After"]) == (503, "not-accepting", "1")
    daemon.call(setattr, daemon.store, "broken", "")


def test_metrics_come_in_the_format_that_is_asked_for(daemon: Daemon) -> None:
    """The scraper's Accept header reaches the renderer, and its content type comes back whole."""
    answer = daemon.ask("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.body == b"# accept application/openmetrics-text\n"
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_openapi_describes_every_route(daemon: Daemon) -> None:
    """The description is made from the table of routes, so it cannot lag behind; every reference in it leads somewhere."""
    document = daemon.ask("GET", "/v1/openapi.json").json
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_openapi_describes_definitions_as_they_are_read() -> None:
    """The schema names exactly the fields that are accepted, and is published for editors as well."""
    schema = wire.definition_schema()["$defs"]
    assert set(schema["WorkflowDocument"]["properties"]) == set(wire.WorkflowDocument.__struct_fields__)
    assert set(schema["NodeDocument"]["properties"]) == set(wire.NodeDocument.__struct_fields__)


def test_tcp_is_read_only(daemon: Daemon) -> None:
    """What may be reached over a network shows everything and changes nothing."""
    workflow_id = daemon.submit()
    assert daemon.ask_tcp("GET", f"/v1/workflows/{workflow_id}").status == 200
    assert daemon.ask_tcp("GET", "/metrics").status == 200
    refused = daemon.ask_tcp("POST", "/v1/workflows")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert "Unix socket" in refused.json["next_step"]
    assert daemon.ask_tcp("POST", f"/v1/workflows/{workflow_id}/cancel").status == 404
    document = daemon.ask_tcp("GET", "/v1/openapi.json").json
    assert "post" not in json.dumps(list(map(list, document["paths"].values())))


def test_no_browser_takes_an_answer_for_a_page(daemon: Daemon) -> None:
    """What users have written is shown as what it is declared to be, streams and errors included."""
    workflow_id = daemon.submit(name="<script>alert(1)</script>")
    daemon.finish(workflow_id)
    for target in (
        "/",
        "/metrics",
        "/v1/workflows",
        f"/v1/workflows/{workflow_id}/events",
        "/v1/workflows/%3Cscript%3E",
        "/none",
    ):
        for answer in (daemon.ask("GET", target), daemon.ask_tcp("GET", target)):
            assert answer.headers["X-Content-Type-Options"] == "nosniff", target


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", ""])
def test_foreign_host_is_refused_on_loopback(daemon: Daemon, host: str) -> None:
    """A page in a browser cannot read the daemon by having its own name resolve to 127.0.0.1."""
    answer = daemon.ask_tcp("GET", "/v1/workflows", {"Host": host})
    assert (answer.status, answer.json["code"]) == (421, "foreign-host")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9465", "[::1]:80", "LOCALHOST.", "a.localhost"])
def test_loopback_names_are_served(daemon: Daemon, host: str) -> None:
    """All names of this machine for itself are good."""
    assert daemon.ask_tcp("GET", "/healthz", {"Host": host}).status == 200


def test_requests_are_bounded_but_health_is_told(short_tmp: Path) -> None:
    """Under a flood the daemon refuses clearly, and monitoring still gets through."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(requests_max=0, waits_max=0, streams_max=0)) as flooded:
        for target in ("/v1/workflows", "/v1/workflows/x?wait_s=1", "/v1/workflows/x/events"):
            answer = flooded.ask("GET", target)
            assert (answer.status, answer.json["code"]) == (503, "too-busy")
        for target in ("/healthz", "/readyz", "/metrics"):
            assert flooded.ask("GET", target).status == 200


def test_listings_have_few_places(short_tmp: Path) -> None:
    """Strangers on TCP have a quarter of those on the socket; submissions, on the same path, and single workflows need none."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(listings_max=3)) as daemon:
        workflow_id = daemon.submit()
        answer = daemon.ask_tcp("GET", "/v1/workflows?label=cluster=none")
        assert (answer.status, answer.json["code"]) == (503, "too-busy")
        assert "0 listings" in answer.json["detail"]
        assert daemon.ask_tcp("GET", f"/v1/workflows/{workflow_id}").status == 200
        assert daemon.ask("GET", "/v1/workflows?label=cluster=none").status == 200
    with Daemon(short_tmp / "e.sock", limits=HttpLimits(listings_max=0)) as daemon:
        daemon.submit()
        assert daemon.ask("GET", "/v1/workflows").status == 503
        assert daemon.ask("GET", "/v1/workflows?wait_s=1").status == 503


def test_places_are_given_back(daemon: Daemon) -> None:
    """A bound that leaks would stop the daemon after a while."""
    daemon.submit()
    daemon.ask("GET", "/v1/workflows/none")
    daemon.ask("POST", "/v1/workflows", b"{")
    statistics = daemon.http_statistics()
    assert (statistics.requests, statistics.waits, statistics.streams, statistics.bodies_bytes) == (0, 0, 0, 0)
    assert statistics.answers == {
        ("POST", "/v1/workflows", 201): 1,
        ("GET", "/v1/workflows/{ref}", 404): 1,
        ("POST", "/v1/workflows", 400): 1,
    }


def test_routes_and_methods_in_metrics_are_bounded(daemon: Daemon) -> None:
    """Whoever makes paths and methods up adds no series, and waiting for an end is not taken for a slow answer."""
    workflow_id = daemon.submit()
    for number in range(5):
        daemon.ask("GET", f"/wp-admin/{number}")
        daemon.ask(("PROPFIND", "MKCOL", "LOCK", "COPY", "MOVE")[number], "/v1/stats")
    daemon.ask("GET", f"/v1/workflows/{workflow_id}?wait_s=5")
    statistics = daemon.http_statistics()
    assert statistics.answers["GET", "(others)", 404] == 5
    assert {method for method, _, _ in statistics.answers} == {"GET", "POST", "(others)"}
    assert "/v1/workflows/{ref}" not in statistics.seconds
    assert sum(statistics.seconds["/v1/workflows"]["counts"]) == 1


def test_large_definition_is_taken(daemon: Daemon) -> None:
    """A body that is decoded in a thread gives the same answer as one that is not."""
    nodes = [{"name": f"n{number}", "task": "add", "args": ["x" * 100]} for number in range(2000)]
    assert daemon.ask("POST", "/v1/workflows", {"nodes": nodes}).json["tasks"] == 2000


def _ids(daemon: Daemon, query: str) -> list[str]:
    return [view["id"] for view in daemon.ask("GET", f"/v1/workflows?{query}").json["workflows"]]


def _references(document: Any) -> list[str]:
    match document:
        case {"$ref": reference}:
            return [reference]
        case dict():
            return [found for value in document.values() for found in _references(value)]
        case list():
            return [found for value in document for found in _references(value)]
    return []


def _cancel_event(workflow_id: str) -> Any:
    from dyrygentd.core.events import VerbRequested
    from dyrygentd.core.verbs import Verb, VerbRequest

    return VerbRequested(workflow_id, VerbRequest(Verb.CANCEL))
