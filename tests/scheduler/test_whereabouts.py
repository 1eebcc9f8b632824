"""Every verdict, on facts as an inspection finds them."""

from dataclasses import replace
from typing import Any

import pytest

from dyrygentd.core.absence import Absence
from dyrygentd.core.effects import Publish
from dyrygentd.core.node_spec import Signature
from dyrygentd.ports.facts import BACKEND_SILENT, Inspection, QueueFacts, TaskFacts, TaskPlace, WorkerFacts
from dyrygentd.scheduler.whereabouts import Whereabouts, whereabouts_of
from dyrygentd.testing import FakeBroker

_NOW = 1_700_000_000.0
_TASK = TaskFacts("t", "q", is_reserved=False, stored_state="")
_QUEUE = QueueFacts("q", 400, consumers=2, workers=["w1", "w2"], is_searched=True)


def _explain(task: TaskFacts = _TASK, queue: QueueFacts = _QUEUE, **facts: Any) -> Whereabouts:
    inspection = Inspection({"t": task}, {"q": queue}, **{"workers": ["w1", "w2"], "listening": 2, **facts})
    return whereabouts_of(inspection, "t", now=_NOW, retry_command="dyrygentctl retry wf n --force")


@pytest.mark.parametrize(("task", "code"), [(_TASK, "lost"), (replace(_TASK, stored_state=None), "unknown")])
def test_what_a_companion_would_know(task: TaskFacts, code: str) -> None:
    """Of a task that is nowhere, it is said what else may have become of it as long as no worker has a companion."""
    inspection = Inspection({"t": task}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2)
    unreported = whereabouts_of(inspection, "t", now=_NOW, is_unreported=True)
    assert unreported.code == code
    assert "ended by Ignore" in unreported.text
    assert "dyrygentd.worker.install(app)" in unreported.text
    reported = whereabouts_of(inspection, "t", now=_NOW)
    assert (reported.code, "Ignore" in reported.text) == (code, False)


def test_what_a_companion_would_know_of_a_task_that_has_ended() -> None:
    """That it may have ended by Ignore is said once; while the backend is away nothing follows from what it does not tell."""
    task = replace(_TASK, stored_state="STARTED", stored_worker="w1")
    facts: dict[str, Any] = {"workers": ["w1", "w2"], "listening": 2}
    ended = whereabouts_of(Inspection({"t": task}, {"q": _QUEUE}, **facts), "t", now=_NOW, is_unreported=True)
    assert ended.text.count("Ignore") == 1
    assert ended.text.endswith("; with `dyrygentd.worker.install(app)` in the workers' app it would be known how")
    away = Inspection({"t": replace(_TASK, stored_state=None)}, {"q": _QUEUE}, problems=[f"{BACKEND_SILENT}: gone"], **facts)
    assert "Ignore" not in whereabouts_of(away, "t", now=_NOW, is_unreported=True).text


def test_reported_end() -> None:
    """A task is not lost if a worker has reported its end; a result that is there says more."""
    inspection = Inspection({"t": _TASK}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2)
    whereabouts = whereabouts_of(inspection, "t", now=_NOW, has_ended=True)
    assert (whereabouts.code, "a worker has reported that it ended" in whereabouts.text) == ("finished", True)
    stored = Inspection({"t": replace(_TASK, stored_state="SUCCESS")}, {"q": _QUEUE})
    assert "stored already" in whereabouts_of(stored, "t", now=_NOW, has_ended=True).text


@pytest.mark.parametrize(("again", "step"), [(0, "wait"), (2, "wait"), (3, "its worker dies with it")])
def test_step_for_what_is_given_out_again(again: int, step: str) -> None:
    """A task that comes back each time is not waited for, also in the moments in which its worker has not begun it."""
    inspection = Inspection({"t": replace(_TASK, worker="w1", worker_state="reserved")}, {"q": _QUEUE}, workers=["w1"])
    assert whereabouts_of(inspection, "t", now=_NOW, again=again).next_step.startswith(step)


def test_result_that_may_have_expired() -> None:
    """A task that was sent longer ago than a result is kept may have ended while no daemon ran: that is said, and only then."""
    inspection = Inspection({"t": _TASK}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2, results_kept_s=86_400.0)
    late = whereabouts_of(inspection, "t", now=_NOW, dispatched_at=_NOW - 90_000)
    assert late.code == "lost"
    assert "kept for 1 d (`result_expires`), and it was sent 1 d 1 h ago" in late.text
    assert "its result has expired" in late.text
    assert "expire" not in whereabouts_of(inspection, "t", now=_NOW, dispatched_at=_NOW - 80_000).text
    unkept = whereabouts_of(replace(inspection, results_kept_s=0.0), "t", now=_NOW, dispatched_at=_NOW - 90_000)
    assert "expire" not in unkept.text


@pytest.mark.parametrize(
    ("absence", "words"),
    [
        pytest.param(
            Absence(_NOW - 90, _NOW - 50),
            "no daemon ran from 22:11:50 UTC to 22:12:30 UTC, and results are kept for 5 s (`result_expires`):"
            " if it ended then, its result has expired; else either its worker died",
            id="stopped",
        ),
        pytest.param(
            Absence(_NOW - 90, _NOW - 50, was_killed=True),
            "the daemon before was killed, after 22:11:50 UTC, and none ran to 22:12:30 UTC",
            id="killed",
        ),
        pytest.param(Absence(_NOW - 54, _NOW - 50), "", id="shorter than results are kept"),
        pytest.param(Absence(_NOW - 900, _NOW - 110), "", id="before it was sent"),
    ],
)
def test_result_that_expired_while_no_daemon_ran(absence: Absence, words: str) -> None:
    """Who left the daemon down for longer than results are kept is told so, before anything runs twice; who did not is not."""
    inspection = Inspection({"t": _TASK}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2, results_kept_s=5.0, absence=absence)
    whereabouts = whereabouts_of(inspection, "t", now=_NOW, dispatched_at=_NOW - 100)
    assert whereabouts.code == "lost"
    assert words in whereabouts.text
    assert ("no daemon ran from" in whereabouts.text or "was killed" in whereabouts.text) is bool(words)
    assert whereabouts.next_step.startswith("see whether its work is done: `dyrygentctl skip WORKFLOW NODE`") is bool(words)
    assert "`dyrygentctl retry WORKFLOW NODE --force`" in whereabouts.next_step


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
            "waits in queue 'q' at its head; whether anybody consumes it is not known: 2 of 3 workers did not answer; "
            "nobody who answers takes from queue 'q', so somebody who does not answer took it",
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
            {"is_reserved": True, "reserved_since": _NOW - 130, "redelivered_at": _NOW + 3470},
            {"workers": ["w1", "w2"]},
            {"alive": {"w1": WorkerFacts(3600.0), "w2": WorkerFacts(60.0)}},
            "orphaned",
            "a worker reserved it 2 min 10 s ago, and no worker has it now: that worker is gone, or is shutting down, or it is "
            "w1 and has dropped it, as Celery's worker does with what it has fetched when its connection to the broker breaks (a "
            "broker that was restarted); the broker redelivers it after the visibility timeout of 3600 s, in 57 min 50 s",
            id="dropped by a worker that lives",
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
            "either its worker died, or is shutting down and still at work"
            ", or the workers store results in another backend (`celery -A APP inspect conf` shows their `result_backend`)",
            id="lost",
        ),
        pytest.param(
            {"stored_state": "STARTED", "stored_worker": "w9"},
            {},
            {"workers": [], "listening": 0, "connected": 0},
            "lost",
            "nobody has it: it is not in queue 'q', no worker runs, the last state stored by w9 is STARTED; "
            "w9 had it, and does not answer: either its worker died, or is shutting down and still at work",
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
            "so a worker that does not answer has it, or it is lost; 1 of 3 workers did not answer (w3)",
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
            "either its worker died, or is shutting down and still at work"
            ", or the workers store results in another backend (`celery -A APP inspect conf` shows their `result_backend`)",
            id="opaque queue that is empty",
        ),
        pytest.param(
            {"is_reserved": None},
            {"length": 0, "consumers": 3},
            {"listening": None},
            "unknown",
            "nobody who answered has it; it is not in queue 'q'; so a worker that does not answer has it, or it is lost; "
            "3 workers take from queue 'q', and 2 of them answered",
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
    whereabouts = _explain(replace(_TASK, **task), replace(_QUEUE, **queue), **facts)
    assert (whereabouts.code, whereabouts.text) == (code, text)
    # Only a task that runs, or waits for a time that was set for it, leaves nothing to be done.
    assert whereabouts.next_step or code in ("running", "reserved")


@pytest.mark.parametrize(
    ("task", "queue", "facts", "code", "text"),
    [
        pytest.param(
            {}, {}, {"connected": 3}, "unknown", "3 connections to the broker fetch messages, and 2 workers answered", id="mute"
        ),
        pytest.param(
            {},
            {"workers": [], "consumers": 0},
            {"workers": [], "listening": 0, "connected": 1},
            "unknown",
            "1 connection to the broker fetches messages, and 0 workers answered",
            id="mute and alone",
        ),
        pytest.param(
            {},
            {"workers": [], "consumers": 0},
            {"workers": [], "listening": 0, "connected": 0, "connected_before": 1},
            "unknown",
            "1 connection to the broker fetches messages, and 0 workers answered",
            id="mute, alone and busy",
        ),
        pytest.param(
            {}, {}, {"connected": 2, "connected_before": 7}, "lost", "no worker knows it", id="monitors are connected, too"
        ),
        pytest.param(
            {},
            {"workers": [], "consumers": 0},
            {"workers": [], "listening": 0},
            "unknown",
            "nobody who answers takes from queue 'q', so somebody who does not answer took it",
            id="nobody counts them",
        ),
        pytest.param(
            {},
            {"workers": [], "consumers": 0},
            {"last_answered": {"w9": _NOW - 60}, "last_consumed": {"other": ("w9", _NOW - 60)}},
            "unknown",
            "nobody who answers takes from queue 'q', so somebody who does not answer took it",
            id="a worker of another queue is gone",
        ),
        pytest.param(
            {},
            {"workers": [], "consumers": 0},
            {"last_answered": {"w9": _NOW - 60}, "last_consumed": {"q": ("w9", _NOW - 60)}},
            "lost",
            "no worker knows it",
            id="the worker of its queue is gone",
        ),
        pytest.param(
            {"stored_state": "STARTED", "stored_worker": "w9"},
            {},
            {},
            "unknown",
            "w9, which started it, has never answered",
            id="its starter was never heard of",
        ),
        pytest.param({}, {}, {"heard": frozenset({"w1", "w3"})}, "unknown", "w3 lives and does not answer", id="heard"),
        pytest.param(
            {},
            {},
            {"listening": 3, "last_answered": {"w1": _NOW, "w3": _NOW - 60}},
            "unknown",
            "1 of 3 workers did not answer (w3)",
            id="who it may be",
        ),
        pytest.param(
            {"stored_state": "STARTED", "stored_worker": "w1"},
            {},
            {"connected": 2, "alive": {"w1": WorkerFacts(3600.0)}},
            "lost",
            "w1, which started it, is alive and no longer has it: it ended without a result (Ignore, or one that",
            id="ended without a result",
        ),
        pytest.param(
            {"stored_state": "STARTED", "stored_worker": "w1"},
            {},
            {"connected": 2, "alive": {"w1": WorkerFacts(20.0)}},
            "lost",
            "w1, which started it, was itself started anew at 22:13:00 UTC: it was ended with the task",
            id="its worker was started anew",
        ),
        pytest.param(
            {"stored_state": "STARTED", "stored_worker": "w9"},
            {},
            {"connected": 2, "last_answered": {"w1": _NOW, "w2": _NOW, "w9": _NOW - 65}},
            "lost",
            "w9 had it, and does not answer since 22:12:15 UTC; w1, w2 do not have it: either its worker died",
            id="its worker died",
        ),
        pytest.param(
            {"is_reserved": True, "reserved_since": _NOW - 40, "task": "rate.limited"},
            {},
            {"connected": 2, "alive": {"w1": WorkerFacts(3600.0, {"rate.limited": "2/m"}), "w2": WorkerFacts(3600.0)}},
            "reserved",
            "waits at w1 for the rate limit of 2/m, reserved 40 s ago",
            id="rate limit on Redis",
        ),
        pytest.param(
            {"is_reserved": None, "task": "rate.limited"},
            {"length": 0},
            {"listening": None, "alive": {"w1": WorkerFacts(3600.0, {"rate.limited": "2/m"})}},
            "reserved",
            "probably waits at w1 for the rate limit of 2/m",
            id="rate limit on RabbitMQ",
        ),
        pytest.param(
            {"worker": "w1", "worker_state": "active", "started_at": _NOW - 31, "also_at": {"w2": _NOW - 16}},
            {},
            {},
            "running",
            "runs on w1 for 31 s, since 22:12:49 UTC, and on w2 for 16 s: the broker gave it out once more while it ran",
            id="twice",
        ),
        pytest.param(
            {"worker": "w1", "worker_state": "active", "is_redelivered": True},
            {},
            {},
            "running",
            "runs on w1; the broker gave it out once more after a worker had it",
            id="redelivered",
        ),
    ],
)
def test_who_may_have_it(task: dict[str, Any], queue: dict[str, Any], facts: dict[str, Any], code: str, text: str) -> None:
    """What is said rests on who answered and who did not, and nothing is lost that somebody unasked may have."""
    inspection = Inspection(
        {"t": replace(_TASK, **task)}, {"q": replace(_QUEUE, **queue)}, **{"workers": ["w1", "w2"], "listening": 2, **facts}
    )
    whereabouts = whereabouts_of(
        inspection, "t", now=_NOW, retry_command="dyrygentctl retry wf n --force", dispatched_at=_NOW - 70
    )
    assert whereabouts.code == code, whereabouts
    assert text in whereabouts.text


def test_a_new_attempt_would_do_the_same() -> None:
    """Of a task that ended without a result at a living worker, `skip` is offered first, as a command."""
    task = replace(_TASK, stored_state="STARTED", stored_worker="w1")
    whereabouts = _explain(task, connected=2, alive={"w1": WorkerFacts(9.0)})
    assert whereabouts.next_step.startswith("`dyrygentctl skip wf n` goes on without it; a new attempt would end in the same way")


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
    assert whereabouts_of(Inspection(), "t", now=_NOW).code == "unknown"


@pytest.mark.anyio
async def test_fakes_tell_the_same() -> None:
    """The shipped fakes lead to the verdicts that a real broker would."""
    broker = FakeBroker(has_worker=False, holds=True)
    messages = [Publish("wf", n, 1, f"t-{n}", Signature("a"), None, "", "wf") for n in range(3)]
    places = [TaskPlace(message.task_id, 1, message.signature) for message in messages]

    async def codes() -> list[str]:
        inspection = await broker.inspector.trace(places)
        return [whereabouts_of(inspection, place.task_id, now=_NOW).code for place in places]

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


def test_commands_for_a_queue_that_nobody_consumes() -> None:
    """They can be pasted: the app's name, one worker and no more; who consumed it last and what may be meant is said."""
    facts = {
        "consumed": {"reports": ["w2"], "celery": ["w1"]},
        "origins": {"report.mail": "`task_routes` for task 'report.mail'"},
        "last_consumed": {"reprots": ("w9", _NOW - 60)},
    }
    task = TaskFacts("t", "reprots", position=0, is_reserved=False, stored_state="", task="report.mail")
    queue = QueueFacts("reprots", 1, consumers=0, workers=[], is_searched=True)
    inspection = Inspection({"t": task}, {"reprots": queue}, workers=["w1", "w2"], listening=2, **facts)  # type: ignore[arg-type]
    found = whereabouts_of(inspection, "t", now=_NOW, retry_command="dyrygentctl retry wf n --force", app="nightapp:app")
    assert found.code == "no-consumer"
    assert "; the last that said to consume it is w9, asked 1 min ago at 22:12:20 UTC" in found.text
    assert (
        "; the name comes from `task_routes` for task 'report.mail'; w2 consumes 'reports', which is much like it" in found.text
    )
    assert found.next_step.startswith("if 'reports' is meant, correct `task_routes` for task 'report.mail', and `")
    assert "`celery -A nightapp:app worker -Q reprots`" in found.next_step
    assert found.next_step.endswith("`celery -A nightapp:app control -d w1 add_consumer reprots`")
    unknown = whereabouts_of(replace(inspection, consumed={}, origins={}), "t", now=_NOW)
    assert "much like" not in unknown.text
    assert unknown.next_step.endswith("add_consumer reprots` (APP: the workers' app, as `module:app`)")


def test_task_that_tries_again_for_hours() -> None:
    """Its own error, how often, when next, and what ends the waiting."""
    task = replace(_TASK, worker="w1", worker_state="scheduled", stored_state="RETRY", stored_error="TimeoutError: j-77")
    inspection = Inspection({"t": replace(task, due_at=_NOW + 30)}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2)
    found = whereabouts_of(inspection, "t", now=_NOW, tries=3, retry_command="dyrygentctl retry wf n --force")
    assert found.text == (
        "waits at w1 for its retry, after 3 tries, next at 22:13:50 UTC (in 30 s); it ended last with TimeoutError: j-77"
    )
    assert "`dyrygentctl skip wf n`" in found.next_step


def test_backend_that_cannot_be_asked() -> None:
    """The next step is about the backend, not about workers that answer."""
    problems = ["the result backend cannot be asked: ConnectionError"]
    found = _explain(replace(_TASK, stored_state=None), problems=problems)
    assert found.next_step.startswith("bring the result backend back first")


def test_what_an_emptied_broker_has_forgotten_is_not_retried_name_by_name() -> None:
    """Only the oldest tasks are looked for when somebody asks; the daemon looks for all of them, and in a minute it is done."""
    inspection = Inspection({"t": _TASK}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2)
    whereabouts = whereabouts_of(inspection, "t", now=_NOW, setback="the broker was emptied at 07:34:28 UTC")
    assert whereabouts.text.endswith("; the broker was emptied at 07:34:28 UTC, and its message was in it")
    assert whereabouts.next_step.startswith(
        "wait for a minute: what nobody has is found lost then, and one command is for all of it; "
    )
    assert whereabouts.next_step.endswith("starts a new attempt before")


_AWAY = "the result backend was away from 19:20:00 UTC to 19:25:00 UTC"
_DROPPED = f"; {_AWAY}, and workers that could not store results may have dropped it; if not: "


def test_backend_that_was_away_is_the_first_reading_of_a_lost_task() -> None:
    """The workers' configuration is not blamed, and nothing is said to be certain."""
    inspection = Inspection({"t": _TASK}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2)
    whereabouts = whereabouts_of(
        inspection, "t", now=_NOW, away=_AWAY, is_unreported=True, retry_command="dyrygentctl retry wf n --force"
    )
    assert whereabouts.text.endswith(f"{_DROPPED}either its worker died, or is shutting down and still at work")
    assert whereabouts.next_step.endswith(
        " --force` starts a new attempt; what is known to have run to its end can be skipped instead"
    )
    emptied = whereabouts_of(inspection, "t", now=_NOW, away=_AWAY, setback="the broker was emptied at 07:34:28 UTC")
    assert emptied.text.endswith("; the broker was emptied at 07:34:28 UTC, and its message was in it")


def test_what_ended_while_the_backend_was_away_may_be_tried_again() -> None:
    """Its worker lives and has it no longer: it could not store its result, so another attempt may end otherwise."""
    task = replace(_TASK, stored_state="STARTED", stored_worker="w1")
    inspection = Inspection({"t": task}, {"q": _QUEUE}, workers=["w1", "w2"], listening=2)
    whereabouts = whereabouts_of(inspection, "t", now=_NOW, away=_AWAY)
    assert whereabouts.text.endswith(f"{_DROPPED}w1, which started it, is alive and no longer has it")
    assert "starts a new attempt; what is known to have run to its end" in whereabouts.next_step
