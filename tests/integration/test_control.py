"""Policies and verbs on a real daemon with real workers of the pool that people use."""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery

from dyrygentd import Client, Workflow
from dyrygentd.canvas import NodeRef
from dyrygentd.client.sync import Handle
from dyrygentd.core.policy import OnFailure, Retry, WorkflowPolicy
from dyrygentd.errors import RemoteError
from tests.integration.conftest import Site, running_site
from tests.support import tasks
from tests.support.apps import closing
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import create_app

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 30


@dataclass(frozen=True)
class Control:
    """A site, its daemon, and a client of it."""

    site: Site
    daemon: Daemon
    client: Client

    @property
    def executions(self) -> Executions:
        """What was executed."""
        return self.site.executions

    def submit(self, workflow: Workflow) -> Handle:
        """Submit a workflow."""
        return self.client.submit(workflow)

    def wait_node(self, handle: Handle, node: str, **fields: Any) -> Any:
        """Wait until a node is as it should be, and return it."""
        wait_until(
            lambda: all(getattr(handle.node(node), name) == value for name, value in fields.items()),
            timeout_s=_WAIT_S,
            message=lambda: f"{handle.node(node)} is not {fields}\n{self.daemon.log()[-3000:]}",
        )
        return handle.node(node)


@pytest.fixture(scope="module")
def worked_site() -> Iterator[Site]:
    """A server with two workers of three processes each."""
    with running_site(workers=0) as site:
        workers = [
            CeleryWorker(
                site.server.url,
                log_directory=site.directory,
                pool="prefork",
                concurrency=3,
                queues=("celery", "narrow"),
                name=name,
            )
            for name in ("one@test", "two@test")
        ]
        try:
            for worker in workers:
                worker.launch()
            for worker in workers:
                worker.wait_ready()
            yield site
        finally:
            for worker in workers:
                worker.stop()


@pytest.fixture(scope="module")
def control(worked_site: Site) -> Iterator[Control]:
    """A daemon on it, for tests that leave it alone."""
    daemon = worked_site.daemon("control", "--pools", "drain@*=2,one=1", "--queue-limits", "narrow=2")
    with daemon, daemon.client() as client:
        yield Control(worked_site, daemon, client)


def _key() -> str:
    return uuid.uuid4().hex


def _states(handle: Handle) -> dict[str, str]:
    return {node.name: node.state for node in handle.nodes()}


def _task_id(handle: Handle, node: str) -> str:
    return str(handle.node(node).task_id)


# --- policies -------------------------------------------------------------------------------------------------------


def test_retries_have_new_ids_and_pauses(control: Control) -> None:
    """A task that fails twice is tried three times, each time under another id and after a longer pause."""
    key, workflow = _key(), Workflow("retries")
    workflow.add(tasks.flaky.si(key, 2), name="flaky", retry=Retry(attempts=3, backoff_s=0.2, jitter=0.0))
    workflow.add(tasks.noop.si(), name="other")
    begun = time.monotonic()
    before = set(control.executions.counts())
    handle = control.submit(workflow)
    ids = {_task_id(handle, "flaky")}
    assert handle.wait(_WAIT_S).result is None
    assert time.monotonic() - begun >= 0.2 + 0.4
    assert handle.node("flaky").attempt == 3
    ids.add(_task_id(handle, "flaky"))
    assert len(ids) == 2
    new = set(control.executions.counts()) - before
    assert ids <= new
    control.executions.assert_each_once(ids)


def test_timeout_ends_a_running_task(control: Control) -> None:
    """A task that takes too long is terminated at its worker, its node has failed, and the next attempt may succeed."""
    workflow = Workflow("timeout")
    workflow.add(tasks.wait_for.si(_key()), name="slow", timeout_s=1.0)
    handle = control.submit(workflow)
    outcome = handle.wait(_WAIT_S)
    assert outcome.state == "failed"
    assert "no result within 1 s" in str(outcome.failed_nodes[0].error)
    # The worker says that it was ended; nobody waits for the gate any more.
    control.wait_node(handle, "slow", late="revoked")
    assert [cause.cause for cause in handle.causes().causes] == ["node timeout"]


def test_deadline_ends_a_workflow(control: Control) -> None:
    """A workflow over its deadline has failed: what runs is terminated, what waits is cancelled, hooks run."""
    workflow = Workflow("deadline", policy=WorkflowPolicy(deadline_s=1.0))
    workflow.add(tasks.wait_for.si(_key()), name="slow")
    workflow.add(tasks.noop.si(), name="after")
    workflow.hook("failure", tasks.echo.s(), name="tell")
    handle = control.submit(workflow)
    outcome = handle.wait(_WAIT_S)
    assert outcome.state == "failed"
    assert "deadline of 1 s" in outcome.error
    assert _states(handle) == {"slow": "cancelled", "after": "succeeded", "tell": "succeeded"}
    control.wait_node(handle, "slow", late="revoked")


def test_start_time_is_kept(control: Control) -> None:
    """Nothing of a scheduled workflow is executed before its time; a cancel before that leaves nothing behind."""
    start_at = time.time() + 1.0
    workflow = Workflow("later", policy=WorkflowPolicy(start_at=start_at))
    workflow.add(tasks.noop.si(), name="a")
    handle = control.submit(workflow)
    assert handle.status().state == "scheduled"
    assert handle.explain().code == "scheduled"
    assert handle.wait(_WAIT_S).state == "succeeded"
    dispatched_at = handle.node("a").dispatched_at
    assert dispatched_at is not None
    assert dispatched_at >= start_at


def test_failure_stops_the_rest(control: Control) -> None:
    """With on_failure=stop nothing new is dispatched after a failure, what runs may end, and the clean-up runs."""
    key = _key()
    workflow = Workflow("stop", policy=WorkflowPolicy(on_failure=OnFailure.STOP))
    running = workflow.add(tasks.wait_for.si(key), name="running")
    workflow.add(tasks.noop.si(), name="never", after=running)
    workflow.add(tasks.fail.si("no"), name="bad")
    workflow.add(tasks.noop.si(), name="clean", after=running, rule="all_finished")
    handle = control.submit(workflow)
    control.wait_node(handle, "bad", state="failed")
    control.wait_node(handle, "never", state="cancelled")
    control.executions.release(key)
    assert handle.wait(_WAIT_S).state == "failed"
    assert _states(handle) == {"running": "succeeded", "never": "cancelled", "bad": "failed", "clean": "succeeded"}


def test_poll_sleep_gate_and_hooks(control: Control) -> None:
    """A poll asks until it is told yes, a sleep passes, a gate waits for an operator, and hooks get the summary."""
    key, workflow = _key(), Workflow("steps")
    poll = workflow.poll(tasks.is_ready.si(key, 2), every_s=0.1, name="poll")
    gate = workflow.gate("gate", after=workflow.sleep(0.2, name="sleep", after=poll))
    workflow.add(tasks.noop.si(), name="work", after=gate)
    workflow.hook("success", tasks.echo.s(), name="tell")
    workflow.hook("failure", tasks.fail.s(), name="cry")
    handle = control.submit(workflow)
    assert control.wait_node(handle, "poll", state="succeeded").attempt == 3
    assert control.wait_node(handle, "gate", state="held").hold == "gate"
    assert handle.explain("work").next_step == "`release gate` opens it"
    assert handle.release("gate", why="checked").nodes == ["gate"]
    assert handle.wait(_WAIT_S).state == "succeeded"
    assert _states(handle)["cry"] == "skipped"


def test_revoked_by_somebody_else(control: Control) -> None:
    """A task that somebody revokes behind our back has failed, with that reason, and can be retried."""
    key, workflow = _key(), Workflow("foreign revoke")
    workflow.add(tasks.wait_for.si(key), name="task")
    handle = control.submit(workflow)
    first = _task_id(handle, "task")
    control.executions.wait_started([first])
    with closing(_app(control.site)) as app:
        app.control.revoke(first, terminate=True)
        outcome = handle.wait(_WAIT_S)
    assert outcome.state == "failed"
    assert "revoked" in str(outcome.failed_nodes[0].error)
    handle.retry(why="it was a mistake")
    second = control.wait_node(handle, "task", state="dispatched").task_id
    assert second != first
    control.executions.release(key)
    assert handle.wait(_WAIT_S).state == "succeeded"


def _app(site: Site) -> Celery:
    return create_app(site.server.url, site.server.url)


def _wait_active(control: Control, task_id: str) -> None:
    """Wait until a worker itself, and not its child alone, knows that it executes a task."""
    with closing(_app(control.site)) as app:

        def is_active() -> bool:
            answers = app.control.inspect(timeout=5, limit=2).active() or {}
            return any(task["id"] == task_id for tasks in answers.values() for task in tasks)

        wait_until(is_active, timeout_s=_WAIT_S, message=f"no worker executes {task_id}")


def _wait_revoked(control: Control, task_id: str) -> None:
    """Wait until both workers have done what they do when a task is revoked."""
    with closing(_app(control.site)) as app:

        def has_each() -> bool:
            answers = app.control.inspect(timeout=5, limit=2).revoked() or {}
            return sum(task_id in ids for ids in answers.values()) == 2

        wait_until(has_each, timeout_s=_WAIT_S, message=f"{task_id} was not revoked at both workers")


# --- pools ----------------------------------------------------------------------------------------------------------


def test_pool_is_never_exceeded(control: Control) -> None:
    """Over several workflows and two workers, never more tasks of a pool are executed at one time than its size."""
    handles = []
    for _ in range(3):
        workflow = Workflow("drain")
        for number in range(6):
            workflow.add(tasks.sleep.si(0.05), name=f"d{number}", pool="drain@gra1")
        handles.append(control.submit(workflow))
    ids = [str(node.task_id) for handle in handles for node in handle.nodes()]
    for handle in handles:
        assert handle.wait(_WAIT_S).state == "succeeded"
    control.executions.assert_each_once(ids)
    assert control.executions.most_at_once(ids) == 2


def test_queue_limit_is_never_exceeded(control: Control) -> None:
    """Tasks of a queue with a limit need not name it."""
    workflow = Workflow("narrow")
    for number in range(8):
        workflow.add(tasks.sleep.si(0.05).set(queue="narrow"), name=f"n{number}")
    handle = control.submit(workflow)
    ids = [str(node.task_id) for node in handle.nodes()]
    assert handle.wait(_WAIT_S).state == "succeeded"
    assert control.executions.most_at_once(ids) == 2


def test_place_in_a_pool_comes_back(control: Control) -> None:
    """A task that is skipped or cancelled gives its place to the next one at once, whatever the worker does."""
    key, workflow = _key(), Workflow("one")
    workflow.add(tasks.wait_for.si(key), name="hangs", pool="one")
    workflow.add(tasks.noop.si(), name="next", pool="one")
    handle = control.submit(workflow)
    held = control.wait_node(handle, "next", state="held")
    assert held.hold == "pool"
    assert "pool 'one'" in handle.explain("next").verdict
    with pytest.raises(RemoteError, match="pool 'one' is full"):
        handle.release("next")
    handle.skip("hangs", why="it hangs")
    assert handle.wait(_WAIT_S).state == "succeeded"
    control.executions.release(key)


def test_unknown_pool_is_refused(control: Control) -> None:
    """The answer names the pools that there are."""
    workflow = Workflow("unknown pool")
    workflow.add(tasks.noop.si(), pool="disk")
    with pytest.raises(RemoteError, match="pool 'disk'") as caught:
        control.submit(workflow)
    assert caught.value.status == 422
    assert "drain@*" in f"{caught.value} {caught.value.next_step}"


# --- verbs ----------------------------------------------------------------------------------------------------------


def test_cancel_lets_running_tasks_end(control: Control) -> None:
    """Without terminate a task that runs goes on, is shown as late, and what follows it never runs."""
    key, workflow = _key(), Workflow("cancel")
    workflow.add(tasks.noop.si(), name="after", after=workflow.add(tasks.wait_for.si(key), name="running"))
    handle = control.submit(workflow)
    task_id = _task_id(handle, "running")
    control.executions.wait_started([task_id])
    # A worker that does not have the task, or has not yet heard from its child that it began, looks whether a result is stored,
    # and then stores that it was revoked: over the task's own result, if that came in between.
    _wait_active(control, task_id)
    assert handle.cancel(why="wrong cluster").workflow.state == "cancelled"
    _wait_revoked(control, task_id)
    control.executions.release(key)
    control.executions.wait_finished([task_id])
    control.wait_node(handle, "running", state="cancelled", late="succeeded")
    assert handle.node("after").attempt == 0


def test_cancel_may_end_running_tasks(control: Control) -> None:
    """With terminate the process that runs the task is ended, and the worker goes on with others."""
    key, workflow = _key(), Workflow("cancel hard")
    workflow.add(tasks.wait_for.si(key), name="running")
    handle = control.submit(workflow)
    control.executions.wait_started([_task_id(handle, "running")])
    handle.cancel(terminate=True)
    control.wait_node(handle, "running", late="revoked")
    assert handle.journal()[0].detail == "terminating"
    other = Workflow("others")
    for _ in range(6):
        other.add(tasks.noop.si())
    assert control.submit(other).wait(_WAIT_S).state == "succeeded"


def test_cancelled_workflow_runs_again(control: Control) -> None:
    """Workers remember what was revoked, by id and by stamp; what is tried again is not dropped by them."""
    key, workflow = _key(), Workflow("cancel and retry")
    for number in range(8):
        workflow.add(tasks.wait_for.si(key), name=f"w{number}")
    handle = control.submit(workflow)
    first = {str(node.task_id) for node in handle.nodes()}
    # A worker may fetch all of them and start three.
    wait_until(lambda: len(first & control.executions.started().keys()) >= 3)
    for _ in range(2):
        handle.cancel(terminate=True)
        assert handle.retry(why="go on").workflow.state == "running"
    # Enough for those as well that are being ended and have not noticed yet.
    control.executions.release(key, count=3 * 8)
    assert handle.wait(_WAIT_S).state == "succeeded", _states(handle)
    last = {str(node.task_id) for node in handle.nodes()}
    assert not last & first
    control.executions.assert_each_once(last)


def test_pause_and_resume_under_load(control: Control) -> None:
    """While a workflow is paused nothing more of it is dispatched; afterwards every task is executed once."""
    workflow, layer = Workflow("load"), list[NodeRef]()
    for _ in range(10):
        layer = [workflow.add(tasks.noop.si(), after=layer) for _ in range(20)]
    handle = control.submit(workflow)
    for _ in range(3):
        handle.pause()
        wait_until(lambda: not {"dispatched", "dispatching"} & handle.status().counts.keys())
        before = handle.status().counts
        assert handle.explain().verdict.startswith(("it is paused", "it has succeeded"))
        assert handle.status().counts == before
        if handle.status().state == "paused":
            handle.resume()
    assert handle.wait(_WAIT_S).state == "succeeded"
    control.executions.assert_each_once([str(node.task_id) for node in handle.nodes()])


def test_hold_and_release(control: Control) -> None:
    """A held node waits although everything before it has succeeded; the rest goes on."""
    key, workflow = _key(), Workflow("hold")
    first = workflow.add(tasks.wait_for.si(key), name="first")
    workflow.add(tasks.noop.si(), name="held", after=first)
    workflow.add(tasks.noop.si(), name="free", after=first)
    handle = control.submit(workflow)
    handle.hold("held", why="look first")
    control.executions.release(key)
    control.wait_node(handle, "free", state="succeeded")
    assert control.wait_node(handle, "held", state="held").hold == "operator"
    assert not handle.hold("held").is_changed
    handle.release("held")
    assert handle.wait(_WAIT_S).state == "succeeded"
    assert [(entry.verb, entry.why) for entry in handle.journal()] == [("hold", "look first"), ("release", "")]


def test_hanging_task_is_skipped(control: Control) -> None:
    """What follows goes on with the operator's value; the task's own result comes late and changes nothing."""
    key, workflow = _key(), Workflow("skip")
    workflow.add(tasks.identity.s(), name="after", after=workflow.add(tasks.wait_for.si(key), name="hangs"))
    handle = control.submit(workflow)
    task_id = _task_id(handle, "hangs")
    control.executions.wait_started([task_id])
    handle.skip("hangs", value={"by": "hand"})
    outcome = handle.wait(_WAIT_S)
    assert (outcome.state, outcome.result) == ("succeeded", {"by": "hand"})
    control.executions.release(key)
    control.wait_node(handle, "hangs", state="skipped", late="succeeded")


@pytest.mark.parametrize("verb", ["skip", "retry"])
def test_hanging_task_gives_its_place_back(control: Control, verb: str) -> None:
    """With terminate the attempt that is given up ends at its worker, so hanging tasks do not take all its processes."""
    key, workflow = _key(), Workflow(f"{verb} hard")
    workflow.add(tasks.wait_for.si(key), name="hangs")
    handle = control.submit(workflow)
    task_id = _task_id(handle, "hangs")
    control.executions.wait_started([task_id])
    if verb == "skip":
        handle.skip("hangs", terminate=True)
    else:
        handle.retry("hangs", force=True, terminate=True)
    with closing(_app(control.site)) as app:
        wait_until(lambda: app.AsyncResult(task_id).state == "REVOKED", timeout_s=_WAIT_S)
    if verb == "retry":
        again = _task_id(handle, "hangs")
        assert again != task_id
        control.executions.wait_started([again])
        control.executions.release(key)
    assert handle.wait(_WAIT_S).state == "succeeded"


def test_rerun_runs_everything_after(control: Control) -> None:
    """A node that succeeded runs again with all that follows from it, under new ids and with new values."""
    key, workflow = _key(), Workflow("rerun")
    workflow.add(tasks.identity.s(), name="after", after=workflow.add(tasks.flaky.si(key, 0), name="count"))
    handle = control.submit(workflow)
    assert handle.wait(_WAIT_S).result == 1
    assert set(handle.rerun("count").nodes) == {"count", "after"}
    assert handle.wait(_WAIT_S).result == 2


def test_priority_goes_first(control: Control) -> None:
    """Of two workflows that wait for one place, that with the higher priority gets it."""
    key = _key()
    blocker = Workflow("blocker")
    blocker.add(tasks.wait_for.si(key), name="b", pool="one")
    blocking = control.submit(blocker)
    control.executions.wait_started([_task_id(blocking, "b")])
    handles = []
    for _ in range(2):
        workflow = Workflow("prioritised")
        workflow.add(tasks.noop.si(), name="n", after=workflow.gate("gate"))
        handles.append(control.submit(workflow))
    low, high = handles
    assert high.set_priority(10).is_changed
    assert not high.set_priority(10).is_changed
    assert high.status().priority == 10
    for handle in (low, high):
        handle.release("gate")
        assert handle.wait(_WAIT_S).state == "succeeded"
    control.executions.release(key)
    assert blocking.wait(_WAIT_S).state == "succeeded"


# --- the daemon is killed right after the answer ----------------------------------------------------------------------


def _after_cancel(control: Control, handle: Handle, key: str) -> None:
    assert handle.status().state == "cancelled"
    control.executions.release(key)
    assert handle.node("b").attempt == 0


def _after_pause(control: Control, handle: Handle, key: str) -> None:
    assert handle.status().state == "paused"
    control.executions.release(key)
    control.wait_node(handle, "a", state="succeeded")
    assert handle.node("b").attempt == 0
    handle.resume()
    assert handle.wait(_WAIT_S).state == "succeeded"


def _after_hold(control: Control, handle: Handle, key: str) -> None:
    control.executions.release(key)
    assert control.wait_node(handle, "b", state="held").hold == "operator"
    handle.release("b")
    assert handle.wait(_WAIT_S).state == "succeeded"


def _after_skip(control: Control, handle: Handle, key: str) -> None:
    assert handle.wait(_WAIT_S).result == "by hand"
    control.executions.release(key)


def _after_retry(control: Control, handle: Handle, key: str) -> None:
    assert handle.node("a").attempt == 2
    control.executions.release(key, count=2)
    assert handle.wait(_WAIT_S).state == "succeeded"


def _after_priority(control: Control, handle: Handle, key: str) -> None:
    assert handle.status().priority == 7
    control.executions.release(key)
    assert handle.wait(_WAIT_S).state == "succeeded"


@pytest.mark.long
@pytest.mark.parametrize(
    ("verb", "ask", "check"),
    [
        ("cancel", lambda handle: handle.cancel(), _after_cancel),
        ("pause", lambda handle: handle.pause(), _after_pause),
        ("hold", lambda handle: handle.hold("b"), _after_hold),
        ("skip", lambda handle: handle.skip("a", value="by hand"), _after_skip),
        ("retry", lambda handle: handle.retry("a", force=True), _after_retry),
        ("set-priority", lambda handle: handle.set_priority(7), _after_priority),
    ],
)
def test_killed_right_after_the_answer(
    worked_site: Site,
    verb: str,
    ask: Callable[[Handle], Any],
    check: Callable[[Control, Handle, str], None],
) -> None:
    """Power may go as soon as a verb is answered: the next daemon finds it done."""
    daemon = worked_site.daemon(f"killed-{verb}")
    key, workflow = _key(), Workflow(verb)
    workflow.add(tasks.identity.s(), name="b", after=workflow.add(tasks.wait_for.si(key), name="a"))
    with daemon, daemon.client() as client:
        handle = client.submit(workflow)
        worked_site.executions.wait_started([_task_id(handle, "a")])
        ask(handle)
        daemon.kill()
        daemon.start()
        assert [entry.verb for entry in handle.journal()] == [verb]
        assert handle.journal()[0].by.endswith(")")
        check(Control(worked_site, daemon, client), handle, key)


@pytest.mark.long
@pytest.mark.parametrize("verb", ["retry", "rerun", "skip"])
def test_killed_right_after_a_finished_workflow_went_on(worked_site: Site, verb: str) -> None:
    """A workflow that failed and was set running again is running after the crash, too."""
    daemon = worked_site.daemon(f"reopened-{verb}")
    key, workflow = _key(), Workflow(verb)
    workflow.add(tasks.noop.si(), name="b", after=workflow.add(tasks.flaky.si(key, 1), name="a"))
    with daemon, daemon.client() as client:
        handle = client.submit(workflow)
        assert handle.wait(_WAIT_S).state == "failed"
        handle.perform(verb, nodes=["a"])
        daemon.kill()
        daemon.start()
        assert handle.wait(_WAIT_S).state == "succeeded"
        assert [entry.verb for entry in handle.journal()] == [verb]
        assert handle.node("a").attempt == (1 if verb == "skip" else 2)
