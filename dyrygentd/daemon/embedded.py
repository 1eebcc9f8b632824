"""A Redis-compatible server of our own, for hosts where no broker is configured.

It listens on a Unix socket in the state directory and nowhere else, and keeps an append-only file there. It ends with the process
that started it: the daemon, or under systemd `dyrygentd broker` in a unit of its own, which stays when the daemon goes.

Four things could go wrong, and each has one guard:

- *Two servers write one append-only file* (a second daemon; a predecessor still dying). The server itself holds a
  lock on ``broker.lock``: the descriptor is inherited, so the lock lasts as long as the server, whoever started it.
- *The server outlives a killed daemon.* See ``ChildProcess``.
- *Another server answers on our socket.* The process id in ``INFO`` has to be that of our child.
- *The server cannot read the files of the one before it.* See `dyrygentd.daemon.servers`.
"""

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, Self

from dyrygentd.daemon import servers
from dyrygentd.daemon.servers import FilesOfAnotherServer, NoServerFound, find_server
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.store import files

__all__ = [
    "ChildProcess",
    "EmbeddedServer",
    "FilesOfAnotherServer",
    "NoServerFound",
    "ServerNotStarted",
    "SocketPathTooLong",
    "find_server",
]

SOCKET_PATH_BYTES_MAX = 107
"""``sun_path`` has 108 bytes and ends in a zero byte (unix(7))."""

_POLL_S = 0.005
_LOG_TAIL_BYTES = 2000
#: A server writes a few lines at each start; one that is started again and again for a week must not fill the disk with them.
_LOG_BYTES_MAX = 1_000_000


class SocketPathTooLong(BrokerUnavailable):
    """The kernel cannot bind a Unix socket at this path."""

    code = "socket-path-too-long"
    next_step = "choose a directory with a shorter path"

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.path_bytes = len(os.fsencode(path))
        super().__init__(
            f"socket path '{path}' has {self.path_bytes} bytes, and Unix sockets are limited to "
            f"{SOCKET_PATH_BYTES_MAX}: choose a directory with a shorter path"
        )


class ServerNotStarted(BrokerUnavailable):
    """The embedded server did not come up; ``log_tail`` holds its last words."""

    code = "server-not-started"

    def __init__(self, directory: Path, reason: str, *, log_tail: str = "") -> None:
        self.directory = str(directory)
        self.reason = reason
        self.log_tail = log_tail
        said = f"; its log ends with:\n{log_tail}" if log_tail else ""
        super().__init__(f"the embedded server in '{directory}' did not start: {reason}{said}")
        self.next_step = _next_step(directory, log_tail)


class EmbeddedServer:
    """One Redis-compatible server on ``directory/broker.sock``.

    Methods block and may be called from any thread, one at a time. The object can be started again after it stopped.
    """

    def __init__(
        self,
        directory: Path,
        *,
        appendonly: bool = True,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
        settings: Mapping[str, str] | None = None,
        die_with_parent: bool = True,
        start_timeout_s: float = 30.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        """Prepare a server.

        Args:
            directory: Made if absent, readable by its owner alone. One server at a time.
            appendonly: Keep every write in a file. The file is written before a command is answered, so killing the
                server loses nothing; ``appendfsync`` says what a power cut may take.
            appendfsync: As in redis.conf.
            settings: Further lines of redis.conf, by name.
            die_with_parent: Have the kernel kill the server when this process ends (Linux only).
            start_timeout_s: Includes the time to load the append-only file.
            stop_timeout_s: After it a stopping server is killed.
        """
        self.directory = Path(directory).absolute()
        self.socket_path = self.directory / "broker.sock"
        self.log_path = self.directory / "broker.log"
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES_MAX:
            raise SocketPathTooLong(self.socket_path)
        self._settings = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": appendfsync,
            "save": "",
            # Commands alone, which Redis and Valkey read from each other.
            "aof-use-rdb-preamble": "no",
            "daemonize": "no",
            **(settings or {}),
        }
        self._die_with_parent = die_with_parent
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._child: ChildProcess | None = None
        self.program = ""
        """Name and version of the server that was started last."""

    @property
    def url(self) -> str:
        """Return the URL by which Celery reaches the server, as broker and as result backend."""
        return f"redis+socket://{self.socket_path}"

    @property
    def pid(self) -> int | None:
        """Return the server's process id, or None if it does not run."""
        return self._child.pid if self._child is not None and self._child.is_alive else None

    @property
    def is_alive(self) -> bool:
        """Tell whether the server's process runs."""
        return self.pid is not None

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.socket_path} {f'pid {self.pid}' if self.is_alive else 'not running'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it has loaded its data and answers. A running server is left alone.

        Raises:
            NoServerFound: There is no program to start.
            FilesOfAnotherServer: None of those that there are can read what is in the directory.
            ServerNotStarted: It ended at once, was too slow, or the directory belongs to another server.
        """
        if self.is_alive:
            return
        deadline = time.monotonic() + self._start_timeout_s
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked_directory(deadline) as lock:
            command = [str(find_server(self.directory))]
            for name, value in self._settings.items():
                command += [f"--{name}", value]
            _bound(self.log_path)
            try:
                self._child = ChildProcess(command, output=self.log_path, die_with_parent=self._die_with_parent, keep_open=[lock])
            except OSError as error:
                raise ServerNotStarted(self.directory, f"cannot execute '{command[0]}': {error}") from error
        try:
            self._own_files(self._wait_ready(self._child, deadline))
        except BaseException:
            self.kill()
            raise

    def _own_files(self, info: Mapping[str, str]) -> None:
        """Note whose files they are now, and have those of an earlier version written anew, in the form that others read."""
        kind = info.get("server_name") or "redis"
        self.program = f"{kind}-server {info.get(f'{kind}_version', '')}".strip()
        if self._settings["appendonly"] != "yes":
            return
        # A note that is missing costs a preference; what can be read is told by the files.
        with contextlib.suppress(OSError):
            servers.note(self.directory, info)
        if servers.files_in(self.directory).magic and self._settings["aof-use-rdb-preamble"] == "no":
            _ask(self.socket_path, "BGREWRITEAOF")

    def stop(self) -> None:
        """End the server in good order, or by force after ``stop_timeout_s``. A stopped server is left alone."""
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            if self._child.wait(self._stop_timeout_s) is None:
                self.kill()

    def kill(self) -> None:
        """End the server by SIGKILL, and wait until it is gone."""
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()

    def restart(self) -> None:
        """Stop the server, and start it with the data it had."""
        self.stop()
        self.start()

    def wait_exit(self, timeout_s: float | None = None) -> int | None:
        """Wait until the server has ended; return its exit status (negative: a signal), or None if it still runs."""
        return None if self._child is None else self._child.wait(timeout_s)

    def log_tail(self) -> str:
        """Return the last words of the server's log."""
        return _tail(self.log_path)

    @contextlib.contextmanager
    def _locked_directory(self, deadline: float) -> Generator[int, None, None]:
        descriptor = files.opened(self.directory / "broker.lock", os.O_RDWR | os.O_CREAT)
        try:
            # A predecessor that was just killed may need a moment to let go.
            while not _is_locked_by_us(descriptor):
                if time.monotonic() > deadline:
                    error = ServerNotStarted(self.directory, "another server is running in this directory")
                    error.next_step = "stop the other daemon, or give this one a database in a directory of its own"
                    raise error
                time.sleep(_POLL_S)
            yield descriptor
        finally:
            os.close(descriptor)

    def _wait_ready(self, child: "ChildProcess", deadline: float) -> dict[str, str]:
        """Wait until it answers, and return what it says of itself."""
        while True:
            # This is both the pause between two looks and the notice of a child that gave up.
            returncode = child.wait(_POLL_S)
            if returncode is not None:
                raise ServerNotStarted(self.directory, f"it ended with status {returncode}", log_tail=_tail(self.log_path))
            # A server that still loads its file answers PING with -LOADING.
            if _ask(self.socket_path, "PING") == "+PONG":
                break
            if time.monotonic() > deadline:
                reason = f"it did not answer within {self._start_timeout_s:g} s"
                raise ServerNotStarted(self.directory, reason, log_tail=_tail(self.log_path))
        info = dict(line.split(":", 1) for line in _ask(self.socket_path, "INFO server").splitlines() if ":" in line)
        if info.get("process_id") != str(child.pid):
            raise ServerNotStarted(self.directory, f"another server answers on '{self.socket_path}'")
        return info


class ChildProcess:
    """A child in a session of its own, which the kernel kills when this process ends, however it ends.

    The session keeps a Ctrl-C in the terminal away from it: whoever started it decides when it ends.

    Dying with the parent is PR_SET_PDEATHSIG (prctl(2)), set by a few lines of Python that then replace themselves by
    the program, so that nothing of ours runs between fork and exec in a process with threads (``preexec_fn`` would).
    The signal comes when the *thread* that forked ends, so a thread of its own forks the child and stays until it has
    ended. A watchdog on a pipe was the alternative: a second process, and any fork of this one would hold the pipe
    open. The signal is SIGKILL, because a stopped process would never get to SIGTERM.

    Invariant: a signal is sent only to a child that has not been reaped, never to a stranger with a recycled id.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: Path,
        die_with_parent: bool = True,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        """Start the child.

        Args:
            command: The program and its arguments.
            output: What it prints is appended here.
            die_with_parent: Ignored where there is no prctl, that is outside Linux.
            environment: The whole of it; this process's own if None.
            working_directory: This process's own if None.
            keep_open: Descriptors the child inherits.

        Raises:
            OSError: The program cannot be executed (without ``die_with_parent``; with it the child ends with status 1
                and says so in its output).
        """
        if die_with_parent and sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]

        def launch() -> subprocess.Popen[bytes]:
            with open(files.opened(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as log:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                    cwd=working_directory,
                    pass_fds=keep_open,
                )

        self._lock = threading.Lock()
        self._exited = threading.Event()
        launched: Future[subprocess.Popen[bytes]] = Future()
        threading.Thread(target=self._attend, args=(launch, launched), name="attend-child", daemon=True).start()
        self._process = launched.result()
        self.pid = self._process.pid

    @property
    def is_alive(self) -> bool:
        """Tell whether the child runs."""
        return not self._exited.is_set()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; return the exit status (negative: a signal), or None if it still runs."""
        return self._process.returncode if self._exited.wait(timeout_s) else None

    def send_signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the child, or to its whole session's group; to nobody if it has ended."""
        with self._lock:
            if self._process.returncode is None:
                (os.killpg if group else os.kill)(self.pid, number)

    def _attend(self, launch: Callable[[], subprocess.Popen[bytes]], launched: Future[subprocess.Popen[bytes]]) -> None:
        try:
            process = launch()
        except BaseException as error:
            launched.set_exception(error)
            return
        launched.set_result(process)
        with contextlib.suppress(ChildProcessError):
            # Waits without reaping: until the lock is held the id stays the child's.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            process.wait()
        self._exited.set()


# The look at getppid covers a parent that died before prctl was called.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0):  # 1 is PR_SET_PDEATHSIG
    raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def _is_locked_by_us(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ask(path: Path, command: str, *, timeout_s: float = 1.0) -> str:
    """Send one inline command; return the answer as it came, or an empty string if there was none in time."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            # QUIT makes the server close the connection behind the answer, so its length need not be parsed.
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            while chunk := connection.recv(65536):
                answer += chunk
    except OSError:
        return ""
    return answer.decode(errors="replace").removesuffix("+OK\r\n").strip()


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""


def _bound(log: Path) -> None:
    """Put a long log aside, over the one before it."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LOG_BYTES_MAX:
            log.replace(log.with_name(log.name + ".1"))


def _next_step(directory: Path, log_tail: str) -> str:
    """Say what to do about a server that gave up, by what it said. Its own advice, to cut the file, comes after a copy."""
    log = directory / "broker.log"
    if re.search(r"(?i)append only file|rdb format|rdb version|short read", log_tail):
        return (
            f"copy '{directory}' before anything else; then, if its disk was full or broken, let the server's own check-aof "
            f"repair 'appendonlydir' (it cuts off what cannot be read), or move 'appendonlydir' away: what is queued there is "
            f"lost then, and the daemon looks for what was in flight"
        )
    if re.search(r"(?i)no space left|permission denied|read-only file system|can't open|can't chdir", log_tail):
        return f"see that '{directory}' can be written by this user, and that its disk has room; all of its log is '{log}'"
    return f"all of its log is '{log}'"
