"""A bare Debian host with systemd as PID 1, in a container: made by debootstrap, booted by systemd-nspawn, without a network.

*The tree* has what a fresh host has that an operator gets (python3 with venv, sudo) and nothing of ours. It is made with the
mirror and the certificates of this machine's apt. The wheels that pip will want are fetched into it by its own Python, with the
configuration of this machine's pip; from then on pip in it looks nowhere else.

*The host* has a network namespace of its own with a loopback, so its ports are nobody else's, and a mount namespace of its own,
with the unified hierarchy of control groups alone, as where systemd rules. `systemctl reboot` inside boots it again.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

TOOLS: Final = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "apt-get", "chroot")
#: Beside what debootstrap calls minbase.
PACKAGES: Final = ("systemd-sysv", "dbus", "libpam-systemd", "python3", "python3-venv", "sudo", "ca-certificates", "procps")
SOURCE: Final = "/srv/dyrygentd"
WHEELS: Final = "/srv/wheels"

# Arguments: the tree, the directory for the source in it, its network. 133 is how systemd-nspawn says that the host rebooted.
_BOOT: Final = """
umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1
group=/sys/fs/cgroup/bare-host-$$
mkdir -p "$group/own" && echo $$ >"$group/own/cgroup.procs" || exit 1
while systemd-nspawn --quiet --boot --directory="$0" --register=no --keep-unit --console=pipe "$2" \
    --bind-ro="$1:%s"; [ $? = 133 ]; do :; done
echo $$ >/sys/fs/cgroup/cgroup.procs
find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
exit 0
"""

_RUN: Final = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect")


class Unable(Exception):
    """This machine cannot make or boot such a host; says what is missing."""


def missing() -> str:
    """Return what this machine lacks, and an empty string if nothing."""
    lacks = [f"'{tool}'" for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        lacks.insert(0, "root")
    return ", ".join(lacks)


class BareHost:
    """A host that boots at `boot`, is used by `run`, and is powered off at the end.

    Args:
        tree: Of `make_tree`; it is changed by what is done on the host.
        source: What an operator has cloned; at `SOURCE` on the host, read-only.
        network: The namespace of its network; by default it has one to itself with a loopback alone.
    """

    def __init__(self, tree: Path, source: Path, *, console: Path, network: Path | None = None) -> None:
        self._tree, self._source, self._console = tree, source, console
        self._network = f"--network-namespace-path={network}" if network else "--private-network"
        self._outer: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.power_off()

    def boot(self) -> None:
        """Boot and wait until systemd has started everything. Raises `Unable`."""
        command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", _BOOT % SOURCE]
        with self._console.open("ab") as output:
            self._outer = subprocess.Popen(
                [*command, str(self._tree), str(self._source), self._network],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_booted(None)

    def run(self, command: str, *, user: str = "root", status: int | None = 0, timeout_s: float = 180) -> str:
        """Run a command in a login shell of a user, and return what it prints, stderr included.

        Args:
            status: The exit status that is expected; None is any.
        """
        done = self._inside(
            # systemd-run would expand variables itself.
            [*_RUN, f"--uid={user}", *_login(user), "bash", "-lc", command.replace("$", "$$")],
            timeout_s=timeout_s,
        )
        said = done.stdout.decode(errors="replace")
        assert status in (None, done.returncode), f"as {user}: {command}\nexit status {done.returncode}\n{said}"
        return said

    def reboot(self) -> None:
        """Reboot from inside and wait until it is back."""
        before = self._boot_id()
        self._inside(["systemctl", "reboot"], timeout_s=60)
        self._wait_booted(before)

    def power_off(self) -> None:
        """Power it off, or pull its plug."""
        if self._outer is None:
            return
        with contextlib.suppress(Unable, subprocess.TimeoutExpired):
            self._inside(["systemctl", "poweroff"], timeout_s=30)
        self._end(60)

    def pull_the_plug(self) -> None:
        """Have all that runs on it be gone at once; it can be booted again."""
        assert self._outer is not None
        os.kill(self._init(), signal.SIGKILL)
        self._end(60)

    def _end(self, timeout_s: float) -> None:
        assert self._outer is not None
        try:
            self._outer.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for process in (*_children(self._outer.pid), self._outer.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self._outer.wait()
        self._outer = None

    def console(self) -> str:
        """Return the end of what the host has said on its console."""
        return self._console.read_text(errors="replace")[-4000:]

    def _boot_id(self) -> str:
        # The kernel's is the same for all containers; systemd's user manager starts PID 1 anew.
        return str(self._init())

    def _wait_booted(self, before: str | None) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert self._outer is not None
            if self._outer.poll() is not None:
                raise Unable(f"systemd-nspawn ended:\n{self.console()}")
            with contextlib.suppress(Unable, subprocess.TimeoutExpired):
                if self._boot_id() != before:
                    state = self._inside(["systemctl", "is-system-running", "--wait"], timeout_s=60).stdout.decode().strip()
                    if state in ("running", "degraded"):
                        return
            time.sleep(0.2)  # Nobody tells when there is a PID 1 to ask.
        raise Unable(f"the host did not boot:\n{self.console()}")

    def _inside(self, command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        entering = ["nsenter", "-t", str(self._init()), "-m", "-u", "-i", "-n", "-p", "-C"]
        clean = ["env", "-i", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        return subprocess.run(
            [*entering, *clean, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )

    def _init(self) -> int:
        assert self._outer is not None
        # The shell, systemd-nspawn, and the first process of the host.
        for nspawn in _children(self._outer.pid):
            for first in _children(nspawn):
                return first
        raise Unable("the host has no PID 1")


def make_tree(tree: Path) -> None:
    """Make a bare Debian with the users ``ops``, who may use sudo, and ``stranger``. Raises `Unable`."""
    mirror, suite = _mirror()
    _do(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, str(tree), mirror])
    certificates = Path("/usr/local/share/ca-certificates")
    if certificates.is_dir():
        shutil.copytree(certificates, tree / "usr/local/share/ca-certificates", dirs_exist_ok=True)
        _do(["chroot", str(tree), "update-ca-certificates"])
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").write_text("bare\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 bare\n")
    for user in ("ops", "stranger"):
        _do(["chroot", str(tree), "useradd", "--create-home", "--shell", "/bin/bash", user])
    (tree / "etc/sudoers.d/ops").write_text("ops ALL=(ALL) NOPASSWD: ALL\n")


def fetch_wheels(tree: Path, source: Path) -> None:
    """Fetch what an installation of the source needs, and have pip on the host look there alone. Raises `Unable`."""
    inside, configured = tree / SOURCE[1:], tree / "etc/pip.conf"
    inside.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.copy("/etc/pip.conf", configured)
    shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
    with _copied(source, tree / "srv/source"):
        # The one that makes virtual environments has pip in it; a wheel of pip can be run as it is.
        pip = "python3 $(ls /usr/share/python-wheels/pip-*.whl | tail -1)/pip"
        fetch = f"{pip} wheel --quiet --no-cache-dir --wheel-dir {WHEELS} '/srv/source[embedded,postgres]' hatchling"
        _do(["chroot", str(tree), "sh", "-c", fetch])
    for wheel in (tree / WHEELS[1:]).glob("dyrygentd-*.whl"):
        wheel.unlink()
    configured.write_text(f"[global]\nno-index = true\nfind-links = {WHEELS}\ndisable-pip-version-check = true\n")


@contextlib.contextmanager
def _copied(source: Path, place: Path) -> Iterator[None]:
    shutil.copytree(source, place)
    try:
        yield
    finally:
        shutil.rmtree(place)


def _mirror() -> tuple[str, str]:
    """Return from where this machine's apt has its packages, and the name of its release."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    if release.get("ID") != "debian":
        raise Unable("a machine with Debian, whose packages the host is made of")
    targets = _do(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]).splitlines()
    for line in targets:
        address, of, component = [*line.split(), "", "", ""][:3]
        if of == suite and component == "main":
            return address, suite
    raise Unable(f"apt knows no mirror of '{suite}'")


def _do(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900, check=False
    )
    said = done.stdout.decode(errors="replace")
    if done.returncode:
        raise Unable(f"'{' '.join(command)[:200]}' failed: {said[-2000:]}")
    return said


def _children(process: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                    found.append(int(entry.name))
    return sorted(found)


def _login(user: str) -> list[str]:
    home = "/root" if user == "root" else f"/home/{user}"
    return [f"--working-directory={home}", f"--setenv=HOME={home}", f"--setenv=USER={user}", "--setenv=LANG=C.UTF-8"]
