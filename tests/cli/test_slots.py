"""Slots of timers: the time that was scheduled, however late somebody gets to it."""

import os
import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest

from dyrygentd.cli import slots

_NOW = datetime.fromisoformat("2026-12-01T03:40:00Z").timestamp()

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NOT RUN: there is no systemd-analyze")


def _systemctl(directory: Path, monkeypatch: pytest.MonkeyPatch, shown: str, status: int = 0) -> None:
    """Put a `systemctl` on PATH that knows one timer: no systemd runs here."""
    script = directory / "systemctl"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\nEND\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("calendar", "slot"),
    [
        ("*-*-* 02:00:00", "2026-12-01T02:00:00Z"),
        ("*-*-* 23:00:00", "2026-11-30T23:00:00Z"),
        ("*-*-* *:00/15:00", "2026-12-01T03:30:00Z"),
        ("*-*-* *:*:*", "2026-12-01T03:40:00Z"),
        ("*-02-29 00:00:00", "2024-02-29T00:00:00Z"),
    ],
)
def test_last_time_of_a_timer(calendar: str, slot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the last one that has come, whether a second or years ago."""
    _systemctl(tmp_path, monkeypatch, f"{{ OnCalendar={calendar} UTC ; next_elapse=n/a }}")
    assert slots.text_of(slots.last_of("x.timer", _NOW)) == slot


def test_the_later_of_several_and_the_zone_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer may have several calendars, and times are those of the host, with its summer."""
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    try:
        shown = "{ OnCalendar=*-*-* 02:00:00 ; next_elapse=a }\n{ OnCalendar=*-*-* 04:30:00 ; next_elapse=b }"
        _systemctl(tmp_path, monkeypatch, shown)
        assert slots.text_of(slots.last_of("x.timer", _NOW)) == "2026-12-01T03:30:00Z"
        days = [slots.text_of(at) for at in slots.between(1792879200.0, 1792879200.0 + 3 * 86400, 86400.0)]
        assert days == ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "2026-10-26T23:00:00Z"]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("shown", "status", "words"),
    [
        ("", 0, "is no timer with OnCalendar="),
        ("{ OnCalendar=2030-01-01 00:00:00 ; next_elapse=a }", 0, "was never due yet"),
        ("Unit x.timer could not be found.", 1, "systemctl:"),
        ("{ OnCalendar=nonsense ; next_elapse=a }", 0, "systemd-analyze:"),
    ],
)
def test_what_cannot_be_told(
    shown: str, status: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the time may be given instead."""
    _systemctl(tmp_path, monkeypatch, shown, status)
    with pytest.raises(SystemExit) as ended:
        slots.last_of("x.timer", _NOW)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert words in said
    assert "--slot TIME" in said


def test_keys() -> None:
    """The slot stands where it is meant to, and never not at all."""
    assert slots.key_of(None, "S", stem=slots.stem_of("/etc/dyrygentd/recurring/backup.yaml")) == "backup/S"
    assert slots.key_of("k-{slot}-x", "S", stem="") == "k-S-x"
    assert slots.key_of("k", "S", stem="") == "k/S"
    assert slots.stem_of("module:flow") == "module:flow"
