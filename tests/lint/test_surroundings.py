"""What the app and the workers know: tasks, queues, routes and classes."""

from typing import Any

from celery import Celery, Task, chain
from celery.backends.base import DisabledBackend
from kombu.entity import Queue

from dyrygentd.canvas import Workflow
from dyrygentd.core.policy import WorkflowPolicy
from tests.lint.support import a, add, app, b, codes, only, ping


def test_unknown_tasks() -> None:
    """A misspelt task fails at the worker, after everything before it has run."""
    finding = only(chain(a, b), "unknown-task", known_tasks=["t.a", "t.bb"])
    assert (finding.severity, finding.message) == ("error", "no worker has the task 't.b'; did you mean 't.bb'?")
    assert codes(chain(a, b), known_tasks=["t.a", "t.b"]) == {}
    assert codes(add.chunks([(1, 2)], 1), known_tasks=["t.mul"]) == {"unknown-task": 1}


def test_tasks_that_the_app_does_not_have() -> None:
    """They may be another app's, so that is no error; but their arguments were not checked."""
    finding = only(app.signature("t.ad"), "task-not-in-app", app=app)
    assert (finding.severity, "did you mean 't.add'?" in finding.message) == ("info", True)
    assert codes(app.signature("t.ad"), app=app, known_tasks=["t.ad"]) == {}


def test_unknown_queues() -> None:
    """A message in a queue that nobody consumes waits for ever."""
    finding = only(a.clone().set(queue="fast"), "unknown-queue", known_queues=["fats", "slow"])
    assert finding.message == "no worker consumes the queue 'fast'; did you mean 'fats'?"
    assert codes(a.clone().set(queue="slow"), known_queues=["slow"]) == {}
    assert codes(a, known_queues=["slow"]) == {}


def test_routes_of_the_app_tell_the_queue() -> None:
    """Most canvases name no queue: the app's routes do."""
    routed = Celery("r", broker="memory://", set_as_current=False, task_routes={"t.a": "special"}, task_default_queue="usual")
    assert "'special'" in only(a, "unknown-queue", app=routed, known_queues=["usual"]).message
    assert "unknown-queue" not in codes(b, app=routed, known_queues=["usual"])
    strict = Celery("s", broker="memory://", set_as_current=False, task_queues=[Queue("one")], task_create_missing_queues=False)
    assert only(a.clone().set(queue="two"), "routing-failed", app=strict).severity == "error"


def test_classes_are_judged() -> None:
    """What classes and settings say, and the daemon cannot do or does otherwise, is told by task, before anything runs."""

    class Locked(Task):
        abstract = True

        def apply_async(self, *args: Any, **options: Any) -> Any:
            return super().apply_async(*args, **options)

    with Celery("judged", broker="memory://", backend="cache+memory://", set_as_current=False) as judged:
        locked = judged.task(ping.run, name="locked", shared=False, base=Locked)
        crossed = judged.task(ping.run, name="crossed", shared=False, soft_time_limit=9, time_limit=5)
        apart = judged.task(ping.run, name="apart", shared=False, backend=DisabledBackend(judged))
        assert "test_surroundings." in only(locked.s(), "apply-async-overridden", app=judged).message
        assert "9 s" in only(crossed.s(), "limits-crossed", app=judged).message
        assert only(apart.s(), "own-backend", app=judged).severity == "error"
        assert codes(ping.s().set(soft_time_limit=9, time_limit=5)) == {"limits-crossed": 1}
        judged.conf.result_serializer = "pickle"
        assert "values-without-json" not in codes(locked.s(), app=judged)
        assert "'pickle'" in only(chain(locked.s(), apart.s()), "values-without-json", app=judged).message


def test_tasks_that_go_round_for_ever_are_named() -> None:
    """A task that is given back when its worker dies is to have a bound, of the node or of the workflow."""
    with Celery("round", broker="memory://", set_as_current=False) as app:
        late = app.task(ping.run, name="late", shared=False, acks_late=True)
        poison = app.task(ping.run, name="poison", shared=False, acks_late=True, reject_on_worker_lost=True)
        assert only(poison.s(), "redelivered-for-ever", app=app).severity == "info"
        assert "redelivered-for-ever" not in codes(late.s(), app=app)
        bound = Workflow("bound")
        bound.add(poison.s(), redeliveries_max=2)
        assert "redelivered-for-ever" not in codes(bound, app=app)
        whole = Workflow("whole", policy=WorkflowPolicy(redeliveries_max=2))
        whole.add(poison.s())
        assert "redelivered-for-ever" not in codes(whole, app=app)
