"""The harness itself works: what other tests rely on is shown here once."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import Celery, chain, chord, group

from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support import tasks
from tests.support.servers import REPOSITORY, CeleryWorker, Executions, wait_until


def test_worker_executes_native_canvas(celery_app: Celery, worker: CeleryWorker, executions: Executions) -> None:
    """A worker executes a native chord in a chain, and its records show each task once and in order."""
    native = celery_app.tasks
    add, total, identity = (native[task.name] for task in (tasks.add, tasks.total, tasks.identity))
    header = [add.s(n, n) for n in range(10)]
    result = chain(chord(group(header, app=celery_app), total.s()), identity.s()).apply_async()
    assert result.get(timeout=30) == 90
    counts = executions.counts()
    assert len(counts) == 12
    executions.assert_each_once(counts)
    body = result.parent
    executions.assert_order((member.id, body.id) for member in body.parent.results)
    executions.assert_order([(body.id, result.id)])


def test_each_task_does_as_its_name_says(celery_app: Celery, worker: CeleryWorker, executions: Executions) -> None:
    """Every task of the harness behaves as documented, failures and missing results included."""
    native = celery_app.tasks

    def run(task: object, *args: object, **kwargs: object) -> object:
        return native[task.name].delay(*args, **kwargs).get(timeout=30)  # type: ignore[attr-defined]

    ignored = native[tasks.ignore.name].delay()
    assert run(tasks.noop, 1, x=2) is True
    assert run(tasks.echo, 1, x=2) == {"args": [1], "kwargs": {"x": 2}}
    assert run(tasks.total, [1, 2, 3]) == 6
    assert run(tasks.big, 1000) == "x" * 1000
    assert run(tasks.sleep, 0, value="v") == "v"
    with pytest.raises(ValueError, match="boom"):
        run(tasks.fail)
    assert ignored.state == "PENDING"
    executions.assert_each_once([ignored.id])


def test_gate_holds_a_task(celery_app: Celery, worker: CeleryWorker, executions: Executions) -> None:
    """A test can hold a task while it runs, which makes every situation 'in the middle' reachable."""
    held = celery_app.tasks[tasks.wait_for.name].delay("gate")
    executions.wait_started([held.id])
    assert held.id not in executions.finished()
    executions.release("gate", value="go")
    assert held.get(timeout=30) == "go"
    executions.wait_finished([held.id])


def test_complaints_name_the_tasks(redis_server: EmbeddedServer, executions: Executions) -> None:
    """Wrong counts and wrong orders are seen and named, else the checks would prove nothing."""
    with tasks.records(redis_server.url) as client:
        client.hset("test:executions", mapping={"a": 1, "b": 2})
        client.hset("test:started", mapping={"a": 1, "b": 2})
        client.hset("test:finished", mapping={"a": 3, "b": 4})
    with pytest.raises(AssertionError, match=r"1 were never executed: c, 1 more than once: b \(2 times\)"):
        executions.assert_each_once(["a", "b", "c"])
    with pytest.raises(AssertionError, match=r"1 of 1 edges are out of order: b started at 2, a finished at 3"):
        executions.assert_order([("a", "b")])
    with pytest.raises(AssertionError, match="c has not finished"):
        executions.assert_order([("c", "b")])
    executions.clear()
    assert executions.counts() == {}


def test_killed_worker_is_replaced_by_another(
    celery_app: Celery, make_worker: Callable[..., CeleryWorker], executions: Executions
) -> None:
    """A worker killed in the middle of a task is gone with its pool, and another one serves the queues it was given."""
    first = make_worker(pool="prefork", concurrency=2)
    temporary = first._temporary
    assert temporary is not None
    assert temporary.is_dir()
    held = celery_app.tasks[tasks.wait_for.name].delay("never")
    executions.wait_started([held.id])
    first.kill()
    assert first.pid is None
    assert not temporary.exists()
    make_worker(queues=["celery", "other"])
    assert celery_app.tasks[tasks.add.name].apply_async((1, 2), queue="other").get(timeout=30) == 3


def test_shared_redis_is_one_for_all(shared_redis: EmbeddedServer) -> None:
    """The shared server answers and is another one than a test's own."""
    with tasks.records(shared_redis.url) as client:
        assert client.info()["process_id"] == shared_redis.pid


def test_records_survive_a_restart_of_the_server(redis_server: EmbeddedServer, executions: Executions) -> None:
    """The server comes back with its data under the same path, and clients find it again."""
    with tasks.records(redis_server.url) as client:
        client.hset("test:executions", "a", 1)
    redis_server.restart()
    assert executions.counts() == {"a": 1}


def test_server_dies_with_a_killed_parent(server_script: str) -> None:
    """A server whose parent was killed by SIGKILL goes too, even if a passing thread had started it."""
    with subprocess.Popen([sys.executable, "-c", server_script], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        server_pid, socket_path = parent.stdout.readline().split()
        with redis.Redis(unix_socket_path=socket_path) as client:
            assert client.ping()
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not _is_running(int(server_pid)), timeout_s=10, message="the server outlived its parent")


@pytest.fixture
def server_script(short_tmp: Path) -> str:
    """A program that starts a server from a thread which ends at once, and then waits to be killed."""
    return f"""
import signal, threading
from pathlib import Path
from dyrygentd.daemon.embedded import EmbeddedServer
server = EmbeddedServer(Path({str(short_tmp)!r}))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
assert server.wait_exit(0.3) is None
print(server.pid, server.socket_path, flush=True)
signal.pause()
"""


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    # An orphan stays a zombie until init has looked after it.
    return state != "Z"
