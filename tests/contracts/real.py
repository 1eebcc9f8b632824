"""The real adapters for the contract suites: each with the server that is behind it."""

import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.utils.json import loads

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskSucceeded
from dyrygentd.core.node_spec import Signature
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.ports.mailbox import MailboxBounds
from dyrygentd.store.postgres.connection import connect
from dyrygentd.store.postgres.mailbox import PostgresMailbox
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.inspector import CeleryInspector
from dyrygentd.transport.polling import PollingResultWatcher
from dyrygentd.transport.redis_results import RedisResultWatcher, ResultsPace
from tests.contracts.adapters import (
    DispatcherSetup,
    InspectorSetup,
    LeaseSetup,
    MailboxSetup,
    StoreSetup,
    WatcherSetup,
    message,
)
from tests.support.apps import closing
from tests.support.postgres import PostgresServer
from tests.support.proxy import TcpGate
from tests.support.tasks import create_app, records


def _unsendable() -> Any:
    return message("unsendable")._replace(signature=Signature("t", options=b'{"serializer": "none such"}'))


def postgres_store(_: Path, request: pytest.FixtureRequest) -> StoreSetup:
    """PostgreSQL, in a schema of the test's own."""
    server: PostgresServer = request.getfixturevalue("shared_postgres")
    url = server.url()
    return StoreSetup(lambda: PostgresStore(url))


@asynccontextmanager
async def postgres_lease(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[LeaseSetup]:
    """PostgreSQL, in a schema of the test's own. Its clock is everybody's: what it is compared with is set instead."""
    server: PostgresServer = request.getfixturevalue("shared_postgres")
    url = server.url()
    stores: list[PostgresStore] = []

    def make() -> PostgresStore:
        stores.append(PostgresStore(url))
        return stores[-1]

    async def pass_time(seconds: float) -> None:
        connection = await connect(url)
        try:
            await connection.execute("UPDATE owner SET until = until - %s", [seconds])
        finally:
            await connection.close()

    yield LeaseSetup(make, pass_time)
    for store in stores:
        await store.close()


@asynccontextmanager
async def postgres_mailbox(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[MailboxSetup]:
    """PostgreSQL, in a schema of the test's own."""
    server: PostgresServer = request.getfixturevalue("shared_postgres")
    url = server.url()
    boxes: list[PostgresMailbox] = []

    def box(bounds: MailboxBounds) -> PostgresMailbox:
        boxes.append(PostgresMailbox(url, bounds=bounds))
        return boxes[-1]

    async def overtake() -> None:
        server.execute(f"UPDATE {url.schema}.owner SET session = session + 1, process = 'another', holder = 'another'")

    store = PostgresStore(url)
    await store.open()
    yield MailboxSetup(store, box, overtake)
    for each in boxes:
        await each.close()
    await store.close()


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
        yield DispatcherSetup(CeleryDispatcher(app, socket_timeout_s=2), arrived, arrived, _unsendable(), cut, mend)


@asynccontextmanager
async def rabbitmq_dispatcher(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[DispatcherSetup]:
    """RabbitMQ, with a queue of this test alone; it is reached through a gate that can be shut."""
    with _rabbitmq(request) as (gate, app):

        async def arrived() -> list[str]:
            with app.connection_for_write() as connection:
                # Messages that are fetched and not acknowledged go back to their places with the connection.
                fetched = iter(lambda: connection.default_channel.basic_get(app.conf.task_default_queue), None)
                try:
                    return [message.headers["id"] for message in fetched]
                except connection.channel_errors:
                    return []

        async def cut() -> None:
            gate.shut()

        async def mend() -> None:
            gate.open()

        dispatcher = CeleryDispatcher(app, socket_timeout_s=5)
        yield DispatcherSetup(dispatcher, arrived, arrived, _unsendable(), cut, mend)
        await dispatcher.close()


@contextmanager
def _rabbitmq(request: pytest.FixtureRequest) -> Iterator[tuple[TcpGate, Celery]]:
    amqp_url: str = request.getfixturevalue("amqp_url")
    shared: EmbeddedServer = request.getfixturevalue("shared_redis")
    with Connection(amqp_url) as connection:
        address = (connection.hostname, connection.port or 5672)
        with TcpGate(address) as gate:
            credentials, virtual_host = f"{connection.userid}:{connection.password}", quote(connection.virtual_host, safe="")
            url = f"amqp://{credentials}@127.0.0.1:{gate.port}/{virtual_host}"
            with closing(create_app(url, shared.url)) as app:
                app.conf.task_default_queue = f"dyrygentd-test-{uuid.uuid4().hex}"
                yield gate, app
                connection.default_channel.queue_delete(app.conf.task_default_queue)


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

        yield DispatcherSetup(CeleryDispatcher(app), arrived, arrived, _unsendable(), cut, mend, broadcasts_elsewhere=True)


@asynccontextmanager
async def redis_inspector(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[InspectorSetup]:
    """Redis as broker and as result backend, two servers."""
    server: EmbeddedServer = request.getfixturevalue("redis_server")
    results: EmbeddedServer = request.getfixturevalue("shared_redis")

    async def cut() -> None:
        server.stop()

    async def mend() -> None:
        server.start()

    with closing(create_app(server.url, results.url)) as app:
        dispatcher, inspector = CeleryDispatcher(app, socket_timeout_s=2), CeleryInspector(app, socket_timeout_s=2)
        yield InspectorSetup(inspector, dispatcher, _store_in(app), cut, mend, shows_messages=True)
        await dispatcher.close()
        app.backend.client.flushall()


@asynccontextmanager
async def rabbitmq_inspector(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[InspectorSetup]:
    """RabbitMQ as broker, Redis as result backend."""
    with _rabbitmq(request) as (gate, app):

        async def cut() -> None:
            gate.shut()

        async def mend() -> None:
            gate.open()

        dispatcher, inspector = CeleryDispatcher(app, socket_timeout_s=5), CeleryInspector(app, answer_timeout_s=0.3)
        yield InspectorSetup(inspector, dispatcher, _store_in(app), cut, mend, shows_messages=False)
        await dispatcher.close()
        app.backend.client.flushall()


@asynccontextmanager
async def redis_watcher(_: Path, request: pytest.FixtureRequest) -> AsyncIterator[WatcherSetup]:
    """Pushed results, with quick guards."""
    server: EmbeddedServer = request.getfixturevalue("redis_server")

    async def cut() -> None:
        server.stop()

    async def mend() -> None:
        server.start()

    with closing(create_app(server.url, server.url)) as app:
        watcher = RedisResultWatcher(
            app.backend, value_bytes_max=1_000_000, pace=ResultsPace(beat_s=0.2, silence_max_s=1, sweep_s=5)
        )
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
