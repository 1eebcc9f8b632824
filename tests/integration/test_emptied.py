"""A server that comes back without its data, under a real daemon and real workers."""

from collections.abc import Callable, Iterator

import pytest

from dyrygentd import Workflow
from dyrygentd.client.sync import Handle
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 60
#: Nothing is overdue; only the broker's loss of memory makes anybody look.
_PATIENT = ("--lost-after-s", "600", "--lost-confirm-s", "1")


@pytest.fixture
def daemon(quiet_site: Site) -> Iterator[Daemon]:
    """A daemon that looks for tasks for a reason only."""
    with quiet_site.daemon("daemon", *_PATIENT) as daemon:
        yield daemon


def _states(handle: Handle) -> dict[str, str]:
    return {node.name: node.hold or node.state for node in handle.nodes()}


def _wait_states(handle: Handle, **wanted: str) -> None:
    wait_until(
        lambda: wanted.items() <= _states(handle).items(), timeout_s=_WAIT_S, message=lambda: f"{_states(handle)}, not {wanted}"
    )


def _workflow() -> Workflow:
    workflow = Workflow("emptied")
    running = workflow.add(tasks.wait_for.si("gate"), name="running")
    workflow.add(tasks.echo.si(1).set(queue="later"), name="asks")
    workflow.add(tasks.echo.si(2).set(queue="later"), name="again", idempotent=True)
    workflow.add(tasks.echo.si(3).set(queue="later"), name="fails", on_lost="fail")
    workflow.add(tasks.echo.si(4), name="after", after=[running])
    return workflow


@pytest.mark.parametrize(
    "is_daemon_away", [False, pytest.param(True, marks=pytest.mark.long)], ids=["under the daemon", "while no daemon runs"]
)
def test_flushed(is_daemon_away: bool, daemon: Daemon, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """What a worker has goes on; what was only in the broker is tried again, failed, or held, as the policies say."""
    start_worker(pool="threads")
    with daemon.client() as client, records(quiet_site.server.url) as broker:
        handle = client.submit(_workflow())
        first = {node.name: str(node.task_id) for node in handle.nodes()}
        quiet_site.executions.wait_started([first["running"]])
        wait_until(lambda: broker.llen("later") == 3)
        if is_daemon_away:
            daemon.kill()
        broker.flushall()
        if is_daemon_away:
            daemon.start()
        _wait_states(handle, running="dispatched", asks="lost", again="dispatched", fails="failed")
        wait_until(lambda: broker.llen("later") == 1)
        assert client.stats().engine["broker_emptied"] == 1
        assert "emptied" in client.health().notices[0]
        assert client.health().status == "ok"
        handle.retry("asks")
        start_worker(queues=["later"])
        quiet_site.executions.release("gate")
        assert handle.wait(timeout_s=_WAIT_S).state == "failed"
        assert _states(handle) == {
            "running": "succeeded",
            "asks": "succeeded",
            "again": "succeeded",
            "fails": "failed",
            "after": "succeeded",
        }
        # The records were flushed as well: what is counted is what was executed since.
        counts = quiet_site.executions.counts()
        assert max(counts.values()) == 1
        assert first["fails"] not in counts


@pytest.mark.long
def test_restarted_empty_amid_publishing(daemon: Daemon, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """Messages that were never sent are sent into the new server, those that were are missed; none is pushed twice."""
    with daemon.client() as client, records(quiet_site.server.url) as broker:
        workflow = Workflow("amid publishing")
        for number in range(600):
            workflow.add(tasks.echo.si(number), name=f"n{number}", idempotent=number % 2 == 0)
        handle = client.submit(workflow)
        wait_until(lambda: broker.llen("celery") >= 100)
        broker.flushall()
        wait_until(lambda: client.stats().engine["broker_emptied"] == 1, timeout_s=_WAIT_S)
        wait_until(lambda: not client.stats().lost["missing"] and client.stats().engine["counters"]["lost"], timeout_s=_WAIT_S)
        held = [name for name, state in _states(handle).items() if state == "lost"]
        assert all(int(name[1:]) % 2 for name in held)
        start_worker()
        if held:
            handle.retry(*held)
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
        counts = quiet_site.executions.counts()
        assert {node.task_id for node in handle.nodes()} == counts.keys()
        assert set(counts.values()) == {1}
