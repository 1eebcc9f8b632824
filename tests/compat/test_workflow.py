"""`Workflow` at a daemon: submission, results, hooks, and the processor task."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import Retry, TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError

from dyrygentd.client.sync import Client
from dyrygentd.compat.celery_dyrygent import (
    Workflow,
    WorkflowException,
    WorkflowFailed,
    WorkflowResult,
    register_workflow_processor,
)
from dyrygentd.errors import DaemonUnreachable, RemoteError
from tests.compat.test_same import task
from tests.http.support import Daemon
from tests.support.servers import wait_until


def failing(app: Celery) -> Any:
    """Return a task that fails."""
    return app.signature("fail")


@pytest.fixture
def heard() -> list[tuple[str, Any]]:
    """Listen to all hooks; what they were called with."""
    calls: list[tuple[str, Any]] = []
    for name in Workflow.hooks:
        Workflow.connect(name)(partial(_note, calls, name))
    return calls


def _note(calls: list[tuple[str, Any]], name: str, workflow: Workflow, payload: Any) -> None:
    calls.append((name, payload))


def built(canvas: Any, options: dict[str, Any] | None = None) -> Workflow:
    """Return a workflow of a canvas."""
    workflow = Workflow(options=options)
    workflow.add_celery_canvas(canvas)
    return workflow


# --- submission and result ------------------------------------------------------------------------------------------


def test_workflow_runs(app: Celery, at: Daemon) -> None:
    """A workflow is submitted, waited for, and asked as an AsyncResult is."""
    workflow = built(chain(task(app), group(task(app), task(app)), chord([task(app)], task(app))))
    assert (workflow.id, workflow.state) == (None, "INITIAL")
    result = workflow.apply_async()
    assert result.id == result.task_id == workflow.id == workflow.dyrygentd_id == str(result)
    assert result.get(timeout=10) is None
    assert (result.state, result.status) == ("SUCCESS", "SUCCESS")
    assert (result.ready(), result.successful(), result.failed()) == (True, True, False)
    assert (result.result, result.info, result.children, result.traceback) == (None,) * 4
    assert workflow.state == "SUCCESS"
    assert workflow.is_success()
    assert not workflow.running
    with Client(at.path) as client:
        assert {node.task_id for node in client.handle(workflow.id).nodes() if node.task} == set(workflow.nodes)


def test_failure_is_told(app: Celery, at: Daemon) -> None:
    """A failed workflow is a failure, with the task to blame; independent branches go on."""
    good, bad, after = task(app), failing(app).set(task_id="drain"), task(app)
    workflow = built(group(good, chain(bad, after)))
    result = workflow.apply_async()
    with pytest.raises(WorkflowFailed, match=r"'drain': ValueError.*no such host") as caught:
        result.get(timeout=10)
    assert list(caught.value.failed_tasks) == ["drain"]
    assert result.get(timeout=10, propagate=False) is None
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert isinstance(result.result, WorkflowFailed)
    assert (workflow.state, workflow.finished) == ("FAILURE", {good.id: True, "drain": False})


def test_waiting_ends_in_time(app: Celery, at_holding: Daemon) -> None:
    """A wait that is too short says so, in Celery's words, and the workflow goes on."""
    workflow = built(task(app))
    result = workflow.apply_async()
    for hooked in (False, True):
        if hooked:
            Workflow.connect("after_active_tick")(lambda *_: None)
        with pytest.raises(CeleryTimeoutError):
            result.wait(timeout=0.05)
    assert (result.state, result.ready(), result.result) == ("STARTED", False, None)
    at_holding.let_go()
    assert result.wait(10) is None


def test_revoking_cancels(app: Celery, at_holding: Daemon) -> None:
    """Revoking the result cancels the workflow, and whoever waits hears of it."""
    workflow = built(chain(task(app), task(app)))
    result = workflow.apply_async()
    result.revoke(terminate=True)
    at_holding.let_go()
    with pytest.raises(TaskRevokedError, match="was cancelled"):
        result.get(timeout=10)
    assert result.state == "REVOKED"
    assert workflow.state == "FAILURE"


def test_result_is_found_by_its_id(app: Celery, at: Daemon) -> None:
    """Another process asks with the id alone, whether dyrygentd or `freeze` made it."""
    register_workflow_processor(app, shared=False, socket=at.path)
    plain, frozen = built(task(app)), built(task(app))
    frozen.freeze()
    known = frozen.id
    for workflow in (plain, frozen):
        result = workflow.apply_async()
        other = WorkflowResult(str(workflow.id), socket=at.path)
        assert other == result
        assert len({other, result}) == 1
        other.get(timeout=10)
        assert other.successful()
    assert frozen.id == known != frozen.dyrygentd_id


def test_submitting_twice_creates_nothing(app: Celery, at: Daemon) -> None:
    """The same workflow, also after a way through a message, is one at the daemon."""
    workflow = built(task(app))
    first = workflow.apply_async()
    copy = Workflow.from_dict(json.loads(json.dumps(workflow.to_dict())))
    assert workflow.apply_async().id == copy.apply_async().id == first.id
    with Client(at.path) as client:
        assert len(client.list()) == 1


def test_submission_is_repeated_after_a_broken_connection(app: Celery, at: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that was lost does not lead to a second workflow."""
    workflow = built(task(app))
    submit = Client.submit

    def cut(client: Client, what: Any) -> Any:
        submit(client, what)
        raise DaemonUnreachable("cut")

    with monkeypatch.context() as patch:
        patch.setattr(Client, "submit", cut)
        with pytest.raises(DaemonUnreachable):
            workflow.apply_async()
    workflow.apply_async().get(timeout=10)
    with Client(at.path) as client:
        assert len(client.list()) == 1


def test_empty_workflow_is_done(app: Celery, heard: list[tuple[str, Any]]) -> None:
    """A workflow without tasks succeeds, as it does there, and no daemon is asked."""
    workflow = Workflow()
    result = workflow.apply_async()
    assert result.get() is None
    assert (result.state, result.result, workflow.state) == ("SUCCESS", None, "SUCCESS")
    result.revoke()
    result.forget()
    assert heard == [("on_state_change", "RUNNING"), ("on_finish", None), ("on_state_change", "SUCCESS")]


def test_skipped_tasks_do_not_run(app: Celery, at: Daemon) -> None:
    """What was skipped counts as done, and the rest runs."""
    workflow = built(chain(failing(app), task(app), task(app)))
    skipped = [node for node in workflow.nodes.values() if node.signature["task"] == "fail"]
    workflow.skip_tasks([node.id for node in skipped])
    workflow.apply_async().get(timeout=10)
    assert workflow.is_success()
    with pytest.raises(WorkflowException, match="at the daemon already") as caught:
        workflow.skip_tasks([skipped[0].id])
    assert "dyrygentctl skip" in caught.value.next_step


def test_options_go_to_each_task(app: Celery) -> None:
    """Options of apply_async go before a task's own; those of the workflow are for the processor."""
    workflow = built(group(task(app).set(priority=1), task(app)), options={"priority": 10})
    workflow.tasks_options = {"priority": 8}
    assert [node["options"] for node in workflow.definition()["nodes"]] == [{"priority": 8}] * 2


def test_workflow_starts_later(app: Celery, at: Daemon) -> None:
    """The workflow's countdown puts off the workflow, and not its tasks one by one."""
    workflow = built(chain(task(app), task(app)), options={"countdown": 100})
    result = workflow.apply_async()
    assert (result.handle.status().state, result.state) == ("scheduled", "PENDING")
    result.revoke()


@pytest.mark.parametrize("eta", ["2020-01-01T00:00:00", "2020-01-01T00:00:00+02:00"])
def test_start_in_the_past_is_now(app: Celery, at: Daemon, eta: str) -> None:
    """An eta that has passed holds nothing."""
    built(task(app), options={"eta": eta}).apply_async().get(timeout=10)


@pytest.mark.parametrize("option", ["link", "link_error"])
def test_callbacks_of_the_processor_are_refused(app: Celery, option: str) -> None:
    """Nobody would call them, so it is said at once, with what to do instead."""
    with pytest.raises(WorkflowException, match=option) as caught:
        built(task(app), options={option: task(app)}).apply_async()
    assert "on_finish" in caught.value.next_step


@pytest.mark.parametrize(
    "call",
    [
        lambda workflow: workflow.are_scheduled([]),
        lambda workflow: workflow.schedule_node_exec(None),
        lambda workflow: workflow.reschedule_node_exec(None),
        lambda workflow: workflow.check_consecutive_fails(),
    ],
)
def test_members_that_are_gone_say_what_to_use(call: Callable[[Workflow], Any]) -> None:
    """What was part of the tick names its replacement."""
    with pytest.raises(WorkflowException, match="which is gone") as caught:
        call(Workflow())
    assert caught.value.next_step


def test_states_of_tasks_are_asked_of_celery(app: Celery) -> None:
    """Task ids are the same, so Celery's backend knows them."""
    app.backend.store_result("a", 3, "SUCCESS")
    app.backend.store_result("b", ValueError("x"), "FAILURE")
    app.backend.store_result("c", None, "STARTED")
    states = Workflow().get_tasks_state(["a", "b", "c", "d"])
    assert [(states[name].is_done(), states[name].is_successful(), states[name].was_published()) for name in "abcd"] == [
        (True, True, True),
        (True, False, True),
        (False, False, True),
        (False, False, False),
    ]
    assert (states["a"].value, states["a"].task_state) == (3, "SUCCESS")
    assert (states["a"].is_final(), states["a"].needs_reschedule()) == (True, False)


def test_retry_policy_has_to_be_one() -> None:
    """A policy that cannot be followed is told when it is used."""
    workflow = Workflow()
    workflow.set_retry_policy("random", 5, 5)
    assert workflow.get_retry_countdown() == 5
    workflow.set_retry_policy("random", 0, 5)
    with pytest.raises(WorkflowException, match="no times above 0"):
        workflow.get_retry_countdown()


def test_processing_time_has_a_limit() -> None:
    """The limit is that of the class, or one of the workflow's own."""
    workflow = Workflow()
    workflow.check_processing_time()
    workflow.set_max_processing_time(-10)
    workflow.evaluate_processing_limit()
    with pytest.raises(WorkflowException, match="processed for too long"):
        workflow.check_processing_time()
    assert Workflow.max_processing_time == 7 * 24 * 3600


# --- hooks ----------------------------------------------------------------------------------------------------------


def test_hooks_run_where_the_workflow_is_followed(app: Celery, at_holding: Daemon, heard: list[tuple[str, Any]]) -> None:
    """Hooks are called with the workflow and the payload of the original, in its order."""
    workflow = built(chain(task(app), task(app)))
    first, second = workflow.nodes
    seen: list[Any] = []
    Workflow.connect("after_active_tick")(lambda workflow, _: seen.append((dict(workflow.running), dict(workflow.finished))))
    result = workflow.apply_async()
    assert heard == []
    assert workflow.tick()
    assert seen == [({first: 1}, {})]
    at_holding.let_go()
    wait_until(lambda: workflow.tick() and len(seen) == 2)
    assert seen[1] == ({second: 1}, {first: True})
    at_holding.let_go()
    result.get(timeout=10, interval=0.05)
    assert heard == [
        ("on_state_change", "RUNNING"),
        ("after_active_tick", None),
        ("after_active_tick", None),
        ("on_finish", None),
        ("on_state_change", "SUCCESS"),
    ]
    result.get(timeout=10)
    assert len(heard) == 5, "an end that was told is not told again"


def test_hooks_hear_of_a_failure(app: Celery, at: Daemon, heard: list[tuple[str, Any]]) -> None:
    """`on_finish` comes also when a workflow cannot move forward, and then the state."""
    with pytest.raises(WorkflowFailed):
        built(failing(app)).apply_async().get(timeout=10)
    assert heard[-2:] == [("on_finish", None), ("on_state_change", "FAILURE")]


def test_hook_that_fails_harms_nobody(app: Celery, at: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a hook is logged, and the others are called."""
    calls = []

    @Workflow.connect("on_finish")
    def broken(workflow: Workflow, payload: Any) -> None:
        raise ValueError("the hook's own")

    @Workflow.connect("on_finish")
    def sound(workflow: Workflow, payload: Any) -> None:
        calls.append(workflow.id)

    workflow = built(task(app))
    workflow.apply_async().get(timeout=10)
    assert calls == [workflow.id]
    assert "the hook's own" in caplog.text


def test_pending_is_brought_up_to_date(app: Celery, at: Daemon, heard: list[tuple[str, Any]]) -> None:
    """`update_pending` looks, and calls nobody."""
    workflow = built(task(app))
    workflow.update_pending()
    result = workflow.apply_async()
    WorkflowResult(result.id, socket=at.path).get(timeout=10)
    workflow.update_pending()
    assert workflow.is_success()
    assert heard == []


def test_overdue_workflow_is_an_error(app: Celery, at: Daemon, heard: list[tuple[str, Any]]) -> None:
    """A workflow that was ended by its limit is an ERROR, as there, and not a failure of its tasks."""
    workflow = built(failing(app))
    result = workflow.apply_async()
    WorkflowResult(result.id, socket=at.path).get(timeout=10, propagate=False)
    workflow.processing_limit_ts = int(time.time()) - 10
    with pytest.raises(WorkflowException, match="processed for too long"):
        workflow.tick()
    assert heard[-1] == ("on_state_change", "ERROR")
    assert "on_finish" not in dict(heard)


def test_daemon_ends_what_takes_too_long(app: Celery, at_holding: Daemon, heard: list[tuple[str, Any]]) -> None:
    """The limit of processing time is kept by the daemon, also if nobody looks, and whoever waits gets the original's error."""
    workflow = built(chain(task(app), task(app)))
    workflow.set_max_processing_time(1)
    result = workflow.apply_async()
    WorkflowResult(result.id, socket=at_holding.path).get(timeout=20, propagate=False)
    assert not result.successful()
    with pytest.raises(WorkflowException, match="processed for too long"):
        result.get(timeout=10)
    assert heard[-1] == ("on_state_change", "ERROR")


def test_forgotten_workflow_is_an_error(app: Celery, at: Daemon) -> None:
    """A workflow that the daemon does not know any more is not submitted again."""
    workflow = built(task(app))
    workflow.stats["dyrygentd_id"] = "gone"
    with pytest.raises(RemoteError, match="gone"):
        workflow.tick()
    assert workflow.state == "ERROR"


# --- the processor task ---------------------------------------------------------------------------------------------


def processed(app: Celery, workflow_dict: dict[str, Any], task_id: str) -> dict[str, Any] | None:
    """Run the processor task as a worker does; return the dict with which it comes back, or None if it has ended."""
    processor = app.tasks["workflow-processor"]
    processor.push_request(id=task_id, called_directly=False, is_eager=False, retries=0, args=[], kwargs={}, delivery_info={})
    try:
        processor(workflow_dict=json.loads(json.dumps(workflow_dict)))
    except Retry as retry:
        found: dict[str, Any] = json.loads(json.dumps(retry.sig.kwargs["workflow_dict"]))
        return found
    finally:
        processor.pop_request()
    return None


def test_processor_hands_over_and_looks(app: Celery, at_holding: Daemon, heard: list[tuple[str, Any]]) -> None:
    """A frozen signature that reaches a worker is handed over once; the ticks that follow run the hooks, in the worker."""
    processor = register_workflow_processor(app, shared=False, socket=at_holding.path, name="workflow-processor")
    assert processor.name == "workflow-processor"
    assert processor.max_retries == 1
    workflow = built(chain(task(app), task(app)))
    signature = workflow.freeze()
    assert signature.id == workflow.id
    sent: Any = signature.kwargs["workflow_dict"]
    back = processed(app, sent, signature.id)
    assert back is not None
    first, second = workflow.nodes
    assert back["running"] == {first: 1, second: 1}, "after a way back, the original must not publish what the daemon will"
    at_holding.let_go()
    again = processed(app, sent, signature.id)
    assert again is not None
    assert again["stats"]["dyrygentd_id"] == back["stats"]["dyrygentd_id"], "a redelivery is no second workflow"
    at_holding.let_go()
    WorkflowResult(signature.id, socket=at_holding.path).get(timeout=10)
    assert processed(app, back, signature.id) is None
    assert heard[-2:] == [("on_finish", None), ("on_state_change", "SUCCESS")]


def test_processor_waits_for_the_daemon(app: Celery, short_tmp: Any) -> None:
    """A daemon that is away costs ticks and no workflow, until the limit."""
    register_workflow_processor(app, shared=False, socket=short_tmp / "nobody.sock")
    workflow = built(task(app))
    signature = workflow.freeze()
    back = processed(app, signature.kwargs["workflow_dict"], signature.id)
    assert back is not None
    assert back["running"] == {}
    back["processing_limit_ts"] = int(time.time()) - 10
    with pytest.raises(WorkflowException, match="too long"):
        processed(app, back, signature.id)


def test_processor_gives_up_what_cannot_run(app: Celery, at: Daemon) -> None:
    """A fresh workflow that the daemon refuses for its content is an error, as it would be at the first tick there."""
    register_workflow_processor(app, shared=False, socket=at.path)
    workflow = built(task(app).set(serializer="pickle"))
    signature = workflow.freeze()
    with pytest.raises(Exception, match="serializer 'pickle'"):
        processed(app, signature.kwargs["workflow_dict"], signature.id)


def test_workflow_in_mid_flight_is_not_given_up(app: Celery, at: Daemon) -> None:
    """A workflow in mid-flight that the daemon refuses keeps its message, for somebody to look at, until its time is over."""
    register_workflow_processor(app, shared=False, socket=at.path)
    workflow = built(task(app).set(serializer="pickle"))
    workflow.simulate_tick()
    workflow.state = "RUNNING"
    signature = workflow.freeze()
    back = processed(app, signature.kwargs["workflow_dict"], signature.id)
    assert back is not None
    assert back["running"] == workflow.running


def test_workflow_in_mid_flight_goes_on(app: Celery, at_holding: Daemon) -> None:
    """A message of the original is handed over by the next worker that gets it: done is done, what runs is awaited."""
    register_workflow_processor(app, shared=False, socket=at_holding.path)
    workflow = built(chain(task(app), task(app), task(app)))
    first, second, third = workflow.nodes
    workflow.finished, workflow.running, workflow.state = {first: True}, {second: 1}, "RUNNING"
    signature = workflow.freeze()
    back = processed(app, signature.kwargs["workflow_dict"], signature.id)
    assert back is not None
    with Client(at_holding.path) as client:
        states = {node.task_id: node.state for node in client.handle(str(signature.id)).nodes()}
    assert states == {first: "succeeded", second: "dispatched", third: "waiting"}


def test_workflow_goes_via_the_worker(app: Celery, at: Daemon) -> None:
    """With ``via_worker`` the submitting program needs a broker and no socket, and gets what it got before: Celery's result."""
    register_workflow_processor(app, shared=False, socket=at.path, via_worker=True)
    workflow = built(chain(task(app), task(app)), options={"queue": "ops"})
    result = workflow.apply_async(options={"priority": 3})
    assert (result.id, result.state) == (workflow.id, "PENDING")
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("ops", no_ack=True)
    sent = message.payload[1]["workflow_dict"]
    assert sent["tasks_options"] == {"priority": 3}
    processed(app, sent, str(workflow.id))
    with Client(at.path) as client:
        assert client.handle(str(workflow.id)).wait(10).is_success


def test_hooks_have_to_exist() -> None:
    """A hook that is not there is told, with those that are."""
    with pytest.raises(WorkflowException) as caught:
        Workflow.connect("on_start")
    assert "on_finish" in caught.value.next_step


def test_hooks_that_nobody_will_call_are_told(
    app: Celery, at: Daemon, heard: list[tuple[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """A program that submits and goes away had its hooks called by the original; here it must be told what to do for that."""
    workflow_id = built(task(app)).apply_async().id
    assert heard == []
    (record,) = (each for each in caplog.records if each.levelname == "WARNING")
    assert f"workflow '{workflow_id}'" in record.getMessage()
    for word in ("'on_finish'", "via_worker=True", "result.wait()"):
        assert word in record.getMessage()


def test_who_waits_is_not_told_of_hooks(
    app: Celery, at: Daemon, heard: list[tuple[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting, or ticking to the end, calls the hooks, so there is nothing to say."""
    built(task(app)).apply_async().get(timeout=10)
    _tick_to_the_end(built(task(app)))
    assert heard
    assert "nobody" not in caplog.text


def test_without_hooks_nothing_is_told(app: Celery, at: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """A program that never had hooks misses none."""
    built(task(app)).apply_async()
    assert "nobody" not in caplog.text


def _tick_to_the_end(workflow: Workflow) -> None:
    workflow.apply_async()
    wait_until(lambda: not workflow.tick())
