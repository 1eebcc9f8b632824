"""The guards of the Redis watcher, each on a real server that is made to misbehave."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio
from celery import Celery

from dyrygentd.core.events import TaskFailed, TaskReported, TaskRevoked, TaskSucceeded
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.transport.redis_connections import Subscription
from dyrygentd.transport.redis_results import RedisResultWatcher, ResultsPace
from tests.support.apps import closing
from tests.support.following import Told, eventually, following
from tests.support.tasks import create_app, records

pytestmark = [
    pytest.mark.anyio,
    # Celery's own, when it stores a result.
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]

#: Every guard is quick; the sweep comes too late to help the others out.
_QUICK = ResultsPace(beat_s=0.1, silence_max_s=0.5, sweep_s=600, command_timeout_s=0.5)
_SWEEPING = ResultsPace(beat_s=600, silence_max_s=700, sweep_s=0.2, command_timeout_s=5)
_VALUE_BYTES_MAX = 16 * 1024 * 1024

Store = Callable[..., None]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: the daemon runs on uvloop, which tells of lost connections in other words than asyncio's own."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def server(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client for orders to the server."""
    with records(redis_server.url) as server:
        yield server


@pytest.fixture
def store(celery_app: Celery) -> Store:
    """Store a result as a worker does; it blocks the loop meanwhile, so the watcher cannot listen."""

    def store(task_id: str, result: Any = 1, state: str = "SUCCESS") -> None:
        celery_app.backend.store_result(task_id, result, state)

    return store


def _watcher(app: Celery, *, pace: ResultsPace = _QUICK, value_bytes_max: int = _VALUE_BYTES_MAX) -> RedisResultWatcher:
    return RedisResultWatcher(app.backend, value_bytes_max=value_bytes_max, pace=pace)


async def _ready(watcher: RedisResultWatcher, told: Told, store: Store) -> None:
    """Wait until everything watched so far has been subscribed to and read; the order is kept, so the last one tells."""
    store("there")
    watcher.watch(["there"])
    await told.wait_final("there")
    told.events.clear()


def _ids(count: int) -> list[str]:
    return [f"task-{number}" for number in range(count)]


# --- the usual ------------------------------------------------------------------------------------------------------


async def test_pushed_and_read(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """A result comes through the channel if it is watched first, and through a read if it was there before."""
    watcher = _watcher(celery_app)
    store("before", [1])
    async with following(watcher) as told:
        watcher.watch(["before", "after"])
        await told.wait_final("before")
        first, *_ = told.events
        await _ready(watcher, told, store)
        store("after", [2])
        await told.wait_final("after")
    assert [first, *told.events] == [TaskSucceeded("before", b"[1]"), TaskSucceeded("after", b"[2]")]
    statistics = watcher.statistics()
    assert (statistics.pushed, statistics.read, statistics.swept) == (1, 2, 0)
    assert (statistics.connections, statistics.watched, statistics.undecodable) == (1, 0, 0)
    assert statistics.connected
    assert "watched=0" in repr(watcher)


async def test_ends_are_gathered_while_nobody_waits(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """What ends while the workers have enough to do is read in one go, since a read costs as much as many results."""
    watcher = _watcher(celery_app, pace=ResultsPace())
    paused = anyio.Event()

    def pause_s(count: int) -> float:
        if paused.is_set():
            return 0.0
        paused.set()
        assert count == 1
        return 1.0

    async with following(watcher) as told:
        watcher.watch(["first", "second", "third"])
        await _ready(watcher, told, store)
        watcher.gather(pause_s)
        store("first")
        await paused.wait()
        assert told.final() == ["first"]
        reads = _scripts_run(server)
        for task_id in ("second", "third"):
            store(task_id)
            # Not in one packet.
            await anyio.lowlevel.checkpoint()
        await told.wait_final("second", "third")
    assert _scripts_run(server) - reads == 1
    assert watcher.statistics().pushed == 3


def _scripts_run(server: redis.Redis) -> int:
    counts: Any = server.info("commandstats")
    return int(counts["cmdstat_evalsha"]["calls"])


async def test_states_on_the_way(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """Other states are reported and do not end the watching."""
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(["t"])
        await _ready(watcher, told, store)
        for state, result in (("STARTED", {"pid": 1}), ("RETRY", ValueError("again")), ("PROGRESS", {"at": 50}), ("SUCCESS", 1)):
            store("t", result, state)
        await told.wait_final("t")
    started = TaskReported("t", "STARTED", start="/1")
    retried = TaskReported("t", "RETRY", error="ValueError: again")
    assert told.events == [started, retried, TaskReported("t", "PROGRESS"), TaskSucceeded("t", b"1")]


@pytest.mark.long
async def test_revoked_task_that_ends_well(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """A worker that does not run a task may store REVOKED for it; it is told once, and so is what is stored in the end."""
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(["t"])
        await _ready(watcher, told, store)
        store("t", None, "REVOKED")
        store("t", None, "REVOKED")
        await told.wait_final("t")
        store("t", 2)
        await told.wait_until(lambda: TaskSucceeded("t", b"2") in told.events)
        assert watcher.statistics().watched == 0
    assert [event for event in told.events if event.task_id == "t"] == [TaskRevoked("t", "revoked"), TaskSucceeded("t", b"2")]


async def test_duplicates_and_contradictions(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """The first end of a task is told once; the same again, or another one, is not."""
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(["a", "b", "last"])
        await _ready(watcher, told, store)
        # With its traceback, as Celery stores it.
        celery_app.backend.store_result("a", ValueError("no"), "FAILURE", traceback="Traceback …")
        store("a", 2)
        store("b", 1)
        key = celery_app.backend.get_key_for_task("b")
        server.publish(key, str(server.get(key)))
        store("last")
        await told.wait_final("last")
    assert told.events == [
        # What is stored when it is heard of.
        TaskSucceeded("a", b"2"),
        TaskSucceeded("b", b"1"),
        TaskSucceeded("last", b"1"),
    ]


async def test_forged_messages_are_hints(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """Whoever may publish cannot end a task: what counts is what is stored, whatever the message says and however long it is."""
    watcher = _watcher(celery_app, value_bytes_max=1000)
    async with following(watcher) as told:
        watcher.watch(["none", "other", "long"])
        await _ready(watcher, told, store)
        for task_id, result in (("none", 1), ("other", 1), ("long", "x" * 200_000)):
            for status in ("SUCCESS", "FAILURE", "REVOKED"):
                forged: dict[str, Any] = {
                    "status": status,
                    "result": result,
                    "traceback": None,
                    "children": [],
                    "task_id": task_id,
                }
                server.publish(celery_app.backend.get_key_for_task(task_id), json.dumps(forged))
        store("other", 2)
        await told.wait_final("other")
        await _ready(watcher, told, store)
        assert watcher.statistics().watched == 2
    assert [event for event in told.events if event.task_id != "there"] == []
    store("none", 3)
    async with following(watcher) as told:
        await told.wait_final("none")
    assert told.events == [TaskSucceeded("none", b"3")]


async def test_keyprefix_of_the_backend(redis_server: EmbeddedServer) -> None:
    """Results under a `global_keyprefix` are found, and nobody else's of the same id."""
    with (
        closing(create_app(redis_server.url, redis_server.url, keyprefix="tenant")) as app,
        closing(create_app(redis_server.url, redis_server.url)) as other,
        records(redis_server.url) as server,
    ):
        watcher = _watcher(app)
        app.backend.store_result("before", 1, "SUCCESS")
        async with following(watcher) as told:
            watcher.watch(["before", "after"])
            await eventually(lambda: len(server.pubsub_channels("tenant_celery-task-meta-*")) == 2)
            other.backend.store_result("after", "another tenant's", "SUCCESS")
            app.backend.store_result("after", 2, "SUCCESS")
            await told.wait_final("before", "after")
    assert set(told.events) == {TaskSucceeded("before", b"1"), TaskSucceeded("after", b"2")}


async def test_unwatching_unsubscribes(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """Channels are given up by the slice, so their number follows what is in flight and does not only grow."""
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(_ids(1200))
        await _ready(watcher, told, store)
        watcher.unwatch(_ids(1100))
        watcher.watch(["task-7"])
        await eventually(lambda: len(server.pubsub_channels("celery-task-meta-*")) <= 202)
        store("task-7")
        await told.wait_final("task-7")
    assert watcher.statistics().watched == 100


async def test_ids_are_looked_for_over_one_connection(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """Opening one costs more than the rest of a small submission; one that was cut meanwhile is no outage."""
    watcher = _watcher(celery_app, pace=ResultsPace())
    store("done")
    async with following(watcher) as told:
        await _ready(watcher, told, store)
        assert await watcher.find_stored(["done", "free"]) == {"done": "SUCCESS"}
        opened = _connections_opened(server)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(watcher.find_stored, ["free"])
        assert _connections_opened(server) == opened
        server.client_kill_filter(_type="normal", skipme=True)
        assert await watcher.find_stored(["done", "free"]) == {"done": "SUCCESS"}


def _connections_opened(server: redis.Redis) -> int:
    counts: Any = server.info("stats")
    return int(counts["total_connections_received"])


# --- losses ---------------------------------------------------------------------------------------------------------


async def test_connections_killed_in_a_burst(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """Whatever is stored around killed connections is found, and told once: redis-py would reconnect and keep silent."""
    watcher = _watcher(celery_app)
    ids = _ids(600)
    async with following(watcher) as told:
        # There is a connection to kill.
        await _ready(watcher, told, store)
        watcher.watch(ids)
        for number, task_id in enumerate(ids):
            store(task_id)
            if number % 50 == 0:
                server.client_kill_filter(_type="pubsub")
                # Both orders: reconnecting now, and storing more before.
                await anyio.sleep(0.01 * (number % 100 == 0))
        await told.wait_final(*ids)
    assert sorted(told.final()) == sorted(ids)
    assert watcher.statistics().connections > 1


async def test_stored_while_disconnected(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """Results of the time without a connection are read as soon as there is one again; the sweep is not waited for."""
    watcher = _watcher(celery_app)
    ids = _ids(50)
    async with following(watcher) as told:
        watcher.watch(ids)
        await _ready(watcher, told, store)
        server.client_kill_filter(_type="pubsub")
        for task_id in ids:
            store(task_id)
        await told.wait_final(*ids)
    statistics = watcher.statistics()
    assert (statistics.read, statistics.swept, statistics.connections) == (1 + 50, 0, 2)


async def test_normal_connection_killed(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """The connection for reads may be lost as well as the other."""
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(["a", "b"])
        await _ready(watcher, told, store)
        server.client_kill_filter(_type="normal", skipme=True)
        store("a")
        await told.wait_final("a")
        # The dead connection is noticed by the next command at the latest, and this one needs a read.
        server.set(celery_app.backend.get_key_for_task("c"), str(server.get(celery_app.backend.get_key_for_task("a"))))
        watcher.watch(["c"])
        await told.wait_final("c")
        store("b")
        await told.wait_final("b")


async def test_server_hangs(celery_app: Celery, store: Store, server: redis.Redis, redis_server: EmbeddedServer) -> None:
    """A connection that is open and silent is noticed by the heartbeat, and told as a problem."""
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(["t"])
        await _ready(watcher, told, store)
        assert redis_server.pid is not None
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            await eventually(lambda: watcher.statistics().problem)
            assert not watcher.statistics().connected
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        store("t")
        await told.wait_final("t")
        await eventually(lambda: watcher.statistics().connected)


async def test_slow_subscriber_is_cut_off(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """A server that drops us because we read too slowly loses us no result."""
    # Less than one of these values: Valkey counts only the first of those that wait.
    server.config_set("client-output-buffer-limit", "pubsub 64kb 64kb 1")
    watcher = _watcher(celery_app)
    ids = _ids(60)
    async with following(watcher) as told:
        watcher.watch(ids)
        await _ready(watcher, told, store)
        for task_id in ids:
            store(task_id, "x" * 100_000)
        await told.wait_final(*ids)
    assert sorted(told.final()) == sorted(ids)
    assert watcher.statistics().connections > 1


async def test_server_restarts(celery_app: Celery, store: Store, server: redis.Redis, redis_server: EmbeddedServer) -> None:
    """After a restart with its data, what was stored before, meanwhile and after is found."""
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(["before", "between", "after"])
        await _ready(watcher, told, store)
        store("before")
        redis_server.stop()
        await eventually(lambda: watcher.statistics().problem)
        redis_server.start()
        store("between")
        await told.wait_final("before", "between")
        await eventually(lambda: watcher.statistics().connected)
        store("after")
        await told.wait_final("after")
    assert sorted(told.final()) == ["after", "before", "between"]


async def test_server_is_not_there_at_first(
    celery_app: Celery, store: Store, redis_server: EmbeddedServer, server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """A watcher may start before its server. Nothing is a problem that was not tried; what was is told, in the log once."""
    redis_server.stop()
    watcher = _watcher(celery_app)
    watcher.watch(["t"])
    assert (watcher.statistics().problem, watcher.statistics().connected) == ("", False)
    async with following(watcher) as told:
        await eventually(lambda: "cannot be received" in watcher.statistics().problem)
        redis_server.start()
        store("t")
        await told.wait_final("t")
        assert (watcher.statistics().problem, watcher.statistics().connected) == ("", True)
    assert caplog.text.count("results cannot be received") == 1
    assert caplog.text.count("results can be received again") == 1


async def test_sweep_finds_what_was_never_published(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """A result whose notice was lost on the way is found by the sweep, and counted as such."""
    store("elsewhere")
    payload = server.get(celery_app.backend.get_key_for_task("elsewhere"))
    watcher = _watcher(celery_app, pace=_SWEEPING)
    async with following(watcher) as told:
        watcher.watch(["t"])
        await _ready(watcher, told, store)
        # What makes it ready may have been found by the sweep as well.
        swept = watcher.statistics().swept
        server.set(celery_app.backend.get_key_for_task("t"), str(payload))
        await told.wait_final("t")
    assert watcher.statistics().swept == swept + 1


async def test_sending_meets_the_loss_of_the_connection(redis_server: EmbeddedServer) -> None:
    """A connection that is lost while something is sent is an outage, in whatever words the libraries tell of it."""
    async with _client(redis_server) as client:
        for lose in (lambda connection: connection.disconnect(nowait=True), _close_transport):
            subscription = Subscription(client.connection_pool)
            await subscription.open()
            await subscription.send("SUBSCRIBE", [b"first"])
            sending, _ = await asyncio.gather(
                subscription.send("SUBSCRIBE", [b"second"]), lose(subscription._connection), return_exceptions=True
            )
            # Whether it was sent before depends on Python's version.
            assert sending is None or isinstance(sending, redis.ConnectionError), repr(sending)
            await subscription.close()
            with pytest.raises(redis.ConnectionError):
                await subscription.send("SUBSCRIBE", [b"third"])
            with pytest.raises(redis.ConnectionError):
                await subscription.receive()


def _client(server: EmbeddedServer, **options: Any) -> Any:
    return redis.asyncio.Redis(unix_socket_path=str(server.socket_path), socket_timeout=5, **options)


async def _close_transport(connection: Any) -> None:
    connection._writer.transport.abort()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_everything_that_has_arrived_is_received(protocol: int, redis_server: EmbeddedServer, server: redis.Redis) -> None:
    """Whichever protocol is spoken: confirmations, many messages at once, and one that comes in parts."""
    async with _client(redis_server, protocol=protocol) as client:
        subscription = Subscription(client.connection_pool)
        await subscription.open()
        await subscription.send("SUBSCRIBE", [b"a", b"b"])
        arrived: list[list[Any]] = []

        async def arrive(number: int) -> None:
            while len(arrived) < number:
                arrived.extend(await subscription.receive())

        await arrive(2)
        assert arrived == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]
        arrived.clear()
        with server.pipeline(transaction=False) as pipe:
            for number in range(1000):
                pipe.publish("a", str(number))
            pipe.publish("b", "x" * 3_000_000)
            pipe.execute()
        await arrive(1001)
        assert [data for _, channel, data in arrived if channel == b"a"] == [b"%d" % number for number in range(1000)]
        assert arrived[-1] == [b"message", b"b", b"x" * 3_000_000]
        arrived.clear()
        await subscription.send("UNSUBSCRIBE", [b"a"])
        await arrive(1)
        assert arrived == [[b"unsubscribe", b"a", 1]]
        await subscription.close()


async def test_a_refused_subscription_is_an_error(redis_server: EmbeddedServer, server: redis.Redis) -> None:
    """What the server refuses is told in its words."""
    server.execute_command("ACL", "SETUSER", "mute", "on", "nopass", "+@all", "-subscribe")
    async with _client(redis_server, username="mute", password="x") as client:
        subscription = Subscription(client.connection_pool)
        await subscription.open()
        await subscription.send("SUBSCRIBE", [b"a"])
        with pytest.raises(redis.ResponseError, match=r"(?i)no permissions"):
            await subscription.receive()
        await subscription.close()


# --- strange contents -----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("payload", ["{", "[]", "{}", "null", '"text"', "\ud7ff"])
@pytest.mark.parametrize("path", ["pushed", "read"])
async def test_undecodable(payload: str, path: str, celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """What nobody can ever read fails its task with the reason, is counted, and holds up nobody else."""
    watcher = _watcher(celery_app)
    key = celery_app.backend.get_key_for_task("bad")
    if path == "read":
        server.set(key, payload)
    async with following(watcher) as told:
        watcher.watch(["bad", "good"])
        if path == "pushed":
            await _ready(watcher, told, store)
            server.set(key, payload)
            server.publish(key, payload)
        store("good")
        await told.wait_final("bad", "good")
    [bad] = [event for event in told.events if event.task_id == "bad"]
    assert isinstance(bad, TaskFailed)
    assert "cannot be decoded" in bad.error
    assert watcher.statistics().undecodable == 1


@pytest.mark.parametrize(
    "payload",
    [b"{", b"null", b'{"status": 7}', b"\xff\x00", b"", b"[" * 1_000_000],
    # Short ones: pytest puts them into the environment, which has a bound.
    ids=lambda payload: repr(payload[:20]),
)
async def test_noise_on_a_channel(payload: bytes, celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """What is published and makes no sense is no result: anybody can publish, and what is stored decides."""
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(["task"])
        await _ready(watcher, told, store)
        for _ in range(3):
            server.publish(celery_app.backend.get_key_for_task("task"), payload)
        await _ready(watcher, told, store)
        assert "task" not in told.final()
        store("task")
        await told.wait_final("task")
    [event] = [event for event in told.events if event.task_id == "task"]
    assert isinstance(event, TaskSucceeded)
    assert watcher.statistics().undecodable == 0


@pytest.mark.parametrize("path", ["pushed", "read"])
async def test_too_long_to_be_of_use(path: str, celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """A result far above what may be passed on is not decoded, which would hold up the loop: its state is all that is read."""
    watcher = _watcher(celery_app, value_bytes_max=1000)
    results = {"good": ("x" * 200_000, "SUCCESS"), "bad": (ValueError("x" * 200_000), "FAILURE"), "short": (1, "SUCCESS")}

    def store_all() -> None:
        for task_id, (result, state) in results.items():
            store(task_id, result, state)

    if path == "read":
        store_all()
    async with following(watcher) as told:
        watcher.watch(list(results))
        if path == "pushed":
            await _ready(watcher, told, store)
            store_all()
        await told.wait_final(*results)
    by_id = {event.task_id: event for event in told.events}
    good, bad = by_id["good"], by_id["bad"]
    assert isinstance(good, TaskSucceeded)
    assert good.value is None
    assert "bytes" in good.value_error
    assert isinstance(bad, TaskFailed)
    assert len(bad.error) < 1000
    assert by_id["short"] == TaskSucceeded("short", b"1")
    assert getattr(watcher.statistics(), path) >= 3


async def test_many_large_results_at_once(celery_app: Celery, store: Store) -> None:
    """Results that would not fit one reply are read in several, else the read would never end within its deadline."""
    ids = _ids(20)
    for task_id in ids:
        store(task_id, "x" * 1_500_000)
    watcher = _watcher(celery_app, pace=ResultsPace(sweep_s=600))
    async with following(watcher) as told:
        watcher.watch(ids)
        await told.wait_final(*ids)
    assert sorted(told.final()) == sorted(ids)
    assert (watcher.statistics().read, watcher.statistics().connections) == (20, 1)


async def test_key_of_another_kind(celery_app: Celery, store: Store, server: redis.Redis) -> None:
    """A key that is no string is no result, and the others are read."""
    server.rpush(celery_app.backend.get_key_for_task("list"), "x")
    store("good")
    watcher = _watcher(celery_app)
    async with following(watcher) as told:
        watcher.watch(["list", "good"])
        await told.wait_final("good")
    assert watcher.statistics().connections == 1
