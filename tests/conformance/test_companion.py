"""Each way in which a task can end at a worker with the companion: what is reported, and what the daemon makes of it."""

import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
import redis
from celery import __version__ as celery_version
from celery import chain

from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.scheduler import Scheduler
from dyrygentd.transport.reports import RedisReports, ReportsPace
from tests.support.apps import closing
from tests.support.directories import short_directory
from tests.support.following import eventually
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import create_app, records

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

_WAIT_S: Final = 30.0
_IS_5_6: Final = celery_version.startswith("5.6.")
#: Nothing is noted, so nothing is trimmed, and the whole stream can be looked at.
_KEEPING: Final = ReportsPace(note_s=3600.0)


class Site:
    """A server, a worker of each kind with the companion, and an app that knows the tasks by name only."""

    def __init__(self, server: EmbeddedServer, app: Any, directory: Path) -> None:
        self.server = server
        self.app = app
        self.directory = directory
        self.executions = Executions(server.url)
        self.orders: redis.Redis = records(server.url)
        self._readers: list[RedisReports] = []
        self._streams_of_before: set[str] = set()

    def task(self, name: str, *args: Any, pool: str = "prefork") -> Any:
        """Make a signature of a task for the worker of this kind."""
        module = "companion" if name in _OURS else "states"
        return self.app.signature(f"tests.conformance.{module}.{name}", args=args).set(queue=pool)

    @asynccontextmanager
    async def scheduler(self, *, pace: ReportsPace = _KEEPING) -> AsyncIterator[Scheduler]:
        """Run a scheduler with a database of its own."""
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            reports = RedisReports(self.app, pace=pace)
            self._readers.append(reports)
            async with Scheduler(self.app, database=Path(directory) / "state.db", reports=reports) as scheduler:
                yield scheduler

    def streams(self) -> set[str]:
        """Return the streams there are but those of earlier tests.

        Those may still be added to: a report is appended after the result that a test waits for.
        """
        return {*self.orders.scan_iter("dyrygentd:reports:*")} - self._streams_of_before

    def reported(self) -> dict[str, list[str]]:
        """Return ``{task id: states}`` of the streams of this test, in the order in which they were appended."""
        found: dict[str, list[str]] = {}
        streams = self.streams()
        for stream in streams:
            entries: Any = self.orders.xrange(stream)
            for _, fields in entries:
                found.setdefault(fields["task"], []).append(fields["state"])
        self._streams_of_before |= streams | {str((reader.header() or {}).get("stream")) for reader in self._readers}
        return found


_OURS = {
    *("handed_on", "quiet_at", "quietly_retried", "retried_late", "parent"),
}


@pytest.fixture
def anyio_backend() -> str:
    """The only backend: the adapters are asyncio's."""
    return "asyncio"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server and two workers for all tests of this module."""
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        server = exits.enter_context(EmbeddedServer(directory, appendonly=False))
        workers = [
            CeleryWorker(server.url, log_directory=directory, app="tests.conformance.companion", pool=pool, queues=queues)
            # What replaces a task goes to the default queue.
            for pool, queues in (("prefork", ("prefork", "celery")), ("solo", ("solo",)))
        ]
        for worker in workers:
            exits.callback(worker.stop)
            worker.launch()
        for worker in workers:
            worker.wait_ready()
        app = exits.enter_context(closing(create_app(server.url, server.url)))
        yield Site(server, app, directory)
        if os.environ.get("DYRYGENTD_TEST_CONFORMANCE_LOGS"):
            print(*(worker.log() for worker in workers))


_BOTH: Final = ("prefork", "solo")


@pytest.mark.long
@pytest.mark.parametrize(
    ("pool", "name", "args", "state", "error", "reported"),
    [
        *((pool, "quiet", (), "succeeded", "", ["SUCCESS"]) for pool in _BOTH),
        *((pool, "quietly_failing", (), "failed", "ValueError: quiet", ["FAILURE"]) for pool in _BOTH),
        *((pool, "never_content", (), "failed", "ValueError: still not", ["RETRY", "FAILURE"]) for pool in _BOTH),
        *((pool, "ignored", (), "skipped", "nothing to do", ["IGNORED"]) for pool in _BOTH),
        *((pool, "rejected", (), "failed", "bad input", ["REJECTED"]) for pool in _BOTH),
        *((pool, "requeued", (), "succeeded", "", ["REQUEUED", "SUCCESS"]) for pool in _BOTH),
        *((pool, "replaced", (1,), "succeeded", "", ["REPLACED", "SUCCESS"]) for pool in _BOTH),
        ("prefork", "handed_on", ("quiet",), "succeeded", "", ["REPLACED", "SUCCESS"]),
        ("prefork", "handed_on", ("ignored", None, "no need"), "skipped", "no need", ["REPLACED", "IGNORED"]),
        *((pool, "quietly_retried", (), "succeeded", "", ["RETRY", "SUCCESS"]) for pool in _BOTH),
        # Ends that the executing process does not see.
        ("prefork", "killed", (), "failed", "WorkerLostError", [] if _IS_5_6 else ["FAILURE"]),
        ("prefork", "endless", (), "failed", "TimeLimitExceeded", []),
    ],
)
async def test_end(site: Site, pool: str, name: str, args: tuple[Any, ...], state: str, error: str, reported: list[str]) -> None:
    """The node becomes what it becomes without the companion, where that is known; and all that is known is reported."""
    task = site.task(name, *args, pool=pool)
    if name == "endless":
        task.set(time_limit=1)
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(task)
        await handle.wait(timeout_s=_WAIT_S)
        (node,) = (await scheduler.nodes(handle.id)).nodes
        assert (node.state, error in (node.error or "")) == (state, True), node
        # The report is appended after the result is stored.
        await eventually(lambda: sum(scheduler.statistics().reports["read"].values()) >= len(reported))
        assert scheduler.statistics().reports["unreadable"] == 0
    # What a task is replaced by may end at another worker before the task itself is reported.
    found = {task_id: sorted(states) for task_id, states in site.reported().items()}
    assert found == ({node.task_id: sorted(reported)} if reported else {})


@pytest.mark.parametrize("by", ["chain", "group", "chord"])
async def test_replaced_by_a_canvas(site: Site, by: str) -> None:
    """Of a canvas in a task's place, only the part that ends under the task's id is reported."""
    task = site.app.signature("tests.conformance.states.replaced", args=(7,), kwargs={"by": by}).set(queue="prefork")
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(task)
        assert (await handle.wait(timeout_s=_WAIT_S)).state == "succeeded"
        (node,) = (await scheduler.nodes(handle.id)).nodes
        await eventually(lambda: sum(scheduler.statistics().reports["read"].values()) == 2)
    found = {task_id: sorted(states) for task_id, states in site.reported().items()}
    assert found == {node.task_id: ["REPLACED", "SUCCESS"]}


@pytest.mark.parametrize("name", ["handed_on", "quietly_retried"])
async def test_value_that_is_stored_nowhere(site: Site, name: str) -> None:
    """The value of a task that stores none comes with its report, and goes on to what follows."""
    first = site.task(name, "quiet") if name == "handed_on" else site.task(name)
    async with site.scheduler() as scheduler:
        canvas = chain(first, site.app.signature("tests.support.tasks.identity"))
        outcome = await (await scheduler.submit(canvas)).wait(timeout_s=_WAIT_S)
        assert outcome.result == ("quiet" if name == "handed_on" else "second run")
    site.reported()


@pytest.mark.parametrize(("to", "why"), [("unwritable", "no JSON form"), ("quietly_big", "a report carries 32768")])
async def test_value_that_cannot_be_reported(site: Site, to: str, why: str) -> None:
    """A value that a report cannot carry fails the node only if somebody needs it, and says why."""
    identity = site.app.signature("tests.support.tasks.identity")
    async with site.scheduler() as scheduler:
        outcome = await (await scheduler.submit(chain(site.task("handed_on", to), identity))).wait(timeout_s=_WAIT_S)
        assert why in (outcome.failed_nodes[0].error or "")
        canvas = chain(site.task("handed_on", to), site.app.signature("tests.support.tasks.noop", immutable=True))
        assert (await (await scheduler.submit(canvas)).wait(timeout_s=_WAIT_S)).state == "succeeded"
    site.reported()


async def test_revoked_before_it_starts(site: Site) -> None:
    """The main process of a worker reports what it drops."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(site.task("quiet").set(expires=0.001))
        outcome = await handle.wait(timeout_s=_WAIT_S)
        assert [node.error for node in outcome.failed_nodes] == ["revoked: expired"]
        await eventually(lambda: scheduler.statistics().reports["read"]["REVOKED"])
    assert [*site.reported().values()] == [["REVOKED"]]


async def test_terminated(site: Site) -> None:
    """A task that is ended at its worker is reported by the worker's main process."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(site.app.signature("tests.conformance.states.endless").set(queue="prefork"))
        (node,) = (await scheduler.nodes(handle.id)).nodes
        await eventually(lambda: node.task_id in site.executions.started())
        await handle.cancel(terminate=True)
        await eventually(lambda: scheduler.statistics().reports["read"]["REVOKED"])
    assert site.reported() == {node.task_id: ["REVOKED"]}


async def test_next_try_is_told(site: Site) -> None:
    """`explain` tells when a task tries again by itself, which nothing but the report knows."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(site.task("retried_late"))
        text = ""
        with anyio.fail_after(_WAIT_S):
            while "next try" not in text:
                text = (await scheduler.explain(handle.id, "retried_late-1")).verdict
                await anyio.sleep(0.01)
        assert re.search(r"@test reported RETRY, next try at \d\d:\d\d:\d\d UTC", text)
        (node,) = (await scheduler.nodes(handle.id)).nodes
        assert (node.state, node.reported) == ("dispatched", "RETRY")
        await handle.cancel()
    site.reported()


async def test_other_tasks_are_not_reported(site: Site) -> None:
    """Tasks of somebody else, and those that a task of ours sends, are none of our business."""
    other = site.task("ignored").apply_async()
    async with site.scheduler() as scheduler:
        outcome = await (await scheduler.submit(site.task("parent"))).wait(timeout_s=_WAIT_S)
        children: Any = outcome.result
        sent = {*children, other.id}
        wait_until(lambda: sent <= site.executions.started().keys())
        # The worker has one process, which has reported everything before this.
        last = await scheduler.submit(site.task("quiet"))
        await last.wait(timeout_s=_WAIT_S)
        await eventually(lambda: scheduler.statistics().reports["read"]["SUCCESS"] == 2)
    assert not sent & site.reported().keys()


async def test_two_daemons_read_their_own(site: Site) -> None:
    """Each database has a stream of its own, so daemons on one Redis do not take each other's reports."""
    async with site.scheduler() as one, site.scheduler() as other:
        handles = [await scheduler.submit(site.task("handed_on", "quiet")) for scheduler in (one, other, other)]
        for handle in handles:
            assert (await handle.wait(timeout_s=_WAIT_S)).result == "quiet"
        assert [scheduler.statistics().reports["read"]["SUCCESS"] for scheduler in (one, other)] == [1, 2]
    site.reported()


async def test_noted_and_trimmed(site: Site) -> None:
    """What was worked in is noted and cut off; the next process reads on, and takes nothing for missing."""
    database = site.directory / "noted.db"
    quick = ReportsPace(block_s=0.1, note_s=0.0, check_s=0.0)
    for count in (1, 2):
        async with Scheduler(site.app, database=database, reports=RedisReports(site.app, pace=quick)) as scheduler:
            for _ in range(5):
                await (await scheduler.submit(site.task("quiet"))).wait(timeout_s=_WAIT_S)
            [stream] = site.streams()
            assert 0 < site.orders.ttl(stream) <= 7 * 24 * 3600
            await eventually(lambda stream=stream: site.orders.xlen(stream) == 1)  # type: ignore[misc]
            reports = scheduler.statistics().reports
            # After the restart the entry at the place that was noted is not read again.
            assert (reports["read"]["SUCCESS"], reports["gaps"], reports["problem"]) == (5, 0, ""), count
    site.reported()
