"""The ends of workflows beside what people did, as they come."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from dyrygentd.cli.ends import Ends
from dyrygentd.client.sync import Client
from tests.cli.support import Ctl, environment_of, submit
from tests.http.support import Daemon


def test_each_end_is_told_once(ctl: Ctl, daemon: Daemon) -> None:
    """With its state, its counts and the error; one that is tried again ends again; what was over before is not told."""
    before = submit(ctl, {"name": "a"})
    daemon.finish(before)
    client = Client(daemon.path)
    ends = Ends(client)
    ends._begun_at = ends._newest = (client.get(before).finished_at or 0.0) + 1e-6
    assert ends.new() == []
    failed = submit(ctl, {"name": "a", "task": "fail"}, name="nightly")
    daemon.finish(failed)
    [end] = ends.new()
    assert (end.workflow, end.verb, end.by) == (failed, "failed", "dyrygentd")
    assert end.detail.startswith("'nightly' after ")
    assert "failed 1" in end.detail
    assert ends.new() == []
    ctl("retry", failed)
    daemon.finish(failed)
    assert [each.workflow for each in ends.new()] == [failed]
    only = Ends(client, only=before)
    submitted = submit(ctl, {"name": "a"})
    daemon.finish(submitted)
    assert only.new() == []


def test_events_follow_tells_ends(holding: Daemon, short_tmp: Path) -> None:
    """Somebody who has the journal on a second screen sees that the night's run is over."""
    command = [sys.executable, "-c", "from dyrygentd.cli import main; main()", "events", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment_of(holding)) as following:
        assert following.stdout is not None
        try:
            workflow = holding.submit()
            holding.ask("POST", f"/v1/workflows/{workflow}/pause", {})
            assert json.loads(following.stdout.readline())["verb"] == "pause"
            holding.ask("POST", f"/v1/workflows/{workflow}/cancel", {})
            told = [json.loads(following.stdout.readline()) for _ in range(2)]
            assert {entry["verb"] for entry in told} == {"cancel", "cancelled"}
            assert all(entry["at"] > 0 for entry in told)
        finally:
            following.send_signal(signal.SIGINT)
        assert following.wait(30) == 130
