"""A run by seed: workflows under way, faults at random moments, and then the reckoning.

The oracle knows from the model what must become of each node, from the broker's own account what was pushed, and from the tasks
themselves what was executed:

- every workflow and every node ends as the model says, and within the time;
- each attempt of a node is pushed exactly once, attempts are numbered without a gap, and what is blocked is never pushed (only
  what a broker lost with all its data may be missing);
- each task is executed at least once, and once more for each time that a worker gave its message back, and no more;
- nothing starts before everything that it depends on has ended.

What a killed worker had begun is lost. The daemon has to find it, and to try again by itself what is idempotent; for the rest
it asks a person, whose part is played here.
"""

import random
import re
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from dyrygentd.client.sync import Client, Handle
from dyrygentd.errors import DyrygentError
from dyrygentd.wire import NodeView
from tests.faults.crashing_daemon import CRASH
from tests.faults.ledger import Push
from tests.faults.workflows import Planned, planned
from tests.faults.world import World, signal_process
from tests.support.daemon import Daemon, DaemonEnded

#: Longest a run may take until everything has ended; a run takes a tenth of it.
HANG_S: Final = 90.0
#: How long nothing may have ended before an operator looks.
_PATIENCE_S: Final = 3.0
#: What is lost is looked for soon: tasks take a fraction of a second.
_FLAGS: Final = ("--lost-after-s", "3", "--lost-confirm-s", "2")
#: How long a point may take to be passed by a daemon that has something to do.
_CRASH_MAX_S: Final = 20.0
#: How often, a second apart, a task may be told to be lost before something has to come of it.
_LOST_SEEN_MAX: Final = 30
#: How often, a second apart, a task may be told to run: the longest takes a fifth of a second.
_RUNNING_SEEN_MAX: Final = 10
#: How often, a second apart, nobody consumes a queue before its worker is restarted: a worker comes back within a few seconds.
_UNCONSUMED_MAX: Final = 6
#: The client gives up on a daemon that is stopped, and asks again.
_CLIENT_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Verdict:
    """How a run went.

    Attributes:
        crashed: The points at which the daemon killed itself, in order.
        lost: Verdicts of the daemon that a task was lost.
        retried: How often a person had to decide on that.
        hanging: Tasks that a worker said to execute for ever, and that a person tried again.
    """

    seed: int
    faults: list[str]
    tasks: int = 0
    executions: int = 0
    pushes: int = 0
    restored: int = 0
    lost: int = 0
    retried: int = 0
    hanging: int = 0
    daemon_ends: int = 0
    worker_ends: int = 0
    seconds: float = 0.0
    crashed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Tell whether no promise was broken."""
        return not self.errors

    def line(self) -> str:
        """Return it in a line."""
        verdict = "ok" if self.is_well else "FAILED"
        return (
            f"seed {self.seed:>5}  {self.tasks:>4} tasks  {self.pushes:>4} pushes  {self.executions:>4} executions  "
            f"{self.restored:>3} restored  {self.lost:>2} lost  {self.retried:>2} retried  "
            f"{self.hanging} hanging  {self.daemon_ends:>2} daemon ends  "
            f"{self.worker_ends} worker ends  {self.seconds:5.1f} s  "
            f"{verdict:<6}  {', '.join(self.faults)}"
        )


class Run:
    """One run under way.

    Attributes:
        daemon: It may be dead at any moment; `keep_daemon` starts it again.
    """

    def __init__(
        self, world: World, seed: int, *, faults: Sequence[str], workflows: int, size: int, waits_for_crashes: bool = False
    ) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.verdict = Verdict(seed, list(faults))
        self.daemon: Daemon = world.daemon(f"d{seed}", *_FLAGS, module="tests.faults.crashing_daemon")
        self.forged = 0
        self.planned = [
            planned(self.chance, key=f"{seed}-{number}", size=self.chance.randrange(size // 2, size + 1))
            for number in range(workflows)
        ]
        self.submitted: dict[str, str] = {}
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._waits_for_crashes = waits_for_crashes
        self._submissions = threading.Semaphore(0 if waits_for_crashes else workflows)
        self._stop = threading.Event()
        self._pauses = [self.chance.uniform(0.0, 0.7) for _ in faults]
        self._ledger = world.ledger

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._ledger.close()
        if self.daemon.is_alive:
            signal_process(self.daemon.pid, signal.SIGCONT)
            self.daemon.kill()

    # --- what faults use --------------------------------------------------------------------------------------------

    def client(self) -> Client:
        """Make a client that does not wait for ever."""
        return Client(self.daemon.socket_path, timeout_s=_CLIENT_TIMEOUT_S)

    def pause(self, seconds: float) -> None:
        """Let time pass, while things happen."""
        self._stop.wait(seconds)

    def start_daemon(self, *, crash: str = "") -> None:
        """Start the daemon, and again if it crashes before it is ready."""
        self.daemon.environment[CRASH] = crash
        for _ in range(5):
            try:
                self.daemon.start()
            except DaemonEnded:
                self.note_end()
                self.daemon.environment[CRASH] = ""
                continue
            return
        self.error(f"the daemon does not start:\n{self.daemon.log()[-2000:]}")

    def note_end(self) -> None:
        """Count that the daemon has ended."""
        self.verdict.daemon_ends += 1

    def keep_daemon(self) -> None:
        """Start the daemon if it has ended by itself, as a service manager would."""
        if not self.daemon.is_alive:
            if not self.daemon.environment.get(CRASH):
                self.error(f"the daemon ended by itself:\n{self.daemon.log()[-2000:]}")
            self.note_end()
            self.start_daemon()

    def keep_workers(self) -> None:
        """Start workers again that have ended by themselves: kombu does not survive each outage of its server."""
        for worker in self.world.workers:
            if worker.pid is None:
                self.verdict.worker_ends += 1
                worker.start()

    def finished_tasks(self) -> list[str]:
        """Return task ids whose success is on disk, read past the daemon."""
        found: list[str] = []
        with suppress(sqlite3.Error):
            database = sqlite3.connect(f"file:{self.daemon.database_path}?mode=ro", uri=True, timeout=1)
            try:
                rows = database.execute(
                    "SELECT w.key, n.node FROM nodes n JOIN workflows w ON w.seq = n.workflow"
                    " WHERE n.state = 'succeeded' AND n.attempt = 1"
                ).fetchall()
            finally:
                database.close()
            graphs = {each.key: each.definition.graph for each in self.planned}
            found = [task_id for key, node in rows if key in graphs and (task_id := graphs[key].task_ids[node])]
        return found

    def error(self, text: str) -> None:
        """Note what must not be."""
        self.verdict.errors.append(text)

    # --- the run ----------------------------------------------------------------------------------------------------

    def go(self, causes: Mapping[str, Callable[["Run"], None]]) -> Verdict:
        """Submit, break, wait for the end, and reckon."""
        begun = time.monotonic()
        deadline = begun + HANG_S
        first = self.verdict.faults[0] if self.verdict.faults else ""
        # What crashes at a submission has to be there at the first one.
        self.start_daemon(crash=first.partition("@")[2])
        submitting = threading.Thread(target=self._submit_all)
        submitting.start()
        try:
            for number, (name, pause_s) in enumerate(zip(self.verdict.faults, self._pauses, strict=True)):
                self.pause(0 if self._waits_for_crashes else pause_s)
                if not self._waits_for_crashes:
                    self.keep_daemon()
                    self.keep_workers()
                if "@" not in name:
                    try:
                        causes[name](self)
                    except Exception as error:
                        # Another run may go on after it.
                        self.error(f"fault '{name}' could not be caused: {error!r}")
                elif number:
                    self._crash(name.partition("@")[2])
                if self._waits_for_crashes:
                    self._submissions.release()
                    self._wait_crashed()
            self._wait_ended(submitting, deadline)
        finally:
            self._stop.set()
            submitting.join()
        self.world.mend()
        if self.daemon.environment.get(CRASH):
            # It never passed its point, and must not do so when it is asked.
            self._crash("")
        found = re.findall(r"dyrygentd.lost: (?:task \S+ is|(\d+) tasks are) lost, of ", self.daemon.log())
        self.verdict.lost = sum(int(count or 1) for count in found)
        self.verdict.crashed = re.findall(r"^crashing (.*), at pass", self.daemon.log(), re.MULTILINE)
        if not self.verdict.errors:
            try:
                self._reckon()
            except DyrygentError as error:
                self.error(f"the daemon did not answer in the end: {type(error).__name__}: {error}")
        self.verdict.seconds = time.monotonic() - begun
        if self.verdict.errors:
            self.error(f"the daemon's log ends with:\n{self.daemon.log()[-3000:]}")
            for worker in self.world.workers:
                self.error(f"the log of {worker.name} ends with:\n{worker.log()[-2000:]}")
        return self.verdict

    def _crash(self, point: str) -> None:
        """Restart the daemon so that it dies at the point."""
        self.daemon.kill()
        self.note_end()
        self.start_daemon(crash=point)

    def _wait_crashed(self) -> None:
        """Wait until the daemon has passed its point; the reckoning tells if it never did."""
        deadline = time.monotonic() + _CRASH_MAX_S
        while self.daemon.is_alive and self.daemon.environment.get(CRASH) and time.monotonic() < deadline:
            self.pause(0.02)

    def _submit_all(self) -> None:
        """Submit each workflow until it is answered; with its key, that is once."""
        with self.client() as client:
            for each in self.planned:
                while not self._submissions.acquire(timeout=0.1):
                    if self._stop.is_set():
                        return
                while not self._stop.is_set():
                    try:
                        self.submitted[each.key] = client.submit(each.definition).id
                        break
                    except DyrygentError:
                        self._stop.wait(0.05)
                self._stop.wait(random.Random(each.key).uniform(0.0, 0.6))

    def _wait_ended(self, submitting: threading.Thread, deadline: float) -> None:
        progress: tuple[int, ...] = ()
        moved_at = time.monotonic()
        with self.client() as client:
            while time.monotonic() < deadline:
                self.keep_daemon()
                self.keep_workers()
                views = {}
                with suppress(DyrygentError):
                    views = {key: client.get(workflow_id) for key, workflow_id in [*self.submitted.items()]}
                    is_complete = not submitting.is_alive() and len(views) == len(self.planned)
                    if is_complete and all(view.is_finished for view in views.values()):
                        return
                now = time.monotonic()
                present = tuple(number for view in views.values() for number in view.counts.values())
                if present != progress:
                    progress, moved_at = present, now
                elif views and now - moved_at > _PATIENCE_S:
                    self._operate(client)
                    moved_at = now - _PATIENCE_S + 1.0
                self.pause(0.05)
            self.error(f"a run of {HANG_S:g} s, and not everything has ended: {self._explained(client)}")

    def _operate(self, client: Client) -> None:
        """Do what an operator would: decide on what is lost and held, and restart workers that consume no more.

        What is idempotent the daemon has to try again by itself.
        """
        for workflow_id in self.submitted.values():
            with suppress(DyrygentError):
                handle = client.handle(workflow_id)
                for node in handle.nodes(states=["dispatched", "held"]):
                    if node.hold == "lost":
                        self._decide(handle, node)
                        continue
                    code = handle.explain(node.name).code
                    self._seen[workflow_id, node.name, code] += 1
                    if code == "lost" and self._seen[workflow_id, node.name, code] == _LOST_SEEN_MAX:
                        self.error(f"node '{node.name}' is lost for a long time, and nothing comes of it")
                    elif code == "running" and self._seen[workflow_id, node.name, code] == _RUNNING_SEEN_MAX:
                        # A worker of the pool `solo` that loses the backend while it stores a result drops the task, and
                        # counts it among those that it executes for ever.
                        handle.retry(node.name, force=True, why="it hangs")
                        self.verdict.hanging += 1
                    elif code == "no-consumer" and self._seen[workflow_id, node.name, code] > _UNCONSUMED_MAX:
                        self._restart_worker_of(handle.explain(node.name).verdict)

    def _decide(self, handle: Handle, node: NodeView) -> None:
        key = next(key for key, workflow_id in self.submitted.items() if workflow_id == handle.id)
        if node.name in next(each.idempotent for each in self.planned if each.key == key):
            self.error(f"node '{node.name}' of '{key}' is idempotent, and is held for a person: {node.error}")
        handle.retry(node.name, why="lost")
        self.verdict.retried += 1

    def _restart_worker_of(self, told: str) -> None:
        queue = next((number for number, crew in enumerate(self.world.crews) if f"'{crew.queue}'" in told), 0)
        worker = self.world.workers[queue]
        worker.kill()
        worker.start()
        self.verdict.worker_ends += 1
        self._seen.clear()

    def _explained(self, client: Client) -> str:
        told = []
        for key, workflow_id in self.submitted.items():
            try:
                handle = client.handle(workflow_id)
                explanation = handle.explain()
                if handle.status().is_finished:
                    continue
                told.append(f"{key}: {explanation.verdict} {[standing.text for standing in explanation.standings[:4]]}")
            except DyrygentError as error:
                told.append(f"{key}: {error}")
        return "; ".join(told) or "nothing was submitted"

    # --- the reckoning ----------------------------------------------------------------------------------------------

    def _reckon(self) -> None:
        pushes = [*self._ledger.pushes()]
        ours = [push for push in pushes if not push.is_restored]
        restored = Counter(push.task_id for push in pushes if push.is_restored)
        counts = self.world.executions.counts()
        attempts: dict[tuple[str, int], list[Push]] = defaultdict(list)
        for push in ours:
            attempts[push.workflow_id, push.node].append(push)
        self.verdict.pushes, self.verdict.restored = len(ours), sum(restored.values())
        self.verdict.executions = sum(counts.values())
        self.verdict.tasks = sum(each.definition.graph.task_count for each in self.planned)
        for (workflow_id, node), of_node in attempts.items():
            numbers = [push.attempt for push in of_node]
            # One that nobody knows to have been sent, since its broker was emptied, is lost, and the next one is sent.
            wanted = sorted(set(numbers)) if self.verdict.lost else [*range(1, len(numbers) + 1)]
            if numbers != wanted:
                self.error(f"node {node} of {workflow_id} was pushed as attempts {numbers}")
        known = {push.task_id for push in ours}
        for task_id, count in counts.items():
            if task_id in self.world.pushed_before:
                continue  # A worker had it in its hands when the run before this one was over.
            if task_id not in known:
                self.error(f"task {task_id} was executed and never pushed")
            elif count > 1 + restored[task_id]:
                self.error(f"task {task_id} was executed {count} times, and given back {restored[task_id]} times")
        self.world.pushed_before |= known
        started, ended = self.world.executions.started(), self.world.executions.ended()
        with self.client() as client:
            for each in self.planned:
                self._reckon_one(client, each, attempts, counts, started, ended)
            if len(client.list(limit=None)) != len(self.planned):
                self.error(f"{len(client.list(limit=None))} workflows of {len(self.planned)} submissions")
            self._look_into_daemon(client)
        if {push.workflow_id for push in ours} - set(self.submitted.values()):
            self.error("something was pushed for a workflow that nobody submitted")

    def _reckon_one(
        self,
        client: Client,
        each: Planned,
        attempts: Mapping[tuple[str, int], Sequence[Push]],
        counts: Mapping[str, int],
        started: Mapping[str, int],
        ended: Mapping[str, int],
    ) -> None:
        workflow_id = self.submitted[each.key]
        again = client.submit(each.definition)
        if again.id != workflow_id:
            self.error(f"key '{each.key}' was taken in as {workflow_id} and as {again.id}")
        handle = client.handle(workflow_id)
        outcome = handle.wait(timeout_s=_CLIENT_TIMEOUT_S)
        if outcome.state != each.state:
            self.error(f"workflow '{each.key}' is {outcome.state}, the model says {each.state}: {outcome.failed_nodes[:3]}")
        if each.result is not None and outcome.result != each.result:
            self.error(f"workflow '{each.key}' has the value {outcome.result!r}, the model says {each.result!r}")
        graph = each.definition.graph
        first_start: dict[int, int] = {}
        last_end: dict[int, int] = {}
        views = {view.name: view for view in handle.nodes()}
        for node, name in enumerate(graph.names):
            view, expected, pushed = views[name], each.states[name], attempts.get((workflow_id, node), ())
            if view.state != expected:
                self.error(f"node '{name}' of '{each.key}' is {view.state} ({view.error}), the model says {expected}")
            executed = sum(counts.get(push.task_id, 0) for push in pushed)
            if expected == "blocked":
                if pushed:
                    self.error(f"node '{name}' of '{each.key}' is blocked and was pushed")
                continue
            if not executed:
                self.error(f"node '{name}' of '{each.key}' was never executed")
                continue
            if view.attempt != pushed[-1].attempt:
                self.error(f"node '{name}' of '{each.key}' is at attempt {view.attempt}, pushed was {pushed[-1].attempt}")
            ends = [ended[push.task_id] for push in pushed if push.task_id in ended]
            first_start[node] = min(started[push.task_id] for push in pushed if push.task_id in started)
            # The end of an attempt that was taken for lost may have been believed, or that of a later one.
            is_last = not (self.verdict.lost or self.verdict.hanging) and pushed[-1].task_id in ended
            last_end[node] = ended[pushed[-1].task_id] if is_last else min(ends, default=0)
            for dependency in graph.dependencies(node):
                if first_start[node] <= last_end.get(dependency, 0):
                    self.error(f"node '{name}' of '{each.key}' started before '{graph.names[dependency]}' had ended")

    def _look_into_daemon(self, client: Client) -> None:
        stats = client.stats()
        for word in ("broken", "refused"):
            if stats.engine["counters"][word]:
                self.error(f"the daemon counts {word}: {stats.engine['counters'][word]}")
        left = {word: stats.engine[word] for word in ("in_flight", "inbox", "publish_queue") if stats.engine[word]}
        if left:
            self.error(f"everything has ended, and the daemon still has {left}")
        log = self.daemon.log()
        if "Traceback" in log:
            self.error(f"the daemon logged a traceback: {log[log.index('Traceback') :][:1500]}")
