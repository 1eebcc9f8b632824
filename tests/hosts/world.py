"""Hosts and what runs on them: a and b have daemons, c has PostgreSQL and Redis; beside them one has workers, one a replica.

Records of what was executed are on a server of their own that is reached by its socket in the file system, so that no cut keeps a
task from being counted. Workers have a host of their own, whose ways are not cut: what kombu has taken over a connection that
died is lost with it, which is no promise of the daemon's.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.faults.ledger import Ledger
from tests.hosts.network import Host, Network
from tests.support.daemon import Daemon
from tests.support.postgres import PostgresServer
from tests.support.servers import CeleryWorker, Executions, wait_until

_REDIS_PORT: Final = 6379
#: Of the URL of a database: a connection on which nobody answers is given up sooner, so that no test waits for half a minute.
IMPATIENT: Final = "&tcp_user_timeout=2000&connect_timeout=2&keepalives_idle=1&keepalives_interval=1&keepalives_count=2"


class DaemonAt(Daemon):
    """A daemon on a host."""

    def __init__(self, host: Host, arguments: Sequence[str], *, directory: Path) -> None:
        super().__init__(arguments, directory=directory)
        self.host = host

    def launch(self) -> None:
        """Start it there and do not wait."""
        with self.host.inside():
            super().launch()


class WorkerAt(CeleryWorker):
    """A worker on a host."""

    def __init__(self, host: Host, url: str, *, directory: Path, records_url: str) -> None:
        super().__init__(url, log_directory=directory, records_url=records_url)
        self._host = host

    def launch(self) -> None:
        """Start it there without waiting."""
        with self._host.inside():
            super().launch()


class RedisAt(EmbeddedServer):
    """A Redis on an address of a host; its append-only file is never rewritten, so a `Ledger` finds every message in it."""

    def __init__(self, host: Host, address: str, directory: Path) -> None:
        settings = {"port": str(_REDIS_PORT), "bind": address, "protected-mode": "no", "auto-aof-rewrite-percentage": "0"}
        super().__init__(directory, settings=settings)
        self._host, self.address = host, address

    @property
    def network_url(self) -> str:
        """Return the URL by which others reach it."""
        return f"redis://{self.address}:{_REDIS_PORT}/0"

    def start(self) -> None:
        """Start it there, and wait until it answers."""
        with self._host.inside():
            super().start()


class PostgresAt(PostgresServer):
    """A PostgreSQL on an address of a host, which lets everybody in."""

    def __init__(self, host: Host, directory: Path, **settings: str) -> None:
        super().__init__(directory, listen_addresses=host.address, **settings)
        self.host = host

    @property
    def place(self) -> str:
        """Return host and port as a URL has them."""
        return f"{self.host.address}:{self.port}"

    def start(self) -> None:
        """Start it there, and wait until it answers."""
        with self.host.inside():
            super().start()

    def _make_data(self) -> None:
        super()._make_data()
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 0.0.0.0/0 trust\nhost replication all 0.0.0.0/0 trust\n")


class ReplicaAt(PostgresAt):
    """A synchronous replica: what the primary has answered for is here, too.

    Args:
        primary: It waits for this replica from then on.
    """

    def __init__(self, host: Host, directory: Path, primary: PostgresAt) -> None:
        super().__init__(host, directory)
        self._primary = primary

    def start(self) -> None:
        """Start it there, and wait until the primary waits for it."""
        super().start()
        self._primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._primary.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self._primary.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), message=self.log)

    def promote(self) -> None:
        """Have it be the primary."""
        self.execute("SELECT pg_promote()")
        # What it has of the primary's settings: nobody follows it.
        self.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self.execute("SELECT pg_reload_conf()")

    def _make_data(self) -> None:
        primary = f"host={self._primary.host.address} port={self._primary.port} user=postgres"
        with self.host.inside():
            # The directory is there already, and has to be empty and nobody else's.
            self._run("pg_basebackup", "--pgdata", str(self._data), "--dbname", primary, "-R", "-X", "stream", "-c", "fast")
        self._data.chmod(0o700)


@dataclass(slots=True)
class World:
    """Hosts with servers and workers.

    Args:
        seed: Of the packets that are lost.
        workers: How many.
    """

    directory: Path
    seed: int = 0
    workers: int = 2
    network: Network = field(init=False)
    a: Host = field(init=False)
    b: Host = field(init=False)
    c: Host = field(init=False)
    postgres: PostgresAt = field(init=False)
    redis: RedisAt = field(init=False)
    executions: Executions = field(init=False)
    _recorder: EmbeddedServer = field(init=False)
    _exits: ExitStack = field(init=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self.network = exits.enter_context(Network(self.seed))
            self.a, self.b = self.network.host("a"), self.network.host("b")
            self.c = self.network.host("c", addresses=2)
            # The user that PostgreSQL runs as passes through.
            self.directory.chmod(0o711)
            for name in ("p", "q"):
                (self.directory / name).mkdir()
            self.postgres = exits.enter_context(PostgresAt(self.c, self.directory / "p"))
            self.redis = exits.enter_context(RedisAt(self.c, self.c.addresses[1], self.directory / "b"))
            self._recorder = exits.enter_context(EmbeddedServer(self.directory / "r", appendonly=False))
            self.executions = Executions(self._recorder.url)
            exits.callback(self.executions.close)
            exits.callback(self.mend)
            self._start_workers(exits)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @property
    def ledger(self) -> Ledger:
        """Return what goes through the broker from now on."""
        return Ledger(self.redis.directory / "appendonlydir")

    def daemon(
        self,
        name: str,
        host: Host,
        *flags: str,
        database: str = "postgres",
        schema: str = "",
        replica: PostgresAt | None = None,
        options: str = "",
    ) -> DaemonAt:
        """Prepare a daemon on a host; it is not started.

        Args:
            schema: Its name if empty.
            replica: Named in the URL of the database beside the primary.
            options: Further parameters of that URL.
        """
        directory = self.directory / name
        directory.mkdir()
        places = ",".join(server.place for server in (self.postgres, replica) if server is not None)
        broker = self.redis.network_url
        arguments = ["--broker", broker, "--result-backend", broker, "--drain-timeout-s", "0.2"]
        arguments += ["--database", f"postgresql://postgres@{places}/{database}?schema={schema or name}{options}", *flags]
        return DaemonAt(host, arguments, directory=directory)

    def replica(self) -> ReplicaAt:
        """Start a synchronous replica of PostgreSQL, on a host of its own; it ends with this world."""
        return self._exits.enter_context(ReplicaAt(self.network.host("d"), self.directory / "q", self.postgres))

    def _start_workers(self, exits: ExitStack) -> None:
        host, started = self.network.host("w"), []
        for _ in range(self.workers):
            worker = WorkerAt(host, self.redis.network_url, directory=self.directory, records_url=self._recorder.url)
            exits.callback(worker.stop)
            worker.launch()
            started.append(worker)
        for worker in started:
            worker.wait_ready()

    def mend(self) -> None:
        """Open all ways, and let go on what hangs, so that it can be used, or ended."""
        self.network.mend()
        self.postgres.go_on()
        if self.redis.pid is not None:
            os.kill(self.redis.pid, signal.SIGCONT)
