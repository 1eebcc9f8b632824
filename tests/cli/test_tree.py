"""`dyrygentctl list` has what people submitted; children are asked for, by their parent, with all others, or as a tree."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.cli import tree
from dyrygentd.client.sync import Client
from dyrygentd.core.parent import Parent
from tests.cli.support import Ctl
from tests.http.support import Daemon
from tests.store.records import finished, workflow
from tests.support.servers import wait_until


def _save(daemon: Daemon, above: dict[str, str]) -> None:
    """Save finished workflows, ``{name: that of what is above it}``; a name without one is a root."""
    records = []
    for name, parent in above.items():
        root, depth = parent, int(bool(parent))
        while above.get(root):
            root, depth = above[root], depth + 1
        known = Parent(_id(parent), 0, 0, depth, _id(root)) if parent else None
        record = workflow(_id(name), name=name, key=None, parent=known)
        records.append(finished(record, document=record.document))
    daemon.call(daemon.store.save, records, [])


def _id(name: str) -> str:
    return f"{name.encode().hex():0<8}-0000-4000-8000-000000000000"


_TREE = {"night": "", "a": "night", "a1": "a", "a2": "a", "b": "night", "other": ""}


def test_a_listing_has_what_people_submitted(daemon: Daemon, ctl: Ctl) -> None:
    """A thousand children do not hide the others; they are found by their parent."""
    _save(daemon, _TREE)
    assert _names(ctl("--json", "list").stdout) == ["other", "night"]
    assert _names(ctl("--json", "list", "--children").stdout) == ["other", "b", "a2", "a1", "a", "night"]
    assert _names(ctl("--json", "list", "--parent", "night").stdout) == ["b", "a"]
    assert _names(ctl("--json", "list", "--parent", _id("a")).stdout) == ["a2", "a1"]
    assert ctl("list", "--parent", "other").stderr == "no workflows\n"
    refused = ctl("list", "--parent", "nobody")
    assert (refused.exit_code, "name 'nobody'" in refused.stderr) == (1, True)


def test_a_tree(daemon: Daemon, ctl: Ctl) -> None:
    """Each stands below what it belongs to, in the order in which they began."""
    _save(daemon, _TREE)
    lines = ctl("list", "--tree").stdout.splitlines()
    at = lines[0].index("NAME")
    assert [line[at : lines[0].index("STATE")].rstrip() for line in lines[1:]] == [
        "other",
        "night",
        "└ a",
        "  └ a1",
        "  └ a2",
        "└ b",
    ]
    assert _names(ctl("--json", "list", "--tree").stdout) == ["other", "night", "a", "a1", "a2", "b"]
    assert ctl("list", "--tree", "--children").exit_code == 2


def test_a_tree_has_bounds(daemon: Daemon, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many children the last ones are shown, and where the others are; of many trees as much as has room."""
    _save(daemon, {"night": "", **{f"c{number:02}": "night" for number in range(12)}})
    listed = ctl("list", "--tree")
    assert re.findall(r"└ (\w+)", listed.stdout) == [f"c{number:02}" for number in range(2, 12)]
    assert f"'night' has more children: dyrygentctl list --parent {_id('night')}\n" in listed.stderr
    with Client(daemon.path) as client:
        shown = tree.tree_of(client, client.list(), most=4)
    assert [branch.view.name for branch in shown] == ["night", "c09", "c10", "c11"]
    assert [branch.has_more for branch in shown] == [True, False, False, False]


def test_from_a_workflow_to_its_children_and_back(daemon: Daemon) -> None:
    """Programs walk the tree by handles."""
    _save(daemon, _TREE)
    with Client(daemon.path) as client:
        night = client.handle("night")
        assert night.parent() is None
        (b, a) = night.children()
        assert (a.name, b.name) == ("a", "b")
        assert [view.name for view in client.handle(a).children(limit=1)] == ["a2"]
        assert night.children(states=["failed"]) == []
        above = client.handle(_id("a1")).parent()
        assert above is not None
        assert above.id == a.id
        view = client.get(_id("a1"))
        assert view.parent is not None
        assert (view.parent.workflow, view.parent.root, view.parent.depth) == (_id("a"), _id("night"), 2)


def _names(text: str) -> list[str]:
    return [view["name"] for view in json.loads(text)]


def test_a_node_that_is_done_by_a_workflow(holding: Daemon, slow_ctl: Ctl) -> None:
    """Where its parent is shown, its own is named with how far it is, and what it waits for; where it is, its parent."""
    inner = {"name": "inner", "nodes": [{"name": "dig", "task": "add"}, {"name": "approve", "gate": True}]}
    nodes: list[dict[str, Any]] = [{"name": "first", "task": "add"}, {"name": "deep", "workflow": {"definition": inner}}]
    top = holding.submit(*nodes, name="surface")
    child = Parent(top, 1).child_id
    wait_until(lambda: holding.ask("GET", f"/v1/workflows/{child}").status == 200)
    shown = slow_ctl("show", top).stdout
    assert re.search(r"(?m)^below +1 running: 0/2  \(dispatched 1, held 1\)$", shown), shown
    assert re.search(rf"(?m)^deep .*its workflow {child} running, 0/2, 1 gate waits for release$", shown), shown
    assert re.search(rf"(?m)^workflow +{child} running, 0/2$", slow_ctl("show", top, "deep").stdout)
    assert re.search(rf"(?m)^parent +node 'deep' of {top}$", slow_ctl("show", child).stdout)
    drawn = slow_ctl("graph", top)
    assert re.search(r"(?m)^ *2 .*deep \(workflow\) +2 ", drawn.stdout), drawn.stdout
    assert f"'deep': its workflow {child} running, 0/2\n" in drawn.stdout
    for path, box in (("deep", ""), ("deep[7]", " --section 'deep[7]'")):
        opened = slow_ctl("graph", top, "--section", path)
        assert opened.stderr.endswith(f"the work of 'deep' is a workflow of its own: `dyrygentctl graph {child}{box}`\n"), opened
    nobody = slow_ctl("release", top)
    assert nobody.stderr.endswith(f"needs the name of a node\nnext: `dyrygentctl show {top} --nodes` lists them\n"), nobody
    told = slow_ctl("explain", top).stdout
    assert f"'deep' is done by workflow {child}, which has done 0 of 2; there 'approve' is a gate and waits" in told
    assert f"next: dyrygentctl explain {child}\n" in told
    assert "waits for release" in slow_ctl("list").stdout
    assert slow_ctl("hold", top, "deep").stdout == f"{top}  surface  the workflow of the node is paused  running\n"
    assert slow_ctl("release", top, "deep").stdout == f"{top}  surface  the workflow of the node goes on  running\n"


def test_its_time_is_that_of_its_workflow(daemon: Daemon, ctl: Ctl, tmp_path: Path) -> None:
    """In a trace the node is a span as long as its workflow, whose id stands there; tables and drawings have it, too."""
    inner = {"name": "inner", "nodes": [{"name": "dig", "task": "add"}, {"name": "more", "task": "add", "after": ["dig"]}]}
    bad = {"nodes": [{"name": "f", "task": "fail"}]}
    top = daemon.submit({"name": "deep", "workflow": {"definition": inner}}, {"name": "bad", "workflow": {"definition": bad}})
    assert daemon.finish(top) == "failed"
    assert ctl("timeline", top, "--perfetto", "trace.json").exit_code == 0
    events = {event["name"]: event for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    for node, (name, state) in enumerate((("deep", "succeeded"), ("bad", "failed"))):
        assert (events[name]["ph"], events[name]["cat"]) == ("X", state)
        assert events[name]["args"]["workflow"] == Parent(top, node).child_id
    assert re.search(r"(?m)^deep +succeeded +\(workflow\) .* (s|ms)", ctl("show", top, "--nodes").stdout)
    assert re.search(r"(?m)^bad +1 ", ctl("timeline", top).stdout)
    below = Parent(top, 1).child_id
    for command in ("explain", "show"):
        told = ctl(command, top).stdout
        assert re.search(rf"next: dyrygentctl explain {below}\n +or: dyrygentctl retry {top} ", told), told
    nobody = ctl("explain", top, "f").stderr
    assert f"`dyrygentctl list --parent {top}` the workflows below it" in nobody
    assert ctl("report", top, "-o", "report.html").exit_code == 0
    assert ctl("diff", top, top).exit_code in (0, 1)
