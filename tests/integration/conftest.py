"""Fixtures for whole runs: a server and workers that a module's tests share, and the real daemon."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.client.sync import Client
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.daemon import Daemon
from tests.support.directories import short_directory
from tests.support.servers import CeleryWorker, Executions

#: Run everything in its full size.
IS_FULL = os.environ.get("DYRYGENTD_TEST_FULL") == "1"


@dataclass(frozen=True)
class Site:
    """A broker with workers, and what they executed."""

    server: EmbeddedServer
    executions: Executions
    directory: Path

    def daemon(self, name: str = "daemon", *flags: str, **environment: str) -> Daemon:
        """Prepare a daemon with a directory of its own in here; it is not started."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        arguments = ["--broker", self.server.url, "--result-backend", self.server.url, "--drain-timeout-s", "0.2", *flags]
        return Daemon(arguments, directory=directory, environment=environment)


@contextmanager
def running_site(*, workers: int, settings: Mapping[str, str] | None = None) -> Iterator[Site]:
    """Run a server with these lines of redis.conf, and so many workers on it."""
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        server = exits.enter_context(EmbeddedServer(directory, settings=settings))
        started = [CeleryWorker(server.url, log_directory=directory) for _ in range(workers)]
        for worker in started:
            exits.callback(worker.stop)
            worker.launch()
        for worker in started:
            worker.wait_ready()
        executions = Executions(server.url)
        exits.callback(executions.close)
        yield Site(server, executions, directory)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server and workers, shared by the module: tests leave them as they are."""
    with running_site(workers=2 if IS_FULL else 1) as site:
        yield site


@pytest.fixture
def own_site() -> Iterator[Site]:
    """A server and a worker of this test alone, which it may maltreat."""
    with running_site(workers=1) as site:
        yield site


@pytest.fixture
def quiet_site() -> Iterator[Site]:
    """A server of this test alone, without workers."""
    with running_site(workers=0) as site:
        yield site


@pytest.fixture
def daemon(quiet_site: Site) -> Iterator[Daemon]:
    """A daemon on a Redis without workers; modules that want another one have a fixture of this name."""
    with quiet_site.daemon() as daemon:
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of the daemon."""
    with daemon.client() as client:
        yield client


@pytest.fixture
def start_worker(quiet_site: Site) -> Iterator[Callable[..., CeleryWorker]]:
    """Start workers on `quiet_site`, which are killed at the end."""
    started: list[CeleryWorker] = []

    def start(**options: Any) -> CeleryWorker:
        worker = CeleryWorker(quiet_site.server.url, log_directory=quiet_site.directory, **options)
        started.append(worker)
        worker.start()
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def anyio_backend() -> str:
    """The only backend: the adapters are asyncio's."""
    return "asyncio"
