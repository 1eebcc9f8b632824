"""The broker of a daemon that has none configured: kept running, as a child or as a process that outlives the daemon."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from celery import group
from click.testing import CliRunner

from dyrygentd.cli.serve import main as dyrygentd
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.kept import KeptServer
from dyrygentd.daemon.own_broker import Post, trouble_elsewhere
from dyrygentd.errors import BrokerUnavailable
from tests.support import tasks
from tests.support.broker import BrokerProcess, server_pid
from tests.support.daemon import ROOT, Daemon
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import records

pytestmark = pytest.mark.timeout(180)

_WAIT_S = 60


@pytest.fixture
def broker(short_tmp: Path) -> Iterator[BrokerProcess]:
    """A broker's process; it is not started."""
    with BrokerProcess(short_tmp) as broker:
        yield broker


def _daemon(directory: Path, *flags: str, **environment: str) -> Daemon:
    return Daemon(["--config", os.devnull, "--drain-timeout-s", "0.2", *flags], directory=directory, environment=environment)


def _damage(directory: Path) -> None:
    """Have the server give up at its next start."""
    log = next((directory / "appendonlydir").glob("*.incr.aof"))
    log.write_bytes(b"*1\r\n$7\r\nnothing\r\n" + log.read_bytes())


# --- a server that is kept ------------------------------------------------------------------------------------------


def test_started_again_though_nobody_could_be_told(short_tmp: Path) -> None:
    """Whoever is told may fail, on a full disk for one: the server is started again all the same."""
    told: list[str] = []

    def fail_once(problem: str) -> None:
        told.append(problem)
        if len(told) == 1:
            raise OSError("no space left on device")

    kept = KeptServer(EmbeddedServer(short_tmp), on_change=fail_once, pauses_s=(0.0,))
    kept.start()
    try:
        assert kept.server.pid is not None
        os.kill(kept.server.pid, signal.SIGKILL)
        wait_until(lambda: kept.restarts == 1 and kept.server.is_alive, timeout_s=_WAIT_S)
        wait_until(lambda: told[-1] == "")
    finally:
        kept.stop()


def test_started_again_with_its_data(short_tmp: Path) -> None:
    """A killed server is there again at once, with all that it had answered, as often as it is killed; it is told each time."""
    told: list[str] = []
    kept = KeptServer(EmbeddedServer(short_tmp), on_change=told.append, pauses_s=(0.0,))
    kept.start()
    try:
        with records(kept.server.url) as client:
            client.set("key", "value")
        for number in (1, 2, 3):
            assert kept.server.pid is not None
            os.kill(kept.server.pid, signal.SIGKILL)
            wait_until(lambda number=number: kept.restarts == number and not kept.problem)  # type: ignore[misc]
            with records(kept.server.url) as client:
                assert client.get("key") == "value"
        assert [bool(words) for words in told] == [True, False] * 3
        assert re.match(r"the daemon's own broker \(\w+-server [\d.]+\) was ended by SIGKILL, and is started again", told[0])
    finally:
        kept.stop()
    assert not kept.server.is_alive


def test_pauses_grow_and_have_a_bound(short_tmp: Path) -> None:
    """A server that cannot start is tried again after each pause, the last one repeated; reason and next step are told."""
    kept = KeptServer(EmbeddedServer(short_tmp, settings={"no-such-setting": "1"}), pauses_s=(0.0, 0.01, 0.02))
    kept.start(is_patient=True)
    try:
        log = short_tmp / "broker.log"
        wait_until(lambda: log.exists() and log.read_text().count("no-such-setting") >= 5)
        assert "does not run, and is tried again" in kept.problem
        assert "no-such-setting" in kept.problem
        assert f"next: all of its log is '{log}'" in kept.problem
        assert "\n" not in kept.problem
    finally:
        kept.stop()


def test_server_that_was_told_to_end_is_started_again(short_tmp: Path) -> None:
    """`SHUTDOWN` by some client ends it in good order, and is no reason to do without."""
    kept = KeptServer(EmbeddedServer(short_tmp), pauses_s=(0.0,))
    kept.start()
    try:
        with records(kept.server.url) as client:
            client.shutdown()
        wait_until(lambda: kept.restarts == 1 and not kept.problem)
    finally:
        kept.stop()


def test_stopping_ends_a_pause(short_tmp: Path) -> None:
    """A server that is waited for is not started any more when the daemon stops."""
    kept = KeptServer(EmbeddedServer(short_tmp), pauses_s=(1000.0,))
    kept.start()
    assert kept.server.pid is not None
    os.kill(kept.server.pid, signal.SIGKILL)
    wait_until(lambda: kept.problem)
    kept.stop()
    assert kept.restarts == 0
    assert not kept.server.is_alive


def test_first_start_that_fails_is_told(short_tmp: Path) -> None:
    """Who starts a daemon by hand sees at once that it has no broker."""
    kept = KeptServer(EmbeddedServer(short_tmp, settings={"no-such-setting": "1"}))
    with pytest.raises(BrokerUnavailable, match="no-such-setting"):
        kept.start()
    kept.stop()


# --- as a child of the daemon ---------------------------------------------------------------------------------------


def test_child_is_killed_under_a_daemon(short_tmp: Path) -> None:
    """The daemon goes on by itself: what was queued is there, and runs once."""
    with _daemon(short_tmp) as daemon, daemon.client() as client:
        url = f"redis+socket://{short_tmp}/broker.sock"
        handle = client.submit(group(tasks.echo.si(number) for number in range(10)))
        with records(url) as queue:
            wait_until(lambda: queue.llen("celery") == 10)
        os.kill(server_pid(short_tmp), signal.SIGKILL)
        wait_until(lambda: "was started again, with the data that it had" in daemon.log(), timeout_s=_WAIT_S)
        with CeleryWorker(url, log_directory=short_tmp), closing(Executions(url)) as executions:
            assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
            executions.assert_each_once(str(node.task_id) for node in handle.nodes() if node.kind == "task")
        wait_until(lambda: not client.health().problems, timeout_s=_WAIT_S)
        assert client.stats().engine["broker_emptied"] == 0


@pytest.mark.long
def test_child_that_cannot_start_again(short_tmp: Path) -> None:
    """`/healthz`, `explain`, the status line and the log say that it is the daemon's own, why it is down, and what to do."""
    with _daemon(short_tmp) as daemon, daemon.client() as client:
        handle = client.submit(group(tasks.echo.si(number) for number in range(2)))
        url = f"redis+socket://{short_tmp}/broker.sock"
        with records(url) as queue:
            wait_until(lambda: queue.llen("celery") == 2)
        _damage(short_tmp)
        os.kill(server_pid(short_tmp), signal.SIGKILL)
        wanted = re.compile(r"the daemon's own broker does not run, and is tried again: .*; next: copy '.*' before anything else")
        wait_until(lambda: any(map(wanted.match, client.health().problems)), timeout_s=_WAIT_S)
        assert any(map(wanted.match, handle.explain().problems))
        wait_until(lambda: wanted.search(daemon.status_line()), timeout_s=_WAIT_S)
        assert wanted.search(daemon.log())
        assert daemon.get("/readyz")[0] == 503
        log = next((short_tmp / "appendonlydir").glob("*.incr.aof"))
        log.write_bytes(log.read_bytes().removeprefix(b"*1\r\n$7\r\nnothing\r\n"))
        wait_until(lambda: not client.health().problems, timeout_s=_WAIT_S)
        with records(url) as queue:
            assert queue.llen("celery") == 2


# --- as a process of its own ----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_tasks_go_on_while_the_daemon_is_replaced(end: str, broker: BrokerProcess, short_tmp: Path) -> None:
    """Restarted or killed twice amid a group of 100: each task is executed once, none fails, and none is stranded."""
    assert "answers at" in broker.start()["STATUS"]
    daemon = _daemon(short_tmp)
    with (
        CeleryWorker(broker.url, log_directory=short_tmp, pool="prefork", concurrency=2),
        closing(Executions(broker.url)) as executions,
        daemon,
        daemon.client() as client,
    ):
        halves = [group([tasks.wait_for.si(gate)] * 50) for gate in ("first", "second")]
        handle = client.submit(halves[0] | halves[1])
        for number, gate in enumerate(("first", "second")):
            wait_until(lambda number=number: len(executions.started()) > 50 * number, timeout_s=_WAIT_S)  # type: ignore[misc]
            wait_until(lambda: handle.status().counts.get("dispatched") == 50, timeout_s=_WAIT_S)
            getattr(daemon, end)()
            # The broker is there while the daemon is not, and so are the workers' tasks.
            executions.release(gate, count=50)
            wait_until(lambda number=number: len(executions.finished()) == 50 * (number + 1), timeout_s=_WAIT_S)  # type: ignore[misc]
            daemon.start()
        assert handle.wait(timeout_s=_WAIT_S).state == "succeeded"
        executions.assert_each_once(str(node.task_id) for node in handle.nodes() if node.kind == "task")
        assert client.stats().engine["counters"]["lost"] == 0
        with records(broker.url) as client_of_broker:
            assert client_of_broker.hlen("unacked") == 0
    assert "using the one of `dyrygentd broker`" in daemon.log()
    assert broker.stop() == -signal.SIGTERM


@pytest.mark.long
def test_keeper_starts_its_server_again(broker: BrokerProcess, short_tmp: Path) -> None:
    """A server that is killed is there again, and both the keeper and the daemon say what was wrong."""
    broker.start()
    with _daemon(short_tmp) as daemon, daemon.client() as client:
        handle = client.submit(group(tasks.echo.si(number) for number in range(2)))
        with records(broker.url) as queue:
            wait_until(lambda: queue.llen("celery") == 2)
        _damage(short_tmp)
        broker.notify.forget()
        os.kill(server_pid(short_tmp), signal.SIGKILL)
        wait_until(lambda: "does not run" in broker.notify.wait_for("STATUS")["STATUS"])
        wanted = "the daemon's own broker does not run, and is tried again"
        wait_until(lambda: any(problem.startswith(wanted) for problem in client.health().problems), timeout_s=_WAIT_S)
        assert any(problem.startswith(wanted) for problem in handle.explain().problems)
        log = next((short_tmp / "appendonlydir").glob("*.incr.aof"))
        log.write_bytes(log.read_bytes().removeprefix(b"*1\r\n$7\r\nnothing\r\n"))
        wait_until(lambda: not client.health().problems, timeout_s=_WAIT_S)


@pytest.mark.long
def test_daemon_waits_for_its_unit(broker: BrokerProcess, short_tmp: Path) -> None:
    """Where a unit keeps the broker the daemon starts none, names the unit, and goes on when it is there."""
    with _daemon(short_tmp, DYRYGENTD_BROKER_UNIT="dyrygentd-broker.service") as daemon, daemon.client() as client:
        wanted = "is not kept by anybody"
        wait_until(lambda: any(wanted in problem for problem in client.health().problems), timeout_s=_WAIT_S)
        [problem] = [problem for problem in client.health().problems if wanted in problem]
        assert "next: `systemctl status dyrygentd-broker.service`" in problem
        assert not (short_tmp / "broker.sock").exists()
        broker.start()
        wait_until(lambda: not client.health().problems, timeout_s=_WAIT_S)


def test_words_for_a_broker_that_another_process_keeps(short_tmp: Path) -> None:
    """Nothing is said while nothing is wrong; else whether it is kept, what the keeper knows, and where to look."""
    keeper, post, unit = Post(short_tmp), Post(short_tmp), "dyrygentd-broker.service"
    assert trouble_elsewhere("", unit, "", post) == ""
    assert "not kept by anybody: gone; next: `systemctl status" in trouble_elsewhere("gone", unit, "", post)
    assert "start `dyrygentd broker` again" in trouble_elsewhere("gone", "", "", post)
    keeper.hold()
    assert "does not answer: gone; next: `systemctl status dyrygentd-broker" in trouble_elsewhere("gone", unit, "", post)
    keeper.write("the disk is full")
    assert trouble_elsewhere("gone", unit, post.read(), post) == "the disk is full (gone)"


def test_one_keeper_for_a_directory(broker: BrokerProcess, short_tmp: Path) -> None:
    """A second one ends with the reason; one that was killed leaves nothing in the way of the next."""
    broker.start()
    result = CliRunner().invoke(dyrygentd, ["broker", "--database", str(short_tmp / "state.db"), "--config", os.devnull])
    assert result.exit_code == 1
    assert "another `dyrygentd broker` keeps the broker" in result.output
    broker.stop(signal.SIGKILL)
    assert not Post(short_tmp).look()
    broker.start()
    assert Post(short_tmp).look()


@pytest.mark.parametrize(
    "setting",
    [["--broker", "redis://broker.example/0"], ["--app", "shop:app"], ["--database", "postgresql://db.example/ops"]],
)
def test_out_of_the_way_where_one_is_configured(setting: list[str], short_tmp: Path) -> None:
    """With a broker, an app, or a database that is no file nothing is started, which is no failure; systemd is told why."""
    with BrokerProcess(short_tmp, setting) as broker:
        assert "none of our own is needed" in broker.start()["STATUS"]
        assert broker.wait() == 0
        assert "none of our own is needed" in broker.log()
    assert not (short_tmp / "broker.sock").exists()


def test_start_that_nobody_expects_to_fail_ends_the_process(short_tmp: Path) -> None:
    """systemd learns at once that it cannot start, and why; without a server it would wait in vain for one that gets ready."""
    (short_tmp / "sitecustomize.py").write_text(
        "from dyrygentd.daemon.embedded import EmbeddedServer\ndef broken(self):\n    raise RuntimeError('a bug')\n"
        "EmbeddedServer.start = broken\n"
    )
    command = [sys.executable, "-m", "dyrygentd", "broker", "--config", os.devnull, "--database", str(short_tmp / "state.db")]
    environment = {**os.environ, "PYTHONPATH": f"{short_tmp}:{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "RuntimeError: a bug"
