"""What a keeper of outcomes promises: whoever waits for a task that never ran learns its end; what ran is not overwritten."""

import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from celery import Celery
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskEvent, TaskSucceeded
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.unrun import StoreOutcome, Told
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import BackendUnavailable
from dyrygentd.ports import OutcomeKeeper, ResultWatcher
from dyrygentd.testing import FakeBroker
from dyrygentd.transport import watcher_of
from dyrygentd.transport.outcomes import CeleryOutcomeKeeper
from tests.support.apps import closing
from tests.support.tasks import create_app


@dataclass(frozen=True)
class KeeperSetup:
    """A keeper and the backend behind it.

    Attributes:
        read: Return the state of a task as Celery names it, and its value or error as text.
        work: Store a result as a worker does: a state, and a value or error.
        cut: Make the backend unreachable; None if that cannot happen.
    """

    keeper: OutcomeKeeper
    watcher: ResultWatcher
    read: Callable[[str], Awaitable[tuple[str, str]]]
    work: Callable[[str, str, Any], Awaitable[None]]
    cut: Callable[[], None] | None = None
    app: Celery | None = None


@asynccontextmanager
async def fake(_: Path, __: pytest.FixtureRequest) -> AsyncIterator[KeeperSetup]:
    """The shipped fake."""
    broker = FakeBroker()

    async def read(task_id: str) -> tuple[str, str]:
        result, told = broker.results.get(task_id), broker.keeper.told.get(task_id)
        if isinstance(result, TaskSucceeded):
            return "SUCCESS", (result.value or b"").decode()
        if result is not None:
            return "FAILURE", str(getattr(result, "error", result))
        return ("PENDING", "") if told is None else (told.told.value, told.value.decode() if not told.reason else told.reason)

    async def work(task_id: str, state: str, value: Any) -> None:
        def run() -> object:
            if state == "SUCCESS":
                return value
            raise value

        broker.tasks["t"] = run
        broker.execute(Publish("w", 0, 1, task_id, Signature("t"), None, "", "w"))

    def cut() -> None:
        broker.keeper.broken = "away"

    yield KeeperSetup(broker.keeper, broker.watcher, read, work, cut)


@asynccontextmanager
async def redis(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[KeeperSetup]:
    """Results in Redis."""
    server: EmbeddedServer = request.getfixturevalue("redis_server")
    with closing(create_app(server.url, server.url)) as app:
        yield _celerys(app, server.stop)


@asynccontextmanager
async def pickles(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[KeeperSetup]:
    """Results in Redis that are pickles, which are written as they are wanted, and read as data."""
    server: EmbeddedServer = request.getfixturevalue("redis_server")
    app = Celery("pickled", broker=server.url, backend=server.url, set_as_current=False)
    app.conf.update(result_serializer="pickle", result_accept_content=["pickle", "json"], accept_content=["pickle", "json"])
    with closing(app):
        yield _celerys(app, server.stop)


@asynccontextmanager
async def files(directory: Path, _: pytest.FixtureRequest) -> AsyncIterator[KeeperSetup]:
    """Results in files, which know nothing of conditions."""
    with closing(Celery("kept", broker="memory://", backend=f"file://{directory}", set_as_current=False)) as app:
        yield _celerys(app, None)


def _celerys(app: Celery, cut: Callable[[], None] | None) -> KeeperSetup:
    async def read(task_id: str) -> tuple[str, str]:
        meta = app.backend.get_task_meta(task_id, cache=False)
        result = meta["result"]
        return meta["status"], f"{type(result).__name__}: {result}" if isinstance(result, BaseException) else str(result)

    async def work(task_id: str, state: str, value: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Call to deprecated setex", DeprecationWarning)
            app.backend.store_result(task_id, value, state)

    watcher = watcher_of(app, value_bytes_max=1_000_000)
    return KeeperSetup(CeleryOutcomeKeeper(app.backend), watcher, read, work, cut, app)


@pytest.fixture(params=[fake, redis, pickles, files], ids=lambda setup: setup.__name__)
async def keeping(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeeperSetup]:
    """A keeper with its backend."""
    setup: AbstractAsyncContextManager[KeeperSetup] = request.param(tmp_path, request)
    async with setup as keeping:
        yield keeping
        await keeping.keeper.close()


FAILED = StoreOutcome("a", Told.FAILURE, "ValueError: boom")


@pytest.mark.anyio
async def test_what_is_told_is_what_is_read(keeping: KeeperSetup) -> None:
    """A failure, a revoke and a value, each as Celery stores them."""
    revoked = StoreOutcome("b", Told.REVOKED, "the workflow was cancelled")
    assert await keeping.keeper.store([FAILED, revoked, StoreOutcome("c", Told.SUCCESS, value=b"5")]) == 3
    assert await keeping.read("a") == ("FAILURE", "ValueError: boom")
    state, text = await keeping.read("b")
    assert (state, text.rpartition(": ")[2]) == ("REVOKED", "the workflow was cancelled")
    assert await keeping.read("c") == ("SUCCESS", "5")


@pytest.mark.anyio
async def test_what_a_worker_stored_stays(keeping: KeeperSetup) -> None:
    """Of one that ran after all, its own end is the truth."""
    await keeping.work("a", "SUCCESS", 1)
    await keeping.work("b", "FAILURE", KeyError("x"))
    assert await keeping.keeper.store([FAILED, FAILED._replace(task_id="b")]) == 0
    assert await keeping.read("a") == ("SUCCESS", "1")
    assert (await keeping.read("b"))[1].startswith("KeyError")


@pytest.mark.anyio
@pytest.mark.parametrize("keeping", [redis, files], ids=lambda setup: setup.__name__, indirect=True)
async def test_words_that_name_no_exception_are_one_all_the_same(keeping: KeeperSetup) -> None:
    """Celery refuses to make an exception of a class that is none, and makes one of a name that it does not know."""
    for reason in ("int: 5", "shop.errors.OutOfStock: no osd", "no result within 5 s"):
        await keeping.keeper.store([StoreOutcome(reason[:3], Told.FAILURE, reason)])
    assert [(await keeping.read(reason))[1] for reason in ("int", "sho", "no ")] == [
        "int: 5",
        "OutOfStock: no osd",
        "TaskError: no result within 5 s",
    ]


@pytest.mark.anyio
async def test_a_worker_overwrites_what_was_told(keeping: KeeperSetup) -> None:
    """A node that somebody retries runs under the same id, and its result counts."""
    await keeping.keeper.store([FAILED])
    await keeping.work("a", "SUCCESS", 1)
    assert await keeping.read("a") == ("SUCCESS", "1")


@pytest.mark.anyio
async def test_telling_again_changes_nothing_and_a_newer_end_counts(keeping: KeeperSetup) -> None:
    """After a crash all is told once more; a node that is skipped after it was blocked has a value at last, which stays."""
    await keeping.keeper.store([FAILED])
    await keeping.keeper.store([FAILED])
    assert await keeping.read("a") == ("FAILURE", "ValueError: boom")
    await keeping.keeper.store([StoreOutcome("a", Told.SUCCESS, value=b"7")])
    await keeping.keeper.store([FAILED])
    assert await keeping.read("a") == ("SUCCESS", "7")


@pytest.mark.anyio
async def test_watchers_take_no_notice_of_it(keeping: KeeperSetup) -> None:
    """The task may be sent under that id, and then only a worker's result is its end."""
    seen: list[TaskEvent] = []
    arrived = anyio.Event()

    def emit(events: Any) -> None:
        seen.extend(events)
        if any(event.task_id == "z" for event in events):
            arrived.set()

    await keeping.keeper.store([FAILED])
    await keeping.work("z", "SUCCESS", 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeping.watcher.run, emit)
        keeping.watcher.watch(["a"])
        await keeping.keeper.store([FAILED._replace(told=Told.REVOKED)])
        keeping.watcher.watch(["z"])
        with anyio.fail_after(10):
            await arrived.wait()
        tasks.cancel_scope.cancel()
    assert [event.task_id for event in seen] == ["z"]


@pytest.mark.anyio
@pytest.mark.parametrize("keeping", [fake, redis], ids=lambda setup: setup.__name__, indirect=True)
async def test_a_backend_that_is_away_is_told(keeping: KeeperSetup) -> None:
    """Whoever tells comes again."""
    assert keeping.cut is not None
    keeping.cut()
    with pytest.raises(BackendUnavailable):
        await keeping.keeper.store([FAILED])


@pytest.mark.anyio
@pytest.mark.parametrize("keeping", [redis, files], ids=lambda setup: setup.__name__, indirect=True)
async def test_the_failure_to_blame_is_handed_on(keeping: KeeperSetup) -> None:
    """In a chain the error itself with its type, behind a header Celery's ChordError that names the dependency."""
    await keeping.work("b", "FAILURE", ZeroDivisionError("by zero"))
    chained = StoreOutcome("next", Told.FAILURE, "words", "b")
    await keeping.keeper.store([chained, chained._replace(task_id="body", is_chord=True)])
    next_one, body = AsyncResult("next", app=keeping.app), AsyncResult("body", app=keeping.app)
    with pytest.raises(ZeroDivisionError, match="by zero"):
        next_one.get(timeout=5)
    with pytest.raises(ChordError, match=r"Dependency b raised ZeroDivisionError\('by zero'"):
        body.get(timeout=5)


@pytest.mark.anyio
@pytest.mark.parametrize("keeping", [redis], ids=["redis"], indirect=True)
async def test_whoever_waits_is_woken(keeping: KeeperSetup) -> None:
    """Celery's own clients listen on the channel of the result, as workers publish it."""
    result, errors = AsyncResult("a", app=keeping.app), []

    def wait() -> None:
        try:
            result.get(timeout=20)
        except Exception as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, wait)
        channel = keeping.app.backend.get_key_for_task("a")  # type: ignore[union-attr]
        subscribers = 0
        with anyio.fail_after(10):
            while not subscribers:
                # Nobody tells when somebody subscribes.
                await anyio.lowlevel.checkpoint()
                ((_, subscribers),) = keeping.app.backend.client.pubsub_numsub(channel)  # type: ignore[union-attr]
        await keeping.keeper.store([FAILED._replace(told=Told.REVOKED, reason="never")])
    assert isinstance(errors[0], TaskRevokedError)
