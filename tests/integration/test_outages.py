"""Outages of the broker and the result backend, under the real daemon: it stays, says what is wrong, and goes on by itself.

The worker starts when the outage is over: how Celery's own workers get over one is theirs.
"""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pytest
import redis
from celery import chain, group

from dyrygentd.client.sync import Client
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import DyrygentError
from tests.integration.conftest import IS_FULL, Site, running_site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

_TASKS = 20
_WAIT_S = 120
#: A daemon says what is wrong, and that it is over, not what it tries in between.
_LINES_MAX = 12

Break = Callable[[EmbeddedServer, redis.Redis], object]


@dataclass(frozen=True)
class Outage:
    """Something that keeps a server from its work.

    Attributes:
        words: What the daemon must say about it.
    """

    begin: Break
    end: Break
    words: str


def _signal(server: EmbeddedServer, number: signal.Signals) -> None:
    assert server.pid is not None
    os.kill(server.pid, number)


def _without_clients(server: EmbeddedServer, orders: redis.Redis, *commands: str) -> None:
    """Give orders, then cut off everybody else, so that they have to connect again."""
    for command in commands:
        orders.execute_command(*command.split(" "))
    orders.client_kill_filter(_type="normal", skipme=True)
    orders.client_kill_filter(_type="pubsub")


OUTAGES = {
    "gone": Outage(lambda server, _: server.stop(), lambda server, _: server.start(), "No such file|refused|Connection"),
    "killed": Outage(lambda server, _: server.kill(), lambda server, _: server.start(), "No such file|refused|Connection"),
    "stopped": Outage(
        lambda server, _: _signal(server, signal.SIGSTOP),
        lambda server, _: _signal(server, signal.SIGCONT),
        "does not answer|nothing was received|Timeout",
    ),
    "out of memory": Outage(
        lambda _, orders: orders.config_set("maxmemory", "1mb") and orders.config_set("maxmemory-policy", "noeviction"),
        lambda _, orders: orders.config_set("maxmemory", "0"),
        "it is full",
    ),
    "read-only replica": Outage(
        lambda _, orders: orders.replicaof("127.0.0.1", "1"),
        lambda _, orders: orders.replicaof("NO", "ONE"),
        "it is a replica",
    ),
    "password changed": Outage(
        lambda server, orders: _without_clients(server, orders, "CONFIG SET requirepass secret"),
        lambda _, orders: orders.execute_command("ACL", "SETUSER", "default", "nopass"),
        "user or password of the URL are not accepted",
    ),
    "scripts forbidden": Outage(
        lambda _, orders: orders.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha"),
        lambda _, orders: orders.execute_command("ACL", "SETUSER", "default", "+eval", "+evalsha"),
        "'evalsha' command; its ACL forbids that",
    ),
    "subscribing forbidden": Outage(
        lambda server, orders: _without_clients(server, orders, "ACL SETUSER default -subscribe -publish"),
        lambda _, orders: orders.execute_command("ACL", "SETUSER", "default", "+subscribe", "+publish"),
        "'subscribe' command; its ACL forbids that",
    ),
    "paused": Outage(
        lambda _, orders: orders.client_pause(15_000, all=True),
        lambda _, orders: orders.ping(),
        "does not answer|nothing was received|Timeout",
    ),
    "too many clients": Outage(
        lambda server, orders: _without_clients(server, orders, "CONFIG SET maxclients 1"),
        lambda _, orders: orders.config_set("maxclients", "1000"),
        "raise its `maxclients`",
    ),
}


@contextmanager
def _outage(outage: Outage, server: EmbeddedServer) -> Iterator[None]:
    """Break the server, and mend it at the end; connections of ours that it cuts are made anew."""
    with records(server.url) as orders:
        orders.ping()
        outage.begin(server, orders)
        try:
            yield
        finally:
            outage.end(server, orders)


def _problems(client: Client) -> str:
    return "; ".join(client.health().problems)


def _readiness(daemon: Daemon) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_WAIT_S)
        connection.connect(str(daemon.socket_path))
        connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return int(connection.recv(100).split()[1])


@pytest.fixture(scope="module")
def lonely() -> Iterator[tuple[Site, Daemon]]:
    """A server and a daemon without workers, which the outages of this module share."""
    with running_site(workers=0) as site, site.daemon("outages") as daemon:
        yield site, daemon


@pytest.mark.long
@pytest.mark.parametrize("name", OUTAGES)
def test_outage(name: str, lonely: tuple[Site, Daemon]) -> None:
    """The daemon says what is wrong and takes work meanwhile; when it is over all goes on, and each task is sent once."""
    outage, (site, daemon) = OUTAGES[name], lonely
    said_before = len(_said(daemon))
    with daemon.client() as client, records(site.server.url) as orders:
        wait_until(lambda: client.health().status == "ok", timeout_s=_WAIT_S, message=lambda: str(client.health()))
        queued, published = orders.llen("celery"), client.stats().dispatcher["published"]
        with _outage(outage, site.server):
            handle = client.submit(group(tasks.noop.si() for _ in range(_TASKS)))
            wait_until(
                lambda: re.search(outage.words, _problems(client)),
                timeout_s=_WAIT_S,
                message=lambda: f"it says {_problems(client)!r}",
            )
            assert client.health().status == "degraded"
            wait_until(lambda: re.search(outage.words, daemon.status_line()), message="systemd is not told")
            assert _readiness(daemon) == 503
            assert handle.status().state == "running"
        wait_until(lambda: client.health().status == "ok", timeout_s=_WAIT_S, message=lambda: str(client.health()))
        assert _readiness(daemon) == 200
        wait_until(lambda: handle.status().counts == {"dispatched": _TASKS}, timeout_s=_WAIT_S)
        assert orders.llen("celery") == queued + _TASKS
        assert client.stats().dispatcher["published"] == published + _TASKS
        assert client.stats().engine["broker_emptied"] == 0
    said = _said(daemon)[said_before:]
    assert len(said) <= _LINES_MAX, "\n".join(said)
    assert "Traceback" not in daemon.log()


def _said(daemon: Daemon) -> list[str]:
    lines = [line for line in daemon.log().splitlines() if re.search("WARNING|ERROR|warning|error", line)]
    # Nobody listens for its status any more.
    return [line for line in lines if "cannot notify systemd" not in line]


@pytest.mark.long
def test_gone_at_the_start(quiet_site: Site) -> None:
    """A daemon that starts before its broker takes work, says that it waits, and begins when the broker is there."""
    site = quiet_site
    site.server.stop()
    with site.daemon() as daemon, daemon.client() as client:
        handle = client.submit(group(tasks.noop.si() for _ in range(_TASKS)))
        wait_until(lambda: client.health().status == "degraded")
        site.server.start()
        with CeleryWorker(site.server.url, log_directory=site.directory):
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()
        assert client.stats().engine["broker_emptied"] == 0
        site.executions.assert_each_once(str(node.task_id) for node in handle.nodes() if node.task_id)


@pytest.mark.long
def test_server_is_loading() -> None:
    """A server that comes back and still reads its data says so, and is waited for."""
    keys = 10_000
    with (
        running_site(workers=0, settings={"key-load-delay": "1000"}) as site,
        site.daemon() as daemon,
        daemon.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        with records(site.server.url) as orders, orders.pipeline(transaction=False) as pipeline:
            for number in range(keys):
                pipeline.set(f"key{number}", number)
            pipeline.execute()
        site.server.kill()
        handle = client.submit(group(tasks.noop.si() for _ in range(_TASKS)))
        started = pool.submit(site.server.start)
        # It may be seen more than once or only just.
        wait_until(lambda: "it is reading its data: wait" in _problems(client) and _readiness(daemon) == 503, timeout_s=_WAIT_S)
        started.result(timeout=_WAIT_S)
        with CeleryWorker(site.server.url, log_directory=site.directory):
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()
        assert client.stats().engine["broker_emptied"] == 0
        site.executions.assert_each_once(str(node.task_id) for node in handle.nodes() if node.task_id)
        assert "Traceback" not in daemon.log()


@pytest.mark.long
def test_scripts_are_flushed(quiet_site: Site, redis_server: EmbeddedServer) -> None:
    """A server that forgets its scripts is given them again, and each task is sent once."""
    site = quiet_site
    # The tasks' own records are made by scripts as well, so they are elsewhere.
    worker = CeleryWorker(site.server.url, log_directory=site.directory, records_url=redis_server.url)
    with (
        worker,
        closing(Executions(redis_server.url)) as executions,
        site.daemon() as daemon,
        daemon.client() as client,
        records(site.server.url) as orders,
    ):
        handles = []
        for _ in range(5):
            handles.append(client.submit(chain(tasks.noop.si() for _ in range(10))))
            orders.script_flush()
        for handle in handles:
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()
            executions.assert_each_once(str(node.task_id) for node in handle.nodes() if node.task_id)
        wait_until(lambda: client.health().status == "ok", message=lambda: str(client.health()))
        # One that is forgotten again while it is given is an outage of a moment, and nothing of it was sent.
        assert not [line for line in _said(daemon) if not re.search("NoScriptError|the broker answers again", line)]


@pytest.mark.long
def test_slow_subscriber_is_cut_off(quiet_site: Site) -> None:
    """A daemon that reads too slowly for large results is cut off by the server; it reads what it missed, and all arrive."""
    site, count = quiet_site, 40
    with site.daemon() as daemon, daemon.client() as client, records(site.server.url) as orders:
        # Less than one of these values: Valkey counts only the first of those that wait.
        orders.config_set("client-output-buffer-limit", "pubsub 131072 131072 1")
        handle = client.submit(group(tasks.big.si(200_000) for _ in range(count)))
        wait_until(lambda: handle.status().counts == {"dispatched": count})
        assert orders.client_list(_type="pubsub")
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            with CeleryWorker(site.server.url, log_directory=site.directory):
                wait_until(lambda: len(site.executions.ended()) == count, timeout_s=_WAIT_S)
                wait_until(lambda: not _fed(orders))
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert outcome.state == "succeeded"
        assert isinstance(outcome.result, list)
        assert [len(value) for value in outcome.result] == [200_000] * count
        assert client.stats().watcher["connections"] >= 2
        assert client.stats().watcher["read"] >= 1


def _fed(orders: redis.Redis) -> list[str]:
    """Return the subscribers that listen for results of tasks."""
    return [client["id"] for client in orders.client_list(_type="pubsub") if int(client["sub"]) > 10]


@pytest.mark.skipif(not IS_FULL, reason="set DYRYGENTD_TEST_FULL=1 for a minute's pause")
def test_stopped_for_a_minute(own_site: Site) -> None:
    """A server that stands still for a minute, with a worker at work, costs that minute and nothing else."""
    site = own_site
    with site.daemon() as daemon, daemon.client() as client:
        handle = client.submit(group(tasks.sleep.si(0.01) for _ in range(500)))
        _signal(site.server, signal.SIGSTOP)
        with pytest.raises(DyrygentError):
            handle.wait(timeout_s=60)
        _signal(site.server, signal.SIGCONT)
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()


def test_backend_alone_is_gone(quiet_site: Site, redis_server: EmbeddedServer) -> None:
    """Without the result backend tasks are sent all the same; their results are read when it is back."""
    site = quiet_site
    daemon = Daemon(
        ["--broker", site.server.url, "--result-backend", redis_server.url, "--drain-timeout-s", "0.2"], directory=site.directory
    )
    with daemon, daemon.client() as client, records(site.server.url) as broker:
        wait_until(lambda: client.health().status == "ok", message=lambda: str(client.health()))
        redis_server.stop()
        handle = client.submit(group(tasks.noop.si() for _ in range(_TASKS)))
        wait_until(lambda: broker.llen("celery") == _TASKS)
        wait_until(lambda: "results cannot be received" in _problems(client))
        redis_server.start()
        worker = CeleryWorker(site.server.url, redis_server.url, log_directory=site.directory, records_url=site.server.url)
        with worker:
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()
        site.executions.assert_each_once(str(node.task_id) for node in handle.nodes() if node.task_id)


@pytest.mark.long
def test_database_backend_is_gone(quiet_site: Site) -> None:
    """Where results are polled from a database that is away for a while, tasks are sent, it is told, and results come later."""
    site, results = quiet_site, quiet_site.directory / "results"
    results.mkdir()
    url = f"db+sqlite:///{results}/results.db"
    daemon = Daemon(["--broker", site.server.url, "--result-backend", url, "--drain-timeout-s", "0.2"], directory=site.directory)
    with daemon, daemon.client() as client, records(site.server.url) as broker:
        first = client.submit(tasks.noop.si())
        with CeleryWorker(site.server.url, url, log_directory=site.directory, records_url=site.server.url):
            assert first.wait(timeout_s=_WAIT_S).state == "succeeded"
        (results / "results.db").rename(site.directory / "away")
        (results / "results.db").mkdir()
        handle = client.submit(group(tasks.noop.si() for _ in range(_TASKS)))
        wait_until(lambda: broker.llen("celery") == _TASKS)
        wait_until(lambda: "unable to open database file" in _problems(client), message=lambda: str(client.health()))
        assert _readiness(daemon) == 503
        (results / "results.db").rmdir()
        (site.directory / "away").rename(results / "results.db")
        wait_until(lambda: client.health().status == "ok", message=lambda: str(client.health()))
        with CeleryWorker(site.server.url, url, log_directory=site.directory, records_url=site.server.url):
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded", daemon.log()
        site.executions.assert_each_once(str(node.task_id) for node in handle.nodes() if node.task_id)
        assert "Traceback" not in daemon.log()
