"""Everything a run needs, as processes of its own: broker, records, workers, and the proxy between daemon and broker."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import redis

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.faults.ledger import Ledger
from tests.faults.tasks import SETTINGS
from tests.support.daemon import Daemon
from tests.support.proxy import CuttingProxy
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import records

#: A worker that dies gives its messages back after this long, instead of an hour.
VISIBILITY_TIMEOUT_S = 4


@dataclass(frozen=True, slots=True)
class Crew:
    """A kind of worker.

    Attributes:
        acks_late: Messages are acknowledged when tasks end; one whose worker or child dies is delivered again.
    """

    queue: str
    pool: str = "solo"
    concurrency: int = 1
    acks_late: bool = False
    count: int = 1


#: Tasks of the first queue are lost with their worker, those of the second are delivered again.
EARLY = Crew("celery")
LATE = Crew("late", pool="prefork", concurrency=2, acks_late=True)


@dataclass(slots=True)
class World:
    """Servers and workers that may be maltreated, and are brought back by `mend`.

    Records are on a server of their own which nobody touches: a task must not fail because it cannot be counted.

    Attributes:
        pushed_before: Ids of the tasks of the runs that are over.
        keeps_ledger: The broker's append-only file is never rewritten, so `ledger` finds every message in it.
    """

    directory: Path
    crews: Sequence[Crew] = (EARLY, LATE)
    result_expires_s: int = 3600
    keeps_ledger: bool = True
    worker_log_level: str = "INFO"
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    workers: list[CeleryWorker] = field(init=False, default_factory=list)
    pushed_before: set[str] = field(init=False, default_factory=set)
    server: EmbeddedServer = field(init=False)
    executions: Executions = field(init=False)
    proxy: CuttingProxy = field(init=False)
    _recorder: EmbeddedServer = field(init=False)
    _exits: ExitStack = field(init=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            rewrite = {"auto-aof-rewrite-percentage": "0"} if self.keeps_ledger else {"auto-aof-rewrite-min-size": "16mb"}
            self.server = exits.enter_context(EmbeddedServer(self.directory / "b", settings={**rewrite, **self.settings}))
            self._recorder = exits.enter_context(EmbeddedServer(self.directory / "r", appendonly=False))
            self.proxy = exits.enter_context(CuttingProxy(self.directory / "proxy.sock", self.server.socket_path))
            self.executions = Executions(self._recorder.url)
            exits.callback(self.executions.close)
            for crew in self.crews:
                for _ in range(crew.count):
                    worker = self.worker(crew)
                    exits.callback(worker.stop)
                    worker.launch()
                    self.workers.append(worker)
            for worker in self.workers:
                worker.wait_ready()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.resume()
        self._exits.close()

    @property
    def records_url(self) -> str:
        """Return the URL of the server that has the records."""
        return self._recorder.url

    @property
    def ledger(self) -> Ledger:
        """Return what went through the broker, from now on."""
        return Ledger(self.server.directory / "appendonlydir")

    def worker(self, crew: Crew) -> CeleryWorker:
        """Prepare a worker."""
        options = {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            # Held by a worker that was killed, it keeps all others from giving messages back.
            "unacked_mutex_expire": 2,
        }
        settings: dict[str, Any] = {
            "task_acks_late": crew.acks_late,
            "task_reject_on_worker_lost": crew.acks_late,
            "result_expires": self.result_expires_s,
            "broker_connection_retry": True,
            "broker_connection_max_retries": None,
            "worker_cancel_long_running_tasks_on_connection_loss": False,
        }
        return CeleryWorker(
            self.server.url,
            log_directory=self.directory,
            records_url=self.records_url,
            pool=crew.pool,
            concurrency=crew.concurrency,
            queues=[crew.queue],
            app="tests.faults.tasks",
            arguments=["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", self.worker_log_level],
            environment={
                "DYRYGENTD_TEST_BROKER_OPTIONS": json.dumps(options),
                SETTINGS: json.dumps(settings),
                **self.environment,
            },
        )

    def daemon(self, name: str, *flags: str, module: str = "dyrygentd", through_proxy: bool = True, **environment: str) -> Daemon:
        """Prepare a daemon with a directory of its own; it is not started."""
        directory = self.directory / name
        directory.mkdir()
        url = self.proxy.url if through_proxy else self.server.url
        arguments = ["--broker", url, "--result-backend", url, "--drain-timeout-s", "0.2", *flags]
        return Daemon(arguments, directory=directory, environment=environment, module=module)

    def orders(self) -> redis.Redis:
        """Connect to the broker past the proxy, to give it orders."""
        return records(self.server.url)

    def resume(self) -> None:
        """Let go on whatever was stopped."""
        for pid in (self.server.pid, *(worker.pid for worker in self.workers)):
            if pid is not None:
                signal_process(pid, signal.SIGCONT)

    def mend(self) -> None:
        """Bring back what a run left broken, so that the next one finds everything as it was."""
        self.resume()
        self.server.start()
        self.proxy.forget_cuts()
        for worker in self.workers:
            if worker.pid is None:
                worker.launch()
                worker.wait_ready()

    def empty(self) -> None:
        """Forget everything that was executed and stored; the workers stay connected."""
        wait_until(self._is_idle, timeout_s=30, message="the workers do not come to rest")
        self.executions.clear()
        with self.orders() as orders:
            keys = [key for key in orders.scan_iter(count=1000) if not str(key).startswith("_kombu")]
            for begin in range(0, len(keys), 500):
                orders.unlink(*keys[begin : begin + 500])

    def _is_idle(self) -> bool:
        with self.orders() as orders:
            return not (orders.hlen("unacked") or sum(int(orders.llen(crew.queue)) for crew in self.crews))


def interrupt_on_signals() -> None:
    """Raise `KeyboardInterrupt` on SIGTERM and SIGINT, so that whoever ends us, processes and files are cleaned up.

    A shell has its background jobs ignore SIGINT.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process of ours; to nobody if it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
