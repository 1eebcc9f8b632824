"""The processes that are measured, and the reading of what they used: a server, the daemon, a synthetic worker."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Self

import redis

from dyrygentd import Client
from dyrygentd.daemon.embedded import ChildProcess, EmbeddedServer
from tests.benchmarks.report import Report
from tests.benchmarks.shapes import Execution, Shape
from tests.support.servers import REPOSITORY, wait_until

START_MAX_S = 120.0
RUN_MAX_S = 300.0
"""Far above anything seen: a run that hangs should end with a message, a slow machine should not."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Bench:
    """What a benchmark is given.

    Attributes:
        quick: Small sizes and one run each: to see that it works, not to measure.
        say: Reports progress.
    """

    report: Report
    quick: bool
    say: Callable[[str], None]

    def size(self, full: int, quick: int) -> int:
        """Choose between the full and the quick size of something."""
        return quick if self.quick else full


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in ticks of 10 ms (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def family_cpu_s(pid: int) -> float:
    """Return the processor time of a process and of its children, also of those that have ended meanwhile."""
    living = 0.0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        # One that ends now is among the ended ones below.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            living += cpu_s(int(child))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return living + sum(map(int, fields[11:15])) / _TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process (proc(5), statm)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory with a short path, for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="dyrb", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Daemon:
    """``python -m dyrygentd serve`` as a child, without the app: broker and results are one server."""

    def __init__(self, directory: Path, broker: str, *, name: str = "d", arguments: Sequence[str] = ()) -> None:
        self._directory = directory
        self.socket, self.database = directory / f"{name}.sock", directory / f"{name}.db"
        self._log = directory / f"{name}.log"
        self._command = [sys.executable, "-m", "dyrygentd", "serve", "--broker", broker, "--log-level", "warning"]
        self._command += ["--database", str(self.database), "--socket", str(self.socket), "--drain-timeout-s", "0"]
        self._command += arguments
        self._child: ChildProcess | None = None
        self.client = Client(self.socket, timeout_s=RUN_MAX_S)

    @property
    def pid(self) -> int:
        """Return the process id of the running daemon."""
        assert self._child is not None
        return self._child.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and return the moment it says that it is ready (as it would tell systemd)."""
        address = self._directory / "notify.sock"
        with contextlib.suppress(FileNotFoundError):
            address.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(str(address))
            notices.settimeout(START_MAX_S)
            environment = {**os.environ, "NOTIFY_SOCKET": str(address)}
            self._child = ChildProcess(self._command, output=self._log, environment=environment, working_directory=REPOSITORY)
            try:
                while b"READY=1" not in notices.recv(4096):
                    pass
            except TimeoutError:
                self.kill()
                raise AssertionError(f"the daemon did not get ready:\n{self._log.read_text(errors='replace')[-3000:]}") from None

    def stop(self) -> None:
        """End it in good order; it does not wait for tasks in flight."""
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            if self._child.wait(30) is None:
                self.kill()

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()

    def wait_published(self) -> None:
        """Wait until everything that may go has been handed to the broker."""

        def is_quiet() -> bool:
            engine = self.client.stats().engine
            nodes = engine["nodes"]
            has_room = engine["in_flight"] < engine["in_flight_max"]
            return not (engine["inbox"] or engine["publish_queue"] or nodes["dispatching"] or (nodes["ready"] and has_room))

        wait_until(is_quiet, timeout_s=RUN_MAX_S, message=lambda: f"the daemon does not come to rest: {self.client.stats()}")


class Site:
    """A server, and a daemon on it."""

    def __init__(self, directory: Path, report: Report, *, arguments: Sequence[str] = ()) -> None:
        self._exits = contextlib.ExitStack()
        self.directory = directory
        self.server = EmbeddedServer(directory)
        self.daemon = Daemon(directory, self.server.url, arguments=arguments)
        self._report = report

    def __enter__(self) -> Self:
        self._exits.enter_context(self.server)
        self.redis = redis.Redis(unix_socket_path=str(self.server.socket_path))
        self._exits.callback(self.redis.close)
        facts = self.redis.info("server")
        assert isinstance(facts, dict)
        kind = str(facts.get("server_name", "redis"))
        self._report.server_version = f"{kind} {facts.get(f'{kind}_version', facts['redis_version'])}"
        self._exits.enter_context(self.daemon)
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def server_pid(self) -> int:
        """Return the server's process id."""
        assert self.server.pid is not None
        return self.server.pid

    def forget(self) -> None:
        """Empty the server, so that one run does not pay for what another left."""
        self.redis.flushall()

    def run_shape(self, shape: Shape) -> float:
        """Submit and wait for the end; return the seconds it took."""
        with Stopwatch() as watch:
            outcome = self.daemon.client.submit(shape.body).wait(timeout_s=RUN_MAX_S)
        assert outcome.is_success, f"{shape.name} ended as {outcome.state}: {outcome.error}"
        return watch.seconds


class Stopwatch:
    """Measures wall time, and the processor time of other processes meanwhile."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids

    def __enter__(self) -> Self:
        self._before = [cpu_s(pid) for pid in self._pids]
        self._begun = monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = monotonic()
        self.seconds = self.ended - self._begun
        self.cpu_s = [cpu_s(pid) - before for pid, before in zip(self._pids, self._before, strict=True)]


@dataclass(frozen=True, slots=True)
class Work:
    """What a synthetic worker reported.

    Attributes:
        cpu_s: Its processor time from its first message to its end.
        fates: How many tasks it failed, lost, and answered twice.
    """

    executions: list[Execution]
    cpu_s: float
    fates: dict[str, int]

    @property
    def rate(self) -> float:
        """Return tasks per second between the first message taken and the last result stored."""
        began = min(execution.began for execution in self.executions)
        return len(self.executions) / (max(execution.ended for execution in self.executions) - began)


class SyntheticWorker:
    """A child that runs `tests.benchmarks.synthetic_worker`."""

    def __init__(
        self,
        server: EmbeddedServer,
        directory: Path,
        *,
        hold_s: float = 0.0,
        tasks_max: int = 0,
        seed: int = 0,
        arguments: Sequence[str] = (),
    ) -> None:
        self._report = directory / "worker.json"
        self._log = directory / "worker.log"
        self._report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.benchmarks.synthetic_worker", "--socket", str(server.socket_path)]
        command += ["--report", str(self._report), "--hold-s", str(hold_s), "--tasks-max", str(tasks_max), "--seed", str(seed)]
        command += arguments
        self._child = ChildProcess(command, output=self._log, working_directory=REPOSITORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def wait_idle(self, server: "redis.Redis") -> None:
        """Wait until it is connected and takes messages."""
        wait_until(lambda: "cmd=blmpop" in str(server.execute_command("CLIENT", "LIST", "TYPE", "NORMAL")))

    def stop(self) -> Work:
        """End it, and return what it did."""
        self._child.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> Work:
        """Wait until it ends by itself, and return what it did."""
        status = self._child.wait(RUN_MAX_S)
        assert status == 0, f"the worker ended with {status}:\n{self._log.read_text()[-3000:]}"
        content = json.loads(self._report.read_text())
        return Work([Execution(*task) for task in content["tasks"]], content["cpu_s"], content["fates"])


def run_child(
    module: str, *arguments: object, environment: dict[str, str] | None = None, max_s: float = RUN_MAX_S
) -> dict[str, Any]:
    """Run a module of this package in a process of its own, and return the JSON object that it prints."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=max_s,
        check=False,
    )
    assert done.returncode == 0, f"{module} ended with {done.returncode}:\n{done.stderr.decode()[-3000:]}"
    content: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return content
