"""A real Prometheus, from PATH or where ``DYRYGENTD_TEST_PROMETHEUS`` says (the directory of `prometheus` and `promtool`)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from dyrygentd.daemon.embedded import ChildProcess
from tests.support.servers import wait_until


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; without it the test is skipped, and says so."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("DYRYGENTD_TEST_PROMETHEUS", ""), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"NOT RUN: there is no {name}; Debian has it in the package prometheus")
    return found


def promtool(*arguments: str, given: str = "") -> str:
    """Run promtool; return what it says. Raises `AssertionError` if it complains."""
    done = subprocess.run([program("promtool"), *arguments], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """Scrapes one target each second and evaluates rules as often.

    Args:
        target: ``host:port``.
        rules: Path of the rules.
    """

    def __init__(self, directory: Path, *, target: str, rules: Path) -> None:
        program("prometheus")
        self._directory = directory
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._configuration = directory / "prometheus.yml"
        self._configuration.write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: ['{rules}']\n"
            f"scrape_configs: [{{job_name: dyrygentd, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self._child: ChildProcess | None = None

    def __enter__(self) -> Self:
        command = [
            program("prometheus"),
            f"--config.file={self._configuration}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--enable-feature=exemplar-storage",
        ]
        self._child = ChildProcess(command, output=self._directory / "prometheus.log")
        wait_until(self._is_ready, message=lambda: (self._directory / "prometheus.log").read_text())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._child is not None
        self._child.send_signal(signal.SIGKILL)
        self._child.wait(10)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an expression now. Raises `AssertionError` if it cannot be evaluated."""
        answer = self._ask("query", query=expression)
        result: list[dict[str, Any]] = answer["result"]
        return result

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"}

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """Return the exemplars of the last minute."""
        now = float(self._ask("query", query="time()")["result"][1])
        found: list[dict[str, Any]] = self._ask("query_exemplars", query=expression, start=str(now - 60), end=str(now + 1))
        return found

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _ask(self, what: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
