"""What fifty pages and twenty terminals that follow one large workflow, which runs, cost the daemon and everybody else."""

import json
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, Final, NamedTuple

from tests.benchmarks.harness import Bench, Daemon, Site, Stopwatch, SyntheticWorker, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import TASK
from tests.support.servers import REPOSITORY, wait_until

_PAGES: Final = 50
_TERMINALS: Final = 20
#: Some hundred tasks a second, which leaves the daemon time, and lasts for minutes.
_IN_FLIGHT: Final = 40
_HOLD_S: Final = 0.1
_PAUSE_S: Final = 0.01
#: It is opened into a hundred boxes.
_SECTION: Final = "drain"


class _Seen(NamedTuple):
    """What was measured in a time.

    Attributes:
        waits: Of each look at the daemon's health, in seconds.
        turns, turn_s: How many turns there were, and what they took together.
        cpu_s: Of the daemon.
    """

    seconds: float
    waits: list[float]
    turns: int
    turn_s: float
    cpu_s: float


def run(bench: Bench) -> None:
    """Look at the daemon's health while a workflow runs, first without and then with those who follow it."""
    size, seconds = bench.size(100_000, 10_000), float(bench.size(20, 3))
    bench.say(f"faces: {_PAGES} pages and {_TERMINALS} terminals at {size:,}")
    alone, watched = samples(), samples()
    port = _free_port()
    arguments = ["--listen", f"127.0.0.1:{port}", "--in-flight-max", str(_IN_FLIGHT)]
    with short_directory() as directory, Site(directory, bench.report, arguments=arguments) as site:
        handle = site.daemon.client.submit(_document(size))
        with SyntheticWorker(site.server, site.directory, hold_s=_HOLD_S):
            wait_until(lambda: handle.status().counts.get("succeeded", 0) > _IN_FLIGHT)
            for _ in range(bench.size(3, 1)):
                _note(alone, _looked(site.daemon, seconds))
                with _followers(site.daemon, handle.id, port) as told:
                    seen = _looked(site.daemon, seconds)
                _note(watched, seen)
                watched["first event"].append(told["first_bytes"])
                watched["to one follower"].append(told["bytes"] / (_PAGES + _TERMINALS) / seen.seconds)
        handle.cancel()
    for name, unit in (("healthz p50", "ms"), ("healthz p99", "ms"), ("turn, mean", "ms"), ("daemon", "% of a core")):
        bench.report.rows.append(Row("faces", f"followed by 70, {name}", size, unit, watched[name], "by nobody", alone[name]))
    bench.report.rows.append(Row("faces", "followed by 70, first event", size, "bytes", watched["first event"]))
    bench.report.rows.append(Row("faces", "followed by 70, to each", size, "bytes/s", watched["to one follower"]))


def _note(found: dict[str, list[float]], seen: _Seen) -> None:
    waits = sorted(seen.waits)
    found["healthz p50"].append(1e3 * statistics.median(waits))
    found["healthz p99"].append(1e3 * waits[int(len(waits) * 0.99)])
    found["turn, mean"].append(1e3 * seen.turn_s / max(1, seen.turns))
    found["daemon"].append(100 * seen.cpu_s / seen.seconds)


def _looked(daemon: Daemon, seconds: float) -> _Seen:
    before, waits = daemon.client.stats().tallies["turn"], []
    with Stopwatch(daemon.pid) as watch:
        end = monotonic() + seconds
        while (begun := monotonic()) < end:
            daemon.client.health()
            waits.append(monotonic() - begun)
            sleep(_PAUSE_S)
    after = daemon.client.stats().tallies["turn"]
    turns = sum(after["counts"]) - sum(before["counts"])
    return _Seen(watch.seconds, waits, turns, after["sum"] - before["sum"], watch.cpu_s[0])


@contextmanager
def _followers(daemon: Daemon, workflow_id: str, port: int) -> Iterator[dict[str, Any]]:
    """Have them follow, in a process of their own; what is yielded tells at the end what they were sent."""
    arguments = [workflow_id, _SECTION, _PAGES, port, _TERMINALS, daemon.socket]
    command = [sys.executable, "-m", "tests.support.followers", *map(str, arguments)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            told = json.loads(child.stdout.readline())
            yield told
            child.stdin.close()
            told.update(json.loads(child.stdout.readline()))
        finally:
            child.kill()


def _document(size: int) -> dict[str, Any]:
    """Make chains of ten on hosts, each in a section of its own."""
    nodes: list[dict[str, Any]] = []
    for number in range(size):
        host, step = divmod(number, 10)
        after = [f"node-{number - 1}"] if step else []
        nodes.append({"name": f"node-{number}", "task": TASK, "after": after, "section": f"{_SECTION}/host-{host}"})
    return {"name": "followed", "nodes": nodes}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
