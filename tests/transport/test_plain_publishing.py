"""Publishing where no marker is possible: RabbitMQ and kombu's filesystem transport, with real workers behind them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.entity import Queue

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.transport.dispatcher import CeleryDispatcher
from tests.support import tasks
from tests.support.apps import closing
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import create_app
from tests.transport.conftest import publish_of

pytestmark = pytest.mark.anyio

_ECHO = tasks.echo.name


@pytest.fixture
def queue(rabbitmq_queue: str) -> str:
    """The name of a queue of this test alone, deleted afterwards."""
    return rabbitmq_queue


@pytest.fixture
def amqp_app(amqp_url: str, redis_server: EmbeddedServer) -> Iterator[Celery]:
    """An app on RabbitMQ with results in Redis."""
    with closing(create_app(amqp_url, redis_server.url)) as app:
        yield app


@contextmanager
def _no_folder(folder: Path) -> Iterator[None]:
    """Have something else in the place of an empty folder."""
    folder.rmdir()
    folder.touch()
    yield
    folder.unlink()
    folder.mkdir()


@pytest.fixture
def files(short_tmp: Path) -> dict[str, str]:
    """Transport options for ``filesystem://``: workers and we share the folders."""
    for name in ("in", "control"):
        (short_tmp / name).mkdir()
    folder = str(short_tmp / "in")
    return {"data_folder_in": folder, "data_folder_out": folder, "control_folder": str(short_tmp / "control")}


@pytest.fixture
def files_app(files: dict[str, str], redis_server: EmbeddedServer) -> Iterator[Celery]:
    """An app whose messages are files."""
    with closing(create_app("filesystem://", redis_server.url)) as app:
        app.conf.broker_transport_options = files
        yield app


def _messages(app: Celery, count: int, **options: Any) -> list[Publish]:
    signature = app.tasks[_ECHO].signature((1,), **options)
    return [publish_of(signature, node=n) for n in range(count)]


@pytest.mark.long
async def test_filesystem(
    files_app: Celery, files: dict[str, str], redis_server: EmbeddedServer, executions: Executions, tmp_path: Path
) -> None:
    """Through kombu's plain publishing a worker gets each message once."""
    dispatcher = CeleryDispatcher(files_app)
    # Few, and time for them: kombu looks into the folder a few times a second at best, and a busy machine makes that seconds.
    messages = _messages(files_app, 5)
    worker = CeleryWorker(
        "filesystem://",
        redis_server.url,
        log_directory=tmp_path,
        environment={"DYRYGENTD_TEST_BROKER_OPTIONS": json.dumps(files)},
    )
    with worker:
        assert await dispatcher.publish(messages) == [MessagePublished(message.task_id) for message in messages]
        executions.wait_finished([message.task_id for message in messages], timeout_s=120)
    executions.assert_each_once([message.task_id for message in messages])
    await dispatcher.close()
    assert not dispatcher.statistics().exactly_once


async def test_folder_is_gone(files_app: Celery, files: dict[str, str]) -> None:
    """Where kombu calls everything a channel error, a broker that cannot be written is an outage and not the message's fault."""
    dispatcher = CeleryDispatcher(files_app)
    messages = _messages(files_app, 2)
    folder = Path(files["data_folder_in"])
    with _no_folder(folder), pytest.raises(BrokerUnavailable):
        await dispatcher.publish(messages)
    assert len(await dispatcher.publish(messages)) == 2
    assert len(os.listdir(folder)) == 2
    await dispatcher.close()


@pytest.mark.long
async def test_rabbitmq(
    amqp_app: Celery, amqp_url: str, queue: str, redis_server: EmbeddedServer, executions: Executions, tmp_path: Path
) -> None:
    """On RabbitMQ each message is confirmed, and a worker executes it once."""
    dispatcher = CeleryDispatcher(amqp_app)
    messages = _messages(amqp_app, 50, queue=queue, priority=3)
    with CeleryWorker(amqp_url, redis_server.url, log_directory=tmp_path, queues=[queue]):
        assert await dispatcher.publish(messages) == [MessagePublished(message.task_id) for message in messages]
        executions.wait_finished([message.task_id for message in messages])
    executions.assert_each_once([message.task_id for message in messages])
    await dispatcher.close()


async def test_rabbitmq_refuses_one(amqp_app: Celery, queue: str) -> None:
    """An exchange that does not exist, or a queue that was declared otherwise, is the fault of its message alone."""
    dispatcher = CeleryDispatcher(amqp_app, socket_timeout_s=5)
    before, after = _messages(amqp_app, 2, queue=queue)
    nowhere = publish_of(amqp_app.tasks[_ECHO].signature((1,), exchange="dyrygentd-nowhere", routing_key="x"), task_id="nowhere")
    answers = {answer.task_id: answer for answer in await _publish_all(dispatcher, [before, nowhere, after])}
    assert isinstance(answers.pop("nowhere"), MessageRefused)
    assert list(answers.values()) == [MessagePublished(before.task_id), MessagePublished(after.task_id)]
    # Queues are declared once a connection.
    await dispatcher.close()
    amqp_app.amqp.queues.add(Queue(queue, queue_arguments={"x-max-length": 1}))
    [otherwise] = await dispatcher.publish(_messages(amqp_app, 1, queue=queue))
    assert isinstance(otherwise, MessageRefused)
    assert "PRECONDITION_FAILED" in otherwise.error
    await dispatcher.close()


async def test_rabbitmq_is_full(amqp_app: Celery, queue: str) -> None:
    """A queue that rejects what is too much is back-pressure: the message is tried again, not failed."""
    amqp_app.amqp.queues.add(Queue(queue, queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"}))
    dispatcher = CeleryDispatcher(amqp_app, socket_timeout_s=5)
    first, second = _messages(amqp_app, 2, queue=queue)
    assert await dispatcher.publish([first]) == [MessagePublished(first.task_id)]
    with pytest.raises(BrokerUnavailable):
        await dispatcher.publish([second])
    with amqp_app.connection_for_write() as connection:
        connection.default_channel.queue_purge(queue)
    assert await dispatcher.publish([second]) == [MessagePublished(second.task_id)]
    await dispatcher.close()


async def test_rabbitmq_connection_is_lost(amqp_app: Celery, queue: str) -> None:
    """A connection that the broker closed costs one call, and the next one makes a new one."""
    dispatcher = CeleryDispatcher(amqp_app, socket_timeout_s=5)
    messages = _messages(amqp_app, 3, queue=queue)
    await dispatcher.publish(messages[:1])
    dispatcher._broker._connection.connection.transport.sock.shutdown(2)
    with pytest.raises(BrokerUnavailable):
        await dispatcher.publish(messages)
    assert len(await dispatcher.publish(messages)) == 3
    with amqp_app.connection_for_write() as connection:
        assert connection.default_channel.queue_declare(queue, passive=True).message_count == 4
    await dispatcher.close()


async def test_rabbitmq_is_gone(redis_server: EmbeddedServer) -> None:
    """A broker that cannot be reached is told within its timeout, by every call."""
    with closing(create_app("amqp://guest:guest@127.0.0.1:9//", redis_server.url)) as app:
        dispatcher = CeleryDispatcher(app, socket_timeout_s=1)
        with pytest.raises(BrokerUnavailable):
            await dispatcher.publish(_messages(app, 2))
        with pytest.raises(BrokerUnavailable):
            await dispatcher.revoke(["t"])
        await dispatcher.forget(["wf"])
        await dispatcher.close()
        assert dispatcher.statistics().failures == 1


@pytest.mark.long
async def test_rabbitmq_revokes(
    amqp_app: Celery, amqp_url: str, queue: str, redis_server: EmbeddedServer, executions: Executions, tmp_path: Path
) -> None:
    """A broadcast reaches the workers through RabbitMQ as well."""
    dispatcher = CeleryDispatcher(amqp_app)
    held = publish_of(amqp_app.tasks[tasks.wait_for.name].signature(("gate",), queue=queue), node=0)
    dropped, kept = _messages(amqp_app, 2, queue=queue)
    with CeleryWorker(amqp_url, redis_server.url, log_directory=tmp_path, queues=[queue], pool="prefork") as worker:
        await dispatcher.publish([held])
        executions.wait_started([held.task_id])
        await dispatcher.publish([dropped, kept])
        await dispatcher.revoke([dropped.task_id])
        assert amqp_app.control.ping([worker.name], timeout=20)
        executions.release("gate")
        executions.wait_finished([held.task_id, kept.task_id])
        wait_until(lambda: amqp_app.backend.get_task_meta(dropped.task_id, cache=False)["status"] == "REVOKED")
    assert dropped.task_id not in executions.counts()
    await dispatcher.close()


async def _publish_all(dispatcher: CeleryDispatcher, messages: list[Publish]) -> list[MessagePublished | MessageRefused]:
    answers: list[MessagePublished | MessageRefused] = []
    while left := [message for message in messages if message.task_id not in {answer.task_id for answer in answers}]:
        answers += await dispatcher.publish(left)
    return answers
