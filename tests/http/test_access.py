"""Who may do what: a table of routes and users, tried with real users over a real socket."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import pytest

from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.user import User
from dyrygentd.http.access import Access, Forbidden, Peer, Role
from dyrygentd.http.lists import TaskForbidden
from dyrygentd.http.table import ROUTES
from tests.http.support import Daemon

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


class Somebody(NamedTuple):
    """Somebody who connects: a user and a main group, both of which every Debian has."""

    user: int
    group: int


#: Those in the configuration below: an admin by group, a submitter by name, a reader by number, and somebody in no list.
USERS: Final[Mapping[str, Somebody]] = {
    "root": Somebody(0, 0),
    "admin": Somebody(4, 60),
    "submitter": Somebody(1, 1),
    "reader": Somebody(2, 2),
    "stranger": Somebody(3, 3),
}
ACCESS: Final[dict[str, Any]] = {"admins": ["@games"], "submitters": ["daemon"], "readers": ["2"]}

#: What each may do. A verb is for one's own workflows; `root's` and `own` are two that were submitted by root and by themselves.
TABLE: Final = """
    request                                      root admin submitter reader stranger
    GET  /healthz                                yes  yes   yes       yes    yes
    GET  /readyz                                 yes  yes   yes       yes    yes
    GET  /                                       yes  yes   yes       yes    yes
    GET  /page/mode.json                         yes  yes   yes       yes    yes
    GET  /page/app.js                            yes  yes   yes       yes    yes
    GET  /page/vendor/htm.js                     yes  yes   yes       yes    yes
    GET  /metrics                                yes  yes   yes       yes    no
    GET  /v1/stats                               yes  yes   yes       yes    no
    GET  /v1/run-times                           yes  yes   yes       yes    no
    GET  /v1/openapi.json                        yes  yes   yes       yes    no
    GET  /v1/definition.schema.json              yes  yes   yes       yes    no
    GET  /v1/journal                             yes  yes   yes       yes    no
    GET  /v1/explain                             yes  yes   yes       yes    no
    GET  /v1/workflows                           yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}                  yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/nodes            yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/nodes/one        yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/nodes/one/explain yes yes   yes       yes    no
    GET  /v1/workflows/{root's}/events           yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/summary          yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/fold             yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/timeline         yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/fold/events      yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/estimate         yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/causes           yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/journal          yes  yes   yes       yes    no
    GET  /v1/workflows/{root's}/explain          yes  yes   yes       yes    no
    POST /v1/workflows                           yes  yes   yes       no     no
    GET  /v1/workflows/{own}/definition          yes  yes   yes       no     no
    GET  /v1/workflows/{root's}/definition       yes  yes   no        no     no
    GET  /v1/workflows/{own}/export              yes  yes   yes       no     no
    GET  /v1/workflows/{root's}/export           yes  yes   no        no     no
    POST /v1/imports                             yes  yes   no        no     no
    POST /v1/workflows/{own}/pause               yes  yes   yes       no     no
    POST /v1/workflows/{root's}/pause            yes  yes   no        no     no
    POST /v1/bulk/pause?name=x                   yes  yes   yes       no     no
"""

_SCRIPT: Final = """
import http.client, json, os, socket, sys
path, user, group, requests = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
if user:
    os.setgroups([]); os.setgid(group); os.setuid(user)

def ask(method, target, body=None):
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(path)
    connection.request(method, target, body=body)
    answer = connection.getresponse()
    status = answer.status
    read = b"{}" if answer.headers.get_content_type() == "text/event-stream" else answer.read()
    connection.close()
    return status, read

made, answers = "none", []
for method, target in requests:
    definition = {"name": "x", "nodes": [{"name": "one", "task": "add"}]}
    workflow = {"id": "00000000-0000-4000-8000-000000000001", "name": "x", "state": "paused", "created_at": 1, "owner": 99}
    export = {"export": 1, "workflow": workflow, "definition": definition}
    body = json.dumps({"/v1/workflows": definition, "/v1/imports": export}.get(target, {}))
    status, read = ask(method, target.replace("{own}", made).replace("{moved}", "moved"), body if method == "POST" else None)
    if method == "POST" and target == "/v1/workflows" and status == 201:
        made = json.loads(read)["id"]
    answers.append([status, read.decode()])
print(json.dumps(answers))
"""


@pytest.fixture
def daemon(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon with the lists above, whose socket everybody may use; its tasks do not end."""
    with Daemon(short_tmp / "d.sock", holds=True, access=Access(**ACCESS)) as daemon:
        os.chmod(short_tmp, 0o755)
        os.chmod(daemon.path, 0o666)
        yield daemon


def _ask_as(daemon: Daemon, who: Somebody, requests: list[tuple[str, str]]) -> list[tuple[int, str]]:
    command = [sys.executable, "-c", _SCRIPT, str(daemon.path), str(who.user), str(who.group), json.dumps(requests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [(status, read) for status, read in json.loads(done.stdout)]


def _rows() -> tuple[list[str], list[tuple[str, str, list[str]]]]:
    head, *lines = TABLE.strip().splitlines()
    rows = []
    for line in lines:
        method, target, *words = line.split()
        rows.append((method, target, words))
    return head.split()[1:], rows


@only_root
@pytest.mark.parametrize("name", USERS)
def test_table(name: str, daemon: Daemon) -> None:
    """Each user is served or refused with 403 as the table says, and a refusal says who may what, and the next step."""
    roots = daemon.submit()
    columns, rows = _rows()
    requests = [(method, target.replace("{root's}", roots)) for method, target, _ in rows]
    expected = [words[columns.index(name)] for _, _, words in rows]
    answers = _ask_as(daemon, USERS[name], requests)
    for (method, target), word, (status, read) in zip(requests, expected, answers, strict=True):
        if word == "yes":
            assert status in (200, 201), (method, target, status, read)
        else:
            assert status == 403, (method, target, status, read)
            problem = json.loads(read)
            assert problem["code"] == "forbidden"
            assert problem["next_step"]


def test_table_has_every_route() -> None:
    """A new route has to be put into the table."""
    _, rows = _rows()
    tried = {(method, _shape(target)) for method, target, _ in rows}
    assert {(route.method, _shape(route.path)) for route in ROUTES} == tried


def _shape(target: str) -> str:
    """Return a path with the same placeholders, whatever they are called."""
    parts = target.partition("?")[0].split("/")
    names = {"one": "{}", "pause": "{}", "app.js": "{}", "htm.js": "{}"}
    return "/".join("{}" if part.startswith("{") else names.get(part, part) for part in parts)


@only_root
def test_bulk_reaches_own_workflows_only(daemon: Daemon) -> None:
    """A verb on all that fit leaves those of others alone, and an admin's does not."""
    roots = daemon.submit(name="x")
    requests = [("POST", "/v1/workflows"), ("POST", "/v1/bulk/pause?name=x")]
    (_, made), (_, done) = _ask_as(daemon, USERS["submitter"], requests)
    assert json.loads(done)["changed"] == [json.loads(made)["id"]]
    view = daemon.ask("GET", f"/v1/workflows/{json.loads(made)['id']}").json
    assert (view["state"], view["owner"]) == ("paused", 1)
    assert daemon.ask("GET", f"/v1/workflows/{roots}").json["state"] == "running"
    done = daemon.ask("POST", "/v1/bulk/cancel?name=x", {}).json
    assert set(done["changed"]) == {roots, json.loads(made)["id"]}


@only_root
def test_journal_names_who_asked(daemon: Daemon) -> None:
    """What an admin does to somebody's workflow is on record with the admin's name."""
    _, (_, _) = _ask_as(daemon, USERS["submitter"], [("POST", "/v1/workflows"), ("GET", "/healthz")])
    workflow_id = daemon.ask("GET", "/v1/workflows").json["workflows"][0]["id"]
    [(status, _)] = _ask_as(daemon, USERS["admin"], [("POST", f"/v1/workflows/{workflow_id}/pause")])
    assert status == 200
    [entry] = daemon.ask("GET", f"/v1/workflows/{workflow_id}/journal").json["entries"]
    assert entry["by"].startswith("sync (uid 4, pid ")


@only_root
def test_arguments_are_shown_to_the_owner_and_admins(daemon: Daemon) -> None:
    """Others see that there is a task, and how it stands; nobody sees what is called a secret."""
    node = {"name": "one", "task": "add", "args": [1], "kwargs": {"password": "hunter2"}}
    node["payload"] = {"ticket": 42, "token": "hunter2"}
    target = f"/v1/workflows/{daemon.submit(node)}/nodes/one"
    for name, shown in (("root", True), ("admin", True), ("submitter", False), ("reader", False)):
        [(status, read)] = _ask_as(daemon, USERS[name], [("GET", target)])
        assert (status, json.loads(read)["state"]) == (200, "dispatched")
        assert json.loads(read).get("arguments") == ("(1,) {'password': '****'}" if shown else None), name
        assert json.loads(read).get("payload") == ({"ticket": 42, "token": "****"} if shown else None), name
    assert not {"arguments", "payload"} & daemon.ask_tcp("GET", target).json.keys()


@only_root
def test_user_is_one_of_this_host_where_several_have_one_store(short_tmp: Path) -> None:
    """The same number is somebody else at the next host, where it controls nothing of this one's, and is told whose it is."""
    one = Somebody(1, 1)
    with Daemon(short_tmp / "d.sock", holds=True, access=Access(host="app1", admins=["@games"])) as daemon:
        os.chmod(short_tmp, 0o755)

        def ask(who: Somebody, *requests: tuple[str, str]) -> list[tuple[int, str]]:
            os.chmod(daemon.path, 0o666)
            return _ask_as(daemon, who, list(requests))

        ((status, made),) = ask(one, ("POST", "/v1/workflows"))
        assert status == 201
        workflow_id = json.loads(made)["id"]
        target = f"/v1/workflows/{workflow_id}"
        view = daemon.ask("GET", target).json
        assert (view["owner_name"], view.get("owner")) == ("daemon@app1", None)

        daemon.stop()
        daemon.access = Access(host="app2", admins=["@games"])
        daemon.start()
        assert daemon.ask("GET", target).json["owner_name"] == "daemon@app1"
        refused = ask(one, ("POST", f"{target}/pause"), ("GET", f"{target}/definition"), ("POST", "/v1/bulk/pause?name=x"))
        assert [status for status, _ in refused] == [403, 403, 200]
        assert json.loads(refused[2][1])["matched"] == 0
        words = json.loads(refused[0][1])["detail"]
        assert words.startswith(f"workflow '{workflow_id}' belongs to daemon@app1, and daemon@app2 (uid 1, pid ")
        # Who is an admin is said where they are.
        ((status, _),) = ask(USERS["admin"], ("POST", f"{target}/pause"))
        assert status == 200

        daemon.stop()
        daemon.access = Access(host="app1")
        daemon.start()
        answers = ask(one, ("POST", f"{target}/resume"), ("POST", "/v1/bulk/cancel?name=x"))
        assert [status for status, _ in answers] == [200, 200]
        assert json.loads(answers[1][1])["changed"] == [workflow_id]
        entries = daemon.ask("GET", f"{target}/journal").json["entries"]
        assert [entry["by"].partition(" (")[0] for entry in entries] == ["sync@app2", "daemon@app1", "daemon@app1"]


def test_what_comes_without_a_host_is_of_this_one(short_tmp: Path) -> None:
    """An export of a daemon that has its store for itself names a number: it is taken for the user of the host that takes it."""
    nodes = [{"name": "one", "task": "add"}]
    workflow = {"name": "x", "state": "paused", "created_at": 1, "owner": 0}
    with Daemon(short_tmp / "d.sock", access=Access(host="app1")) as daemon:
        for number, (given, owner) in enumerate([({}, "root@app1"), ({"owner_host": "app2", "owner_name": "toor"}, "toor@app2")]):
            known = workflow | given | {"id": f"00000000-0000-4000-8000-00000000000{number}"}
            taken = daemon.ask("POST", "/v1/imports", {"export": 1, "workflow": known, "definition": {"nodes": nodes}})
            assert taken.status == 201
            assert daemon.ask("GET", f"/v1/workflows/{known['id']}").json["owner_name"] == owner


@pytest.mark.anyio
async def test_nobody_waits_for_a_name() -> None:
    """A user whose name is not known yet is told by number: the loop asks no directory."""
    access = Access(host="app1", names_of=lambda user, group: [])
    peer = Peer(4_000_000_000, 1, 7)
    await access.role_of(peer)
    assert access.user_of(peer) == User(4_000_000_000, "app1")
    assert access.words_of(peer) == "4000000000@app1 (uid 4000000000, pid 7)"
    assert access.user_of(Peer(address="127.0.0.1")) is None
    assert access.words_of(Peer(address="127.0.0.1")) == "127.0.0.1"


def test_owner_survives_a_restart(daemon: Daemon) -> None:
    """Who submitted a workflow is stored with it."""
    workflow_id = daemon.submit()
    daemon.stop()
    daemon.start()
    assert daemon.ask("GET", f"/v1/workflows/{workflow_id}").json["owner"] == os.geteuid()


def test_tcp_may_read(daemon: Daemon) -> None:
    """Nobody can tell who comes by TCP: they may read, and there is nothing there that changes anything."""
    assert daemon.ask_tcp("GET", "/v1/workflows").status == 200
    assert daemon.ask_tcp("POST", "/v1/workflows").status == 405


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:9465", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:80", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_of_strangers_are_refused(origin: str, status: int, daemon: Daemon) -> None:
    """A page in a browser on this machine that comes from elsewhere is refused; one from here, and no browser at all, is not."""
    answer = daemon.ask_tcp("GET", "/v1/stats", {"Origin": origin})
    assert answer.status == status, answer
    assert status == 200 or answer.json["code"] == "foreign-origin"
    assert daemon.ask_tcp("GET", "/v1/stats").status == 200


def _graph(*tasks: str) -> Graph:
    return Graph.build([NodeSpec(f"n{number}", Signature(task), f"id{number}", []) for number, task in enumerate(tasks)])


@pytest.mark.parametrize(
    ("allowed", "denied", "task", "words"),
    [
        (["*"], [], "anything.at.all", ""),
        (["ceph.*"], [], "ceph.drain", ""),
        (["ceph.*", "mail.send"], [], "mail.send", ""),
        (["ceph.*"], [], "mail.send", "fits nothing in `tasks` (ceph.*)"),
        (["*"], ["celery.*"], "celery.backend_cleanup", "fits 'celery.*' in `tasks_denied`"),
        (["ceph.*"], ["ceph.destroy*"], "ceph.destroy_osd", "fits 'ceph.destroy*'"),
        (["Ceph.*"], [], "ceph.drain", "fits nothing"),
        ([], [], "ceph.drain", "is empty"),
    ],
)
def test_task_names(allowed: list[str], denied: list[str], task: str, words: str) -> None:
    """A task must fit the one list and must not fit the other; the node, the task and the pattern are named."""
    access = Access(tasks=allowed, tasks_denied=denied)
    if not words:
        access.check_tasks(_graph("ceph.a", task) if allowed != ["*"] else _graph(task))
        return
    with pytest.raises(TaskForbidden) as caught:
        access.check_tasks(_graph(task))
    assert f"node 'n0': task '{task}'" in str(caught.value)
    assert words in str(caught.value)


def test_forbidden_task_is_refused_over_http(short_tmp: Path) -> None:
    """Nothing of a definition with a forbidden task is taken."""
    with Daemon(short_tmp / "d.sock", access=Access(tasks=["add"])) as daemon:
        answer = daemon.ask("POST", "/v1/workflows", {"nodes": [{"task": "add"}, {"name": "b", "task": "os.system"}]})
        assert (answer.status, answer.json["code"], answer.json["facts"]["node"]) == (403, "task-forbidden", "b")
        assert daemon.ask("GET", "/v1/workflows").json["workflows"] == []


@pytest.mark.anyio
async def test_directory_service_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """What the kernel told has to do if names cannot be looked up in time; it is logged, and nobody else waits."""
    released = anyio.Event()

    def hang(user: int, group: int) -> list[str]:
        anyio.from_thread.run(released.wait)
        return []

    access = Access(admins=["@77"], submitters=["anna"], readers=[], names_of=hang, lookup_timeout_s=0.05)
    # The daemon's own user is an admin by its number.
    other = os.geteuid() + 1001
    assert await access.role_of(Peer(other, 77)) is Role.ADMIN
    assert await access.role_of(Peer(other + 1, 78)) is Role.NONE
    assert await access.role_of(Peer(0, 0)) is Role.ADMIN
    with pytest.raises(Forbidden, match="may not submit workflows"):
        await access.check(Peer(other + 1, 78), Role.SUBMIT)
    assert "could not be looked up" in caplog.text
    released.set()


def test_process_of_another_namespace_is_named_so() -> None:
    """The kernel says 0 for a process that cannot be seen from here."""
    assert str(Peer(0, 0, 0)) == "root (uid 0, in another PID namespace)"
    assert str(Peer(0, 0, 17)) == "root (uid 0, pid 17)"
    assert str(Peer(address="127.0.0.1")) == "127.0.0.1"
