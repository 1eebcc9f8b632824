"""Who consumed a queue is told when its worker has died, though nobody ran `explain` while it lived."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from dyrygentd import Workflow
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def _explained(daemon: Daemon, reference: str) -> str:
    with daemon.client() as client:
        return str(client.handle(reference).explain("after").verdict)


def _noted(daemon: Daemon) -> str:
    """Read what is on disk of who consumes which queue."""
    with closing(sqlite3.connect(f"file:{daemon.database_path}?mode=ro", uri=True)) as database:
        return "".join(value for (value,) in database.execute("SELECT value FROM notes WHERE name = 'consumers'"))


@pytest.mark.long
def test_worker_that_died_is_named(quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """The census asks while a task is in flight; what it learnt outlives the daemon, too."""
    worker = start_worker(name="w1@test", pool="threads")
    workflow = Workflow("census")
    workflow.add(tasks.wait_for.si("gate"), name="slow")
    with quiet_site.daemon() as daemon, daemon.client() as client:
        client.submit(workflow)
        wait_until(lambda: "w1@test" in _noted(daemon), timeout_s=30, message=daemon.log)
        worker.kill()
        later = Workflow("later")
        later.add(tasks.noop.si(), name="after")
        handle = client.submit(later)
        wait_until(lambda: handle.node("after").state == "dispatched", message=daemon.log)
        words = "which nobody consumes; the last that said to consume it is w1@test, asked "
        assert words in _explained(daemon, handle.id)
        daemon.stop()
        daemon.start()
        assert words in _explained(daemon, handle.id)
