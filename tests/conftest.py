"""Fixtures for all tests: real servers and workers on Unix sockets, safe to run in parallel."""

import contextlib
import faulthandler
import importlib
import logging
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, settings
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.directories import begin_session, left_behind, short_directory
from tests.support.forking import close_nurseries, fork_none, nurseries
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.size import of_size, try_more
from tests.support.tasks import create_app

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

#: A RabbitMQ for tests, if there is one.
AMQP = os.environ.get("DYRYGENTD_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672//")
_MARK = "DYRYGENTD_TEST_PROCESS"
#: How long a test may go on after its ``timeout``, to stop its servers and workers.
_HANGS_S = 180
#: For tests without a ``timeout``.
_FOR_EVER_S = 3600
_ENDS_S = 60
_stderr = 2

# What a shell starts in the background ignores Ctrl-C, and would hand that on to all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each process of a run imports all tests, and compiles them for seconds unless that has been done: also where Python is told to
# write no such files, which is meant for what is installed.
sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long``: all there is, as CI runs it."""
    parser.addoption("--long", action="store_true", help="run the tests marked as long too, when none are named")


def pytest_configure(config: pytest.Config) -> None:
    """Leave out what takes long, unless it is asked for or tests are named; keep the real stderr before it is captured."""
    global _stderr
    _stderr = os.dup(2)
    begin_session()
    if config.getoption("--long"):
        fork_none()
        try_more()
    # How long an example takes, or making it, says how busy the machine is, and nothing of what is tested.
    settings.register_profile(
        "dyrygentd", max_examples=of_size(40, 100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("dyrygentd")
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.getoption("--long") and not config.option.markexpr:
        config.option.markexpr = "not long"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say aloud what was left out."""
    if config.option.markexpr == "not long":
        terminalreporter.write_line("NOT RUN: tests marked as long, which CI runs; --long runs them too")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import another share of all tests first in each process, so that in a new clone none is compiled by every process."""
    worker: dict[str, Any] | None = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    number, count = int(str(worker["workerid"]).removeprefix("gw")), int(worker["workercount"])
    here = Path(__file__).parent
    for path in sorted(here.rglob("test_*.py"))[number::count]:
        # What cannot be imported is told when it is collected.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(path.relative_to(here.parent).with_suffix("").parts))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End a process whose test does not even end by its timeout, and show where every thread stands.

    pytest-timeout interrupts a test once: what hangs on in tearing it down, in C, or in a finalizer, would hang the whole run.
    """
    marked = item.get_closest_marker("timeout")
    timeout_s = float(marked.args[0] if marked and marked.args else item.config.getini("timeout"))
    faulthandler.dump_traceback_later((timeout_s or _FOR_EVER_S) + _HANGS_S, exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove what a process of the run left behind when it ended without tidying up, and fail for it."""
    # The others have it removed by the one that they were started by.
    if not hasattr(session.config, "workerinput") and (found := left_behind()):
        for directory in found:
            shutil.rmtree(directory, ignore_errors=True)
        print(f"left behind, and removed: {', '.join(map(str, found))}", file=sys.stderr)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """The same for a process that does not end, such as for a thread that nobody stopped."""
    # Those of xdist wait for each other, and are killed by it.
    if not hasattr(config, "workerinput"):
        faulthandler.dump_traceback_later(_ENDS_S, exit=True, file=_stderr)


@pytest.fixture(scope="session", autouse=True)
def _no_process_left_behind() -> Iterator[None]:
    """Fail the session if a process it started outlives it: set up first, so torn down last.

    Found are children, and whatever inherited the mark in the environment from one that has gone.
    """
    mark = f"{_MARK}={uuid.uuid4().hex}"
    os.environ[_MARK] = mark.partition("=")[2]
    yield
    try:
        wait_until(
            lambda: not _processes_of_ours(mark),
            timeout_s=10,
            message=lambda: f"processes left behind: {_processes_of_ours(mark)}",
        )
    finally:
        close_nurseries()


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Leave the root logger as it was: a daemon that a test sets up in this process writes to standard error from then on."""
    root = logging.getLogger()
    level, before = root.level, [*root.handlers]
    yield
    root.setLevel(level)
    for handler in [*root.handlers]:
        # Those of pytest are of kinds of their own.
        if handler not in before and type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


@pytest.fixture
def anyio_backend() -> str:
    """The only backend, since all here is asyncio's: older anyio would try trio as well, whether it is there or not."""
    return "asyncio"


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary directory with a short path, for sockets."""
    with short_directory() as directory:
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
    with short_directory() as directory, EmbeddedServer(directory, appendonly=False) as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator["PostgresServer"]:
    """A running PostgreSQL for all tests of this process that have a schema of their own, and leave it running."""
    # Few tests need it, and all would wait for psycopg.
    from tests.support.postgres import PostgresServer

    with short_directory() as directory, PostgresServer(directory) as server:
        yield server


@pytest.fixture
def postgres_server(short_tmp: Path) -> Iterator["PostgresServer"]:
    """A running PostgreSQL for this test alone, which it may stop, kill and restart."""
    from tests.support.postgres import PostgresServer

    with PostgresServer(short_tmp) as server:
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


def _processes_of_ours(mark: str) -> dict[int, str]:
    """Return ``{process id: command line}`` of our children, and of what carries our mark."""
    found = {}
    for entry in Path("/proc").iterdir():
        # A process may end while we look at it.
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or int(entry.name) in {os.getpid(), *nurseries()}:
                continue
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            is_ours = int(parent) == os.getpid() or mark.encode() in (entry / "environ").read_bytes().split(b"\0")
            # multiprocessing's helper ends with its parent, and is nobody's to stop.
            if is_ours and state != "Z" and "resource_tracker" not in command:
                found[int(entry.name)] = command
    return found
