"""The companion inside a worker: it costs a task next to nothing, and whatever goes wrong with a report stays with it."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, signals, states
from celery._state import _task_stack
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry, WorkerLostError

import dyrygentd.worker
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.apps import closing
from tests.support.servers import wait_until
from tests.support.tasks import create_app, records

pytestmark = [
    # Celery's own, when it stores a result.
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]

_STREAM = "dyrygentd:reports:db"


class _Worker:
    """Does what Celery does at the end of a task, in this process."""

    def __init__(self, app: Celery, where: str = "backend") -> None:
        self.app = app
        self.task: Any = app.tasks["tests.support.tasks.noop"]
        self.header: dict[str, Any] = {"stream": _STREAM, "in": where}

    def end(self, task_id: str, state: str | None = states.SUCCESS, retval: Any = None, **request: Any) -> None:
        """Send the signal that follows a task."""
        headers = {"id": task_id, "hostname": "w@test", "dyrygentd_reports": self.header, "ignore_result": False}
        self.task.push_request(**(headers | request))
        try:
            signals.task_postrun.send(
                sender=self.task, task_id=task_id, task=self.task, args=(), kwargs={}, retval=retval, state=state
            )
        finally:
            self.task.pop_request()


@pytest.fixture
def server(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client for orders to the server."""
    with records(redis_server.url) as server:
        yield server


@pytest.fixture
def worker(celery_app: Celery) -> Iterator[_Worker]:
    """A worker with the companion."""
    dyrygentd.worker.install(celery_app)
    yield _Worker(celery_app)
    _uninstall(celery_app)


def _uninstall(app: Celery) -> None:
    """Let go of an app; a worker never does."""
    del dyrygentd.worker._installed[id(app)]
    for each in ("task_postrun", "task_retry", "task_failure", "task_revoked", "task_internal_error", "before_task_publish"):
        getattr(signals, each).disconnect(dispatch_uid=(dyrygentd.worker.__name__, id(app)))


def _reported(server: redis.Redis, stream: str = _STREAM) -> list[dict[str, str]]:
    entries: Any = server.xrange(stream)
    return [fields for _, fields in entries]


def _states(server: redis.Redis) -> list[tuple[str, str]]:
    return [(fields["task"], fields["state"]) for fields in _reported(server)]


def test_loads_no_more_than_a_worker_has() -> None:
    """Workers need Celery and Redis' client, and nothing else that the daemon needs."""
    code = (
        "import sys, celery, dyrygentd.worker\n"
        "dyrygentd.worker.install(celery.Celery('a', backend='redis://', broker='redis://'))\n"
        "found = {'aiohttp', 'msgspec', 'anyio', 'uvloop', 'aiosqlite', 'prometheus_client', 'rich'} & set(sys.modules)\n"
        "ours = {name for name in sys.modules if name.startswith('dyrygentd')}\n"
        "rooms = {'dyrygentd', *('dyrygentd.' + name for name in ('errbacks', 'errors', 'worker'))}\n"
        "rooms |= {'dyrygentd.worker.' + name for name in ('additions', 'requests', 'running', 'spawning')}\n"
        "sys.exit(f'{found} {ours}' if found or ours != rooms else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_report_says(worker: _Worker, server: redis.Redis) -> None:
    """It names the task, the state, who reports, and what Celery does not store."""
    worker.end("t", ignore_result=True, retval={"a": (1, None)})
    (report,) = _reported(server)
    assert report.pop("pid") == str(os.getpid())
    assert abs(float(report.pop("at")) - time.time()) < 60
    assert report == {"task": "t", "state": "SUCCESS", "stored": "0", "worker": "w@test", "value": '{"a": [1, null]}'}
    assert int(str(server.ttl(_STREAM))) > 0


@pytest.mark.parametrize(
    ("state", "retval", "request_", "report"),
    [
        (states.SUCCESS, "x", {}, {"state": "SUCCESS", "stored": "1"}),
        (states.FAILURE, ValueError("no"), {}, {"state": "FAILURE", "error": "ValueError: no", "exception": "ValueError"}),
        (states.FAILURE, ValueError("x" * 9000), {}, {"error": "ValueError: " + "x" * 488}),
        (states.RETRY, Retry(exc=KeyError("k"), when=60), {}, {"state": "RETRY", "error": "KeyError: 'k'"}),
        (states.IGNORED, Ignore("why"), {}, {"state": "IGNORED", "stored": "0", "error": "why"}),
        (states.IGNORED, Ignore("Replaced by new task"), {}, {"state": "REPLACED"}),
        (states.REJECTED, Reject("bad"), {}, {"state": "REJECTED", "error": "bad"}),
        (states.REJECTED, Reject("bad", requeue=True), {}, {"state": "REQUEUED"}),
        (states.SUCCESS, object(), {"ignore_result": True}, {"stored": "0"}),
        (states.SUCCESS, "x" * 40_000, {"ignore_result": True}, {"error": "it has 40002 bytes, and a report carries 32768"}),
        # Not ours to report.
        (None, None, {}, None),
        (states.SUCCESS, 1, {"dyrygentd_reports": None}, None),
        (states.SUCCESS, 1, {"dyrygentd_reports": {"stream": _STREAM, "in": "backend", "of": "other"}}, None),
        (states.SUCCESS, 1, {"dyrygentd_reports": "junk"}, None),
        (states.SUCCESS, 1, {"dyrygentd_reports": {"stream": _STREAM, "in": "nowhere"}}, None),
        (states.SUCCESS, 1, {"is_eager": True}, None),
    ],
)
def test_each_state(
    state: str | None, retval: Any, request_: Any, report: dict[str, str] | None, worker: _Worker, server: redis.Redis
) -> None:
    """Each state is reported with what it means, in bounded size; what is not ours is not."""
    worker.end("t", state, retval, **request_)
    reports = _reported(server)
    if report is None:
        assert reports == []
    else:
        assert report.items() <= reports[0].items()


def test_only_of_its_app(worker: _Worker, server: redis.Redis, redis_server: EmbeddedServer) -> None:
    """Installing twice reports once, and tasks of another app are left alone."""
    dyrygentd.worker.install(worker.app)
    with closing(create_app(redis_server.url, redis_server.url)) as other:
        _Worker(other).end("other")
    worker.end("t")
    assert _states(server) == [("t", "SUCCESS")]


def test_result_that_could_not_be_stored(worker: _Worker, server: redis.Redis) -> None:
    """When storing the result fails, Celery's signal still says SUCCESS; what is reported is what Celery makes of it."""
    try:
        raise ConnectionError("the backend is gone")
    except ConnectionError as error:
        worker.end("t")
        request = {"id": "t", "dyrygentd_reports": worker.header}
        signals.task_internal_error.send(sender=worker.task, task_id="t", request=request, exception=error)
    (report,) = _reported(server)
    assert (report["state"], report["exception"]) == ("FAILURE", "ConnectionError")


def test_redis_refuses(worker: _Worker, server: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is told once, costs no exception and no wait, and the reports come when Redis takes them again."""
    server.execute_command("ACL", "SETUSER", "default", "-xadd")
    for number in range(250):
        worker.end(str(number))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot report" in caplog.text
    server.execute_command("ACL", "SETUSER", "default", "+xadd")
    # Of what has piled up, the newest are kept.
    wait_until(lambda: ("249", "SUCCESS") in _states(server))
    assert len(_states(server)) <= 200
    wait_until(lambda: "taken again" in caplog.text)


def test_one_stream_that_refuses_holds_up_no_other(worker: _Worker, server: redis.Redis) -> None:
    """Of two daemons on one Redis, the one whose stream is spoilt does not cost the other its reports, nor double them."""
    server.set("spoilt", "x")
    good = worker.header
    worker.header = {**good, "stream": "spoilt"}
    worker.end("bad")
    worker.header = good
    # The refusal costs a pause, so they do not all come at once.
    for number in range(50):
        worker.end(f"good {number}")
    wait_until(lambda: ("good 49", "SUCCESS") in _states(server))
    assert _states(server) == [(f"good {number}", "SUCCESS") for number in range(50)]


def test_redis_hangs(worker: _Worker, redis_server: EmbeddedServer, server: redis.Redis) -> None:
    """A Redis that does not answer costs one timeout, and then nothing for ten times as long."""
    worker.end("before")
    assert redis_server.pid is not None
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        for number in range(100):
            worker.end(str(number))
        # One timeout of a second. Without the pause it would be a hundred.
        assert time.monotonic() - begun < 20
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)


def test_redis_is_gone(worker: _Worker, redis_server: EmbeddedServer, server: redis.Redis) -> None:
    """Reports of the time without Redis come when it is back, also if no other task ends."""
    worker.end("before")
    redis_server.stop()
    worker.end("between")
    worker.end("last")
    redis_server.start()
    wait_until(lambda: len(_states(server)) == 3)
    assert [task for task, _ in _states(server)] == ["before", "between", "last"]


@pytest.mark.parametrize("where", ["backend", "broker"])
def test_password_and_database_of_the_url(where: str, redis_server: EmbeddedServer, short_tmp: Path) -> None:
    """Reports take the way that the app's URLs describe."""
    url = redis_server.url.replace("redis+socket://", "redis+socket://:secret@") + "?virtual_host=3"
    with records(redis_server.url) as server:
        server.config_set("requirepass", "secret")
    with closing(create_app(url, url)) as app:
        dyrygentd.worker.install(app)
        try:
            _Worker(app, where).end("t")
        finally:
            _uninstall(app)
    path = redis_server.url.removeprefix("redis+socket://")
    with redis.Redis(unix_socket_path=path, password="secret", db=3, decode_responses=True) as client:
        assert _states(client) == [("t", "SUCCESS")]


@pytest.mark.parametrize(
    ("reason", "reported"),
    [
        # The connection to the broker was lost, and the worker gave the message back.
        (None, True),
        # Celery 5.7 tries again for a task whose process was lost.
        (Retry(exc=WorkerLostError("gone"), when=5), True),
        # A task's own retry is reported when it ends.
        (Retry(exc=ValueError("no"), when=5), False),
    ],
)
def test_retry_that_the_worker_decides(reason: Retry | None, reported: bool, worker: _Worker, server: redis.Redis) -> None:
    """A retry is reported once, by whoever decides it."""
    request = Context({"id": "t", "dyrygentd_reports": worker.header, "hostname": "w@test"})
    signals.task_retry.send(sender=worker.task, request=request, reason=reason, einfo=None)
    assert _states(server) == ([("t", "RETRY")] if reported else [])
    if reason is not None and reported:
        assert float(_reported(server)[0]["next"]) > time.time()


def test_process_that_was_lost(worker: _Worker, server: redis.Redis) -> None:
    """The main process of a worker reports it if Celery tells of which message (5.7); other failures were reported already."""
    for error in (WorkerLostError("signal 9"), ValueError("no")):
        signals.task_failure.send(sender=worker.task, task_id="unknown", exception=error)
        worker.task.push_request(id="t", dyrygentd_reports=worker.header, ignore_result=False)
        try:
            signals.task_failure.send(sender=worker.task, task_id="t", exception=error)
        finally:
            worker.task.pop_request()
    (report,) = _reported(server)
    assert (report["task"], report["state"], report["exception"]) == ("t", "FAILURE", "WorkerLostError")


def test_strange_messages_are_left_alone(worker: _Worker) -> None:
    """What a task of ours sends otherwise carries no header of ours, whatever it looks like."""
    bodies: list[Any] = [None, (), ((), {}, None), ((), {}, {"chain": None, "chord": None}), ((), {}, {"chain": ["?"]})]
    worker.task.push_request(id="t", dyrygentd_reports=worker.header, called_directly=False)
    _task_stack.push(worker.task)
    try:
        for body in bodies:
            for headers in (None, "junk", {}, {"id": "child", "replaced_task_nesting": None}):
                before = dict(headers) if isinstance(headers, dict) else headers
                answers = signals.before_task_publish.send(sender="child", headers=headers, body=body)
                assert headers == before
                assert not [answer for _, answer in answers if isinstance(answer, Exception)]
        # The test would prove nothing if no message got the header.
        headers = {"id": "t"}
        signals.before_task_publish.send(sender="successor", headers=headers, body=None)
        assert headers == {"id": "t", "dyrygentd_reports": {**worker.header, "of": "t"}}
    finally:
        _task_stack.pop()
        worker.task.pop_request()
