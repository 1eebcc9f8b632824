"""Cancelling and explaining by where a task is: in a queue without workers, behind others, fetched, running, or lost."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dyrygentd import Workflow
from dyrygentd.client.sync import Client, Handle
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 30


@pytest.fixture
def broker(quiet_site: Site) -> Iterator[redis.Redis]:
    """The broker's Redis."""
    with records(quiet_site.server.url) as client:
        yield client


def _key() -> str:
    return uuid.uuid4().hex


def _fan(count: int, signature: Any, **options: Any) -> Workflow:
    workflow = Workflow("fan")
    for number in range(count):
        workflow.add(signature, name=f"n{number}", **options)
    return workflow


def _wait_code(handle: Handle, node: str, code: str) -> Any:
    wait_until(
        lambda: handle.explain(node).code == code, timeout_s=_WAIT_S, message=lambda: f"not '{code}': {handle.explain(node)}"
    )
    return handle.explain(node)


def test_cancelled_without_workers_never_runs(
    quiet_site: Site, client: Client, broker: redis.Redis, start_worker: Callable[..., CeleryWorker]
) -> None:
    """What waits in a queue is taken out of it, so that a worker that starts later, and knows nothing, finds nothing."""
    handle = client.submit(_fan(50, tasks.noop.si()))
    wait_until(lambda: broker.llen("celery") == 50)
    handle.cancel()
    wait_until(lambda: broker.llen("celery") == 0)
    other = client.submit(_fan(5, tasks.noop.si()))
    start_worker()
    assert other.wait(_WAIT_S).state == "succeeded"
    assert quiet_site.executions.counts().keys() == {str(node.task_id) for node in other.nodes()}
    wait_until(lambda: {node.late for node in handle.nodes()} == {"revoked"})


@pytest.mark.long
def test_cancelled_and_killed_without_workers_never_runs(
    quiet_site: Site, daemon: Daemon, client: Client, broker: redis.Redis, start_worker: Callable[..., CeleryWorker]
) -> None:
    """The daemon may die between the answer and the broker: the next one takes the messages out of the queue."""
    handle = client.submit(_fan(50, tasks.noop.si()))
    wait_until(lambda: broker.llen("celery") == 50)
    handle.cancel()
    daemon.kill()
    daemon.start()
    wait_until(lambda: broker.llen("celery") == 0)
    start_worker()
    other = client.submit(_fan(5, tasks.noop.si()))
    assert other.wait(_WAIT_S).state == "succeeded"
    assert quiet_site.executions.counts().keys() == {str(node.task_id) for node in other.nodes()}


def test_whereabouts_are_told(
    quiet_site: Site, client: Client, broker: redis.Redis, start_worker: Callable[..., CeleryWorker]
) -> None:
    """Each place where a task can be is found and named, and the next step that is named for a lost one works."""
    key = _key()
    executions: Executions = quiet_site.executions
    handle = client.submit(_fan(8, tasks.wait_for.si(key)))
    wait_until(lambda: broker.llen("celery") == 8)

    nobody = _wait_code(handle, "n0", "no-consumer")
    assert "celery" in nobody.verdict
    assert "worker" in nobody.next_step
    assert handle.explain().standings[0].code == "no-consumer"

    start_worker(pool="prefork", concurrency=1, name="only@test")
    executions.wait_started([str(handle.node("n0").task_id)])
    running = _wait_code(handle, "n0", "running")
    assert "only@test" in running.verdict
    assert running.facts["n0"]["worker"] == "only@test"
    reserved = _wait_code(handle, "n1", "reserved")
    assert "only@test" in reserved.verdict
    queued = _wait_code(handle, "n7", "queued")
    assert queued.facts["n7"]["position"] is not None
    assert "queue 'celery'" in queued.verdict

    # Somebody purges the queue.
    broker.delete("celery")
    lost = _wait_code(handle, "n7", "lost")
    command = f"dyrygentctl retry {handle.id} n7 --force"
    assert command in lost.next_step
    gone = [node.name for node in handle.nodes() if handle.explain(node.name).code == "lost"]
    handle.retry(*gone, force=True, why="the queue was purged")
    executions.release(key, count=8)
    assert handle.wait(_WAIT_S).state == "succeeded"
    executions.assert_each_once([str(node.task_id) for node in handle.nodes()])


@pytest.mark.long
@pytest.mark.parametrize("terminate", [False, True])
def test_cancel_on_rabbitmq(
    quiet_site: Site,
    amqp_url: str,
    rabbitmq_queue: str,
    start_worker: Callable[..., CeleryWorker],
    terminate: bool,
    tmp_path: Path,
) -> None:
    """There nothing is taken out of a queue: the workers that run are told, and drop what they come to."""
    key = _key()
    directory = quiet_site.directory / "rabbit"
    directory.mkdir()
    arguments = ["--broker", amqp_url, "--result-backend", quiet_site.server.url, "--drain-timeout-s", "0.2"]
    worker = CeleryWorker(
        amqp_url,
        quiet_site.server.url,
        log_directory=tmp_path,
        pool="prefork",
        concurrency=1,
        queues=(rabbitmq_queue,),
        records_url=quiet_site.server.url,
    )
    signature = tasks.wait_for.si(key).set(queue=rabbitmq_queue)
    with worker, Daemon(arguments, directory=directory) as daemon, daemon.client() as client:
        handle = client.submit(_fan(4, signature))
        first = [str(node.task_id) for node in handle.nodes()]
        wait_until(lambda: len(quiet_site.executions.started()) == 1)
        handle.cancel(terminate=terminate)
        # What the worker has fetched and not begun is dropped when it comes to it.
        wait_until(lambda: "revoked" in {node.late for node in handle.nodes()}, message=daemon.log)
        if not terminate:
            quiet_site.executions.release(key)
        ends = [["revoked"], ["succeeded"]][not terminate] + ["revoked"] * 3
        wait_until(
            lambda: sorted(str(node.late) for node in handle.nodes()) == sorted(ends),
            timeout_s=_WAIT_S,
            message=lambda: str([node.late for node in handle.nodes()]),
        )
        assert len(quiet_site.executions.started().keys() & set(first)) == 1
        handle.retry(why="go on")
        quiet_site.executions.release(key, count=4)
        assert handle.wait(_WAIT_S).state == "succeeded"
        assert not {str(node.task_id) for node in handle.nodes()} & set(first)
