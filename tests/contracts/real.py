"""The real adapters for the contract suites: each with the server that is behind it."""

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.utils.json import loads

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskSucceeded
from dyrygentd.core.graph import Signature
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.polling import PollingResultWatcher
from dyrygentd.transport.redis import Pace, RedisResultWatcher
from tests.contracts.adapters import DispatcherSetup, WatcherSetup, message
from tests.support.apps import closing
from tests.support.tasks import create_app, records


def _unsendable() -> Any:
    return replace(message("unsendable"), signature=Signature("t", options=b'{"serializer": "none such"}'))


@asynccontextmanager
async def redis_dispatcher(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[DispatcherSetup]:
    """Redis, where messages are marked; the server is stopped and started with its data."""
    server: EmbeddedServer = request.getfixturevalue("redis_server")

    async def arrived() -> list[str]:
        with records(server.url) as client:
            return [loads(payload)["headers"]["id"] for payload in reversed(client.lrange("celery", 0, -1))]

    async def cut() -> None:
        server.stop()

    async def mend() -> None:
        server.start()

    with closing(create_app(server.url, server.url)) as app:
        yield DispatcherSetup(CeleryDispatcher(app, socket_timeout_s=2), arrived, _unsendable(), cut, mend)


@asynccontextmanager
async def filesystem_dispatcher(directory: Path, _: pytest.FixtureRequest) -> AsyncIterator[DispatcherSetup]:
    """kombu's filesystem transport, published to plainly; the folder is taken away and given back."""
    folder, elsewhere = directory / "queue", directory / "elsewhere"
    folder.mkdir()
    with closing(Celery("plain", broker="filesystem://", backend="cache+memory://", set_as_current=False)) as app:
        app.conf.broker_transport_options = {
            "data_folder_in": str(folder),
            "data_folder_out": str(folder),
            "control_folder": str(directory / "control"),
        }

        async def arrived() -> list[str]:
            files = sorted(folder.glob("*.celery.msg"), key=lambda path: path.stat().st_mtime_ns)
            return [loads(path.read_bytes())["headers"]["id"] for path in files]

        async def cut() -> None:
            folder.rename(elsewhere)
            folder.touch()

        async def mend() -> None:
            folder.unlink()
            elsewhere.rename(folder)

        yield DispatcherSetup(CeleryDispatcher(app), arrived, _unsendable(), cut, mend)


@asynccontextmanager
async def redis_watcher(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[WatcherSetup]:
    """Pushed results, with quick guards."""
    server: EmbeddedServer = request.getfixturevalue("redis_server")

    async def cut() -> None:
        server.stop()

    async def mend() -> None:
        server.start()

    with closing(create_app(server.url, server.url)) as app:
        watcher = RedisResultWatcher(app.backend, value_bytes_max=1_000_000, pace=Pace(beat_s=0.2, silence_max_s=1, sweep_s=5))
        yield WatcherSetup(watcher, _store_in(app), cut, mend)


@asynccontextmanager
async def polling_watcher(directory: Path, _: pytest.FixtureRequest) -> AsyncIterator[WatcherSetup]:
    """Results in files, which are asked for."""
    with closing(Celery("polled", broker="memory://", backend=f"file://{directory}", set_as_current=False)) as app:
        yield WatcherSetup(PollingResultWatcher(app.backend), _store_in(app))


def _store_in(app: Celery) -> Any:
    async def store(event: TaskEvent) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Call to deprecated setex", DeprecationWarning)
            match event:
                case TaskSucceeded(value=value):
                    app.backend.store_result(event.task_id, loads(value or b"null"), "SUCCESS")
                case TaskFailed(error=error):
                    name, _, text = error.partition(": ")
                    assert name == "ValueError"
                    app.backend.store_result(event.task_id, ValueError(text), "FAILURE")
                case _:
                    raise AssertionError(event)

    return store
