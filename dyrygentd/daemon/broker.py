"""`dyrygentd broker`: a broker of our own in a process of its own, which stays when the daemon goes.

It is ready when the server answers, or when it is known why not: the daemon is ordered after it, and should be there to say so.
"""

import logging
import queue
import signal
import threading
from collections.abc import Callable

from dyrygentd import __version__
from dyrygentd.daemon import logs
from dyrygentd.daemon.config import Configuration
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.daemon.kept import KeptServer
from dyrygentd.daemon.own_broker import Post, directory_beside, make_directory
from dyrygentd.daemon.systemd import Notifier
from dyrygentd.store.postgres.url import PostgresUrl

logger = logging.getLogger("dyrygentd.broker")

#: A large file takes a while to read; a start that is broken off begins again from nothing.
_START_TIMEOUT_S = 600.0


def why_not(configuration: Configuration) -> str:
    """Say why the daemon of this configuration needs no broker of its own, also to systemd; empty if it does."""
    if isinstance(configuration.database, PostgresUrl) and not configuration.broker:
        # Also beside a gateway, which needs no broker. A daemon that needs one says so itself.
        what = "the database is on PostgreSQL, and a broker of our own is kept beside a file"
    elif configuration.broker is None and configuration.app is None:
        return ""
    else:
        what = "a broker is configured" if configuration.broker else f"the app '{configuration.app}' names its broker"
    reason = f"{what}, so none of our own is needed"
    Notifier().ready(reason)
    return reason


def run(configuration: Configuration) -> None:
    """Keep a broker running until a signal. Raises `DyrygentError` if another process does already."""
    logs.set_up(configuration.log_level, configuration.log_format)
    directory = directory_beside(configuration.database)
    make_directory(directory)
    post, notifier, received = Post(directory), Notifier(), queue.SimpleQueue[int | BaseException]()
    post.hold()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: received.put(number))
    server = EmbeddedServer(directory, start_timeout_s=_START_TIMEOUT_S)
    kept = KeptServer(server, on_change=lambda problem: _tell(problem, server, post, notifier))
    notifier.status("starting")

    def start() -> None:
        try:
            _start(kept, notifier, lambda: _line(kept.problem, server))
        except BaseException as error:
            received.put(error)

    # In a thread, so that a signal ends it, too.
    threading.Thread(target=start, name="start-broker", daemon=True).start()
    ended_by = received.get()
    if isinstance(ended_by, BaseException):
        kept.stop()
        raise ended_by
    logger.info("received %s", signal.Signals(ended_by).name)
    notifier.stopping("stopping the server")
    kept.stop()
    logger.info("stopped")
    # As whoever sent it expects; 0 says that no broker is needed, after which systemd does not start it again.
    signal.signal(ended_by, signal.SIG_DFL)
    signal.raise_signal(ended_by)


def _start(kept: KeptServer, notifier: Notifier, line: Callable[[], str]) -> None:
    kept.start(is_patient=True)
    notifier.ready(line())
    if not kept.problem:
        logger.info("ready: dyrygentd %s keeps %s; workers find it at %s", __version__, kept.server.program, kept.server.url)


def _tell(problem: str, server: EmbeddedServer, post: Post, notifier: Notifier) -> None:
    post.write(problem)
    notifier.status(_line(problem, server))


def _line(problem: str, server: EmbeddedServer) -> str:
    return problem or f"{server.program} answers at {server.url}"
