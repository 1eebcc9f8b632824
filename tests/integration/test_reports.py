"""Reports of real workers to the real daemon, which is killed, and a Redis that refuses, forgets, or has only the messages."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.integration.conftest import IS_FULL, Site
from tests.support.directories import short_directory
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_TASK = "tests.conformance.companion.handed_on"
_APP = "tests.conformance.companion"


@pytest.fixture
def companion_site(request: pytest.FixtureRequest) -> Iterator[tuple[Site, CeleryWorker, redis.Redis]]:
    """A server, a worker with the companion and two processes, and a client for orders to the server."""
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        server = exits.enter_context(EmbeddedServer(directory))
        results = getattr(request, "param", "").format(directory=directory) or server.url
        (directory / "results").mkdir()
        worker = CeleryWorker(
            *(server.url, results),
            log_directory=directory,
            records_url=server.url,
            app=_APP,
            pool="prefork",
        )
        exits.callback(worker.stop)
        worker.start()
        executions = Executions(server.url)
        exits.callback(executions.close)
        orders = exits.enter_context(records(server.url))
        yield Site(server, executions, directory), worker, orders


def _waiting(gate: str) -> dict[str, Any]:
    """Define a task that becomes another one, which stores nothing: only its report tells of its end."""
    return {"nodes": [{"name": "n", "task": _TASK, "args": ["quiet_at", gate]}]}


def _length(orders: redis.Redis) -> int:
    return sum(int(str(orders.xlen(stream))) for stream in orders.scan_iter("dyrygentd:reports:*"))


@pytest.mark.long
def test_daemon_is_killed_before_the_report(companion_site: tuple[Site, CeleryWorker, redis.Redis]) -> None:
    """What is reported while no daemon runs is read by the next one, and what was read before is not missed."""
    site, _, orders = companion_site
    daemon = site.daemon()
    with daemon, daemon.client() as client:
        first = client.submit(_waiting("first"))
        site.executions.release("first", value="one")
        assert first.wait(timeout_s=60).result == "one", daemon.log()
        second = client.submit(_waiting("second"))
        wait_until(lambda: client.stats().reports["read"]["REPLACED"] == 2, message=daemon.log)
        daemon.kill()
        before = _length(orders)
        site.executions.release("second", value="two")
        wait_until(lambda: _length(orders) == before + 1)
        daemon.start()
        assert second.wait(timeout_s=60).result == "two", daemon.log()
        reports = client.stats().reports
        assert (reports["gaps"], reports["problem"]) == (0, "")
        assert sum(site.executions.counts().values()) == 4


@pytest.mark.long
def test_daemon_is_killed_again_and_again(companion_site: tuple[Site, CeleryWorker, redis.Redis]) -> None:
    """Of many tasks whose ends are nowhere but in reports, none is missed, wherever a kill hits the daemon."""
    site, _, _ = companion_site
    count, kills = (600, 12) if IS_FULL else (80, 3)
    daemon = site.daemon()
    nodes = [{"name": f"n{number}", "task": _TASK, "args": ["quiet"]} for number in range(count)]
    with daemon, daemon.client() as client:
        handle = client.submit({"nodes": nodes})
        for kill in range(1, kills + 1):
            # Two executions each: the task, and what it is replaced by.
            wanted = 2 * count * kill // (kills + 1)
            wait_until(lambda wanted=wanted: sum(site.executions.counts().values()) >= wanted, message=daemon.log)  # type: ignore[misc]
            daemon.kill()
            daemon.start()
        assert handle.wait(timeout_s=90).state == "succeeded", (handle.status(), daemon.log())
        assert set(site.executions.counts().values()) == {2}
        assert client.stats().reports["gaps"] == 0


@pytest.mark.long
def test_stream_is_deleted(companion_site: tuple[Site, CeleryWorker, redis.Redis]) -> None:
    """If somebody takes the stream away, later reports are read."""
    site, _, orders = companion_site
    daemon = site.daemon()
    with daemon, daemon.client() as client:
        first = client.submit(_waiting("first"))
        site.executions.release("first", value="one")
        assert first.wait(timeout_s=60).result == "one", daemon.log()
        orders.delete(*orders.scan_iter("dyrygentd:reports:*"))
        second = client.submit(_waiting("second"))
        site.executions.release("second", value="two")
        assert second.wait(timeout_s=60).result == "two", daemon.log()
        assert client.health().status == "ok"


def test_redis_refuses_reports(companion_site: tuple[Site, CeleryWorker, redis.Redis]) -> None:
    """Tasks and results go on as without reports, with one warning; what was reported meanwhile comes later."""
    site, worker, orders = companion_site
    daemon = site.daemon()
    with daemon, daemon.client() as client:
        orders.execute_command("ACL", "SETUSER", "default", "-xadd")
        nodes = [{"name": f"n{number}", "task": "tests.support.tasks.identity", "args": [number]} for number in range(20)]
        assert client.submit({"nodes": nodes}).wait(timeout_s=60).state == "succeeded", daemon.log()
        last = client.submit(_waiting("last"))
        site.executions.release("last", value="late")
        wait_until(lambda: len(site.executions.finished()) >= 21)
        orders.execute_command("ACL", "SETUSER", "default", "+xadd")
        assert last.wait(timeout_s=60).result == "late", daemon.log()
        assert worker.log().count("cannot report to dyrygentd") == 1
        assert "Traceback" not in worker.log()


@pytest.mark.long
@pytest.mark.parametrize("companion_site", ["file://{directory}/results"], indirect=True)
def test_results_are_elsewhere(companion_site: tuple[Site, CeleryWorker, redis.Redis]) -> None:
    """With results in files the stream is beside the queues, and tells what the files do not."""
    site, _, _ = companion_site
    daemon = site.daemon("daemon", "--result-backend", f"file://{site.directory}/results")
    with daemon, daemon.client() as client:
        handle = client.submit(_waiting("gate"))
        site.executions.release("gate", value="one")
        assert handle.wait(timeout_s=60).result == "one", daemon.log()
        assert client.stats().reports["place"] == "broker"
