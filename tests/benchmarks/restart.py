"""From the start of the process to ready, after a kill, with unfinished workflows in the database."""

from typing import Any

import msgspec

from dyrygentd import wire
from tests.benchmarks.harness import Bench, Daemon, Site, Stopwatch, cpu_s, resident_bytes, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import UNATTENDED, layered


def run(bench: Bench) -> None:
    """Fill a database, then kill and start the daemon again and again; beside it one without work."""
    nodes = bench.size(100, 20)
    for workflows, runs in ((5, 1),) if bench.quick else ((100, 5), (1_000, 5), (10_000, 2)):
        _with_workflows(bench, workflows=workflows, nodes=nodes, runs=runs)


def _with_workflows(bench: Bench, *, workflows: int, nodes: int, runs: int) -> None:
    n = workflows * nodes
    found = samples()
    with short_directory() as directory, Site(directory, bench.report) as site:
        # Nobody executes them: their first layers stay in flight, as far as the limit goes, and the rest waits.
        # Without ids, so that each time it is another workflow.
        definition = layered(nodes, queue=UNATTENDED).definition
        body = msgspec.json.encode(_without_ids(msgspec.json.decode(wire.encode_definition(definition))))
        for _ in range(workflows):
            site.daemon.client.submit(body)
        site.daemon.wait_published()
        found["resident"].append(resident_bytes(site.daemon.pid) / 1e6)
        site.daemon.kill()
        empty = Daemon(directory, site.server.url, name="e")
        for number in range(runs):
            bench.say(f"restart: {n:,} nodes, run {number + 1} of {runs}")
            empty_s, empty_cpu_s, _ = _start(empty)
            taken_s, taken_cpu_s, resident = _start(site.daemon)
            found["restarted"].append(resident / 1e6)
            found["took_empty"].append(empty_s)
            found["cpu_empty"].append(empty_cpu_s)
            found["took"].append(taken_s)
            found["cpu"].append(taken_cpu_s)
            found["per_node"].append(1e6 * (taken_cpu_s - empty_cpu_s) / n)
            with Stopwatch() as watch:
                for _ in range(workflows):
                    msgspec.json.decode(body)
            found["decoding"].append(1e6 * watch.seconds / n)
    name = f"{workflows:,} workflows"
    bench.report.rows.append(
        Row("restart", f"{name}, to ready", n, "s", found["took"], "nothing to recover", found["took_empty"])
    )
    bench.report.rows.append(Row("restart", f"{name}, CPU", n, "s", found["cpu"], "nothing to recover", found["cpu_empty"]))
    bench.report.rows.append(
        Row("restart", f"{name}, resident", n, "MB", found["resident"], "after the restart", found["restarted"])
    )
    bench.report.rows.append(
        Row("restart", f"{name}, CPU more than empty", n, "us/node", found["per_node"], "json decode", found["decoding"])
    )


def _start(daemon: Daemon) -> tuple[float, float, int]:
    """Start it, kill it, and return the seconds to ready, the processor time used until then, and the resident bytes."""
    with Stopwatch() as watch:
        daemon.start()
    used_s, resident = cpu_s(daemon.pid), resident_bytes(daemon.pid)
    daemon.kill()
    return watch.seconds, used_s, resident


def _without_ids(document: Any) -> Any:
    for node in document["nodes"]:
        node.pop("task_id", None)
    return document
