"""A daemon in the process of a test: the real scheduler and the real socket, and the tasks of an app run in threads.

Theory of operation: only what is outside is replaced. Broker, workers and result backend are a `FakeBroker`, the database is a
`MemoryStore`; canvas, definition, HTTP, engine and both clients are the real ones. So what a test sees is what the daemon does,
values pass through JSON as they do there, and nothing has to be patched: `Client()` finds the socket in ``$DYRYGENTD_SOCKET``.

Tasks run by Celery's own ``Task.apply``, as with ``task_always_eager``: bound tasks have their request, ``self.retry`` tries
again at once. They run in threads, as in a worker, so a task may submit a workflow itself, and wait for it.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.from_thread

from dyrygentd.canvas import decode_value
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskEvent, TaskFailed, TaskIgnored, TaskSucceeded
from dyrygentd.errors import BadRequest
from dyrygentd.tasks.known import current_app
from dyrygentd.testing.broker import FakeBroker, stored_value
from dyrygentd.testing.store import MemoryStore

if TYPE_CHECKING:
    from dyrygentd.client.sync import Client
    from dyrygentd.wire import Outcome


@contextmanager
def daemon(app: Any = None, *, threads: int = 8, pools: Mapping[str, int] | None = None) -> Iterator["Client"]:
    """Run a daemon for the tasks of an app, without broker, worker and disk; yield a client of it.

    Meanwhile ``$DYRYGENTD_SOCKET`` names its socket, so `Client()`, `AsyncClient()` and `dyrygentctl` find it. What it knew is
    gone at the end.

    Args:
        app: The Celery app with the tasks, by default the current one. A task that it does not have fails as `NotRegistered`.
        threads: Tasks that run at one time. One that waits for a workflow needs another thread for that one's tasks.
        pools: ``{name: size}``, as in the daemon's configuration.
    """
    from dyrygentd.client.sync import Client

    app = app if app is not None else current_app()
    with tempfile.TemporaryDirectory(prefix="dyrygentd-") as directory:
        path = Path(directory, "d.sock")
        pool = ThreadPoolExecutor(threads, thread_name_prefix="task")
        try:
            with (
                anyio.from_thread.start_blocking_portal() as portal,
                portal.wrap_async_context_manager(_serving(path, app, pool, pools or {})),
                _named(path),
                Client(path) as client,
            ):
                yield client
        finally:
            # What runs is waited for; what has not begun belongs to workflows that are gone.
            pool.shutdown(cancel_futures=True)


def run(canvas: Any, app: Any = None, *, timeout_s: float = 60.0, **submission: Any) -> "Outcome":
    """Run a canvas, `Workflow` or definition in a daemon of its own; return how it ended.

    Args:
        app: The Celery app with the tasks, by default the canvas's, or the current one.
        submission: For `Client.submit`: ``parameters``, ``name`` …

    Raises:
        WaitTimeout: It has not ended in time; a gate waits for a person, say.
    """
    with daemon(app if app is not None else getattr(canvas, "app", None)) as client:
        return client.submit(canvas, **submission).wait(timeout_s)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    from dyrygentd.client.sockets import ENVIRONMENT
    from dyrygentd.client.ways import HOST_ENVIRONMENT

    # A developer's own daemon, on whatever host, is not meant.
    before = {name: os.environ.pop(name, None) for name in (ENVIRONMENT, HOST_ENVIRONMENT)}
    os.environ[ENVIRONMENT] = str(path)
    try:
        yield
    finally:
        del os.environ[ENVIRONMENT]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@asynccontextmanager
async def _serving(path: Path, app: Any, pool: ThreadPoolExecutor, pools: Mapping[str, int]) -> AsyncIterator[None]:
    from dyrygentd.http.app import make_app
    from dyrygentd.http.server import serving
    from dyrygentd.http.sockets import listen_unix
    from dyrygentd.scheduler import Scheduler, SchedulerLimits

    broker = _AppBroker(app, pool)
    # Who follows a workflow is told of each change at once.
    async with Scheduler(
        store=MemoryStore(),
        dispatcher=broker.dispatcher,
        watcher=broker.watcher,
        inspector=broker.inspector,
        keeper=broker.keeper,
        limits=SchedulerLimits(follow_interval_s=0.0, pools=pools),
    ) as scheduler:
        site = make_app(scheduler, render_metrics=lambda _: (b"", "text/plain"), read_only=False)
        listener = listen_unix(path)
        try:
            async with serving(site, [listener.socket]):
                yield
        finally:
            listener.close()


class _AppBroker(FakeBroker):
    """Runs the tasks of an app in threads. Guards: results come in inside the event loop, one after the other."""

    def __init__(self, app: Any, pool: ThreadPoolExecutor) -> None:
        super().__init__()
        self._app = app
        self._pool = pool
        self._loop = asyncio.get_running_loop()

    def _execute(self, message: Publish) -> None:
        self._pool.submit(self._work, message)

    def _work(self, message: Publish) -> None:
        try:
            event = self._run(message)
        # A task may raise anything, SystemExit too, and whoever waits for it has to be told.
        except BaseException as error:
            event = _failed(message.task_id, error)
        # The loop may have ended meanwhile; then nobody waits.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._store, message.task_id, event)

    def _run(self, message: Publish) -> TaskEvent:
        task_id, name = message.task_id, message.signature.task
        task = None if self._app is None else self._app.tasks.get(name)
        if task is None:
            return TaskFailed(task_id, f"NotRegistered: the app of this test has no task '{name}'", "NotRegistered")
        args: Any = decode_value(message.signature.args)
        kwargs: Any = decode_value(message.signature.kwargs)
        if message.input is not None:
            args.insert(0, decode_value(bytes(message.input)))
        result = task.apply(args, kwargs, task_id=task_id, throw=False)
        if result.state == "IGNORED":
            return TaskIgnored(task_id, str(result.result))
        if result.state != "SUCCESS":
            return _failed(task_id, result.result)
        try:
            return TaskSucceeded(task_id, stored_value(result.result))
        except BadRequest as error:
            return TaskSucceeded(task_id, None, value_error=error.message)


def _failed(task_id: str, error: object) -> TaskFailed:
    name = type(error).__name__
    return TaskFailed(task_id, f"{name}: {error}", name)
