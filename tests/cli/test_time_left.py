"""How long a workflow still takes is asked for now and then, and not at all of a daemon that cannot tell."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread

import pytest

from dyrygentd.cli.time_left import TimeLeft
from dyrygentd.cli.watching import Speed, headline
from dyrygentd.client.sync import Client
from dyrygentd.wire import VERSION_HEADER, WorkflowView
from tests.http.support import Daemon


def test_it_is_asked_for_now_and_then(holding: Daemon) -> None:
    """A view comes eight times a second, and an estimate is for people."""
    with Client(holding.path) as client:
        measured(holding, client)
        handle = client.handle(holding.submit({"name": "a", "task": "add"}))
        left = TimeLeft(handle)
        assert (repr(left), left.words()) == (f"<TimeLeft of {handle.id}>", "")
        left.look()
        first = left.estimate
        assert first is not None
        left.look()
        assert left.estimate is first
        assert left.words().endswith(" s")
        line = headline(handle.status(), Speed(), now=handle.status().created_at + 5.0, width=100, left=left)
        assert f"about {left.words()} left" in line


def measured(daemon: Daemon, client: Client) -> None:
    """Have one task end."""
    workflow_id = daemon.submit()
    daemon.let_go()
    client.handle(workflow_id).wait(10)


class _Old(BaseHTTPRequestHandler):
    """Answers as a daemon that knows no estimates."""

    asked = 0

    def do_GET(self) -> None:
        """Refuse."""
        _Old.asked += 1
        self.send_response(404)
        self.send_header(VERSION_HEADER, "0.1.0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def address_string(self) -> str:
        """Name nobody: a Unix socket has no address."""
        return ""

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@pytest.fixture
def old(short_tmp: Path) -> Iterator[Path]:
    """The socket of an older daemon."""
    with ThreadingUnixStreamServer(str(short_tmp / "old.sock"), _Old) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield short_tmp / "old.sock"
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_older_daemon_is_asked_once(old: Path) -> None:
    """It says that it does not know the way, and then the pace of late has to do."""
    with Client(old, warn=lambda words: None) as client:
        view = WorkflowView(id="i", name="n", state="running", created_at=1000.0, tasks=10, counts={"succeeded": 5})
        left = TimeLeft(client.handle(view))
        left.look()
        left.look()
        assert (left.estimate, left.words(), _Old.asked) == (None, "", 1)
        assert "about 5.0 s left" in headline(view, Speed(), now=1005.0, width=100, left=left)
