"""Following a workflow: nothing that matters is crushed at 80 columns, and why it stands still is told."""

import re
import signal
from typing import Any

import pytest

from dyrygentd.cli import main
from dyrygentd.cli.watching import Lines, Speed, counts_line, headline, shortened, troubles
from dyrygentd.wire import WorkflowView
from tests.cli.support import Terminal
from tests.http.support import Daemon
from tests.support.commands import runner

COUNTS = {"succeeded": 1165, "dispatched": 1998, "dispatching": 2, "ready": 498, "waiting": 6337, "failed": 1, "blocked": 2}


def view(**fields: Any) -> WorkflowView:
    """Return the view of a large workflow that began at 1,000."""
    given: dict[str, Any] = {
        "id": "i",
        "name": "november",
        "state": "running",
        "created_at": 1000.0,
        "tasks": 10_000,
        "counts": COUNTS,
    }
    return WorkflowView(**given | fields)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize(
    "name", ["november", "a very long name of a workflow that was made by a program for 2026-11-28T14:30:00Z"]
)
def test_times_and_counts_fit_every_terminal(width: int, name: str) -> None:
    """The name gives way, then the counts that say least; times have names and are never cut."""
    speed = Speed()
    speed.note(view(), 1037.0)
    line = headline(view(name=name), speed, now=1037.0, width=width)
    assert len(line) <= width
    assert "running for 37 s" in line
    if width >= 80:
        assert re.search(r"running for 37 s, about 4 min \d+ s left, 31\.5/s$", line)
    counts = counts_line(COUNTS, width=width)
    assert len(counts) <= width
    assert counts.startswith("failed 1, blocked 2, succeeded 1,165")
    assert counts.endswith("…") == (width < 100)


def test_time_counts_from_the_start_of_the_workflow_and_pace_from_of_late() -> None:
    """Who looks in after an hour wants to know how long it has been running, not how long they look."""
    speed = Speed()
    for second in range(60):
        speed.note(view(counts={"succeeded": 1000 + 10 * second}), 4600.0 + second)
    now = 4659.0
    assert speed.rate(view(), now) == pytest.approx(10.0)
    line = headline(view(counts={"succeeded": 1590}), speed, now=now, width=100)
    assert line == "november  running for 1 h, about 14 min 1 s left, 10.0/s"
    assert speed.left_s(view(waits_for_person={"gate": 1}), now) is None
    assert "left" not in headline(view(state="paused"), speed, now=now, width=100)
    assert headline(view(start_at=5000.0, state="scheduled"), speed, now=now, width=100).startswith(
        "november (scheduled)  starts in 5 min 41 s"
    )


def test_names_are_shortened_in_the_middle() -> None:
    """Names that a program makes begin alike and end differently."""
    assert (shortened("abcdefghij", 10), shortened("abcdefghij", 5), shortened("ab", 1)) == ("abcdefghij", "ab…ij", "…")


def test_why_it_stands_still() -> None:
    """A bar that does not move is a riddle unless it says what it waits for."""
    assert troubles(view()) == []
    assert troubles(view(waits_for_person={"gate": 1})) == ["1 gate waits for release: dyrygentctl explain i"]
    assert troubles(view(state="paused", problems=["disk is full"])) == ["problem: disk is full", "paused: dyrygentctl explain i"]


def test_a_log_gets_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Eight lines a second are no log; what matters is in it at once, all the same."""
    lines = Lines()
    for done in range(100):
        lines.show(view(counts={"succeeded": done}))
    lines.show(view(counts={"succeeded": 100, "failed": 1}))
    lines.show(view(counts={"succeeded": 100, "failed": 1}, waits_for_person={"gate": 1}))
    lines.show(view(counts={"succeeded": 101, "failed": 1}, waits_for_person={"gate": 1}))
    lines.show(view(state="failed", counts={"failed": 1}, finished_at=1100.0))
    told = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^\S+ (\S+ )?\S+ (?=running|failed)", "", line).split(" (")[0] for line in told] == [
        "running 0/10,000 0%",
        "running 100/10,000 1%",
        "running 100/10,000 1%",
        "1 gate waits for release: dyrygentctl explain i",
        "failed 0/10,000 0%",
    ]


def test_live_view_has_number_times_and_gate(holding: Daemon) -> None:
    """As a person sees it on a narrow terminal: the gate is told with the command that says more."""
    workflow = holding.submit({"name": "go", "gate": True}, {"name": "a", "task": "add", "after": ["go"]}, name="w" * 70)
    watching = Terminal(holding, "watch", "--plain", workflow, columns=80)
    watching.wait_for(b"0/2")
    watching.wait_for(b"running for")
    watching.wait_for(f"dyrygentctl explain {workflow}".encode())
    assert b"1 gate waits for release" in watching.seen
    watching.send(signal.SIGINT)
    assert watching.end() == 130


def test_failures_are_told_as_they_happen(holding: Daemon) -> None:
    """Once each, on the screen while the rest goes on."""
    workflow = holding.submit({"name": "bad", "task": "fail"}, {"name": "go", "gate": True}, name="w")
    watching = Terminal(holding, "watch", "--plain", workflow)
    watching.wait_for(b"0/2")
    holding.let_go()
    watching.wait_for(b"'bad' failed: ")
    holding.ask("POST", f"/v1/workflows/{workflow}/release", {"nodes": ["go"]})
    assert watching.end() == 1
    assert watching.seen.count(b"'bad' failed: ") == 1


def test_a_broken_disk_is_told_to_who_watches(holding: Daemon) -> None:
    """Nothing changes while it is broken, so that nothing else would be heard."""
    workflow = holding.submit({"name": "a", "task": "add"}, {"name": "b", "task": "add"}, name="w")
    watching = Terminal(holding, "watch", "--plain", workflow)
    watching.wait_for(b"0/2")
    holding.store.broken = "disk is full"
    holding.let_go()
    watching.wait_for(b"problem: ")
    watching.wait_for(b"disk is full")
    holding.store.broken = ""
    assert watching.end() == 0


def test_wait_tells_what_keeps_the_end_from_coming(holding: Daemon) -> None:
    """A script that hangs at a gate says so in its log."""
    workflow = holding.submit({"name": "go", "gate": True}, name="w")
    result = runner().invoke(main, ["--socket", str(holding.path), "wait", workflow, "--timeout", "0.2"])
    assert result.exit_code == 1
    *_, first, timeout, step = result.stderr.splitlines()
    assert first == f"1 gate waits for release: dyrygentctl explain {workflow}"
    assert timeout.startswith("timeout: 'w' has not finished within 0.2 s")
    assert step.startswith("next: dyrygentctl explain ")
