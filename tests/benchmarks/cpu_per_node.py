"""Processor time and throughput: of the daemon for each node, beside Celery's publishing and a worker alone."""

import statistics
from collections.abc import Callable
from time import monotonic

from celery import Celery

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.benchmarks.harness import RUN_MAX_S, Bench, Site, Stopwatch, SyntheticWorker, Work, run_child, short_directory
from tests.benchmarks.report import Count, Row, samples
from tests.benchmarks.shapes import Execution, Shape, chain_of, count, group_after_group, group_of, layered
from tests.support.servers import CeleryWorker, Executions, wait_until


def run(bench: Bench) -> None:
    """Measure with a synthetic worker first, then with Celery's."""
    with short_directory() as directory, Site(directory, bench.report) as site:
        _with_synthetic_worker(bench, site)
        site.forget()
        with CeleryWorker(site.server.url, log_directory=site.directory) as worker:
            with CeleryWorker(site.server.url, log_directory=site.directory) as second:
                _with_two_celery_workers(bench, site, [worker.name, second.name])
            _chains_with(worker, bench, site)


# --- synthetic worker -----------------------------------------------------------------------------------------------


def _with_synthetic_worker(bench: Bench, site: Site) -> None:
    n = bench.size(10_000, 200)
    makers: list[Callable[[], Shape]] = [
        lambda: chain_of(bench.size(1_000, 50)),
        lambda: group_of(n),
        lambda: layered(n),
        lambda: group_after_group(n),
    ]
    sizes = {maker().name: maker().task_count for maker in makers}
    found = samples()
    _run_synthetic(bench, site, group_of(100))
    runs = bench.size(3, 1)
    for number in range(runs):
        bench.say(f"cpu_per_node: synthetic worker, run {number + 1} of {runs}")
        for maker in makers:
            shape = maker()
            daemon_s, server_s, work = _run_synthetic(bench, site, shape)
            found[f"{shape.name} daemon CPU"].append(1e6 * daemon_s / shape.task_count)
            found[f"{shape.name} server CPU"].append(1e6 * server_s / shape.task_count)
            found[f"{shape.name} worker CPU"].append(1e6 * work.cpu_s / shape.task_count)
            found[f"{shape.name} rate"].append(work.rate)
        site.forget()
        published = run_child("celery_peer", "publish", n, environment=_peer_environment(site.server))
        with Stopwatch(site.server_pid) as watch, SyntheticWorker(site.server, site.directory, tasks_max=n) as worker:
            work = worker.wait()
        executed = len({execution.task_id for execution in work.executions})
        bench.report.counts.append(Count("cpu_per_node", "worker alone", n, len(work.executions), n - executed, 0, 0, 0))
        found["floor of daemon CPU"].append(1e6 * published["cpu_s"] / n)
        found["floor of server CPU"].append(1e6 * watch.cpu_s[0] / n)
        found["floor of worker CPU"].append(1e6 * work.cpu_s / n)
        found["floor of rate"].append(work.rate)
    for name, size in sizes.items():
        for what, unit in (("daemon CPU", "us/node"), ("rate", "nodes/s"), ("server CPU", "us/node"), ("worker CPU", "us/node")):
            reference = "Celery's apply_async" if what == "daemon CPU" else "this worker alone"
            ours, floor = found[f"{name} {what}"], found[f"floor of {what}"]
            bench.report.rows.append(Row("cpu_per_node", f"{name}, {what}", size, unit, ours, reference, floor))


def _run_synthetic(bench: Bench, site: Site, shape: Shape) -> tuple[float, float, Work]:
    """Run a shape; return the processor time of daemon and server, and what the worker did."""
    site.forget()
    with SyntheticWorker(site.server, site.directory) as worker:
        worker.wait_idle(site.redis)
        with Stopwatch(site.daemon.pid, site.server_pid) as watch:
            site.run_shape(shape)
        work = worker.stop()
    bench.report.counts.append(count("cpu_per_node", [shape], work.executions))
    return watch.cpu_s[0], watch.cpu_s[1], work


# --- Celery's worker ------------------------------------------------------------------------------------------------


def _with_two_celery_workers(bench: Bench, site: Site, workers: list[str]) -> None:
    n, runs = bench.size(10_000, 60), bench.size(2, 1)
    makers: dict[str, Callable[[], Shape]] = {"group": lambda: group_of(n), "layered": lambda: layered(n)}
    found = samples()
    for number in range(runs):
        bench.say(f"cpu_per_node: two Celery workers, run {number + 1} of {runs}")
        for name, maker in makers.items():
            daemon_s, taken_s = _run_celery(bench, site, maker())
            found[f"{name} CPU"].append(1e6 * daemon_s / n)
            found[f"{name} rate"].append(n / taken_s)
        used_s, taken_s = _native_group(bench, site, n)
        found["native CPU"].append(1e6 * used_s / n)
        found["native rate"].append(n / taken_s)
        found["drained"].append(_drained(bench, site, n, workers))
    for name in makers:
        taken = [n / rate for rate in found[f"{name} rate"]]
        title = f"{name}({n:,}), 2 Celery workers, time"
        bench.report.rows.append(
            Row("cpu_per_node", title, n, "s", taken, "the same tasks, ready in the queue", found["drained"])
        )
    for name in makers:
        for what, unit, reference in (
            ("CPU", "us/node", "publishing a native group"),
            ("rate", "nodes/s", "native group, same workers"),
        ):
            title = f"{name}({n:,}), 2 Celery workers, {'daemon ' if what == 'CPU' else ''}{what}"
            ours, native = found[f"{name} {what}"], found[f"native {what}"]
            bench.report.rows.append(Row("cpu_per_node", title, n, unit, ours, reference, native))


def _run_celery(bench: Bench, site: Site, shape: Shape) -> tuple[float, float]:
    """Run a shape on the workers that are up; return the daemon's processor time and the seconds it took."""
    executions = Executions(site.server.url)
    try:
        executions.clear()
        with Stopwatch(site.daemon.pid) as watch:
            taken_s = site.run_shape(shape)
        bench.report.counts.append(count("cpu_per_node", [shape], _recorded(executions)))
    finally:
        executions.close()
    return watch.cpu_s[0], taken_s


def _native_group(bench: Bench, site: Site, n: int) -> tuple[float, float]:
    """Run a native group; return the publisher's processor time, and the seconds until all was executed."""
    executions = Executions(site.server.url)
    try:
        executions.clear()
        with Stopwatch() as watch:
            published = run_child("celery_peer", "group", n, environment=_peer_environment(site.server))
            wait_until(lambda: site.redis.hlen("test:executions") == n, timeout_s=RUN_MAX_S)
            ended = sum(execution.ended > 0 for execution in _recorded(executions))
        bench.report.counts.append(Count("cpu_per_node", f"native group({n:,})", n, ended, n - ended, 0, 0, 0))
    finally:
        executions.close()
    # The child's start is not Celery's cost; what it printed begins when it has everything imported and built.
    return published["cpu_s"], watch.ended - published["began"]


def _drained(bench: Bench, site: Site, n: int, workers: list[str]) -> float:
    """Have tasks ready in the queue before the workers may take them; return the seconds until all were executed."""
    executions = Executions(site.server.url)
    try:
        executions.clear()
        control = _app_of(site.server).control
        control.cancel_consumer("celery", destination=workers, reply=True, timeout=10)
        run_child("celery_peer", "publish", n, environment=_peer_environment(site.server))
        begun = monotonic()
        control.add_consumer("celery", destination=workers, reply=False)
        wait_until(lambda: site.redis.hlen("test:executions") == n, timeout_s=RUN_MAX_S)
        taken_s = monotonic() - begun
        ended = sum(execution.ended > 0 for execution in _recorded(executions))
        bench.report.counts.append(Count("cpu_per_node", f"{n:,} ready in the queue", n, ended, n - ended, 0, 0, 0))
    finally:
        executions.close()
    return taken_s


def _app_of(server: EmbeddedServer) -> Celery:
    return Celery(broker=server.url, backend=server.url, set_as_current=False)


def _recorded(executions: Executions) -> list[Execution]:
    """Return what Celery's tasks recorded, one entry for each execution."""
    started, finished = executions.started(), executions.finished()
    return [
        Execution(task_id, started.get(task_id, 0), finished.get(task_id, 0))
        for task_id, times in executions.counts().items()
        for _ in range(times)
    ]


def _chains_with(worker: CeleryWorker, bench: Bench, site: Site) -> None:
    n, runs = bench.size(1_000, 20), bench.size(3, 1)
    found = samples()
    for number in range(runs):
        bench.say(f"cpu_per_node: one Celery worker, run {number + 1} of {runs}")
        assert worker.pid is not None
        found["ours"].append(n / _run_celery(bench, site, chain_of(n))[1])
        awaited = run_child("celery_peer", "chain", n, environment=_peer_environment(site.server))
        found["native"].append(n / (awaited["ended"] - awaited["began"]))
        # Its ids are the same in each run, and Celery neither stores nor publishes a success a second time.
        site.forget()
        for name, arguments in (("bare", ()), ("bare with a disk", ("--database", site.directory / "bare.db"))):
            bare = run_child(
                *("bare_loop", "--socket", site.server.socket_path, "--chains", 1, "--steps", n, "--celery", *arguments),
                environment=_peer_environment(site.server),
            )
            found[name].append(n / bare["seconds"])
            site.forget()
    note = f"{statistics.median(1e3 / rate for rate in found['ours']):.2g} ms a step"
    title = f"chain({n:,}), 1 Celery worker, rate"
    bench.report.rows.append(Row("cpu_per_node", title, n, "steps/s", found["ours"], "native chain", found["native"], note))
    bench.report.rows.append(Row("cpu_per_node", title, n, "steps/s", found["ours"], "bare loop", found["bare"]))
    bench.report.rows.append(
        Row("cpu_per_node", title, n, "steps/s", found["ours"], "it, with a commit a step", found["bare with a disk"])
    )


def _peer_environment(server: EmbeddedServer) -> dict[str, str]:
    return {"DYRYGENTD_TEST_BROKER": server.url, "DYRYGENTD_TEST_BACKEND": server.url}
