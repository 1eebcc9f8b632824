"""What every reader of workers' reports promises, see `dyrygentd.ports.ReportReader`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from celery import Celery

from dyrygentd.core.events import Event, ReportsRead, TaskEvent, TaskIgnored
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.ports import ReportReader
from dyrygentd.testing import FakeReports
from dyrygentd.transport.reports import RedisReports, ReportsPace
from tests.support.apps import closing
from tests.support.following import Told, eventually
from tests.support.tasks import create_app, records

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]

_PACE = ReportsPace(block_s=0.02, note_s=0.0, check_s=0.0, confirm_s=3600.0, command_timeout_s=1.0)


@dataclass(frozen=True)
class ReportsSetup:
    """A place where workers report, and readers of it.

    Attributes:
        make: Return a new reader of the same place, as after a restart.
        report: Report as a worker does that a task was ignored, which is told at once; return where that stands.
        end: Report the end of a task in flight whose result is stored, and was not seen yet.
        cut, mend: Make the place unreachable, and reachable again; None if that cannot happen.
    """

    make: Callable[[], ReportReader]
    report: Callable[[str], Awaitable[str]]
    end: Callable[[str], Awaitable[None]]
    cut: Callable[[], None] | None = None
    mend: Callable[[], None] | None = None


@dataclass
class _Reading:
    """A reader at work: what it told, and up to where."""

    reader: ReportReader
    told: Told = field(default_factory=Told)
    read: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    in_flight: set[str] = field(default_factory=set)

    def emit(self, events: Sequence[TaskEvent]) -> None:
        """Take what the reports tell."""
        self.order += [event.task_id for event in events]
        self.told.emit(events)

    def post(self, event: Event) -> None:
        """Take note of a place."""
        assert isinstance(event, ReportsRead)
        self.read.append(event.offset)
        self.order.append(event.offset)

    @property
    def task_ids(self) -> list[str]:
        """What was told, in order."""
        return [event.task_id for event in self.told.events]


@asynccontextmanager
async def fake(_: Path, __: pytest.FixtureRequest) -> AsyncIterator[ReportsSetup]:
    """The shipped fake; what was reported stands in a list, as it stands in a stream."""
    stream: list[tuple[str, str]] = []
    readers: list[FakeReports] = []

    def make() -> FakeReports:
        readers.append(FakeReports())
        for task_id, offset in stream:
            readers[-1].report(TaskIgnored(task_id, "no"), offset=offset)
        return readers[-1]

    async def report(task_id: str) -> str:
        stream.append((task_id, f"{len(stream) + 1}-0"))
        for reader in readers:
            reader.report(TaskIgnored(task_id, "no"), offset=stream[-1][1])
        return stream[-1][1]

    async def end(task_id: str) -> None:
        for reader in readers:
            reader.ended.add(task_id)

    yield ReportsSetup(make, report, end)


@asynccontextmanager
async def beside_results(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[ReportsSetup]:
    """A stream in the result backend."""
    server: EmbeddedServer = request.getfixturevalue("redis_server")
    with closing(create_app(server.url, server.url)) as app:
        yield _redis(app, server)


@asynccontextmanager
async def beside_queues(directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[ReportsSetup]:
    """A stream in the broker, since results are in files."""
    server: EmbeddedServer = request.getfixturevalue("redis_server")
    with closing(create_app(server.url, f"file://{directory}")) as app:
        yield _redis(app, server)


def _redis(app: Celery, server: EmbeddedServer) -> ReportsSetup:
    def add(task_id: str, **fields: Any) -> str:
        with records(server.url) as client:
            return str(client.xadd("dyrygentd:reports:db", {"task": task_id, "worker": "w@test", **fields}))

    async def report(task_id: str) -> str:
        return await anyio.to_thread.run_sync(lambda: add(task_id, state="IGNORED", stored=0))

    async def end(task_id: str) -> None:
        await anyio.to_thread.run_sync(lambda: add(task_id, state="SUCCESS", stored=1))

    return ReportsSetup(lambda: RedisReports(app, pace=_PACE), report, end, server.stop, server.start)


@pytest.fixture(params=[fake, beside_results, beside_queues], ids=lambda setup: setup.__name__)
async def reporting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReportsSetup]:
    """A place for reports."""
    setup: AbstractAsyncContextManager[ReportsSetup] = request.param(tmp_path, request)
    async with setup as reporting:
        yield reporting


@asynccontextmanager
async def _reading(reporting: ReportsSetup, offset: str | None = None, *in_flight: str) -> AsyncIterator[_Reading]:
    reading = _Reading(reporting.make(), in_flight={*in_flight})
    reading.reader.begin("db", offset)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reading.reader.run, reading.emit, reading.post, reading.in_flight.__contains__)
        yield reading
        tasks.cancel_scope.cancel()


async def test_messages_say_where_to_report(reporting: ReportsSetup) -> None:
    """Each database has a place of its own, or one daemon would take what another one's workers report."""
    places = []
    for identity in ("db", "other"):
        reader = reporting.make()
        reader.begin(identity, None)
        header = reader.header()
        assert header is not None
        places.append(header["stream"])
    assert places[0] != places[1]


async def test_told_in_order_and_then_covered(reporting: ReportsSetup) -> None:
    """A place is named only after all that it covers was told, since what came of that is on disk then."""
    async with _reading(reporting) as reading:
        last = [await reporting.report(task_id) for task_id in "abc"][-1]
        await eventually(lambda: reading.read[-1:] == [last])
    assert reading.task_ids == ["a", "b", "c"]
    assert reading.order[-1] == last


async def test_reads_on_from_what_became_durable(reporting: ReportsSetup) -> None:
    """What the last process had on disk is not worked in twice, and what came while nobody read is not missed."""
    async with _reading(reporting) as reading:
        place = await reporting.report("a")
        await eventually(lambda: reading.read[-1:] == [place])
        reading.reader.kept(place)
    await reporting.report("b")
    async with _reading(reporting, place) as again:
        await reporting.report("c")
        await eventually(lambda: len(again.told.events) >= 2)
    assert again.task_ids == ["b", "c"]


async def test_from_the_beginning_if_nothing_became_durable(reporting: ReportsSetup) -> None:
    """It may repeat itself, and may not miss anything."""
    await reporting.report("a")
    for _ in range(2):
        async with _reading(reporting) as reading:
            await reading.told.wait_final("a")


async def test_keeping_changes_nothing_that_is_told(reporting: ReportsSetup) -> None:
    """A place may be kept twice, and late: what is trimmed for it is what was worked in."""
    async with _reading(reporting) as reading:
        first = await reporting.report("a")
        await reading.told.wait_final("a")
        await eventually(lambda: reading.read)
        reading.reader.kept(first)
        await reporting.report("b")
        reading.reader.kept(first)
        await reading.told.wait_final("b")
    assert reading.task_ids == ["a", "b"]


async def test_ends_whose_results_were_not_seen(reporting: ReportsSetup) -> None:
    """Such a task has not vanished, so it is not to be taken for lost; the result itself is the watcher's to bring."""
    async with _reading(reporting, None, "t") as reading:
        assert not reading.reader.has_ended("t")
        await reporting.end("t")
        await eventually(lambda: reading.reader.has_ended("t"))
        assert not reading.reader.has_ended("other")
        assert not reading.told.events


async def test_statistics_are_a_snapshot(reporting: ReportsSetup) -> None:
    """They say whether any worker reports at all, and do not change in the hands of whoever asked."""
    async with _reading(reporting) as reading:
        await eventually(lambda: reading.reader.statistics().connected)
        before = reading.reader.statistics()
        await reporting.report("a")
        await reading.told.wait_final("a")
        assert (before.is_heard, sum(before.read.values())) == (False, 0)
        after = reading.reader.statistics()
        assert (after.is_heard, sum(after.read.values()), bool(after.place)) == (True, 1, True)


async def test_goes_on_after_an_outage(reporting: ReportsSetup) -> None:
    """Whatever happens to the place, it works until it is cancelled."""
    if reporting.cut is None or reporting.mend is None:
        return
    async with _reading(reporting) as reading:
        await reporting.report("a")
        await reading.told.wait_final("a")
        await anyio.to_thread.run_sync(reporting.cut)
        await eventually(lambda: reading.reader.statistics().problem)
        await anyio.to_thread.run_sync(reporting.mend)
        await reporting.report("b")
        await reading.told.wait_final("b")
        assert reading.reader.statistics().connected
