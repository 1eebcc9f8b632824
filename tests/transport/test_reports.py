"""Reading the reports of workers: from where the last process stopped, on a real server that is made to misbehave."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import redis
from celery import Celery

from dyrygentd.core.events import (
    Event,
    ReportsRead,
    TaskFailed,
    TaskIgnored,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
)
from dyrygentd.core.policy import FailureKind
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.ports.facts import WITHOUT_REPORTS
from dyrygentd.transport.report_entries import event_of_report
from dyrygentd.transport.reports import RedisReports, ReportsPace
from tests.support.apps import closing
from tests.support.following import Told, eventually
from tests.support.tasks import create_app, records

pytestmark = [
    pytest.mark.anyio,
    # Celery's own, when it stores a result.
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]

_QUICK = ReportsPace(block_s=0.05, note_s=0.0, check_s=0.0, confirm_s=0.1, command_timeout_s=0.5)
#: Ends wait for their results.
_PATIENT = ReportsPace(block_s=0.05, note_s=0.0, check_s=0.0, confirm_s=3600.0, command_timeout_s=0.5)
_STREAM = "dyrygentd:reports:db"


class _Daemon:
    """What stands around a reader: a store that notes what is read, and the tasks in flight."""

    def __init__(self, reports: RedisReports) -> None:
        self.reports = reports
        self.told = Told()
        self.noted: list[str] = []
        self.in_flight: set[str] = set()

    def post(self, event: Event) -> None:
        """Note at once, as the turns do after what came before is on disk."""
        assert isinstance(event, ReportsRead)
        self.noted.append(event.offset)
        self.reports.kept(event.offset)


@asynccontextmanager
async def _reading(app: Celery, offset: str | None = None, *, pace: ReportsPace = _QUICK) -> AsyncIterator[_Daemon]:
    """Run a reader."""
    reports = RedisReports(app, pace=pace)
    reports.begin("db", offset)
    daemon = _Daemon(reports)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reports.run, daemon.told.emit, daemon.post, daemon.in_flight.__contains__)
        yield daemon
        tasks.cancel_scope.cancel()


@pytest.fixture
def server(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client for orders to the server."""
    with records(redis_server.url) as server:
        yield server


Report = Callable[..., str]


@pytest.fixture
def report(server: redis.Redis) -> Report:
    """Append a report as a worker does; by default one that becomes an event at once."""

    def report(task: str, state: str = "IGNORED", *, stored: int = 0, **fields: Any) -> str:
        entry: Any = {"task": task, "state": state, "stored": stored, "worker": "w@test", **fields}
        return str(server.xadd(_STREAM, entry))

    return report


def _told(daemon: _Daemon) -> list[str]:
    return [event.task_id for event in daemon.told.events]


# --- what a report says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"state": "IGNORED", "error": "no need"}, TaskIgnored("t", "no need")),
        ({"state": "IGNORED"}, TaskIgnored("t", "the task asked to be ignored")),
        ({"state": "REJECTED", "error": "bad"}, TaskFailed("t", "rejected: bad", "Reject", fingerprint="Reject")),
        ({"state": "SUCCESS", "value": '{"a": 1}'}, TaskSucceeded("t", b'{"a": 1}')),
        ({"state": "SUCCESS"}, TaskSucceeded("t", None, "its result is not stored any more")),
        ({"state": "SUCCESS", "error": "too long"}, TaskSucceeded("t", None, "too long")),
        (
            {"state": "FAILURE", "error": "ValueError: no", "exception": "ValueError"},
            TaskFailed("t", "ValueError: no", "ValueError", fingerprint="ValueError"),
        ),
        (
            {"state": "FAILURE", "error": "lost", "exception": "WorkerLostError"},
            TaskFailed("t", "lost", "WorkerLostError", FailureKind.INFRASTRUCTURE, "WorkerLostError"),
        ),
        ({"state": "REVOKED", "error": "expired"}, TaskRevoked("t", "expired", is_expired=True)),
        ({"state": "REVOKED", "error": "terminated"}, TaskRevoked("t", "terminated")),
        ({"state": "RETRY", "worker": "w@h", "next": "17.5"}, TaskReported("t", "RETRY", "w@h", 17.5)),
        ({"state": "RETRY", "next": "soon"}, TaskReported("t", "RETRY")),
        ({"state": "REPLACED"}, TaskReported("t", "REPLACED")),
        ({"state": "REQUEUED"}, TaskReported("t", "REQUEUED")),
        # What is no report.
        ({"state": "SUCCESS", "value": "{"}, None),
        ({"state": "SUCCESS", "value": '"' + "x" * 2_000_000 + '"'}, None),
        ({"state": "PENDING"}, None),
        ({}, None),
        ({"task": "", "state": "IGNORED"}, None),
    ],
)
async def test_report_is_read_as_an_event(fields: dict[str, str], event: Event | None) -> None:
    """Each kind of report says what the stored result would say; anything else is none."""
    assert event_of_report({"task": "t", **fields}) == event


# --- reading --------------------------------------------------------------------------------------------------------


async def test_reads_on_from_what_was_noted(celery_app: Celery, report: Report, server: redis.Redis) -> None:
    """What was noted is not read again, what came after it is, also while nobody was there."""
    async with _reading(celery_app) as daemon:
        report("a")
        place = report("b")
        await eventually(lambda: daemon.noted[-1:] == [place])
    report("c")
    async with _reading(celery_app, place) as daemon:
        await eventually(lambda: daemon.noted)
    assert _told(daemon) == ["c"]
    statistics = daemon.reports.statistics()
    assert (statistics.gaps, statistics.read["IGNORED"], statistics.is_heard, statistics.problem) == (0, 1, True, "")
    assert 0 <= statistics.lag_seconds < 60
    assert server.xlen(_STREAM) == 1


async def test_nothing_is_noted_when_nothing_came(celery_app: Celery) -> None:
    """An idle stream costs the database nothing."""
    async with _reading(celery_app) as daemon:
        await eventually(lambda: daemon.reports.statistics().connected)
        assert not daemon.noted
        assert not daemon.reports.statistics().is_heard


async def test_notes_are_rare(celery_app: Celery, report: Report) -> None:
    """However much comes, the place is noted once in a while."""
    async with _reading(celery_app, pace=ReportsPace(block_s=0.01, note_s=3600)) as daemon:
        for number in range(20):
            report(str(number))
            await daemon.told.wait_final(str(number))
    assert len(daemon.noted) == 1


async def test_many_at_once(celery_app: Celery, report: Report, server: redis.Redis) -> None:
    """What has piled up is read in several answers, completely and in order."""
    pipe = server.pipeline()
    for number in range(1700):
        pipe.xadd(_STREAM, {"task": str(number), "state": "IGNORED", "stored": 0})
    pipe.execute()
    async with _reading(celery_app) as daemon:
        await daemon.told.wait_final("1699")
    assert _told(daemon) == [str(number) for number in range(1700)]


async def test_entries_that_are_no_reports(celery_app: Celery, report: Report, server: redis.Redis) -> None:
    """They are counted and passed over."""
    for fields in ({"x": "y"}, {"task": "t"}, {"task": b"\xff\xfe", "state": b"\xff"}):
        server.xadd(_STREAM, fields)  # type: ignore[arg-type]
    report("t")
    async with _reading(celery_app) as daemon:
        await daemon.told.wait_final("t")
    statistics = daemon.reports.statistics()
    assert (statistics.unreadable, statistics.read["other"], statistics.read["IGNORED"]) == (3, 3, 1)


# --- ends whose results count ---------------------------------------------------------------------------------------


async def test_stored_result_is_awaited(celery_app: Celery, report: Report) -> None:
    """A report of an end with a stored result is no event, and is not noted before the result was seen."""
    async with _reading(celery_app, pace=_PATIENT) as daemon:
        before = report("a")
        await eventually(lambda: daemon.noted)
        daemon.in_flight.add("t")
        report("t", "SUCCESS", stored=1)
        after = report("b")
        await daemon.told.wait_final("b")
        assert daemon.reports.has_ended("t")
        assert daemon.noted == [before]
        daemon.in_flight.clear()
        await eventually(lambda: daemon.noted[-1] == after)
        assert not daemon.reports.has_ended("t")
    assert _told(daemon) == ["a", "b"]
    assert daemon.reports.statistics().concluded == 0


async def test_result_that_is_gone(celery_app: Celery, report: Report) -> None:
    """If there is no result after a while, the report takes its place: the task has ended, and is not lost."""
    celery_app.backend.store_result("there", 1, "SUCCESS")
    celery_app.backend.store_result("started", {"pid": 1}, "STARTED")
    async with _reading(celery_app) as daemon:
        daemon.in_flight.update(("gone", "there", "started", "bad"))
        for task in ("gone", "there", "started"):
            report(task, "SUCCESS", stored=1)
        report("bad", "FAILURE", stored=1, error="ValueError: no", exception="ValueError")
        await daemon.told.wait_final("gone", "started", "bad")
        # The watcher brings it, or finds it with its next sweep.
        assert daemon.reports.has_ended("there")
    reason = "its result is not stored any more"
    assert set(daemon.told.events) == {
        TaskSucceeded("gone", None, reason),
        TaskSucceeded("started", None, reason),
        TaskFailed("bad", "ValueError: no", "ValueError", fingerprint="ValueError"),
    }
    assert daemon.reports.statistics().concluded == 3


# --- losses ---------------------------------------------------------------------------------------------------------


async def test_connection_killed(celery_app: Celery, report: Report, server: redis.Redis) -> None:
    """A lost connection costs a new one, and no report."""
    async with _reading(celery_app) as daemon:
        for number in range(4):
            report(str(number))
            await daemon.told.wait_final(str(number))
            server.client_kill_filter(_type="normal", skipme=True)
    assert _told(daemon) == [str(number) for number in range(4)]
    assert daemon.reports.statistics().connections > 1


async def test_server_hangs(celery_app: Celery, report: Report, redis_server: EmbeddedServer) -> None:
    """A connection that is open and silent is given up, told as a problem, and made anew."""
    async with _reading(celery_app) as daemon:
        await eventually(lambda: daemon.reports.statistics().connected)
        assert redis_server.pid is not None
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            await eventually(lambda: "cannot be read" in daemon.reports.statistics().problem)
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        report("t")
        await daemon.told.wait_final("t")
        assert daemon.reports.statistics().connected


async def test_server_restarts(celery_app: Celery, report: Report, redis_server: EmbeddedServer) -> None:
    """After a restart with its data nothing is missing."""
    async with _reading(celery_app) as daemon:
        report("before")
        await eventually(lambda: daemon.noted)
        redis_server.restart()
        report("after")
        await daemon.told.wait_final("after")
        await eventually(lambda: len(daemon.noted) == 2)
    assert _told(daemon) == ["before", "after"]
    assert daemon.reports.statistics().gaps == 0


async def test_stream_was_cut(celery_app: Celery, report: Report, server: redis.Redis, caplog: Any) -> None:
    """If more was cut off than we had read, that is told once and counted, and what is left is read."""
    place = report("a")
    for task in "bcde":
        report(task)
    server.xtrim(_STREAM, maxlen=2, approximate=False)
    async with _reading(celery_app, place) as daemon:
        await daemon.told.wait_final("e")
        report("f")
        await daemon.told.wait_final("f")
    assert _told(daemon) == ["d", "e", "f"]
    assert daemon.reports.statistics().gaps == 1
    assert caplog.text.count("reports may be missing") == 1


@pytest.mark.parametrize("is_running", [True, False])
async def test_redis_was_emptied(is_running: bool, celery_app: Celery, report: Report, server: redis.Redis) -> None:
    """After FLUSHALL, also with a clock that went back, what comes next is read."""
    place = server.xadd(_STREAM, {"task": "a", "state": "IGNORED", "stored": 0}, id="9999999999999-5")
    if not is_running:
        server.flushall()
        # Older than what we have read.
        report("b")
    async with _reading(celery_app, str(place)) as daemon:
        if is_running:
            await eventually(lambda: daemon.reports.statistics().connected)
            server.flushall()
            report("b")
        await daemon.told.wait_final("b")
        await eventually(lambda: daemon.noted and daemon.noted[-1] < "9999")
    assert _told(daemon) == ["b"]
    assert daemon.reports.statistics().gaps == 1


@pytest.mark.parametrize("offset", ["", "garbage", "1-", "-", "$", "99999999999999999999999999-1"])
async def test_bad_note(offset: str, celery_app: Celery, report: Report) -> None:
    """A note that makes no sense costs reading everything again, which is harmless."""
    report("a")
    async with _reading(celery_app, offset) as daemon:
        await daemon.told.wait_final("a")


async def test_stream_is_something_else(celery_app: Celery, server: redis.Redis) -> None:
    """A key of another kind under our name is a problem that is told, and holds up nobody."""
    server.set(_STREAM, "x")
    async with _reading(celery_app) as daemon:
        await eventually(lambda: "WRONGTYPE" in daemon.reports.statistics().problem)


# --- where the stream is --------------------------------------------------------------------------------------------


async def test_prefix_of_the_backend(redis_server: EmbeddedServer, server: redis.Redis) -> None:
    """The stream is beside the results, under their prefix."""
    with closing(create_app(redis_server.url, redis_server.url, keyprefix="tenant")) as app:
        async with _reading(app) as daemon:
            assert daemon.reports.header() == {"stream": f"tenant_{_STREAM}", "in": "backend", **WITHOUT_REPORTS}
            server.xadd(f"tenant_{_STREAM}", {"task": "t", "state": "IGNORED", "stored": 0})
            await daemon.told.wait_final("t")


async def test_stream_in_the_broker(redis_server: EmbeddedServer, server: redis.Redis, short_tmp: Any) -> None:
    """If results are elsewhere, the stream is beside the queues; a result that is gone is asked for there."""
    (short_tmp / "results").mkdir()
    with closing(create_app(redis_server.url, f"file://{short_tmp}/results")) as app:
        app.conf.broker_transport_options = {"global_keyprefix": "tenant:"}
        async with _reading(app) as daemon:
            assert daemon.reports.header() == {"stream": f"tenant:{_STREAM}", "in": "broker", **WITHOUT_REPORTS}
            daemon.in_flight.add("t")
            server.xadd(f"tenant:{_STREAM}", {"task": "t", "state": "SUCCESS", "stored": 1})
            await daemon.told.wait_final("t")


async def test_no_place(short_tmp: Any) -> None:
    """Without a Redis there is no stream, the messages say nothing of it, and the reader has nothing to do."""
    (short_tmp / "results").mkdir()
    with closing(create_app("memory://", f"file://{short_tmp}/results")) as app:
        reports = RedisReports(app)
        reports.begin("db", None)
        daemon = _Daemon(reports)
        await reports.run(daemon.told.emit, daemon.post, daemon.in_flight.__contains__)
        assert reports.header() is WITHOUT_REPORTS
        assert "neither" in reports.statistics().problem
