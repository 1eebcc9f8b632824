"""Daemons on another host: real ssh and sshd, and everything that goes wrong between them."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from dyrygentd import AsyncClient, Client
from dyrygentd.client import ssh
from dyrygentd.client.tunnel import Tunnel
from dyrygentd.errors import DaemonUnreachable
from tests.http.support import Daemon
from tests.support.daemon import ROOT
from tests.support.directories import short_directory
from tests.support.servers import wait_until
from tests.support.sshd import Sshd, far_host, ssh_processes


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """The host `ops1`; no ssh of a test, and no file of one, is there at its end."""
    with short_directory() as directory, far_host(directory, monkeypatch) as running:
        own = directory / "tmp"
        own.mkdir()
        monkeypatch.setenv("TMPDIR", str(own))
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield running
        wait_until(lambda: not ssh_processes(directory))
        assert list(own.iterdir()) == []


def address(daemon: Daemon | Path) -> str:
    """Return how `ops1` calls a socket."""
    return f"ssh://ops1{daemon.path if isinstance(daemon, Daemon) else daemon}"


def test_client_works_through_one_ssh(far: Sshd, daemon: Daemon) -> None:
    """Submit, wait, list, follow, from several threads: each request is a channel, and the daemon sees who sshd let in."""
    with Client(address(daemon)) as client:
        handle = client.submit({"name": "far", "nodes": [{"name": "one", "task": "add"}]}, key="k")
        assert handle.wait(timeout_s=30).state == "succeeded"
        threads = [threading.Thread(target=client.list) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert [view.state for view in handle.events()][-1] == "succeeded"
        assert client.get("key:k").owner == os.getuid()
        assert len(ssh_processes(far.directory)) == 1
    assert ssh_processes(far.directory) == []


@pytest.mark.anyio
async def test_asyncio_works_too(far: Sshd, daemon: Daemon) -> None:
    """The loop goes on while ssh comes through, and streams follow."""
    async with AsyncClient(address(daemon)) as client:
        handle = await client.submit({"nodes": [{"name": "one", "task": "add"}]})
        assert (await handle.wait(timeout_s=30)).state == "succeeded"
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(client.list)
        assert len(ssh_processes(far.directory)) == 1


@pytest.mark.anyio
async def test_asyncio_gives_up_an_ssh_that_does_not_come_through(short_tmp: Path, far: Sshd) -> None:
    """Whoever cancels does not wait for ssh: sshd is there and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        far.configure(Port=str(silent.getsockname()[1]))
        async with AsyncClient("ssh://ops1") as client, anyio.create_task_group() as group:
            group.start_soon(client.list)
            await anyio.to_thread.run_sync(lambda: wait_until(lambda: ssh_processes(far.directory)))
            group.cancel_scope.cancel()


def test_ssh_that_does_not_come_through_in_time(far: Sshd) -> None:
    """The time limit of a client is that of its ssh, too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        far.configure(Port=str(silent.getsockname()[1]))
        with pytest.raises(DaemonUnreachable, match=r"ssh has not come through within 0.5 s"):
            Client("ssh://ops1", timeout_s=0.5).health()


def test_socket_of_ones_own_is_found_there(far: Sshd, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path it is the one that a client there would take: here that of the user, as there is none of the system."""
    if Path("/run/dyrygentd/dyrygentd.sock").exists():
        pytest.skip("a daemon of the system runs here")
    far.restart(SetEnv=f"XDG_RUNTIME_DIR={short_tmp}")
    (short_tmp / "dyrygentd").mkdir()
    with Daemon(short_tmp / "dyrygentd" / "dyrygentd.sock"), Client("ssh://ops1") as client:
        assert client.list() == []


def test_restarted_daemon_is_met_again(far: Sshd, daemon: Daemon) -> None:
    """ssh stays while the daemon goes; what is asked meanwhile says so."""
    with Client(address(daemon)) as client:
        client.list()
        daemon.stop()
        with pytest.raises(DaemonUnreachable, match="nobody answers there"):
            client.list()
        daemon.start()
        assert client.list() == []


def test_ssh_that_ends_is_started_again(far: Sshd, daemon: Daemon) -> None:
    """A connection that was cut costs the request that met it, and no other one."""
    with Client(address(daemon)) as client:
        client.list()
        for pid in far.connections():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not ssh_processes(far.directory))
        assert client.list() == []


def test_lost_answer_may_have_been_done(far: Sshd, short_tmp: Path) -> None:
    """When ssh breaks after a submission was sent, nobody claims that nothing was done; and it is said how to repeat it."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(short_tmp / "d.sock"))
        silent.listen()
        with Client(address(short_tmp / "d.sock")) as client, ThreadPoolExecutor(1) as pool:
            submission = pool.submit(client.submit, {"nodes": [{"name": "one", "task": "add"}]}, key="k")
            taken, _ = silent.accept()
            with taken:
                assert taken.recv(1)
                # All of it is sent when nothing more is waited for but the answer.
                taken.settimeout(30)
                while b'"one"' not in taken.recv(10_000):
                    pass
                [pid] = ssh_processes(far.directory)
                os.kill(pid, signal.SIGKILL)
                error = submission.exception(30)
    assert isinstance(error, DaemonUnreachable)
    assert error.may_be_done
    assert "ssh has ended" in error.message
    assert "the same key" in error.next_step


@pytest.mark.parametrize("what", ["key", "unknown", "changed", "nobody", "port"])
def test_ssh_that_is_refused_says_why(far: Sshd, daemon: Daemon, what: str) -> None:
    """Each with a next step, at once and without a question."""
    words = {
        "key": "does not let this user in",
        "unknown": "its host key is not known here",
        "changed": "its host key is another one than before",
        "nobody": "there is no host of that name",
        "port": "no sshd answers there",
    }[what]
    if what == "key":
        far.refuse()
    elif what == "unknown":
        far.forget()
    elif what == "changed":
        far.know("key.pub")
    elif what == "nobody":
        far.configure(HostName="nobody.invalid")
    else:
        far.stop()
    with pytest.raises(DaemonUnreachable, match=words) as refusal:
        Client(address(daemon)).list()
    assert refusal.value.next_step
    assert not refusal.value.may_be_done


def test_missing_ssh_is_told(far: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DaemonUnreachable, match="no `ssh` on PATH") as refusal:
        Client("ssh://ops1").list()
    assert "openssh-client" in refusal.value.next_step


def test_sockets_that_cannot_be_used(far: Sshd, short_tmp: Path) -> None:
    """None there, and a file of another kind: the path that was looked at is named."""
    with pytest.raises(DaemonUnreachable, match=f"there is no '{short_tmp}/none.sock'"):
        Client(address(short_tmp / "none.sock")).list()
    (short_tmp / "file").write_text("")
    with pytest.raises(DaemonUnreachable, match="there is no socket"):
        Client(address(short_tmp / "file")).list()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short_tmp / "left.sock"))
    with pytest.raises(DaemonUnreachable, match="nobody answers there"):
        Client(address(short_tmp / "left.sock")).list()


def test_forwarding_that_is_forbidden(far: Sshd, daemon: Daemon) -> None:
    """The setting of sshd is named."""
    far.restart(AllowStreamLocalForwarding="no")
    with pytest.raises(DaemonUnreachable, match="sshd does not let through") as refusal, Client(address(daemon)) as client:
        client.list()
    assert "AllowStreamLocalForwarding" in refusal.value.next_step


def test_account_that_runs_something_else(far: Sshd, daemon: Daemon) -> None:
    """A key for one command alone does not bring a client to the daemon, and says how it would be."""
    far.allow('command="echo backup only"')
    with pytest.raises(DaemonUnreachable, match="something else runs there") as refusal:
        Client(address(daemon)).list()
    assert "--socket" in refusal.value.next_step


def test_shared_connection_is_used_and_left_as_it_was(far: Sshd, daemon: Daemon) -> None:
    """Whoever shares connections (ControlMaster) gives their second factor once; what we forwarded is given up in it."""
    far.configure(ControlPath=str(far.directory / "c"))
    master = subprocess.Popen(["ssh", "-M", "-N", "ops1"], env={**os.environ, "PATH": far.path}, stdin=subprocess.DEVNULL)
    try:
        wait_until((far.directory / "c").exists)
        connections = len(far.connections())
        tunnel = Tunnel(ssh.parse(address(daemon)), timeout_s=30)
        path = tunnel.open()
        kept = os.dup(int(path.rpartition("/")[2]))
        assert len([pid for pid in far.connections() if b"[priv]" in Path(f"/proc/{pid}/cmdline").read_bytes()]) <= 1
        assert len(far.connections()) >= connections
        tunnel.close()
        with socket.socket(socket.AF_UNIX) as trying, pytest.raises(ConnectionRefusedError):
            trying.connect(f"/proc/self/fd/{kept}")
        os.close(kept)
    finally:
        master.terminate()
        master.wait(30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_ssh_outlives_its_program(far: Sshd, daemon: Daemon, number: int) -> None:
    """However it ends, also without a chance to tidy up: no process and no file stays."""
    program = f"""
import time
from dyrygentd import Client
client = Client({address(daemon)!r})
client.list()
print("there", flush=True)
time.sleep(600)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"there\n"
        assert len(ssh_processes(far.directory)) == 1
        child.send_signal(number)
        child.wait(30)
        wait_until(lambda: not ssh_processes(far.directory))
    finally:
        child.kill()
        child.wait(30)
        child.stdout.close()


def test_fork_gets_an_ssh_of_its_own(far: Sshd, daemon: Daemon) -> None:
    """Workers that fork after a client was made do not end each other's connections."""
    with Client(address(daemon)) as client:
        client.list()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                client.list()
                client.close()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status == 0
        [pid] = ssh_processes(far.directory)
        client.list()
        assert ssh_processes(far.directory) == [pid]
