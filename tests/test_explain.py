"""Every verdict, on facts as an inspection finds them."""

from dataclasses import replace
from typing import Any

import pytest

from dyrygentd.core.effects import Publish
from dyrygentd.core.graph import Signature
from dyrygentd.explain import Finding, verdict
from dyrygentd.ports import Inspection, QueueFacts, TaskFacts, TaskPlace
from dyrygentd.testing import FakeBroker

_NOW = 1_700_000_000.0
_TASK = TaskFacts("t", "q", is_reserved=False, stored_state="")
_QUEUE = QueueFacts("q", 400, consumers=2, workers=["w1", "w2"], is_searched=True)


def _explain(task: TaskFacts = _TASK, queue: QueueFacts = _QUEUE, **facts: Any) -> Finding:
    inspection = Inspection({"t": task}, {"q": queue}, **{"workers": ["w1", "w2"], "listening": 2, **facts})
    return verdict(inspection, "t", now=_NOW, retry_command="dyrygentctl retry wf n --force")


@pytest.mark.parametrize(("task", "code"), [(_TASK, "lost"), (replace(_TASK, stored_state=None), "unknown")])
def test_what_a_companion_would_know(task: TaskFacts, code: str) -> None:
    """Of a task that is nowhere, it is said what else may have become of it as long as no worker has a companion."""
    inspection = Inspection({"t": task}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2)
    unreported = verdict(inspection, "t", now=_NOW, is_unreported=True)
    assert unreported.code == code
    assert "ended by Ignore" in unreported.text
    assert "dyrygentd.worker.install(app)" in unreported.text
    reported = verdict(inspection, "t", now=_NOW)
    assert (reported.code, "Ignore" in reported.text) == (code, False)


def test_reported_end() -> None:
    """A task is not lost if a worker has reported its end; a result that is there says more."""
    inspection = Inspection({"t": _TASK}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2)
    finding = verdict(inspection, "t", now=_NOW, has_ended=True)
    assert (finding.code, "a worker has reported that it ended" in finding.text) == ("finished", True)
    stored = Inspection({"t": replace(_TASK, stored_state="SUCCESS")}, {"q": _QUEUE})
    assert "stored already" in verdict(stored, "t", now=_NOW, has_ended=True).text


@pytest.mark.parametrize(
    ("task", "queue", "facts", "code", "text"),
    [
        pytest.param(
            {"position": 312},
            {},
            {},
            "queued",
            "waits in queue 'q' behind 312 messages; 2 workers consume it (w1, w2)",
            id="behind",
        ),
        pytest.param(
            {"position": 1},
            {"consumers": 1, "workers": ["w1"]},
            {},
            "queued",
            "waits in queue 'q' behind 1 message; 1 worker consumes it (w1)",
            id="singular",
        ),
        pytest.param(
            {"position": 0},
            {"consumers": 5, "workers": ["a", "b", "c", "d", "e"]},
            {},
            "queued",
            "waits in queue 'q' at its head; 5 workers consume it (a, b, c and 2 more)",
            id="many workers",
        ),
        pytest.param(
            {"position": 0},
            {"consumers": 0, "workers": []},
            {"workers": [], "listening": 0},
            "no-consumer",
            "waits in queue 'q' at its head, which nobody consumes",
            id="no worker runs",
        ),
        pytest.param(
            {"position": 0},
            {"consumers": 0, "workers": []},
            {},
            "no-consumer",
            "waits in queue 'q' at its head, which nobody consumes; 2 workers (w1, w2) answered, for other queues",
            id="no worker for it",
        ),
        pytest.param(
            {"position": 0},
            {"consumers": None, "workers": []},
            {"workers": ["w1"], "listening": 3},
            "queued",
            "waits in queue 'q' at its head; whether anybody consumes it is not known: 2 of 3 workers did not answer",
            id="perhaps no consumer",
        ),
        pytest.param(
            {"worker": "w1", "worker_state": "reserved", "is_reserved": True, "reserved_since": _NOW - 40},
            {},
            {},
            "reserved",
            "reserved by w1 for 40 s, which runs other tasks first",
            id="reserved",
        ),
        pytest.param(
            {"worker": "w1", "worker_state": "scheduled"}, {}, {}, "reserved", "waits at w1 for its countdown or ETA", id="eta"
        ),
        pytest.param(
            {"worker": "w1", "worker_state": "active", "started_at": _NOW - 192, "stored_state": "STARTED"},
            {},
            {},
            "running",
            "runs on w1 for 3 min 12 s, since 22:10:08 UTC",
            id="running",
        ),
        pytest.param(
            {"worker": "w1", "worker_state": "active", "stored_state": "PROGRESS"},
            {},
            {},
            "running",
            "runs on w1; it reports PROGRESS",
            id="running and telling",
        ),
        pytest.param(
            {"is_reserved": True, "reserved_since": _NOW - 1800, "redelivered_at": _NOW + 1800},
            {},
            {"workers": [], "listening": 0},
            "orphaned",
            "a worker reserved it 30 min ago, and no worker runs now: that worker is gone, or is shutting down; "
            "the broker redelivers it after the visibility timeout of 3600 s, in 30 min",
            id="orphaned",
        ),
        pytest.param(
            {"is_reserved": True, "reserved_since": _NOW - 7200, "redelivered_at": _NOW - 3600},
            {},
            {},
            "orphaned",
            "a worker reserved it 2 h ago, and no worker has it now: that worker is gone, or is shutting down; "
            "the broker redelivers it after the visibility timeout of 3600 s, which is over: as soon as a worker runs",
            id="orphaned for long",
        ),
        pytest.param(
            {"is_reserved": True, "reserved_since": _NOW - 7200},
            {},
            {"workers": ["w1"]},
            "reserved",
            "a worker reserved it 2 h ago, and it is not known which: 1 of 2 workers did not answer",
            id="reserved by a silent worker",
        ),
        pytest.param(
            {},
            {},
            {},
            "lost",
            "nobody has it: it is not in queue 'q', no worker knows it, no result is stored; "
            "either its worker died, or is shutting down and still at work",
            id="lost",
        ),
        pytest.param(
            {"stored_state": "STARTED", "stored_worker": "w9"},
            {},
            {"workers": [], "listening": 0},
            "lost",
            "nobody has it: it is not in queue 'q', no worker runs, the last state stored by w9 is STARTED; "
            "either its worker died, or is shutting down and still at work",
            id="lost with its worker",
        ),
        pytest.param(
            {"stored_state": "SUCCESS", "stored_at": _NOW - 90_061, "stored_worker": "w1", "is_reserved": True},
            {},
            {},
            "finished",
            "its result is stored already (SUCCESS by w1 1 d 1 h ago); it will be seen within 10 s",
            id="finished",
        ),
        pytest.param(
            {"stored_state": "STARTED", "stored_worker": "w3"},
            {},
            {"listening": 3},
            "unknown",
            "nobody who answered has it; the last state stored by w3 is STARTED; it is not in queue 'q'; "
            "so a worker that does not answer has it, or it is lost; 1 of 3 workers did not answer",
            id="a silent worker may have it",
        ),
        pytest.param(
            {},
            {"is_searched": False},
            {},
            "unknown",
            "nobody who answered has it; queue 'q' has 400 messages, and not all were looked at",
            id="a part of the queue was searched",
        ),
        pytest.param(
            {"is_reserved": None, "stored_state": ""},
            {"length": None, "consumers": None, "workers": [], "is_searched": False},
            {"workers": None, "listening": None, "problems": ["the broker cannot be asked: it is away"]},
            "unknown",
            "nobody who answered has it; the broker cannot be asked: it is away",
            id="broker is away",
        ),
        pytest.param(
            {"stored_state": None},
            {},
            {"problems": ["the result backend cannot be asked: it is away"]},
            "unknown",
            "nobody who answered has it; it is not in queue 'q'; the result backend cannot be asked: it is away",
            id="backend is away",
        ),
        # Brokers that show no messages, and do not tell how many workers listen.
        pytest.param(
            {"is_reserved": None},
            {"length": 7, "is_searched": False},
            {"listening": None},
            "queued",
            "is probably one of the 7 messages in queue 'q'; 2 workers consume it (w1, w2)",
            id="opaque queue",
        ),
        pytest.param(
            {"is_reserved": None},
            {"length": 7, "is_searched": False, "consumers": 0, "workers": []},
            {"listening": None, "workers": []},
            "no-consumer",
            "is probably one of the 7 messages in queue 'q', which nobody consumes",
            id="opaque queue without a consumer",
        ),
        pytest.param(
            {"is_reserved": None},
            {"length": 0},
            {"listening": None},
            "lost",
            "nobody has it: it is not in queue 'q', no worker knows it, no result is stored; "
            "either its worker died, or is shutting down and still at work",
            id="opaque queue that is empty",
        ),
        pytest.param(
            {"is_reserved": None},
            {"length": 0, "consumers": 3},
            {"listening": None},
            "unknown",
            "nobody who answered has it; it is not in queue 'q'; so a worker that does not answer has it, or it is lost; "
            "not every worker may have answered",
            id="a consumer is silent",
        ),
        pytest.param(
            {"is_reserved": None},
            {"length": 0, "consumers": None, "workers": []},
            {"listening": None, "workers": []},
            "unknown",
            "nobody who answered has it; it is not in queue 'q'; so a worker that does not answer has it, or it is lost; "
            "no worker answered",
            id="nobody answers",
        ),
    ],
)
def test_verdict(task: dict[str, Any], queue: dict[str, Any], facts: dict[str, Any], code: str, text: str) -> None:
    """Each situation has one code and one sentence, in words of the person who asks."""
    finding = _explain(replace(_TASK, **task), replace(_QUEUE, **queue), **facts)
    assert (finding.code, finding.text) == (code, text)
    # Only a task that runs, or waits for a time that was set for it, leaves nothing to be done.
    assert finding.next_step or code in ("running", "reserved")


def test_next_steps_name_the_command() -> None:
    """What can be done is a command that can be pasted."""
    assert "`dyrygentctl retry wf n --force` starts a new attempt" in _explain().next_step
    orphaned = replace(_TASK, is_reserved=True)
    assert "`dyrygentctl retry wf n --force`" in _explain(orphaned).next_step
    nobody = replace(_QUEUE, consumers=0, workers=[])
    assert "`celery -A APP worker -Q q`" in _explain(replace(_TASK, position=0), nobody).next_step


def test_next_step_where_no_worker_runs() -> None:
    """To wait for a redelivery, or to try again, helps nobody while there is no worker."""
    for task in (replace(_TASK, is_reserved=True), _TASK):
        step = _explain(task, workers=[], listening=0).next_step
        assert step.startswith("start a worker for it: `celery -A APP worker -Q q`")
        assert "`dyrygentctl retry wf n --force`" in step
        assert "start a worker" not in _explain(task).next_step


def test_long_running_task_may_hang() -> None:
    """A task that has run for long is offered a new attempt, with what that leaves behind; a young one is left alone."""
    running = replace(_TASK, worker="w1", worker_state="active", started_at=_NOW - 299)
    assert _explain(running).next_step == ""
    step = _explain(replace(running, started_at=_NOW - 300)).next_step
    assert step.startswith("if it hangs: `dyrygentctl retry wf n --force` starts a new attempt; the old one goes on")


def test_task_that_was_not_looked_for() -> None:
    """A task of which the inspection says nothing is unknown, never lost."""
    assert verdict(Inspection(), "t", now=_NOW).code == "unknown"


@pytest.mark.anyio
async def test_fakes_tell_the_same() -> None:
    """The shipped fakes lead to the verdicts that a real broker would."""
    broker = FakeBroker(has_worker=False, holds=True)
    messages = [Publish("wf", n, 1, f"t-{n}", Signature("a"), None, "", "wf") for n in range(3)]
    places = [TaskPlace(message.task_id, 1, message.signature) for message in messages]

    async def codes() -> list[str]:
        inspection = await broker.inspector.trace(places)
        return [verdict(inspection, place.task_id, now=_NOW).code for place in places]

    await broker.dispatcher.publish(messages)
    assert await codes() == ["no-consumer"] * 3
    assert list(await broker.dispatcher.withdraw(places[:1])) == ["t-0"]
    broker.start_worker()
    assert await codes() == ["lost", "running", "running"]
    broker.let_go("t-1")
    await broker.dispatcher.revoke_stamped("dyrygentd_workflow", ["wf"], terminate=True)
    inspection = await broker.inspector.trace(places)
    assert [task.stored_state for task in inspection.tasks.values()] == ["", "SUCCESS", "REVOKED"]
    broker.broken = "away"
    assert await codes() == ["unknown", "finished", "finished"]


@pytest.fixture
def anyio_backend() -> str:
    """The only backend: the fakes are asyncio's."""
    return "asyncio"
