"""Polling real backends: a database, files, and a cache in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import celery
import pytest
from celery import Celery

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskReported, TaskRevoked, TaskSucceeded
from dyrygentd.transport.polling import PollingResultWatcher
from tests.support.apps import closing
from tests.support.following import eventually, following

pytestmark = pytest.mark.anyio

_BACKENDS = ("db", "file", "cache")


@pytest.fixture(params=_BACKENDS)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Celery]:
    """An app whose results are polled."""
    (tmp_path / "results").mkdir()
    urls = {
        "db": f"db+sqlite:///{tmp_path}/results.db",
        "file": f"file://{tmp_path}/results",
        "cache": "cache+memory://",
    }
    with closing(Celery("polled", broker="memory://", backend=urls[request.param], set_as_current=False)) as app:
        yield app


@pytest.fixture
def store(app: Celery) -> Callable[..., None]:
    """Store a result as a worker does."""

    def store(task_id: str, result: Any = 1, state: str = "SUCCESS") -> None:
        app.backend.store_result(task_id, result, state)

    return store


async def test_every_state(app: Celery, store: Callable[..., None]) -> None:
    """All states arrive, whether they were stored before or after watching, and ends are told once."""
    watcher = PollingResultWatcher(app.backend)
    store("before", {"a": [1]})
    async with following(watcher) as told:
        watcher.watch(["before", "failed", "revoked", "slow"])
        store("failed", ValueError("no"), "FAILURE")
        store("revoked", None, "REVOKED")
        store("slow", {"done": 1}, "PROGRESS")
        await told.wait_until(lambda: TaskReported("slow", "PROGRESS") in told.events)
        store("slow", 2)
        await told.wait_final("before", "failed", "revoked", "slow")
    ends: list[TaskEvent] = [event for event in told.events if not isinstance(event, TaskReported)]
    assert set(ends) == {
        TaskSucceeded("before", b'{"a": [1]}'),
        TaskFailed("failed", "ValueError: no", "ValueError", fingerprint="ValueError"),
        TaskRevoked("revoked", "revoked"),
        TaskSucceeded("slow", b"2"),
    }
    assert len(ends) == 4
    # Who was revoked may have run all the same; that one is followed until nobody cares any more.
    assert (watcher.statistics().read, watcher.statistics().watched) == (4, 1)


@pytest.mark.long
async def test_revoked_task_that_ends_well(app: Celery, store: Callable[..., None]) -> None:
    """A worker that does not run a task may store REVOKED for it, once; what it stores in the end is told."""
    watcher = PollingResultWatcher(app.backend)
    async with following(watcher) as told:
        watcher.watch(["t"])
        store("t", None, "REVOKED")
        await told.wait_final("t")
        store("t", 2)
        await told.wait_until(lambda: TaskSucceeded("t", b"2") in told.events)
    assert told.events == [TaskRevoked("t", "revoked"), TaskSucceeded("t", b"2")]
    assert watcher.statistics().watched == 0


async def test_unwatched_and_watched_again(app: Celery, store: Callable[..., None]) -> None:
    """A task that was let go is not asked for, and asked for once at a time when it is watched again."""
    asked: list[str] = []
    watcher = PollingResultWatcher(_Spy(app.backend, asked))
    async with following(watcher) as told:
        for _ in range(5):
            watcher.watch(["again", "again"])
            watcher.unwatch(["again", "stranger"])
        watcher.watch(["again"])
        await eventually(lambda: asked)
        assert asked == ["again"]
        store("again")
        await told.wait_final("again")
    assert told.final() == ["again"]


async def test_many(app: Celery, store: Callable[..., None]) -> None:
    """More tasks than one slice are all found."""
    watcher = PollingResultWatcher(app.backend)
    ids = [f"task-{number}" for number in range(120)]
    async with following(watcher) as told:
        watcher.watch(ids)
        for task_id in ids:
            store(task_id)
        await told.wait_final(*ids)
    assert sorted(told.final()) == sorted(ids)


async def test_unreadable_result_holds_up_nobody(tmp_path: Path) -> None:
    """A result that stays unreadable fails its task after a while; the others of its slice are told at once."""
    with closing(Celery("polled", broker="memory://", backend=f"file://{tmp_path}", set_as_current=False)) as app:
        # Sorts first, so it is always asked for before the others.
        path = tmp_path / app.backend.get_key_for_task("a-bad").decode()
        path.write_text("{")
        app.backend.store_result("good", 1, "SUCCESS")
        watcher = PollingResultWatcher(app.backend, undecodable_s=0.5)
        async with following(watcher) as told:
            watcher.watch(["a-bad", "good"])
            await told.wait_final("good")
            assert told.final() == ["good"]
            await told.wait_final("a-bad")
        assert isinstance(told.events[-1], TaskFailed)
        assert watcher.statistics().undecodable == 1


async def test_result_is_read_while_it_is_written(tmp_path: Path) -> None:
    """Half a file is no failure: it is read again when it is complete."""
    with closing(Celery("polled", broker="memory://", backend=f"file://{tmp_path}", set_as_current=False)) as app:
        app.backend.store_result("t", 1, "SUCCESS")
        path = tmp_path / app.backend.get_key_for_task("t").decode()
        whole = path.read_bytes()
        path.write_bytes(whole[:20])
        asked: list[str] = []
        watcher = PollingResultWatcher(_Spy(app.backend, asked))
        async with following(watcher) as told:
            watcher.watch(["t"])
            await eventually(lambda: len(asked) > 1)
            path.write_bytes(whole)
            await told.wait_final("t")
        assert told.events == [TaskSucceeded("t", b"1")]


@pytest.mark.long
async def test_backend_is_away_and_back(tmp_path: Path) -> None:
    """While the backend cannot be asked the statistics say why, and what was stored meanwhile is found."""
    with closing(Celery("polled", broker="memory://", backend=f"file://{tmp_path}", set_as_current=False)) as app:
        backend = _Breakable(app.backend)
        watcher = PollingResultWatcher(backend)
        backend.problem = OSError("the disk is gone")
        async with following(watcher) as told:
            watcher.watch(["t"])
            await eventually(lambda: "the disk is gone" in watcher.statistics().problem)
            assert not watcher.statistics().connected
            app.backend.store_result("t", 1, "SUCCESS")
            backend.problem = None
            await told.wait_final("t")
        assert watcher.statistics().connected


@pytest.mark.skipif(celery.__version__ < "5.7", reason="Celery 5.6 needs a client in C for memcached")
async def test_dead_memcached_is_told() -> None:
    """A server that does not answer is a problem, and not a task without a result."""
    with closing(Celery("polled", broker="memory://", backend="cache+memcached://127.0.0.1:1/", set_as_current=False)) as app:
        watcher = PollingResultWatcher(app.backend)
        async with following(watcher):
            watcher.watch(["t"])
            await eventually(lambda: not watcher.statistics().connected)
        assert "results cannot be read: " in watcher.statistics().problem


async def test_nothing_to_do_costs_nothing(app: Celery) -> None:
    """Without tasks in flight the backend is not asked."""
    asked: list[str] = []
    watcher = PollingResultWatcher(_Spy(app.backend, asked))
    async with following(watcher):
        watcher.watch(["t"])
        await eventually(lambda: asked)
        watcher.unwatch(["t"])
        await anyio.lowlevel.checkpoint()
    assert set(asked) == {"t"}


class _Spy:
    """The real backend, and a list of what was asked."""

    def __init__(self, backend: Any, asked: list[str]) -> None:
        self._backend = backend
        self._asked = asked

    def get_task_meta(self, task_id: str, *, cache: bool) -> Any:
        """Ask the backend."""
        self._asked.append(task_id)
        return self._backend.get_task_meta(task_id, cache=cache)


class _Breakable:
    """The real backend, behind something that can break."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.problem: BaseException | None = None

    def get_task_meta(self, task_id: str, *, cache: bool) -> Any:
        """Ask the backend, or fail as the test says."""
        if self.problem is not None:
            raise self.problem
        return self._backend.get_task_meta(task_id, cache=cache)
