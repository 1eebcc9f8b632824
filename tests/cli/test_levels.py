"""The shape of a workflow by the levels of its nodes: what `graph --json` holds, and what older daemons' workflows look like."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from dyrygentd.cli.levels import _rows, _table, folded, levels_of, rows_of
from dyrygentd.wire import NodeView
from tests.cli.support import Ctl, OlderDaemon, ctl_of, submit
from tests.http.support import Daemon


def views(**after: list[str]) -> list[NodeView]:
    """Return nodes that wait for others; their task is the first letter of the name, ``j`` is a join."""
    return [
        NodeView(
            name, "waiting", kind="join" if name[0] == "j" else "task", task=None if name[0] == "j" else name[0], after=before
        )
        for name, before in after.items()
    ]


def test_what_ends_a_section_comes_behind_it() -> None:
    """By no name that it waits for, but by the section that it ends; its hooks come after its ``finally``."""
    nodes = [
        NodeView("a", "waiting", task="t", section="s"),
        NodeView("b", "waiting", task="t", section="s/t", after=["a"]),
        NodeView("told", "waiting", kind="hook", task="tell", section="s", section_end="always"),
        NodeView("clean", "waiting", task="t", section="s", section_end="finally", after=["a"]),
        NodeView("next", "waiting", task="t", after=["clean"]),
        NodeView("beside", "waiting", task="t", section="st"),
    ]
    levels, way = levels_of(nodes)
    assert levels == [1, 2, 4, 3, 4, 1]
    assert way[:3] == ["a", "b", "clean"]
    assert [row.what for row in rows_of(nodes, levels)[3]] == ["tell (hook)", "t"]
    assert [row.what for row in rows_of(nodes, levels)[2]] == ["t (finally)"]


def test_levels_pass_through_joins() -> None:
    """A level is the longest way to a node in tasks; the order of definition does not matter."""
    nodes = views(d=["j"], j=["b", "c"], b=["a"], c=[], a=[], j2=["j"], e=["j2", "d"])
    levels, way = levels_of(nodes)
    assert dict(zip([node.name for node in nodes], levels, strict=True)) == {
        "a": 1,
        "b": 2,
        "c": 1,
        "j": 2,
        "j2": 2,
        "d": 3,
        "e": 4,
    }
    assert way == ["a", "b", "d", "e"]


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ("a", [(1, 1, 1)]),
        ("aaaa", [(1, 1, 4)]),
        ("abab", [(1, 2, 2)]),
        ("aabaab", [(1, 3, 2)]),
        ("xababy", [(1, 1, 1), (2, 2, 2), (6, 1, 1)]),
        ("abcab", [(level, 1, 1) for level in range(1, 6)]),
        ("", []),
    ],
)
def test_repeated_levels_are_one_block(shape: str, blocks: list[tuple[int, int, int]]) -> None:
    """A chain of 10,000 is one line, and so is a pattern that repeats; what does not repeat stays."""
    nodes = views(**{f"{task}{index}": [f"{shape[index - 1]}{index - 1}"] if index else [] for index, task in enumerate(shape)})
    found = folded(rows_of(nodes, levels_of(nodes)[0]))
    assert [(block.first, block.period, block.repeats) for block in found] == blocks
    assert sum(row.count for block in found for rows in block.rows for row in rows) == len(shape)


def _phases() -> list[NodeView]:
    """Three phases of one task, of which the second fails now and then."""
    nodes = []
    for phase, before in (("fetch", ""), ("decode", "fetch"), ("thumb", "decode")):
        for number in range(100):
            state: Any = "failed" if phase == "decode" and number % 50 == 7 else "blocked" if phase == "thumb" else "succeeded"
            given: dict[str, Any] = {"after": [f"{before}-{number}"] if before else []}
            if state != "blocked":
                given |= {"dispatched_at": 1000.0, "finished_at": 1002.0 + (number == 99) * 58}
            nodes.append(NodeView(f"{phase}-{number}", state, task="img.resize", **given))
    return nodes


def test_phases_of_one_task_are_told_apart_by_their_names() -> None:
    """Which of them fails is the question; 2-4 of img.resize is no answer. How long each took stands beside it."""
    nodes = _phases()
    blocks = folded(rows_of(nodes, levels_of(nodes)[0]))
    text = click.unstyle(_table(_rows(blocks)))
    assert [re.split(r"  +", line) for line in text.splitlines()] == [
        ["LEVEL", "NODES", "TASK", "NAMES", "TOOK", "STATES"],
        ["1", "100", "img.resize", "fetch-*", "2.6 s, up to 1 min", "succeeded 100"],
        ["2", "100", "img.resize", "decode-*", "2.6 s, up to 1 min", "failed 2, succeeded 98"],
        ["3", "100", "img.resize", "thumb-*", "blocked 100"],
    ]


def test_names_that_tell_nothing_are_left_out() -> None:
    """A name of its own for each node is no pattern, and a hundred patterns are none either."""
    words = [NodeView("".join(chr(97 + int(digit)) for digit in str(number)), "waiting", task="t") for number in range(100)]
    letters = [NodeView(f"{chr(97 + number % 26)}-{number}", "waiting", task="t") for number in range(100)]
    for nodes in (words, letters):
        [[row]] = rows_of(nodes, [1] * 100)
        assert (row.count, row.names, row.example) == (100, "", nodes[0].name)


@pytest.mark.parametrize("columns", [80, 100])
def test_rows_do_not_wrap(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says least gives way to the edge of the terminal; states have their colours."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    states = Counter(succeeded=7358, failed=68, blocked=68, dispatched=1998, dispatching=2, ready=498, waiting=6337, held=3)
    text = _table([(("2-4", "3 x 2,498", "img.resize", "decode-*", "12 min 3 s, up to 1 h 2 min"), states)])
    plain = click.unstyle(text)
    assert max(map(len, plain.splitlines())) <= columns
    assert "failed 68" in plain
    assert click.style("failed", fg="red") in text


@pytest.fixture
def old_ctl(holding: Daemon, short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ctl]:
    """Run a command against a daemon of the time before workflows were folded."""
    with OlderDaemon(holding, short_tmp / "old", without=("/fold",)) as older:
        yield ctl_of(older, tmp_path, monkeypatch)


def test_large_workflow_is_one_screen(old_ctl: Ctl, slow_ctl: Ctl) -> None:
    """Ten thousand nodes are a few rows with the numbers in each state."""
    nodes: list[dict[str, Any]] = [{"name": "first", "task": "start"}]
    before = "first"
    for number in range(100):
        nodes += [{"name": f"m{number}-{member}", "after": [before]} for member in range(99)]
        before = f"all{number}"
        nodes.append({"name": before, "join": True, "after": [f"m{number}-{member}" for member in range(99)]})
    workflow = submit(slow_ctl, *nodes)
    out = old_ctl("graph", workflow).stdout
    assert out.startswith("sum: running, 10,001 nodes\n")
    assert len(out.splitlines()) == 5
    assert re.search(r"^1 +1 +start +first +dispatch\w+ 1$", out, re.M)
    assert re.search(r"^2-101 +100 x 99 +add +m\*-\* +waiting 9,900$", out, re.M)
    assert out.endswith("longest way, 101 nodes: first -> m0-0 -> m1-0 -> … -> m97-0 -> m98-0 -> m99-0\n")
    document = json.loads(old_ctl("graph", workflow, "--json").stdout)
    assert [(level["first"], level["last"], level["repeats"]) for level in document["levels"]] == [(1, 1, 1), (2, 101, 100)]
    assert document["levels"][1]["groups"] == [
        {
            "level": 2,
            "task": "add",
            "nodes": 9900,
            "states": {"waiting": 9900},
            "example": "m0-0",
            "names": "m*-*",
            "ended": 0,
            "mean_s": None,
            "longest_s": None,
        }
    ]
    assert old_ctl("graph", workflow, "--dot").stdout.count(" -> ") == 99 * 100 * 2


def test_what_is_longer_than_a_screen_is_cut_in_the_middle(old_ctl: Ctl, slow_ctl: Ctl) -> None:
    """Every row different: the ends are shown, and how to see the rest."""
    workflow = submit(slow_ctl, *({"name": f"n{number}", "task": f"t{number}"} for number in range(100)))
    result = old_ctl("graph", workflow)
    assert len(result.stdout.splitlines()) == 44
    assert result.stderr == "60 rows were left out: --all shows them\n"
    assert len(old_ctl("graph", workflow, "--all").stdout.splitlines()) == 103


def test_an_older_daemon_opens_no_sections(old_ctl: Ctl, slow_ctl: Ctl) -> None:
    """It is told, and not answered with something else."""
    workflow = submit(slow_ctl, {"name": "a", "section": "s"})
    for flags in ((), ("--dot",)):
        result = old_ctl("graph", workflow, "--section", "s", *flags)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "this daemon is older and opens no sections" in result.stderr
    assert old_ctl("graph", "nothing").stderr.startswith("error: no workflow has")
