"""The daemon's life: start everything in order, serve until a signal, stop in bounded time."""

import contextlib
import faulthandler
import logging
import resource
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from dyrygentd import __version__, metrics
from dyrygentd.daemon import keepalive, logs
from dyrygentd.daemon.config import Configuration, masked
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.lag import LoopLag
from dyrygentd.daemon.reload import Reload, Running, warn_of_unknown
from dyrygentd.daemon.systemd import Notifier, passed_sockets
from dyrygentd.errors import ConfigurationError
from dyrygentd.http.guard import ConnectionLimits, Guard
from dyrygentd.http.routes import API_KEY, Api, make_app
from dyrygentd.http.server import Site, serving
from dyrygentd.http.sockets import UnixListener, listen_tcp, listen_unix
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.transport import watcher_of
from dyrygentd.transport.app import load_app
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.inspector import CeleryInspector
from dyrygentd.transport.reports import RedisReports

logger = logging.getLogger("dyrygentd.daemon")

#: How soon `systemctl status` has another line, and how often it gets the same one.
_STATUS_LOOK_S, _STATUS_INTERVAL_S = 1.0, 5.0
#: Open files beside the connections of clients: database, broker, backend, log, libraries.
_OTHER_FILES = 100
#: How long requests that have begun may take before submissions are refused.
_HAND_OVER_S = 1.0
#: How long clients may not find a socket whose file was deleted.
_SOCKET_LOOK_S = 2.0


def run(configuration: Configuration, read: Callable[[], Configuration]) -> None:
    """Serve until SIGTERM or SIGINT; at SIGHUP ``read`` the configuration again. Raises `DyrygentError` if it cannot start."""
    logs.set_up(configuration.log_level, configuration.log_format)
    # So that a daemon that the watchdog ends (SIGABRT) leaves in the log where it hung.
    faulthandler.enable()
    reload = Reload(configuration, read, bounded=_with_files)
    anyio.run(_serve, reload, backend_options={"use_uvloop": True})


async def _serve(reload: Reload) -> None:
    notifier = Notifier()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with AsyncExitStack() as exits:
            running, passed = await _start(reload, notifier, exits)
            scheduler = running.scheduler
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_show_status, scheduler, notifier)
                tasks.start_soon(keepalive.feed_watchdog, scheduler, notifier)
                notifier.ready(_status_line(scheduler))
                logger.info("ready: dyrygentd %s", __version__)
                async for received in signals:
                    logger.info("received %s", received.name)
                    if received is not signal.SIGHUP:
                        break
                    notifier.reloading()
                    await reload.reload(running)
                    notifier.ready(_status_line(scheduler))
                notifier.stopping("waiting for tasks in flight")
                if passed is not None:
                    await _hand_over(passed)
                await _drain(scheduler, reload.configuration, notifier)
                tasks.cancel_scope.cancel()
    logger.info("stopped")


async def _start(reload: Reload, notifier: Notifier, exits: AsyncExitStack) -> tuple[Running, Site | None]:
    """Start from the inside out, so that clients are only answered once everything works.

    Returns:
        What runs, and where clients are served whose sockets were passed, if they were.
    """
    configuration = reload.configuration
    assert configuration.database is not None
    assert configuration.socket is not None
    # Sockets first: that another daemon is there already should be known before its database is touched.
    passed = passed_sockets()
    listeners = passed.unix or [listen_unix(configuration.socket, mode=configuration.mode)]
    exits.callback(_close, listeners)
    tcp = [*passed.tcp, *([listen_tcp(configuration.listen)] if configuration.listen else [])]
    for listener in listeners:
        logger.info("listening on %s%s", listener.path, ", a socket that was passed" if passed.unix else "")
    for listening in tcp:
        exits.callback(listening.close)
        logger.info("listening on %s:%d", *listening.getsockname()[:2])
    broker = configuration.broker
    if broker is None and configuration.app is None:
        broker = await _embedded_broker(configuration.database.parent, exits)
    # Importing the user's app may take seconds and read files; it has the thread to itself.
    app = await anyio.to_thread.run_sync(
        lambda: load_app(configuration.app, broker=broker, result_backend=configuration.result_backend)
    )
    registry = metrics.Registry()
    notifier.status("recovering")
    progress = keepalive.StartProgress(notifier)
    reports = RedisReports(app)
    scheduler = Scheduler(
        store=SqliteStore(configuration.database, history_max=configuration.history_max, progress=progress),
        dispatcher=CeleryDispatcher(app, reports=reports.header),
        watcher=watcher_of(app, value_bytes_max=configuration.value_bytes_max),
        inspector=CeleryInspector(app),
        reports=reports,
        limits=configuration.scheduler_limits,
        registry=registry,
        on_recovered=progress.recovered,
    )
    await exits.enter_async_context(scheduler)
    progress.end()

    def render(accept: str) -> tuple[bytes, str]:
        return metrics.render(registry, accept)

    access = configuration.access
    guard = Guard(_with_files(configuration.connection_limits))
    apis = []
    sites = []
    for sockets, read_only in (([listener.socket for listener in listeners], False), (tcp, True)):
        if sockets:
            app = make_app(scheduler, limits=configuration.http_limits, access=access, render_metrics=render, read_only=read_only)
            apis.append(app[API_KEY])
            sites.append(await exits.enter_async_context(serving(app, sockets, guard=guard)))
    registry.register(metrics.HttpCollector(lambda: _http_statistics(guard, apis)))
    lag = LoopLag()
    registry.register(metrics.DaemonCollector(lag.tally.view, lambda: not reload.problem))
    metrics.register_process(registry)
    tasks = await exits.enter_async_context(anyio.create_task_group())
    exits.callback(tasks.cancel_scope.cancel)
    tasks.start_soon(lag.look)
    tasks.start_soon(warn_of_unknown, access)
    # A file that systemd has made is systemd's.
    if not passed.unix:
        tasks.start_soon(_keep_in_place, sites[0], listeners, configuration.mode)
    return Running(scheduler, guard, apis), sites[0] if passed.unix else None


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


def _http_statistics(guard: Guard, apis: Sequence[Api]) -> dict[str, Any]:
    connections = guard.statistics()
    refused, answers = Counter(connections.refused), Counter[tuple[str, str, int]]()
    seconds: dict[str, Any] = {}
    for api in apis:
        statistics = api.statistics()
        refused.update(statistics.refused)
        answers.update(statistics.answers)
        # The routes on TCP are a part of those on the socket, and their times are shown apart.
        prefix = "tcp " if api.read_only else ""
        seconds |= {f"{prefix}{route}": tally for route, tally in statistics.seconds.items()}
    return {"connections": connections.connections, "refused": refused, "answers": answers, "seconds": seconds}


async def _keep_in_place(site: Site, listeners: list[UnixListener], mode: int) -> None:
    """Make the socket's file again if somebody has deleted it: the daemon would run on, and nobody could reach it."""
    complaint = ""
    while True:
        await anyio.sleep(_SOCKET_LOOK_S)
        if listeners[-1].is_in_place:
            continue
        path = listeners[-1].path
        try:
            listener = listen_unix(path, mode=mode)
        except ConfigurationError as error:
            if str(error) != complaint:
                complaint = str(error)
                logger.warning("the socket's file was deleted and cannot be made again yet: %s", complaint)
            continue
        complaint = ""
        listeners.append(listener)
        await site.listen(listener.socket)
        logger.warning("the socket's file '%s' was deleted, and made again", path)


async def _embedded_broker(directory: Path, exits: AsyncExitStack) -> str:
    """Start a Redis-compatible server for ourselves and the workers that are told its URL."""
    await anyio.to_thread.run_sync(lambda: directory.mkdir(parents=True, exist_ok=True, mode=0o700))
    server = EmbeddedServer(directory)
    await anyio.to_thread.run_sync(server.start)

    async def stop() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.stop)

    exits.push_async_callback(stop)
    logger.warning("no broker is configured: started one of our own; workers find it at %s", masked(server.url))
    return server.url


async def _hand_over(passed: Site) -> None:
    """Leave new clients in the sockets, for the next daemon, and answer those that are in: nobody is to notice an upgrade."""
    passed.close()
    # Whoever follows a workflow, or waits for its end, would be busy for ever.
    with anyio.move_on_after(_HAND_OVER_S):
        while passed.guard.is_busy:  # noqa: ASYNC110 - it is over in a moment, and no request should have to tell
            await anyio.sleep(0.01)


async def _drain(scheduler: Scheduler, configuration: Configuration, notifier: Notifier) -> None:
    if not await keepalive.drain(scheduler, notifier, timeout_s=configuration.drain_timeout_s):
        logger.info("%d tasks are still in flight; they are picked up at the next start", scheduler.in_flight_count)


async def _show_status(scheduler: Scheduler, notifier: Notifier) -> None:
    told, told_at = "", 0.0
    while True:
        await anyio.sleep(_STATUS_LOOK_S)
        line, now = _status_line(scheduler), anyio.current_time()
        if line != told or now - told_at >= _STATUS_INTERVAL_S:
            told, told_at = line, now
            notifier.status(line)


def _status_line(scheduler: Scheduler) -> str:
    health = scheduler.health()
    line = f"{scheduler.workflow_count} workflows, {scheduler.in_flight_count} tasks in flight"
    return "; ".join([line, *health.problems, *health.notices])
