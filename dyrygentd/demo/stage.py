"""`dyrygentd demo` as it goes: the workflows are submitted, followed, mended by their operator, and checked.

What runs meanwhile is in `dyrygentd.demo.processes`.
"""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Protocol, TypeVar
from uuid import uuid4

import anyio
import anyio.to_thread

from dyrygentd import wire
from dyrygentd.canvas import definition_of
from dyrygentd.client.aio import AsyncClient, AsyncHandle
from dyrygentd.core.bounds import NODES_ACCEPTED_MAX
from dyrygentd.core.graph import Graph
from dyrygentd.daemon.embedded import find_server
from dyrygentd.demo import Executions, Piece, Ran, Records, check, ids_of, programme, unknown
from dyrygentd.demo.processes import Processes
from dyrygentd.errors import DyrygentError

_T = TypeVar("_T")

_ENDED = ("succeeded", "failed", "blocked", "cancelled")
_DONE = ("succeeded", "skipped")
"""What has not to be done any more, in a workflow whose failures are mended."""


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
class StageReport:
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

    def kept(self, report: StageReport) -> None:
        """All is done, and stays up."""


def run(options: Options, observer: Observer) -> StageReport:
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


async def _run(options: Options, observer: Observer) -> StageReport:
    processes = Processes(options.timeout_s, observer.started)
    performance = _Performance(options, observer, processes)
    numbers: list[signal.Signals] = []
    failures: list[DyrygentError] = []
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, processes:
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
            tasks.start_soon(ending_all, processes.supervise)
            await ending_all(performance.run)
    if failures:
        raise failures[0]
    if numbers and not (options.keep and performance.report):
        raise Interrupted(numbers[0])
    assert performance.report is not None
    return performance.report


class _Performance:
    """Runs the workflows one after the other. Guards: there is a report only if all of them have come to their end.

    Args:
        processes: What they run on; started here, ended by whoever has entered it.
    """

    def __init__(self, options: Options, observer: Observer, processes: Processes) -> None:
        self.report: StageReport | None = None
        self._options = options
        self._observer = observer
        self._processes = processes

    async def run(self) -> None:
        """Do all of it; with ``keep``, stay until cancelled."""
        processes, workers = self._processes, self._options.workers
        program = find_server()
        self._observer.begin(str(processes.directory))
        url = await processes.start_server(program.name)
        processes.spawn_daemon(url)
        processes.spawn_workers(url, workers)
        try:
            async with AsyncClient(processes.socket) as client:
                with closing(Records(url)) as records:
                    await processes.wait_ready(client, records, workers)
                    self.report = await self._run_all(client, records)
        except Exception:
            # Whatever it is, of daemon or broker: that a process has gone is the better word for it.
            processes.blame_the_dead()
            raise
        if self._options.keep:
            self._observer.kept(self.report)
            await anyio.sleep_forever()

    async def _run_all(self, client: AsyncClient, records: Records) -> StageReport:
        pieces = programme(self._options.nodes)
        self._observer.planned([(piece.name, piece.tasks) for piece in pieces])
        ended = [await self._run_one(client, records, number, piece) for number, piece in enumerate(pieces)]
        executions = await anyio.to_thread.run_sync(records.executions)
        known = set().union(*(ids_of(done.graph, done.attempts) | set(done.marks.values()) for done in ended))
        return StageReport(
            ran=[_ran(piece, done, executions) for piece, done in zip(pieces, ended, strict=True)],
            foreign=unknown(known, executions),
            seconds=self._processes.seconds,
            workers=self._options.workers,
            directory=self._processes.directory,
            socket=self._processes.socket,
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

        await self._processes.wait_until(is_there, "dyrygentd", f"'{node}' did not wait for an operator")

    async def _follow(self, handle: AsyncHandle, number: int, name: str, ended_by: Sequence[str]) -> None:
        most = 0
        with anyio.move_on_after(self._options.timeout_s) as patience:
            async for view in handle.events():
                ended = sum(view.counts.get(word, 0) for word in ended_by)
                if ended > most:
                    most, patience.deadline = ended, anyio.current_time() + self._options.timeout_s
                    self._observer.moved(number, ended)
        if patience.cancelled_caught:
            raise self._processes.too_slow(f"no task of '{name}' ended", "dyrygentd")


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
        return wire.decode_definition(body, nodes_max=NODES_ACCEPTED_MAX).graph, body
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
