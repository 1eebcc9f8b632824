"""Workers with different code on one queue: who knows the task, and who does not, is told before anybody tries again."""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable

import pytest
from celery import signature

from dyrygentd import Handle, Workflow
from dyrygentd.wire import Explanation
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.servers import CeleryWorker, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def _explained(handle: Handle, words: str) -> Explanation:
    """Ask until every worker has answered in time: a busy machine's may not."""
    deadline = time.monotonic() + 30
    while words not in (found := handle.explain("a")).verdict:
        assert time.monotonic() < deadline, found.verdict
    return found


@pytest.mark.long
def test_worker_with_older_code_is_named(quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """The failure alone does not say that another worker of the same queue has the task."""
    start_worker(name="old@test", pool="threads", app="tests.support.older")
    workflow = Workflow("skew")
    workflow.add(tasks.noop.si(), name="a")
    with quiet_site.daemon() as daemon, daemon.client() as client:
        handle = client.submit(workflow)
        assert handle.wait(timeout_s=40).state == "failed"
        _explained(handle, "no worker that answered knows the task (old@test)")
        start_worker(name="new@test", pool="threads")
        words = "old@test does not know the task, and new@test does: restart it with the new code first"
        step = _explained(handle, words).next_step
        wait_until(lambda: words in handle.explain().standings[0].text)
        assert step.startswith("restart old@test with the code that has the task; then `retry a`")


def test_task_that_was_renamed(quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """Where nobody has the task any more the way out is told that is one: its old name in the workers' code, or another name."""
    worker = start_worker(name="new@test", pool="threads")
    workflow = Workflow("renamed")
    workflow.add(signature("tests.support.tasks.noops"), name="a")
    with quiet_site.daemon() as daemon, daemon.client() as client:
        handle = client.submit(workflow)
        assert handle.wait(timeout_s=40).state == "failed"
        found = _explained(handle, "did you mean 'tests.support.tasks.noop'? If it was renamed, restarting")
        first, then, last = found.next_step.partition("; then `retry a`, or `skip a`")
        assert then
        assert first.startswith("give the workers the old name, too: ")
        [alias] = re.findall("`(.*)`", first)
        assert f"`dyrygentctl export {handle.id} --definition | sed 's/" in last
        [edit] = re.findall(r"\| (sed .*) \|", last)
        anew = subprocess.run(shlex.split(edit), input=handle.definition(), capture_output=True, check=True).stdout
        assert [node["task"] for node in json.loads(anew)["nodes"]] == ["tests.support.tasks.noop"]
        worker.stop()
        (quiet_site.directory / "aliased.py").write_text(f"from tests.support.tasks import app\n\n{alias}\n")
        start_worker(app="aliased", environment={"PYTHONPATH": str(quiet_site.directory)}, pool="threads")
        wait_until(lambda: handle.explain("a").next_step.startswith("`retry a`"))
        handle.retry("a")
        assert handle.wait(timeout_s=40).state == "succeeded"


def test_worker_of_another_queue_is_no_help(quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """Who knows a task and never gets it does not make it a matter of luck, and nobody is told to restart the others for it."""
    start_worker(queues=("elsewhere",), name="other@test", pool="threads")
    start_worker(name="older@test", pool="threads", app="tests.support.older")
    workflow = Workflow("skew")
    workflow.add(tasks.noop.si(), name="a")
    with quiet_site.daemon() as daemon, daemon.client() as client:
        handle = client.submit(workflow)
        assert handle.wait(timeout_s=40).state == "failed"
        found = _explained(handle, "no worker that answered knows the task (older@test); other@test does, of another queue")
        assert "matter of luck" not in found.verdict
        step = found.next_step
        assert step.startswith("give older@test the code that has the task, or let other@test consume 'celery', too: `celery -A ")
        assert "-d other@test add_consumer celery`; then `retry a`" in step


def test_task_that_nobody_has_and_nothing_is_like(quiet_site: Site, start_worker: Callable[..., CeleryWorker]) -> None:
    """Nobody is told to restart a worker for code that may not exist."""
    start_worker(name="new@test", pool="threads")
    workflow = Workflow("unknown")
    workflow.add(signature("nowhere.at.all"), name="a")
    with quiet_site.daemon() as daemon, daemon.client() as client:
        handle = client.submit(workflow)
        assert handle.wait(timeout_s=40).state == "failed"
        step = "run a worker whose code has the task, which new@test has not; then `retry a`"
        wait_until(lambda: handle.explain("a").next_step.startswith(step))
