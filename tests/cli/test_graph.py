"""`dyrygentctl graph`: workflows of any size on one screen, and drawn by Graphviz."""

import json
import re
from pathlib import Path
from typing import Any

from dyrygentd import cli
from tests.cli.support import Ctl, Terminal, submit
from tests.cli.test_verbs import HOSTILE
from tests.http.support import Daemon

GUIDE = Path(cli.__file__).with_name("README.md")
SECTIONS: tuple[dict[str, Any], ...] = (
    {"name": "first"},
    *(
        {"name": f"{step}-{number}", "section": f"{step}/{number // 10}", "after": [(before and f"{before}-{number}") or "first"]}
        for step, before in (("fetch", ""), ("decode", "fetch"))
        for number in range(30)
    ),
    {"name": "last", "task": "fail", "after": ["first"]},
)


def test_any_name_is_drawn(slow_ctl: Ctl) -> None:
    """Names are text in the drawing and nothing else: no quote ends them, no control reaches the terminal."""
    workflow = submit(
        slow_ctl, {"name": 'a"];', "gate": True}, *({"name": name, "after": ['a"];']} for name in HOSTILE), name='"x'
    )
    dot = slow_ctl("graph", workflow, "--dot").stdout
    assert dot.startswith('digraph "\\"x" {\n')
    assert dot.replace("\n", "").isprintable()
    assert 'n0 [label="a\\"];\\ngate\\nheld", fillcolor=khaki];' in dot
    assert len(re.findall(r'^  n\d+ \[label="(?:[^"\\]|\\.)*", fillcolor=\w+\];$', dot, re.M)) == len(HOSTILE) + 1
    assert slow_ctl("graph", workflow).stdout.replace("\n", "").isprintable()


def test_the_nodes_of_a_box_are_listed(slow_ctl: Ctl) -> None:
    """What `graph` counts in a box `show` lists, and what cannot be found says where to look."""
    workflow = submit(slow_ctl, *SECTIONS)
    rows = slow_ctl("show", workflow, "--section", "fetch/1").stdout.rpartition("NODE")[2].splitlines()[1:]
    assert [row.split()[0] for row in rows] == [f"fetch-{number}" for number in range(10, 20)]
    listed = json.loads(slow_ctl("show", workflow, "--section", "decode", "--state", "waiting", "--json").stdout)["nodes"]
    assert [node["name"] for node in listed] == [f"decode-{number}" for number in range(30)]
    wrong = slow_ctl("show", workflow, "--section", "nowhere")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert f"`dyrygentctl graph {workflow}` shows sections and boxes" in wrong.stderr


def test_boxes_stand_by_level_with_what_they_wait_for(ctl: Ctl, daemon: Daemon) -> None:
    """The shape, how far it is, and what failed of what, on one screen."""
    workflow = submit(ctl, *SECTIONS)
    daemon.finish(workflow)
    out = ctl("graph", workflow).stdout
    assert out.startswith("sum: failed, 62 nodes\nSSSS")
    assert [re.split(r"  +", line.strip()) for line in out.splitlines()[3:8]] == [
        ["#", "AFTER", "LEVEL", "BOX", "NODES", "STATES"],
        ["1", "1", "first", "1", "S", "succeeded"],
        ["2", "1", "2", "fetch/", "30", "S" * 20, "succeeded 30"],
        ["3", "1", "2", "last", "1", "F", "failed"],
        ["4", "2", "3", "decode/", "30", "S" * 20, "succeeded 30"],
    ]
    assert re.search(r"^failed  'last': .", out, re.M)
    assert out.endswith("S succeeded  F failed\n")


def test_the_guide_shows_what_is_drawn(ctl: Ctl, daemon: Daemon) -> None:
    """What the guide promises is what a person gets."""
    nodes = [{**node} for node in SECTIONS[:-1]]
    nodes[-2] |= {"task": "fail"}
    nodes[-1] |= {"after": ["decode-28"]}
    workflow = submit(ctl, *nodes, name="nightly")
    daemon.finish(workflow)
    out = ctl("graph", workflow).stdout
    assert f"```\n{out}```\n" in GUIDE.read_text()


def test_a_section_is_opened_by_its_path(slow_ctl: Ctl) -> None:
    """From the whole to a single node, each path as it is shown; a path of nothing says where paths are."""
    workflow = submit(slow_ctl, *SECTIONS)
    out = slow_ctl("graph", workflow, "--section", "fetch").stdout
    assert out.startswith("sum / fetch: running, 30 nodes\n")
    assert [line.split()[2] for line in out.splitlines()[4:7]] == ["0/", "1/", "2/"]
    assert "fetch-12" in slow_ctl("graph", workflow, "--section", "fetch/1").stdout
    wrong = slow_ctl("graph", workflow, "--section", "nowhere")
    assert (wrong.exit_code, "has no box 'nowhere'" in wrong.stderr) == (1, True)
    assert f"next: `dyrygentctl graph {workflow}` shows what can be opened" in wrong.stderr


def test_a_terminal_gets_the_next_command(ctl: Ctl, daemon: Daemon) -> None:
    """It ends with what one would type now: the failure, ready to be pasted; and it fits, however small the terminal is."""
    workflow = submit(ctl, *SECTIONS)
    daemon.finish(workflow)
    for columns in (80, 100):
        terminal = Terminal(daemon, "graph", workflow, columns=columns)
        assert terminal.end() == 0
        lines = terminal.seen.decode().splitlines()
        assert lines[-2] == f"next: dyrygentctl explain {workflow} last"
        assert lines[-1] == f"  or: dyrygentctl graph {workflow} --section fetch"
        assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in lines) <= columns


def test_json_of_a_section_is_what_the_daemon_folds(slow_ctl: Ctl) -> None:
    """Programs get what the API gives; without --section the levels of all nodes, as ever."""
    workflow = submit(slow_ctl, *SECTIONS)
    document = json.loads(slow_ctl("graph", workflow, "--section", "", "--json").stdout)
    assert {box["path"]: box["nodes"] for box in document["boxes"]} == {"fetch": 30, "decode": 30, "~3": 1, "~4": 1}
    levels = json.loads(slow_ctl("graph", workflow, "--json").stdout)["levels"]
    assert sum(group["nodes"] for level in levels for group in level["groups"]) == 62


def test_large_workflow_is_drawn_by_boxes(slow_ctl: Ctl) -> None:
    """Graphviz takes minutes for what nobody can look at; who wants all of it says so."""
    workflow = submit(slow_ctl, *({"name": f"n{number}", "section": f"s{number % 3}"} for number in range(2_001)))
    drawn = slow_ctl("graph", workflow, "--dot")
    assert drawn.stderr == "2,001 nodes are drawn as 3 boxes: --nodes draws each node\n"
    assert len(re.findall(r'^  n\d \[label="s\d\\n667 nodes\\n', drawn.stdout, re.M)) == 3
    assert slow_ctl("graph", workflow, "--dot", "--nodes").stdout.count("label=") == 2_001
    assert slow_ctl("graph", workflow, "--nodes").exit_code == 2
