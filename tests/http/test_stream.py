"""Event streams: every change, no lost end, no harm from clients that leave."""

import http.client
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dyrygentd import wire
from dyrygentd.client.forms import EventReader, StreamEvent
from dyrygentd.http.access import Access, Peer
from dyrygentd.http.app import AROUND
from dyrygentd.http.limits import HttpLimits
from tests.http.support import Daemon, unix_connection
from tests.support.servers import wait_until


class Stream:
    """An open event stream."""

    def __init__(self, daemon: Daemon, workflow_id: str) -> None:
        self._connection = unix_connection(daemon.path)
        self._connection.request("GET", f"/v1/workflows/{workflow_id}/events")
        self.response: http.client.HTTPResponse = self._connection.getresponse()
        self._reader = EventReader()

    def next(self) -> StreamEvent | None:
        """Return the next event, or None at the end of the stream."""
        while line := self.response.readline():
            event = self._reader.feed(line.rstrip())
            if event is not None:
                return event
        return None

    def next_line(self) -> bytes:
        """Return the next line as it came."""
        return self.response.readline()

    def close(self) -> None:
        """Leave."""
        self.response.close()
        self._connection.close()


def test_stream_tells_every_state_and_the_end(holding: Daemon) -> None:
    """A follower sees the workflow now and finished, and knows that nothing more will come."""
    workflow_id = holding.submit()
    stream = Stream(holding, workflow_id)
    assert stream.response.getheader("Content-Type") == "text/event-stream"
    first = _view(stream.next())
    assert (first.id, first.state) == (workflow_id, "running")
    holding.let_go()
    states = [event.view.state if event.view else event.kind for event in iter(stream.next, None)]
    assert states[-2:] == ["succeeded", "end"]
    stream.close()


def test_stream_of_a_finished_workflow_ends_at_once(daemon: Daemon) -> None:
    """Whoever comes late learns the outcome like everybody else."""
    workflow_id = daemon.submit()
    daemon.finish(workflow_id)
    stream = Stream(daemon, workflow_id)
    assert _view(stream.next()).state == "succeeded"
    assert stream.next() == StreamEvent("end")
    assert stream.next() is None
    stream.close()


def test_clients_that_leave_are_no_errors(holding: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """A closed terminal frees its place, logs nothing, and disturbs neither the workflow nor another follower."""
    workflow_id = holding.submit({"name": "a", "task": "add"}, {"name": "b", "task": "add", "after": ["a"]})
    leaving, staying = Stream(holding, workflow_id), Stream(holding, workflow_id)
    assert _view(leaving.next()).state == _view(staying.next()).state == "running"
    assert holding.http_statistics().streams == 2
    leaving.close()
    holding.let_go()
    wait_until(lambda: holding.http_statistics().streams <= 1, timeout_s=10, message="the place was not given back")
    holding.let_go()
    events = list(iter(staying.next, None))
    assert events[-1] == StreamEvent("end")
    staying.close()
    wait_until(lambda: holding.http_statistics().streams == 0, timeout_s=10, message="the place was not given back")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_silence_is_filled_with_heartbeats(short_tmp: Path) -> None:
    """Proxies do not close the stream of a workflow that takes hours, and a client notices a dead daemon."""
    with Daemon(short_tmp / "d.sock", holds=True, limits=HttpLimits(heartbeat_s=0.02)) as daemon:
        stream = Stream(daemon, daemon.submit())
        assert stream.next() is not None
        while stream.next_line() != b": still here\n":
            pass
        stream.close()


def test_stopping_daemon_says_bye(short_tmp: Path) -> None:
    """A restart does not wait for followers, and they know that they may come back; nor does it wait for long polls."""
    with Daemon(short_tmp / "d.sock", holds=True) as daemon:
        workflow_id = daemon.submit()
        stream = Stream(daemon, workflow_id)
        assert stream.next() is not None
        poll = unix_connection(daemon.path)
        poll.request("GET", f"/v1/workflows/{workflow_id}?wait_s=60")
        wait_until(lambda: daemon.http_statistics().waits == 1, timeout_s=10, message="the poll did not arrive")
        daemon.stop()
        kinds = [event.kind for event in iter(stream.next, None)]
        assert kinds[-1] == "bye"
        assert b'"running"' in poll.getresponse().read()
        stream.close()
        poll.close()


def test_streams_are_bounded(short_tmp: Path) -> None:
    """The number of followers has a limit, and the one too many is told so."""
    with Daemon(short_tmp / "d.sock", holds=True, limits=HttpLimits(streams_max=1)) as daemon:
        workflow_id = daemon.submit()
        stream = Stream(daemon, workflow_id)
        assert stream.next() is not None
        answer = daemon.ask("GET", f"/v1/workflows/{workflow_id}/events")
        assert (answer.status, answer.json["code"]) == (503, "too-busy")
        stream.close()


def _view(event: StreamEvent | None) -> wire.WorkflowView:
    assert event is not None
    assert event.view is not None
    return event.view


def test_stream_ends_with_the_right_to_read(holding: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """When SIGHUP takes it away, whoever follows or waits is told so, and sees nothing more."""
    workflow_id = holding.submit()
    monkeypatch.setattr("dyrygentd.http.guard.peer_of", lambda transport: Peer(user=4711, group=4711))
    stream = Stream(holding, workflow_id)
    assert _view(stream.next()).state == "running"
    wait_until(lambda: holding.ask("GET", f"/v1/workflows/{workflow_id}").json["counts"] == {"dispatched": 1})
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(holding.ask, "GET", f"/v1/workflows/{workflow_id}?wait_s=10")
        wait_until(lambda: holding.http_statistics().waits == 1)
        holding.call(setattr, holding.app[AROUND], "access", Access(readers=["nobody-else"], submitters=["nobody-else"]))
        lines = []
        while line := stream.next_line():
            lines.append(line.rstrip())
        # What it had been sent before.
        while lines[0] == b"event: workflow":
            del lines[:3]
        assert lines[0] == b"event: error"
        assert b'"code":"forbidden"' in lines[1]
        assert lines[3] == b"event: end"
        assert len(lines) == 6
        holding.let_go()
        assert waiting.result().status == 403
    stream.close()
