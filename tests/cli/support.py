"""What the tests of `dyrygentctl` share: a way to run it, in this process and as users do, with a terminal too."""

import json
import os
import pty
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from dyrygentd.cli import main
from tests.http.support import Daemon
from tests.support.commands import runner
from tests.support.servers import wait_until

Ctl = Callable[..., Result]


def ctl_of(daemon: "Daemon | OlderDaemon", directory: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """Return a function that runs a command in ``directory``."""
    monkeypatch.chdir(directory)

    def run(*arguments: str, input: str | None = None) -> Result:
        return runner().invoke(main, ["--socket", str(daemon.path), *arguments], input=input, catch_exceptions=False)

    return run


def zone() -> str:
    """Return the name of the zone in which times are shown."""
    return time.strftime("%Z")


def submit(ctl: Ctl, *nodes: dict[str, Any], **fields: Any) -> str:
    """Submit a workflow and return its id; of each node the name is enough, if it may be an ``add`` that takes no values."""
    task = {"task": "add", "immutable": True}
    full = [({} if "join" in node or "gate" in node else task) | node for node in nodes]
    result = ctl("submit", "-", input=json.dumps({"name": "sum", "nodes": full, **fields}))
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


class _Asked(BaseHTTPRequestHandler):
    """Hands a request on, unless it is for what the daemon of that time did not have."""

    server: "OlderDaemon"

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        is_new = path.endswith(self.server.without)
        # The daemon of now answers in the same way what it does not have.
        answer = self.server.daemon.ask("GET", f"{path}-of-later" if is_new else self.path)
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def address_string(self) -> str:
        """Return who asks, which a Unix socket does not tell."""
        return "somebody"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class OlderDaemon(socketserver.ThreadingUnixStreamServer):
    """A daemon of a time before some routes, in front of a real one: to look at, at ``path``; a context manager."""

    daemon_threads = True

    def __init__(self, daemon: Daemon, path: Path, *, without: tuple[str, ...]) -> None:
        self.daemon, self.path, self.without = daemon, path, without
        super().__init__(str(path), _Asked)

    def __enter__(self) -> "OlderDaemon":
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Terminal:
    """A `dyrygentctl` that talks with a terminal, as a person sees it."""

    def __init__(self, daemon: Daemon, *arguments: str, before: str = "", columns: int = 200) -> None:
        self._terminal, line = pty.openpty()
        self.seen = b""
        self._child = subprocess.Popen(
            [sys.executable, "-c", f"{before}\nfrom dyrygentd.cli import main; main()", *arguments],
            env=environment_of(daemon) | {"TERM": "xterm", "COLUMNS": str(columns)},
            stderr=line,
            stdout=line,
            stdin=line,
        )
        os.close(line)

    def wait_for(self, words: bytes) -> None:
        """Read until these words have been seen."""
        while words not in self.seen:
            self.seen += os.read(self._terminal, 10_000)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._terminal, keys)

    def send(self, signal: int) -> None:
        """Send a signal when it waits for something: just before, Python would only see it after the next key."""
        wait_until(lambda: Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S")
        self._child.send_signal(signal)

    def end(self) -> int:
        """Read to the end; return the exit status."""
        try:
            while chunk := os.read(self._terminal, 10_000):
                self.seen += chunk
        except OSError:
            pass  # How a terminal says that the other side is closed.
        os.close(self._terminal)
        return self._child.wait(30)


def environment_of(daemon: Daemon) -> dict[str, str]:
    """Return the environment in which a child finds the daemon."""
    return dict(os.environ) | {"DYRYGENTD_SOCKET": str(daemon.path), "PYTHONPATH": str(Path(__file__).parents[2])}
