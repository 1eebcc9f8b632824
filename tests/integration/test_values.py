"""Long values under a real daemon: kept once, whoever is to be given them, and bounded together."""

from collections.abc import Callable
from pathlib import Path

import pytest
from celery import chain

from dyrygentd import Workflow
from dyrygentd.client.sync import Client
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60
_VALUE_BYTES = 4_000_000
_JOINS = 100


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _many_joins() -> Workflow:
    """One long value, joins after it, and after each a task that waits for something else as well."""
    workflow = Workflow("joins")
    gate = workflow.gate("gate")
    big = workflow.add(tasks.big.si(_VALUE_BYTES), name="big")
    for number in range(_JOINS):
        join = workflow.join([big], name=f"j{number}")
        workflow.add(tasks.echo.s().set(queue="never"), name=f"t{number}", after=[join, gate])
    return workflow


def _kept(client: Client) -> int:
    return int(client.stats().engine["values_bytes"])


@pytest.mark.long
def test_joins_do_not_multiply_a_value(quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """A hundred joins after one value of 4 MB take the memory and the disk of a few values, also after a restart."""
    start_worker()
    daemon = quiet_site.daemon("daemon", "--value-store", "none")
    with daemon, daemon.client() as client:
        before = _resident_bytes(daemon.pid)
        handle = client.submit(_many_joins())
        wait_until(lambda: _kept(client) > 0, timeout_s=_WAIT_S)
        assert _kept(client) == _VALUE_BYTES + 2
        assert _resident_bytes(daemon.pid) - before < 10 * _VALUE_BYTES
        wait_until(lambda: handle.node(f"j{_JOINS - 1}").state == "succeeded", timeout_s=_WAIT_S)
        daemon.kill()
        daemon.start()
        wait_until(lambda: _kept(client) == _VALUE_BYTES + 2, timeout_s=_WAIT_S)
        assert _resident_bytes(daemon.pid) - before < 10 * _VALUE_BYTES
        files = [daemon.database_path, daemon.database_path.with_name("state.db-wal")]
        assert sum(path.stat().st_size for path in files) < 5 * _VALUE_BYTES
        handle.cancel()
        assert handle.wait(timeout_s=_WAIT_S).state == "cancelled"
        wait_until(lambda: _kept(client) == 0)


def _files(daemon: Daemon) -> list[Path]:
    return [path for path in (daemon.database_path.parent / "values").rglob("*") if path.is_file()]


def test_large_values_are_kept_beside_the_database(quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """What is named by rows is there after a kill, is handed to the task as itself, and goes when nobody needs it any more."""
    start_worker()
    daemon = quiet_site.daemon("daemon")
    with daemon, daemon.client() as client:
        workflow = Workflow("large")
        gate = workflow.gate("gate")
        big = [workflow.add(tasks.big.si(_VALUE_BYTES), name=f"big{number}") for number in range(3)]
        workflow.add(tasks.lengths.s(), name="lengths", after=[*big, workflow.add(tasks.big.si(3), after=[gate])])
        handle = client.submit(workflow)
        wait_until(lambda: all(handle.node(f"big{number}").state == "succeeded" for number in range(3)), timeout_s=_WAIT_S)
        assert [path.stat().st_size for path in _files(daemon)] == 3 * [_VALUE_BYTES + 2]
        assert _kept(client) < 1000
        daemon.kill()
        (_files(daemon)[0].parent / "0-1-orphan").write_text("1")
        daemon.start()
        wait_until(lambda: len(_files(daemon)) == 3, timeout_s=_WAIT_S)
        handle.release("gate")
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
        wait_until(lambda: not _files(daemon))
        outcome = client.submit(chain(tasks.big.si(_VALUE_BYTES), tasks.identity.s())).wait(timeout_s=_WAIT_S)
        assert outcome.result == "x" * _VALUE_BYTES
        assert client.stats().engine["stored_value_bytes"] == _VALUE_BYTES + 2
        files = [daemon.database_path, daemon.database_path.with_name("state.db-wal")]
        assert sum(path.stat().st_size for path in files) < _VALUE_BYTES


def test_values_have_a_bound_together(quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """The node whose value would pass it fails by name, with the next step; once there is room a retry succeeds."""
    start_worker()
    daemon = quiet_site.daemon("daemon", "--workflow-values-bytes-max", "1000000")
    with daemon, daemon.client() as client:
        workflow = Workflow("together")
        gate = workflow.gate("gate")
        first = workflow.add(tasks.big.si(700_000), name="first")
        second = workflow.add(tasks.big.si(700_000), name="second", after=[first])
        workflow.add(tasks.echo.s(), name="end", after=[first, gate])
        workflow.add(tasks.echo.s(), name="other", after=[second])
        handle = client.submit(workflow)
        wait_until(lambda: handle.node("second").state == "failed", timeout_s=_WAIT_S)
        assert "the limit is 1000000" in str(handle.node("second").error)
        assert "`workflow_values_bytes_max`" in str(handle.node("second").error)
        assert client.stats().engine["values_refused"] == 1
        handle.release("gate")
        wait_until(lambda: handle.node("end").state == "succeeded", timeout_s=_WAIT_S)
        handle.retry("second")
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
