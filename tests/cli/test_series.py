"""Runs of a series on the command line: what a submission says it did, exit statuses for scripts, and where a series is seen."""

import json
from typing import Any

import pytest

from dyrygentd.client.sync import Client
from dyrygentd.errors import BadRequest, RemoteError
from tests.cli.support import Ctl
from tests.http.support import Daemon

_NODES = [{"name": "a", "task": "add", "args": [1, 2]}]


def _submit(ctl: Ctl, if_running: str, *more: str) -> Any:
    document = json.dumps({"name": "backup", "nodes": _NODES})
    return ctl("submit", "-", "--series", "backup/gra1", "--if-running", if_running, *more, input=document)


def test_skip(slow_ctl: Ctl) -> None:
    """The id on stdout is that of the run that goes on, the exit status tells scripts, and --wait waits for nothing."""
    first = _submit(slow_ctl, "skip").stdout.strip()
    skipped = _submit(slow_ctl, "skip", "--wait")
    assert (skipped.exit_code, skipped.stdout.strip()) == (6, first)
    assert f"skipped: run {first[:8]} of series 'backup/gra1' goes on; nothing was created" in skipped.stderr
    told = _submit(slow_ctl, "skip", "--json", "--wait")
    document = json.loads(told.stdout)
    assert (told.exit_code, document["id"], document["decided"], document["created"]) == (6, first, "skipped", False)
    assert "skipped-run" in slow_ctl("events", first).output
    shown = json.loads(slow_ctl("list", "--series", "backup/gra1", "--json").stdout)
    assert [view["id"] for view in shown] == [first]


def test_queue_one_and_cancel_old(slow_ctl: Ctl) -> None:
    """What waits is scheduled behind a run; lists, `show` and `explain` name it."""
    first = _submit(slow_ctl, "queue_one").stdout.strip()
    queued = _submit(slow_ctl, "queue_one")
    second = queued.stdout.strip()
    assert f"it begins when run {first[:8]} of series 'backup/gra1' has ended" in queued.stderr
    third = _submit(slow_ctl, "queue_one")
    assert f"it takes the place of {second[:8]}, which is cancelled" in third.stderr
    shown = slow_ctl("show", third.stdout.strip()).output
    assert f"when run {first} of its series has ended" in shown
    assert "backup/gra1  (if one is running: queue_one)" in shown
    assert f"after {first[:8]}" in slow_ctl("list", "--series", "backup/gra1").output
    assert "`release` starts it now" in slow_ctl("explain", third.stdout.strip()).output
    assert f"run {third.stdout.strip()} of its series 'backup/gra1' waits in its place" in slow_ctl("show", second).output
    last = _submit(slow_ctl, "cancel_old")
    assert "cancelled for it, of series 'backup/gra1'" in last.stderr
    states = {view["id"]: view["state"] for view in json.loads(slow_ctl("list", "--series", "backup/gra1", "--json").stdout)}
    assert states == {first: "cancelled", second: "cancelled", third.stdout.strip(): "cancelled", last.stdout.strip(): "running"}


def test_what_is_refused(slow_ctl: Ctl) -> None:
    """Each tells the field and what is allowed."""
    without = slow_ctl("submit", "-", "--if-running", "skip", input=json.dumps({"nodes": _NODES}))
    assert without.exit_code == 1
    assert "`if_running` is skip, and there is no `series`" in without.stderr
    wrong = slow_ctl("submit", "-", "--series", "a b", input=json.dumps({"nodes": _NODES}))
    assert wrong.exit_code == 1
    assert "`series` is 'a b'" in wrong.stderr
    assert "1 to 100 of the characters" in wrong.stderr
    word = slow_ctl("submit", "-", input=json.dumps({"nodes": _NODES, "series": "s", "if_running": "wait"}))
    assert word.exit_code == 1
    assert "queue_one" in word.stderr


def test_client(holding: Daemon) -> None:
    """The arguments of a submission go before what the definition says; the same is seen over HTTP."""
    with Client(holding.path) as client:
        document = {"name": "backup", "nodes": _NODES, "series": "s", "if_running": "skip"}
        first = client.submit(document)
        second = client.submit(document, if_running="queue_one")
        assert first.submitted is not None
        assert second.submitted is not None
        assert (first.submitted.decided, second.submitted.decided, second.submitted.going) == ("began", "queued", first.id)
        assert [view.id for view in client.list(series="s")] == [second.id, first.id]
        assert client.list(series="other") == []
        assert client.submit(document, series="other").submitted.decided == "began"  # type: ignore[union-attr]
        with pytest.raises((BadRequest, RemoteError), match="`series` is"):
            client.submit(document, series="no spaces")
        first.cancel()
        assert second.status().state == "running"
        assert json.loads(second.export())["workflow"]["series"] == "s"
        assert json.loads(second.definition())["if_running"] == "queue_one"
