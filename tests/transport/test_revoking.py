"""Cancelling with real workers: messages that are taken back, tasks that are terminated, and workflows revoked by their stamp."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.utils.json import dumps, loads

from dyrygentd.core.effects import Publish
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.ports.facts import WORKFLOW_STAMP, TaskPlace
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.redis_push import client_of
from dyrygentd.transport.redis_queues import RedisQueues
from tests.support import tasks
from tests.support.apps import closing
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import create_app, records
from tests.transport.conftest import publish_of

pytestmark = pytest.mark.anyio

_ECHO, _WAIT = tasks.echo.name, tasks.wait_for.name


@pytest.fixture
async def dispatcher(celery_app: Celery) -> AsyncIterator[CeleryDispatcher]:
    """On a Redis of this test alone."""
    dispatcher = CeleryDispatcher(celery_app)
    yield dispatcher
    await dispatcher.close()


@pytest.fixture
def broker(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of the same."""
    with records(redis_server.url) as client:
        yield client


def _places(*messages: Publish) -> list[TaskPlace]:
    return [TaskPlace(message.task_id, message.attempt, message.signature) for message in messages]


def _echoes(app: Celery, count: int, *, workflow_id: str = "wf", **options: Any) -> list[Publish]:
    signature = app.tasks[_ECHO].signature((1,), **options)
    return [publish_of(signature, task_id=f"{workflow_id}-{n}", workflow_id=workflow_id, node=n) for n in range(count)]


def _state(app: Celery, task_id: str) -> str:
    return str(app.backend.get_task_meta(task_id, cache=False)["status"])


async def test_cancelled_while_no_worker_runs(
    celery_app: Celery, dispatcher: CeleryDispatcher, make_worker: Callable[..., CeleryWorker], executions: Executions
) -> None:
    """A worker that starts after the cancel knows of no revoke, and does not run what was taken back (celery#4886)."""
    messages = _echoes(celery_app, 6)
    await dispatcher.publish(messages)
    await dispatcher.revoke([message.task_id for message in messages[:3]])
    assert sorted(await dispatcher.withdraw(_places(*messages[:3]))) == ["wf-0", "wf-1", "wf-2"]
    make_worker()
    executions.wait_finished(["wf-3", "wf-4", "wf-5"])
    assert set(executions.counts()) == {"wf-3", "wf-4", "wf-5"}


async def test_fetched_message_does_not_come_back(
    celery_app: Celery,
    dispatcher: CeleryDispatcher,
    broker: redis.Redis,
    make_worker: Callable[..., CeleryWorker],
    executions: Executions,
) -> None:
    """What a worker had fetched when it was withdrawn is not delivered again after that worker was killed."""
    worker = make_worker(pool="prefork")
    held = publish_of(celery_app.tasks[_WAIT].s("never"), task_id="held", node=9)
    cancelled, kept = _echoes(celery_app, 2)
    await dispatcher.publish([held])
    executions.wait_started(["held"])
    await dispatcher.publish([cancelled, kept])
    wait_until(lambda: broker.hlen("unacked") == 2)
    assert list(await dispatcher.withdraw(_places(cancelled))) == []
    worker.kill()
    assert broker.hkeys("unacked") == ["dyrygentd:wf-1:1"]
    assert broker.zrange("unacked_index", 0, -1) == ["dyrygentd:wf-1:1"]
    options = {"visibility_timeout": 1, "unacked_restore_throttle": 1, "unacked_restore_interval": 1}
    # kombu 5.6 looks when it starts, and then not for 100 s, whatever the options say.
    fetched_at = float(broker.zscore("unacked_index", "dyrygentd:wf-1:1") or 0)
    wait_until(lambda: time.time() - fetched_at > options["visibility_timeout"])
    make_worker(pool="prefork", environment={"DYRYGENTD_TEST_BROKER_OPTIONS": json.dumps(options)})
    executions.wait_finished(["wf-1"])
    assert "wf-0" not in executions.counts()


async def test_only_what_was_asked_for(celery_app: Celery, dispatcher: CeleryDispatcher, broker: redis.Redis) -> None:
    """In all priorities of all queues exactly the messages of these tasks go, also one that a worker sent again for a retry."""
    for queue in ("celery", "other"):
        for priority in (0, 3, 9):
            await dispatcher.publish(_echoes(celery_app, 3, workflow_id=f"{queue}{priority}", queue=queue, priority=priority))
    signature = celery_app.tasks[_ECHO].signature((1,))
    # Words of a user that look like the marks of a message.
    sly = celery_app.tasks[_ECHO].signature(('"correlation_id": "celery0-1"',), {"x": '"delivery_tag": "dyrygentd:celery0-1:1"'})
    await dispatcher.publish([publish_of(sly, task_id="sly", node=77, workflow_id="sly")])
    retried = loads(broker.lindex("celery", -1))
    retried["properties"]["delivery_tag"] = "made-by-a-worker"
    retried["properties"]["correlation_id"] = "retried"
    broker.lpush("celery", dumps(retried))
    foreign = signature.apply_async(task_id="foreign")
    before = {key: broker.llen(key) for key in broker.scan_iter(_type="list")}
    asked = [
        *_places(publish_of(signature, task_id="celery0-1"), publish_of(signature, task_id="retried")),
        *_places(*_echoes(celery_app, 1, workflow_id="other9", queue="other", priority=9)),
        *_places(publish_of(signature, task_id="other0-0")),
    ]
    assert sorted(await dispatcher.withdraw(asked)) == ["celery0-1", "other9-0", "retried"]
    after = {key: broker.llen(key) for key in broker.scan_iter(_type="list")}
    assert {key: before[key] - after[key] for key in before if before[key] != after[key]} == {"celery": 2, "other\x06\x169": 1}
    left = [json.loads(message)["headers"]["id"] for message in broker.lrange("celery", 0, -1)]
    assert left == ["foreign", "sly", "celery0-2", "celery0-0"]
    foreign.forget()


async def test_withdrawn_while_a_worker_fetches(
    celery_app: Celery, dispatcher: CeleryDispatcher, worker: CeleryWorker, executions: Executions
) -> None:
    """Beside a worker at work each message is either taken back or executed, never both and never neither."""
    messages = _echoes(celery_app, 1500)
    withdrawn: list[str] = []
    for begin in range(0, 1500, 300):
        await dispatcher.publish(messages[begin : begin + 300])
        # The middle, while those around it are fetched, and new ones pushed.
        withdrawn += await dispatcher.withdraw(_places(*messages[begin + 100 : begin + 200]))
    assert withdrawn
    executions.wait_finished({message.task_id for message in messages} - set(withdrawn))
    assert not executions.counts().keys() & set(withdrawn)
    assert len(withdrawn) == len(set(withdrawn))
    executions.assert_each_once({message.task_id for message in messages} - set(withdrawn))


async def test_search_is_bounded(celery_app: Celery, dispatcher: CeleryDispatcher, broker: redis.Redis) -> None:
    """Of a list that is too long the newest messages are looked through, and it is said that these are not all."""
    await dispatcher.publish(_echoes(celery_app, 1200))
    queues = RedisQueues(dispatcher._broker.producer.channel, client_of(dispatcher._broker.producer.channel), searched_max=700)
    assert queues.find("celery", ["wf-0", "wf-499", "wf-500", "wf-1199"]) == ({"wf-500": 500, "wf-1199": 1199}, False)
    assert queues.withdraw("celery", ["wf-499", "wf-500", "wf-900"]) == ["wf-900", "wf-500"]
    assert broker.llen("celery") == 1198
    whole = RedisQueues(dispatcher._broker.producer.channel, client_of(dispatcher._broker.producer.channel))
    assert whole.find("celery", ["wf-0", "stranger"]) == ({"wf-0": 0}, True)
    assert len(whole.withdraw("celery", [f"wf-{n}" for n in range(1200)])) == 1198
    assert broker.llen("celery") == 0


@pytest.mark.long
@pytest.mark.parametrize("by_stamp", [False, True])
async def test_terminate(
    by_stamp: bool,
    celery_app: Celery,
    dispatcher: CeleryDispatcher,
    make_worker: Callable[..., CeleryWorker],
    executions: Executions,
) -> None:
    """Terminating ends what is executed, though nobody opens its gate, and the worker goes on with the next."""
    make_worker(pool="prefork")
    running = publish_of(celery_app.tasks[_WAIT].s("never"), task_id="running", workflow_id="a", node=0)
    await dispatcher.publish([running, *_echoes(celery_app, 1, workflow_id="b")])
    executions.wait_started(["running"])
    if by_stamp:
        await dispatcher.revoke_stamped(WORKFLOW_STAMP, ["a"], terminate=True)
    else:
        await dispatcher.revoke(["running"], terminate=True)
    wait_until(lambda: _state(celery_app, "running") == "REVOKED")
    executions.wait_finished(["b-0"])


async def test_revoked_by_its_stamp(
    celery_app: Celery, dispatcher: CeleryDispatcher, make_worker: Callable[..., CeleryWorker], executions: Executions
) -> None:
    """One broadcast drops all tasks of a workflow that wait, and no other's; what is executed ends by itself."""
    make_worker(pool="prefork")
    running = publish_of(celery_app.tasks[_WAIT].s("gate"), task_id="running", workflow_id="a", node=99)
    await dispatcher.publish([running])
    executions.wait_started(["running"])
    await dispatcher.publish([*_echoes(celery_app, 10, workflow_id="a"), *_echoes(celery_app, 10, workflow_id="b")])
    await dispatcher.revoke_stamped(WORKFLOW_STAMP, ["a", "none such"])
    assert celery_app.control.ping(timeout=20, limit=1)
    executions.release("gate")
    executions.wait_finished(["running", *(f"b-{n}" for n in range(10))])
    wait_until(lambda: all(_state(celery_app, f"a-{n}") == "REVOKED" for n in range(10)))
    assert not [task_id for task_id in executions.counts() if task_id.startswith("a-")]
    assert _state(celery_app, "running") == "SUCCESS"


@pytest.mark.long
async def test_rabbitmq(
    amqp_url: str, rabbitmq_queue: str, redis_server: EmbeddedServer, executions: Executions, tmp_path: Path
) -> None:
    """Through RabbitMQ tasks are terminated and revoked by stamp just so; nothing is withdrawn."""
    with closing(create_app(amqp_url, redis_server.url)) as app:
        dispatcher = CeleryDispatcher(app)
        running = publish_of(
            app.tasks[_WAIT].signature(("never",), queue=rabbitmq_queue), task_id="running", workflow_id="a", node=9
        )
        with CeleryWorker(amqp_url, redis_server.url, log_directory=tmp_path, queues=[rabbitmq_queue], pool="prefork"):
            await dispatcher.publish([running])
            executions.wait_started(["running"])
            dropped = _echoes(app, 3, workflow_id="a", queue=rabbitmq_queue)
            await dispatcher.publish([*dropped, *_echoes(app, 3, workflow_id="b", queue=rabbitmq_queue)])
            assert list(await dispatcher.withdraw(_places(*dropped))) == []
            await dispatcher.revoke_stamped(WORKFLOW_STAMP, ["a"], terminate=True)
            executions.wait_finished(["b-0", "b-1", "b-2"])
            wait_until(lambda: _state(app, "running") == "REVOKED")
            wait_until(lambda: all(_state(app, message.task_id) == "REVOKED" for message in dropped))
        assert set(executions.counts()) == {"running", "b-0", "b-1", "b-2"}
        await dispatcher.close()
