"""Backfill: each slot of a range once, in order, some at a time, and on again after an interruption."""

import json
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.client.sync import Client
from tests.cli.support import Ctl
from tests.http.support import Daemon

_RANGE = ("--from", "2026-11-01T00:00Z", "--to", "2026-11-01T03:00Z", "--every", "1h")
_SLOTS = [f"2026-11-01T0{hour}:00:00Z" for hour in range(3)]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A definition that takes the slot."""
    path = tmp_path / "report.yaml"
    path.write_text(
        "name: report ${slot}\nparameters: {slot: null, count: 2}\n"
        'nodes:\n  - {name: a, task: add, args: ["${count}", 1], payload: "${slot}"}\n'
    )
    return path


def _run(ctl: Ctl, *more: str, **options: Any) -> Any:
    return ctl("backfill", "report.yaml", *_RANGE, *more, **options)


def test_each_slot_once(ctl: Ctl, daemon: Daemon, report: Path) -> None:
    """The slot is in key, name and parameter; a second run finds all of them."""
    done = _run(ctl, "-p", "count=4")
    assert done.exit_code == 0, done.output
    assert "3 of 3 slots succeeded" in done.stderr
    with Client(daemon.path) as client:
        views = [view for view in client.list() if view.name.startswith("report")]
        assert [(view.key, view.name) for view in reversed(views)] == [(f"report/{slot}", f"report {slot}") for slot in _SLOTS]
    again = json.loads(_run(ctl, "-p", "count=4", "--json").stdout)
    assert [(each["slot"], each["state"], each["created"]) for each in again] == [(slot, "succeeded", False) for slot in _SLOTS]


def test_dry_run(ctl: Ctl, report: Path) -> None:
    """It lists slots and keys."""
    shown = json.loads(_run(ctl, "--dry-run", "--json", "--key", "r@{slot}").stdout)
    assert shown == [{"slot": slot, "key": f"r@{slot}"} for slot in _SLOTS]
    assert "3 slots; nothing was submitted" in _run(ctl, "--dry-run").stderr


def test_a_slot_by_hand_is_passed_over(ctl: Ctl, report: Path) -> None:
    """`submit --slot` gives the key that backfill gives."""
    submitted = ctl("submit", "report.yaml", "--slot", "2026-11-01T01:00Z", "--wait")
    assert submitted.exit_code == 0, submitted.output
    done = json.loads(_run(ctl, "--json").stdout)
    assert [each["created"] for each in done] == [True, False, True]
    assert done[1]["id"] in submitted.stdout


def test_failures_are_told(ctl: Ctl, report: Path) -> None:
    """The others are submitted all the same; the exit status is 1."""
    report.write_text("name: report\nnodes:\n  - {name: a, task: fail}\n")
    done = _run(ctl)
    assert done.exit_code == 1
    assert "0 of 3 slots succeeded" in done.stderr
    assert "next: dyrygentctl explain" in done.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--every", "0"), "less than a second"),
        (("--to", "2026-10-01"), "--to is not later than --from"),
        (("--to", "2036-10-01", "--every", "1s"), "more than 100,000 slots"),
    ],
)
def test_what_is_refused(ctl: Ctl, report: Path, more: tuple[str, ...], words: str) -> None:
    """Ranges without a slot, or with far too many."""
    refused = _run(ctl, *more)
    assert refused.exit_code == 2
    assert words in refused.output
