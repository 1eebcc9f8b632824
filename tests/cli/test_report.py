"""`dyrygentctl report`: a run in one file that needs nothing else and does no harm."""

import json
import os
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.cli.report_page import BYTES_MAX, Material, page
from dyrygentd.wire import (
    BoxView,
    Causes,
    CauseView,
    EdgeView,
    Explanation,
    FoldView,
    JournalView,
    StandingView,
    TimelineRow,
    TimelineView,
    WorkflowView,
)
from tests.cli.support import Ctl, OlderDaemon, ctl_of, submit
from tests.cli.test_verbs import HOSTILE
from tests.http.support import Daemon

EVIL = "</svg><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\u202e"
#: Elements that a report has; each other one would come from a name.
_ELEMENTS = """
    html head meta title style body main h1 h2 p span dl dt dd div table thead tbody tr th td b br svg g path rect text footer
"""


class Reader(HTMLParser):
    """Reads a report, and notes what is in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.attributes: set[str] = set()
        self.elements: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.words.append(data)


def material(name: str = EVIL, *, boxes: int = 3, others: int = 3) -> Material:
    """Return a report's material with one text everywhere."""
    bins = 150
    series: dict[str, Any] = {each: [0.333, 1] * (bins // 2) for each in ("waiting", "running", "again", "ended", "failed")}
    rows = [TimelineRow(f"~{n}", "group", name, 5, 1.0, 2.0, **series) for n in range(min(boxes, 100))]
    states = {"failed": 2, "succeeded": 3, name: 1}
    shown = [BoxView(f"~{n}", "group", name, 6, states, failed=name, error=name, first_level=n) for n in range(boxes)]
    edges = [EdgeView(n, n + 1, 1) for n in range(boxes - 1)]
    entry = JournalView(1.0, "retry", name, name, [name] * 20, 900, name)
    return Material(
        workflow=WorkflowView("id", name, "failed", 1.0, 5, states, 2.0, name, {name: name}, name),
        fold=FoldView("id", name, "failed", "", 5, shown, edges, 0),
        timeline=TimelineView("id", name, "failed", "", 1.0, 2.0, 1 / bins, rows, 0),
        causes=Causes(7, [CauseView(n, name, name, 9, name, [name] * 20, 1) for n in range(others)], 2),
        journal=[entry] * others,
        explanation=Explanation(
            "id", "failed", "x", name, standings=[StandingView("held", name, name, examples=[name])] * others
        ),
    )


@pytest.mark.parametrize("name", [EVIL, *HOSTILE])
def test_texts_are_texts(name: str) -> None:
    """Whatever a node, an error or a reason is called: no element and no attribute of it, no control and no other direction."""
    text = page(material(name))
    reader = Reader(text)
    assert reader.elements <= {*_ELEMENTS.split()}
    assert not {each for each in reader.attributes if each.startswith("on")}
    assert not reader.attributes & {"src", "href", "xlink:href", "action", "style"}
    assert text.replace("\n", "").isprintable()
    assert "url(" not in text


def test_it_is_never_too_long() -> None:
    """Of the largest fold, with the longest names, in texts that grow most when they are escaped."""
    text = page(material("'" * 5000, boxes=300, others=3000))
    assert len(text.encode()) <= BYTES_MAX
    assert "more, which have no room here" in text
    assert "boxes are too many to be drawn" in text
    plain = page(material("drain", boxes=300, others=3000))
    assert "2,950 causes more" in plain
    assert "2,800 earlier entries more" in plain


def test_what_is_not_there_is_left_out() -> None:
    """A run without failures has no such part, and nothing is divided by nothing."""
    empty = material("n", boxes=0, others=0)
    text = page(empty)
    assert "Failures by cause" not in text
    assert "What has not run" not in text
    assert "Nobody changed anything" in text
    assert "<svg" not in text


def test_a_run_is_written(ctl: Ctl, daemon: Daemon) -> None:
    """All parts of it, once, for its owner to read; as data with --json."""
    workflow = submit(
        ctl,
        {"name": "a", "section": "first"},
        {"name": "b", "task": "fail", "after": ["a"], "section": "second"},
        {"name": "c", "after": ["b"], "section": "second"},
        name="nightly",
        labels={"cluster": "gra1"},
    )
    daemon.finish(workflow)
    ctl("retry", workflow, "--why", "DNS is back")
    daemon.finish(workflow)
    assert ctl("report", workflow, "-o", "r.html").stderr == "written: r.html\n"
    assert stat.S_IMODE(os.stat("r.html").st_mode) == 0o600
    text = Path("r.html").read_text()
    words = " ".join(Reader(text).words)
    for part in (
        "nightly",
        "cluster=gra1",
        "Failures by cause",
        "ValueError",
        "first/",
        "second/",
        "DNS is back",
        "it has failed",
    ):
        assert part in words
    assert len(re.findall("<svg", text)) == 2
    assert ctl("report", workflow, "-o", "r.html").exit_code == 1
    assert ctl("report", workflow, "-o", "-").stdout.startswith("<!doctype html>")
    assert json.loads(ctl("report", workflow, "--json").stdout).keys() == {
        "workflow",
        "fold",
        "timeline",
        "causes",
        "journal",
        "explanation",
        "estimate",
    }
    assert ctl("report", workflow).exit_code == 2


def test_a_run_under_way_tells_how_long_it_goes_on(slow_ctl: Ctl) -> None:
    """Whoever opens the ticket wants to know when to look again."""
    workflow = submit(slow_ctl, {"name": "a", "task": "add"})
    text = slow_ctl("report", workflow, "-o", "-").stdout
    assert "<dt>left</dt><dd>not known yet: nothing of task &#x27;add&#x27; has ended" in text
    assert "<dt>running for</dt>" in text
    assert json.loads(slow_ctl("report", workflow, "--json").stdout)["estimate"]["bound"] == "unknown"
    slow_ctl("cancel", workflow)


def test_an_older_daemon_is_told(ctl: Ctl, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is written."""
    workflow = submit(ctl, {"name": "a"})
    with OlderDaemon(daemon, tmp_path / "old", without=("fold", "timeline")) as older:
        result = ctl_of(older, tmp_path, monkeypatch)("report", workflow, "-o", "r.html")
    assert result.stderr.startswith("error: this daemon is older and folds no workflows\n")
    assert not Path("r.html").exists()
