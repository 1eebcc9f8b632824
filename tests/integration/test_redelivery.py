"""A broker that gives a task out again: while it still runs, or after each worker that died with it."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from kombu.connection import Connection

from dyrygentd import Workflow, WorkflowPolicy
from dyrygentd.client.sync import Client, Handle
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60
#: A worker that has a message takes no other.
_ONE = {"DYRYGENTD_TEST_SETTINGS": json.dumps({"task_track_started": True, "worker_prefetch_multiplier": 1})}
_DYING = {"DYRYGENTD_TEST_SETTINGS": json.dumps({"task_track_started": True, "task_reject_on_worker_lost": True})}


@pytest.fixture
def daemon(quiet_site: Site) -> Iterator[Daemon]:
    """A daemon that looks for tasks soon, and takes three redeliveries for too many."""
    flags = ("--lost-after-s", "2", "--lost-confirm-s", "2", "--redeliveries-max", "3")
    with quiet_site.daemon("daemon", *flags) as daemon:
        yield daemon


def _one(signature: Any) -> Workflow:
    workflow = Workflow("one")
    workflow.add(signature, name="a")
    return workflow


def _explained(handle: Handle, words: str) -> str:
    wait_until(lambda: words in handle.explain("a").verdict, timeout_s=_WAIT_S, message=lambda: str(handle.explain("a")))
    return handle.explain("a").verdict


@pytest.mark.long
def test_two_workers_at_one_task(client: Client, quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """With late acknowledgement and a short visibility timeout both are named, with what to change, and it is counted."""
    for name in ("one@test", "two@test"):
        start_worker(pool="prefork", concurrency=1, name=name, environment=_ONE)
    handle = client.submit(_one(tasks.wait_for_late.si("gate")))
    task_id = str(handle.node("a").task_id)
    quiet_site.executions.wait_started([task_id])
    options = {"visibility_timeout": 1}
    with Connection(quiet_site.server.url, transport_options=options) as connection, closing(connection.channel()) as channel:

        def is_given_out_again() -> bool:
            # As every worker does now and then.
            channel.qos.restore_visible(interval=1)
            return quiet_site.executions.counts()[task_id] > 1

        wait_until(is_given_out_again, timeout_s=_WAIT_S)
    verdict = _explained(handle, "the broker gave it out once more while it ran")
    assert "one@test" in verdict
    assert "two@test" in verdict
    assert "visibility timeout" in handle.explain("a").next_step
    wait_until(lambda: handle.node("a").redelivered >= 1, timeout_s=_WAIT_S, message=lambda: str(handle.node("a")))
    assert "given out again" in handle.explain("a").verdict
    assert client.stats().engine["counters"]["redelivered"] >= 1
    quiet_site.executions.release("gate", count=9)
    assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"


@pytest.mark.long
def test_poison_task_is_bounded(
    client: Client, daemon: Daemon, quiet_site: Site, start_worker: Callable[..., CeleryWorker]
) -> None:
    """A task that kills whoever executes it is seen to go round, and given up by name once that was too often."""
    start_worker(pool="prefork", concurrency=1, environment=_DYING)
    handle = client.submit(_one(tasks.poison.si(1.0)))
    outcome = handle.wait(timeout_s=_WAIT_S)
    assert outcome.state == "failed", daemon.log()
    error = str(outcome.failed_nodes[0].error)
    assert "more than the 3 that the configuration allows (`redeliveries_max`): its worker dies with it" in error
    assert [cause.cause for cause in handle.causes().causes] == ["redelivered"]
    assert client.stats().engine["counters"]["redelivered"] >= 2
    counts = list(quiet_site.executions.counts().values())
    wait_until(lambda: bool(handle.node("a").late) or list(quiet_site.executions.counts().values()) == counts, timeout_s=_WAIT_S)


@pytest.mark.long
def test_policy_bounds_a_poison_task(
    client: Client, daemon: Daemon, quiet_site: Site, start_worker: Callable[..., CeleryWorker]
) -> None:
    """What the node says goes before the workflow's and the daemon's; what cleans up after it runs, and the workflow ends."""
    start_worker(pool="prefork", concurrency=1, environment=_DYING)
    workflow = Workflow("poisoned", policy=WorkflowPolicy(redeliveries_max=0))
    poison = workflow.add(tasks.poison.si(1.0), name="a", redeliveries_max=1)
    workflow.add(tasks.echo.si("clean"), name="tell", after=poison, rule="any_failed")
    handle = client.submit(workflow)
    outcome = handle.wait(timeout_s=_WAIT_S)
    assert outcome.state == "failed", daemon.log()
    assert [node.name for node in outcome.failed_nodes] == ["a"]
    assert "more than the 1 that the node's policy allows (`redeliveries_max`)" in str(outcome.failed_nodes[0].error)
    assert [cause.cause for cause in handle.causes().causes] == ["redelivered"]
    assert handle.node("tell").state == "succeeded"
