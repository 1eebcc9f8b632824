"""What systemd is told and tells, against a real notify socket: notifications, the watchdog, time to start and stop, secrets."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import anyio
import pytest

from dyrygentd.client.sync import Client
from dyrygentd.core.events import DrainRequested
from dyrygentd.daemon import config, keepalive
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.systemd import Notifier, credentials
from dyrygentd.errors import ConfigurationError
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import GatedMemory, definition, scheduler, until
from tests.support.activation import NotifySocket, Service
from tests.support.daemon import Daemon
from tests.support.servers import wait_until

DEFINITION = {"nodes": [{"name": "one", "task": "nobody.runs.this"}]}


@pytest.fixture
def arguments(redis_server: EmbeddedServer, short_tmp: Path) -> list[str]:
    """Flags for a daemon on this test's server."""
    return ["--broker", redis_server.url, "--socket", str(short_tmp / "dyrygentd.sock")]


@pytest.mark.parametrize("is_abstract", [False, True])
def test_messages_arrive(short_tmp: Path, is_abstract: bool) -> None:
    """READY, STATUS and STOPPING arrive on a socket in the file system and on an abstract one."""
    address = f"@{short_tmp}" if is_abstract else str(short_tmp / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + address[1:] if is_abstract else address)
        receiver.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": address})
        notifier.ready("fine")
        notifier.status("busy")
        notifier.stopping("bye")
        messages = [receiver.recv(1000).decode().splitlines() for _ in range(3)]
    assert messages[0][:2] == ["READY=1", "STATUS=fine"]
    assert messages[1:] == [["STATUS=busy"], ["STOPPING=1", "STATUS=bye"]]


def test_absent_or_broken_socket_is_no_error(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without systemd, or with one that has gone, the daemon works on, and says so once."""
    Notifier({}).ready("fine")
    assert not caplog.records
    notifier = Notifier({"NOTIFY_SOCKET": str(short_tmp / "gone")})
    notifier.ready("fine")
    notifier.status("still fine")
    assert len(caplog.records) == 1


def test_reload_is_told_with_its_time(short_tmp: Path) -> None:
    """Systemd tells one reload from another by the time, on the clock that it uses itself."""
    with NotifySocket(short_tmp / "notify") as notify:
        notifier = Notifier({"NOTIFY_SOCKET": str(notify.path)})
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        notifier.ready("fine")
        message = notify.next()
        assert message["RELOADING"] == "1"
        assert before <= int(message["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert notify.next()["READY"] == "1"


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="no systemd-notify on this host")
def test_messages_are_those_of_systemd_notify(short_tmp: Path) -> None:
    """What is written by hand is what systemd's own tool writes."""
    with NotifySocket(short_tmp / "notify") as notify:
        environ = {**os.environ, "NOTIFY_SOCKET": str(notify.path)}
        subprocess.run(["systemd-notify", "--ready", "--status=fine", "--no-block"], env=environ, check=True, timeout=30)
        theirs = notify.next()
        Notifier(environ).ready("fine")
        ours = notify.next()
        assert {name: ours[name] for name in ("READY", "STATUS")} == {name: theirs[name] for name in ("READY", "STATUS")}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_is_ours(environ: dict[str, str], expected: float | None) -> None:
    """The watchdog of another process is not fed, and a broken variable is as if there were none."""
    assert Notifier({"NOTIFY_SOCKET": "/run/notify", **environ}).watchdog_s == expected
    assert Notifier(environ).watchdog_s is None


def test_watchdog_starves_when_the_loop_stops(short_tmp: Path, arguments: list[str]) -> None:
    """A daemon whose loop does not turn sends nothing; one that goes on is fed again; SIGABRT leaves its stack in the log."""
    watchdog = {"WATCHDOG_USEC": "400000", "TEST_OWN_PID": "WATCHDOG_PID"}
    with Service(arguments, directory=short_tmp, environment=watchdog) as service:
        service.start()
        for _ in range(3):
            service.notify.wait_for("WATCHDOG", timeout_s=5)
        service.signal(signal.SIGSTOP)
        stat = Path(f"/proc/{service.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        service.notify.forget()
        with pytest.raises(TimeoutError):
            service.notify.wait_for("WATCHDOG", timeout_s=1.2)
        service.signal(signal.SIGCONT)
        service.notify.wait_for("WATCHDOG", timeout_s=5)
        service.signal(signal.SIGABRT)
        assert service.wait() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in service.log()


@pytest.mark.long
def test_broker_that_has_gone_does_not_starve_it(short_tmp: Path, arguments: list[str], redis_server: EmbeddedServer) -> None:
    """An outage is reported and survived: ending the daemon for it would mend nothing."""
    with Service(arguments, directory=short_tmp, environment={"WATCHDOG_USEC": "400000"}) as service:
        service.start()
        redis_server.kill()
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            service.notify.wait_for("WATCHDOG", timeout_s=0.4)


@pytest.mark.anyio
async def test_disk_that_hangs_does_not_starve_it(short_tmp: Path) -> None:
    """A turn that waits for the disk is an outage, not a fault of the daemon."""
    store = GatedMemory()
    with NotifySocket(short_tmp / "notify") as notify:
        notifier = Notifier({"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": "40000"})
        async with scheduler(FakeBroker(), store) as running, anyio.create_task_group() as tasks:
            store.shut()
            tasks.start_soon(running.submit_definition, definition("a"))
            await until(lambda: store.waiting > 0)
            running._parts.inbox.post(DrainRequested())
            tasks.start_soon(keepalive.feed_watchdog, running, notifier)
            # The work has to be old, that it does not count as stalled; nothing changes meanwhile that could be waited for.
            await anyio.sleep(0.2)
            assert running.stalled_s == 0.0
            notify.forget()
            # Several times the interval.
            await anyio.sleep(0.1)
            assert notify.next(0)["WATCHDOG"] == "1"
            store.open_gate()
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_work_that_no_turn_takes_up_starves_it(short_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that turns is not enough: if the turns have stopped, a restart is the way out, and the log says why."""
    with NotifySocket(short_tmp / "notify") as notify:
        notifier = Notifier({"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": "40000"})
        # Not entered, so nobody takes turns.
        stopped = scheduler(FakeBroker())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keepalive.feed_watchdog, stopped, notifier)
            # Without work the time that passes is not held against the turns.
            await anyio.sleep(0.1)
            notify.forget()
            stopped._parts.inbox.post(DrainRequested())
            # It has been without work for longer than this.
            assert stopped.stalled_s < 0.05
            await until(lambda: "the watchdog is not fed any more" in caplog.text)
            notify.forget()
            # Several times the interval, in which nothing must come.
            await anyio.sleep(0.1)
            with pytest.raises((TimeoutError, BlockingIOError)):
                notify.next(0)
            tasks.cancel_scope.cancel()


@pytest.mark.long
def test_long_recovery_asks_for_time(short_tmp: Path, arguments: list[str]) -> None:
    """While workflows come back, systemd gives the start more time and shows how far it is."""
    with Daemon(arguments, directory=short_tmp) as daemon:
        for number in range(5):
            daemon.client().submit(DEFINITION, key=str(number))
        daemon.kill()
    with Service(arguments, directory=short_tmp, module="tests.support.telling_daemon") as service:
        service.start()
        asked = [message for message in service.notify.seen if "EXTEND_TIMEOUT_USEC" in message]
        assert [message["STATUS"] for message in asked] == [f"recovering workflows: {count} of 5" for count in range(1, 6)]
        assert {message["EXTEND_TIMEOUT_USEC"] for message in asked} == {"60000000"}


@pytest.mark.long
def test_draining_asks_for_time(short_tmp: Path, arguments: list[str]) -> None:
    """A stop that waits for tasks in flight says so, and is given the time that it was configured to take."""
    with Service([*arguments, "--drain-timeout-s", "3"], directory=short_tmp) as service:
        service.start()
        with Client(short_tmp / "dyrygentd.sock") as client:
            handle = client.submit(DEFINITION)
            wait_until(lambda: handle.status().counts == {"dispatched": 1})
            service.signal(signal.SIGTERM)
            service.notify.wait_for("STOPPING", timeout_s=10)
            for _ in range(2):
                asked = service.notify.wait_for("EXTEND_TIMEOUT_USEC", timeout_s=5)
                assert asked["STATUS"].startswith("waiting for 1 tasks in flight, at most ")
        assert service.wait() == 0


def test_credentials_become_settings(tmp_path: Path) -> None:
    """A secret that systemd hands over is a setting: before variables, behind flags, and not there if it is empty."""
    (tmp_path / "broker-url").write_text("redis://u:secret@broker/0\n")
    (tmp_path / "backend-url").write_text("")
    environ = {"HOME": str(tmp_path), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credentials(environ) == {"broker": "redis://u:secret@broker/0"}
    assert credentials({"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) == {}
    assert credentials({}) == {}
    environ |= {"DYRYGENTD_BROKER": "redis://variable", "DYRYGENTD_RESULT_BACKEND": "redis://variable"}
    path = tmp_path / "dyrygentd.toml"
    path.write_text("broker = 'redis://file'")
    loaded = config.load(path, {}, environ=environ)
    assert loaded.configuration.broker == "redis://u:secret@broker/0"
    assert loaded.configuration.result_backend == "redis://variable"
    shown = {origin.name: (origin.shown, origin.origin) for origin in loaded.origins}
    assert shown["broker"] == ("redis://u:****@broker/0", "credential")
    assert config.load(path, {"broker": "redis://flag"}, environ=environ).configuration.broker == "redis://flag"


def test_unreadable_credential_is_named(tmp_path: Path) -> None:
    """A credential that cannot be read stops the start, since the broker that is meant would be another."""
    (tmp_path / "broker-url").mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot read the credential .*broker-url"):
        credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_systemd_that_reads_nothing_does_not_stop_the_loop(short_tmp: Path) -> None:
    """What comes again soon is dropped while systemd is busy, instead of holding up every workflow."""
    with NotifySocket(short_tmp / "notify") as notify:
        notifier = Notifier({"NOTIFY_SOCKET": str(notify.path)})
        begun = time.monotonic()
        for _ in range(2000):
            notifier.status("busy")
            notifier.alive()
        assert time.monotonic() - begun < 5
        notify.forget()
        notifier.ready("fine")
        assert notify.next()["READY"] == "1"
