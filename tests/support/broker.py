"""`dyrygentd broker` as a child process."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.support.activation import NotifySocket
from tests.support.daemon import ROOT
from tests.support.forking import Child, start_child
from tests.support.tasks import records


class BrokerProcess:
    """A broker that stays when the daemon goes, in the daemon's directory."""

    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.directory = directory
        self.url = f"redis+socket://{directory}/broker.sock"
        self.notify = NotifySocket(directory / "broker-notify.sock")
        self.log_path = directory / "broker-process.log"
        self._command = [sys.executable, "-m", "dyrygentd", "broker", "--database", str(directory / "state.db"), *arguments]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.environment = {**os.environ, "PYTHONPATH": path, "NOTIFY_SOCKET": str(self.notify.path)}
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None and self._child.is_alive:
            self.stop()
        self.notify.__exit__()

    def start(self) -> dict[str, str]:
        """Start it and return the message by which it was ready."""
        self._child = start_child(
            self._command, output=self.log_path, environment=self.environment, working_directory=self.directory
        )
        try:
            return self.notify.wait_for("READY")
        except TimeoutError:
            raise AssertionError(f"the broker did not get ready:\n{self.log()}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        assert self._child is not None
        self._child.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        assert self._child is not None
        status = self._child.wait(30)
        assert status is not None, f"the broker did not end:\n{self.log()}"
        return status

    def log(self) -> str:
        """Return what it logged."""
        return self.log_path.read_text() if self.log_path.exists() else ""


def server_pid(directory: Path) -> int:
    """Return the process id of the server itself."""
    with records(f"redis+socket://{directory}/broker.sock") as client:
        return int(client.info("server")["process_id"])
