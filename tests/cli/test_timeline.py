"""`dyrygentctl timeline`: where the time went, on a screen of any size, and as a trace."""

import json
import os
import re
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.cli import gantt, render
from dyrygentd.cli.perfetto import trace
from dyrygentd.wire import AttemptView, NodeView, TimelineRow, TimelineView, WorkflowView
from tests.cli.support import Ctl, OlderDaemon, Terminal, ctl_of, submit, zone
from tests.cli.test_verbs import HOSTILE
from tests.http.support import Daemon

START = 1_700_000_000.0


def row(title: str = "a", **given: list[float]) -> TimelineRow:
    """Return a row; what is not given is nothing in each of its bins."""
    bins = len(next(iter(given.values())))
    series: dict[str, Any] = {name: [0] * bins for name in ("waiting", "running", "again", "backoff", "ended", "failed")} | given
    return TimelineRow(path=title, kind="section", title=title, nodes=3, first=START, last=START + bins, **series)


def view(*rows: TimelineRow) -> TimelineView:
    bins = len(rows[0].running)
    return TimelineView("id", "nightly", "failed", "", START, START + 600 * bins, 600.0, list(rows), 0)


def plain(shown: TimelineView, *, width: int = 80, rows_max: int | None = None) -> list[str]:
    return [click.unstyle(line) for line in gantt.lines(shown, width=width, rows_max=rows_max)]


# --- drawing --------------------------------------------------------------------------------------------------------


def test_each_bin_says_what_was_most() -> None:
    """A failure is seen in any bin; then what ran, as high as it was, again or at first; then what waited, then what ended."""
    drawn = gantt.chart(
        row(
            waiting=[3, 1, 0, 3, 2, 0, 0],
            running=[0, 0.6, 8, 4, 0, 0, 0],
            again=[0, 0, 0, 0.5, 1, 0, 0],
            ended=[0, 0, 0, 0, 0, 1, 0],
            failed=[0, 0, 0, 2, 0, 0, 0],
        )
    )
    assert click.unstyle(drawn) == "·▁█FTS "
    assert len(re.findall("\x1b\\[3", drawn)) == 5
    paused = row(running=[1, 0, 0, 0, 0], waiting=[0, 2, 1, 0, 0], backoff=[9, 1, 2, 1, 0])
    assert click.unstyle(gantt.chart(paused)) == "▁·~~ "
    # An older daemon counts pauses as waiting.
    paused.backoff = []
    assert click.unstyle(gantt.chart(paused)) == "▅··  "
    assert plain(view(row(running=[1], waiting=[1], backoff=[2])))[4].endswith("25%")
    # In a retry loop attempts are short, and the pauses between them long.
    loop = row(
        running=[0.02, 0, 0, 0, 0, 0],
        again=[0, 0, 0.02, 0, 0.02, 0.02],
        backoff=[0.5, 1, 0.9, 1, 0.9, 0],
        waiting=[0, 0, 0, 0, 0, 1],
    )
    assert click.unstyle(gantt.chart(loop)) == "▁~T~T·"


def test_heads_stay_in_line_with_what_is_below() -> None:
    """Beginning, zone, the length of a column, and times over the columns that they belong to; no line is too wide."""
    axis = "|0            |2 h 20 min   |"
    for width, ticks in ((40, axis[:15]), (80, axis[:26]), (200, f"{axis}4 h 40 min")):
        bins = gantt.columns(width)
        shown = view(row("drain", running=[1] * bins), row("日本語" * 20, running=[0] * bins, failed=[0.0] * (bins - 1) + [1.0]))
        lines = plain(shown, width=width)
        assert lines[0] == "nightly: failed"
        assert re.fullmatch(rf"[-\d]+ [:\d]+ to [-\d]+ [:\d]+ {zone()}, \d+ (h|d)( \d+ (h|min))?; a column is 10 min", lines[1])
        at = lines[3].index("|0")
        assert lines[3][at:].startswith(ticks)
        assert lines[4][at : at + bins] == "█" * bins
        assert lines[4].split()[:2] == ["drain/", "3"]
        assert all(render.width_of(line) <= max(width, 72) for line in lines)


def test_what_has_no_room_is_counted() -> None:
    """Failures and long rows stay, in the order of time."""
    rows = [row(str(number), running=[number % 7], failed=[float(number == 14)]) for number in range(30)]
    lines = plain(view(*rows), rows_max=4)
    assert [line.split()[0] for line in lines[4:7]] == ["6/", "13/", "14/"]
    assert lines[7] == "… 27 more, in which less happened"
    assert len(plain(view(*rows))) == 36


def test_the_next_command_opens_what_failed() -> None:
    """Or what took most; a box that is a node is none to open."""
    rows = [row("a", running=[9]), row("it's", running=[1], failed=[1])]
    assert list(gantt.next_commands(view(*rows))) == [
        "dyrygentctl explain id",
        """dyrygentctl timeline id --section 'it'"'"'s'""",
    ]
    node = row("n", running=[1])
    node.kind = "node"
    assert list(gantt.next_commands(view(node))) == ["dyrygentctl show id"]


# --- the command ----------------------------------------------------------------------------------------------------


def test_it_is_shown_and_opened(ctl: Ctl, daemon: Daemon) -> None:
    """In 80 columns where nobody says how many there are; as JSON with as many bins as were asked for."""
    workflow = submit(ctl, {"name": "a", "section": "s/t"}, {"name": "b", "task": "fail", "after": ["a"]})
    daemon.finish(workflow)
    out = ctl("timeline", workflow).stdout.splitlines()
    assert [line.split()[0] for line in out[3:6]] == ["BOX", "s/", "b"]
    assert out[5].split()[2].endswith("F")
    assert "t/" in ctl("timeline", workflow, "--section", "s").stdout
    shown = json.loads(ctl("timeline", workflow, "--json", "--bins", "7").stdout)
    assert [len(each["running"]) for each in shown["rows"]] == [7, 7]
    missing = ctl("timeline", workflow, "--section", "x")
    assert missing.exit_code == 1
    assert f"next: `dyrygentctl timeline {workflow}` shows what can be opened" in missing.stderr


@pytest.mark.parametrize("columns", [100, 200])
def test_a_terminal_is_filled_and_not_wrapped(ctl: Ctl, daemon: Daemon, columns: int) -> None:
    """Whatever the names are, and with what to do next in the end."""
    workflow = submit(ctl, *({"name": name, "section": f"s{number}"} for number, name in enumerate(HOSTILE)), name=HOSTILE[0])
    daemon.finish(workflow)
    terminal = Terminal(daemon, "timeline", workflow, columns=columns)
    assert terminal.end() == 0
    lines = [click.unstyle(line) for line in terminal.seen.decode().splitlines()]
    assert all(line.isprintable() for line in lines)
    assert all(len(line) <= columns for line in lines[:-3])
    assert lines[-1].startswith(f"next: dyrygentctl timeline {workflow} --section s")


def test_an_older_daemon_is_told(ctl: Ctl, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do."""
    workflow = submit(ctl, {"name": "a"})
    with OlderDaemon(daemon, tmp_path / "old", without=("timeline",)) as older:
        result = ctl_of(older, tmp_path, monkeypatch)("timeline", workflow)
    assert result.exit_code == 1
    assert result.stderr == "error: this daemon is older and has no timelines\nnext: upgrade and restart the daemon\n"


@pytest.mark.parametrize("wrong", ["--bins 5", "--force", "--perfetto x --json", "--perfetto x --section a"])
def test_what_makes_no_sense_is_refused(ctl: Ctl, wrong: str) -> None:
    """Before anything is asked or written."""
    assert ctl("timeline", "x", *wrong.split()).exit_code == 2
    assert not Path("x").exists()


# --- traces ---------------------------------------------------------------------------------------------------------


def read(*nodes: NodeView) -> list[dict[str, Any]]:
    """Return the events of a trace."""
    text = "".join(trace(WorkflowView("id", "n", "running", START, len(nodes), {}), nodes, now=START + 100))
    found: list[dict[str, Any]] = json.loads(text)["traceEvents"]
    return found


def test_slices_of_one_track_never_overlap() -> None:
    """Each has the first lane that is free when it begins; other sections have tracks of their own."""
    times = [(0, 5), (1, 2), (5, 6), (2, 9), (3.0000004, 3.0000005), (3, 3), (0, None)]
    nodes = [
        NodeView(str(number), "succeeded" if end else "dispatched", section=section, dispatched_at=START + begin)
        for section in ("x", "y")
        for number, (begin, end) in enumerate(times)
    ]
    for node, (_, end) in zip(nodes, [*times, *times], strict=True):
        node.finished_at = START + end if end else None
    events = [event for event in read(*nodes) if event["ph"] == "X"]
    assert len(events) == 14
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in events:
        assert isinstance(event["ts"], int)
        tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["dur"]))
    assert {track: len(slices) for track, slices in tracks.items() if track[0] == 1} == {
        (1, 1): 2,
        (1, 2): 1,
        (1, 3): 4,
    } or tracks
    for slices in tracks.values():
        slices.sort()
        assert all(begin + length <= later for (begin, length), (later, _) in pairwise(slices))
    assert max(tid for _, tid in tracks) == 5


def test_a_slice_tells_of_its_task() -> None:
    """Tracks are named, what has no task is a moment, joins and what did not run are left out; names are harmless."""
    events = read(
        NodeView(
            "\x1b[31m", "failed", task="t", task_id="i", attempt=2, error="no\x1b", dispatched_at=START, finished_at=START + 1
        ),
        NodeView("g", "succeeded", kind="gate", finished_at=START + 2),
        NodeView("j", "succeeded", kind="join", finished_at=START + 2),
        NodeView("w", "waiting"),
        NodeView("r", "retrying", dispatched_at=START),
    )
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"] == ["t", "(gate)"]
    [piece] = [event for event in events if event["ph"] == "X"]
    assert piece == {
        "name": "\\x1b[31m",
        "cat": "failed",
        "ts": int(START * 1e6),
        "ph": "X",
        "dur": 1_000_000,
        "cname": "terrible",
        "args": {"task": "t", "task id": "i", "attempt": 2, "state": "failed", "error": "no\\x1b"},
        "pid": 1,
        "tid": 1,
    }
    assert [event["name"] for event in events if event["ph"] == "i"] == ["g"]


def test_each_attempt_is_a_slice() -> None:
    """They and the pauses between them are in one lane, in the order of time; what waits for its next attempt has had some."""
    tried = [
        AttemptView(1, "failed", START, "i1", START + 1, START + 2, worker="one@host", error="no", waited_s=0.25),
        AttemptView(2, "lost", START + 6, "i2", None, START + 9, 3.0, 1.0),
    ]
    third = AttemptView(3, "dispatched", START + 20, "i3", backoff_s=5.0)
    events = read(
        NodeView("a", "dispatched", task="t", attempt=3, dispatched_at=START + 20, reported="STARTED", attempts=[*tried, third]),
        NodeView("b", "succeeded", task="t", attempt=1, dispatched_at=START + 3, finished_at=START + 4),
        NodeView("c", "retrying", task="t", attempt=2, attempts=tried),
    )
    slices = [event for event in events if event["ph"] == "X"]
    of_a = [event for event in slices if event["tid"] == 1]
    begin = int(START * 1e6)
    assert [(event["name"], event["cat"], event["ts"] - begin, event["dur"]) for event in of_a] == [
        ("a", "failed", 0, 2_000_000),
        ("a: pause", "backoff", 2_000_000, 3_000_000),
        ("a", "lost", 6_000_000, 3_000_000),
        ("a: pause", "backoff", 9_000_000, 5_000_000),
        ("a", "dispatched", 20_000_000, 80_000_000),
    ]
    assert of_a[0]["args"] == {
        "task": "t",
        "task id": "i1",
        "attempt": 1,
        "state": "failed",
        "error": "no",
        "worker": "one@host",
        "began s after it was sent": 1.0,
        "waited s": 0.25,
    }
    assert of_a[4]["args"]["reported"] == "STARTED"
    # What ran while the first one paused has a lane of its own, and so has the other that was tried again.
    assert {event["name"]: event["tid"] for event in slices} == {"a": 1, "a: pause": 1, "c": 2, "c: pause": 2, "b": 3}


@given(st.lists(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 20), st.floats(0, 20)), max_size=5), max_size=12))
def test_a_trace_keeps_the_rules_of_its_form(nodes: list[list[tuple[float, float, float]]]) -> None:
    """As a viewer demands: whole numbers, nothing below zero, every track named, no slice over another one's end.

    The rules are those of Chrome's Trace Event Format (complete and instant events, metadata) and of Perfetto's import of it.
    """
    views = []
    for number, times in enumerate(nodes):
        at, tried = START, list[AttemptView]()
        for wait_s, run_s, pause_s in times:
            sent_at = at + wait_s
            tried.append(AttemptView(len(tried) + 1, "failed", sent_at, "i", None, sent_at + run_s, min(pause_s, wait_s)))
            at = sent_at + run_s
        finished_at = at if tried or number % 2 else None
        views.append(NodeView(str(number), "failed", task="t", attempt=len(tried), finished_at=finished_at, attempts=tried))
    events = read(*views)
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    ends: dict[tuple[int, int], int] = {}
    for event in events:
        assert event["ph"] in ("X", "M", "i")
        assert type(event["pid"]) is type(event["tid"]) is int
        assert isinstance(event["args"], dict)
        if event["ph"] != "M":
            assert type(event["ts"]) is int
            assert event.get("s", "t") == "t"
            assert (event["pid"], event["tid"]) in named
    for event in sorted((each for each in events if each["ph"] == "X"), key=lambda each: each["ts"]):
        track = event["pid"], event["tid"]
        assert type(event["dur"]) is int
        assert event["dur"] >= 0
        assert event["ts"] >= ends.get(track, 0)
        ends[track] = event["ts"] + event["dur"]


def test_of_too_many_sections_the_last_share_tracks() -> None:
    """A viewer is of no use with ten thousand of them."""
    nodes = [NodeView(str(n), "succeeded", section=f"s{n}", dispatched_at=START, finished_at=START + 1) for n in range(300)]
    names = [event["args"]["name"] for event in read(*nodes) if event["name"] == "process_name"]
    assert (len(names), names[-1]) == (201, "others")


def test_a_trace_is_written_all_or_not(ctl: Ctl, daemon: Daemon) -> None:
    """For its owner to read, over nothing by mistake, and to stdout."""
    workflow = submit(ctl, {"name": "a"}, {"name": "b"})
    daemon.finish(workflow)
    assert ctl("timeline", workflow, "--perfetto", "t.json").exit_code == 0
    assert stat.S_IMODE(os.stat("t.json").st_mode) == 0o600
    written = Path("t.json").read_text()
    assert sum(event["ph"] == "X" for event in json.loads(written)["traceEvents"]) == 2
    again = ctl("timeline", workflow, "--perfetto", "t.json")
    assert again.stderr == "error: 't.json' exists\nnext: choose another name, or pass --force\n"
    assert ctl("timeline", workflow, "--perfetto", "t.json", "--force").exit_code == 0
    assert json.loads(ctl("timeline", workflow, "--perfetto", "-").stdout)["otherData"]["id"] == workflow
    Path("loose").symlink_to("nowhere")
    assert ctl("timeline", workflow, "--perfetto", "loose").exit_code == 1
    nowhere = ctl("timeline", workflow, "--perfetto", "no/such/t.json")
    assert nowhere.stderr == "error: cannot write 'no/such/t.json': No such file or directory\nnext: choose another place\n"
    assert ctl("timeline", workflow, "--perfetto", "/dev/null").exit_code == 0
    assert sorted(os.listdir()) == ["loose", "t.json"]
