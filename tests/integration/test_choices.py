"""Choices with the real daemon and a worker: one branch runs, the other one does not, also over a restart."""

import pytest
from celery import chain

from dyrygentd import Workflow, value_of
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.servers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60


def _choice(status: str) -> Workflow:
    workflow = Workflow("choice")
    check = workflow.add(tasks.identity.si({"status": status}), name="check")
    done = workflow.switch(
        check,
        {"full": chain(tasks.identity.si("drain"), tasks.identity.si("drained")), "empty": tasks.identity.si("removed")},
        default=tasks.fail.si("neither full nor empty"),
        path="status",
        name="replace",
    )
    workflow.add(tasks.identity.s(), name="tell", after=done)
    return workflow


def test_one_branch_runs(site: Site) -> None:
    """The value of the branch that ran is handed on; what did not run says why."""
    with site.daemon("choice") as daemon, daemon.client() as client:
        for status, result in (("full", "drained"), ("empty", "removed")):
            handle = client.submit(_choice(status))
            outcome = handle.wait(timeout_s=_WAIT_S)
            assert (outcome.state, outcome.result) == ("succeeded", result)
        skipped = [node for node in handle.nodes() if node.state == "skipped"]
        assert len(skipped) == 3
        told = handle.explain(skipped[0].name)
        assert "`when` of section 'replace/full': check.status is 'empty', not 'full'" in str(told)
        handle = client.submit(_choice("half"))
        assert handle.wait(timeout_s=_WAIT_S).state == "failed"


def test_a_restart_decides_by_what_was_kept(site: Site) -> None:
    """The value is on disk until it has been asked."""
    workflow = Workflow("gated")
    check = workflow.add(tasks.identity.si(3), name="check")
    gate = workflow.gate("gate", after=check)
    workflow.add(tasks.identity.si("many"), name="many", after=gate, when=value_of(check).over(2))
    workflow.add(tasks.fail.si(), name="few", after=gate, when=value_of(check).at_most(2))
    daemon = site.daemon("restart")
    with daemon, daemon.client() as client:
        handle = client.submit(workflow)
        wait_until(lambda: handle.node("gate").state == "held", timeout_s=_WAIT_S)
        daemon.kill()
        daemon.start()
        wait_until(lambda: handle.node("gate").state == "held", timeout_s=_WAIT_S)
        handle.release("gate")
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
        assert handle.node("few").state == "skipped"
