"""One `ssh` that forwards one socket of another host; the idea is told in `dyrygentd.client.ssh`. Blocking.

Nothing is left behind, whatever ends this process: the forwarded socket loses its name in the file system as soon as it is there,
and is reached by a descriptor of this process from then on, so that nobody else can connect to it either; and ssh reads from us,
so that it ends when we do.
"""

import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import IO, Final

from dyrygentd.client import ssh
from dyrygentd.client.ssh import FarSocket, SshAddress

_LINES_KEPT: Final = 40
"""Of what ssh says; its longest warning has 14."""
_LINE_BYTES_MAX: Final = 4096
#: What shells write before ours has its turn.
_NOISE_BYTES_MAX: Final = 64 * 1024
#: The name of a socket has 107 bytes, and ssh adds 17 to it while it shares a connection.
_DIRECTORY_MAX: Final = 60
_GRACE_S: Final = 5.0
#: PF_EXITING of the kernel, in the flags of proc_pid_stat(5).
_EXITING: Final = 0x4


class Tunnel:
    """Forwards a socket while it is open; opens again if ssh has ended. May be used from several threads.

    Guards: at most one ssh at a time, which ends with this object, or this process.

    Args:
        asks: As in `ssh.arguments`.
        timeout_s: How long ssh may take, unless it may ask somebody.
    """

    def __init__(self, address: SshAddress, *, timeout_s: float, asks: bool = False) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._asks = asks
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._starting: _Run | None = None
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<Tunnel {self.address} is_open={self.path is not None}>"

    @property
    def path(self) -> str | None:
        """Where to connect; None if it is not open. It stays the same when ssh was started again."""
        run = self._run
        return f"/proc/self/fd/{self._descriptor}" if run is not None and run.is_alive() else None

    @property
    def user(self) -> str | None:
        """Who one is on the other host; None before it was opened."""
        return None if self._run is None or self._run.seen is None else self._run.seen.user

    def open(self) -> str:
        """Return where to connect; start ssh if none runs. Raises `DaemonUnreachable`."""
        with self._lock:
            path = self.path
            if path is not None:
                return path
            if self._run is not None:
                self._run.stop()
            run = self._start(self.address.path or ssh.SYSTEM_SOCKET)
            if run.forwarded != run.wanted:
                # The daemon there is not the system's: once more, with the socket that was found.
                run.stop()
                os.close(run.descriptor)
                run = self._start(run.wanted)
            if self._descriptor is None:
                self._descriptor = run.descriptor
            else:
                os.dup2(run.descriptor, self._descriptor, inheritable=False)
                os.close(run.descriptor)
                run.descriptor = self._descriptor
            self._run = run
            return f"/proc/self/fd/{self._descriptor}"

    def said(self) -> list[str]:
        """Return what ssh has said lately."""
        return [] if self._run is None else self._run.lines()

    def is_broken(self) -> bool:
        """Tell whether ssh has been there, and is not any more."""
        return self._run is not None and self._run.has_ended()

    def close(self) -> None:
        """End ssh, also while another thread waits for it; safe to repeat."""
        starting = self._starting
        if starting is not None:
            starting.stop()
        with self._lock:
            run, self._run = self._run, None
            descriptor, self._descriptor = self._descriptor, None
            if run is not None:
                run.stop()
            if descriptor is not None:
                os.close(descriptor)

    def _start(self, forwarded: str) -> "_Run":
        self._starting = run = _Run(self.address, forwarded, asks=self._asks)
        try:
            run.wait(None if self._asks else self._timeout_s)
        except BaseException:
            run.stop()
            raise
        finally:
            self._starting = None
        return run


class _Run:
    """One ssh, from its start to its end. Guards: the directory of the socket is gone when `wait` has returned or raised."""

    def __init__(self, address: SshAddress, forwarded: str, *, asks: bool) -> None:
        self.forwarded = forwarded
        self.seen: FarSocket | None = None
        self.descriptor = -1
        self._address = address
        self._pid = os.getpid()
        self._directory = _make_directory()
        self._local = os.path.join(self._directory, "s")
        try:
            self._child = subprocess.Popen(
                ssh.arguments(address, self._local, forwarded, asks=asks),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Keys of the terminal are for us, and nobody is asked there; who is asked has to be in its foreground.
                start_new_session=not asks,
            )
        except OSError as error:
            shutil.rmtree(self._directory, ignore_errors=True)
            if isinstance(error, FileNotFoundError):
                raise ssh.missing(address) from error
            raise
        assert self._child.stderr is not None
        self._words = _Words(self._child.stderr, echoes=asks)
        self._finalizer = weakref.finalize(self, _end, self._child, self._pid, alone=not asks)

    def __repr__(self) -> str:
        return f"<_Run {self._address} pid={self._child.pid} {self.forwarded} is_alive={self.is_alive()}>"

    @property
    def wanted(self) -> str:
        """The socket that was chosen on the other host."""
        return self.forwarded if self.seen is None else self.seen.path

    def is_alive(self) -> bool:
        """Tell whether it runs, and is this process's own: after a fork it is the parent's."""
        return self._pid == os.getpid() and self._child.poll() is None

    def has_ended(self) -> bool:
        """Tell whether it does not run any more, also if one sees no more of that yet than that its connections are closed."""
        if self.is_alive() and _is_ending(self._child.pid):
            self._wait_for_end()
        return not self.is_alive()

    def lines(self) -> list[str]:
        """Return the last lines that it wrote."""
        return self._words.lines()

    def wait(self, timeout_s: float | None) -> None:
        """Return when it forwards. Raises `DaemonUnreachable` if it does not, or what it forwards to cannot be used."""
        try:
            self.seen = self._look(timeout_s)
            if self.seen.state != "usable":
                raise ssh.unusable(self._address, self.seen)
            self._words.echoes = False
            if not os.path.exists(self._local):
                raise ssh.refused(self._address, self.lines(), status=None)
            self.descriptor = os.open(self._local, os.O_PATH | os.O_CLOEXEC)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def stop(self) -> None:
        """End it, and what it forwards by a connection that it shares with others; nothing if it is another process's."""
        self._finalizer()
        if self._pid != os.getpid():
            return
        self._words.wait_for_end()
        if self.descriptor >= 0 and _is_listening(f"/proc/self/fd/{self.descriptor}"):
            with suppress(OSError, subprocess.TimeoutExpired):
                command = ssh.cancelling(self._address, self._local, self.forwarded)
                subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GRACE_S, check=False)

    def _look(self, timeout_s: float | None) -> FarSocket:
        """Read what the look around says."""
        stdout, deadline = self._child.stdout, None if timeout_s is None else time.monotonic() + timeout_s
        assert stdout is not None
        os.set_blocking(stdout.fileno(), False)
        read, rest = 0, b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while read < _NOISE_BYTES_MAX:
                if not selector.select(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    raise ssh.late(self._address, timeout_s or 0.0)
                chunk = os.read(stdout.fileno(), _LINE_BYTES_MAX)
                if not chunk:
                    break
                read += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    seen = ssh.read_look(line)
                    if seen is not None:
                        return seen
        status = self._wait_for_end()
        raise ssh.refused(self._address, self.lines(), status=status)

    def _wait_for_end(self) -> int | None:
        """Return the status of an ssh that has closed its output, when all it said is read."""
        try:
            status = self._child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return None
        self._words.wait_for_end()
        return status


class _Words:
    """What ssh says, of which the last lines are kept. Guards: it never waits for us, and nothing that it has said is missed."""

    def __init__(self, stderr: IO[bytes], *, echoes: bool) -> None:
        self.echoes = echoes
        self._stderr = stderr
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._rest = b""
        self._lock = threading.Lock()
        os.set_blocking(stderr.fileno(), False)
        self._thread = threading.Thread(target=self._follow, name="ssh", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """Return the last lines; what was said before this call is among them."""
        self._take()
        return list(self._lines)

    def wait_for_end(self) -> None:
        """Return when all is read, if ssh has ended."""
        self._thread.join(_GRACE_S)

    def _follow(self) -> None:
        poll = select.poll()
        poll.register(self._stderr, select.POLLIN)
        while poll.poll() and self._take():
            pass

    def _take(self) -> bool:
        """Take what is there; return whether there may be more."""
        with self._lock:
            if self._stderr.closed:
                return False
            try:
                chunk = os.read(self._stderr.fileno(), _LINE_BYTES_MAX)
            except BlockingIOError:
                return True
            if not chunk:
                self._stderr.close()
            elif self.echoes:
                # A person who may be asked sees why.
                with suppress(OSError, ValueError):
                    sys.stderr.write(chunk.decode(errors="replace"))
                    sys.stderr.flush()
            *lines, rest = (self._rest + chunk).split(b"\n")
            self._rest = rest[:_LINE_BYTES_MAX]
            texts = (line.decode(errors="replace").strip() for line in (lines if chunk else [rest]))
            self._lines.extend(filter(None, texts))
            return bool(chunk)


def _end(child: "subprocess.Popen[bytes]", pid: int, *, alone: bool) -> None:
    """End an ssh of this process; of another one, which a fork has left here, only our ends are closed."""
    is_ours = pid == os.getpid()
    if is_ours and child.poll() is None:
        # Not SIGTERM, on which one with refused channels was seen to wait for minutes; it has nothing to put in order.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL) if alone else child.kill()
        child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _is_ending(pid: int) -> bool:
    """Tell whether a process of ours is amid its end: what it has open is closed before it can be waited for."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            flags = int(stat.read().rpartition(")")[2].split()[6])
    except (FileNotFoundError, ProcessLookupError):
        # Another thread has waited for it.
        return True
    return bool(flags & _EXITING)


def _is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as trying:
        try:
            trying.connect(path)
        except OSError:
            return False
        return True


def _make_directory() -> str:
    """Make a directory that only we can use, with a name that ssh takes as it stands."""
    made = tempfile.mkdtemp(prefix="dyrygentd-")
    if len(made) <= _DIRECTORY_MAX and not set(made) & set(":%$[]\\ "):
        return made
    os.rmdir(made)
    return tempfile.mkdtemp(prefix="dyrygentd-", dir="/tmp")
