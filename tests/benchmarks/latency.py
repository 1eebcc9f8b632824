"""From a stored result to the message of what depended on it, at a steady rate."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from tests.benchmarks.bare_loop import task_id
from tests.benchmarks.harness import RUN_MAX_S, Bench, Site, SyntheticWorker, Work, run_child, short_directory
from tests.benchmarks.report import Count, Row
from tests.benchmarks.shapes import chain_of, count

_HOLD_S = 0.1
_PARTS: Mapping[str, float] = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def run(bench: Bench) -> None:
    """Run chains in parallel, each step held for a random time, so that results come evenly."""
    hold_s = 0.02 if bench.quick else _HOLD_S
    with short_directory() as directory, Site(directory, bench.report) as site:
        for rate in (50, 100) if bench.quick else (200, 500):
            _at_rate(bench, site, chains=max(1, round(rate * hold_s)), steps=bench.size(60, 10), hold_s=hold_s, rate=rate)


def _at_rate(bench: Bench, site: Site, *, chains: int, steps: int, hold_s: float, rate: int) -> None:
    # Where the disk stalls for a moment, whoever has to be on disk before the next step waits.
    peers = {"bare loop": [], "it, with a commit a step": ["--database", site.directory / "bare.db"]}
    ours: list[list[float]] = []
    floors: dict[str, list[list[float]]] = {name: [] for name in peers}
    reached = []
    runs = bench.size(3, 1)
    for number in range(runs):
        bench.say(f"latency: {rate} tasks/s, run {number + 1} of {runs}")
        work, latencies = _through_daemon(bench, site, chains=chains, steps=steps, hold_s=hold_s, seed=number)
        ours.append(latencies)
        reached.append(work.rate)
        for name, options in peers.items():
            latencies = _through_bare_loop(bench, site, options, chains=chains, steps=steps, hold_s=hold_s, seed=number)
            floors[name].append(latencies)
    note = f"{statistics.median(reached):.0f}/s reached"
    for name, part in _PARTS.items():
        taken = [_quantile(run, part) for run in ours]
        for reference, found in floors.items():
            figures = [_quantile(run, part) for run in found]
            bench.report.rows.append(Row("latency", f"at {rate}/s, {name}", len(ours[0]), "ms", taken, reference, figures, note))


def _through_daemon(bench: Bench, site: Site, *, chains: int, steps: int, hold_s: float, seed: int) -> tuple[Work, list[float]]:
    site.forget()
    shapes = [chain_of(steps) for _ in range(chains)]
    with SyntheticWorker(site.server, site.directory, hold_s=hold_s, seed=seed) as worker:
        worker.wait_idle(site.redis)
        for handle in [site.daemon.client.submit(shape.body) for shape in shapes]:
            outcome = handle.wait(timeout_s=RUN_MAX_S)
            assert outcome.is_success, f"a chain ended as {outcome.state}: {outcome.error}"
        work = worker.stop()
    bench.report.counts.append(count("latency", shapes, work.executions))
    return work, _latencies(work, [shape.task_ids for shape in shapes])


def _through_bare_loop(
    bench: Bench, site: Site, options: Sequence[object], *, chains: int, steps: int, hold_s: float, seed: int
) -> list[float]:
    site.forget()
    n = chains * steps
    with SyntheticWorker(site.server, site.directory, hold_s=hold_s, seed=seed, tasks_max=n) as worker:
        worker.wait_idle(site.redis)
        run_child("bare_loop", "--socket", site.server.socket_path, "--chains", chains, "--steps", steps, *options)
        work = worker.wait()
    ids = [[task_id(chain, step) for step in range(steps)] for chain in range(chains)]
    executed = len({execution.task_id for execution in work.executions})
    bench.report.counts.append(Count("latency", "bare loop", n, len(work.executions), n - executed, 0, 0, 0))
    return _latencies(work, ids)


def _latencies(work: Work, chains: Sequence[Sequence[str]]) -> list[float]:
    """Return milliseconds from each stored result to the popping of the next message of its chain."""
    executions = {execution.task_id: execution for execution in work.executions}
    return [1e3 * (executions[after].began - executions[before].ended) for ids in chains for before, after in pairwise(ids)]


def _quantile(samples: Sequence[float], part: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
