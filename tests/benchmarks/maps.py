"""Maps beside groups of the same size: cost of a member, the loop's hold when a list becomes members, bytes of one that waits."""

from collections import Counter

from celery import group, signature

from dyrygentd import wire
from dyrygentd.canvas import definition_of
from dyrygentd.client.sync import Handle
from tests.benchmarks.harness import Bench, Site, Stopwatch, SyntheticWorker, Work, resident_bytes, short_directory
from tests.benchmarks.report import Count, Row, samples
from tests.benchmarks.shapes import TASK, UNATTENDED, Shape, count, waiting
from tests.benchmarks.submit import polled
from tests.support.servers import wait_until


def run(bench: Bench) -> None:
    """Run maps and groups in turn, then maps of which nothing is executed."""
    with short_directory() as directory, Site(directory, bench.report, arguments=("--log-level", "error")) as site:
        _beside_groups(bench, site)
        _hold(bench, site)
    _memory(bench)


def _beside_groups(bench: Bench, site: Site) -> None:
    n, runs = bench.size(10_000, 200), bench.size(3, 1)
    found = samples()
    _group(bench, site, _group_of(100))
    for number in range(runs):
        bench.say(f"maps: beside groups, run {number + 1} of {runs}")
        for name, (cpu_s, work, seconds) in (("map", _map(bench, site, n)), ("group", _group(bench, site, _group_of(n)))):
            found[f"{name} CPU"].append(1e6 * cpu_s / n)
            found[f"{name} time"].append(seconds)
            found[f"{name} rate"].append(work.rate)
    for what, unit in (("CPU", "us/node"), ("time", "s"), ("rate", "nodes/s")):
        title = f"map({n:,}), {what if what != 'CPU' else 'daemon CPU'}"
        bench.report.rows.append(Row("maps", title, n, unit, found[f"map {what}"], f"group({n:,})", found[f"group {what}"]))


def _group_of(n: int) -> Shape:
    """Make a group of calls that differ in one argument, as those of a map do."""
    definition = definition_of(group(signature(TASK, args=(number,), immutable=True) for number in range(n)))
    return Shape(f"group({n:,})", definition, wire.encode_definition(definition))


def _definition(n: int, *, queue: str | None = None, in_flight_max: int = 0) -> dict[str, object]:
    do = {"task": TASK, "options": {"queue": queue} if queue else {}}
    # A person gives the list as the value of what is skipped: nobody who executes tasks would take part in what is measured.
    node = {"name": "m", "map": {"over": "list", "do": do, "max_items": n, "in_flight_max": in_flight_max}}
    return {"name": f"map({n:,})", "nodes": [{"name": "list", "gate": True}, node]}


def _map(bench: Bench, site: Site, n: int) -> tuple[float, Work, float]:
    """Run a map; return the daemon's processor time, what the worker did, and the seconds that it took."""
    site.forget()
    with SyntheticWorker(site.server, site.directory) as worker:
        worker.wait_idle(site.redis)
        with Stopwatch(site.daemon.pid) as watch:
            handle = site.daemon.client.submit(_definition(n))
            handle.skip("list", value=[*range(n)])
            outcome = handle.wait(timeout_s=300)
        work = worker.stop()
    assert outcome.is_success, outcome
    assert len(outcome.result) == n
    times = Counter(execution.task_id for execution in work.executions)
    repeated = sum(each > 1 for each in times.values())
    bench.report.counts.append(Count("maps", f"map({n:,})", n, len(work.executions), n - len(times), repeated, 0, 0))
    return watch.cpu_s[0], work, watch.seconds


def _group(bench: Bench, site: Site, shape: Shape) -> tuple[float, Work, float]:
    site.forget()
    with SyntheticWorker(site.server, site.directory) as worker:
        worker.wait_idle(site.redis)
        with Stopwatch(site.daemon.pid) as watch:
            site.run_shape(shape)
        work = worker.stop()
    bench.report.counts.append(count("maps", [shape], work.executions))
    return watch.cpu_s[0], work, watch.seconds


def _hold(bench: Bench, site: Site) -> None:
    """Poll the health while lists become members that nobody executes."""
    runs = bench.size(5, 1)
    for n in (bench.size(10_000, 300), bench.size(100_000, 600)):
        found = samples()
        for number in range(runs):
            bench.say(f"maps: the hold of the loop with {n:,}, run {number + 1} of {runs}")
            site.forget()
            with polled(site.daemon) as latencies:
                handle = _members_wait(site, n)
            found["expanding"].append(1e3 * max(latencies))
            with polled(site.daemon) as latencies:
                group = _group_waits(site, n)
            found["group"].append(1e3 * max(latencies))
            handle.cancel()
            group.cancel()
        title = f"longest /healthz while {n:,} items become members"
        bench.report.rows.append(Row("maps", title, n, "ms", found["expanding"], "a group is submitted", found["group"]))


def _members_wait(site: Site, n: int) -> Handle:
    """Submit a map of which nothing is executed, and wait until its members are there."""
    client = site.daemon.client
    before = client.stats().engine["nodes"]["ready"]
    handle = client.submit(_definition(n, queue=UNATTENDED, in_flight_max=1))
    handle.skip("list", value=[*range(n)])
    wait_until(lambda: client.stats().engine["nodes"]["ready"] >= before + n - 1, timeout_s=300)
    return handle


def _group_waits(site: Site, n: int) -> Handle:
    handle = site.daemon.client.submit(waiting(n).body)
    wait_until(lambda: not site.daemon.client.stats().engine["publish_queue"], timeout_s=300)
    return handle


def _memory(bench: Bench) -> None:
    n, runs = bench.size(100_000, 1_000), bench.size(3, 1)
    found = samples()
    for number in range(runs):
        bench.say(f"maps: memory, run {number + 1} of {runs}")
        for name in ("map", "group"):
            with short_directory() as directory, Site(directory, bench.report) as site:
                submit = _members_wait if name == "map" else _group_waits
                # What a first submission imports and opens, and what decoding a first long one leaves, is no cost of a node.
                for size in (100, n):
                    submit(site, size)
                before = resident_bytes(site.daemon.pid)
                submit(site, n)
                found[name].append((resident_bytes(site.daemon.pid) - before) / n)
    bench.report.rows.append(
        Row("maps", "memory of a member that waits", n, "B/node", found["map"], "of a group", found["group"])
    )
