"""`dyrygentctl list` at any width: what is broken or waits for a person is seen, and nothing is cut silently."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from dyrygentd import cli
from dyrygentd.cli import render
from dyrygentd.cli.listing import listing, mark_of
from dyrygentd.cli.times import in_column
from dyrygentd.cli.tree import TreeLine
from dyrygentd.wire import WorkflowView
from tests.cli.support import Ctl, Terminal, submit
from tests.http.support import Daemon

IDS = ("1a5744df-c815-4f1b-ba40-cb689a159809", "1a5744df-d000-4f1b-ba40-cb689a159809", "70ea037b-723f-4900-bb66-e2a28cfe0dda")


def view(number: int, **fields: Any) -> WorkflowView:
    """Return the view of a workflow."""
    given: dict[str, Any] = {"id": IDS[number], "name": "nightly", "state": "running", "created_at": 1e9, "tasks": 100}
    return WorkflowView(**given | {"counts": {}} | fields)


def table(views: Sequence[WorkflowView], *, width: int | None) -> str:
    """Return the table of workflows none of which is shown below another one."""
    return listing([*map(TreeLine, views)], width=width)


FAILED = view(0, state="failed", finished_at=1e9 + 50, tasks=9_997, counts={"succeeded": 9_990, "failed": 2, "blocked": 5})
GATED = view(1, name="n", counts={"held": 1, "waiting": 99}, waits_for_person={"gate": 1})
FINE = view(2, state="succeeded", finished_at=1e9 + 8, counts={"succeeded": 100})


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("name", ["n", "nightly " * 20, "\u65e5\u672c\u8a9e" * 30, "a\x1b[2Jb\u202e" * 20])
def test_lines_do_not_wrap(width: int, name: str) -> None:
    """Where a line has no room notes stand below, then times go, and then the name is shortened, with a mark."""
    views = [view(0, name=name, state="failed", finished_at=1e9 + 5e5, tasks=99_999, counts={"failed": 2, "blocked": 5}), GATED]
    lines = click.unstyle(table(views, width=width)).splitlines()
    assert max(map(render.width_of, lines)) <= width
    assert all(line.isprintable() for line in lines)
    text = "\n".join(lines)
    assert "2 failed, 5 blocked" in text
    assert "1 gate waits for release" in text
    assert render.inline(name) in text or "…" in text


def test_each_line_says_how_it_stands() -> None:
    """Marks to count by, a bar with its letters, and ids that are as long as they have to be to differ."""
    lines = click.unstyle(table([FAILED, GATED, FINE], width=200)).splitlines()
    assert [re.split(r"  +", line.strip())[:6] for line in lines[1:]] == [
        ["! 1a5744df-c", "nightly", "failed", "9,990/9,997", "SSSSSSSSSFB", in_column(1e9)],
        [
            "? 1a5744df-d",
            "n",
            "running",
            "0/100",
            "H" + 10 * "·",
            in_column(1e9),
        ],
        ["70ea037b-7", "nightly", "succeeded", "100/100", "SSSSSSSSSSS", in_column(1e9)],
    ]
    assert "NOTE" not in table([FINE], width=200)


def test_elsewhere_everything_is_whole() -> None:
    """A script gets the whole id and the whole name."""
    text = table([FAILED, view(1, name="x" * 150)], width=None)
    assert IDS[0] in text
    assert "x" * 150 in text


def test_what_is_marked() -> None:
    """Failures first; what has ended waits for nobody."""
    views = [FAILED, GATED, FINE, view(0, state="paused"), view(0, counts={"failed": 1}, waits_for_person={"gate": 1})]
    assert [mark_of(each) for each in views] == ["!", "?", "", "?", "!"]


def test_a_terminal_is_told_how_many_and_what_next(ctl: Ctl, daemon: Daemon) -> None:
    """Nobody counts lines at night; and the next command is ready to be pasted."""
    failed = submit(ctl, {"name": "a", "task": "fail"})
    daemon.finish(failed)
    terminal = Terminal(daemon, "list", columns=80)
    assert terminal.end() == 0
    lines = click.unstyle(terminal.seen.decode()).splitlines()
    assert lines[-2:] == ["! 1 with failures, of 1 workflow", f"next: dyrygentctl explain {failed}"]
    submit(ctl, {"name": "go", "gate": True})
    terminal = Terminal(daemon, "list", columns=80)
    assert terminal.end() == 0
    lines = click.unstyle(terminal.seen.decode()).splitlines()
    assert lines[-2:] == ["! 1 with failures, ? 1 waiting for a person, of 2 workflows", "next: dyrygentctl explain"]


def test_the_guide_shows_what_is_listed() -> None:
    """What the guide promises is what a person gets on a narrow terminal."""
    begun = time.time() - 3 * 86_400 - 1_800
    views = [
        view(
            0,
            name="nightly",
            state="failed",
            finished_at=1e9 + 50,
            tasks=902,
            counts={"succeeded": 893, "failed": 4, "blocked": 5},
        ),
        view(1, name="replace gra1-osd-42", created_at=begun, tasks=57, counts={"succeeded": 20, "held": 1, "waiting": 36}),
        view(2, name="drain", state="succeeded", finished_at=1e9 + 8, counts={"succeeded": 100}),
    ]
    views[1].waits_for_person = {"gate": 1}
    text = click.unstyle(table(views, width=76))
    assert f"```\n{text}\n" in Path(cli.__file__).with_name("README.md").read_text()
