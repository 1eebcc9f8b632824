"""The daemon's life: start everything in order, serve until a signal, stop in bounded time."""

import contextlib
import faulthandler
import logging
import resource
import signal
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import anyio

from dyrygentd import __version__, metrics
from dyrygentd.daemon import fatal, hidden, keepalive, logs
from dyrygentd.daemon.config import Configuration
from dyrygentd.daemon.lag import LoopLag
from dyrygentd.daemon.leaving import leave
from dyrygentd.daemon.own_broker import own_broker
from dyrygentd.daemon.reload import LiveParts, Reload, warn_of_unknown
from dyrygentd.daemon.status import show_status, status_line
from dyrygentd.daemon.systemd import Notifier, passed_sockets
from dyrygentd.errors import ConfigurationError, NotThereYet
from dyrygentd.http.app import AROUND, make_app
from dyrygentd.http.around import Around
from dyrygentd.http.guard import Guard
from dyrygentd.http.hosts import own_names
from dyrygentd.http.limits import ConnectionLimits
from dyrygentd.http.server import Site, serving
from dyrygentd.http.sockets import UnixListener, listen_tcp, listen_unix
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.choice import store_of
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
    notifier = Notifier()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with AsyncExitStack() as exits:
            running, passed = await _start(reload, app, notifier, exits)
            scheduler = running.scheduler
            on_ready()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(show_status, scheduler, notifier)
                tasks.start_soon(keepalive.feed_watchdog, scheduler, notifier)
                with anyio.move_on_after(_SETTLE_S):
                    while scheduler.health().problems:  # noqa: ASYNC110 - clients are served already
                        await anyio.sleep(0.02)
                notifier.ready(status_line(scheduler))
                logger.info("ready: dyrygentd %s", __version__)
                async for received in signals:
                    logger.info("received %s", received.name)
                    if received is not signal.SIGHUP:
                        break
                    notifier.reloading()
                    await reload.reload(running)
                    notifier.ready(status_line(scheduler))
                notifier.stopping("waiting for tasks in flight")
                drain = partial(_drain, scheduler, reload.configuration, notifier)
                await leave(passed, drain, timeout_s=reload.configuration.drain_timeout_s)
                tasks.cancel_scope.cancel()
    logger.info("stopped")


async def _start(reload: Reload, app: Any, notifier: Notifier, exits: AsyncExitStack) -> tuple[LiveParts, Site | None]:
    """Start from the inside out, so that clients are only answered once everything works.

    Args:
        app: The user's app; None if there are only URLs.

    Returns:
        What runs, and where clients are served whose sockets were passed, if they were.
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
    scheduler = _scheduler_of(configuration, app, registry, progress, trouble)
    await exits.enter_async_context(scheduler)
    progress.end()

    def render(accept: str) -> tuple[bytes, str]:
        return metrics.render(registry, accept)

    access = configuration.access
    names = await own_names(configuration.listen) if tcp else frozenset[str]()
    make = partial(make_app, scheduler, access=access, own_names=names, grafana=configuration.grafana)
    guard = Guard(_with_files(configuration.connection_limits))
    limits = configuration.http_limits
    arounds = []
    sites = []
    for sockets, read_only in (([listener.socket for listener in listeners], False), (tcp, True)):
        if sockets:
            served = make(limits=limits, render_metrics=render, read_only=read_only)
            arounds.append(served[AROUND])
            sites.append(await exits.enter_async_context(serving(served, sockets, guard=guard)))
    registry.register(metrics.HttpCollector(lambda: _http_statistics(guard, arounds)))
    lag = LoopLag()
    registry.register(metrics.DaemonCollector(lag.tally.view, lambda: not reload.problem))
    metrics.register_process(registry)
    tasks = await exits.enter_async_context(anyio.create_task_group())
    exits.callback(tasks.cancel_scope.cancel)
    tasks.start_soon(lag.look)
    tasks.start_soon(warn_of_unknown, access)
    # A file that systemd has made is systemd's.
    if not is_passed:
        tasks.start_soon(_keep_in_place, sites[0], listeners, configuration.mode)
    return LiveParts(scheduler, guard, arounds), sites[0] if is_passed else None


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
    configuration: Configuration,
    app: Any,
    registry: metrics.Registry,
    progress: keepalive.StartProgress,
    trouble: Callable[[str], str],
) -> Scheduler:
    """Make the scheduler, with adapters of its own where the configuration says something of them."""
    assert configuration.database is not None
    return Scheduler(
        app,
        store=store_of(configuration.database, history_max=configuration.history_max, progress=progress),
        watcher=watcher_of(
            app, value_bytes_max=configuration.value_bytes_max, may_unpickle=configuration.pickled_results == "unpickle"
        ),
        limits=configuration.scheduler_limits,
        registry=registry,
        app_name=configuration.app or "",
        on_recovered=progress.recovered,
        broker_trouble=trouble,
    )


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


def _http_statistics(guard: Guard, arounds: Sequence[Around]) -> dict[str, Any]:
    connections = guard.statistics()
    refused, answers = Counter(connections.refused), Counter[tuple[str, str, int]]()
    seconds: dict[str, Any] = {}
    for around in arounds:
        statistics = around.statistics()
        refused.update(statistics.refused)
        answers.update(statistics.answers)
        # The routes on TCP are a part of those on the socket, and their times are shown apart.
        prefix = "tcp " if around.read_only else ""
        seconds |= {f"{prefix}{route}": tally for route, tally in statistics.seconds.items()}
    return {"connections": connections.connections, "refused": refused, "answers": answers, "seconds": seconds}


async def _keep_in_place(site: Site, listeners: list[UnixListener], mode: int, *, look_every_s: float = _SOCKET_LOOK_S) -> None:
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


async def _drain(scheduler: Scheduler, configuration: Configuration, notifier: Notifier) -> None:
    if not await keepalive.drain(scheduler, notifier, timeout_s=configuration.drain_timeout_s):
        logger.info("%d tasks are still in flight; they are picked up at the next start", scheduler.in_flight_count)
