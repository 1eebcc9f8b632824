"""What the database costs: the same shapes with SQLite and with PostgreSQL, in turn, on one machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.harness import Bench, Site, Stopwatch, SyntheticWorker, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import Shape, count, group_of, layered
from tests.support.postgres import PostgresServer, programs


def run(bench: Bench) -> None:
    """Measure both, the daemon and what works for it, if there is a PostgreSQL."""
    if programs() is None:
        bench.say("stores: NOT RUN: there are no programs of PostgreSQL")
        return
    n, runs = bench.size(10_000, 200), bench.size(3, 1)
    makers: list[Callable[[], Shape]] = [lambda: group_of(n), lambda: layered(n)]
    found = samples()
    with short_directory() as first, short_directory() as second, postgres_server() as postgres:
        database = ["--database", f"{postgres.conninfo()}&schema=dyrygentd"]
        with Site(first, bench.report) as file, Site(second, bench.report, arguments=database) as server:
            for number in range(runs + 1):
                bench.say(f"stores: run {number} of {runs}" if number else "stores: warming up")
                for maker in makers:
                    for site, kind in ((file, "SQLite"), (server, "PostgreSQL")):
                        shape = maker()
                        pids = _children_of(postgres.pid) if kind == "PostgreSQL" else []
                        daemon_s, database_s, rate = _run(bench, site, shape, pids)
                        if number:
                            found[f"{shape.name} {kind} daemon CPU"].append(1e6 * daemon_s / n)
                            found[f"{shape.name} {kind} server CPU"].append(1e6 * database_s / n)
                            found[f"{shape.name} {kind} rate"].append(rate)
    for name in (maker().name for maker in makers):
        for what, unit in (("daemon CPU", "us/node"), ("rate", "nodes/s"), ("server CPU", "us/node")):
            ours = found[f"{name} PostgreSQL {what}"]
            beside = [] if what == "server CPU" else found[f"{name} SQLite {what}"]
            title = f"{name}, PostgreSQL, {what}"
            bench.report.rows.append(Row("stores", title, n, unit, ours, "SQLite" if beside else "", beside))


def _run(bench: Bench, site: Site, shape: Shape, pids: list[int]) -> tuple[float, float, float]:
    """Run a shape; return the processor time of the daemon and of the database's server, and the rate."""
    site.forget()
    with SyntheticWorker(site.server, site.directory) as worker:
        worker.wait_idle(site.redis)
        with Stopwatch(site.daemon.pid, *pids) as watch:
            site.run_shape(shape)
        work = worker.stop()
    bench.report.counts.append(count("stores", [shape], work.executions))
    return watch.cpu_s[0], sum(watch.cpu_s[1:]), work.rate


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that has as much memory as the distribution gives it."""
    with short_directory() as directory, PostgresServer(directory, shared_buffers="128MB") as postgres:
        yield postgres


def _children_of(pid: int) -> list[int]:
    """Return the processes of a server that are there now: those of its connections, and what writes in the background."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, found)]
