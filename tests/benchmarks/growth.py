"""Processor time of the daemon for each node as workflows grow, in number and in size, and what an idle one costs."""

from collections.abc import Sequence
from itertools import islice, repeat
from pathlib import Path
from time import sleep
from typing import Final

from tests.benchmarks.harness import Bench, Site, Stopwatch, SyntheticWorker, cpu_s, run_child, short_directory
from tests.benchmarks.report import Count, Row
from tests.benchmarks.workload import Planned

_UNFINISHED: Final = 1_000
_IDLE_S: Final = 20.0
#: Settings of a daemon that takes a workflow of a million nodes.
_LARGE: Final = ("--nodes-max", "1000000", "--body-bytes-max", str(512 * 1024 * 1024))

Before = Sequence[Sequence[int]]


def run(bench: Bench) -> None:
    """Grow one workflow in several shapes, then the number of workflows; then let a daemon with waiting ones do nothing."""
    with short_directory() as directory, Site(directory, bench.report, arguments=_LARGE) as site:
        _of_workflows(bench, site, [Planned("warm", "warm", _wide(100))], "")
        for name, shape, sizes in (
            ("wide", _wide, (100, 1_000, 10_000, 100_000, 1_000_000)),
            ("layered, 3 dependencies", _layered, (100, 1_000, 10_000, 100_000)),
            ("dense, 30 dependencies", _dense, (1_000, 10_000, 100_000)),
            ("deep", _deep, (100, 1_000, 10_000)),
        ):
            for size in sizes[:1] if bench.quick else sizes:
                _of_workflows(bench, site, [Planned(f"{name.partition(',')[0]}{size}", name, shape(size))], f"1 workflow, {name}")
        for count in (5,) if bench.quick else (1, 100, 10_000, 100_000):
            small = _layered(10)
            workflows = [Planned(f"n{count}-{number}", "small", small) for number in range(count)]
            _of_workflows(bench, site, workflows, f"{count:,} workflows of 10")
    with short_directory() as directory, Site(directory, bench.report) as site:
        _idle(bench, site)


def _of_workflows(bench: Bench, site: Site, workflows: Sequence[Planned], name: str) -> None:
    bench.say(f"growth: {name or 'warming up'}, {len(workflows[0].after):,} nodes")
    site.forget()
    bodies = site.directory / "bodies.jsonl"
    with bodies.open("w") as file:
        file.writelines(workflow.body() + "\n" for workflow in workflows)
    with SyntheticWorker(site.server, site.directory) as worker:
        worker.wait_idle(site.redis)
        with Stopwatch(site.daemon.pid) as watch:
            _submit(site, bodies, _UNFINISHED)
        work = worker.stop()
    n = sum(len(workflow.after) for workflow in workflows)
    ids = {execution.task_id for execution in work.executions}
    bench.report.counts.append(
        Count("growth", name, n, len(work.executions), n - len(ids), len(work.executions) - len(ids), 0, 0)
    )
    if name:
        note = f"{n / watch.seconds:,.0f}/s"
        bench.report.rows.append(Row("growth", name, n, "us/node", [1e6 * watch.cpu_s[0] / n], note=note))


def _submit(site: Site, bodies: Path, unfinished: int) -> None:
    arguments = ("--socket", site.daemon.socket, "--bodies", bodies, "--unfinished", unfinished)
    run_child("submitter", *arguments, max_s=1800)


def _idle(bench: Bench, site: Site) -> None:
    """Have workflows wait for something that does not come, and see what the daemon uses meanwhile."""
    workflows, seconds = bench.size(1_000, 10), 1.0 if bench.quick else _IDLE_S
    gate = {"name": "w", "nodes": [{"name": "g", "gate": True}, {"name": "t", "task": "t", "after": ["g"]}]}
    for _ in range(workflows):
        site.daemon.client.submit(gate)
    site.daemon.wait_published()
    bench.say("growth: idle")
    begun = cpu_s(site.daemon.pid)
    sleep(seconds)
    share = 100 * (cpu_s(site.daemon.pid) - begun) / seconds
    bench.report.rows.append(Row("growth", f"idle, {workflows:,} waiting workflows", workflows, "% of a core", [share]))


def _wide(size: int) -> Before:
    return [*repeat((), size)]


def _deep(size: int) -> Before:
    return [[node - 1] if node else [] for node in range(size)]


def _layered(size: int) -> Before:
    return _layers(size, 3)


def _dense(size: int) -> Before:
    return _layers(size, 30)


def _layers(size: int, dependencies: int) -> Before:
    """Layers as wide as there are layers; each node depends on so many neighbours in the layer above."""
    width = max(1, round(size**0.5))
    count = min(dependencies, width)
    first = islice(repeat(()), min(width, size))
    rest = (
        [(node // width - 1) * width + (node % width + offset) % width for offset in range(count)] for node in range(width, size)
    )
    return [*first, *rest]
