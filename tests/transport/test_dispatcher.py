"""The dispatcher on a real Redis, cut, full, hung and gone."""

import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import kombu
import pytest
import redis
import redis.asyncio
from celery import Celery
from celery.canvas import Signature
from celery.signals import after_task_publish, before_task_publish
from kombu.entity import Exchange, Queue

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import BrokerEmptied, BrokerUnavailable
from dyrygentd.ports.facts import Holder, TaskPlace, Term
from dyrygentd.transport import marked_publishing
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.marked_publishing import MarkedPublishing
from dyrygentd.transport.redis_asking import Asking, Script, packed
from dyrygentd.transport.redis_push import Collected, LoopPush, MarkedPush, Pushed, Pushes
from tests.support import tasks
from tests.support.apps import closing
from tests.support.directories import short_directory
from tests.support.proxy import CuttingProxy
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import create_app, records
from tests.transport.conftest import publish_of

pytestmark = pytest.mark.anyio

_ECHO = tasks.echo.name
#: Short enough for a test, long enough for a loaded machine to answer.
_TIMEOUT_S = 1.0

Look = Callable[[], dict[str, list[Any]]]


def _messages(app: Celery, count: int, *, workflow_id: str = "wf", **options: Any) -> list[Publish]:
    signature = app.tasks[_ECHO].signature((1,), **options)
    return [publish_of(signature, task_id=f"{workflow_id}-{n}", workflow_id=workflow_id, node=n) for n in range(count)]


@pytest.fixture
async def dispatcher(app: Celery) -> AsyncIterator[CeleryDispatcher]:
    """A dispatcher on the shared server."""
    dispatcher = CeleryDispatcher(app)
    yield dispatcher
    await dispatcher.close()


@pytest.fixture
async def own(celery_app: Celery) -> AsyncIterator[CeleryDispatcher]:
    """A dispatcher on ``redis_server``, which the test may maltreat."""
    dispatcher = CeleryDispatcher(celery_app, socket_timeout_s=_TIMEOUT_S)
    yield dispatcher
    await dispatcher.close()


@pytest.fixture
def two_servers() -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """Two servers on TCP, as kombu takes several on nothing else."""
    with short_directory() as one, short_directory() as other, _on_tcp(one) as first, _on_tcp(other) as second:
        yield first, second


def _on_tcp(directory: Path) -> EmbeddedServer:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return EmbeddedServer(directory, settings={"port": str(port), "bind": "127.0.0.1"})


# --- once -----------------------------------------------------------------------------------------------------------


def _loop_push(dispatcher: CeleryDispatcher) -> LoopPush:
    way = dispatcher._way
    assert isinstance(way, MarkedPublishing)
    assert way.loop_push is not None
    return way.loop_push


async def test_repeating_pushes_nothing(app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """The same attempts handed in again are answered and not pushed, also by another process after a crash."""
    messages = _messages(app, 20)
    for _ in range(2):
        assert await dispatcher.publish(messages) == [MessagePublished(message.task_id) for message in messages]
    after_crash = CeleryDispatcher(app)
    await after_crash.publish(messages)
    await after_crash.close()
    assert len(queued()["celery"]) == 20
    assert dispatcher.statistics().repeated == 20
    assert after_crash.statistics().repeated == 20


async def test_each_attempt_is_pushed(app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """Another attempt of a node, and the same node of another workflow, are messages of their own."""
    echo = app.tasks[_ECHO].s(1)
    for attempt, workflow_id in ((1, "a"), (2, "a"), (1, "b")):
        await dispatcher.publish([publish_of(echo, workflow_id=workflow_id, attempt=attempt)])
    assert len(queued()["celery"]) == 3


async def test_marker_does_not_grow(app: Celery, dispatcher: CeleryDispatcher, client: redis.Redis, queued: Look) -> None:
    """However many attempts a node has, its marker is one number; an attempt before the last is not pushed again."""
    echo = app.tasks[_ECHO].s(1)
    for attempt in (*range(1, 101), 7, 100):
        await dispatcher.publish([publish_of(echo, attempt=attempt)])
    assert len(queued()["celery"]) == 100
    assert client.hgetall("dyrygentd:published:wf") == {"0": "100"}
    assert dispatcher.statistics().repeated == 2


async def test_marker_of_an_older_version(app: Celery, dispatcher: CeleryDispatcher, client: redis.Redis, queued: Look) -> None:
    """A workflow that was running before the upgrade is not published twice, and its next attempts are."""
    client.hset("dyrygentd:published:wf", mapping={"0:1": 1, "0:2": 1, "1:1": 1})
    echo = app.tasks[_ECHO].s(1)
    for node, attempt in ((0, 1), (0, 2), (1, 1)):
        await dispatcher.publish([publish_of(echo, node=node, attempt=attempt)])
    assert queued() == {}
    for node, attempt in ((0, 3), (0, 3), (0, 2), (1, 2)):
        await dispatcher.publish([publish_of(echo, node=node, attempt=attempt)])
    assert len(queued()["celery"]) == 2


async def test_reply_is_cut(celery_app: Celery, redis_server: EmbeddedServer, short_tmp: Path) -> None:
    """A push whose reply is lost is not known to have happened; pushing again leaves one message."""
    with (
        CuttingProxy(short_tmp / "proxy.sock", redis_server.socket_path) as proxy,
        closing(create_app(proxy.url, redis_server.url)) as app,
        _publish_signals() as told,
        records(redis_server.url) as client,
    ):
        dispatcher = CeleryDispatcher(app, socket_timeout_s=_TIMEOUT_S)
        await dispatcher.publish(_messages(app, 1, workflow_id="warm-up"))
        told.clear()
        messages = _messages(app, 3)
        for _ in range(3):
            proxy.cut_reply_to("EVALSHA")
            with pytest.raises(BrokerUnavailable):
                await dispatcher.publish(messages)
        answers = await dispatcher.publish(messages)
        await dispatcher.close()
        assert proxy.cuts == 3
        assert answers == [MessagePublished(message.task_id) for message in messages]
        assert client.llen("celery") == 1 + 3
        assert told == [word for message in messages for word in (f"before {message.task_id}", f"after {message.task_id}")]
        assert dispatcher.statistics().failures == 3
        assert dispatcher.statistics().repeated == 3


class _Once(MarkedPush):
    """What pushes from the thread, and does so for the first messages only."""

    pushes = 0

    def push(self, messages: Sequence[Collected]) -> Pushed:
        """Push."""
        self.pushes += 1
        assert self.pushes == 1, "a thread was used"
        return super().push(messages)


async def test_known_shapes_are_pushed_from_the_loop(app: Celery, queued: Look, client: redis.Redis) -> None:
    """After the first message of a shape no thread is needed, also when the server has forgotten its scripts."""
    dispatcher = CeleryDispatcher(app, ways=Pushes(in_thread=_Once))
    first, *messages = _messages(app, 5)
    await dispatcher.publish([first])
    assert await dispatcher.publish(messages[:2]) == [MessagePublished(message.task_id) for message in messages[:2]]
    client.script_flush()
    assert len(await dispatcher.publish(messages)) == 4
    assert [message["headers"]["id"] for message in queued()["celery"]] == [f"wf-{n}" for n in range(5)]
    assert dispatcher.statistics().repeated == 2
    await dispatcher.close()


async def test_connection_that_was_cut_while_idle_is_no_outage(
    celery_app: Celery, redis_server: EmbeddedServer, short_tmp: Path
) -> None:
    """Firewalls and servers cut connections that nobody uses; and if the reply alone was lost, nothing is pushed twice."""
    with (
        CuttingProxy(short_tmp / "proxy.sock", redis_server.socket_path) as proxy,
        closing(create_app(proxy.url, redis_server.url)) as app,
        records(redis_server.url) as client,
    ):
        dispatcher = CeleryDispatcher(app, socket_timeout_s=_TIMEOUT_S)
        messages = _messages(app, 6)
        for message in messages[:2]:
            await dispatcher.publish([message])
        proxy.cut_all()
        assert len(await dispatcher.publish(messages[:4])) == 4
        proxy.cut_reply_to("EVALSHA")
        assert len(await dispatcher.publish(messages)) == 6
        await dispatcher.close()
        assert (proxy.cuts, client.llen("celery"), dispatcher.statistics().failures) == (1, 6, 0)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})])
async def test_connection_that_was_reset_is_no_outage(app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """Both loops say in words of their own that a transport is gone."""
    messages = _messages(app, 4)
    for message in messages[:2]:
        await dispatcher.publish([message])
    _loop_push(dispatcher)._asking._connection._writer.transport.abort()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert len(await dispatcher.publish(messages)) == 4
    assert (len(queued()["celery"]), dispatcher.statistics().failures) == (4, 0)


class _Refusing(Asking):
    """A connection of the loop's that fails, however often it is asked."""

    def __init__(self, pool: Any, error: Exception) -> None:
        super().__init__(pool)
        self.error, self.tries = error, 0

    async def run(self, script: Script, keys: Any, arguments: Any) -> Any:
        """Fail."""
        self.tries += 1
        raise self.error


@pytest.mark.parametrize("error", [AttributeError("a bug"), redis.ConnectionError("of this way alone")])
async def test_thread_takes_over_from_the_loop(app: Celery, queued: Look, error: Exception) -> None:
    """What only the loop's connection cannot do stops nothing."""
    made: list[_Refusing] = []

    def ask(pool: Any) -> Asking:
        made.append(_Refusing(pool, error))
        return made[-1]

    dispatcher = CeleryDispatcher(app, ways=Pushes(on_loop=partial(LoopPush, ask=ask)))
    messages = _messages(app, 5)
    await dispatcher.publish(messages[:1])
    with pytest.raises((AttributeError, BrokerUnavailable)):
        await dispatcher.publish(messages[1:3])
    refusing, remembering = made
    tried = refusing.tries
    assert tried
    for message in messages[1:]:
        await dispatcher.publish([message])
    assert (refusing.tries, remembering.tries, len(queued()["celery"])) == (tried, 0, 5)
    await dispatcher.close()


async def test_what_the_broker_remembers_waits_for_no_push(app: Celery, dispatcher: CeleryDispatcher) -> None:
    """Each answer to a client waits for it: it is asked from the loop, beside whoever pushes, and over a cut."""
    await dispatcher.mark("d", "token")
    await dispatcher.raise_term("d", Term(7, Holder("h", 1, 2.0)))
    way = dispatcher._way
    assert isinstance(way, MarkedPublishing)
    in_thread = await way._with_push(lambda push: push.memory("d"))
    async with dispatcher._broker.in_order:
        for _ in range(2):
            memory = await dispatcher.memory("d")
            assert memory is not None
            assert memory == replace(in_thread, place=memory.place)
            assert (memory.token, memory.term, bool(memory.place)) == ("token", Term(7, Holder("h", 1, 2.0)), True)
            _loop_push(dispatcher)._remembering._connection._writer.transport.abort()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()


async def test_thread_asks_what_the_loop_cannot(app: Celery) -> None:
    """What only the loop's connection cannot do is answered all the same, and is not tried each time."""
    made: list[_Refusing] = []

    def ask(pool: Any) -> Asking:
        made.append(_Refusing(pool, redis.ConnectionError("of this way alone")))
        return made[-1]

    dispatcher = CeleryDispatcher(app, ways=Pushes(on_loop=partial(LoopPush, ask=ask)))
    await dispatcher.mark("d", "token")
    for _ in range(3):
        memory = await dispatcher.memory("d")
        assert memory is not None
        assert memory.token == "token"
    assert [each.tries for each in made] == [0, 1]
    await dispatcher.close()


async def test_both_ways_lead_to_one_of_several_servers(two_servers: tuple[EmbeddedServer, EmbeddedServer]) -> None:
    """When kombu goes on with the next server the loop's connection does, and leaves the first one alone when that is back."""
    with ExitStack() as exits:
        first, second = (exits.enter_context(records(server.url)) for server in two_servers)
        urls = [f"redis://127.0.0.1:{records_of.config_get('port')['port']}/0" for records_of in (first, second)]
        app = exits.enter_context(closing(create_app(";".join(urls), two_servers[1].url)))
        dispatcher = CeleryDispatcher(app, socket_timeout_s=_TIMEOUT_S)
        messages = iter(_messages(app, 20))
        for _ in range(3):
            await dispatcher.publish([next(messages)])
        assert any("one of several servers" in caution for caution in await dispatcher.cautions())
        two_servers[0].stop()
        message = next(messages)
        with pytest.raises(BrokerUnavailable):
            await dispatcher.publish([message])
        await dispatcher.publish([message])
        two_servers[0].start()
        way = dispatcher._way
        assert isinstance(way, MarkedPublishing)
        # As after the pause in which only the thread is tried.
        way._loop_after = 0.0
        for _ in range(3):
            await dispatcher.publish([next(messages)])
        assert (first.llen("celery"), second.llen("celery")) == (3, 4)
        await dispatcher.close()


async def test_one_server_gives_no_caution_of_several(app: Celery, dispatcher: CeleryDispatcher) -> None:
    """Nothing is said of what is not so."""
    assert not any("several servers" in caution for caution in await dispatcher.cautions())


async def test_large_options_do_not_hold_up_the_loop(app: Celery, client: redis.Redis) -> None:
    """They are in each message, as long as they are."""

    def ask(pool: Any) -> Asking:
        return _Refusing(pool, AssertionError("pushed from the loop"))

    dispatcher = CeleryDispatcher(app, ways=Pushes(on_loop=partial(LoopPush, ask=ask)))
    messages = _messages(app, 3, headers={"long": "x" * 200_000})
    await dispatcher.publish(messages[:1])
    assert len(await dispatcher.publish(messages[1:])) == 2
    await dispatcher.close()


class _Losing(Asking):
    """A connection whose first script is carried out, and then its reply is lost with all the server had."""

    def __init__(self, pool: Any, client: redis.Redis) -> None:
        super().__init__(pool)
        self._client = client

    async def run(self, script: Script, keys: Any, arguments: Any) -> Any:
        """Run a script."""
        answer = await super().run(script, keys, arguments)
        if self._client.exists("dyrygentd:sentinel:d"):
            self._client.flushall()
            raise redis.ConnectionError("cut")
        return answer


async def test_cut_push_to_a_broker_that_then_lost_its_memory(celery_app: Celery, redis_server: EmbeddedServer) -> None:
    """Whether it was sent is not known: that is what is answered, and not that nothing was."""
    with closing(create_app(redis_server.url, redis_server.url)) as app, records(redis_server.url) as client:
        ways = Pushes(on_loop=partial(LoopPush, ask=lambda pool: _Losing(pool, client)))
        dispatcher = CeleryDispatcher(app, socket_timeout_s=_TIMEOUT_S, ways=ways)
        messages = _messages(app, 3)
        # The loop's connection is a used one.
        for message in messages[:2]:
            await dispatcher.publish([message])
        await dispatcher.mark("d", "token")
        dispatcher.guard("d", "token")
        with pytest.raises(BrokerUnavailable):
            await dispatcher.publish(messages[2:])
        with pytest.raises(BrokerEmptied):
            await dispatcher.publish(messages[2:])
        await dispatcher.close()


async def test_commands_are_packed_as_by_redis_py() -> None:
    """Whatever a name, a number or a payload looks like."""
    words = ("EVALSHA", "sha", 2, "queue\x06\x163", "ż", b"\x00\r\n$5", 0, -7, "", "x" * 70_000)
    assert packed(*words) == b"".join(redis.asyncio.Connection().pack_command(*words))


async def test_backlog_is_what_waited_before(app: Celery, dispatcher: CeleryDispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what was in the shortest queue before the last push, and nothing if one was short a moment ago."""
    monkeypatch.setattr(marked_publishing, "_BACKLOG_S", 0.2)
    here, there = _messages(app, 90), _messages(app, 2, workflow_id="other", queue="there")
    await dispatcher.publish(here[:30])
    assert dispatcher.backlog() == 0
    # A queue counts as long only once none has been short for this time, so the time has to pass.
    await anyio.sleep(0.2)
    for message in here[30:32]:
        await dispatcher.publish([message])
    assert dispatcher.backlog() == 31
    await dispatcher.publish([here[32], there[0]])
    assert dispatcher.backlog() == 0
    await dispatcher.publish([here[33]])
    assert dispatcher.backlog() == 0
    # The time passes again; alone it makes no backlog.
    await anyio.sleep(0.2)
    assert dispatcher.backlog() == 0
    await dispatcher.publish([here[33]])
    await dispatcher.publish([here[34]])
    assert dispatcher.backlog() == 34


async def test_withdrawing_comes_after_publishing(app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """Calls keep their order, whichever way each takes: what was cancelled while it was being sent is not left in the queue."""
    first, *messages = _messages(app, 60)
    await dispatcher.publish([first])
    places = [TaskPlace(message.task_id, 1, message.signature) for message in messages]
    withdrawn: list[str] = []

    async def withdraw() -> None:
        withdrawn.extend(await dispatcher.withdraw(places))

    async with anyio.create_task_group() as group:
        group.start_soon(dispatcher.publish, messages)
        group.start_soon(withdraw)
    assert sorted(withdrawn) == sorted(message.task_id for message in messages)
    assert len(queued()["celery"]) == 1


@contextmanager
def _publish_signals() -> Iterator[list[str]]:
    told: list[str] = []

    def before(headers: dict[str, Any], **_: Any) -> None:
        told.append(f"before {headers['id']}")

    def after(headers: dict[str, Any], **_: Any) -> None:
        told.append(f"after {headers['id']}")

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    yield told
    before_task_publish.disconnect(before)
    after_task_publish.disconnect(after)


async def test_forget(app: Celery, dispatcher: CeleryDispatcher, client: redis.Redis, queued: Look) -> None:
    """Markers go after their workflow, else the broker fills up, but not before a push that is under way still has come."""
    await dispatcher.publish([*_messages(app, 2, workflow_id="a"), *_messages(app, 2, workflow_id="b")])
    assert 0 < client.ttl("dyrygentd:published:a") <= 30 * 24 * 3600
    await dispatcher.forget(["a", "never-published"])
    assert 300 < client.ttl("dyrygentd:published:a") <= 600
    assert client.ttl("dyrygentd:published:b") > 600
    await dispatcher.publish([*_messages(app, 2, workflow_id="a"), *_messages(app, 2, workflow_id="b")])
    assert len(queued()["celery"]) == 4
    # It goes on.
    await dispatcher.publish(_messages(app, 3, workflow_id="a"))
    assert client.ttl("dyrygentd:published:a") > 600
    assert set(client.scan_iter("dyrygentd:*")) == {"dyrygentd:published:a", "dyrygentd:published:b"}


# --- where it goes --------------------------------------------------------------------------------------------------


async def test_workers_take_every_priority(
    celery_app: Celery, own: CeleryDispatcher, make_worker: Callable[..., CeleryWorker], executions: Executions
) -> None:
    """What is pushed with a priority is consumed: the names of the lists are kombu's, which we compute beforehand."""
    echo = celery_app.tasks[_ECHO]
    messages = [
        publish_of(echo.signature((n,), priority=n, queue=queue), node=number)
        for number, (queue, n) in enumerate((queue, n) for queue in ("celery", "other") for n in range(10))
    ]
    await own.publish(messages)
    make_worker(queues=["celery", "other"])
    executions.wait_finished([message.task_id for message in messages])
    executions.assert_each_once([message.task_id for message in messages])


@pytest.mark.parametrize("steps", [None, [0, 5], list(range(10))])
async def test_queue_names_are_kombus(
    steps: list[int] | None, app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis
) -> None:
    """For each priority our list is the one that kombu's own channel would push into, whatever the app's steps are."""
    if steps:
        app.conf.broker_transport_options = {"priority_steps": steps}
    signatures = [app.tasks[_ECHO].signature((1,), priority=n) for n in range(10)]
    await dispatcher.publish([publish_of(signature, node=n) for n, signature in enumerate(signatures)])
    ours = {key: len(messages) for key, messages in queued().items()}
    client.delete(*ours)
    for signature in signatures:
        signature.apply_async()
    assert ours == {key: len(messages) for key, messages in queued().items()}
    assert len(ours) == len(steps or [0, 3, 6, 9])


async def test_keyprefix_of_the_broker(
    celery_app: Celery, make_worker: Callable[..., CeleryWorker], executions: Executions, redis_server: EmbeddedServer
) -> None:
    """With a `global_keyprefix`, queue and marker stay inside it, and a worker with the same prefix finds the message."""
    celery_app.conf.broker_transport_options = {"global_keyprefix": "tenant:"}
    dispatcher = CeleryDispatcher(celery_app)
    messages = _messages(celery_app, 3)
    for _ in range(2):
        await dispatcher.publish(messages)
    with records(redis_server.url) as client:
        keys = set(client.scan_iter("*"))
        assert {"tenant:celery", "tenant:dyrygentd:published:wf"} <= keys
        assert all(key.startswith("tenant:") for key in keys)
        assert client.llen("tenant:celery") == 3
    make_worker(environment={"DYRYGENTD_TEST_BROKER_OPTIONS": json.dumps({"global_keyprefix": "tenant:"})})
    executions.wait_finished([message.task_id for message in messages])
    await dispatcher.forget(["wf"])
    await dispatcher.close()
    with records(redis_server.url) as client:
        assert 0 < client.ttl("tenant:dyrygentd:published:wf") <= 600


async def test_topic_exchange(app: Celery, queued: Look) -> None:
    """An exchange with several fitting queues puts the message into each, once, as kombu does."""
    exchange = Exchange("news", type="topic")
    app.conf.task_queues = [Queue("all", exchange, routing_key="#"), Queue("gra", exchange, routing_key="gra.#"), Queue("celery")]
    dispatcher = CeleryDispatcher(app)
    for number, queue in enumerate(("all", "gra", "gra", "all")):
        # The queue says which exchange it is; where the message goes from there is a matter of its routing key.
        message = publish_of(app.tasks[_ECHO].signature((1,), queue=queue, routing_key="gra.1"), node=number // 2, task_id="t")
        assert await dispatcher.publish([message]) == [MessagePublished("t")]
    await dispatcher.close()
    assert {key: len(messages) for key, messages in queued().items()} == {"all": 2, "gra": 1}


async def test_broadcast_queue(app: Celery, client: redis.Redis, queued: Look) -> None:
    """A fanout exchange is kombu's own affair: it is published as it is, and answered."""
    app.conf.task_queues = [Queue("everyone", Exchange("everyone", type="fanout"))]
    dispatcher = CeleryDispatcher(app)
    with client.pubsub() as subscription:
        subscription.psubscribe("*everyone*")
        assert subscription.get_message(timeout=5) is not None
        message = publish_of(app.tasks[_ECHO].signature((1,), queue="everyone"), task_id="t")
        assert await dispatcher.publish([message]) == [MessagePublished("t")]
        assert subscription.get_message(timeout=5) is not None
    await dispatcher.close()
    assert queued() == {}
    assert dispatcher.statistics().repeated == 0


async def test_queue_that_expires(app: Celery, dispatcher: CeleryDispatcher, client: redis.Redis) -> None:
    """A queue with `x-expires` gets the time to live that kombu gives it, on all of its lists; the others get none."""
    app.conf.task_queues = [Queue("short", queue_arguments={"x-expires": 60_000}), Queue("celery")]
    echo = app.tasks[_ECHO]
    await dispatcher.publish([publish_of(echo.signature((1,), queue="short"), node=0)])
    client.persist("short")
    await dispatcher.publish([publish_of(echo.signature((1,), queue="short", priority=9), node=1)])
    await dispatcher.publish([publish_of(echo.signature((1,), queue="celery"), node=2)])
    low = next(client.scan_iter("short?*"))
    # kombu 5.6 gives none.
    least, most = (50_000, 60_000) if kombu.VERSION >= (5, 7) else (-2, -1)
    assert least < client.pttl("short") <= most
    assert least < client.pttl(low) <= most
    assert client.pttl("celery") == -1


# --- what can never be sent -----------------------------------------------------------------------------------------


async def _refusal_among_others(app: Celery, dispatcher: CeleryDispatcher, bad: Publish, queued: Look) -> str:
    """Publish the bad message between two good ones, which must arrive; return why it was refused."""
    first, last = _messages(app, 2, workflow_id="good")
    answers: list[MessagePublished | MessageRefused] = []
    left = [first, bad, last]
    while left:
        answers += await dispatcher.publish(left)
        left = [message for message in left if message.task_id not in {answer.task_id for answer in answers}]
    by_id = {answer.task_id: answer for answer in answers}
    refusal = by_id.pop(bad.task_id)
    assert list(by_id.values()) == [MessagePublished(first.task_id), MessagePublished(last.task_id)]
    assert [message["headers"]["id"] for message in queued()["celery"]] == [first.task_id, last.task_id]
    assert isinstance(refusal, MessageRefused)
    assert dispatcher.statistics().refused == 1
    return refusal.error


_BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown serializer": ({"serializer": "nonsense"}, "nonsense"),
    "unknown compression": ({"compression": "nonsense"}, "nonsense"),
    "bad expiry": ({"expires": "soon"}, "soon"),
    "bad time limits": ({"expires": [1]}, "TypeError"),
    "kombu's own key": ({"queue": "unacked_index"}, "is a key of kombu's"),
    "remote control": ({"queue": "celery.pidbox"}, "is a key of kombu's"),
    "no such exchange": ({"exchange": "nowhere", "routing_key": "x"}, "no queue is bound"),
}


@pytest.mark.parametrize("what", _BAD_OPTIONS)
async def test_bad_options(what: str, app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """A message that cannot be built or routed is refused with the reason, and holds up nobody else."""
    options, said = _BAD_OPTIONS[what]
    bad = Signature("elsewhere.work", (1,), {}, {}, app=app)
    publish = publish_of(bad, task_id="bad")
    signature = type(publish.signature)(publish.signature.task, b"[1]", b"{}", json.dumps(options).encode())
    bad_message = Publish("wf", 0, 1, "bad", signature, None, "", "wf")
    assert said in await _refusal_among_others(app, dispatcher, bad_message, queued)


async def test_unserialisable_arguments(app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """What the chosen serializer cannot write is refused: JSON can carry a Decimal, YAML's safe dialect cannot."""
    arguments = json.dumps([{"__type__": "decimal", "__value__": "1.5"}]).encode()
    good = publish_of(app.tasks[_ECHO].s(), task_id="bad").signature
    signature = type(good)(good.task, arguments, b"{}", b'{"serializer": "yaml"}')
    assert "represent" in await _refusal_among_others(
        app, dispatcher, Publish("wf", 0, 1, "bad", signature, None, "", "wf"), queued
    )


async def test_unknown_queue(app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """An app that creates no missing queues refuses unknown ones, as Celery would the caller."""
    app.conf.task_create_missing_queues = False
    app.conf.task_queues = [Queue("celery")]
    bad = publish_of(app.tasks[_ECHO].signature((1,), queue="nowhere"), task_id="bad")
    assert "nowhere" in await _refusal_among_others(app, dispatcher, bad, queued)


async def test_queue_name_is_taken(app: Celery, dispatcher: CeleryDispatcher, queued: Look, client: redis.Redis) -> None:
    """A queue named like a key of another kind is refused each time, and not counted as sent by the second try."""
    client.set("taken", "by something else")
    bad = publish_of(app.tasks[_ECHO].signature((1,), queue="taken"), task_id="bad")
    assert "WRONGTYPE" in await _refusal_among_others(app, dispatcher, bad, queued)
    [again] = await dispatcher.publish([bad])
    assert isinstance(again, MessageRefused)
    # The marker is as it was, so that a later attempt and a repetition are told apart.
    [later] = await dispatcher.publish([bad._replace(attempt=2, task_id="later")])
    assert isinstance(later, MessageRefused)
    client.delete("taken")
    assert await dispatcher.publish([bad]) == [MessagePublished("bad")]
    assert len(queued()["taken"]) == 1


async def test_too_long(app: Celery, queued: Look) -> None:
    """A message that Redis would answer by closing the connection is refused before that: it would look like an outage."""
    dispatcher = CeleryDispatcher(app, message_bytes_max=100_000)
    bad = publish_of(app.tasks[_ECHO].s("x" * 100_000), task_id="bad")
    assert "bytes" in await _refusal_among_others(app, dispatcher, bad, queued)
    await dispatcher.close()


async def test_long_messages_are_pushed_in_parts(app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """A slice of long messages is answered in parts, so that one command stays far below what Redis takes."""
    echo = app.tasks[_ECHO].s("x" * 3_000_000)
    left = [publish_of(echo, task_id=f"t-{n}", node=n) for n in range(5)]
    rounds = []
    while left:
        answers = await dispatcher.publish(left)
        rounds.append(len(answers))
        left = left[len(answers) :]
    assert rounds == [2, 2, 1] or rounds == [3, 2]
    assert [message["headers"]["id"] for message in queued()["celery"]] == [f"t-{n}" for n in range(5)]


# --- the broker is in trouble ---------------------------------------------------------------------------------------


async def test_memory_is_full(celery_app: Celery, own: CeleryDispatcher, redis_server: EmbeddedServer) -> None:
    """A full broker is back-pressure: nothing is sent, nothing is marked, and the same call works when there is room."""
    messages = _messages(celery_app, 5)
    with records(redis_server.url) as client:
        await own.publish(_messages(celery_app, 1, workflow_id="warm-up"))
        client.config_set("maxmemory", 1)
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            await own.publish(messages)
        assert client.llen("celery") == 1
        client.config_set("maxmemory", 0)
        assert len(await own.publish(messages)) == 5
        assert client.llen("celery") == 1 + 5
        assert own.statistics().repeated == 0


@pytest.mark.long
async def test_server_gone_and_back(celery_app: Celery, own: CeleryDispatcher, redis_server: EmbeddedServer) -> None:
    """A server that is gone is told at once, whether or not there was a connection, and found again with its data."""
    messages = _messages(celery_app, 4)
    await own.publish(messages[:2])
    redis_server.stop()
    for _ in range(2):
        with _within(10), pytest.raises(BrokerUnavailable):
            await own.publish(messages)
    with _within(10), pytest.raises(BrokerUnavailable):
        await own.revoke(["t"])
    with _within(10), pytest.raises(BrokerUnavailable):
        await own.forget(["wf"])
    redis_server.start()
    assert len(await own.publish(messages)) == 4
    with records(redis_server.url) as client:
        assert client.llen("celery") == 4


@pytest.mark.long
async def test_server_hangs(celery_app: Celery, own: CeleryDispatcher, redis_server: EmbeddedServer) -> None:
    """A server that does not answer costs each call a timeout and never the thread; its late work is not repeated."""
    messages = _messages(celery_app, 3)
    await own.publish(messages[:1])
    with _stopped(redis_server):
        for call in (own.publish(messages), own.publish(messages), own.revoke(["t"]), own.forget(["other"])):
            with _within(10), pytest.raises(BrokerUnavailable):
                await call
    # The stopped server finds the scripts in its sockets and runs them now.
    assert len(await own.publish(messages)) == 3
    with records(redis_server.url) as client:
        assert client.llen("celery") == 3


async def test_closing_while_the_server_hangs(celery_app: Celery, own: CeleryDispatcher, redis_server: EmbeddedServer) -> None:
    """A hung broker does not hold up the end of the process."""
    await own.publish(_messages(celery_app, 1))
    with _stopped(redis_server), _within(10):
        await own.close()


async def test_revoked_task_is_dropped(
    celery_app: Celery, own: CeleryDispatcher, make_worker: Callable[..., CeleryWorker], executions: Executions
) -> None:
    """A worker drops what was revoked while it waited, and nobody else's."""
    # A solo worker hears nothing while it executes.
    make_worker(pool="prefork")
    held = publish_of(celery_app.tasks[tasks.wait_for.name].s("gate"), node=0)
    dropped, kept = _messages(celery_app, 2, workflow_id="others")
    await own.publish([held])
    executions.wait_started([held.task_id])
    await own.publish([dropped, kept])
    await own.revoke([dropped.task_id])
    # The answer to a later command tells that the worker has read ours.
    assert celery_app.control.ping(timeout=20, limit=1)
    executions.release("gate")
    executions.wait_finished([held.task_id, kept.task_id])
    wait_until(lambda: celery_app.backend.get_task_meta(dropped.task_id, cache=False)["status"] == "REVOKED")
    assert dropped.task_id not in executions.counts()


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@contextmanager
def _stopped(server: EmbeddedServer) -> Iterator[None]:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


# --- where it was meant to go ---------------------------------------------------------------------------------------


async def test_message_goes_where_it_was_meant_to(app: Celery, dispatcher: CeleryDispatcher, queued: Look) -> None:
    """What was decided when the attempt began holds, whatever the routes say since; what was not decided is told afterwards."""
    meant = [each._replace(destination="elsewhere") for each in _messages(app, 2)]
    outcomes = await dispatcher.publish(meant)
    outcomes = [*outcomes, *await dispatcher.publish(_messages(app, 2, workflow_id="later"))]
    # Templates of the shape are there by now, and are for the usual destination alone.
    outcomes = [*outcomes, *await dispatcher.publish([each._replace(destination="elsewhere", node=9) for each in meant[:1]])]
    assert {name: len(messages) for name, messages in queued().items()} == {"elsewhere": 3, "celery": 2}
    assert [getattr(outcome, "destination", None) for outcome in outcomes] == ["", "", "celery", "celery", ""]


async def test_routers_that_are_code_see_what_a_task_is_given(app: Celery, dispatcher: CeleryDispatcher) -> None:
    """They are asked for each message, with the value before the arguments; types of the user's own are left to the thread."""
    app.conf.task_routes = (lambda name, args, *_, **__: {"queue": f"shard-{args[0]}"},)
    app.amqp.router = app.amqp.Router()
    signature = _messages(app, 1)[0].signature
    assert dispatcher.looks_at_input
    assert dispatcher.destination_of(signature, None) == "shard-1"
    assert dispatcher.destination_of(signature, b'"eu"') == "shard-eu"
    assert dispatcher.destination_of(signature, b'{"__type__": "model", "__value__": 1}') == ""
