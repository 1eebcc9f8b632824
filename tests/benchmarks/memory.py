"""Resident bytes for each node that waits."""

from tests.benchmarks.harness import Bench, Site, resident_bytes, run_child, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import waiting


def run(bench: Bench) -> None:
    """Submit waiting nodes to a fresh daemon, as many workflows, as one, and as one more."""
    n, runs = bench.size(100_000, 1_000), bench.size(3, 1)
    many = bench.size(1_000, 10)
    found = samples()
    for number in range(runs):
        bench.say(f"memory: run {number + 1} of {runs}")
        for cases in ([(f"{many:,} workflows", many)], [("1 workflow", 1), ("1 workflow more", 1)]):
            with short_directory() as directory, Site(directory, bench.report) as site:
                # What a first submission imports and opens is no cost of a node.
                _grown_by(site, workflows=1, nodes=100)
                for name, workflows in cases:
                    found[name].append(_grown_by(site, workflows=workflows, nodes=n // workflows) / n)
        found["floor"].append(run_child("bare_objects", n)["bytes"] / n)
    floor = found.pop("floor")
    for name, ours in found.items():
        bench.report.rows.append(Row("memory", name, n, "B/node", ours, "two bare strings", floor))


def _grown_by(site: Site, *, workflows: int, nodes: int) -> int:
    """Submit, wait until the daemon has come to rest, and return by how many bytes it has grown."""
    before = resident_bytes(site.daemon.pid)
    for _ in range(workflows):
        site.daemon.client.submit(waiting(nodes).body)
    site.daemon.wait_published()
    return resident_bytes(site.daemon.pid) - before
