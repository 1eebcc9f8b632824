"""`dyrygentctl diff`: what is worse in a run than in an earlier one."""

import json
from pathlib import Path

import click
import pytest

from dyrygentd.cli.diff import Pair, lines, paired
from dyrygentd.wire import BoxView, FoldView, TimelineRow, TimelineView
from tests.cli.support import Ctl, OlderDaemon, ctl_of, submit
from tests.cli.test_verbs import HOSTILE
from tests.http.support import Daemon

#: What happened in a box: how many bins of ten seconds it ran, and how many of its two nodes failed.
_Told = dict[str, tuple[int, int]]


def run(**boxes: tuple[int, int]) -> tuple[FoldView, TimelineView]:
    """Return a run of boxes with two nodes each, that begin at the beginning."""
    rows, shown = [], []
    for title, (bins, failed) in boxes.items():
        states = {word: count for word, count in (("succeeded", 2 - failed), ("failed", failed)) if count}
        shown.append(BoxView(title, "section", title, 2, states, error="OSError: no" if failed else None))
        running: list[float] = [2.0] * bins + [0.0] * (100 - bins)
        none, ended = [0.0] * 100, [0] * 99
        rows.append(
            TimelineRow(
                title, "section", title, 2, 1.0, 1.0 + 10 * bins, none, running, none, [*ended, 2 - failed], [*ended, failed]
            )
        )
    return (
        FoldView("id", "n", "failed", "", 2 * len(rows), shown, [], 0),
        TimelineView("id", "n", "failed", "", 1.0, 1001.0, 10.0, rows, 0),
    )


def found(first: _Told, second: _Told) -> dict[str, Pair]:
    return {pair.path: pair for pair in paired(run(**first), run(**second))}


def test_boxes_are_compared_by_their_names() -> None:
    """Means are those of nodes, and what is in one run only is told."""
    pairs = found({"a": (3, 0), "b": (5, 0), "gone": (1, 0)}, {"a": (6, 1), "b": (5, 0), "new": (1, 0)})
    assert [*pairs] == ["a", "b", "new", "gone"]
    worse = pairs["a"]
    assert worse.before is not None
    assert worse.after is not None
    assert (worse.before.took_s, worse.after.took_s, worse.before.run_s, worse.after.run_s) == (30.0, 60.0, 30.0, 60.0)
    assert (worse.slower_s, worse.more_failed) == (30.0, 1)
    assert (pairs["new"].before, pairs["gone"].after) == (None, None)
    assert pairs["gone"].slower_s == -10.0
    shown = click.unstyle("\n".join(lines([*pairs.values()])))
    assert [line.split() for line in shown.splitlines()[1:]] == [
        ["a/", "2", "0", "→", "1", "30", "s", "→", "1", "min", "30", "s", "→", "1", "min", "0.0", "s", "2.0", "x"],
        ["b/", "2", "0", "50", "s", "50", "s", "0.0", "s"],
        ["new/", "-", "→", "2", "-", "→", "0", "-", "→", "10", "s", "-", "→", "10", "s", "-", "→", "0.0", "s", "only", "after"],
        ["gone/", "2", "→", "-", "0", "→", "-", "10", "s", "→", "-", "10", "s", "→", "-", "0.0", "s", "→", "-", "only", "before"],
        ["failed", "a/:", "OSError:", "no"],
    ]
    assert [*lines([])] == ["both are much alike"]


def test_two_runs_are_compared(ctl: Ctl, daemon: Daemon) -> None:
    """What failed comes first; what is alike is not shown, unless all is wanted; boxes can be opened."""
    runs = []
    for task in ("add", "fail"):
        workflow = submit(ctl, *({"name": f"{n}", "section": f"s{n}/t", "task": task if n == 3 else "add"} for n in range(5)))
        daemon.finish(workflow)
        runs.append(workflow)
    out = ctl("diff", *runs)
    head, rows = out.stdout.split("\n\n")
    assert head.splitlines()[1].startswith(f"after   {runs[1]}  sum: failed, ")
    assert [line.split()[0] for line in rows.splitlines()] == ["BOX", "s3/", "failed"]
    assert out.stderr == f"4 more rows, in which both are much alike: --all shows them\nnext: dyrygentctl explain {runs[1]}\n"
    assert len(ctl("diff", *runs, "--all").stdout.splitlines()) == 10
    told = json.loads(ctl("diff", *runs, "--section", "s3", "--json").stdout)
    assert (told["before"]["id"], told["after"]["state"], told["path"]) == (runs[0], "failed", "s3")
    assert [(box["title"], box["before"]["failed"], box["after"]["failed"]) for box in told["boxes"]] == [("t/", 0, 1)]
    assert "both are much alike" in ctl("diff", runs[0], runs[0]).stdout


def test_names_do_no_harm(ctl: Ctl, daemon: Daemon) -> None:
    """Nor does an error."""
    runs = [submit(ctl, *({"name": name, "task": task} for name in HOSTILE), name=HOSTILE[0]) for task in ("add", "fail")]
    for workflow in runs:
        daemon.finish(workflow)
    assert ctl("diff", *runs).stdout.replace("\n", "").isprintable()


def test_an_older_daemon_is_told(ctl: Ctl, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do."""
    workflow = submit(ctl, {"name": "a"})
    with OlderDaemon(daemon, tmp_path / "old", without=("timeline",)) as older:
        result = ctl_of(older, tmp_path, monkeypatch)("diff", workflow, workflow)
    assert result.stderr.startswith("error: this daemon is older and has no timelines\n")
