"""An sshd of a test's own, on loopback, and an `ssh` on PATH that knows it: two hosts on one machine."""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.support.servers import wait_until

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_MISSING = [name for name in ("sshd", "ssh", "ssh-keygen") if shutil.which(name, path=_PATH) is None]
#: Shells of users that are not meant to log in: sshd runs whatever was asked for in the user's own.
_NO_SHELLS = ("nologin", "false")


class Sshd(AbstractContextManager["Sshd"]):
    """Serves the present user on ``ssh://ops1``, by a key of the test's own; `stop` and `start` restart it.

    Args:
        directory: Gets keys, configuration and logs; with a short path.
        settings: Of sshd_config, before the others, as the first one counts there.
    """

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        if _MISSING:
            pytest.skip(f"NOT RUN: there is no {', '.join(_MISSING)} (Debian: openssh-server)")
        shell = pwd.getpwuid(os.getuid()).pw_shell
        if Path(shell).name in _NO_SHELLS:
            pytest.skip(f"NOT RUN: nobody logs in by ssh as {getpass.getuser()!r}, whose shell is {shell}")
        self.directory = directory
        self.user = getpass.getuser()
        self.port = _free_port()
        self.log = directory / "sshd.log"
        self.known_hosts = directory / "known_hosts"
        self._settings = dict(settings or {})
        self._child: subprocess.Popen[bytes] | None = None
        self._make_keys()
        self.configure()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def configure(self, **of_host: str) -> None:
        """Write the client's configuration; further settings of the host come first."""
        usual = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": str(self.directory / "key"),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
        }
        lines = [f"  {name} {value}\n" for name, value in {**usual, **of_host}.items()]
        (self.directory / "ssh_config").write_text("Host ops1\n" + "".join(lines))
        # ssh reads the file of the user's entry in the list of users, whatever $HOME says.
        program = self.directory / "bin" / "ssh"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh", path=_PATH)} -F {self.directory}/ssh_config "$@"\n')
        program.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with that `ssh`."""
        return f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def restart(self, **settings: str) -> None:
        """Stop, and listen with these settings."""
        self.stop()
        self._settings |= settings
        self.start()

    def start(self) -> None:
        """Listen, for who has the key."""
        settings = {
            **self._settings,
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.directory / "host"),
            "AuthorizedKeysFile": str(self.directory / "authorized_keys"),
            "PidFile": "none",
            "UsePAM": "no",
            # The directory is below /tmp, which all may write to.
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "yes",
        }
        (self.directory / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        if os.geteuid() == 0:
            # Debian's service makes it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [str(shutil.which("sshd", path=_PATH)), "-D", "-e", "-f", str(self.directory / "sshd_config")]
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: self._child is None or self._child.poll() is not None or _answers(self.port))
        assert self._child.poll() is None, self.log.read_text()

    def stop(self) -> None:
        """End it with all connections; safe to repeat."""
        child, self._child = self._child, None
        if child is not None:
            for pid in _below(child.pid):
                _kill(pid)
            child.kill()
            child.wait(30)

    def connections(self) -> list[int]:
        """Return the processes that serve somebody."""
        return [] if self._child is None else _below(self._child.pid)

    def allow(self, options: str = "") -> None:
        """Let the key in, with options as of authorized_keys."""
        key = (self.directory / "key.pub").read_text()
        (self.directory / "authorized_keys").write_text(f"{options} {key}".lstrip())

    def refuse(self) -> None:
        """Let nobody in."""
        (self.directory / "authorized_keys").write_text("")

    def forget(self) -> None:
        """Make the host unknown to the client."""
        self.known_hosts.write_text("")

    def know(self, key: str = "host.pub") -> None:
        """Make the host known to the client, by a key of the directory."""
        kind, value, *_ = (self.directory / key).read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {value}\n")

    def _make_keys(self) -> None:
        keygen = str(shutil.which("ssh-keygen", path=_PATH))
        for name in ("host", "key"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / name)], check=True)
        self.allow()
        self.know()


@contextmanager
def far_host(directory: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> Iterator[Sshd]:
    """Run one, and have this process and its children use the `ssh` that knows it."""
    with Sshd(directory, settings=settings) as running:
        monkeypatch.setenv("PATH", running.path)
        yield running


def ssh_processes(directory: Path) -> list[int]:
    """Return the processes of `ssh` that use the configuration of a directory."""
    wanted = os.fsencode(directory / "ssh_config")
    return [pid for pid in _pids() if wanted in _read(f"/proc/{pid}/cmdline").split(b"\0")]


def _below(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    parents = {each: _read(f"/proc/{each}/stat").rpartition(b")")[2].split()[1:2] for each in _pids()}
    found = [each for each, parent in parents.items() if parent == [str(pid).encode()]]
    return found + [inner for each in found for inner in _below(each)]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 9)


def _answers(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as trying:
        trying.bind(("127.0.0.1", 0))
        return int(trying.getsockname()[1])
