"""Workflows to look at: of any size, with nodes in every state, and with names that mean harm."""

import json
from typing import Any, Final

from tests.http.support import Daemon, unix_connection
from tests.support.servers import wait_until

#: Markup, a turned line, an escape of terminals, an emoji, and more than fits.
HOSTILE: Final = '<img src=x onerror="window.harmed=1"> \u202egnp.exe \x1b[31m 🙈 ' + "x" * 130
#: Of a section: those may hold nothing that cannot be printed.
PRINTABLE: Final = "".join(filter(str.isprintable, HOSTILE))[:60]

#: ``{what becomes of a node: its share of a hundred}``.
_SHARES: Final = {"good": 40, "bad": 3, "again": 3, "gated": 20, "unlucky": 4, "sleep": 18, "flight": 12}
#: More in flight a daemon does not have, and those would keep the others from their turn.
_FLIGHT_MAX: Final = 1000
#: Nodes that are ready and find no place.
_READY: Final = 2


def document(nodes: int, name: str = "of every state") -> dict[str, Any]:
    """Make a definition whose nodes will be in every state but cancelled, in sections of two levels, those in flight last."""
    kinds = [kind for kind, share in _SHARES.items() for _ in range(share)]
    # 37 and 100 have no divisor in common, so that each section has some of every kind.
    made = [_node(kinds[number * 37 % 100], number) for number in range(nodes - 3)]
    flights = [node for node in made if node.get("task") == "app.flight"]
    for node in flights[_FLIGHT_MAX:]:
        node["task"] = "app.good"
    kept = [*(node for node in made if node.get("task") != "app.flight"), *flights[:_FLIGHT_MAX]]
    first = [
        {"name": "gate", "gate": True, "section": "begin"},
        {"name": "first-bad", "task": "fail", "section": "begin"},
        {"name": "left-out", "sleep_s": 3600, "section": "begin"},
    ]
    limit = max(1, min(len(flights), _FLIGHT_MAX) - _READY)
    return {"nodes": first + kept, "name": name, "labels": {"cluster": "gra1"}, "policy": {"in_flight_max": limit}}


def stage(daemon: Daemon, nodes: int, **fields: Any) -> str:
    """Submit such a workflow to a daemon that holds results back, and let it come so far; return its id."""
    connection = unix_connection(daemon.path)
    try:
        # A hundred thousand nodes take a while where other tests run, too.
        connection.sock.settimeout(200)
        connection.request("POST", "/v1/workflows", json.dumps(document(nodes) | fields), {"Content-Type": "application/json"})
        response = connection.getresponse()
        workflow_id = str(json.loads(response.read())["id"])
    finally:
        connection.close()
    wait_until(lambda: _has_come_so_far(daemon, workflow_id), timeout_s=400)
    assert daemon.ask("POST", f"/v1/workflows/{workflow_id}/skip", {"nodes": ["left-out"], "why": "not today"}).status == 200
    return workflow_id


def _node(kind: str, number: int) -> dict[str, Any]:
    node: dict[str, Any] = {"name": f"{kind}-{number}", "section": f"hosts/rack-{number // 50}", "task": f"app.{kind}"}
    match kind:
        case "bad":
            return node | {"task": "fail", "args": [number, {"password": "hunter2"}]}
        case "again":
            return node | {"task": "fail", "retry": {"attempts": 2, "backoff_s": 3600, "backoff_max_s": 7200, "jitter": 0}}
        case "gated":
            return node | {"after": ["gate"]}
        case "unlucky":
            return node | {"after": ["first-bad"]}
        case "sleep":
            return {"name": node["name"], "section": node["section"], "sleep_s": 3600}
    return node


def _has_come_so_far(daemon: Daemon, workflow_id: str) -> bool:
    """Let all tasks end but those that stay in flight; tell whether nothing else is to come."""
    daemon.call(_let_go, daemon)
    counts = daemon.ask("GET", f"/v1/workflows/{workflow_id}").json["counts"]
    return counts.get("ready", 0) == _READY and not counts.get("dispatching", 0) and not daemon.call(_let_go, daemon)


def _let_go(daemon: Daemon) -> int:
    broker = daemon.broker
    ends = [each.task_id for each in broker.published if each.signature.task != "app.flight" and each.task_id in broker._held]
    if ends:
        broker.let_go(*ends)
    return len(ends)
