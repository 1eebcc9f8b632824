"""The daemon's life: start everything in order, serve until a signal, stop in bounded time."""

import contextlib
import faulthandler
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import anyio

from dyrygentd import __version__, metrics
from dyrygentd.core.graph import Graph
from dyrygentd.daemon import fatal, hidden, keepalive, logs
from dyrygentd.daemon.config import Configuration
from dyrygentd.daemon.lag import LoopLag
from dyrygentd.daemon.leaving import leave
from dyrygentd.daemon.own_broker import own_broker
from dyrygentd.daemon.reload import LiveParts, Reload, warn_of_unknown
from dyrygentd.daemon.roles import Roles
from dyrygentd.daemon.stage import Stage
from dyrygentd.daemon.status import show_status
from dyrygentd.daemon.systemd import Notifier, passed_sockets
from dyrygentd.errors import ConfigurationError, NotThereYet
from dyrygentd.http.guard import Guard
from dyrygentd.http.hosts import own_names
from dyrygentd.http.limits import ConnectionLimits
from dyrygentd.http.server import Site
from dyrygentd.http.sockets import UnixListener, listen_tcp, listen_unix
from dyrygentd.ports import Store
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.item_files import item_files_of
from dyrygentd.store.values import value_store_of
from dyrygentd.tasks.remarks import SHOWN_MAX, WITHOUT_APP, remarks_of_all
from dyrygentd.transport import watcher_of
from dyrygentd.transport.app import load_app
from dyrygentd.transport.results import forbid_unpickling

logger = logging.getLogger("dyrygentd.daemon")

#: Open files beside the connections of clients: database, broker, backend, log, libraries.
_OTHER_FILES = 100
#: What a healthy broker and backend need to be reached, so that the first line of `systemctl status` is no false alarm.
_SETTLE_S = 0.5
#: How long clients may not find a socket whose file was deleted.
_SOCKET_LOOK_S = 2.0


def run(
    configuration: Configuration, read: Callable[[], Configuration], *, on_ready: Callable[[], object] = lambda: None
) -> None:
    """Serve until SIGTERM or SIGINT; at SIGHUP ``read`` the configuration again. Raises `DyrygentError` if it cannot start.

    Args:
        on_ready: Called once, when all has started.
    """
    logs.set_up(*configuration.logging)
    fatal.log_everything()
    # So that a daemon that the watchdog ends (SIGABRT) leaves in the log where it hung.
    faulthandler.enable()
    if configuration.pickled_results != "unpickle":
        # What results are read with does not unpickle anyway; this is for what else a process of Celery's decodes.
        forbid_unpickling()
    # Before there is a loop, in the main thread, as in a worker: the user's modules may need both, and a signal ends what hangs.
    app = _imported(configuration) if configuration.app is not None else None
    reload = Reload(configuration, read, bounded=_with_files)
    anyio.run(_serve, reload, app, on_ready, backend_options={"use_uvloop": True})


def _imported(configuration: Configuration) -> Any:
    """Import the user's app and its tasks, and say what was found."""
    logger.info("importing '%s'", configuration.app)
    try:
        app = load_app(configuration.app, broker=configuration.broker, result_backend=configuration.result_backend)
    except NotThereYet as error:
        error.next_step = hidden.advice() or error.next_step
        raise
    own = [name for name in app.tasks if not name.startswith("celery.")]
    logger.info("'%s' has %d tasks", configuration.app, len(own))
    remarks = list(remarks_of_all(app))
    for remark in remarks[:SHOWN_MAX]:
        logger.warning("%s", remark.words)
    if len(remarks) > SHOWN_MAX:
        logger.warning("%d more like these: `dyrygentd check-config --online`", len(remarks) - SHOWN_MAX)
    return app


async def _serve(reload: Reload, app: Any, on_ready: Callable[[], object]) -> None:
    try:
        async with AsyncExitStack() as exits:
            received = exits.enter_context(anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            await _play(reload, app, on_ready, received, exits)
    except BaseExceptionGroup as group:
        raise _only_of(group) from None
    logger.info("stopped")


async def _play(
    reload: Reload, app: Any, on_ready: Callable[[], object], signals: AsyncIterator[signal.Signals], exits: AsyncExitStack
) -> None:
    """Serve clients in one role after the other, until a signal says that it is enough."""
    notifier, is_over = Notifier(), anyio.Event()
    roles, stage, is_passed = await _start(reload, app, notifier, exits)

    async def run() -> None:
        await roles.run()
        is_over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, name="dyrygentd roles")
        await roles.is_up.wait()
        on_ready()
        tasks.start_soon(show_status, roles, notifier)
        tasks.start_soon(keepalive.feed_watchdog, roles, notifier)
        # A file that systemd has made is systemd's.
        if not is_passed:
            tasks.start_soon(_keep_in_place, stage, stage.listeners, reload.configuration.mode)
        await _be_ready(roles, notifier)
        async for received in signals:
            logger.info("received %s", received.name)
            if received is not signal.SIGHUP:
                break
            notifier.reloading()
            await reload.reload(LiveParts(roles.scheduler, stage.guard, stage.arounds))
            notifier.ready(roles.status_line())
        notifier.stopping("waiting for tasks in flight")
        roles.end(partial(_leave, reload.configuration, notifier, stage if is_passed else None))
        await is_over.wait()
        tasks.cancel_scope.cancel()


def _only_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what has ended the process, if it is one thing."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found


async def _be_ready(roles: Roles, notifier: Notifier) -> None:
    with anyio.move_on_after(_SETTLE_S):
        while roles.scheduler is not None and roles.scheduler.health().problems:  # noqa: ASYNC110 - clients are served already
            await anyio.sleep(0.02)
    notifier.ready(roles.status_line())
    logger.info("ready: dyrygentd %s", __version__)


async def _start(reload: Reload, app: Any, notifier: Notifier, exits: AsyncExitStack) -> tuple[Roles, Stage, bool]:
    """Make what clients are served on, and by; return it, and whether the sockets were passed to this process.

    Args:
        app: The user's app; None if there are only URLs.
    """
    configuration = reload.configuration
    assert configuration.database is not None
    # Sockets first: that another daemon is there already should be known before its database is touched.
    listeners, tcp, is_passed = _listen(configuration, exits)
    trouble: Callable[[str], str] = str
    if app is None:
        broker = configuration.broker
        if broker is None:
            broker, trouble = await own_broker(configuration.database, exits)
        app = load_app(None, broker=broker, result_backend=configuration.result_backend)
        logger.info("%s", WITHOUT_APP)
    registry = metrics.Registry()
    notifier.status("recovering")
    progress = keepalive.StartProgress(notifier)

    def render(accept: str) -> tuple[bytes, str]:
        return metrics.render(registry, accept)

    names = await own_names(configuration.listen) if tcp else frozenset[str]()
    guard = Guard(_with_files(configuration.connection_limits))
    stage = Stage(reload, guard, listeners=listeners, tcp=tcp, render=render, own_names=names)
    registry.register(metrics.HttpCollector(stage.statistics))
    lag = LoopLag()
    registry.register(metrics.DaemonCollector(lag.tally.view, lambda: not reload.problem))
    metrics.register_process(registry)
    tasks = await exits.enter_async_context(anyio.create_task_group())
    exits.callback(tasks.cancel_scope.cancel)
    tasks.start_soon(lag.look)
    tasks.start_soon(warn_of_unknown, configuration.access)

    def make_scheduler(store: Store) -> Scheduler:
        return _scheduler_of(reload, app, registry, store=store, progress=progress, trouble=trouble)

    roles = Roles(reload, app, stage, registry=registry, make_scheduler=make_scheduler, progress=progress)
    registry.register(metrics.RolesCollector(roles.figures))
    return roles, stage, is_passed


def _listen(configuration: Configuration, exits: AsyncExitStack) -> tuple[list[UnixListener], list[socket.socket], bool]:
    """Return the Unix sockets and those on TCP, and whether the Unix ones were passed to this process."""
    assert configuration.socket is not None
    passed = passed_sockets()
    listeners = passed.unix or [listen_unix(configuration.socket, mode=configuration.mode)]
    exits.callback(_close, listeners)
    tcp = [*passed.tcp, *([listen_tcp(configuration.listen)] if configuration.listen else [])]
    for listener in listeners:
        logger.info("listening on %s%s", listener.path, ", a socket that was passed" if passed.unix else "")
    for listening in tcp:
        exits.callback(listening.close)
        logger.info("listening on %s:%d", *listening.getsockname()[:2])
    return listeners, tcp, bool(passed.unix)


def _scheduler_of(
    reload: Reload,
    app: Any,
    registry: metrics.Registry,
    *,
    store: Store,
    progress: keepalive.StartProgress,
    trouble: Callable[[str], str],
) -> Scheduler:
    """Make the scheduler, with adapters of its own where the configuration says something of them."""
    configuration = reload.configuration

    def refuse_tasks(graph: Graph) -> None:
        reload.configuration.access.check_tasks(graph, knows=scheduler.knows_task)

    scheduler = Scheduler(
        app,
        store=store,
        watcher=watcher_of(
            app, value_bytes_max=configuration.value_bytes_max, may_unpickle=configuration.pickled_results == "unpickle"
        ),
        values=value_store_of(configuration.value_store, configuration.database),
        files=item_files_of(configuration.map_files),
        limits=configuration.scheduler_limits,
        registry=registry,
        app_name=configuration.app or "",
        on_recovered=progress.recovered,
        broker_trouble=trouble,
        refuse_tasks=refuse_tasks,
    )
    return scheduler


def _with_files(limits: ConnectionLimits) -> ConnectionLimits:
    """Let this process open as many files as its connections need, or take fewer connections if it may not."""
    wanted = limits.connections_max + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and soft < hard:
        # A service manager may forbid it, and has set the limit then.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return limits
    most = max(1, soft - _OTHER_FILES)
    logger.warning("the system allows %d open files: %d connections are taken instead of %d", soft, most, limits.connections_max)
    return replace(limits, connections_max=most)


def _close(listeners: Sequence[UnixListener]) -> None:
    for listener in listeners:
        listener.close()


async def _keep_in_place(
    site: Site | Stage, listeners: list[UnixListener], mode: int, *, look_every_s: float = _SOCKET_LOOK_S
) -> None:
    """Make the socket's file again if somebody has deleted it: the daemon would run on, and nobody could reach it."""
    complaint = ""
    while True:
        await anyio.sleep(look_every_s)
        if listeners[-1].is_in_place:
            continue
        path = listeners[-1].path
        try:
            listener = listen_unix(path, mode=mode)
        except ConfigurationError as error:
            if error.message != complaint:
                complaint = error.message
                logger.warning("the socket's file was deleted and cannot be made again yet: %s", complaint)
            continue
        complaint = ""
        listeners.append(listener)
        await site.listen(listener.socket)
        logger.warning("the socket's file '%s' was deleted, and made again", path)


async def _leave(
    configuration: Configuration, notifier: Notifier, passed: Stage | None, scheduler: Scheduler, is_followed: bool
) -> None:
    """Wait for tasks in flight, unless another process follows at once, and finds them."""
    timeout_s = 0.0 if is_followed else configuration.drain_timeout_s
    drain = partial(_drain, scheduler, notifier, timeout_s)
    await leave(None if passed is None else passed.site, drain, timeout_s=timeout_s)


async def _drain(scheduler: Scheduler, notifier: Notifier, timeout_s: float) -> None:
    if not await keepalive.drain(scheduler, notifier, timeout_s=timeout_s):
        logger.info("%d tasks are still in flight; they are picked up at the next start", scheduler.in_flight_count)
