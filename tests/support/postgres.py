"""A PostgreSQL server for tests, started by them as a user that is not root, of the programs that the distribution has."""

import os
import re
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import psycopg
import pytest

from dyrygentd.daemon.embedded import ChildProcess
from dyrygentd.store.postgres.url import PostgresUrl
from tests.support.servers import wait_until

#: Where its programs are; Debian has none of them on PATH.
PROGRAMS: Final = "DYRYGENTD_TEST_POSTGRES"
_USER: Final = "nobody"
_SETTINGS: Final = {"max_connections": "60", "shared_buffers": "32MB", "log_min_messages": "warning"}


def programs() -> Path | None:
    """Return where ``initdb`` and ``postgres`` are; None if they are nowhere."""
    named = os.environ.get(PROGRAMS)
    places = [Path(named)] if named else [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr/pgsql").glob("*/bin")]
    found = [place for place in places if (place / "initdb").exists() and (place / "postgres").exists()]
    return max(found, key=lambda place: [int(number) for number in re.findall(r"\d+", str(place))], default=None)


def programs_or_skip() -> Path:
    """Return where they are; without them the test is skipped, in CI it fails if some were promised."""
    found = programs()
    if found is None:
        assert not (os.environ.get("CI") and PROGRAMS in os.environ), f"no programs of PostgreSQL in {os.environ[PROGRAMS]}"
        pytest.skip(f"no programs of PostgreSQL in /usr/lib/postgresql, and {PROGRAMS} names none")
    return found


class PostgresServer:
    """A server in a directory of its own, on a Unix socket and a port of 127.0.0.1.

    Args:
        directory: Gets its data, its socket and its log.
        settings: Of the server, beside the usual ones.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self._programs = programs_or_skip()
        self._directory = directory
        self._data, self._sockets = directory / "data", directory / "s"
        self._settings = _SETTINGS | settings
        self._child: ChildProcess | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def __repr__(self) -> str:
        return f"<PostgresServer {self._directory} port={self.port} running={self._child is not None}>"

    def __enter__(self) -> Self:
        directory_mode = self._directory.stat().st_mode
        self._directory.chmod(directory_mode | 0o011)
        for place in (self._data, self._sockets):
            place.mkdir(mode=0o755)
            if os.geteuid() == 0:
                shutil.chown(place, _USER)
        self._make_data()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._launch()
        self._wait_until_it_answers()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Stop it, and have it be amid its start as long as this is entered; afterwards it answers."""
        self.stop()
        gate = self._directory / "gate"
        gate.touch()
        # It looks for a copy to go on from, and there is none.
        (self._data / "recovery.signal").touch()
        self._launch(restore_command=f"while test -e {gate}; do sleep 0.1; done; false")
        try:
            wait_until(lambda: "the database system is starting up" in self._complaint(), timeout_s=60, message=self.log)
            yield
        finally:
            gate.unlink()
            self._wait_until_it_answers()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Have it be amid its end as long as this is entered; afterwards it is stopped."""
        assert self._child is not None
        # It waits for who is connected.
        with psycopg.connect(self.conninfo()):
            self._child.send_signal(signal.SIGTERM)
            wait_until(lambda: "the database system is shutting down" in self._complaint(), timeout_s=60, message=self.log)
            yield
        self._end(signal.SIGTERM)

    def _launch(self, **settings: str) -> None:
        places = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(self._sockets)}
        options = [word for name, value in (places | self._settings | settings).items() for word in ("-c", f"{name}={value}")]
        command = [*_as_user(), str(self._programs / "postgres"), "-D", str(self._data), *options]
        self._child = ChildProcess(command, output=self._directory / "postgres.log", working_directory=Path("/"))

    def _wait_until_it_answers(self) -> None:
        wait_until(lambda: not self._complaint(), timeout_s=60, message=self.log)

    def stop(self) -> None:
        """Stop it at once, whoever is connected; what was committed is there at the next start."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """Kill it with SIGKILL, all of its processes, as an OOM killer or a crash does."""
        child = self._child
        if child is not None:
            # Those of its children that live end when they miss it, and a new one does not start before.
            child.send_signal(signal.SIGKILL, group=True)
        self._end(signal.SIGKILL)

    def hang(self) -> None:
        """Stop all of its processes, so that connections stand and nobody answers on them."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have them go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._pids():
            # One whose client has gone may have ended since they were listed.
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _pids(self) -> list[int]:
        """Return its process ids, the first process first, which makes all others; none if it does not run."""
        if self._child is None:
            return []
        return [self._child.pid, *map(int, Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children").read_text().split())]

    def _end(self, number: signal.Signals) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.send_signal(number)
            if child.wait(30) is None:
                child.send_signal(signal.SIGKILL, group=True)
                child.wait()

    def log(self) -> str:
        """Return the end of what it logged."""
        return (self._directory / "postgres.log").read_text(errors="replace")[-3000:]

    def execute(self, statement: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Carry out a statement as a superuser; return its rows."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    @property
    def pid(self) -> int:
        """Return the process id of its first process."""
        assert self._child is not None
        return self._child.pid

    @property
    def socket_name(self) -> str:
        """How libpq wants its Unix socket to be called."""
        return f".s.PGSQL.{self.port}"

    @property
    def socket(self) -> Path:
        """Where that is."""
        return self._sockets / self.socket_name

    def conninfo(self, database: str = "postgres", *, user: str = "postgres", host: Path | str = "") -> str:
        """Return the URL of a database, by the Unix socket in the server's own directory or in another one."""
        return f"postgresql://{user}@/{database}?host={host or self._sockets}&port={self.port}"

    def make_database(self) -> str:
        """Make an empty database; return its name."""
        name = f"d{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str = "postgres", *, user: str = "postgres", schema: str = "") -> PostgresUrl:
        """Return a place for a store, by the Unix socket; a schema that nobody else has, unless it is named."""
        schema = schema or f"s{uuid.uuid4().hex[:12]}"
        return PostgresUrl.read(f"{self.conninfo(database, user=user)}&schema={schema}")

    def cut(self, database: str) -> int:
        """End all connections to a database; return how many there were."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        return len(self.execute(query, database))

    def _make_data(self) -> None:
        """Make the data directory."""
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "--pgdata", str(self._data), "--no-sync", *options)

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of its programs to its end."""
        command = [*_as_user(), str(self._programs / program), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr

    def _complaint(self) -> str:
        """Return why it does not answer, empty if it does."""
        assert self._child is not None
        assert self._child.is_alive, self.log()
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError as error:
            return str(error)
        return ""


class LaggingReplica(PostgresServer):
    """A copy of a server that follows it no more: what comes after `__enter__` is not here."""

    def __init__(self, directory: Path, primary: PostgresServer) -> None:
        super().__init__(directory, hot_standby="on")
        self._primary = primary

    def promote(self) -> None:
        """Have it be a primary, as a failover to an asynchronous replica does, whose first checkpoint takes its time."""
        ((checkpointer,),) = self.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        os.kill(checkpointer, signal.SIGSTOP)
        self.execute("SELECT pg_promote()")

    def _make_data(self) -> None:
        # The directory is there already, and has to be empty and nobody else's.
        self._run(
            "pg_basebackup", "--pgdata", str(self._data), "--dbname", self._primary.conninfo(), "-X", "stream", "-c", "fast"
        )
        (self._data / "standby.signal").touch()
        self._data.chmod(0o700)


def _as_user() -> list[str]:
    """Return what a command begins with that must not be root's."""
    if os.geteuid() != 0:
        return []
    # Changing the user forgets that it is to die with us.
    return ["setpriv", f"--reuid={_USER}", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL"]
