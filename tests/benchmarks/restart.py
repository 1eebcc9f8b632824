"""From the start of the process to ready, after a kill, with unfinished workflows in the database."""

import msgspec

from tests.benchmarks.harness import Bench, Daemon, Site, Stopwatch, cpu_s, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import UNATTENDED, layered


def run(bench: Bench) -> None:
    """Fill a database, then kill and start the daemon again and again; beside it one without work."""
    nodes, runs = bench.size(100, 20), bench.size(5, 1)
    for workflows in (5,) if bench.quick else (100, 1_000):
        _with_workflows(bench, workflows=workflows, nodes=nodes, runs=runs)


def _with_workflows(bench: Bench, *, workflows: int, nodes: int, runs: int) -> None:
    n = workflows * nodes
    found = samples()
    with short_directory() as directory, Site(directory, bench.report) as site:
        # Nobody executes them: their first layers stay in flight, as far as the limit goes, and the rest waits.
        bodies = [layered(nodes, queue=UNATTENDED).body for _ in range(workflows)]
        for body in bodies:
            site.daemon.client.submit(body)
        site.daemon.wait_published()
        site.daemon.kill()
        empty = Daemon(directory, site.server.url, name="e")
        for number in range(runs):
            bench.say(f"restart: {n:,} nodes, run {number + 1} of {runs}")
            empty_s, empty_cpu_s = _start(empty)
            taken_s, taken_cpu_s = _start(site.daemon)
            found["took_empty"].append(empty_s)
            found["cpu_empty"].append(empty_cpu_s)
            found["took"].append(taken_s)
            found["cpu"].append(taken_cpu_s)
            found["per_node"].append(1e6 * (taken_cpu_s - empty_cpu_s) / n)
            with Stopwatch() as watch:
                for body in bodies:
                    msgspec.json.decode(body)
            found["decoding"].append(1e6 * watch.seconds / n)
    name = f"{workflows:,} workflows"
    bench.report.rows.append(
        Row("restart", f"{name}, to ready", n, "s", found["took"], "nothing to recover", found["took_empty"])
    )
    bench.report.rows.append(Row("restart", f"{name}, CPU", n, "s", found["cpu"], "nothing to recover", found["cpu_empty"]))
    bench.report.rows.append(
        Row("restart", f"{name}, CPU more than empty", n, "us/node", found["per_node"], "json decode", found["decoding"])
    )


def _start(daemon: Daemon) -> tuple[float, float]:
    """Start it, kill it, and return the seconds to ready and the processor time used until then."""
    with Stopwatch() as watch:
        daemon.start()
    used_s = cpu_s(daemon.pid)
    daemon.kill()
    return watch.seconds, used_s
