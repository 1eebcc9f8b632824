"""Real daemons with copies of one database on one broker: one at a time publishes, and the other one says who does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu.utils.json import loads

from dyrygentd import Workflow
from dyrygentd.client.sync import Client
from dyrygentd.errors import DyrygentError
from tests.integration.conftest import Site
from tests.support import tasks
from tests.support.daemon import Daemon, DaemonEnded
from tests.support.servers import wait_until
from tests.support.tasks import records

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_FENCED = 5
_TASKS, _PUSHED = 20, 5


def _flat(name: str, count: int = _TASKS) -> Workflow:
    workflow = Workflow(name)
    for number in range(count):
        workflow.add(tasks.echo.si(number), name=f"n{number}")
    return workflow


def _command(*arguments: object) -> str:
    command = [sys.executable, "-m", "dyrygentd", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _queued(site: Site) -> Counter[str]:
    """Return how many messages of each task are in the queue; no worker takes any."""
    with records(site.server.url) as broker:
        return Counter(loads(each)["headers"]["id"] for each in broker.lrange("celery", 0, -1))


@pytest.fixture
def pair(quiet_site: Site) -> tuple[Daemon, Daemon]:
    """Two daemons with directories of their own, which are not started."""
    flags = ("--in-flight-max", str(_PUSHED), "--lost-after-s", "600")
    return quiet_site.daemon("first", *flags), quiet_site.daemon("second", *flags)


def _copied(first: Daemon, second: Daemon) -> None:
    """Give the second one a copy of the database that the first one works on."""
    _command("backup", second.database_path, "--database", first.database_path)


class _Asked:
    """Something that is asked of a daemon in a thread: what came of it."""

    def __init__(self, daemon: Daemon, what: Callable[[Client], Any]) -> None:
        self.done: Any = None
        self.error: DyrygentError | None = None
        self._client = daemon.client()
        self._what = what
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._client as client:
                self.done = self._what(client)
        except DyrygentError as error:
            self.error = error

    def wait(self) -> "_Asked":
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self


@pytest.mark.long
def test_copy_is_started_beside_the_first(pair: tuple[Daemon, Daemon], quiet_site: Site) -> None:
    """The copy's daemon takes over; the first one answers no cancel with success, names who has taken over, and stays down."""
    first, second = pair
    with first, first.client() as client:
        handle = client.submit(_flat("work"))
        wait_until(lambda: _queued(quiet_site).total() == _PUSHED)
        assert client.health().term == client.stats().engine["term"] == first.metric("dyrygentd_term") == 1
        assert "term 1 of this database" in first.log()
        _copied(first, second)
        with second, second.client() as other:
            assert other.health().term == 2
            cancelled = _Asked(first, lambda client: client.handle(handle.id).cancel()).wait()
            assert cancelled.error is not None, cancelled.done
            assert first.wait(timeout_s=30) == _FENCED, first.log()
            told = f"process {second.pid} on"
            assert f"{told}" in first.log()
            assert "holds term 2; this one has term 1" in first.log()
            # Started again and again by whoever looks after it, it changes nothing, also not its own number.
            for _ in range(2):
                with pytest.raises(DaemonEnded, match=told):
                    first.start()
                assert first.wait(timeout_s=5) == _FENCED
            assert other.handle(handle.id).status().state == "running"
            assert second.is_alive
            # The second one is whole: it cancels what it has, and that counts.
            assert other.handle(handle.id).cancel().state == "cancelled"
            wait_until(lambda: not _queued(quiet_site))
        # With the second one stopped it takes a person to say that the first one is to go on.
        with pytest.raises(DaemonEnded, match=told):
            first.start()
        assert "takes" in _command("claim", "--database", first.database_path)
    with first, first.client() as client:
        assert client.health().term == 3
        with pytest.raises(DaemonEnded, match=f"process {first.pid} on"):
            second.start()
    # A claim counts once.
    with first, first.client() as client:
        assert client.health().term == 4


def test_stopped_while_another_takes_over(pair: tuple[Daemon, Daemon], quiet_site: Site) -> None:
    """A process that was stopped and goes on publishes nothing, and promises nothing, whatever it was asked meanwhile."""
    first, second = pair
    with first, first.client() as client:
        handle = client.submit(_flat("work"))
        wait_until(lambda: _queued(quiet_site).total() == _PUSHED)
        _copied(first, second)
        first_pid = first.pid
        os.kill(first_pid, signal.SIGSTOP)
        with second, second.client() as other:
            before = _queued(quiet_site)
            assert set(before.values()) == {1}
            # They are in its sockets when it goes on.
            asked = [
                _Asked(first, lambda client: client.submit(_flat("too late", 3))),
                _Asked(first, lambda client: client.handle(handle.id).cancel()),
                _Asked(first, lambda client: client.handle(handle.id).pause()),
            ]
            os.kill(first_pid, signal.SIGCONT)
            for each in asked:
                error = each.wait().error
                assert error is not None, each.done
                # Who is asked while it leaves may find nobody; and a verb may be refused, after another one that is not answered.
                assert error.code in ("fenced", "daemon-unreachable", "verb-refused")
            assert first.wait(timeout_s=30) == _FENCED, first.log()
            assert _queued(quiet_site) == before
            assert other.handle(handle.id).status().state == "running"
            assert other.stats().engine["broker_emptied"] == 0


@pytest.mark.long
def test_restored_backup_goes_on(pair: tuple[Daemon, Daemon], quiet_site: Site) -> None:
    """An old backup that was put back with `restore` starts as ever, however many terms were since; put by hand it asks."""
    first, _ = pair
    copy = first.directory / "copy.db"
    with first, first.client() as client:
        client.submit(_flat("work", 3))
        wait_until(lambda: _queued(quiet_site).total() == 3)
        _command("backup", copy, "--database", first.database_path)
    for _ in range(2):
        with first:
            pass
    shutil.copy(copy, first.database_path)
    with pytest.raises(DaemonEnded, match="dyrygentd claim"):
        first.start()
    assert first.wait(timeout_s=5) == _FENCED
    _command("restore", copy, "--database", first.database_path)
    with first, first.client() as client:
        assert client.health().term == 4
        assert "restored from" in "\n".join(client.health().notices)
        wait_until(lambda: "goes on with term 4, as it was meant to: restored from" in first.log())
    with first, first.client() as client:
        assert client.health().term == 5


@pytest.mark.long
def test_claim_leaves_the_log_of_a_killed_daemon(pair: tuple[Daemon, Daemon]) -> None:
    """What was in the write-ahead log is there after a claim, and nobody takes it for lost."""
    first, _ = pair
    with first, first.client() as client:
        workflow_id = client.submit(_flat("work", 2)).id
        with pytest.raises(AssertionError, match="in use by process"):
            _command("claim", "--database", first.database_path)
        first.kill()
    said = json.loads(_command("claim", "--json", "--database", first.database_path))
    assert said == {"database": str(first.database_path)}
    with first, first.client() as client:
        assert client.handle(workflow_id).status().state == "running"
        assert client.stats().engine["setbacks"] == 0
        assert client.health().term == 2


@pytest.mark.long
def test_broker_that_was_emptied_or_away(pair: tuple[Daemon, Daemon], quiet_site: Site) -> None:
    """The term is told again to a broker that has lost it, and told later to one that was away at the start."""
    first, second = pair

    def told() -> list[str]:
        with records(quiet_site.server.url) as broker:
            return [str(term).split()[0] for key in broker.keys("dyrygentd:ledger:*") if (term := broker.hget(key, "term"))]

    with first, first.client() as client:
        client.submit(_flat("work", 2))
        wait_until(lambda: _queued(quiet_site).total() == 2)
        assert told() == ["1"]
        _copied(first, second)
        with records(quiet_site.server.url) as broker:
            broker.flushall()
        wait_until(lambda: told() == ["1"], timeout_s=30)
    quiet_site.server.stop()
    with first:
        assert "is told of the term later" in first.log() or "term 2" in first.log()
        quiet_site.server.start()
        wait_until(lambda: told() == ["2"], timeout_s=30, message=first.log)
        # The copy is of term 1, and has heard of no other.
        with pytest.raises(DaemonEnded, match=f"process {first.pid} on"):
            second.start()


@pytest.fixture(autouse=True)
def _nobody_stays_stopped(pair: tuple[Daemon, Daemon]) -> Iterator[None]:
    yield
    for daemon in pair:
        if daemon.is_alive:
            with suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGCONT)
            daemon.kill()
