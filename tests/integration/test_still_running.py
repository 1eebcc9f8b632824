"""A task that runs on although its node has ended is named before another attempt is offered, and no other starts unasked."""

from collections.abc import Callable

import celery
import pytest

from dyrygentd import Workflow
from dyrygentd.client.sync import Client, Handle
from dyrygentd.errors import RemoteError
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 40
#: The daemon then takes the task for ended, as its worker says.
_NOT_ON_5_6 = pytest.mark.skipif(
    celery.VERSION < (5, 7), reason="a worker of Celery 5.6 tells of a task that it cannot end as revoked"
)


def _running(client: Client, site: Site, *, timeout_s: float = 0.0) -> Handle:
    workflow = Workflow("copy")
    workflow.add(tasks.wait_for.si("gate"), name="copy", timeout_s=timeout_s)
    handle = client.submit(workflow)
    site.executions.wait_started([str(handle.node("copy").task_id)])
    return handle


def _refusal(handle: Handle) -> str:
    with pytest.raises(RemoteError) as refused:
        handle.retry("copy")
    with pytest.raises(RemoteError):
        handle.retry()
    return f"{refused.value} {refused.value.next_step}"


@pytest.mark.long
@_NOT_ON_5_6
@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_task_that_cannot_be_ended(
    how: str, client: Client, daemon: Daemon, quiet_site: Site, start_worker: Callable[..., CeleryWorker]
) -> None:
    """The pool `threads` ends nothing: `explain` says that it runs and where, `retry` has to be forced; after a restart, too."""
    worker = start_worker(pool="threads", concurrency=2)
    handle = _running(client, quiet_site, timeout_s=1.0 if how == "timeout" else 0.0)
    if how == "cancel":
        handle.cancel(terminate=True)
    ended = {"timeout": "failed", "cancel": "cancelled"}[how]
    wait_until(lambda: handle.node("copy").state == ended, timeout_s=_WAIT_S)
    assert (handle.node("copy").may_run_on, handle.status().may_run_on) == (True, 1)
    words = f"its task still runs on {worker.name}"
    found = handle.explain("copy")
    assert found.code == "runs-on"
    assert words in found.verdict
    command = f"dyrygentctl retry {handle.id} copy --force"
    assert command in found.next_step
    whole = handle.explain()
    assert "the task of 'copy' still runs" in whole.verdict
    assert [(each.code, each.count) for each in whole.standings] == [("runs-on", 1)]
    refusal = _refusal(handle)
    assert words in refusal
    assert command in refusal
    if how == "timeout":
        workflow_id = handle.id
        daemon.kill()
        daemon.start()
        assert client.handle(workflow_id).explain("copy").code == "runs-on"
        assert handle.node("copy").may_run_on
        assert words in _refusal(handle)
    quiet_site.executions.release("gate")
    quiet_site.executions.wait_finished([str(handle.node("copy").task_id)])
    wait_until(lambda: _retried(handle), timeout_s=_WAIT_S, message=lambda: str(handle.explain("copy")))
    quiet_site.executions.release("gate")
    assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
    assert sorted(quiet_site.executions.counts().values()) == [1, 1]
    assert (handle.node("copy").may_run_on, handle.status().may_run_on) == (False, 0)


def _retried(handle: Handle) -> bool:
    try:
        return handle.retry("copy").nodes == ["copy"]
    except RemoteError:
        return False


@_NOT_ON_5_6
def test_force_starts_another_beside_it(client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """Whoever insists is obeyed."""
    start_worker(pool="threads", concurrency=2)
    handle = _running(client, quiet_site, timeout_s=1.0)
    wait_until(lambda: handle.node("copy").state == "failed", timeout_s=_WAIT_S)
    _refusal(handle)
    handle.retry("copy", force=True)
    quiet_site.executions.wait_started([str(handle.node("copy").task_id)])
    quiet_site.executions.release("gate", count=2)
    assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"


@_NOT_ON_5_6
def test_task_of_a_skipped_node(client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """Whoever skips a node that runs is told that its task runs on, and no other is started beside it unasked."""
    worker = start_worker(pool="threads", concurrency=2)
    handle = _running(client, quiet_site)
    handle.skip("copy")
    assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
    assert (handle.node("copy").state, handle.node("copy").may_run_on) == ("skipped", True)
    words = f"its task still runs on {worker.name}"
    assert words in handle.explain("copy").verdict
    with pytest.raises(RemoteError, match=words) as refused:
        handle.rerun("copy")
    assert f"dyrygentctl retry {handle.id} copy --force" in str(refused.value.next_step)
    quiet_site.executions.release("gate")
    quiet_site.executions.wait_finished([str(handle.node("copy").task_id)])
    assert list(quiet_site.executions.counts().values()) == [1]


@pytest.mark.long
@_NOT_ON_5_6
def test_task_behind_one_that_is_run_again(client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """A rerun sets back all that follows, so it is refused as long as the task of one of them runs."""
    worker = start_worker(pool="threads", concurrency=2)
    workflow = Workflow("copy")
    first = workflow.add(tasks.add.si(1, 1), name="first")
    workflow.add(tasks.wait_for.si("gate"), name="copy", after=[first], timeout_s=1.0)
    handle = client.submit(workflow)
    wait_until(lambda: handle.node("copy").state == "failed", timeout_s=_WAIT_S)
    wait_until(lambda: handle.node("copy").may_run_on, timeout_s=_WAIT_S)
    with pytest.raises(RemoteError, match=f"its task still runs on {worker.name}"):
        handle.rerun("first")
    quiet_site.executions.release("gate")
    quiet_site.executions.wait_finished([str(handle.node("copy").task_id)])
    assert sorted(quiet_site.executions.counts().values()) == [1, 1]


@pytest.mark.long
@_NOT_ON_5_6
def test_retry_in_bulk_starts_nothing_beside_what_runs(
    client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]
) -> None:
    """However many workflows are meant: of each the old task is asked for, those that run are refused, and the others go on."""
    running, ended = 45, 5
    start_worker(pool="threads", concurrency=running + ended)
    handles = [_running(client, quiet_site) for _ in range(running + ended)]
    # What has ended before its node was cancelled is no reason to refuse.
    quiet_site.executions.release("gate", count=ended)
    wait_until(lambda: sum(handle.status().is_finished for handle in handles) == ended, timeout_s=_WAIT_S)
    assert len(client.perform_in_bulk("cancel", states=["running"]).changed) == running
    done = client.perform_in_bulk("retry", states=["cancelled"])
    assert (len(done.refused), done.changed) == (running, [])
    assert all("its task still runs on" in refusal.detail for refusal in done.refused)
    quiet_site.executions.release("gate", count=running)
    wait_until(lambda: len(quiet_site.executions.finished()) == running + ended, timeout_s=_WAIT_S)
    wait_until(lambda: len(client.perform_in_bulk("retry", states=["cancelled"]).refused) == 0, timeout_s=_WAIT_S)
    quiet_site.executions.release("gate", count=running)
    wait_until(lambda: all(handle.status().state == "succeeded" for handle in handles), timeout_s=_WAIT_S)
    assert set(quiet_site.executions.counts().values()) == {1}
