"""RabbitMQ with exchanges other than the default one: what reaches no queue is refused, and what is gone is missed."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from dyrygentd import Workflow
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.transport.dispatcher import CeleryDispatcher
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.apps import closing as closing_app
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until
from tests.support.tasks import create_app
from tests.transport.conftest import publish_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60


@pytest.fixture
def exchange(amqp_url: str, rabbitmq_queue: str) -> Iterator[str]:
    """The name of a topic exchange of this test alone, deleted afterwards."""
    name = f"{rabbitmq_queue}-exchange"
    yield name
    with Connection(amqp_url) as connection, closing(connection.channel()) as channel:
        channel.exchange_delete(name)


def _environment(site: Site, amqp_url: str, queue: str) -> dict[str, str]:
    return {"DYRYGENTD_TEST_TOPIC": queue, "DYRYGENTD_TEST_BROKER": amqp_url, "DYRYGENTD_TEST_BACKEND": site.server.url}


@pytest.fixture
def daemon(amqp_url: str, rabbitmq_queue: str, exchange: str, quiet_site: Site) -> Iterator[Daemon]:
    """A daemon with an app whose only queue is bound to the exchange."""
    flags = ["--app", "tests.support.topics", "--broker", amqp_url, "--lost-after-s", "1", "--lost-confirm-s", "1"]
    with quiet_site.daemon("rabbit", *flags, **_environment(quiet_site, amqp_url, rabbitmq_queue)) as daemon:
        yield daemon


def _worker(site: Site, amqp_url: str, queue: str) -> CeleryWorker:
    return CeleryWorker(
        amqp_url,
        site.server.url,
        log_directory=site.directory,
        records_url=site.server.url,
        app="tests.support.topics",
        pool="threads",
        queues=(queue,),
        environment=_environment(site, amqp_url, queue),
    )


def _one(signature: Any) -> Workflow:
    workflow = Workflow("one")
    workflow.add(signature, name="a")
    return workflow


def test_unroutable_message_is_refused_by_name(daemon: Daemon, exchange: str) -> None:
    """RabbitMQ would drop it without a word, and the node would be in flight for ever."""
    with daemon.client() as client:
        signature = tasks.echo.si(1).set(exchange=exchange, routing_key="text.echo", exchange_type="topic")
        outcome = client.submit(_one(signature)).wait(timeout_s=_WAIT_S)
        assert outcome.state == "failed"
        assert f"no queue is bound to exchange '{exchange}' for routing key 'text.echo'" in str(outcome.failed_nodes[0].error)
        assert client.health().status == "ok"


@pytest.mark.long
def test_task_behind_a_topic_exchange_is_found_lost(
    daemon: Daemon, amqp_url: str, rabbitmq_queue: str, exchange: str, quiet_site: Site
) -> None:
    """The queue is known from the app's bindings: once it is empty, and whoever takes from it has answered, the task is lost."""
    signature = tasks.wait_for.si("gate").set(exchange=exchange, routing_key="media.slow", exchange_type="topic")
    with daemon.client() as client:
        worker = _worker(quiet_site, amqp_url, rabbitmq_queue)
        worker.start()
        handle = client.submit(_one(signature))
        quiet_site.executions.wait_started([str(handle.node("a").task_id)])
        assert handle.explain("a").facts["a"]["queue"]["name"] == rabbitmq_queue
        worker.kill()
        with _worker(quiet_site, amqp_url, rabbitmq_queue):
            wait_until(lambda: handle.node("a").hold == "lost", timeout_s=_WAIT_S, message=lambda: str(handle.explain("a")))
            handle.retry("a")
            quiet_site.executions.release("gate", count=2)
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"


@pytest.mark.anyio
async def test_queue_that_was_deleted_is_declared_again(
    amqp_url: str, rabbitmq_queue: str, exchange: str, quiet_site: Site
) -> None:
    """A queue that somebody deletes while the daemon runs costs no message: it is returned, and sent again."""
    app: Celery
    with closing_app(create_app(amqp_url, quiet_site.server.url)) as app:
        app.conf.task_queues = [Queue(rabbitmq_queue, Exchange(exchange, type="topic"), routing_key="media.#")]
        dispatcher = CeleryDispatcher(app)
        signature = app.tasks[tasks.echo.name].signature((1,), queue=rabbitmq_queue)
        missing = app.tasks[tasks.echo.name].signature((1,), exchange=exchange, routing_key="text", exchange_type="topic")
        try:
            for number in range(2):
                message = publish_of(signature, task_id=f"{rabbitmq_queue}-{number}", node=number)
                assert await dispatcher.publish([message]) == [MessagePublished(message.task_id)]
                with Connection(amqp_url) as connection, closing(connection.channel()) as channel:
                    assert channel.basic_get(rabbitmq_queue, no_ack=True) is not None
                    channel.queue_delete(rabbitmq_queue)
            outcomes = await dispatcher.publish(
                [publish_of(missing, task_id=f"{rabbitmq_queue}-x", node=8), publish_of(signature, task_id="y", node=9)]
            )
            assert [type(outcome) for outcome in outcomes] == [MessageRefused, MessagePublished]
        finally:
            await dispatcher.close()
