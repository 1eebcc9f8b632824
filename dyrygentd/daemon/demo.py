"""The processes of `dyrygentd demo`: a broker, workers and a daemon of its own, up and down again.

No process is left behind, and each way to leave something has one guard:

- *An interrupt at any moment*: signals raise nothing, they cancel a scope, so that the code between a resource and its release
  is never torn apart. They stay caught until all is cleaned up, so that a second Ctrl-C changes nothing.
- *This process is killed*: the kernel kills the children (`ChildProcess`). The workers have no pool, so no grandchildren
  either. Its directory under /tmp stays, as nobody is left to delete it.
- *A child that does not end*: all are killed. There is nothing here that is worth an orderly end.
"""

import asyncio
import json
import os
import re
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from threading import Thread
from typing import Final, NamedTuple, Protocol, TypeVar
from uuid import uuid4

import anyio
import anyio.to_thread

from dyrygentd import wire
from dyrygentd.canvas import definition_of
from dyrygentd.client.aio import AsyncClient, AsyncHandle
from dyrygentd.core.graph import Graph
from dyrygentd.daemon.embedded import SOCKET_PATH_BYTES_MAX, ChildProcess, EmbeddedServer, find_server
from dyrygentd.daemon.kept import signal_name
from dyrygentd.demo import LAYERS, Executions, Piece, Ran, Records, check, ids_of, programme, unknown
from dyrygentd.errors import DaemonUnreachable, DyrygentError, OutsideError

_T = TypeVar("_T")

NODES_MAX: Final = 200_000

_POLL_S = 0.02
_SUPERVISE_S = 0.1
_LOG_TAIL_LINES = 15
_STEERING = ("CELERY_", "CREDENTIALS_", "DYRYGENTD_", "LISTEN_", "NOTIFY_", "WATCHDOG_")
_PLAIN_PATH = re.compile(r"[\w./+=@,-]+", re.ASCII)
"""Paths that need no quoting, neither in a URL nor in a shell."""

_ENDED = ("succeeded", "failed", "blocked", "cancelled")
_DONE = ("succeeded", "skipped")
"""What has not to be done any more, in a workflow whose failures are mended."""


class ChildDied(OutsideError):
    """A process of the demo ended by itself; ``log_tail`` holds its last words."""

    code = "child-died"

    def __init__(self, name: str, returncode: int | None, log_tail: str) -> None:
        self.name = name
        self.returncode = returncode
        self.log_tail = log_tail
        if returncode is not None and returncode < 0:
            # Its log was cut off where nothing was wrong.
            self.next_step = "all of it has ended, and nothing is kept: start the demo again"
            if -returncode == signal.SIGKILL:
                self.next_step += ", with fewer --nodes if memory ran out (`journalctl -k` tells)"
            super().__init__(f"{name} was ended by {signal_name(-returncode)} from outside, and the demo with it")
        else:
            super().__init__(f"{name} ended with status {returncode}{_quoted_log(log_tail)}")


class TooSlow(OutsideError):
    """Nothing happened for too long."""

    code = "too-slow"
    next_step = "try again with a longer --timeout if this machine is busy"

    def __init__(self, what: str, timeout_s: float, log_tail: str = "") -> None:
        self.what = what
        self.timeout_s = timeout_s
        self.log_tail = log_tail
        super().__init__(f"{what} within {timeout_s:g} s{_quoted_log(log_tail)}")


class Interrupted(Exception):
    """A signal ended the demo; everything has been cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to show, and for how long nothing may happen before it is given up."""

    workers: int = 2
    nodes: int | None = None
    keep: bool = False
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What ran, and where it still runs if it is kept."""

    ran: list[Ran]
    foreign: list[str]
    seconds: float
    workers: int
    directory: Path
    socket: Path

    @property
    def is_good(self) -> bool:
        """Tell whether every workflow did what it must, and nothing else was executed."""
        return not self.foreign and all(ran.is_good for ran in self.ran)


class Observer(Protocol):
    """Who shows what happens."""

    def begin(self, directory: str) -> None:
        """The directory is there, the first process is about to start."""

    def started(self, part: str, what: str, seconds: float) -> None:
        """A part of it works."""

    def planned(self, workflows: list[tuple[str, int]]) -> None:
        """These workflows, with so many tasks, come next."""

    def moved(self, number: int, ended: int) -> None:
        """So many tasks of a workflow have ended."""

    def said(self, number: int, words: str) -> None:
        """Something happened in a workflow that a person wants to know, or did."""

    def finished(self, number: int, seconds: float) -> None:
        """A workflow has come to its end, so many seconds after it was accepted."""

    def kept(self, report: Report) -> None:
        """All is done, and stays up."""


def run(options: Options, observer: Observer) -> Report:
    """Start everything, run the workflows, check them, and leave nothing behind.

    Raises:
        Interrupted: By SIGINT, SIGTERM or SIGHUP; with ``keep`` that is the end that is waited for.
        DyrygentError: It cannot be started, or a process died.
    """
    # Imported here, as it takes time, and the demo's help should not wait.
    from dyrygentd.transport.internals import refuse_unusable

    refuse_unusable()
    return anyio.run(_run, options, observer)


@dataclass(slots=True)
class _Done:
    """A workflow that has ended.

    Attributes:
        attempts: ``{node: number}``; None for one of each.
        marks: ``{gate: mark}`` noted when it was opened.
        problems: What was not as it must be.
    """

    graph: Graph
    view: wire.WorkflowView
    attempts: dict[int, int] | None = None
    marks: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Child(NamedTuple):
    name: str
    wait: Callable[[float], int | None]
    log: Path


async def _run(options: Options, observer: Observer) -> Report:
    stage = _Stage(options, observer)
    numbers: list[signal.Signals] = []
    failures: list[DyrygentError] = []
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, stage:
        async with anyio.create_task_group() as tasks:

            async def ending_all(part: Callable[[], Awaitable[None]]) -> None:
                try:
                    await part()
                except DyrygentError as error:
                    failures.append(error)
                tasks.cancel_scope.cancel()

            async def first_signal() -> None:
                async for number in signals:
                    numbers.append(number)
                    return

            tasks.start_soon(ending_all, first_signal)
            tasks.start_soon(ending_all, stage.supervise)
            await ending_all(stage.perform)
    if failures:
        raise failures[0]
    if numbers and not (options.keep and stage.report):
        raise Interrupted(numbers[0])
    assert stage.report is not None
    return stage.report


class _Stage:
    """The directory and the processes. Guards: when it is left, they are gone."""

    def __init__(self, options: Options, observer: Observer) -> None:
        self.report: Report | None = None
        self._options = options
        self._observer = observer
        self._children: list[_Child] = []
        self._exits = ExitStack()

    def __enter__(self) -> None:
        self._began_at = time.monotonic()
        self._directory = self._exits.enter_context(_directory())
        self._socket = self._directory / "dyrygentd.sock"

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    async def perform(self) -> None:
        """Do all of it; with ``keep``, stay until cancelled."""
        program = find_server()
        self._observer.begin(str(self._directory))
        url = await self._start_server(program.name)
        self._spawn_daemon(url)
        self._spawn_workers(url)
        try:
            async with AsyncClient(self._socket) as client:
                with closing(Records(url)) as records:
                    await self._wait_ready(client, records)
                    self.report = await self._run_all(client, records)
        except Exception:
            # Whatever it is, of daemon or broker: that a process has gone is the better word for it.
            self._blame_the_dead()
            raise
        if self._options.keep:
            self._observer.kept(self.report)
            await anyio.sleep_forever()

    async def supervise(self) -> None:
        """Watch the children. Raises `ChildDied`."""
        while True:
            await anyio.sleep(_SUPERVISE_S)
            for child in self._children:
                _require_alive(child)

    # --- up ---

    async def _start_server(self, program: str) -> str:
        server = EmbeddedServer(self._directory, appendonly=False, start_timeout_s=self._options.timeout_s)
        self._exits.callback(server.kill)
        await anyio.to_thread.run_sync(server.start)
        self._children.append(_Child(f"the broker ({program})", server.wait_exit, server.log_path))
        self._tell_started("broker", f"{program}, on a Unix socket")
        return server.url

    def _spawn_workers(self, url: str) -> None:
        # Processes without a pool are the fastest way to use two cores, and have no children of their own.
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
        for number in range(1, self._options.workers + 1):
            celery = ("celery", "-A", "dyrygentd.demo", "--broker", url, "--result-backend", url)
            hostname = ("--hostname", f"worker-{number}@demo")
            self._spawn(f"worker-{number}", *celery, "worker", "--pool", "solo", *hostname, *quiet)

    def _spawn_daemon(self, url: str) -> None:
        urls = ("--broker", url, "--result-backend", url)
        files = ("--config", os.devnull, "--database", f"{self._directory}/state.db", "--socket", str(self._socket))
        self._spawn("dyrygentd", "dyrygentd", "serve", *urls, *files, "--nodes-max", str(NODES_MAX + LAYERS))

    def _spawn(self, name: str, module: str, *arguments: str) -> None:
        log = self._directory / f"{name}.log"
        command = [sys.executable, "-m", module, *arguments]
        child = ChildProcess(command, output=log, environment=_environment(), working_directory=self._directory)
        # Nothing is awaited since the child exists.
        self._exits.callback(child.wait)
        self._exits.callback(child.send_signal, signal.SIGKILL, group=True)
        self._children.append(_Child(name, child.wait, log))

    async def _wait_ready(self, client: AsyncClient, records: Records) -> None:
        count = self._options.workers

        async def is_answering() -> bool:
            try:
                await client.health()
            except DaemonUnreachable:
                return False
            return True

        async def are_consuming() -> bool:
            return await anyio.to_thread.run_sync(records.ready_workers) >= count

        await self._wait_until(is_answering, "dyrygentd")
        self._tell_started("daemon", "dyrygentd serve")
        await self._wait_until(are_consuming, "worker-1")
        self._tell_started("workers", f"{count} x celery worker")

    async def _wait_until(self, is_ready: Callable[[], Awaitable[bool]], name: str, complaint: str = "") -> None:
        with anyio.move_on_after(self._options.timeout_s):
            while True:
                if await is_ready():
                    return
                await anyio.sleep(_POLL_S)
        raise TooSlow(complaint or f"{name} was not ready", self._options.timeout_s, _tail(self._directory / f"{name}.log"))

    def _tell_started(self, part: str, what: str) -> None:
        self._observer.started(part, what, time.monotonic() - self._began_at)

    # --- at work ---

    async def _run_all(self, client: AsyncClient, records: Records) -> Report:
        pieces = programme(self._options.nodes)
        self._observer.planned([(piece.name, piece.tasks) for piece in pieces])
        ended = [await self._run_one(client, records, number, piece) for number, piece in enumerate(pieces)]
        executions = await anyio.to_thread.run_sync(records.executions)
        known = set().union(*(ids_of(done.graph, done.attempts) | set(done.marks.values()) for done in ended))
        return Report(
            ran=[_ran(piece, done, executions) for piece, done in zip(pieces, ended, strict=True)],
            foreign=unknown(known, executions),
            seconds=time.monotonic() - self._began_at,
            workers=self._options.workers,
            directory=self._directory,
            socket=self._socket,
        )

    async def _run_one(self, client: AsyncClient, records: Records, number: int, piece: Piece) -> _Done:
        graph, body = await _in_daemon_thread(lambda: _prepared(piece))
        handle = await client.submit(body)
        if piece.attempts is None:
            await self._follow(handle, number, piece.name, _ENDED)
            done = _Done(graph, await handle.status(with_result=True))
        else:
            done = await self._operate(handle, records, number, piece.name, graph, piece.attempts)
        self._observer.finished(number, _seconds(done.view))
        return done

    async def _operate(
        self, handle: AsyncHandle, records: Records, number: int, name: str, graph: Graph, expected: Mapping[str, int]
    ) -> _Done:
        """Run the replacement and be its operator: mend what failed, open the gate, and leave a note with each."""
        await self._follow(handle, number, name, _DONE)
        await self._tell_retried(handle, number)
        await self._intervene(handle, number, "technicians", "retry", "failed", "the mail server knows us now")
        mark = f"release of confirm in {handle.id}"
        await self._wait_for(handle, "confirm", "gate")
        await anyio.to_thread.run_sync(records.note, mark)
        await self._intervene(handle, number, "confirm", "release", "gate", "disk replaced, ticket DC-1234")
        await self._follow(handle, number, name, _DONE)
        attempts = {node.name: node.attempt async for node in handle.nodes()}
        notes = [entry.why for entry in await handle.journal() if entry.verb in ("retry", "release")]
        problems = [
            f"'{node}' was tried {attempts.get(node, 0)} times, not {times}"
            for node, times in expected.items()
            if attempts.get(node, 0) != times
        ]
        problems += [] if len(notes) == 2 and all(notes) else [f"the journal does not have the operator's two notes: {notes}"]
        numbers = {node: each for each, node in enumerate(graph.names)}
        return _Done(
            graph,
            await handle.status(with_result=True),
            {numbers[node]: times for node, times in attempts.items()},
            {numbers["confirm"]: mark},
            problems,
        )

    async def _tell_retried(self, handle: AsyncHandle, number: int) -> None:
        async for node in handle.nodes(states=["succeeded"]):
            if node.kind == "task" and node.attempt > 1:
                self._observer.said(number, f"'{node.name}' failed at first and was tried again by its retry policy")
            elif node.kind == "poll":
                self._observer.said(number, f"'{node.name}' asked {node.attempt} times until the answer was yes")
            elif node.kind == "hook":
                self._observer.said(number, f"'{node.name}', the hook on failure, has told the team")

    async def _intervene(self, handle: AsyncHandle, number: int, node: str, verb: str, code: str, why: str) -> None:
        """Ask why a node does not run, and do something about it if it is for the reason that is expected."""
        explanation = await handle.explain(node)
        # Without the place in the file, which is a line of ours: a line is to fit a screen.
        self._observer.said(number, explanation.verdict.partition(" [in ")[0])
        if explanation.code == code:
            await handle.perform(verb, nodes=[node], why=why)
            self._observer.said(number, f"the operator: {verb} '{node}', \"{why}\"")

    async def _wait_for(self, handle: AsyncHandle, node: str, code: str) -> None:
        async def is_there() -> bool:
            return (await handle.explain(node)).code == code or (await handle.status()).is_finished

        await self._wait_until(is_there, "dyrygentd", f"'{node}' did not wait for an operator")

    async def _follow(self, handle: AsyncHandle, number: int, name: str, ended_by: Sequence[str]) -> None:
        most = 0
        with anyio.move_on_after(self._options.timeout_s) as patience:
            async for view in handle.events():
                ended = sum(view.counts.get(word, 0) for word in ended_by)
                if ended > most:
                    most, patience.deadline = ended, anyio.current_time() + self._options.timeout_s
                    self._observer.moved(number, ended)
        if patience.cancelled_caught:
            raise TooSlow(f"no task of '{name}' ended", self._options.timeout_s, _tail(self._directory / "dyrygentd.log"))

    def _blame_the_dead(self) -> None:
        """Raise `ChildDied` if something cannot be reached because it has gone, which may be noticed a moment later."""
        for child in self._children:
            _require_alive(child, grace_s=0.2)


async def _in_daemon_thread(function: Callable[[], _T]) -> _T:
    """Compute something for seconds that may be given up at once: unlike anyio's threads, this one holds up no exit."""
    outcome: Future[_T] = Future()
    # Else a cancelled wait would cancel it, and the thread could not set it.
    outcome.set_running_or_notify_cancel()

    def compute() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=compute, name="compute", daemon=True).start()
    return await asyncio.wrap_future(outcome)


def _prepared(piece: Piece) -> tuple[Graph, bytes]:
    """Return the graph and the body of its submission."""
    made = piece.make()
    if type(made) is dict:
        # The ids are chosen here, so that the executions can be told; the daemon puts the parameters in.
        for node in made["nodes"]:
            node |= {"task_id": str(uuid4())} if "task" in node else {}
        body = json.dumps(made).encode()
        return wire.decode_definition(body, nodes_max=NODES_MAX).graph, body
    definition = definition_of(made, name=piece.name)
    return definition.graph, wire.encode_definition(definition)


def _ran(piece: Piece, done: _Done, executions: Executions) -> Ran:
    graph, view = done.graph, done.view
    once, in_order, problems = check(graph, executions, attempts=done.attempts, marks=done.marks)
    return Ran(
        name=piece.name,
        id=view.id,
        state=view.state,
        tasks=graph.task_count if done.attempts is None else sum(done.attempts.values()),
        seconds=_seconds(view),
        once=once,
        in_order=in_order,
        result=view.result,
        expected=piece.expected,
        problems=[*done.problems, *problems],
    )


def _seconds(view: wire.WorkflowView) -> float:
    return (view.finished_at or view.created_at) - view.created_at


def _require_alive(child: _Child, *, grace_s: float = 0.0) -> None:
    returncode = child.wait(grace_s)
    if returncode is not None:
        raise ChildDied(child.name, returncode, _tail(child.log))


@contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory for all files, with room in its path for sockets, and remove it in the end."""
    parent = Path(tempfile.gettempdir())
    longest = parent / "dyrygentd-demo-12345678" / "dyrygentd.sock"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES_MAX or not _PLAIN_PATH.fullmatch(str(parent)):
        parent = Path("/tmp")
    directory = Path(tempfile.mkdtemp(prefix="dyrygentd-demo-", dir=parent))
    try:
        yield directory
    finally:
        rmtree(directory, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Return the environment without what would steer the children: the user's own Celery, daemon and service manager."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_STEERING) or name.startswith("DYRYGENTD_TEST_")
    }
    root = Path(__file__).parents[2]
    if root not in (Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))):
        # Not installed: the children find the package where this process found it.
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), kept.get("PYTHONPATH")]))
    return kept


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_TAIL_LINES:]).strip()


def _quoted_log(tail: str) -> str:
    return f"; its log ends with:\n{tail}" if tail else ""
