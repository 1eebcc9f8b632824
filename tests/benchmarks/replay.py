"""The replay: a workload like nine months at OVHcloud, through the daemon as it is shipped."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks import workload
from tests.benchmarks.harness import Bench, Site, Stopwatch, SyntheticWorker, Work, resident_bytes, run_child, short_directory
from tests.benchmarks.report import Count, Row

_SEED = 11_170
_UNFINISHED = 500
_LOOK_S = 0.25
#: After which a task that the worker has lost is tried again.
_TIMEOUT_S = 2


def run(bench: Bench) -> None:
    """Run it once: it takes as long as many runs of the others, and its figures are of hundreds of thousands of tasks."""
    scale = 0.002 if bench.quick else 1.0
    with short_directory() as directory, Site(directory, bench.report) as site:
        bodies = directory / "bodies.jsonl"
        bench.say("replay: writing the definitions")
        run_child("workload", "--seed", _SEED, "--scale", scale, "--out", bodies)
        with SyntheticWorker(site.server, site.directory) as worker:
            worker.wait_idle(site.redis)
            bench.say("replay: running them")
            pids = site.daemon.pid, site.server_pid
            with Stopwatch(*pids) as watch, _largest_of(site.daemon.pid) as largest:
                submitted = run_child(
                    "submitter", "--socket", site.daemon.socket, "--bodies", bodies, "--unfinished", _UNFINISHED, max_s=1800
                )
            work = worker.stop()
        database_bytes = site.daemon.database.stat().st_size
        statistics = site.daemon.client.stats()
    tally, workflows, n = _checked(work, scale)
    assert submitted["succeeded"] == workflows, f"{submitted} of {workflows} workflows"
    bench.report.counts.append(tally)
    add, name = bench.report.rows.append, f"{n:,} tasks in {workflows:,} workflows"
    add(Row("replay", name, n, "s", [watch.seconds]))
    add(Row("replay", f"{name}, rate", n, "nodes/s", [n / watch.seconds]))
    for what, used_s in zip(("daemon", "server"), watch.cpu_s, strict=True):
        add(Row("replay", f"{what} CPU", n, "us/node", [1e6 * used_s / n]))
    add(Row("replay", "worker CPU", n, "us/node", [1e6 * work.cpu_s / n]))
    add(Row("replay", "client CPU", n, "us/node", [1e6 * submitted["cpu_s"] / n]))
    add(Row("replay", "daemon, largest", n, "MB", [max(largest, default=0) / 1e6]))
    add(Row("replay", "database afterwards, all of it kept", n, "B/node", [database_bytes / n]))
    add(Row("replay", "transactions", n, "nodes each", [n / max(1, statistics.store["commits"])]))
    _with_faults(bench)


def _with_faults(bench: Bench) -> None:
    """Run a part of it on a worker that fails, loses and repeats: every workflow has to succeed all the same."""
    scale = 0.001 if bench.quick else 0.05
    policy = {"retry": {"attempts": 8, "backoff_s": 0.1, "on": ["any"]}, "timeout_s": _TIMEOUT_S}
    faults = ("--fail", "0.02", "--lose", "0.002", "--repeat", "0.05", "--spread", "long")
    with short_directory() as directory, Site(directory, bench.report) as site:
        bodies = directory / "bodies.jsonl"
        arguments = ("--seed", _SEED, "--scale", scale, "--policy", json.dumps(policy), "--out", bodies)
        run_child("workload", *arguments)
        with SyntheticWorker(site.server, site.directory, hold_s=0.01, arguments=faults) as worker:
            worker.wait_idle(site.redis)
            bench.say("replay: with faults")
            with Stopwatch() as watch:
                socket = site.daemon.socket
                submitted = run_child("submitter", "--socket", socket, "--bodies", bodies, "--unfinished", _UNFINISHED)
            work = worker.stop()
    planned = list(workload.plan(_SEED, scale))
    n = sum(len(workflow.after) for workflow in planned)
    assert submitted["succeeded"] == len(planned), f"{submitted} of {len(planned)} workflows"
    ids = [execution.task_id for execution in work.executions]
    assert len(ids) == len(set(ids)), "an attempt was executed twice"
    assert {workflow.task_id(node) for workflow in planned for node in range(len(workflow.after))} <= set(ids)
    note = ", ".join(f"{number:,} {fate}" for fate, number in work.fates.items())
    bench.report.rows.append(Row("replay", f"{n:,} tasks with faults", n, "s", [watch.seconds], note=note))


@contextmanager
def _largest_of(pid: int) -> Iterator[list[int]]:
    """Look again and again how large a process is."""
    sizes: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            sizes.append(resident_bytes(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


def _checked(work: Work, scale: float) -> tuple[Count, int, int]:
    """Check that each task was executed once and after all before it; return the count, and how many workflows and tasks."""
    times: dict[str, tuple[float, float]] = {}
    repeated = 0
    for execution in work.executions:
        repeated += execution.task_id in times
        times[execution.task_id] = execution.began, execution.ended
    n = workflows = missing = out_of_order = 0
    for planned in workload.plan(_SEED, scale):
        workflows += 1
        ended = [times.get(planned.task_id(node), (0.0, 0.0))[1] for node in range(len(planned.after))]
        for node, before in enumerate(planned.after):
            began, _ = times.get(planned.task_id(node), (0.0, 0.0))
            missing += not began
            out_of_order += bool(before) and began < max([ended[each] for each in before])
        n += len(planned.after)
    foreign = len(times) - (n - missing)
    tally = Count("replay", "workload", n, len(work.executions), missing, repeated, foreign, out_of_order)
    return tally, workflows, n
