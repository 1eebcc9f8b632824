"""A workflow of any size is shown in a few boxes, over a real socket, while the daemon does its work."""

from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from dyrygentd import wire
from dyrygentd.client.aio import AsyncClient
from dyrygentd.client.sync import Client
from dyrygentd.errors import RemoteError
from dyrygentd.http.limits import HttpLimits
from tests.http.support import Answer, Daemon
from tests.support.servers import wait_until


def document(nodes: int) -> dict[str, Any]:
    """Make a definition of chains of eight tasks, each between a head that waits and a common end."""
    made: list[dict[str, Any]] = [{"name": "head", "gate": True, "section": "begin"}]
    for number in range(nodes - 3):
        chain, step = divmod(number, 8)
        before = f"n-{number - 1}" if step else "head"
        made.append({"name": f"n-{number}", "task": f"app.step_{step}", "after": [before], "section": f"hosts/host-{chain}"})
    ends = [node["name"] for number, node in enumerate(made[1:]) if number % 8 == 7 or number == nodes - 4]
    made.append({"name": "all", "join": True, "after": ends, "section": "end"})
    made.append({"name": "tell", "task": "add", "after": ["all"], "section": "end"})
    return {"nodes": made, "name": "of all sizes"}


def fold(daemon: Daemon, workflow_id: str, path: str = "") -> Answer:
    return daemon.ask("GET", f"/v1/workflows/{workflow_id}/fold?path={quote(path, safe='')}")


def test_a_box_is_opened_down_to_its_nodes(daemon: Daemon) -> None:
    """Whoever follows the paths finds a node of thousands in a few steps, in both clients as over HTTP."""
    workflow_id = str(daemon.ask("POST", "/v1/workflows", document(1000)).json["id"])
    whole = fold(daemon, workflow_id).json
    assert [box["path"] for box in whole["boxes"]] == ["begin", "hosts", "end"]
    assert (whole["nodes"], whole["boxes"][0]["held"], whole["boxes"][0]["hold"]) == (999, "head", "gate")
    assert [(edge["before"], edge["after"]) for edge in whole["edges"]] == [(0, 1), (1, 2)]
    with Client(daemon.path) as client:
        handle = client.handle(workflow_id)
        ranges = handle.fold("hosts")
        assert (len(ranges.boxes), ranges.boxes[0].kind) == (63, "sections")
        inside = handle.fold(f"{ranges.boxes[3].path}/host-6")
    assert [box.title for box in inside.boxes] == [f"n-{number}" for number in range(48, 56)]
    assert inside.boxes[0].states == {"waiting": 1}


def test_a_timeline_has_the_rows_of_the_fold(daemon: Daemon) -> None:
    """In both clients as over HTTP, running or read back after a restart, and with as many bins as were asked for."""
    workflow_id = daemon.submit({"name": "a", "task": "add", "section": "s/t"}, {"name": "b", "task": "fail", "after": ["a"]})
    assert daemon.finish(workflow_id) == "failed"
    target = f"/v1/workflows/{workflow_id}/timeline"
    shown = daemon.ask("GET", target).json
    assert [(row["path"], row["nodes"], sum(row["ended"]), sum(row["failed"])) for row in shown["rows"]] == [
        ("s", 1, 1, 0),
        ("~2", 1, 0, 1),
    ]
    assert {len(row[each]) for row in shown["rows"] for each in ("waiting", "running", "again", "ended", "failed")} == {60}
    assert shown["until"] - shown["since"] == pytest.approx(60 * shown["bin_s"])
    daemon.stop()
    daemon.start()
    assert daemon.ask_tcp("GET", target).json == shown
    with Client(daemon.path) as client:
        inside = client.handle(workflow_id).timeline("s", bins=3)
    assert [(row.path, row.title, len(row.running)) for row in inside.rows] == [("s/t", "t", 3)]
    for wrong in ("1", "401", "x"):
        answer = daemon.ask("GET", f"{target}?bins={wrong}")
        assert (answer.status, answer.json["detail"]) == (400, "`bins` must be a whole number, from 2 to 400")
    assert daemon.ask("GET", f"{target}?path=nowhere").json["code"] == "box-not-found"


def test_nodes_of_a_box_are_listed_page_by_page(daemon: Daemon) -> None:
    """Beside a box stand its nodes, by state and part of a name as well, in both clients; a single node is a box, too."""
    workflow_id = str(daemon.ask("POST", "/v1/workflows", document(3000)).json["id"])
    with Client(daemon.path) as client:
        handle = client.handle(workflow_id)
        assert [node.name for node in handle.nodes(path="hosts/~2", page=7)] == [f"n-{number}" for number in range(32, 64)]
        assert [node.name for node in handle.nodes(path="hosts", name="N-100")] == [
            "n-100",
            *(f"n-{n}" for n in range(1000, 1010)),
        ]
        assert [node.name for node in handle.nodes(path="end")] == ["all", "tell"]
        assert [node.name for node in handle.nodes(path="begin/~1", states=["held"])] == ["head"]
        assert [*handle.nodes(path="hosts", states=["held"])] == []
        with pytest.raises(RemoteError, match="has no box 'hosts/nowhere'") as caught:
            next(handle.nodes(path="hosts/nowhere"))
        assert "take the path of one of its boxes" in caught.value.next_step

    async def ends() -> list[str]:
        async with AsyncClient(daemon.path) as client:
            return [node.name async for node in (await client.handle(workflow_id)).nodes(path="end", name="ELL")]

    assert anyio.run(ends) == ["tell"]


def test_what_is_not_there_is_told(daemon: Daemon) -> None:
    """A path that leads nowhere is no error of the daemon's, and says what to do; nor is one that is far too long."""
    workflow_id = daemon.submit(name="w")
    for path in ("nothing", "~1", "/" * 900, "~1/" * 600):
        answer = fold(daemon, workflow_id, path)
        assert (answer.status, answer.json["code"]) == (404, "box-not-found")
        assert "take the path of one of its boxes" in answer.json["next_step"]
        assert len(answer.body) < 1500


def test_a_finished_workflow_is_folded_as_well(daemon: Daemon) -> None:
    """After a restart it is read back for it, and looks the same."""
    workflow_id = daemon.submit({"name": "a", "task": "add", "section": "s"}, {"name": "b", "task": "fail", "after": ["a"]})
    assert daemon.finish(workflow_id) == "failed"
    before = fold(daemon, workflow_id).json
    assert before["boxes"][1]["failed"] == "b"
    assert before["boxes"][1]["error"] == "ValueError: no such host"
    daemon.stop()
    daemon.start()
    assert fold(daemon, workflow_id).json == before
    assert daemon.ask_tcp("GET", f"/v1/workflows/{workflow_id}/fold").status == 200


@pytest.mark.parametrize("size", [57, 1_000, 10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_payload_and_loop_stay_small(short_tmp: Path, size: int) -> None:
    """A hundred thousand nodes are no more to send than some thousand, and health is answered while they are folded."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(nodes_max=200_000)) as daemon, Client(daemon.path) as client:
        handle = client.submit(document(size))
        answers: list[bytes] = []

        def look() -> None:
            path = ""
            while not path or path.startswith("hosts"):
                answers.append(fold(daemon, handle.id, path).body)
                boxes = wire.decode(answers[-1], wire.FoldView).boxes
                path = "hosts" if not path else boxes[0].path if boxes[0].kind != "node" else "end"

        looking = Thread(target=look)
        looking.start()
        healthy = 0
        while looking.is_alive():
            healthy += daemon.ask("GET", "/healthz").status == 200
        looking.join()
        shown = [wire.decode(answer, wire.FoldView) for answer in answers]
        assert [sum(sum(box.states.values()) for box in view.boxes) for view in shown[:2]] == [size - 1, size - 3]
        assert max(len(view.boxes) for view in shown) <= 125
        assert max(map(len, answers)) < 25_000
        # Folding so many takes hundreds of times as long as an answer, and leaves time for none while it holds the loop.
        assert healthy >= (10 if size >= 100_000 else 1)


# --- estimates ------------------------------------------------------------------------------------------------------


def test_an_estimate_says_how_long_and_why(daemon: Daemon) -> None:
    """Over HTTP, also read-only, and in the client; before anything was measured, and then; over a restart, too."""
    nodes: list[dict[str, Any]] = [
        {"name": "a", "task": "add"},
        {"name": "go", "gate": True, "after": ["a"]},
        {"name": "b", "task": "add", "after": ["go"]},
    ]
    workflow_id = daemon.submit(*nodes)
    with Client(daemon.path) as client:
        handle = client.handle(workflow_id)
        wait_until(lambda: handle.status().counts.get("held") == 1)
        shown = handle.estimate()
        assert (shown.bound, shown.bound_name, shown.low_s, shown.known) == ("person", "go", None, 1.0)
        assert [node.name for node in shown.path] == ["go", "b"]
        assert daemon.ask_tcp("GET", f"/v1/workflows/{workflow_id}/estimate").json["bound"] == "person"
        assert [box.share for box in handle.fold().boxes] == [0.0, 0.0, 1.0]
        daemon.stop()
        daemon.start()
        assert [(task.task, task.count) for task in client.run_times().tasks] == [("add", 1)]
        assert daemon.ask_tcp("GET", "/v1/run-times").json["tasks"][0]["count"] == 1
        handle.release("go")
        assert handle.wait(10).state == "succeeded"
        assert handle.estimate().words == "it has finished"
        assert handle.fold().boxes[0].share is None


def test_thousands_of_nodes_are_estimated_beside_the_loop(short_tmp: Path) -> None:
    """Health is answered meanwhile, and the answer does not grow."""
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(nodes_max=200_000)) as daemon, Client(daemon.path) as client:
        handle = client.submit(document(20_000))
        # All of its tasks: as long as one is unknown, what the others take may be too uncertain for an answer.
        tasks = ["add", *(f"app.step_{step}" for step in range(8))]
        daemon.finish(daemon.submit(*({"name": task, "task": task} for task in tasks), name="measured"))
        found: list[wire.EstimateView] = []
        looking = Thread(target=lambda: found.append(handle.estimate()))
        looking.start()
        healthy = 0
        while looking.is_alive():
            healthy += daemon.ask("GET", "/healthz").status == 200
        looking.join()
        assert (found[0].bound, len(found[0].path)) == ("person", 10)
        assert healthy >= 3
