"""What the guide for programs shows works: its files are taken out of it and run with real workers and a real daemon."""

import builtins
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dyrygentd import Client, errors
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "dyrygentd/client/README.md").read_text()
FILES = dict(re.findall(r"(?ms)^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", GUIDE))


@pytest.fixture
def directory(short_tmp: Path) -> Path:
    """A directory with the files that the guide shows."""
    for name, body in FILES.items():
        (short_tmp / name).write_text(body)
    return short_tmp


@pytest.fixture
def environment(redis_server: EmbeddedServer, directory: Path) -> dict[str, str]:
    """The environment in which the guide's files find their modules, their server and their daemon."""
    return {
        "REDIS_URL": redis_server.url,
        "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
        "DYRYGENTD_SOCKET": str(directory / "dyrygentd.sock"),
    }


@pytest.fixture
def worker_of(redis_server: EmbeddedServer, directory: Path, environment: dict[str, str]) -> Iterator[Callable[[str], None]]:
    """Start a worker of one of the guide's apps."""
    started: list[CeleryWorker] = []

    def start(app: str) -> None:
        worker = CeleryWorker(redis_server.url, log_directory=directory, app=app, environment=environment)
        started.append(worker)
        worker.launch()

    yield start
    for worker in started:
        worker.stop()


@pytest.mark.long
def test_nightly_survives_a_daemon_that_is_away(
    directory: Path, environment: dict[str, str], worker_of: Callable[[str], None]
) -> None:
    """The task of the recipe is tried again until the daemon is there, and the same night twice is one workflow."""
    worker_of("nightly")
    call = "import nightly; nightly.start.delay().get(timeout=30); nightly.submit.delay('nightly-again')"
    subprocess.run([sys.executable, "-c", call], env=os.environ | environment, check=True, timeout=60)
    with Daemon(["--app", "nightly:app"], directory=directory, environment=environment):
        client = Client(directory / "dyrygentd.sock")
        wait_until(lambda: len(client.list(states=["succeeded"])) == 2, timeout_s=60)
        (view,) = [each for each in client.list() if each.key != "nightly-again"]
        assert (view.key or "").startswith("nightly-20")
        assert view.parent_task is not None
        assert [each.id for each in client.list(parent_task=view.parent_task.task_id)] == [view.id]
        again = f"import nightly; print(nightly.submit('{view.key}'))"
        done = subprocess.run(
            [sys.executable, "-c", again], env=os.environ | environment, check=True, timeout=60, capture_output=True, text=True
        )
        assert done.stdout.strip() == view.id


def test_table_of_errors_is_true() -> None:
    """Each error of the table is what it is said to be."""
    rows = re.findall(r"(?m)^\| `(\w+)` \| ([^|]*) \|", GUIDE.partition("## Errors")[2].partition("\n## ")[0])
    assert len(rows) >= 5
    for name, bases in rows:
        for base in re.findall(r"`(\w+)`", bases):
            expected = getattr(errors, base, None) or getattr(builtins, base)
            # The daemon's own answer of that name is the class that a client raises.
            raised = errors.RemoteNotOnDiskYet if name == "NotOnDiskYet" else getattr(errors, name)
            assert issubclass(raised, expected)


@pytest.mark.long
def test_tests_without_a_daemon_pass(directory: Path) -> None:
    """The tests that the guide shows pass where there is no broker, no worker and no daemon, and leave no socket behind."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_invoices.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DYRYGENTD"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(directory), str(ROOT)])
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_another_host_submits_through_the_broker(
    directory: Path, environment: dict[str, str], redis_server: EmbeddedServer
) -> None:
    """The module that the guide shows submits where there is no socket, by the worker that it names."""
    worker = CeleryWorker(
        redis_server.url, log_directory=directory, app="shared", queues=["dyrygentd", "celery"], environment=environment
    )
    worker.launch()
    try:
        with Daemon(["--app", "shared:app"], directory=directory, environment=environment) as daemon:
            call = "import shared; print(shared.start(['to', 'be'], 'words'))"
            far = os.environ | environment | {"DYRYGENTD_SOCKET": "/nowhere"}
            done = subprocess.run([sys.executable, "-c", call], env=far, capture_output=True, text=True, timeout=90, check=False)
            assert done.returncode == 0, done.stderr
            with Client(daemon.socket_path) as client:
                assert client.handle(done.stdout.strip()).wait(60).result == 4
    finally:
        worker.stop()
