"""From a prepared body to the answer that it is on disk, and how long others wait meanwhile."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import msgspec

from tests.benchmarks.harness import Bench, Daemon, Site, Stopwatch, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import UNATTENDED, layered

_POLL_PAUSE_S = 0.005
"""Rare enough to leave the daemon its time, often enough to meet a stall that matters."""


def run(bench: Bench) -> None:
    """Submit the same graph several times; nobody executes it."""
    n, runs = bench.size(10_000, 300), bench.size(7, 1)
    found = samples()
    with short_directory() as directory, Site(directory, bench.report) as site:
        _submit(site.daemon, n)
        for number in range(runs):
            bench.say(f"submit: run {number + 1} of {runs}")
            with polled(site.daemon) as latencies:
                threading.Event().wait(50 * _POLL_PAUSE_S)
            found["idle"].append(1e3 * max(latencies))
            watch = Stopwatch(site.daemon.pid)
            with watch:
                found["plain"].append(1e3 * _submit(site.daemon, n))
            found["cpu"].append(1e6 * watch.cpu_s[0] / n)
            with polled(site.daemon) as latencies:
                found["polled"].append(1e3 * _submit(site.daemon, n))
            found["stalls"].append(1e3 * max(latencies))
            body = layered(n, queue=UNATTENDED).body
            found["decoded"].append(1e3 * _write_and_decode(directory / "floor.json", body))
            found["committed"].append(1e3 * _commit(directory / "floor.db", body))
    name = f"layered, {len(body) / 1e6:.2g} MB"
    add = bench.report.rows.append
    add(Row("submit", name, n, "ms", found["plain"], "write + fsync + json decode", found["decoded"]))
    add(Row("submit", name, n, "ms", found["plain"], "SQLite FULL commit of the body", found["committed"]))
    add(Row("submit", f"{name}, polled", n, "ms", found["polled"], "not polled", found["plain"]))
    add(Row("submit", "daemon CPU, first dispatches included", n, "us/node", found["cpu"]))
    add(Row("submit", "longest /healthz meanwhile", n, "ms", found["stalls"], "longest when idle", found["idle"]))


def _submit(daemon: Daemon, n: int) -> float:
    """Submit a new graph, wait until it has come to rest, and return the seconds to the answer."""
    body = layered(n, queue=UNATTENDED).body
    begun = monotonic()
    daemon.client.submit(body)
    taken_s = monotonic() - begun
    daemon.wait_published()
    return taken_s


@contextlib.contextmanager
def polled(daemon: Daemon) -> Iterator[list[float]]:
    """Ask for the health again and again; the list gets the seconds that each answer took."""
    latencies: list[float] = []
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            begun = monotonic()
            daemon.client.health()
            latencies.append(monotonic() - begun)
            over.wait(_POLL_PAUSE_S)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield latencies
    finally:
        over.set()
        thread.join()


def _write_and_decode(path: Path, body: bytes) -> float:
    with Stopwatch() as watch, path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
        msgspec.json.decode(body)
    return watch.seconds


def _commit(path: Path, body: bytes) -> float:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE IF NOT EXISTS bodies (body BLOB)")
        with Stopwatch() as watch:
            database.execute("INSERT INTO bodies VALUES (?)", (body,))
    return watch.seconds
