"""``python -m tests.faults.results [--tasks 6000]``: the worst that can happen to results on their way from real workers.

While two workers execute, the subscriber's connection is killed four times, Redis is stopped for five seconds, the daemon's loop
for two and a half, and Redis cuts off a subscriber that is a megabyte behind. Every result has to be there in the end; how late
the daemon saw it is measured from the moment at which the worker had stored it.
"""

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from celery import group

from dyrygentd.canvas import definition_of
from dyrygentd.client.sync import Handle
from tests.faults.tasks import TIMED
from tests.faults.world import Crew, World, interrupt_on_signals, signal_process
from tests.support import tasks
from tests.support.directories import short_directory
from tests.support.servers import wait_until
from tests.support.tasks import PREFIX, records

#: So many results as a loop that stands still for seconds misses are more than the subscriber's buffer holds.
_RESULT_BYTES: Final = 12_000
_BUFFER: Final = "pubsub 1mb 512kb 2"
_WORKFLOWS: Final = 3


@dataclass(frozen=True, slots=True)
class Chaos:
    """What became of the results.

    Attributes:
        missing: Tasks of which the daemon does not have the result.
        repeated: Executions beyond the first, of messages that workers gave back.
        delays_s: From the moment at which a result was stored to that at which the daemon had it, in order of size.
    """

    tasks: int
    missing: int
    executions: int
    repeated: int
    restored: int
    pushed_twice: int
    paths: dict[str, int]
    connections: int
    delays_s: Sequence[float]
    seconds: float

    @property
    def is_well(self) -> bool:
        """Tell whether nothing is missing and nothing was sent twice."""
        return not self.missing and not self.pushed_twice and self.repeated <= self.restored

    def share(self, share: float) -> float:
        """Return a quantile of the delays."""
        return self.delays_s[min(len(self.delays_s) - 1, int(share * len(self.delays_s)))]

    def text(self) -> str:
        """Return it in a few lines."""
        return "\n".join(
            [
                f"{self.tasks} results, {self.missing} missing, in {self.seconds:.1f} s over {self.connections} connections",
                "by " + ", ".join(f"{path} {count}" for path, count in self.paths.items()),
                f"delay: median {self.share(0.5):.3f} s, p90 {self.share(0.9):.2f} s, p99 {self.share(0.99):.2f} s, "
                f"largest {self.delays_s[-1]:.2f} s",
                f"{self.executions} executions, {self.repeated} again, of {self.restored} messages that workers gave back; "
                f"{self.pushed_twice} pushed twice",
            ]
        )


def run_chaos(count: int, *, say: Callable[[str], None]) -> Chaos:
    """Run so many tasks through the chaos."""
    begun = time.monotonic()
    settings = {"client-output-buffer-limit": _BUFFER}
    with (
        short_directory() as directory,
        World(directory, crews=[Crew("celery", count=2)], environment={TIMED: "1"}, settings=settings) as world,
        world.daemon("d") as daemon,
        daemon.client() as client,
        records(world.records_url) as recorded,
        world.ledger as ledger,
    ):
        size = count // _WORKFLOWS
        say(f"{_WORKFLOWS * size} tasks")
        definitions = [definition_of(group([tasks.big.si(_RESULT_BYTES) for _ in range(size)])) for _ in range(_WORKFLOWS)]
        handles = [client.submit(definition) for definition in definitions]

        def executed() -> int:
            return int(recorded.hlen(f"{PREFIX}executions"))

        for share, name, cause in _CAUSES:
            wait_until(lambda share=share: executed() >= share * count, timeout_s=120, message=daemon.log)  # type: ignore[misc]
            say(f"after {executed()} executions: {name}")
            cause(world, daemon.pid)
        outcomes = []
        for handle in handles:
            _repeat_lost(handle, timeout_s=120)
            outcomes.append(handle.wait(timeout_s=10))
        stats = client.stats()
        nodes = [node for handle in handles for node in handle.nodes() if node.task_id]
        ended_at = {str(key): float(value) for key, value in recorded.hgetall(f"{PREFIX}ended_at").items()}
        counts = world.executions.counts()
        pushes = [*ledger.pushes()]
    pushed = Counter(push.task_id for push in pushes if not push.is_restored)
    delays = [node.finished_at - ended_at[node.task_id] for node in nodes if node.finished_at and node.task_id in ended_at]
    return Chaos(
        tasks=len(nodes),
        missing=sum(node.state != "succeeded" for node in nodes),
        executions=sum(counts.values()),
        repeated=sum(number - 1 for number in counts.values()),
        restored=sum(push.is_restored for push in pushes),
        pushed_twice=sum(number > 1 for number in pushed.values()),
        paths={path: stats.watcher[path] for path in ("pushed", "read", "swept")},
        connections=stats.watcher["connections"],
        delays_s=sorted(max(0.0, delay) for delay in delays),
        seconds=time.monotonic() - begun,
    )


def _repeat_lost(handle: Handle, *, timeout_s: float) -> None:
    """Wait for the end; what a worker lost with its connection is no result that went missing, and is tried again."""
    deadline = time.monotonic() + timeout_s
    while not handle.status().is_finished and time.monotonic() < deadline:
        time.sleep(0.5)
        if time.monotonic() > deadline - timeout_s + 10:
            for node in handle.nodes(states=["dispatched"]):
                if handle.explain(node.name).code == "lost":
                    handle.retry(node.name, force=True, why="lost")


def _kill_subscribers(world: World, _: int) -> None:
    with world.orders() as orders:
        orders.client_kill_filter(_type="pubsub")


def _stop_redis(world: World, _: int) -> None:
    assert world.server.pid
    _stopped(world.server.pid, 5.0)


def _stop_daemon(_: World, pid: int) -> None:
    _stopped(pid, 2.5)


def _stopped(pid: int, seconds: float) -> None:
    signal_process(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        signal_process(pid, signal.SIGCONT)


#: After which share of the executions, what, and how.
_CAUSES: Final[Sequence[tuple[float, str, Callable[[World, int], None]]]] = (
    (0.10, "the subscriber's connection is killed", _kill_subscribers),
    (0.25, "the subscriber's connection is killed", _kill_subscribers),
    (0.40, "Redis is stopped for 5 s", _stop_redis),
    (0.60, "the subscriber's connection is killed", _kill_subscribers),
    (0.70, "the daemon is stopped for 2.5 s", _stop_daemon),
    (0.90, "the subscriber's connection is killed", _kill_subscribers),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.results", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=6000)
    options = parser.parse_args(arguments)
    interrupt_on_signals()
    chaos = run_chaos(options.tasks, say=lambda text: print(text, file=sys.stderr, flush=True))
    print(chaos.text())
    return 0 if chaos.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
