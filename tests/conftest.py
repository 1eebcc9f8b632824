"""Fixtures for all tests: real servers and workers on Unix sockets, safe to run in parallel."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import create_app

#: A RabbitMQ for tests, if there is one.
AMQP = os.environ.get("DYRYGENTD_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672//")
_MARK = "DYRYGENTD_TEST_PROCESS"


@pytest.fixture(scope="session", autouse=True)
def _no_process_left_behind() -> Iterator[None]:
    """Fail the session if a process it started outlives it: set up first, so torn down last.

    Found are children, and whatever inherited the mark in the environment from one that has gone.
    """
    mark = f"{_MARK}={uuid.uuid4().hex}"
    os.environ[_MARK] = mark.partition("=")[2]
    yield
    wait_until(
        lambda: not _processes_of_ours(mark),
        timeout_s=10,
        message=lambda: f"processes left behind: {_processes_of_ours(mark)}",
    )


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary directory with a short path, because a Unix socket's path has 107 bytes at most."""
    with _short_directory() as directory:
        yield directory


@pytest.fixture
def redis_server(short_tmp: Path) -> Iterator[EmbeddedServer]:
    """A running Redis server for this test alone, which it may stop, kill and restart."""
    with EmbeddedServer(short_tmp) as server:
        yield server


@pytest.fixture
def amqp_url() -> str:
    """The URL of a RabbitMQ; without one the test is skipped, in CI it fails if one was promised."""
    try:
        with Connection(AMQP, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
    except (OSError, OperationalError) as error:
        if os.environ.get("CI") and "DYRYGENTD_TEST_AMQP" in os.environ:
            raise
        pytest.skip(f"no RabbitMQ at {AMQP}: {error}")
    return AMQP


@pytest.fixture
def rabbitmq_queue(amqp_url: str) -> Iterator[str]:
    """The name of a queue of this test alone, deleted afterwards."""
    name = f"dyrygentd-test-{uuid.uuid4().hex}"
    yield name
    with Connection(amqp_url) as connection:
        connection.default_channel.queue_delete(name)


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[EmbeddedServer]:
    """A running Redis server for all tests of this process that leave it as they found it."""
    with _short_directory() as directory, EmbeddedServer(directory, appendonly=False) as server:
        yield server


@pytest.fixture
def celery_app(redis_server: EmbeddedServer) -> Iterator[Celery]:
    """An app on ``redis_server``, with the tasks of ``tests.support.tasks``."""
    app = create_app(redis_server.url, redis_server.url)
    yield app
    # An AsyncResult unsubscribes when it is collected, and would try for 20 s to reach a server that has gone by then.
    consumer = app.backend.result_consumer
    consumer.stop()
    consumer._pubsub = None
    app.close()


@pytest.fixture
def executions(redis_server: EmbeddedServer) -> Iterator[Executions]:
    """The records of the tasks executed on ``redis_server``."""
    found = Executions(redis_server.url)
    yield found
    found.close()


@pytest.fixture
def make_worker(redis_server: EmbeddedServer, tmp_path: Path) -> Iterator[Callable[..., CeleryWorker]]:
    """Start workers on ``redis_server``: ``make_worker(pool=..., queues=..., start=True)``."""
    with contextlib.ExitStack() as stack:

        def make(*, start: bool = True, **options: Any) -> CeleryWorker:
            worker = CeleryWorker(redis_server.url, log_directory=tmp_path, **options)
            stack.callback(worker.stop)
            if start:
                worker.start()
            return worker

        yield make


@pytest.fixture
def worker(make_worker: Callable[..., CeleryWorker]) -> CeleryWorker:
    """One worker on ``redis_server``, ready to execute."""
    return make_worker()


@contextlib.contextmanager
def _short_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="dyr", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _processes_of_ours(mark: str) -> dict[int, str]:
    """Return ``{process id: command line}`` of our children, and of what carries our mark."""
    found = {}
    for entry in Path("/proc").iterdir():
        # A process may end while we look at it.
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            is_ours = int(parent) == os.getpid() or mark.encode() in (entry / "environ").read_bytes().split(b"\0")
            # multiprocessing's helper ends with its parent, and is nobody's to stop.
            if is_ours and state != "Z" and "resource_tracker" not in command:
                found[int(entry.name)] = command
    return found
