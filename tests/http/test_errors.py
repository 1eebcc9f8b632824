"""Every error leaves as a problem document that says what, which and what to do."""

import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.http.limits import HttpLimits
from tests.http.support import Daemon, unix_connection
from tests.support.servers import wait_until


def _node(name: str, *after: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "task": "add", "after": list(after), **fields}


@pytest.mark.parametrize(
    ("nodes", "status", "code", "words"),
    [
        ([_node("a", "c"), _node("b", "a"), _node("c", "b")], 422, "cycle", "b -> c -> a"),
        ([_node("a", "a")], 422, "cycle", "a -> a"),
        ([_node("a", "ghost")], 422, "unknown-dependency", "node 'a' depends on 'ghost'"),
        ([_node("a"), _node("a")], 422, "duplicate-node", "'a'"),
        ([_node("a", task_id="7"), _node("b", task_id="7")], 422, "duplicate-task-id", "nodes 'a', 'b'"),
        ([_node("a", options={"serializer": "pickle"})], 422, "bad-node", "node 'a': serializer 'pickle'"),
        ([_node("a", args={})], 422, "bad-node", "`args` must be an array"),
        ([{"name": "a"}], 422, "bad-node", "`task` is missing"),
        ([], 422, "empty-workflow", "no nodes"),
        ([_node(f"n{number}") for number in range(11)], 422, "too-many-nodes", "11 nodes, the limit is 10"),
        ([_node("a", tusk="b")], 400, "bad-request", "$.nodes[0]"),
        ([_node("a", immutable="yes")], 400, "bad-request", "$.nodes[0].immutable"),
        ("a", 400, "bad-request", "$.nodes"),
    ],
)
def test_bad_definition_is_refused_by_name(short_tmp: Path, nodes: Any, status: int, code: str, words: str) -> None:
    """Whoever generated ten thousand nodes must be told which one is wrong."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(nodes_max=10)) as daemon:
        answer = daemon.ask("POST", "/v1/workflows", {"nodes": nodes})
        assert (answer.status, answer.json["code"]) == (status, code)
        assert words in answer.json["detail"]
        _is_problem(answer)
        assert daemon.ask("GET", "/v1/workflows").json["workflows"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"nodes: []", b'{"payload":' + b"[" * 100_000])
def test_body_that_is_no_json_is_refused(daemon: Daemon, body: bytes) -> None:
    """Whatever arrives, the daemon answers and lives."""
    answer = daemon.ask("POST", "/v1/workflows", body)
    assert (answer.status, answer.json["code"]) == (400, "bad-request")
    assert "not valid JSON" in answer.json["detail"]


def test_body_of_another_type_is_refused(daemon: Daemon) -> None:
    """`curl -d` declares a form: say so instead of guessing."""
    answer = daemon.ask("POST", "/v1/workflows", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status, answer.json["code"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_over_the_limit_is_refused(short_tmp: Path, is_chunked: bool) -> None:
    """A body is refused by its length, declared or not, before it fills the memory."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(body_bytes_max=1000)) as daemon:
        connection = unix_connection(daemon.path)
        body: Any = iter([b"x" * 600] * 2) if is_chunked else b"x" * 1001
        connection.request("POST", "/v1/workflows", body=body, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        assert (response.status, response.getheader("Content-Type")) == (413, "application/problem+json")
        assert b"1000 bytes" in response.read()
        connection.close()
        assert daemon.http_statistics().bodies_bytes == 0


def test_bodies_are_bounded_together(short_tmp: Path) -> None:
    """Many clients with legal bodies cannot fill the memory together."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(bodies_bytes_max=100)) as daemon:
        answer = daemon.ask("POST", "/v1/workflows", b" " * 101)
        assert (answer.status, answer.json["code"]) == (503, "too-busy")


def test_slow_body_is_given_up(short_tmp: Path) -> None:
    """A client that stops in the middle of its body does not hold its place for ever."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(body_timeout_s=0.05)) as daemon, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(daemon.path))
        client.sendall(b"POST /v1/workflows HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/nothing", 404, "route-not-found"),
        ("GET", "/v2/workflows", 404, "route-not-found"),
        ("PUT", "/v1/workflows", 405, "method-not-allowed"),
        ("GET", "/v1/workflows/none", 404, "workflow-not-found"),
        ("GET", "/v1/workflows/none/nodes", 404, "workflow-not-found"),
        ("GET", "/v1/workflows/none/events", 404, "workflow-not-found"),
        ("POST", "/v1/workflows/none/cancel", 404, "workflow-not-found"),
        ("GET", "/v1/workflows?limit=501", 400, "bad-request"),
        ("GET", "/v1/workflows?limit=0", 400, "bad-request"),
        ("GET", "/v1/workflows?limit=-1", 400, "bad-request"),
        ("GET", "/v1/workflows?cursor=x", 400, "bad-request"),
        ("GET", "/v1/workflows?by_end=true", 400, "bad-request"),
        ("GET", "/v1/workflows?by_end=true&ended_since=0&cursor=1", 400, "bad-request"),
        ("GET", "/v1/workflows?cursor=99999999999999999999", 400, "bad-request"),
        ("GET", "/v1/workflows?state=done", 400, "bad-request"),
        ("GET", "/v1/workflows?label=x", 400, "bad-request"),
        ("GET", "/v1/workflows/none?wait_s=61", 400, "bad-request"),
        ("GET", "/v1/workflows/none?wait_s=nan", 400, "bad-request"),
        ("GET", "/v1/workflows/none?result=perhaps", 400, "bad-request"),
        ("GET", "/v1/workflows/none/nodes?state=running", 400, "bad-request"),
    ],
)
def test_bad_request_is_a_problem(daemon: Daemon, method: str, target: str, status: int, code: str) -> None:
    """Paths, methods, references and query parameters are checked, and the answer names what was wrong."""
    answer = daemon.ask(method, target)
    assert (answer.status, answer.json["code"]) == (status, code)
    _is_problem(answer)


def test_unknown_node_and_ambiguous_name(daemon: Daemon) -> None:
    """The answer names the workflow that has no such node, or the workflows that share a name."""
    ids = [daemon.submit(name="twin"), daemon.submit(name="twin")]
    assert daemon.ask("GET", f"/v1/workflows/{ids[0]}/nodes/ghost").json["code"] == "node-not-found"
    answer = daemon.ask("GET", "/v1/workflows/twin")
    assert (answer.status, set(answer.json["facts"]["matches"])) == (409, set(ids))


@pytest.mark.parametrize("header", ["", "x" * 201, "other"])
def test_bad_idempotency_key_is_refused(daemon: Daemon, header: str) -> None:
    """A key is short, and header and body must not contradict each other."""
    body = {"nodes": [{"task": "add"}], "key": "mine"}
    answer = daemon.ask("POST", "/v1/workflows", body, {"Idempotency-Key": header})
    assert (answer.status, answer.json["facts"]["path"]) == (400, "Idempotency-Key")


def test_unexpected_error_is_logged_once_and_hides_internals(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells everything, the client nothing but where to look."""

    def broken() -> None:
        raise RuntimeError("secret")

    daemon.call(setattr, daemon.scheduler, "statistics", broken)
    answer = daemon.ask("GET", "/v1/stats")
    assert (answer.status, answer.json["code"]) == (500, "internal-error")
    assert b"secret" not in answer.body
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None


def test_what_is_no_http_is_not_logged_as_an_error(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """A port scanner does not fill the log with tracebacks."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(daemon.path))
        client.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 400 ")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_body_in_a_wrong_encoding_is_refused(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """What the client sent is not our error, and gets no traceback."""
    answer = daemon.ask("POST", "/v1/workflows", b"abc", {"Content-Encoding": "gzip"})
    assert (answer.status, answer.json["code"]) == (400, "bad-request")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_client_that_goes_away_is_not_logged_as_an_error(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C in the middle of a large submission is ordinary life."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.path))
        client.sendall(b"POST /v1/workflows HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        # The last chunk is there as soon as it counts.
        wait_until(lambda: daemon.http_statistics().bodies_bytes == 1)
    wait_until(lambda: daemon.http_statistics().bodies_bytes == 0)
    assert daemon.ask("GET", "/healthz").status == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def _is_problem(answer: Any) -> None:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == answer.status
    assert {"type", "title", "detail", "code", "next_step", "facts"} <= answer.json.keys()


def test_key_in_a_header_is_utf_8(daemon: Daemon) -> None:
    """A header is bytes: those that are UTF-8 are a key like the one in a definition, and others are refused."""
    nodes = {"nodes": [{"name": "one", "task": "add"}]}
    for written, status in ((b"schl\xc3\xbcssel", 201), (b"schl\xfcssel", 400), (b"\xff", 400)):
        answer = daemon.ask("POST", "/v1/workflows", nodes, {"Idempotency-Key": written.decode("latin-1")})
        assert answer.status == status, answer
    again = daemon.ask("POST", "/v1/workflows", {**nodes, "key": "schlüssel"})
    assert again.status == 200, again


@pytest.mark.parametrize("argument", ["9" * 5000, "[" * 900 + "]" * 900], ids=["long number", "deep"])
def test_arguments_that_nobody_could_show_are_refused(argument: str, daemon: Daemon) -> None:
    """What would be an error when it is shown, or at the worker, is told when it is submitted, as a value of a verb too."""
    body = f'{{"nodes":[{{"name":"one","task":"add","args":[{argument}]}}]}}'
    answer = daemon.ask("POST", "/v1/workflows", body.encode())
    assert (answer.status, answer.json["code"]) == (422, "bad-node"), answer
    workflow = daemon.submit({"name": "gate", "gate": True})
    answer = daemon.ask("POST", f"/v1/workflows/{workflow}/skip", f'{{"nodes":["gate"],"value":{argument}}}'.encode())
    assert answer.status == 400, answer
