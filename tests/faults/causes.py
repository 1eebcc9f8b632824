"""What is done to the processes of a run. Each fault brings back what it has stopped, and leaves the rest to the run."""

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from dyrygentd.errors import DyrygentError
from tests.faults.crashing_daemon import CRASH, POINTS
from tests.faults.runs import Run
from tests.faults.workflows import Planned
from tests.faults.world import signal_process
from tests.support.daemon import Daemon
from tests.support.servers import CeleryWorker, wait_until

_EARLY, _LATE = 0, 1


# --- the daemon -----------------------------------------------------------------------------------------------------


def _daemon_kill(run: Run) -> None:
    run.daemon.kill()
    run.note_end()
    run.start_daemon()


def _daemon_kill_in_recovery(run: Run) -> None:
    run.daemon.kill()
    for _ in range(run.chance.randrange(1, 3)):
        run.daemon.launch()
        run.pause(run.chance.uniform(0.2, 1.2))
        run.daemon.kill()
        run.note_end()
    run.start_daemon()


def _daemon_term(run: Run) -> None:
    told = len(run.daemon.log())
    _check_end(run, "after SIGTERM", run.daemon.stop(), (0,), told)
    run.note_end()
    run.start_daemon()


def _daemon_term_in_recovery(run: Run) -> None:
    """SIGTERM while it starts: before it listens for signals that is its end, later it ends in good order."""
    run.daemon.kill()
    told = len(run.daemon.log())
    run.daemon.launch()
    run.pause(run.chance.uniform(0.1, 1.2))
    status = run.daemon.signal(signal.SIGTERM, timeout_s=20)
    _check_end(run, "after SIGTERM in its recovery", status, (0, -signal.SIGTERM), told)
    run.note_end()
    run.start_daemon()


def _check_end(run: Run, when: str, status: int, good: tuple[int, ...], told: int) -> None:
    """Check how the daemon ended; it may have come to where the same run makes it crash, and its log says so since then."""
    log = run.daemon.log()
    has_crashed = status == -signal.SIGKILL and "crashing " in log[told:]
    if status not in good and not has_crashed:
        run.error(f"{when} the daemon ended with {status}:\n{log[-2000:]}")


def _daemon_pause(run: Run) -> None:
    _stopped(run, run.daemon.pid, run.chance.uniform(0.5, 2.5))


def _daemon_second(run: Run) -> None:
    """A second daemon on the same database, or the same socket: it is refused, and the first does not notice."""
    if run.daemon.environment.get(CRASH):
        # It might crash just then, and the second one would be the first.
        _daemon_kill(run)
    other = run.daemon.directory / "second"
    other.mkdir(exist_ok=True)
    same = run.chance.choice(["database", "socket"])
    path = run.daemon.database_path if same == "database" else run.daemon.socket_path
    flags = ["--broker", run.world.server.url, "--result-backend", run.world.server.url, f"--{same}", str(path)]
    pid = run.daemon.pid
    second = Daemon(flags, directory=other)
    second.launch()
    status = second.wait(timeout_s=30)
    if status == 0 or "Traceback" in second.log():
        run.error(f"a second daemon with the same {same} ended with {status}:\n{second.log()[-2000:]}")
    if run.daemon.pid != pid:
        run.error("the first daemon was disturbed by a second one")


# --- workers --------------------------------------------------------------------------------------------------------


def _worker_kill_early(run: Run) -> None:
    """What it executes is lost."""
    _wait_executing(run)
    _restarted(run, _EARLY, CeleryWorker.kill)


def _worker_kill_late(run: Run) -> None:
    """What it executes is delivered again, after the visibility timeout."""
    _wait_executing(run)
    _restarted(run, _LATE, CeleryWorker.kill)


def _wait_executing(run: Run) -> None:
    """Wait a little for a task that takes its time."""
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        executions = run.world.executions
        if executions.started().keys() - executions.ended().keys():
            return
        run.pause(0.005)


def _worker_stop(run: Run) -> None:
    _restarted(run, run.chance.choice([_EARLY, _LATE]), CeleryWorker.stop)


def _worker_pause(run: Run) -> None:
    pid = run.chance.choice(run.world.workers).pid
    if pid:
        _stopped(run, pid, run.chance.uniform(0.5, 3.0))


def _child_kill(run: Run) -> None:
    """Kill a child of the prefork pool: Celery gives its message back, as it acknowledges late."""
    pid = run.world.workers[_LATE].pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if children:
        signal_process(int(run.chance.choice(children)), signal.SIGKILL)


# --- the broker -----------------------------------------------------------------------------------------------------


def _redis_pause(run: Run) -> None:
    assert run.world.server.pid
    _stopped(run, run.world.server.pid, run.chance.uniform(0.5, 3.0))


def _redis_pause_long(run: Run) -> None:
    """Longer than anybody waits for an answer: what was sent is sent again, and the server finds both when it goes on."""
    assert run.world.server.pid
    _stopped(run, run.world.server.pid, run.chance.uniform(11.0, 13.0))


def _redis_restart(run: Run) -> None:
    run.world.server.restart()


def _redis_kill(run: Run) -> None:
    """The file is written before a command is answered, so killing the server loses nothing."""
    run.world.server.kill()
    run.pause(run.chance.uniform(0.0, 1.0))
    run.world.server.start()


def _redis_emptied(run: Run) -> None:
    """Queues, results and markers are gone, perhaps while the daemon is down: what was in flight is lost, or unknown."""
    is_down = run.chance.random() < 0.5
    if is_down:
        run.daemon.kill()
        run.note_end()
    with run.world.orders() as orders:
        orders.flushall()
    if is_down:
        run.start_daemon()


def _kill_pubsub(run: Run) -> None:
    with run.world.orders() as orders:
        for _ in range(run.chance.randrange(1, 5)):
            orders.client_kill_filter(_type="pubsub")
            run.pause(0.1)


def _kill_normal(run: Run) -> None:
    with run.world.orders() as orders:
        orders.client_kill_filter(_type="normal", skipme=True)


def _kill_fetching(run: Run) -> None:
    """Kill the connections that wait for messages, which are the workers'; what one was just given is in no key any more."""
    with run.world.orders() as orders:
        for _ in range(run.chance.randrange(1, 4)):
            for client in orders.client_list():
                if "b" in client["flags"]:
                    orders.client_kill_filter(_id=client["id"])
            run.pause(0.1)


def _cut_daemon(run: Run) -> None:
    for _ in range(run.chance.randrange(1, 4)):
        run.world.proxy.cut_all()
        run.pause(run.chance.uniform(0.0, 0.3))


def _cut_reply(run: Run) -> None:
    """The script has pushed, and nobody hears of it."""
    run.world.proxy.cut_reply_to(*["EVALSHA"] * run.chance.randrange(1, 4))
    run.pause(0.5)
    run.world.proxy.forget_cuts()


def _cut_subscription(run: Run) -> None:
    run.world.proxy.cut_reply_to("SUBSCRIBE", "EVAL")
    run.pause(0.5)
    run.world.proxy.forget_cuts()


# --- lies -----------------------------------------------------------------------------------------------------------


def _forged_results(run: Run) -> None:
    """Doubles of results, and results that contradict those that are on disk: stored, published, or both."""
    finished = run.finished_tasks()
    with run.world.orders() as orders:
        for task_id in run.chance.sample(finished, min(len(finished), 20)):
            key = f"celery-task-meta-{task_id}"
            true = orders.get(key)
            forged = json.dumps(_forgery(run.chance, task_id))
            for payload in run.chance.sample([forged, forged, true or forged, "garbage {", ""], 3):
                if run.chance.random() < 0.5:
                    orders.setex(key, 600, payload)
                orders.publish(key, payload)
                run.forged += 1


def _forgery(chance: random.Random, task_id: str) -> dict[str, object]:
    failure = {"exc_type": "ValueError", "exc_message": ["forged"], "exc_module": "builtins"}
    status = chance.choice(["SUCCESS", "FAILURE", "REVOKED", "STARTED", "RETRY", "PENDING"])
    result = "forged" if status == "SUCCESS" else failure
    return {"status": status, "result": result, "traceback": None, "children": [], "date_done": None, "task_id": task_id}


def _garbage_published(run: Run) -> None:
    """Noise on the channels of tasks in flight; nothing of it is stored, so nothing of it is a result."""
    with run.world.orders() as orders:
        for _ in range(5):
            for channel in [*map(str, orders.pubsub_channels("celery-task-meta-*"))][:50]:
                orders.publish(channel, run.chance.choice([b"\xff\x00", b"{", b"", b"[1]", b'"x"', b'{"status": 7}', b"null"]))
            run.pause(0.1)


# --- operators ------------------------------------------------------------------------------------------------------


def _operator_pauses(run: Run) -> None:
    """Pause a workflow and let it go on, with a crash between if chance will have it; nothing comes of it in the end."""
    _performed(run, "pause")
    if run.chance.random() < 0.5:
        _daemon_kill(run)
    run.pause(run.chance.uniform(0.0, 0.5))
    _performed(run, "resume")


def _operator_holds(run: Run) -> None:
    """Hold nodes of a workflow and release them, with a crash between if chance will have it."""
    _performed(run, "hold")
    if run.chance.random() < 0.5:
        _daemon_kill(run)
    run.pause(run.chance.uniform(0.0, 0.5))
    _performed(run, "release")


def _submitted_again(run: Run) -> None:
    """Submit what is there already, from several clients at once: each gets the workflow that is there."""

    def submit(each: Planned) -> None:
        with suppress(DyrygentError), run.client() as client:
            found = client.submit(each.definition)
            expected = run.submitted.get(each.key)
            if expected is not None and found.id != expected:
                run.error(f"key '{each.key}' was answered with {expected}, then with {found.id}")

    threads = [
        threading.Thread(target=submit, args=(each,)) for each in run.planned for _ in range(4) if each.key in run.submitted
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _performed(run: Run, verb: str) -> None:
    """Carry out a verb on the first workflow, again until it is answered, as its operator would."""
    deadline = time.monotonic() + 30
    wait_until(lambda: run.submitted or time.monotonic() > deadline, timeout_s=31)
    if not run.submitted:
        return
    key, workflow_id = next(iter(run.submitted.items()))
    states = next(each.states for each in run.planned if each.key == key)
    nodes = list(states)[-3:] if verb in _OF_NODES else []
    with run.client() as client:
        while time.monotonic() < deadline:
            run.keep_daemon()
            try:
                client.handle(workflow_id).perform(verb, nodes=nodes, why="a fault run")
            except DyrygentError as error:
                if error.code in ("verb-refused", "value-gone"):
                    return  # It has ended by now.
                run.pause(0.1)
            else:
                return
    run.error(f"verb '{verb}' was not answered within 30 s")


_OF_NODES: Final = ("hold", "release")


# --- all of them ----------------------------------------------------------------------------------------------------

#: ``{name: what it does}``; beside them there is ``crash@POINT:N``.
CAUSES: Final[Mapping[str, Callable[[Run], None]]] = {
    "daemon-kill": _daemon_kill,
    "daemon-kill-in-recovery": _daemon_kill_in_recovery,
    "daemon-term": _daemon_term,
    "daemon-term-in-recovery": _daemon_term_in_recovery,
    "daemon-pause": _daemon_pause,
    "daemon-second": _daemon_second,
    "worker-kill-early": _worker_kill_early,
    "worker-kill-late": _worker_kill_late,
    "worker-stop": _worker_stop,
    "worker-pause": _worker_pause,
    "child-kill": _child_kill,
    "redis-pause": _redis_pause,
    "redis-pause-long": _redis_pause_long,
    "redis-restart": _redis_restart,
    "redis-kill": _redis_kill,
    "redis-emptied": _redis_emptied,
    "kill-pubsub": _kill_pubsub,
    "kill-normal": _kill_normal,
    "kill-fetching": _kill_fetching,
    "cut-daemon": _cut_daemon,
    "cut-reply": _cut_reply,
    "cut-subscription": _cut_subscription,
    "forged-results": _forged_results,
    "garbage-published": _garbage_published,
    "operator-pauses": _operator_pauses,
    "operator-holds": _operator_holds,
    "submitted-again": _submitted_again,
}


def chosen_faults(seed: int) -> Sequence[str]:
    """Choose the faults of a seed; over many seeds all of them come about equally often."""
    chance = random.Random(f"faults {seed}")
    names = [*CAUSES]
    # The first goes round, so that a few dozen seeds have met each.
    faults = [names[seed % len(names)]]
    for _ in range(chance.randrange(1, 4)):
        if chance.random() < 0.3:
            faults.append(f"crash@{chance.choice(POINTS)}:{chance.randrange(1, 6)}")
        else:
            faults.append(chance.choice(names))
    chance.shuffle(faults)
    return faults


def _stopped(run: Run, pid: int, seconds: float) -> None:
    signal_process(pid, signal.SIGSTOP)
    try:
        run.pause(seconds)
    finally:
        signal_process(pid, signal.SIGCONT)


def _restarted(run: Run, number: int, end: Callable[[CeleryWorker], None]) -> None:
    worker = run.world.workers[number]
    end(worker)
    worker.start()
