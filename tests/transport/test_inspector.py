"""The inspector and real workers: every place in which a task can be, and what is said of it."""

import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
import redis
from celery import Celery
from kombu.entity import Exchange, Queue

from dyrygentd.core.effects import Publish
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.ports.facts import Inspection, TaskPlace
from dyrygentd.scheduler.whereabouts import Whereabouts, whereabouts_of
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.inspector import CeleryInspector
from tests.support import tasks
from tests.support.apps import closing
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import create_app, records
from tests.transport.conftest import publish_of

pytestmark = pytest.mark.anyio

_ECHO, _WAIT = tasks.echo.name, tasks.wait_for.name
_PATIENCE_S = 15.0


class Site:
    """A dispatcher and an inspector on one app."""

    def __init__(self, app: Celery, *, patience_s: float = _PATIENCE_S) -> None:
        self.app = app
        self.dispatcher = CeleryDispatcher(app)
        # Workers are counted on Redis, so only one that does not answer is waited for; a busy machine takes its time.
        self.inspector = CeleryInspector(app, answer_timeout_s=patience_s, socket_timeout_s=patience_s, deadline_s=4 * patience_s)
        self._published: dict[str, Publish] = {}

    async def publish(self, task: str, *arguments: Any, task_id: str, **options: Any) -> Publish:
        message = publish_of(self.app.tasks[task].signature(arguments, **options), task_id=task_id, node=len(self._published))
        self._published[task_id] = message
        await self.dispatcher.publish([message])
        return message

    def place(self, task_id: str) -> TaskPlace:
        message = self._published[task_id]
        return TaskPlace(task_id, message.attempt, message.signature)

    async def look(self, *task_ids: str) -> Inspection:
        return await self.inspector.trace([self.place(task_id) for task_id in task_ids])

    async def explain(self, task_id: str) -> Whereabouts:
        return whereabouts_of(await self.look(task_id), task_id, now=time.time())

    async def wait_for(self, task_id: str, code: str) -> Whereabouts:
        with anyio.fail_after(8 * _PATIENCE_S):
            while (whereabouts := await self.explain(task_id)).code != code:
                pass
        return whereabouts


@pytest.fixture
async def site(celery_app: Celery) -> AsyncIterator[Site]:
    """On a Redis of this test alone."""
    site = Site(celery_app)
    yield site
    await site.dispatcher.close()
    await site.inspector.close()


async def test_behind_others(site: Site, make_worker: Callable[..., CeleryWorker], executions: Executions) -> None:
    """A task in a queue is told how many are ahead of it and who consumes it; higher priorities go first."""
    # Its prefetched messages are as many as it has processes times four.
    worker = make_worker(pool="prefork")
    for number in range(4):
        await site.publish(_WAIT, "gate", task_id=f"held-{number}")
    executions.wait_started(["held-0"])
    # Nothing is fetched any more.
    with records(str(site.app.conf.broker_url)) as client:
        wait_until(lambda: client.llen("celery") == 0)
    for number in range(5):
        await site.publish(_ECHO, task_id=f"waiting-{number}", priority=6)
    await site.publish(_ECHO, task_id="urgent", priority=0)
    inspection = await site.look("waiting-0", "waiting-4", "urgent")
    positions = {task_id: task.position for task_id, task in inspection.tasks.items()}
    fetched = 6 - (inspection.queues["celery"].length or 0)
    assert fetched in (0, 1)
    if not fetched:
        assert positions == {"waiting-0": 1, "waiting-4": 5, "urgent": 0}
    whereabouts = whereabouts_of(inspection, "waiting-4", now=time.time())
    assert whereabouts.code == "queued"
    assert f"behind {5 - fetched} messages; 1 worker consumes it ({worker.name})" in whereabouts.text
    executions.release("gate", count=4)


async def test_nobody_consumes_the_queue(site: Site, worker: CeleryWorker) -> None:
    """A queue without a consumer is told as such, with the command that would help."""
    await site.publish(_ECHO, task_id="t", queue="elsewhere")
    begun = time.monotonic()
    whereabouts = await site.explain("t")
    assert time.monotonic() - begun < _PATIENCE_S, "who has answered need not be waited for"
    assert whereabouts.code == "no-consumer"
    assert whereabouts.text == (
        f"waits in queue 'elsewhere' at its head, which nobody consumes; 1 worker ({worker.name}) answered, for other queues"
        "; the name comes from the option `queue` of the node in the definition"
    )
    assert f"control -d {worker.name} add_consumer elsewhere`" in whereabouts.next_step
    assert "-Q elsewhere" in whereabouts.next_step


async def test_reserved_running_and_finished(
    site: Site, make_worker: Callable[..., CeleryWorker], executions: Executions
) -> None:
    """A task is followed through its worker: fetched behind another one, executed, and finished."""
    worker = make_worker(pool="prefork")
    await site.publish(_WAIT, "first", task_id="first")
    executions.wait_started(["first"])
    await site.publish(_WAIT, "second", task_id="second")
    reserved = await site.wait_for("second", "reserved")
    assert reserved.text.startswith(f"reserved by {worker.name} for ")
    inspection = await site.look("first", "second")
    first, second = inspection.tasks["first"], inspection.tasks["second"]
    assert (first.worker, first.worker_state, first.is_reserved) == (worker.name, "active", False)
    assert (second.worker, second.worker_state, second.is_reserved) == (worker.name, "reserved", True)
    assert first.started_at is not None
    assert abs(time.time() - first.started_at) < 60
    assert second.reserved_since is not None
    assert second.redelivered_at == pytest.approx(second.reserved_since + 3600)
    assert (inspection.listening, list(inspection.workers or ()), inspection.problems) == (1, [worker.name], [])
    running = whereabouts_of(inspection, "first", now=time.time())
    assert running.code == "running"
    assert running.text.startswith(f"runs on {worker.name} for ")
    executions.release("first")
    executions.release("second")
    executions.wait_finished(["second"])
    finished = await site.wait_for("second", "finished")
    assert "SUCCESS" in finished.text


async def test_worker_is_killed(site: Site, make_worker: Callable[..., CeleryWorker], executions: Executions) -> None:
    """What a killed worker had fetched comes back later, and what it executed is lost; the two are told apart."""
    worker = make_worker(pool="prefork")
    await site.publish(_WAIT, "never", task_id="executed")
    executions.wait_started(["executed"])
    await site.publish(_ECHO, task_id="fetched")
    await site.wait_for("fetched", "reserved")
    worker.kill()
    orphaned = await site.wait_for("fetched", "orphaned")
    assert "no worker runs now" in orphaned.text
    assert "visibility timeout of 3600 s, in " in orphaned.text
    assert "--force" in orphaned.next_step
    lost = await site.explain("executed")
    assert lost.code == "lost"
    assert "nobody has it: it is not in queue 'celery', no worker runs, no result is stored" in lost.text
    # With another worker there is somebody to ask, and the answer is the same.
    make_worker(pool="prefork")
    with anyio.fail_after(8 * _PATIENCE_S):
        # On a busy machine it may be too late with its first answers.
        while "no worker has it now" not in (await site.explain("fetched")).text:
            await anyio.lowlevel.checkpoint()
    assert "no worker knows it" in (await site.explain("executed")).text


async def test_visibility_timeout_is_over(site: Site, make_worker: Callable[..., CeleryWorker], executions: Executions) -> None:
    """Looking moves no message, also not one whose time is over for this process, as a consumer of kombu's would."""
    worker = make_worker(pool="prefork")
    await site.publish(_WAIT, "gate", task_id="executed")
    executions.wait_started(["executed"])
    await site.publish(_ECHO, task_id="fetched")
    await site.wait_for("fetched", "reserved")
    site.app.conf.broker_transport_options = {"visibility_timeout": 0.001}
    for _ in range(3):
        assert (await site.explain("fetched")).code == "reserved"
    worker.kill()
    whereabouts = await site.wait_for("fetched", "orphaned")
    assert "which is over: as soon as a worker runs" in whereabouts.text


async def test_message_is_deleted(site: Site, worker: CeleryWorker) -> None:
    """A message that somebody purged is lost, and that is said at once."""
    await site.publish(_ECHO, task_id="t", queue="elsewhere")
    with records(str(site.app.conf.broker_url)) as client:
        client.delete("elsewhere")
    assert (await site.explain("t")).code == "lost"


async def test_worker_does_not_answer(site: Site, worker: CeleryWorker, executions: Executions) -> None:
    """A worker with the pool `solo` hears nothing while it executes: its task is not called lost, nor orphaned."""
    await site.publish(_WAIT, "gate", task_id="executed")
    executions.wait_started(["executed"])
    site.inspector = CeleryInspector(site.app)
    # That it has started is acknowledged when it has ended.
    whereabouts = await site.explain("executed")
    assert whereabouts.code == "reserved"
    assert "it is not known which: 1 of 1 workers did not answer" in whereabouts.text
    assert "solo" in whereabouts.next_step
    await site.publish(_ECHO, task_id="waiting")
    assert (await site.explain("waiting")).code in ("queued", "reserved")
    executions.release("gate")
    executions.wait_finished(["executed", "waiting"])
    assert (await site.wait_for("executed", "finished")).code == "finished"


async def test_waits_for_eta_and_for_its_retry(site: Site, make_worker: Callable[..., CeleryWorker]) -> None:
    """A task that a worker keeps for later is at that worker: one with a countdown, and one that is retried."""
    worker = make_worker(pool="prefork", app="tests.support.retrying")
    message = publish_of(site.app.signature("tests.support.retrying.again_in_a_minute"), task_id="retried")
    await site.dispatcher.publish([message])
    place = TaskPlace("retried", 1, message.signature)
    with anyio.fail_after(8 * _PATIENCE_S):
        # A look asks the backend before the workers, and the task may pass between.
        found: tuple[str, str, str | None] = ("", "", "")
        while found != ("scheduled", worker.name, "RETRY"):
            task = (await site.inspector.trace([place])).tasks["retried"]
            found = (task.worker_state, task.worker, task.stored_state)
    whereabouts = whereabouts_of(await site.inspector.trace([place]), "retried", now=time.time())
    assert whereabouts.code == "reserved"
    assert re.fullmatch(rf"waits at {worker.name} for its retry, next at \d\d:\d\d:\d\d UTC \(in .*\)", whereabouts.text)
    assert "skip" in whereabouts.next_step


@pytest.mark.long
async def test_long_queue(celery_app: Celery, site: Site, redis_server: EmbeddedServer) -> None:
    """The oldest of 10,000 messages is found, and the server is never held up for long: each call takes a short part."""
    signature = celery_app.tasks[_ECHO].signature((1,))
    messages = [publish_of(signature, task_id=f"t-{number}", node=number) for number in range(10_000)]
    for begin in range(0, len(messages), 1000):
        await site.dispatcher.publish(messages[begin : begin + 1000])
    with records(redis_server.url) as client:
        client.config_set("slowlog-max-len", 10_000)
        client.config_set("slowlog-log-slower-than", 0)
        client.slowlog_reset()
        inspection = await site.inspector.trace([TaskPlace(f"t-{n}", 1, messages[n].signature) for n in (0, 5_000, 9_999)])
        assert [inspection.tasks[f"t-{n}"].position for n in (0, 5_000, 9_999)] == [0, 5_000, 9_999]
        assert len(_parts_read(client)) >= 20
        assert max(_parts_read(client)) <= 500
        places = [TaskPlace(message.task_id, 1, message.signature) for message in messages]
        client.slowlog_reset()
        withdrawn = await site.dispatcher.withdraw(places[1:-1])
        assert len(withdrawn) == 9_998
        assert client.llen("celery") == 2
        assert max(_parts_read(client)) <= 500


def _parts_read(client: redis.Redis) -> list[int]:
    """Return how many messages of a list each script has taken, of those that the server remembers."""
    commands = [entry["command"].split() for entry in cast("list[dict[str, bytes]]", client.slowlog_get(10_000))]
    found = [command for command in commands if command[0].upper() in (b"EVAL", b"EVALSHA") and command[3] == b"celery"]
    # After the script's name and the number of its keys: the list, and the ledger if it changes something.
    bounds = [command[3 + int(command[2]) :][:2] for command in found]
    return [int(last) - int(first) + 1 for first, last in bounds]


async def test_keyprefix(celery_app: Celery, make_worker: Callable[..., CeleryWorker], executions: Executions) -> None:
    """With a `global_keyprefix` messages, reservations and workers are found inside it."""
    celery_app.conf.broker_transport_options = {"global_keyprefix": "tenant:"}
    site = Site(celery_app)
    await site.publish(_WAIT, "gate", task_id="executed")
    await site.publish(_ECHO, task_id="fetched")
    await site.publish(_ECHO, task_id="elsewhere", queue="elsewhere")
    assert (await site.look("fetched")).tasks["fetched"].position == 1
    worker = make_worker(
        pool="prefork", environment={"DYRYGENTD_TEST_BROKER_OPTIONS": json.dumps({"global_keyprefix": "tenant:"})}
    )
    executions.wait_started(["executed"])
    fetched = await site.wait_for("fetched", "reserved")
    assert worker.name in fetched.text
    assert (await site.look("fetched")).tasks["fetched"].is_reserved
    assert (await site.explain("executed")).code == "running"
    assert list(await site.dispatcher.withdraw([site.place("elsewhere")])) == ["elsewhere"]
    executions.release("gate")
    await site.dispatcher.close()


async def test_topic_exchange(celery_app: Celery) -> None:
    """A message behind an exchange is looked for in the queues that are bound to it."""
    exchange = Exchange("news", type="topic")
    celery_app.conf.task_queues = [Queue("gra", exchange, routing_key="gra.#"), Queue("celery")]
    site = Site(celery_app)
    await site.publish(_ECHO, task_id="t", queue="gra", routing_key="gra.1")
    inspection = await site.look("t")
    assert (inspection.tasks["t"].queue, inspection.tasks["t"].position) == ("gra", 0)
    assert list(await site.dispatcher.withdraw([site.place("t")])) == ["t"]
    await site.dispatcher.close()


async def test_unroutable(celery_app: Celery) -> None:
    """A signature that cannot be routed was refused; looking for it says that it is nowhere, and is no error."""
    site = Site(celery_app)
    celery_app.conf.task_create_missing_queues = False
    celery_app.conf.task_queues = [Queue("celery")]
    message = publish_of(celery_app.tasks[_ECHO].signature((1,), queue="nowhere"), task_id="t")
    inspection = await site.inspector.trace([TaskPlace("t", 1, message.signature)])
    assert inspection.tasks["t"].queue == ""
    assert whereabouts_of(inspection, "t", now=time.time()).code in ("lost", "unknown")
    await site.dispatcher.close()


async def test_backend_is_away(redis_server: EmbeddedServer, worker: CeleryWorker) -> None:
    """Without the backend the broker's side is told all the same; a task that is nowhere else is not called lost."""
    with closing(create_app(redis_server.url, "redis://127.0.0.1:9/0")) as app:
        site = Site(app)
        await site.publish(_ECHO, task_id="t", queue="elsewhere")
        assert (await site.explain("t")).code == "no-consumer"
        await site.dispatcher.withdraw([site.place("t")])
        whereabouts = await site.explain("t")
        assert whereabouts.code == "unknown"
        assert "the result backend cannot be asked" in whereabouts.text
        await site.dispatcher.close()


@pytest.mark.long
async def test_server_hangs(site: Site, redis_server: EmbeddedServer) -> None:
    """A server that does not answer costs a few seconds, and is reported."""
    await site.publish(_ECHO, task_id="t")
    site.inspector = CeleryInspector(site.app, socket_timeout_s=1)
    with _stopped(redis_server):
        begun = time.monotonic()
        inspection = await site.look("t")
        assert time.monotonic() - begun < 12
    assert len(inspection.problems) == 2
    assert whereabouts_of(inspection, "t", now=time.time()).code == "unknown"


async def test_other_backend_tells_who_stored_it(redis_server: EmbeddedServer, tmp_path: Path) -> None:
    """A backend that is asked through Celery tells the same; with `result_extended` also which worker it was."""
    with closing(create_app(redis_server.url, f"file://{tmp_path}")) as app:
        site = Site(app)
        await site.publish(_ECHO, task_id="t")
        app.backend.store_result("t", 1, "SUCCESS")
        inspection = await site.look("t")
        assert inspection.problems == []
        task = inspection.tasks["t"]
        assert task.stored_state == "SUCCESS"
        assert task.stored_at is not None
        assert abs(time.time() - task.stored_at) < 60
        await site.dispatcher.close()


# --- RabbitMQ -------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_rabbitmq(
    amqp_url: str, redis_server: EmbeddedServer, executions: Executions, tmp_path: Path, rabbitmq_queue: str
) -> None:
    """Messages cannot be looked at there, and yet consumers and workers tell where a task is, and when it is lost."""
    with closing(create_app(amqp_url, redis_server.url)) as app:
        # Nobody knows there how many have to answer.
        site = Site(app, patience_s=2)
        await site.publish(_WAIT, "gate", task_id="executed", queue=rabbitmq_queue)
        waiting = await site.explain("executed")
        assert waiting.code == "no-consumer"
        assert "probably one of the 1 message in queue" in waiting.text
        worker = CeleryWorker(amqp_url, redis_server.url, log_directory=tmp_path, queues=[rabbitmq_queue], pool="prefork")
        with worker:
            executions.wait_started(["executed"])
            await site.publish(_ECHO, task_id="fetched", queue=rabbitmq_queue)
            assert (await site.wait_for("executed", "running")).text.startswith(f"runs on {worker.name}")
            assert (await site.wait_for("fetched", "reserved")).text.startswith(f"reserved by {worker.name}")
            [queue] = (await site.look("fetched")).queues.values()
            assert (queue.length, queue.consumers, list(queue.workers)) == (0, 1, [worker.name])
            worker.kill()
        # Early acknowledged, it is gone with its worker; what was not acknowledged is in the queue again.
        assert "probably one of the 1 message" in (await site.wait_for("fetched", "no-consumer")).text
        with app.connection_for_write() as connection:
            connection.default_channel.queue_purge(rabbitmq_queue)
        assert (await site.wait_for("executed", "lost")).code == "lost"
        await site.dispatcher.close()


@contextmanager
def _stopped(server: EmbeddedServer) -> Iterator[None]:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)
