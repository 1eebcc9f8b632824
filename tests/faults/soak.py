"""``python -m tests.faults.soak [--minutes 60] [--rate 200]``: a steady load with a fault every minute, and what grows meanwhile.

Workflows of all shapes are submitted at a steady pace, each with a key, so that a submission that a fault cut is repeated
without harm. When one has ended, the executions of its tasks are counted. Faults come in turn. The daemon is killed and restarted
in the first quarter and in the last minutes; in between it is one process, whose curves can be compared.

What a worker that is killed had begun is lost (that is Celery's early acknowledgement). The daemon finds it, tries again by
itself what is idempotent, and holds the rest for an operator, whose part is played here.
"""

import argparse
import csv
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import redis

from dyrygentd.client.sync import Client
from dyrygentd.errors import DyrygentError
from tests.faults.workflows import small_workflow
from tests.faults.world import Crew, World, interrupt_on_signals, signal_process
from tests.support.daemon import Daemon
from tests.support.directories import short_directory
from tests.support.tasks import PREFIX, records

#: Workflows that take longer than this are looked into.
_PATIENCE_S: Final = 10.0
#: And those that take even longer are an error. A stopped broker and a lost task after the other take a minute.
_HANGS_S: Final = 150.0
#: What a killed worker had begun is looked for so soon.
_LOST_FLAGS: Final = ("--lost-after-s", "10", "--lost-confirm-s", "5")
#: No more is submitted while so many tasks wait: the workers cannot keep up.
_BACKLOG_MAX: Final = 4000
#: The share of the time in which the daemon is not restarted.
_QUIET: Final = (0.25, 0.95)
#: Growth from the first to the last part of that time which counts as flat: a share, and so much beside it.
_GROWTH: Final = 0.05
_SLACK: Final = {
    "rss_mb": 1.0,
    "fds": 4.0,
    "threads": 2.0,
    "wal_mb": 1.0,
    "database_mb": 1.0,
    "redis_mb": 2.0,
    "redis_keys": 2000.0,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What everything weighed at one moment; NaN if the daemon did not answer."""

    at_s: float
    pid: int
    rss_mb: float
    fds: float
    threads: float
    wal_mb: float
    database_mb: float
    redis_mb: float
    redis_keys: float
    queued: float
    unacked: float
    workflows: float
    in_flight: float
    inbox: float
    publish_queue: float
    late: float
    watched: float
    pushed: float
    read: float
    swept: float
    published: float
    lag_ms: float
    unchecked: int
    executed: int
    fault: str


@dataclass(slots=True)
class Tally:
    """What was counted."""

    workflows: int = 0
    tasks: int = 0
    checked: int = 0
    executions: int = 0
    duplicates: int = 0
    pushed: int = 0
    restored: int = 0
    retried_by_operator: int = 0
    errors: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def error(self, text: str) -> None:
        """Note what must not be; the first hundred are kept."""
        if len(self.errors) < 100:
            self.errors.append(text)
        print(f"ERROR: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class _Submitted:
    workflow_id: str
    task_ids: Sequence[str]
    at: float


class Soak:
    """A soak under way."""

    def __init__(
        self, world: World, daemon: Daemon, *, seconds: float, rate: float, fault_every_s: float, say: Callable[[str], None]
    ):
        self.world = world
        self.daemon = daemon
        self.tally = Tally()
        self.samples: list[Sample] = []
        self._seconds = seconds
        self._rate = rate
        self._fault_every_s = fault_every_s
        self._say = say
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._open: deque[_Submitted] = deque()
        self._submitting_done = threading.Event()
        self._last_fault = ""
        self._ledger = world.ledger
        self._ledger_lock = threading.Lock()
        #: ``{workflow_id: {(node, attempt)}}`` of what was pushed, until it was looked at.
        self._pushed_of: dict[str, set[tuple[int, int]]] = {}
        self._chance = random.Random(1)

    # --- load -------------------------------------------------------------------------------------------------------

    def submit_steadily(self) -> None:
        """Submit workflows at the rate until the time is over."""
        due = time.monotonic()
        number = 0
        with self.daemon.client() as client:
            while not self._stop.is_set():
                workflow = small_workflow(self._chance)
                number += 1
                handle = self._submit(client, workflow, f"soak-{number}")
                if handle is None:
                    break
                self.tally.workflows += 1
                self.tally.tasks += workflow.graph.task_count
                self._open.append(_Submitted(handle, [each for each in workflow.graph.task_ids if each], time.monotonic()))
                due += workflow.graph.task_count / self._rate
                # What a fault held up is made up for, but not all at once.
                due = max(due, time.monotonic() - 20)
                while sum(len(each.task_ids) for each in list(self._open)) > _BACKLOG_MAX and not self._stop.wait(0.1):
                    due = time.monotonic()
                self._stop.wait(max(0.0, due - time.monotonic()))
        self._submitting_done.set()

    def _submit(self, client: Client, workflow: Any, key: str) -> str | None:
        while not self._stop.is_set():
            try:
                return client.submit(workflow, key=key).id
            except DyrygentError:
                # It is being restarted, or cannot take anything now.
                self._stop.wait(0.2)
        return None

    # --- the oracle -------------------------------------------------------------------------------------------------

    def check_ended(self) -> None:
        """Look after workflows in the order of their submission, until all have ended."""
        with self.daemon.client() as client, records(self.world.records_url) as counts:
            while not (self._submitting_done.is_set() and not self._open):
                if not self._open:
                    time.sleep(0.05)
                    continue
                late_ones = self._check_one(client, counts, self._open[0])
                if late_ones:
                    with self._ledger_lock:
                        self._pushed_of.pop(self._open.popleft().workflow_id, None)

    def keep_ledger(self) -> None:
        """Count every push, and look for one that came twice."""
        while not self._stop.wait(1.0):
            self._read_ledger()

    def _read_ledger(self) -> None:
        with self._ledger_lock:
            for push in self._ledger.pushes():
                if push.is_restored:
                    self.tally.restored += 1
                    continue
                self.tally.pushed += 1
                attempts = self._pushed_of.setdefault(push.workflow_id, set())
                if (push.node, push.attempt) in attempts or not push.workflow_id:
                    self.tally.error(f"pushed twice, or without a marker: {push}")
                attempts.add((push.node, push.attempt))

    def _check_one(self, client: Client, counts: redis.Redis, submitted: _Submitted) -> bool:
        """Tell whether the workflow has ended; count the executions of its tasks then, and forget them."""
        try:
            view = client.get(submitted.workflow_id)
        except DyrygentError as error:
            if getattr(error, "code", "") == "workflow-not-found":
                self.tally.error(f"workflow {submitted.workflow_id} is gone: {error}")
                return True
            time.sleep(0.2)
            return False
        if not view.is_finished:
            if time.monotonic() - submitted.at > _PATIENCE_S:
                self._operate(client, submitted)
            time.sleep(0.05)
            return False
        self.tally.checked += 1
        if view.state != "succeeded":
            # Celery's own: a worker that cannot store a result stores the ConnectionError of its backend as the task's failure.
            errors = [f"{node.name}: {node.error}" for node in client.handle(view.id).nodes(states=["failed"])]
            self.tally.error(f"workflow {view.id} '{view.name}' ended as {view.state}: {view.counts} {view.error} {errors}")
        ids = list(submitted.task_ids)
        found = [int(count or 0) for count in counts.hmget(f"{PREFIX}executions", ids)]
        never = [task_id for task_id, count in zip(ids, found, strict=True) if not count]
        if never:
            # A lost one that was tried again was executed under another id.
            again = {node.task_id for node in client.handle(view.id).nodes() if node.attempt > 1 and node.task_id}
            more = [int(count or 0) for count in counts.hmget(f"{PREFIX}executions", sorted(again))] if again else []
            found += more
            if len(again) < len(never) or not all(more):
                self.tally.error(f"workflow {view.id}: {len(never)} tasks were not executed: {never[:3]}")
            ids += sorted(again)
        self.tally.executions += sum(found)
        self.tally.duplicates += sum(max(0, count - 1) for count in found)
        for name in ("executions", "started", "finished", "ended"):
            counts.hdel(f"{PREFIX}{name}", *ids)
        return True

    def _operate(self, client: Client, submitted: _Submitted) -> None:
        """Do what an operator would with a workflow that does not come to its end: decide on what the daemon holds as lost."""
        handle = client.handle(submitted.workflow_id)
        with suppress(DyrygentError):
            for node in handle.nodes(states=["held"]):
                if node.hold == "lost":
                    handle.retry(node.name, why="lost in the soak")
                    self.tally.retried_by_operator += 1
                    self._say(f"operator: tried '{node.name}' of {submitted.workflow_id} again: {node.error}")
        if time.monotonic() - submitted.at > _HANGS_S:
            self.tally.error(f"workflow {submitted.workflow_id} hangs: {_explained(handle)}")
            self._open.remove(submitted)
            self._open.append(replace(submitted, at=time.monotonic()))
        self._stop.wait(1.0)

    # --- faults -----------------------------------------------------------------------------------------------------

    def break_things(self) -> None:
        """Cause a fault at every turn, and bring back what it stopped."""
        turns = 0
        restarts = 0
        others = [
            self._kill_pubsub,
            self._kill_normal,
            self._stop_redis,
            self._restart_redis,
            self._kill_worker,
            self._cut_proxy,
            self._stop_daemon,
        ]
        while not self._stop.wait(self._fault_every_s - (time.monotonic() - self._begun) % self._fault_every_s):
            share = (time.monotonic() - self._begun) / self._seconds
            is_quiet = _QUIET[0] <= share <= _QUIET[1]
            if not is_quiet and turns % 2 == 0:
                fault = (self._kill_daemon, self._restart_daemon)[restarts % 2]
                restarts += 1
            else:
                fault = others[(turns - restarts) % len(others)]
            turns += 1
            name = fault.__name__.lstrip("_").replace("_", " ")
            self._last_fault = name
            self.tally.faults[name] += 1
            self._say(f"{time.monotonic() - self._begun:6.0f} s fault: {name}")
            try:
                fault()
            except Exception as error:
                self.tally.error(f"fault '{name}': {error!r}")

    def _kill_pubsub(self) -> None:
        with self.world.orders() as orders:
            orders.client_kill_filter(_type="pubsub")

    def _kill_normal(self) -> None:
        with self.world.orders() as orders:
            orders.client_kill_filter(_type="normal", skipme=True)

    def _stop_redis(self) -> None:
        assert self.world.server.pid
        self._stopped(self.world.server.pid, 3.0)

    def _restart_redis(self) -> None:
        self.world.server.restart()

    def _kill_worker(self) -> None:
        worker = self._chance.choice(self.world.workers)
        worker.kill()
        worker.start()

    def _kill_daemon(self) -> None:
        self.daemon.kill()
        self.daemon.start()

    def _restart_daemon(self) -> None:
        self.daemon.stop()
        self.daemon.start()

    def _cut_proxy(self) -> None:
        self.world.proxy.cut_reply_to("EVALSHA")
        time.sleep(2)
        self.world.proxy.cut_all()

    def _stop_daemon(self) -> None:
        self._stopped(self.daemon.pid, 2.0)

    def _stopped(self, pid: int, seconds: float) -> None:
        signal_process(pid, signal.SIGSTOP)
        try:
            self._stop.wait(seconds)
        finally:
            signal_process(pid, signal.SIGCONT)

    # --- watching ---------------------------------------------------------------------------------------------------

    def sample(self, client: Client) -> Sample:
        """Look at everything once."""
        nan = float("nan")
        begun = time.perf_counter()
        try:
            stats = client.stats()
            lag_ms = 1000 * (time.perf_counter() - begun)
        except DyrygentError:
            stats, lag_ms = None, nan
        engine: dict[str, Any] = stats.engine if stats else {}
        watcher: dict[str, Any] = stats.watcher if stats else {}
        pid = self.daemon.pid
        database = self.daemon.database_path
        info: dict[str, Any] = {}
        queued = unacked = keys = nan
        with suppress(redis.RedisError, OSError), self.world.orders() as orders:
            orders.connection_pool.connection_kwargs["socket_timeout"] = 2
            found: Any = orders.info("memory")
            info = found
            queued, unacked, keys = float(orders.llen("celery")), float(orders.hlen("unacked")), float(orders.dbsize())
        sample = Sample(
            at_s=round(time.monotonic() - self._begun, 1),
            pid=pid,
            rss_mb=_of_status(pid, "VmRSS") / 1024,
            fds=_descriptors(pid),
            threads=_of_status(pid, "Threads"),
            wal_mb=_size_mb(database.with_name(database.name + "-wal")),
            database_mb=_size_mb(database),
            redis_mb=info.get("used_memory", nan) / 2**20,
            redis_keys=keys,
            queued=queued,
            unacked=unacked,
            workflows=engine.get("workflows", nan),
            in_flight=engine.get("in_flight", nan),
            inbox=engine.get("inbox", nan),
            publish_queue=engine.get("publish_queue", nan),
            late=engine.get("late", nan),
            watched=watcher.get("watched", nan),
            pushed=watcher.get("pushed", nan),
            read=watcher.get("read", nan),
            swept=watcher.get("swept", nan),
            published=stats.dispatcher["published"] if stats else nan,
            lag_ms=round(lag_ms, 1),
            unchecked=len(self._open),
            executed=self.tally.executions,
            fault=self._last_fault,
        )
        self._last_fault = ""
        self.samples.append(sample)
        return sample

    def run(self, *, sample_every_s: float, write: Callable[[Sample], None]) -> None:
        """Run until the time is over, or an interrupt; then wait until everything has ended."""
        with self._ledger:
            self._run(sample_every_s, write)

    def _run(self, sample_every_s: float, write: Callable[[Sample], None]) -> None:
        threads = [threading.Thread(target=self.submit_steadily), threading.Thread(target=self.break_things)]
        threads.append(threading.Thread(target=self.keep_ledger))
        checking = threading.Thread(target=self.check_ended, daemon=True)
        for thread in (*threads, checking):
            thread.start()
        client = self.daemon.client()
        try:
            while (left := self._begun + self._seconds - time.monotonic()) > 0:
                time.sleep(min(left, sample_every_s - (time.monotonic() - self._begun - sample_every_s / 2) % sample_every_s))
                write(self.sample(client))
                self._show(self.samples[-1])
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)
            self.world.resume()
            checking.join(90)
            if checking.is_alive():
                self.tally.error(f"{len(self._open)} workflows had not ended {90} s after the last was submitted")
            self._count_last()
            client.close()

    def _count_last(self) -> None:
        self._read_ledger()
        # What was executed again after its workflow had ended.
        strays = self.world.executions.counts()
        if not self._open:
            self.tally.executions += sum(strays.values())
            self.tally.duplicates += sum(strays.values())
        again, restored = self.tally.duplicates, self.tally.restored
        if again > restored:
            self.tally.error(f"{again} executions too many, and workers gave back only {restored} messages")

    def _show(self, sample: Sample) -> None:
        before = self.samples[-2] if len(self.samples) > 1 else None
        since_s = sample.at_s - (before.at_s if before else 0.0)
        rate = (sample.executed - (before.executed if before else 0)) / max(since_s, 0.1)
        self._say(
            f"{sample.at_s:6.0f} s  rss {sample.rss_mb:6.1f}  fds {sample.fds:3.0f}  thr {sample.threads:2.0f}  "
            f"wal {sample.wal_mb:5.1f}  db {sample.database_mb:5.1f}  redis {sample.redis_mb:6.1f} MB {sample.redis_keys:6.0f}  "
            f"queued {sample.queued:4.0f}  unacked {sample.unacked:3.0f}  wf {sample.workflows:4.0f}  "
            f"in flight {sample.in_flight:4.0f}  lag {sample.lag_ms:6.1f} ms  {rate:5.0f}/s"
        )


def verdict(samples: Sequence[Sample], seconds: float) -> tuple[list[str], bool]:
    """Compare beginning and end of the time in which the daemon was one process; return lines, and whether all is flat."""
    part = [sample for sample in samples if _QUIET[0] * seconds + 30 <= sample.at_s <= _QUIET[1] * seconds]
    lines, is_flat = [], True
    if len({sample.pid for sample in part}) > 1:
        return ["the daemon was not one process in the quiet time: nothing can be compared"], False
    third = max(1, len(part) // 3)
    for name in ("rss_mb", "fds", "threads", "wal_mb", "database_mb", "redis_mb", "redis_keys"):
        first, last = _median(part[:third], name), _median(part[-third:], name)
        allowed = first * (1 + _GROWTH) + _SLACK[name]
        grown = not last <= allowed
        is_flat = is_flat and not grown
        lines.append(f"{name:<12} {first:10.1f} -> {last:10.1f}   {'GROWS' if grown else 'flat'}")
    return lines, is_flat


def table(samples: Sequence[Sample], seconds: float) -> list[str]:
    """Show the curves at 10, 25, 50, 75 and 100 % of the time, each the median of the samples around."""
    shares = (0.10, 0.25, 0.50, 0.75, 1.0)
    lines = [f"{'':<14}" + "".join(f"{share:>10.0%}" for share in shares)]
    for entry in fields(Sample):
        if entry.name in ("at_s", "pid", "fault"):
            continue
        cells = []
        for share in shares:
            near = [sample for sample in samples if abs(sample.at_s - share * seconds) <= max(25.0, 0.01 * seconds)]
            cells.append(f"{_median(near, entry.name):>10.1f}")
        lines.append(f"{entry.name:<14}" + "".join(cells))
    return lines


def report(soak: Soak, seconds: float) -> tuple[str, bool]:
    """Put everything together; tell whether all is well."""
    tally, samples = soak.tally, soak.samples
    lines = table(samples, seconds)
    judged, is_flat = verdict(samples, seconds)
    elapsed = samples[-1].at_s if samples else 0
    lags = sorted(sample.lag_ms for sample in samples if sample.lag_ms == sample.lag_ms)
    lines += ["", *judged, ""]
    middle, largest = (lags[len(lags) // 2], lags[-1]) if lags else (float("nan"), float("nan"))
    rate = tally.tasks / max(elapsed, 1)
    lines += [
        f"{tally.workflows} workflows of {tally.tasks} tasks in {elapsed:.0f} s: {rate:.0f} tasks/s; {tally.checked} checked",
        f"{tally.executions} executions, {tally.duplicates} of them again; workers gave {tally.restored} messages back",
        f"{tally.pushed} messages pushed, each once unless an error says otherwise",
        f"{tally.retried_by_operator} tasks tried again by the operator",
        f"faults: {', '.join(f'{name} {count}x' for name, count in sorted(tally.faults.items()))}",
        f"answer to stats: median {middle:.0f} ms, largest {largest:.0f} ms",
        f"errors: {len(tally.errors)}",
        *tally.errors[:20],
        f"verdict: {'flat' if is_flat else 'NOT FLAT'}, {'no errors' if not tally.errors else 'ERRORS'}",
    ]
    return "\n".join(lines), is_flat and not tally.errors


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=200, help="tasks a second")
    parser.add_argument("--fault-every-s", type=float, default=60)
    parser.add_argument("--sample-every-s", type=float, default=10)
    parser.add_argument("--history-max", type=int, default=2000, help="finished workflows that the daemon keeps")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, help="directory for samples.csv, report.txt and the logs; by default soak-<time>")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says."""
    options = read_options(arguments)
    output = options.output or Path(f"soak-{time.strftime('%Y%m%d-%H%M%S')}")
    output.mkdir(parents=True, exist_ok=True)
    interrupt_on_signals()
    text, is_well = run_soak(options, say=lambda text: print(text, flush=True), output=output)
    print(text)
    return 0 if is_well else 1


def run_soak(options: argparse.Namespace, *, say: Callable[[str], None], output: Path) -> tuple[str, bool]:
    """Soak, leave samples, report and log in ``output``; return the report, and whether all is well."""
    seconds = 60 * options.minutes
    with short_directory() as directory, _samples_into(output / "samples.csv") as write:
        crews = [Crew("celery", count=options.workers)]
        # Some 200 MB an hour otherwise.
        world = World(directory, crews=crews, result_expires_s=120, keeps_ledger=False, worker_log_level="WARNING")
        flags = [*_LOST_FLAGS, "--history-max", str(options.history_max), "--log-level", "warning", "--drain-timeout-s", "1"]
        with world, world.daemon("d", *flags) as daemon:
            soak = Soak(world, daemon, seconds=seconds, rate=options.rate, fault_every_s=options.fault_every_s, say=say)
            try:
                soak.run(sample_every_s=options.sample_every_s, write=write)
            except KeyboardInterrupt:
                say("interrupted: what follows is of the time until now")
                seconds = min(seconds, soak.samples[-1].at_s) if soak.samples else seconds
            text, is_well = report(soak, seconds)
            (output / "report.txt").write_text(text + "\n")
            (output / "tally.json").write_text(json.dumps(_plain(soak.tally), indent=1) + "\n")
            (output / "daemon.log").write_text(daemon.log()[-1_000_000:])
    return text, is_well


def _plain(tally: Tally) -> dict[str, Any]:
    return {entry.name: getattr(tally, entry.name) for entry in fields(tally)}


@contextmanager
def _samples_into(path: Path) -> Iterator[Callable[[Sample], None]]:
    names = [entry.name for entry in fields(Sample)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)

        def write(sample: Sample) -> None:
            writer.writerow([getattr(sample, name) for name in names])
            file.flush()

        yield write


def _median(samples: Sequence[Sample], name: str) -> float:
    values = [value for sample in samples if (value := getattr(sample, name)) == value]
    return statistics.median(values) if values else float("nan")


def _of_status(pid: int, name: str) -> float:
    """Read a number from /proc/<pid>/status; kilobytes if it is a size."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return float(line.split()[1])
    return float("nan")


def _descriptors(pid: int) -> float:
    with suppress(OSError):
        return float(len(os.listdir(f"/proc/{pid}/fd")))
    return float("nan")


def _size_mb(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_size / 2**20
    return float("nan")


def _explained(handle: Any) -> str:
    try:
        explanation = handle.explain()
    except DyrygentError as error:
        return str(error)
    return f"{explanation.verdict} {[standing.text for standing in explanation.standings[:3]]}"


if __name__ == "__main__":
    sys.exit(main())
