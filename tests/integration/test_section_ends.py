"""Sections that end, on a real daemon that is killed meanwhile, with real workers."""

import uuid

import pytest

from dyrygentd import Workflow
from dyrygentd.client.sync import Handle
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.servers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 60


def _states(handle: Handle) -> dict[str, str]:
    return {node.name: node.state for node in handle.nodes()}


def _task_id(handle: Handle, node: str) -> str:
    return str(handle.node(node).task_id)


def _wait_running(site: Site, handle: Handle, node: str) -> None:
    """Wait until a worker has begun a node's task."""
    task_id = _task_id(handle, node)
    wait_until(lambda: task_id in site.executions.counts(), timeout_s=_WAIT_S, message=lambda: str(_states(handle)))


def test_a_finally_over_a_kill_and_a_retry(site: Site) -> None:
    """The daemon dies while a clean-up runs: it ran once, what it took away was the lock, and the failure stayed one."""
    key, gate = uuid.uuid4().hex, uuid.uuid4().hex
    workflow = Workflow("drain", policy=WorkflowPolicy(on_failure=OnFailure.STOP))
    with workflow.section("drain") as section:
        lock = workflow.add(tasks.identity.si("the lock"), name="lock")
        workflow.add(tasks.flaky.si(key, 1), after=lock, name="work")
    held = section.finally_(tasks.wait_for.si(gate), name="slow")
    unlock = section.finally_(tasks.echo.s(), after=[lock, held], name="unlock")
    section.hook("failure", tasks.echo.s(), name="told")
    workflow.add(tasks.noop.si(), after=unlock, name="next")
    daemon = site.daemon("sections")
    with daemon, daemon.client() as client:
        handle = client.submit(workflow)
        _wait_running(site, handle, "slow")
        first = _task_id(handle, "slow")
        daemon.kill()
        daemon.start()
        assert _states(handle)["next"] == "cancelled"
        site.executions.release(gate)
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, [node.name for node in outcome.failed_nodes]) == ("failed", ["work"])
        states = _states(handle)
        assert (states["unlock"], states["told"]) == ("succeeded", "succeeded")
        site.executions.assert_each_once([first, _task_id(handle, "unlock")])
        site.executions.release(gate)
        assert handle.retry().is_changed
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert outcome.state == "succeeded", _states(handle)
        assert _states(handle)["told"] == "skipped"
        assert handle.node("slow").attempt == 2


@pytest.mark.long
def test_a_cancel_has_what_has_begun_clean_up(site: Site) -> None:
    """What somebody cancels leaves nothing behind, and no clean-up can keep `cancel --force` from ending it."""
    daemon, ends = site.daemon("cancels"), []
    with daemon, daemon.client() as client:
        for is_forced in (False, True):
            gate = uuid.uuid4().hex
            workflow = Workflow("drain")
            with workflow.section("drain") as section:
                workflow.add(tasks.wait_for.si(f"work of {gate}"), name="work")
            section.finally_(tasks.wait_for.si(gate), name="clean")
            handle = client.submit(workflow)
            _wait_running(site, handle, "work")
            assert handle.cancel().is_changed
            assert not handle.cancel().is_changed
            site.executions.release(f"work of {gate}")  # It goes on at its worker, and nobody waits for it.
            _wait_running(site, handle, "clean")
            status = handle.status()
            assert (status.state, status.error) == ("running", "it was cancelled, and ends when its sections have cleaned up")
            assert "`cancel --force` ends it now" in handle.explain().verdict
            if is_forced:
                assert handle.cancel(force=True).is_changed
            else:
                daemon.kill()
                daemon.start()
            site.executions.release(gate)
            ends.append((handle.wait(timeout_s=_WAIT_S).state, _states(handle)["clean"]))
    assert ends == [("cancelled", "succeeded"), ("cancelled", "cancelled")]
