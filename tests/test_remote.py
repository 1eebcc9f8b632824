"""Submissions through the broker: real worker, real daemon, and a program that cannot see the daemon's socket."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from dyrygentd import Client, remote
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import ConfigurationError, NotACanvas, SubmissionRefused
from tests.support.apps import closing
from tests.support.daemon import ROOT, Daemon
from tests.support.servers import CeleryWorker, wait_until

MODULE = """
import json
import os
from celery import Celery
from dyrygentd import remote

app = Celery("far", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.broker_connection_retry_on_startup = True
app.conf.task_routes = {"far.add": {"queue": "routed"}}
remote.install(app)

@app.task
def add(x, y):
    return x + y
"""


@pytest.fixture
def environment(redis_server: EmbeddedServer, short_tmp: Path) -> dict[str, str]:
    """The environment of worker and daemon; the program of these tests has no socket."""
    (short_tmp / "far.py").write_text(MODULE)
    return {
        "REDIS_URL": redis_server.url,
        "PYTHONPATH": os.pathsep.join([str(short_tmp), str(ROOT)]),
        "DYRYGENTD_SOCKET": str(short_tmp / "dyrygentd.sock"),
    }


@pytest.fixture
def worker(redis_server: EmbeddedServer, short_tmp: Path, environment: dict[str, str]) -> Iterator[CeleryWorker]:
    """A worker beside the daemon."""
    worker = CeleryWorker(
        redis_server.url, log_directory=short_tmp, app="far", queues=["dyrygentd", "routed"], environment=environment
    )
    worker.launch()
    yield worker
    worker.stop()


@pytest.fixture
def far(redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, remote.Remote]]:
    """A program on another host: ``(the task add, what submits)``."""
    monkeypatch.setenv("DYRYGENTD_SOCKET", "/nowhere")
    app = Celery("far", broker=redis_server.url, backend=redis_server.url, set_as_current=False)
    app.conf.task_routes = {"far.add": {"queue": "routed"}}

    @app.task(name="far.add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    with closing(app):
        yield add, remote.install(app)


def daemon_at(directory: Path, environment: dict[str, str]) -> Daemon:
    """Return a daemon that has the broker's address and no app."""
    urls = ["--broker", environment["REDIS_URL"], "--result-backend", environment["REDIS_URL"]]
    return Daemon(urls, directory=directory, environment=environment)


def test_program_without_a_socket_submits(
    short_tmp: Path, environment: dict[str, str], worker: CeleryWorker, far: tuple[Any, remote.Remote]
) -> None:
    """The id comes back, tasks go where the program's routes say, and a key gives the same workflow again."""
    add, workflows = far
    with daemon_at(short_tmp, environment) as daemon:
        found = workflows.submit(add.s(1, 2) | add.s(3), key="once", labels={"from": "far"}).get(timeout=60)
        with Client(daemon.socket_path) as client:
            assert client.handle(found).wait(60).result == 6
            assert client.get(found).labels == {"from": "far"}
        assert workflows.submit(add.s(1, 2) | add.s(3), key="once", labels={"from": "far"}).get(timeout=60) == found
        with pytest.raises(SubmissionRefused, match="once") as caught:
            workflows.submit(add.s(5, 5), key="once").get(timeout=60)
        assert (caught.value.code, caught.value.status) == ("key-taken", 409)


@pytest.mark.long
def test_daemon_that_is_away_is_waited_for(
    short_tmp: Path, environment: dict[str, str], worker: CeleryWorker, far: tuple[Any, remote.Remote]
) -> None:
    """A submission waits in the worker's queue while the daemon is away, and is made once."""
    add, workflows = far
    pending = workflows.submit(add.s(1, 2))
    wait_until(lambda: "Retry" in worker.log() or "retry" in worker.log(), timeout_s=60)
    with daemon_at(short_tmp, environment) as daemon:
        found = pending.get(timeout=60)
        with Client(daemon.socket_path) as client:
            assert [view.id for view in client.list()] == [found]
            assert client.get(found).key


def test_what_cannot_run_is_refused_where_it_is_written(far: tuple[Any, remote.Remote]) -> None:
    """The program is told at once, not a worker's log."""
    with pytest.raises(NotACanvas):
        far[1].submit("no canvas")


def test_what_others_write_is_refused_in_one_way(
    short_tmp: Path, environment: dict[str, str], worker: CeleryWorker, far: tuple[Any, remote.Remote]
) -> None:
    """Whoever may publish may write anything: each is refused as the daemon refuses, and none is tried for a day."""
    _, workflows = far
    deep = '{"nodes":' * 20_000
    foreign: tuple[Any, ...] = (None, 5, [1], {"nodes": []}, "", "[]", "\ud800", deep, '{"nodes": []}', '{"key": 5, "nodes": []}')
    with daemon_at(short_tmp, environment) as daemon:
        for definition in foreign:
            with pytest.raises(SubmissionRefused) as caught:
                workflows.task.apply_async((definition,), queue=workflows.queue).get(timeout=60)
            assert 400 <= caught.value.status < 500
        with Client(daemon.socket_path) as client:
            assert client.list() == []


@pytest.mark.long
def test_message_without_a_key_is_submitted_once(
    short_tmp: Path, environment: dict[str, str], worker: CeleryWorker, far: tuple[Any, remote.Remote]
) -> None:
    """A message that is delivered twice, because its worker died, is one workflow, also if no client of ours wrote it."""
    _, workflows = far
    definition = json.dumps({"nodes": [{"name": "a", "task": "far.add", "args": [1, 2]}]})
    with daemon_at(short_tmp, environment) as daemon:
        for _ in range(2):
            workflows.task.apply_async((definition,), queue=workflows.queue, task_id="one-message").get(timeout=60)
            workflows.task.AsyncResult("one-message").forget()
        wait_until(lambda: worker.log().count("one-message] succeeded") == 2, timeout_s=60)
        with Client(daemon.socket_path) as client:
            assert [view.key for view in client.list()] == ["one-message"]


def test_app_has_one_task_that_submits(far: tuple[Any, remote.Remote]) -> None:
    """A second call changes nothing, one with another socket says so; a daemon that hangs outlasts no limit of the app."""
    app = far[1].task.app
    app.conf.update(task_time_limit=2, task_soft_time_limit=1)
    assert remote.install(app, queue="other").queue == "other"
    with pytest.raises(ConfigurationError, match="socket 'by default' already"):
        remote.install(app, socket="/elsewhere")
    assert min(far[1].task.time_limit, far[1].task.soft_time_limit) > 60
